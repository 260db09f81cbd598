"""Verification of what was written, in four levels.

1. structure: the file opens; keys, names, shapes and number formats are those planned;
2. weights: read back and compared with what they were made from, within the format's rounding;
3. logits: the file, read by this package, against the model as PEFT and transformers compute it;
4. llama.cpp: token ids, logits and a greedy text of the program that the file is for.

Each level is a dictionary with ``level``, ``name``, ``passed`` and its figures; one that could not
be run has ``run`` false, and says what would run it.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..files import file_sha256
from ..models.checks import open_safetensors, quiet
from ..models.gguf_model import GGUFModel
from ..models.loaded_model import LoadedModel
from . import llama_cpp
from .gguf_file import PlannedTensor, values_of
from .lora import Pair, WithLora
from .quantization import INSTALL, Format, ggml_type, largest_error
from .tokenizer import GGUFTokenizer
from .weights import MergedWeights, merged_weights

Level = dict[str, Any]

ROWS, LENGTH = 4, 128
"""Passages that logits are compared on, and tokens of each."""

LLAMA_CPP_KL = 1e-4
"""Largest mean divergence of an unquantised file in llama.cpp from our fp32 model, nats."""

# Above this many bytes the fp32 model is run layer by layer from its files, not as loaded.
_IN_MEMORY = 3_000_000_000
_GREEDY = 64
# Rows of a matrix that are compared at once.
_ROWS = 8192
# Difference of log-probabilities up to which two programs may prefer another token.
_NEAR_TIE = 0.05
_LOWEST = -100.0  # log-probability; what a float32 softmax makes zero
PROBES = (
    "The night ferry was late.",
    "She'd said they'll come; I've no idea why it's so, he'd laughed. DON'T SHOUT!",
    "In 1987 there were 12,345 of them, and 3.14 left over.",
    "  two spaces,   three,\ttab\n\nand two line ends \n",
    "“Don’t,” he said — and wept… naïvely, in a Café.",
    "A smile 🙂, a family 👩‍👩‍👧, 猫が好き, Привет, مرحبا.",
)
"""Texts whose token ids must be equal in llama.cpp."""


class VerificationFailed(Exception):
    """A level that was not passed; says what is wrong in one line."""


def passages() -> list[str]:
    """Stories of the sample corpus, as texts to compare models on."""
    file = resources.files("creativewritinggpt.data") / "sample" / "writingprompts.jsonl"
    lines = file.read_text("utf-8").splitlines()
    return [json.loads(line)["story"] for line in lines[:ROWS]]


def token_ids(model: LoadedModel, text: str) -> list[int]:
    """A text as the model reads it: the token that begins texts, then its tokens."""
    found = model.tokenizer(text, add_special_tokens=False, split_special_tokens=True)
    return [model.bos_id, *found["input_ids"]]


@dataclasses.dataclass
class Reference:
    """The model that was exported, as transformers and PEFT compute it in float32.

    Attributes:
        rows: Token ids ``[rows, tokens]``.
        logits: ``[rows, tokens, vocabulary]`` float32.
        how: How they were computed, for the record.
    """

    rows: Tensor
    logits: Tensor
    how: str


def reference(model: LoadedModel, weights: MergedWeights | None) -> Reference:
    """Logits of the exported model on passages of the sample corpus.

    A small model is run as it was loaded, its adapters unmerged in PEFT's layers, so that the merge
    is checked, too. A large one is run layer by layer on the merged weights.

    Args:
        model: The model.
        weights: Its merged weights, where they can be read one by one.
    """
    ids = [token_ids(model, text) for text in passages()]
    length = min(LENGTH, model.context_length, *map(len, ids))
    rows = torch.tensor([one[:length] for one in ids])
    if weights is not None and not fits(weights):
        return Reference(rows, streamed_logits(weights.config, weights, rows), "merged, by layers")
    # A copy of the object: the user's stays in its light form.
    full = model.cast(LoadedModel)
    with torch.no_grad(), quiet():
        found = full.model(input_ids=rows.to(full.device.torch_device), use_cache=False).logits
    return Reference(rows, found.float().cpu(), "as loaded, adapters unmerged")


def fits(weights: MergedWeights) -> bool:
    """Whether a model is small enough to be run as it is loaded, and written twice."""
    return weights.parameters * 4 <= _IN_MEMORY


class _WithHead(Mapping[str, Tensor]):
    """Parameters of a tied model under the head's name as well."""

    def __init__(self, tensors: Mapping[str, Tensor], head: str, embedding: str) -> None:
        self._tensors, self._names = tensors, {head: embedding}

    def __getitem__(self, name: str) -> Tensor:
        return self._tensors[name if name in self._tensors else self._names.get(name, name)]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)


