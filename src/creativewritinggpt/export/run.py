"""An export from the model to the folder: written under another name, verified, renamed.

What is exported is a folder. It stands under a temporary name until every level of verification
that can be run was passed, so that no file under its final name is unverified, even if the process
is killed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from .. import console
from .._version import __version__
from ..console import CountCallback, ProgressCallback
from ..errors import InputError, RunError
from ..files import (
    atomic_folder,
    cache_folder,
    check_writable,
    clean_up,
    disk_errors,
    file_sha256,
    from_home,
    read_json,
    scratch_beside,
    write_json,
)
from ..generation.sampling.settings import GenerationSettings, settings_for
from ..models.adapter_files import WEIGHTS as ADAPTER_WEIGHTS
from ..models.checks import quiet
from ..models.gguf_model import ARCHITECTURES
from ..models.loaded_model import LoadedModel
from . import gguf_file, hub, llama_cpp, lora, merged, naming, programs, verify
from .quantization import FORMATS, INSTALL, Format, check_available
from .settings import TARGETS, ExportSettings
from .tokenizer import gguf_tokenizer
from .verify import Level, Reference, VerificationFailed
from .weights import (
    MergedWeights,
    SafetensorsFolder,
    base_weights,
    merged_copy,
    merged_weights,
    transformers_config,
)

RECORD = "export.json"
DEFAULT_FOLDER = "exports"


@dataclasses.dataclass(frozen=True)
class ExportResult:
    """A finished export.

    Attributes:
        folder: The folder that was written.
        files: The files of weights in it.
        record: The content of ``export.json``.
        notes: What to do with it, a line each.
    """

    folder: Path
    files: list[Path]
    record: dict[str, Any]
    notes: list[str]


def export(
    model: LoadedModel,
    to: str,
    out: Path | None = None,
    settings: ExportSettings | None = None,
    *,
    overwrite: bool = False,
    keep_failed: bool = False,
    progress: ProgressCallback | None = None,
) -> ExportResult:
    """Write a model in a format of other programs, and verify what was written.

    Args:
        model: The model with its adapters at their strengths; it is not changed.
        to: One of ``settings.TARGETS``.
        out: The folder to write (for LM Studio: its folder of models); by default one named after
            the model in ``exports``.
        settings: Number formats, names and the level of verification.
        overwrite: Replace an export that is there; a folder with anything else in it stays.
        keep_failed: Keep a folder that failed verification, as ``NAME.failed``.
        progress: Called with what is done.

    Raises:
        InputError: The format can't hold this model, or the folder is there.
        RunError: Verification failed, or the disk is full.
    """
    if to not in TARGETS:
        raise InputError(f"there is no export to {to!r}", f"there are: {', '.join(TARGETS)}")
    work = _Export(model, to, settings or ExportSettings(), progress)
    target = work.place = work.target(out)
    _check_target(target, overwrite)
    check_writable(target)
    work.check()
    with _claimed(target):
        _check_space(target, work.bytes())
        with atomic_folder(target) as temporary:
            try:
                work.write(temporary)
            except VerificationFailed as error:
                advice = "nothing was written; --keep-failed keeps it to look at"
                if keep_failed:
                    kept = target.with_name(f"{target.name}.failed")
                    shutil.rmtree(kept, ignore_errors=True)
                    shutil.copytree(temporary, kept)
                    advice = f"it is kept as {kept}"
                raise RunError(f"what was written is wrong: {error}", advice) from error
    files = [target / name for name in work.verification]
    return ExportResult(target, files, work.record, work.notes(target))


def _check_target(target: Path, overwrite: bool) -> None:
    """Refuse a place that holds anything but an export that may be replaced."""
    if not target.exists():
        return
    if not target.is_dir():
        raise InputError(f"{target} is a file", "--out names a folder to write")
    names = {path.relative_to(target).as_posix() for path in target.rglob("*")}
    known: set[str] = set()
    if RECORD in names:
        with contextlib.suppress(InputError, TypeError, KeyError, AttributeError):
            known = {RECORD, *read_json(target / RECORD)["contents"]}
    if foreign := sorted(names - known):
        raise InputError(
            f"{target} holds {foreign[0]}, which no export wrote",
            "--out names another folder; nothing was touched",
        )
    if names and not overwrite:
        raise InputError(
            f"{target} holds an export already",
            "--overwrite replaces it, --out names another folder",
        )


@contextlib.contextmanager
def _claimed(target: Path) -> Iterator[None]:
    """One export at a time writes a folder; what killed ones have left beside it is removed."""
    with disk_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        locks = cache_folder() / "exports"
        locks.mkdir(parents=True, exist_ok=True)
        digest = hashlib.sha256(os.fsencode(target.resolve())).hexdigest()[:16]
        lock = FileLock(locks / f"{digest}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            raise InputError(
                f"another export is writing {target}", "wait for it, or give another --out"
            ) from error
    try:
        clean_up(target.parent, target.name)
        yield
    finally:
        lock.release()


def _check_space(target: Path, needed: int) -> None:
    free = shutil.disk_usage(target.parent).free
    if free < needed:
        raise RunError(
            f"the disk has too little space: {target} needs {console.size(needed)}, and "
            f"{console.size(free)} are free",
            "nothing was written; free some space, or choose a smaller --quantize",
        )


class _Export:
    """One export in the making."""

    def __init__(
        self, model: LoadedModel, to: str, settings: ExportSettings,
        progress: ProgressCallback | None,
    ) -> None:  # fmt: skip
        self.model, self.to, self.settings, self.progress = model, to, settings, progress
        self.sampling: GenerationSettings = settings_for(settings.preset, {})
        self.parts = naming.adapter_strengths(model)
        self.name = naming.model_name(model, self.parts, self.settings.name)
        self.kind = self._kind()
        self.forms: list[Format] = []
        if self.kind == "gguf":
            self.forms = [FORMATS[name] for name in settings.quantize or ["Q8_0"]]
        elif to == "hub" and settings.quantize:
            self.forms = [FORMATS[name] for name in settings.quantize]
        self.verification: dict[str, list[Level]] = {}
        self.what: dict[str, str] = {}
        self.record: dict[str, Any] = {}
        self._weights: MergedWeights | None = None
        self._reference: Reference | None = None
        self._planned_bytes = 0
        self.place = Path()

    def _kind(self) -> str:
        if self.to != "hub":
            return {"merged": "merged", "lora-gguf": "lora"}.get(self.to, "gguf")
        if self.settings.weights != "auto":
            return self.settings.weights
        whole = len(self.parts) == 1 and set(self.parts.values()) == {1.0}
        return "adapter" if whole and self.model.folders else "merged"

    @property
    def config(self) -> Any:
        files = self.model.files
        return self.model.bare.config if files is None else transformers_config(vars(files.config))

    @property
    def weights(self) -> MergedWeights:
        """The merged weights of a family that GGUF has names for."""
        if self._weights is None:
            self._weights = merged_weights(self.model)
        return self._weights

    @property
    def reference(self) -> Reference:
        if self._reference is None:
            self._tell("reading passages with the fp32 model")
            known = self.weights if self._streams else None
            self._reference = verify.reference(self.model, known)
        return self._reference

    @property
    def _streams(self) -> bool:
        return str(self.config.model_type) in ARCHITECTURES

    def _tell(self, what: str, done: int = 0, total: int | None = None) -> None:
        if self.progress is not None:
            self.progress(what, done, total)

    def _counting(self, what: str) -> CountCallback | None:
        return console.counting(self.progress, what)

    @property
    def base_id(self) -> str | None:
        """The base's hub id, if it has one."""
        return naming.base_id(self.model)

    @property
    def description(self) -> gguf_file.Description:
        """What a GGUF file says about the model."""
        tuned = bool(self.parts) or self.model.run is not None or self.settings.name is not None
        return naming.description(
            self.model, self.name, tuned, self._parameters(), self.settings.release,
            hub.license_of(self.model, self.settings.license),
        )  # fmt: skip

    def _parameters(self) -> int:
        if self._streams:
            return self.weights.parameters
        return sum(parameter.numel() for parameter in self.model.bare.parameters())

    def target(self, out: Path | None) -> Path:
        """The folder to write."""
        folder = naming.plain(self.name)
        if self.to == "lm-studio":
            root = from_home(out) if out is not None else Path(DEFAULT_FOLDER) / "lm-studio"
            return root / naming.plain(self.settings.publisher) / folder
        if out is not None:
            return from_home(out)
        return Path(DEFAULT_FOLDER) / f"{folder}-{self.to}"

    # Checks before the work

    def check(self) -> None:
        """Refuse what can't be done, before anything is written."""
        if self.kind in ("gguf", "lora") or self.forms:
            gguf_file.check_family(self.config, self.model.name)
        for form in self.forms:
            check_available(form)
        if self.kind in ("gguf",) or self.forms:
            self._tokenizer()
        if self.kind == "lora":
            lora.lora_pairs(self.model)
        if self.kind == "adapter" and not self.model.has_adapter:
            raise InputError(
                f"{self.model.name} has no adapter to put into the folder",
                "give an adapter with --model, or take --weights merged",
            )
        if self.kind == "adapter" and len(self.model.folders) != 1:
            raise InputError(
                "a folder of one adapter can't hold a blend, or one that is in memory only",
                "take --weights merged",
            )
        self._chat_template()
        if self.to == "hub":
            hub.evaluation_of(self.model, self.settings.evaluation)

    def bytes(self) -> int:
        """Bytes that the export needs on disk, with a little over."""
        need = 50_000_000
        if self.kind == "merged":
            need += self._parameters() * merged.DTYPES[self.settings.dtype][1].itemsize
            need += 0 if self._streams else 4 * self._parameters()
        for form in self.forms:
            need += sum(tensor.bytes for tensor in gguf_file.plan(self.weights, form))
        if self.kind == "lora" and self.settings.verify > 3 and verify.fits(self.weights):
            need += self.weights.parameters * 4
        return need

    def _tokenizer(self) -> Any:
        rows = int(self.weights.shape(self.weights.embedding)[0])
        model = self.model
        return gguf_tokenizer(
            model.tokenizer, rows, model.bos_id, model.eos_id, self._chat_template()
        )

    def _chat_template(self) -> str | None:
        if self.settings.chat_template != "keep":
            return None
        tokenizer = self.model.tokenizer
        folder = getattr(tokenizer, "folder", None) or str(getattr(tokenizer, "name_or_path", ""))
        for place in (Path(folder), Path(self.model.base_name)):
            if (place / "chat_template.jinja").is_file():
                return (place / "chat_template.jinja").read_text("utf-8")
            with contextlib.suppress(InputError):
                found = read_json(place / "tokenizer_config.json").get("chat_template")
                if isinstance(found, str):
                    return found
        raise InputError(
            f"{self.model.name} has no chat template to keep", "leave --chat-template out"
        )

    # The work

    def write(self, folder: Path) -> None:
        """Write and verify everything.

        Raises:
            VerificationFailed: What was written is wrong.
        """
        if self.kind == "merged":
            self._merged(folder)
        elif self.kind == "adapter":
            self._adapter(folder)
        elif self.kind == "lora":
            self._lora(folder)
        for form in self.forms:
            self._gguf(folder, form)
        if self.to == "ollama":
            text = hub.license_files(self.model).get("LICENSE")
            [gguf] = [name for name in self.verification][:1]
            file = programs.modelfile(gguf, self.model.context_length, self.sampling, text)
            (folder / "Modelfile").write_text(file, "utf-8")
        if self.to == "hub":
            self._hub_files(folder)
        self.record = self._record(folder)
        write_json(folder / RECORD, self.record)
        if self.to == "hub":
            hub.write_checksums(folder)

    def _gguf(self, folder: Path, form: Format) -> None:
        name = naming.file_name(self.description, form.name)
        path = folder / name
        tokenizer = self._tokenizer()
        chosen = vars(self.sampling) if self.settings.preset else {}
        planned = gguf_file.write(
            path, self.weights, tokenizer, form, self.description, sampling=chosen,
            progress=self._counting(f"writing {name}"),
        )  # fmt: skip
        self.what[name] = f"GGUF {form.name}, {console.size(path.stat().st_size)}"
        levels = self.verification[name] = []
        most = self.settings.verify
        self._tell(f"checking {name}: structure")
        levels.append(verify.gguf_structure(path, planned, tokenizer, form))
        if most >= 2:
            self._tell(f"checking {name}: weights")
            levels.append(verify.gguf_weights(path, planned, self.weights))
        if most >= 3:
            rope = getattr(self.weights.config, "rope_parameters", None)
            scaled = rope if gguf_file.rope_factors(self.weights.config) is not None else None
            wanted = self.reference
            self._tell(f"checking {name}: logits")
            levels.append(verify.gguf_logits(path, form, wanted, scaled))
        if most >= 4:
            self._tell(f"checking {name}: llama.cpp")
            levels.append(verify.gguf_in_llama_cpp(path, form, self.model, self.reference))
        self._unrun(levels)

    def _unrun(self, levels: list[Level]) -> None:
        """Say of levels above the one asked for that they were not run."""
        for number, name in enumerate(("structure", "weights", "logits", "llama.cpp"), 1):
            if number > self.settings.verify:
                how = "cwgpt export without --verify"
                levels.append(verify.not_run(number, name, "not asked for", how))

    def _merged(self, folder: Path) -> None:
        dtype = self.settings.dtype
        with contextlib.ExitStack() as stack:
            if self._streams:
                tensors: Mapping[str, Any] = self.weights
                config = self.weights.config
                shapes = {name: self.weights.shape(name) for name in self.weights}
            else:
                whole = merged_copy(self.model)
                # The library knows how each family is stored, which its modules do not say.
                scratch = stack.enter_context(scratch_beside(self.place, "weights"))
                with quiet():
                    whole.save_pretrained(scratch)
                tensors, config = SafetensorsFolder(scratch), whole.config
                shapes = tensors.shapes
            merged.write_weights(
                folder, tensors, shapes, dtype, self._counting("writing model.safetensors")
            )
            settings = merged.config_json(config, dtype)
            settings["architectures"] = [verify.class_name(config)]
            settings |= {"bos_token_id": self.model.bos_id, "eos_token_id": self.model.eos_id}
            write_json(folder / "config.json", hub.without_paths(settings))
            chosen = vars(self.sampling) if self.settings.preset else {}
            generation = merged.generation_json(self.model, chosen)
            write_json(folder / "generation_config.json", generation)
            merged.write_tokenizer(folder, self.model, self._chat_template())
            first = "model.safetensors"
            if not (folder / first).is_file():  # in parts
                first = "model.safetensors.index.json"
            self.what[first] = f"merged weights, {merged.DTYPES[dtype][0]}"
            levels = self.verification[first] = []
            most = self.settings.verify
            self._tell("checking the folder: structure")
            levels.append(merged.structure(folder, shapes, dtype))
            if most >= 2:
                self._tell("checking the folder: weights")
                levels.append(merged.weights(folder, tensors, dtype))
        if most >= 3:
            wanted = self.reference
            self._tell("checking the folder: logits")
            levels.append(merged.logits(folder, self.model, wanted, dtype, self._streams))
        if most >= 4:
            levels.append(merged.other_program())
        self._unrun(levels)

    def _lora(self, folder: Path) -> None:
        name = naming.file_name(self.description, "F32", "LoRA")
        path = folder / name
        pairs = lora.lora_pairs(self.model)
        self._tell(f"writing {name}")
        shapes = lora.write(path, pairs, self.config, self.description)
        self.what[name] = f"LoRA GGUF, {console.size(path.stat().st_size)}"
        levels = self.verification[name] = []
        most = self.settings.verify
        levels.append(verify.lora_structure(path, shapes))
        if most >= 2:
            levels.append(verify.lora_weights(path, pairs, self.config))
        if most >= 3:
            wanted = self.reference
            self._tell(f"checking {name}: logits")
            levels.append(verify.lora_logits(path, base_weights(self.model), wanted))
        if most >= 4:
            self._tell(f"checking {name}: llama.cpp")
            levels.append(self._lora_in_llama_cpp(folder, path))
        self._unrun(levels)

    def _lora_in_llama_cpp(self, folder: Path, path: Path) -> Level:
        if not llama_cpp.is_installed():
            return verify.not_run(4, "llama.cpp", "xllamacpp is not installed", INSTALL)
        base = base_weights(self.model)
        if not verify.fits(base):
            return verify.not_run(4, "llama.cpp", "the base is too large to be written for it")
        scratch = folder / ".base.gguf"
        try:
            gguf_file.write(scratch, base, self._tokenizer(), FORMATS["F32"], self.description)
            return verify.lora_in_llama_cpp(
                path, scratch, self.model, base, self.weights, self.reference
            )
        finally:
            scratch.unlink(missing_ok=True)

    def _adapter(self, folder: Path) -> None:
        [source] = self.model.folders.values()
        shutil.copyfile(source / ADAPTER_WEIGHTS, folder / ADAPTER_WEIGHTS)
        config = dict(read_json(source / "adapter_config.json"))
        config["base_model_name_or_path"] = self.base_id or Path(self.model.base_name).name
        write_json(folder / "adapter_config.json", hub.without_paths(config))
        merged.write_tokenizer(folder, self.model, self._chat_template())
        self.what[ADAPTER_WEIGHTS] = "LoRA adapter for PEFT"
        self._tell("checking the adapter")
        self.verification[ADAPTER_WEIGHTS] = levels = verify.adapter_levels(
            folder / ADAPTER_WEIGHTS, source / ADAPTER_WEIGHTS, self.settings.verify
        )
        self._unrun(levels)

    def _hub_files(self, folder: Path) -> None:
        for name, text in hub.license_files(self.model).items():
            (folder / name).write_text(text, "utf-8")
        run = None if self.model.run is None else hub.public_run(self.model.run)
        if run is not None:
            write_json(folder / "run.json", run)
        (folder / "README.md").write_text(hub.model_card(self.card(run)), "utf-8")

    def card(self, run: Mapping[str, Any] | None) -> hub.Card:
        """What the card says."""
        model = self.model
        if self.kind == "adapter":
            relation, library = "adapter", "peft"
        elif self.kind == "gguf":
            relation, library = ("finetune" if self.parts or run else "quantized"), "gguf"
        else:
            relation, library = "finetune", "transformers"
        if len(self.parts) > 1:
            relation = "merge"
        token = str(model.tokenizer.convert_ids_to_tokens(model.bos_id))
        shown = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "dry_multiplier")
        return hub.Card(
            name=self.name,
            relation=relation,
            library=library,
            base=self.base_id,
            license=hub.license_of(model, self.settings.license),
            parts=naming.by_name(self.parts),
            files=self.what,
            settings={key: getattr(self.sampling, key) for key in shown},
            verification=self.verification,
            first_token=token,
            run=run,
            evaluation=hub.evaluation_of(model, self.settings.evaluation),
            from_starter=model.kind == "starter",
        )

    def _record(self, folder: Path) -> dict[str, Any]:
        files = {
            name: {
                "bytes": (folder / name).stat().st_size,
                "sha256": file_sha256(folder / name),
                "what": self.what[name],
            }
            for name in self.verification
        }
        record = {
            "format": 1,
            "to": self.to,
            "name": self.name,
            "made_by": f"creativewritinggpt {__version__}",
            "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "base": self.base_id,
            "base_revision": self.model.revision,
            "family": str(self.config.model_type),
            "adapters": naming.by_name(self.parts),
            "files": files,
            "verification": self.verification,
            "contents": sorted(
                {path.name for path in folder.iterdir()}
                | ({hub.CHECKSUMS} if self.to == "hub" else set())
            ),
        }
        if self.kind == "lora":
            tokenizer = self.model.tokenizer.backend_tokenizer.to_str().encode()
            shape = self.config.to_json_string().encode()
            record["base_sha256"] = {
                "config": hashlib.sha256(shape).hexdigest(),
                "tokenizer": hashlib.sha256(tokenizer).hexdigest(),
            }
        clean: dict[str, Any] = hub.without_paths(record)
        return clean

    def notes(self, target: Path) -> list[str]:
        """What to do with the folder, a line each."""
        files = [target / name for name in self.verification]
        notes = []
        if self.kind == "lora":
            notes.append(
                f"llama-server -m BASE.gguf --lora {files[0]}   (or --lora-scaled FILE:0.5)"
            )
        elif self.to == "gguf":
            notes.append(f"llama-server -m {files[0]}")
        if self.to == "ollama":
            notes.append(
                f"ollama create {naming.plain(self.name).lower()} -f {target / 'Modelfile'}"
            )
            if lost := programs.lost_settings(self.sampling):
                notes.append(f"Ollama has no {', '.join(lost)}: that part of the settings is lost")
        if self.to == "lm-studio":
            notes.append("in LM Studio choose text completion: it is no chat model")
        if self.to == "hub":
            if hub.license_of(self.model, self.settings.license) is None:
                notes.append("the licence of the base is not known: give --license, as apache-2.0")
            if self.base_id is None and self.kind == "adapter":
                notes.append("the base is a folder of yours: others need it, or --weights merged")
            notes.append(f"to upload: {hub.upload_line(target, naming.plain(self.name))}")
        return notes
