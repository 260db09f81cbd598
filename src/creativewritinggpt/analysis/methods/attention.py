"""Attention weights of all layers and heads, checked before anybody looks at them.

The fused attention that makes a model fast gives no weights, and gives none in silence; some ways
of asking for them have given weights without the causal mask. So one pass is run with the plain
("eager") attention, the former one is put back whatever happens, and what comes out has to be
attention: a map a layer, rows that sum to 1, nothing above the diagonal.

Two things to know before reading a map. The first token takes most of the attention in most heads,
for it has to go somewhere: a sink, not a meaning (Xiao et al. 2023, "Efficient Streaming Language
Models with Attention Sinks"), which is why everything here exists with and without it. And where a
head looks is not yet what its output owes to it: attention is not attribution.

The pass is in fp32 whatever the writer's precision, so that rows sum to 1; all layers of it are in
memory at once, and a long text is refused where that would not fit.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ...devices import memory
from ...errors import InputError
from ...models.checks import first_line, quiet
from ..registry import Attribution, Figure, Method, Score
from ..subject import Subject

if TYPE_CHECKING:
    from ...models.loaded_model import LoadedModel
    from ..run import Analysis

# More than this is stored in half precision, in bytes of fp32.
STORED_WHOLE = 200_000_000
# Rows must sum to 1 as exactly as the number format allows.
_TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-8}
_ROUGH = 2e-2
# A row that gives the first token all but this says nothing about the others.
_REST = 1e-6
_FAMILIES = "models of the GPT-2, Llama and Qwen families work"


class NoAttention(InputError):
    """This model shows no attention, or memory does not hold it; other methods still work."""


@dataclasses.dataclass(frozen=True)
class AttentionMaps:
    """The attention of a whole pass.

    Attributes:
        weights: ``[layers, heads, query, key]``, float32 or, for long texts, float16: how much the
            token at ``query`` looks at the one at ``key``; rows sum to 1, and nothing looks ahead.
        sink: Whether the first token is in it, or masked with the rows renormalised.
    """

    weights: np.ndarray
    sink: bool = True

    @property
    def layers(self) -> int:
        """How many layers."""
        return int(self.weights.shape[0])

    @property
    def heads(self) -> int:
        """How many heads a layer has."""
        return int(self.weights.shape[1])

    @property
    def tokens(self) -> int:
        """How many tokens were read."""
        return int(self.weights.shape[2])

    def rows(self, subject: Subject) -> np.ndarray:
        """``[layers, heads, targets, tokens]``: where the token before each target looks."""
        queries = [target.position - 1 for target in subject.targets]
        return self.weights[:, :, queries, :]


@contextlib.contextmanager
def eager(model: Any) -> Iterator[None]:
    """Run the block with the attention that shows its weights, then with the former one again.

    Args:
        model: A transformers model, without a PEFT wrapper.
    """
    former = model.config._attn_implementation
    with quiet():
        model.set_attn_implementation("eager")
    try:
        yield
    finally:
        with quiet():
            model.set_attn_implementation(former)


def capture(writer: LoadedModel, subject: Subject) -> AttentionMaps:
    """The attention of the pass over a text, in the adapter's state at the time.

    Args:
        writer: The model, in ``eval()`` mode.
        subject: The text.

    Raises:
        NoAttention: The model has no attention weights to show, or there is too little memory.
        InputError: What it shows is no attention: not a number, not summing to 1, looking ahead.
    """
    bare, kind = writer.bare, type(writer.bare).__name__
    _check_memory(writer, subject.length)
    ids = torch.tensor([subject.ids], device=writer.device.torch_device)
    try:
        with eager(bare), torch.no_grad(), quiet():
            found = bare.base_model(
                input_ids=ids, output_attentions=True, use_cache=False, return_dict=True
            )
    except (TypeError, ValueError, NotImplementedError) as error:
        raise NoAttention(f"{kind} shows no attention: {first_line(error)}", _FAMILIES) from error
    layers = [layer for layer in getattr(found, "attentions", None) or () if layer is not None]
    expected = int(bare.config.num_hidden_layers)
    if len(layers) != expected:
        raise NoAttention(
            f"{kind} shows the attention of {len(layers)} of its {expected} layers", _FAMILIES
        )
    whole = sum(layer.numel() for layer in layers) * 4 <= STORED_WHOLE
    stored = np.float32 if whole else np.float16
    shape = (expected, *layers[0].shape[1:])
    weights = np.empty(shape, dtype=stored)
    for index in range(expected):
        weights[index] = _checked(layers[index], index, kind, shape[1:])
        layers[index] = None
    return AttentionMaps(weights)


def _check_memory(writer: LoadedModel, tokens: int) -> None:
    config = writer.bare.config
    heads = int(getattr(config, "num_attention_heads", 0) or 1)
    needed = int(config.num_hidden_layers) * heads * tokens**2 * 4
    if needed > 0.6 * memory(writer.device.device)[1]:
        raise NoAttention(
            f"the attention of {tokens} tokens takes {needed / 1e9:.1f} GB, more than is free",
            "give a shorter text, or leave attention out of the methods",
        )


def _checked(layer: torch.Tensor, index: int, kind: str, shape: tuple[int, ...]) -> np.ndarray:
    """One layer as an array ``[heads, query, key]``, if it is attention."""
    if tuple(layer.shape[1:]) != shape or shape[1] != shape[2]:
        raise InputError(
            f"layer {index} of {kind} has attention of shape {tuple(layer.shape[1:])}, "
            f"the first layer {shape}",
            _FAMILIES,
        )
    values: np.ndarray = layer[0].detach().float().cpu().numpy()
    if not np.isfinite(values).all():
        raise InputError(
            f"the attention in layer {index} is not a number",
            "the model's weights are damaged, or its training went wrong",
        )
    off = float(np.abs(values.sum(-1, dtype=np.float64) - 1).max())
    if off > _TOLERANCE.get(layer.dtype, _ROUGH) or values.min() < 0:
        raise InputError(
            f"the attention in layer {index} of {kind} sums to 1 only within {off:.2g}", _FAMILIES
        )
    ahead = np.triu_indices(shape[1], 1)
    if values[:, ahead[0], ahead[1]].any():
        raise InputError(
            f"the attention in layer {index} of {kind} looks ahead of what was written", _FAMILIES
        )
    return values


def without_sink(maps: AttentionMaps) -> AttentionMaps:
    """The same maps with the first token masked and the rows renormalised.

    The first row keeps its one entry. A row that gives all to the first token (but one part in a
    million, which would be noise blown up) is taken to look at its own token.
    """
    weights = np.empty_like(maps.weights)
    for layer, into in zip(maps.weights, weights, strict=True):
        into[:] = masked_sink(layer)
    return AttentionMaps(weights, sink=False)


def masked_sink(weights: np.ndarray) -> np.ndarray:
    """``[…, query, key]`` without the first key; see :func:`without_sink`."""
    rest = np.array(weights, dtype=np.float32)
    rest[..., 0] = 0
    total = rest.sum(-1, keepdims=True)
    rest = np.where(total > _REST, rest / np.maximum(total, _REST), 0)
    empty = total[..., 0] <= _REST  # [..., query]
    own = np.arange(rest.shape[-2])
    rest[..., own, own] = np.where(empty, 1, rest[..., own, own])
    return rest


def mean_rows(maps: AttentionMaps, subject: Subject, *, sink: bool = True) -> np.ndarray:
    """``[targets, tokens]``: where the token before each target looks, mean of layers and heads.

    Args:
        maps: The attention with its first token.
        subject: The text with its targets.
        sink: Without it, the first token is masked in every head before the mean.
    """
    rows = maps.rows(subject).astype(np.float64)
    if not sink:
        rows[..., 0] = 0
        total = rows.sum(-1, keepdims=True)
        rows = np.where(total > _REST, rows / np.maximum(total, _REST), 0)
    result: np.ndarray = rows.mean((0, 1))
    return result


def mean_attention(maps: AttentionMaps, subject: Subject, *, sink: bool = False) -> Attribution:
    """Mean attention as if it were an attribution, so that it can be judged like one."""
    return (MEAN if sink else MEAN_WITHOUT_SINK).attribution(
        mean_rows(maps, subject, sink=sink),
        {"layers": maps.layers, "heads": maps.heads, "sink": sink},
    )


def compute(analysis: Analysis) -> None:
    """Attention of every head, its statistics, its mean and its rollout."""
    from .heads import statistics
    from .rollout import rollout_attribution

    try:
        maps = capture(analysis.fp32, analysis.subject)
    except NoAttention as error:
        if analysis.settings.methods == ["attention"]:
            raise
        analysis.warn(f"{error}; the other methods are explained without it")
        return
    statistic = statistics(maps, analysis.subject, analysis.words, analysis.kinds)
    part: dict[str, Any] = {
        "layers": maps.layers,
        "heads": maps.heads,
        **statistic.to_dict(),
        "rows": maps.rows(analysis.subject),
        "note": "attention is not attribution",
    }
    analysis.maps = maps
    if "base" in analysis.models:
        with analysis.model("base"):
            analysis.base_maps = capture(analysis.fp32, analysis.subject)
        part["base_rows"] = analysis.base_maps.rows(analysis.subject)
    analysis.record["attention"] = part
    for model, found in (("tuned", maps), ("base", analysis.base_maps)):
        if found is not None:
            analysis.add(mean_attention(found, analysis.subject), model)
            for sink in (True, False):
                analysis.add(rollout_attribution(found, analysis.subject, sink=sink), model)


_ABOUT = (
    "Where the model looks before it writes the chosen word. Attention is not attribution: what is "
    "looked at need not be used."
)


def _score(name: str, title: str, *, judged: bool = True) -> Score:
    return Score(
        name, title, _ABOUT, signed=False, unit="share", axis="share of attention",
        judged=judged, family="attention",
    )  # fmt: skip


MEAN = _score("attention", "attention")
MEAN_WITHOUT_SINK = _score("attention_without_sink", "attention without the start token")
# The first token takes nearly all of a rollout, so that it is not judged.
ROLLOUT = _score("rollout", "rollout", judged=False)
ROLLOUT_WITHOUT_SINK = _score("rollout_without_sink", "rollout without the start token")
METHOD = Method(
    name="attention",
    title="attention",
    description="Where each head of each layer looks.",
    compute=compute,
    scores=(MEAN, MEAN_WITHOUT_SINK, ROLLOUT, ROLLOUT_WITHOUT_SINK),
    figures=(Figure("attention", "attention"),),
)