def streamed_logits(config: Any, tensors: Mapping[str, Tensor], rows: Tensor) -> Tensor:
    """Logits of a transformers model whose parameters are read module by module.

    Args:
        config: The configuration.
        tensors: Parameters by transformers' names; a tied head may be left out.
        rows: Token ids ``[rows, tokens]``.

    Returns:
        ``[rows, tokens, vocabulary]`` float32.
    """
    from accelerate import init_empty_weights
    from accelerate.hooks import attach_align_device_hook
    from transformers import AutoModelForCausalLM

    config = copy.deepcopy(config)
    config.dtype = torch.float32
    with quiet(), init_empty_weights(include_buffers=False):
        model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").eval()
    names = {id(module): name for name, module in model.named_modules()}
    head, table = model.get_output_embeddings(), model.get_input_embeddings()
    known = _WithHead(tensors, f"{names[id(head)]}.weight", f"{names[id(table)]}.weight")
    attach_align_device_hook(model, execution_device="cpu", offload=True, weights_map=known)
    with torch.no_grad(), quiet():
        found: Tensor = model(input_ids=rows, use_cache=False).logits.float()
    return found


def compare(found: Tensor, wanted: Reference) -> dict[str, Any]:
    """Divergence of logits from the reference.

    Returns:
        ``mean_kl`` and ``max_kl`` in nats per token, ``same_first`` (share of tokens with the same
        likeliest next token), ``perplexity`` and ``perplexity_fp32``, ``tokens``.
    """
    kls, same, nats, nats_before = [], [], [], []
    for row, ours, ids in zip(found, wanted.logits, wanted.rows, strict=True):
        new, old = log_probabilities(row), log_probabilities(ours)
        kls.append(divergence(old, new))
        same.append(new.argmax(-1) == old.argmax(-1))
        targets = ids[1:, None]
        nats.append(-new[:-1].gather(1, targets))
        nats_before.append(-old[:-1].gather(1, targets))
    kl = torch.cat(kls)
    return {
        "mean_kl": float(kl.mean()),
        "max_kl": float(kl.max()),
        "same_first": float(torch.cat(same).double().mean()),
        "perplexity": math.exp(min(float(torch.cat(nats).mean()), 700.0)),
        "perplexity_fp32": math.exp(min(float(torch.cat(nats_before).mean()), 700.0)),
        "tokens": len(kl),
    }


def log_probabilities(logits: Tensor) -> Tensor:
    """Float64 log-probabilities ``[tokens, vocabulary]``, none below -100."""
    return torch.log_softmax(logits.double(), -1).clamp_min(_LOWEST)


def divergence(wanted: Tensor, found: Tensor) -> Tensor:
    """KL(wanted ‖ found) of log-probabilities ``[tokens, vocabulary]``, nats; ``[tokens]``."""
    return (wanted.exp() * (wanted - found)).sum(-1)


def level(number: int, name: str, **figures: Any) -> Level:
    """A level that was passed."""
    return {"level": number, "name": name, "run": True, "passed": True, **figures}


def not_run(number: int, name: str, why: str, how: str | None = None) -> Level:
    """A level that was not run, why, and what would run it."""
    found: Level = {"level": number, "name": name, "run": False, "passed": None, "why": why}
    return found if how is None else {**found, "how": how}


def _check_kl(figures: Mapping[str, Any], most: float, what: str) -> None:
    kl = figures["mean_kl"]
    if not kl <= most:
        raise VerificationFailed(
            f"{what}: the mean divergence from the fp32 model is {kl:.3g} nats per token, and "
            f"{most:.3g} is the most that is right"
        )


