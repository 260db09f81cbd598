"""Python API: the jobs of the command line, with objects instead of files.

from creativewritinggpt import load, train

train("novel.txt", config="novel", model_name="starter")
print(load("outputs/best_model").write("The night ferry was late,"))
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from .analysis.registry import AnalysisSettings
from .analysis.report import save
from .analysis.run import Explanation, explain
from .config.fields import DEFAULT_MODEL
from .config.run import Config, load_config
from .console import ProgressCallback
from .data.document import Document
from .data.sources import Keep
from .devices import DeviceChoice
from .errors import InputError
from .evaluation.material import Material, voice_material
from .evaluation.run import base_and_tuned
from .evaluation.run import run as _run_evaluation
from .evaluation.settings import EvaluationSettings
from .export.run import ExportResult
from .export.run import export as _export
from .export.settings import ExportSettings
from .files import check_writable
from .generation.engine import stream as _stream
from .generation.engine import write as _write
from .generation.results import Generated, Piece
from .generation.sampling.settings import settings_for
from .models import loaded_model, loading
from .training.run import TrainingResult
from .training.run import train as _train

Paths = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]


class LoadedModel(loaded_model.LoadedModel):
    """A loaded model with methods that generate text."""

    def write(self, prompt: str = "", *, preset: str | None = None, **settings: Any) -> str:
        """Continue ``prompt``.

        Args:
            prompt: The text so far; empty for a new text.
            preset: Name of a preset, such as ``fantasy``.
            **settings: Fields of ``GenerationSettings``, such as ``max_new_tokens=100``.

        Returns:
            The continuation, without the prompt.

        Raises:
            InputError: An unknown setting, or a value that does not fit.
        """
        return self.alternatives(prompt, 1, preset=preset, **settings)[0].text

    def alternatives(
        self, prompt: str = "", n: int = 4, *, preset: str | None = None, **settings: Any
    ) -> list[Generated]:
        """``n`` continuations of ``prompt`` from one batch, with scores and settings."""
        return _write(self, prompt, settings_for(preset, settings), n)

    def stream(
        self, prompt: str = "", *, preset: str | None = None, **settings: Any
    ) -> Iterator[Piece]:
        """Pieces of a continuation of ``prompt``, each as soon as it is final."""
        return _stream(self, prompt, settings_for(preset, settings))

    def export(
        self,
        to: str,
        out: str | os.PathLike[str] | None = None,
        *,
        overwrite: bool = False,
        keep_failed: bool = False,
        progress: ProgressCallback | None = None,
        **settings: Any,
    ) -> ExportResult:
        """Write the model in a format of other programs, and verify what was written.

        Args:
            to: ``merged``, ``gguf``, ``lora-gguf``, ``ollama``, ``lm-studio`` or ``hub``.
            out: The folder; for LM Studio its folder of models. Default: one in ``exports``.
            overwrite: Replace an export that is there.
            keep_failed: Keep what failed verification, as ``NAME.failed``.
            progress: Called with what is done.
            **settings: Fields of ``ExportSettings``, such as ``quantize="Q8_0"``.

        Raises:
            InputError: The format can't hold this model, or the folder is there.
            RunError: Verification failed, or the disk is full.
        """
        place = None if out is None else Path(out)
        return _export(
            self, to, place, ExportSettings.from_mapping(settings), overwrite=overwrite,
            keep_failed=keep_failed, progress=progress,
        )  # fmt: skip


def load(
    model: str | os.PathLike[str] = DEFAULT_MODEL,
    *,
    device: DeviceChoice | str | None = None,
    precision: str = "auto",
    cache_dir: str | None = None,
    starter_file: str | None = None,
) -> LoadedModel:
    """Load a model.

    Args:
        model: An adapter or model folder, a hub id, or ``starter``.
        device: ``cpu``, ``cuda``, ``cuda:N`` or ``mps``; default: the best available.
        precision: ``auto``, ``fp32`` or ``bf16``.
        cache_dir: Cache folder of the starter.
        starter_file: Local copy of the starter's wheel or GGUF.

    Raises:
        InputError: There is no such model, or it can't be used.
        RunError: It could not be fetched.
    """
    loaded = loading.load_model(
        os.fspath(model), device, precision, cache_dir=cache_dir, starter_file=starter_file
    )
    return loaded.cast(LoadedModel)


def train(
    files: Paths = (),
    *,
    config: str | Config | None = None,
    resume: bool = False,
    overwrite: bool = False,
    force: bool = False,
    keep: Mapping[str, Keep] | None = None,
    **settings: Any,
) -> TrainingResult:
    """Fine-tune a model.

    Args:
        files: Texts to train on; without any, the named sources.
        config: A recipe, a YAML file or a ready ``Config``.
        resume: Continue the run in the output folder.
        overwrite: Replace the run in the output folder.
        force: Resume although data or settings changed.
        keep: By source (of a file: its stem), a filter of documents.
        **settings: Fields of ``Config``; they win over ``config``.

    Raises:
        InputError: Settings, files or the output folder can't be used.
        RunError: The work failed.
    """
    if isinstance(config, Config):
        ready = load_config(None, {**config.to_dict(), **settings}) if settings else config
    else:
        ready = load_config(config, settings)
    return _train(
        ready,
        _listed(files),
        resume=resume,
        overwrite=overwrite,
        force=force,
        keep=keep,
        said=set(settings) if config is None else None,
    )


def generate(
    prompt: str = "", *, model: str | os.PathLike[str] = DEFAULT_MODEL, **settings: Any
) -> str:
    """Load a model and continue ``prompt`` once; for more texts :func:`load` it."""
    return load(model).write(prompt, **settings)


def evaluate(
    model: str | os.PathLike[str] | loaded_model.LoadedModel = DEFAULT_MODEL,
    files: Paths = (),
    *,
    documents: Sequence[Document] | None = None,
    **settings: Any,
) -> dict[str, Any]:
    """Evaluate a model and its base on the same documents.

    Args:
        model: A loaded model, or the name of one to load.
        files: Texts to evaluate on.
        documents: Documents to evaluate on, instead of files.
        **settings: Fields of ``EvaluationSettings``, such as ``rank=50``; ``texts`` is 0 by
            default: generating them takes longest.

    Returns:
        The content of ``evaluation.json``.

    Raises:
        InputError: The model or the files can't be used.
    """
    from .data.corpus import read_documents

    loaded = model if isinstance(model, loaded_model.LoadedModel) else load(model)
    chosen = documents if documents is not None else read_documents(_listed(files), Config())
    what = EvaluationSettings.from_mapping({"texts": 0, **settings})
    voice, why = voice_material(chosen, loaded.name, what, Config(), None)
    material = Material(list(chosen), without={"voice": why} if why else {}, voice=voice)
    return _run_evaluation(base_and_tuned(loaded), material, what).result


def analyze(
    text: str,
    model: Any = DEFAULT_MODEL,
    *,
    tokenizer: Any = None,
    folder: str | os.PathLike[str] | None = None,
    **settings: Any,
) -> Explanation:
    """Explain a model's predictions for a text.

    Args:
        text: The text.
        model: A loaded model, the name of one to load, or a model of transformers or PEFT.
        tokenizer: The tokenizer of a model of transformers or PEFT.
        folder: Folder for figures, ``results.json`` and ``report.html``.
        **settings: Fields of ``AnalysisSettings``, such as ``write=20``, ``target="door"``.

    Returns:
        The explanation; its ``record`` is the content of ``results.json``.

    Raises:
        InputError: Text, model or settings don't fit.
        RunError: The model computes no numbers.
    """
    chosen = AnalysisSettings.from_mapping(settings)
    if folder is not None:
        check_writable(Path(folder))
    with contextlib.ExitStack() as stack:
        if isinstance(model, (str, os.PathLike)):
            loaded: loaded_model.LoadedModel = load(model)
        elif isinstance(model, loaded_model.LoadedModel):
            loaded = model
        else:
            if tokenizer is None:
                raise InputError("a model in memory needs its tokenizer", "give tokenizer=…")
            stack.enter_context(_training_modes_restored(model))
            loaded = loading.wrap(model, tokenizer)
        found = explain(loaded, text, chosen)
    if folder is not None:
        save(found, Path(folder), chosen)
    return found


@contextlib.contextmanager
def _training_modes_restored(model: Any) -> Iterator[None]:
    """Put each module back into its ``train()`` or ``eval()`` mode after the block."""
    modes = {module: module.training for module in model.modules()}
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


def _listed(files: Paths) -> list[str]:
    if isinstance(files, (str, os.PathLike)):
        return [os.fspath(files)]
    return [os.fspath(file) for file in files]