def gguf_structure(
    path: Path, planned: Sequence[PlannedTensor], tokenizer: GGUFTokenizer, form: Format
) -> Level:
    """Level 1: the file opens, and holds what was planned.

    Raises:
        VerificationFailed: It does not.
    """
    model = GGUFModel(path)
    fields, tensors = model.fields, model.tensors
    for key, wanted in (
        ("general.file_type", form.file_type),
        ("tokenizer.ggml.model", "gpt2"),
        ("tokenizer.ggml.pre", tokenizer.pre),
        ("tokenizer.ggml.tokens", tokenizer.tokens),
        ("tokenizer.ggml.token_type", tokenizer.types),
        ("tokenizer.ggml.merges", tokenizer.merges),
        ("tokenizer.ggml.bos_token_id", tokenizer.bos_id),
        ("tokenizer.ggml.eos_token_id", tokenizer.eos_id),
        ("tokenizer.ggml.add_bos_token", True),
        ("tokenizer.ggml.add_eos_token", False),
        ("tokenizer.chat_template", tokenizer.chat_template),
    ):
        if fields.get(key) != wanted:
            raise VerificationFailed(f"structure: the key {key} is not what was written")
    if set(tensors) != {tensor.name for tensor in planned}:
        raise VerificationFailed("structure: the file holds other tensors than were written")
    for tensor in planned:
        found = tensors[tensor.name]
        shape = tuple(int(n) for n in reversed(found.shape))
        if shape != tensor.shape or found.tensor_type != ggml_type(tensor.kind):
            raise VerificationFailed(
                f"structure: {tensor.name} is {shape} {found.tensor_type.name} instead of "
                f"{tensor.shape} {tensor.kind}"
            )
    end = max(int(t.data_offset) + int(t.n_bytes) for t in tensors.values())
    if path.stat().st_size < end:
        raise VerificationFailed(f"structure: the file ends before its last tensor, at {end:,}")
    return level(1, "structure", tensors=len(planned), keys=len(fields))


def gguf_weights(path: Path, planned: Sequence[PlannedTensor], weights: MergedWeights) -> Level:
    """Level 2: every tensor is what it was made from, within its format's rounding.

    Raises:
        VerificationFailed: One is not.
    """
    model = GGUFModel(path)
    worst = 0.0
    for tensor in planned:
        found, wanted = model.raw(tensor.name), values_of(weights, tensor)
        for start in range(0, len(wanted), _ROWS):
            part = slice(start, start + _ROWS)
            error = np.abs(found[part] - wanted[part])
            if not np.isfinite(error).all() or (error > _rounding(wanted[part], tensor.kind)).any():
                raise VerificationFailed(
                    f"weights: {tensor.name} differs from its source by {error.max():.3g}, more "
                    f"than the rounding of {tensor.kind}"
                )
            worst = max(worst, float(error.max(initial=0.0)))
    return level(2, "weights", largest_error=worst)


def _rounding(values: np.ndarray, kind: str) -> Any:
    """The largest error that a number format may make, for each weight."""
    if kind == "F16":
        return np.abs(values) * 2.0**-11 + 2.0**-25
    if kind == "BF16":
        return np.abs(values) * 2.0**-8
    return largest_error(values, kind)


def gguf_logits(path: Path, form: Format, wanted: Reference, rope: dict[str, Any] | None) -> Level:
    """Level 3: logits of the file, read by this package, against the reference.

    Raises:
        VerificationFailed: They diverge by more than the format explains.
    """
    model = GGUFModel(path)
    figures = compare(streamed_logits(model.config(rope), model, wanted.rows), wanted)
    _check_kl(figures, form.mean_kl, "logits")
    return level(3, "logits", **figures, reference=wanted.how)


def gguf_in_llama_cpp(path: Path, form: Format, model: LoadedModel, wanted: Reference) -> Level:
    """Level 4: token ids, logits and a greedy text in llama.cpp.

    Raises:
        VerificationFailed: They are not those of the exported model.
    """
    if not llama_cpp.is_installed():
        return not_run(4, "llama.cpp", "xllamacpp is not installed", INSTALL)
    texts = [*PROBES, *passages()]
    ids = wanted.rows[0].tolist()
    vocabulary = wanted.logits.shape[-1]
    positions = _positions(len(ids), vocabulary)
    room = model.context_length - len(ids)
    answers = _asked(
        path, texts, ids, positions, vocabulary=vocabulary, filler=token_ids(model, "a")[-1],
        greedy=max(0, min(_GREEDY, room)), threads=model.device.threads,
    )  # fmt: skip
    if isinstance(answers, dict):
        return answers
    for text, found in zip(texts, answers.tokens, strict=True):
        if found != token_ids(model, text):
            raise VerificationFailed(
                f"llama.cpp: it reads {text[:40]!r} as other tokens: {found[:8]}… instead of "
                f"{token_ids(model, text)[:8]}…"
            )
    figures = _against(answers.log_probabilities[0], wanted)
    most = LLAMA_CPP_KL if form.name == "F32" else 2 * form.mean_kl
    _check_kl(figures, most, "llama.cpp")
    agreed = _greedy_agreement(model, ids, answers.greedy, wanted)
    if form.name == "F32" and agreed["greedy_gap"] > _NEAR_TIE:
        raise VerificationFailed(
            f"llama.cpp: greedy writing leaves our likeliest tokens by {agreed['greedy_gap']:.3g}"
        )
    return level(
        4, "llama.cpp", texts=len(texts), **figures, **agreed,
        version=f"xllamacpp {llama_cpp.version()}",
    )  # fmt: skip


def _asked(*arguments: Any, **words: Any) -> llama_cpp.Answers | Level:
    """:func:`llama_cpp.ask`; a level that was not run where llama.cpp can't be used.

    Raises:
        VerificationFailed: llama.cpp does not run the file.
    """
    try:
        return llama_cpp.ask(*arguments, **words)
    except llama_cpp.Refused as error:
        raise VerificationFailed(f"llama.cpp: {error}") from error
    except llama_cpp.Unavailable as error:
        return not_run(4, "llama.cpp", str(error))


def _positions(length: int, vocabulary: int) -> int:
    """Number of positions to ask llama.cpp for; each costs its vocabulary as JSON."""
    return min(length, 32 if vocabulary > 10_000 else 96)


def _against(found: np.ndarray, wanted: Reference) -> dict[str, Any]:
    """:func:`compare` for llama.cpp's answers to the first row."""
    count = len(found)
    part = Reference(wanted.rows[:1, :count], wanted.logits[:1, :count], wanted.how)
    return compare(torch.from_numpy(found)[None].clamp_min(_LOWEST), part)


def _greedy_agreement(
    model: LoadedModel, ids: list[int], written: list[int], wanted: Reference
) -> dict[str, Any]:
    """How far llama.cpp's greedy tokens are from being our likeliest ones.

    Our model reads its text: each token is compared with the likeliest one there, so that one near
    tie does not make all that follows count as different.

    Returns:
        ``greedy_same`` of ``greedy_tokens``, and ``greedy_gap``, the largest difference of
        log-probabilities between our choice and its.
    """
    if not written:
        return {"greedy_same": 0, "greedy_tokens": 0, "greedy_gap": 0.0}
    rows = torch.tensor([[*ids, *written]])
    logits = _wanted_logits(model, rows)[0, len(ids) - 1 : -1]
    scores = log_probabilities(logits)
    chosen = scores.gather(1, torch.tensor(written)[:, None])[:, 0]
    gaps = scores.max(-1).values - chosen
    return {
        "greedy_same": int((gaps == 0).sum()),
        "greedy_tokens": len(written),
        "greedy_gap": float(gaps.max()),
    }


def lora_structure(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> Level:
    """Level 1 of a LoRA GGUF: the file opens, and holds what was planned.

    Raises:
        VerificationFailed: It does not.
    """
    from gguf import GGUFReader

    reader = GGUFReader(path)
    kinds = {key: reader.fields[key].contents() for key in ("general.type", "adapter.type")}
    found = {t.name: tuple(int(n) for n in reversed(t.shape)) for t in reader.tensors}
    if kinds != {"general.type": "adapter", "adapter.type": "lora"} or found != dict(shapes):
        raise VerificationFailed("structure: the file holds other tensors than were written")
    return level(1, "structure", tensors=len(found))


def lora_weights(path: Path, pairs: Mapping[str, Pair], config: Any) -> Level:
    """Level 2 of a LoRA GGUF: what it adds to each matrix is what the adapter adds.

    Raises:
        VerificationFailed: It is not.
    """
    names = {f"{module}.weight": pair for module, pair in pairs.items()}
    shapes = {name: (len(pair.high), pair.low.shape[1]) for name, pair in names.items()}
    turned = config.model_type == "gpt2"
    nothing = {
        name: torch.zeros(shape[::-1] if turned else shape) for name, shape in shapes.items()
    }
    file = WithLora(nothing, path, config)
    worst = 0.0
    for name, pair in names.items():
        wanted = pair.scale * (pair.high @ pair.low)
        error = float((file[name] - (wanted.t() if turned else wanted)).abs().max())
        worst = max(worst, error)
        if not error <= 1e-5 * max(1.0, float(wanted.abs().max())):
            raise VerificationFailed(f"weights: {name} adds something else, by {error:.3g}")
    return level(2, "weights", largest_error=worst)


def lora_logits(path: Path, base: MergedWeights, wanted: Reference) -> Level:
    """Level 3 of a LoRA GGUF: the base with the file's change, against PEFT.

    Raises:
        VerificationFailed: They diverge.
    """
    tuned = WithLora(base, path, base.config)
    figures = compare(streamed_logits(base.config, tuned, wanted.rows), wanted)
    _check_kl(figures, 1e-6, "logits")
    return level(3, "logits", **figures, reference=wanted.how)


def lora_in_llama_cpp(
    path: Path,
    base_file: Path,
    model: LoadedModel,
    base: MergedWeights,
    tuned: MergedWeights,
    wanted: Reference,
) -> Level:
    """Level 4 of a LoRA GGUF: on its base in llama.cpp, at full and at half strength.

    Args:
        path: The LoRA GGUF.
        base_file: The base as GGUF, float32.
        model: The exported model.
        base: Its base.
        tuned: It, merged.
        wanted: PEFT's logits at full strength.

    Raises:
        VerificationFailed: They diverge.
    """
    ids = wanted.rows[0].tolist()
    positions = _positions(len(ids), wanted.logits.shape[-1])
    answers = _asked(
        base_file, PROBES[:1], ids, positions, vocabulary=wanted.logits.shape[-1],
        filler=token_ids(model, "a")[-1], adapter=path,
        scales=(1.0, 0.5), threads=model.device.threads,
    )  # fmt: skip
    if isinstance(answers, dict):
        return answers
    figures = _against(answers.log_probabilities[0], wanted)
    _check_kl(figures, LLAMA_CPP_KL, "llama.cpp")
    rows = wanted.rows[:1, :positions]
    half = _Between(base, tuned)
    between = Reference(rows, streamed_logits(base.config, half, rows), "merged at half strength")
    at_half = _against(answers.log_probabilities[1], between)
    _check_kl(at_half, LLAMA_CPP_KL, "llama.cpp at scale 0.5")
    return level(
        4, "llama.cpp", **figures, mean_kl_half=at_half["mean_kl"],
        version=f"xllamacpp {llama_cpp.version()}",
    )  # fmt: skip


class _Between(Mapping[str, Tensor]):
    """The mean of two models' parameters."""

    def __init__(self, first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> None:
        self._first, self._second = first, second

    def __getitem__(self, name: str) -> Tensor:
        return torch.lerp(self._first[name], self._second[name], 0.5)

    def __iter__(self) -> Iterator[str]:
        return iter(self._first)

    def __len__(self) -> int:
        return len(self._first)


def adapter_levels(path: Path, source: Path, most: int) -> list[Level]:
    """Levels of an adapter that was copied.

    Args:
        path: The copy.
        source: The file that the model was loaded from.
        most: The highest level to run.

    Raises:
        VerificationFailed: They differ.
    """
    shapes = open_safetensors(path)
    levels = [level(1, "structure", tensors=len(shapes))]
    if most >= 2:
        if file_sha256(path) != file_sha256(source):
            raise VerificationFailed("weights: the adapter is not the one that was loaded")
        levels.append(level(2, "weights", equal=True))
    same = "it is the file that was loaded, byte for byte"
    if most >= 3:
        levels.append(not_run(3, "logits", same))
    if most >= 4:
        levels.append(
            not_run(4, "llama.cpp", "llama.cpp reads no PEFT adapter; see --to lora-gguf")
        )
    return levels


def class_name(config: Any) -> str:
    """Transformers' class for a configuration, as ``LlamaForCausalLM``."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    found = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(config.model_type)
    return str(found or (config.architectures or [""])[0])


def _wanted_logits(model: LoadedModel, rows: Tensor) -> Tensor:
    """Logits of the exported model for other rows; ``[rows, tokens, vocabulary]``."""
    weights = merged_weights(model)
    return streamed_logits(weights.config, weights, rows)
