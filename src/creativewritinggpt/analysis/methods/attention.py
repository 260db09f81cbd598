"""Attention weights of all layers and heads, statistics of each head, and attention rollout.

Fused attention returns no weights, without an error, and some implementations have returned weights
without the causal mask. So one pass is run with transformers' eager attention, the former one is
restored whatever happens, and the result is checked: a map per layer, rows that sum to 1, nothing
above the diagonal (a model that looks ahead is refused here and nowhere else).

The first token takes most of the attention in most heads, since the weights have to sum to 1: a
sink (Xiao et al. 2023, "Efficient Streaming Language Models with Attention Sinks"). Every result
exists with and without it. And where a head looks is not what its output contributes: attention is
not attribution.

Rollout (Abnar and Zuidema 2020, "Quantifying Attention Flow in Transformers") takes half of each
layer's output to come from the token itself (the residual stream) and half by the mean attention of
its heads, and multiplies the layers::

    R = Ã_L · … · Ã_1        Ã = (A + I) / 2

In a causal model the first token attends to itself alone, so that mass that reaches it stays: with
depth R drifts to the first column whatever the text says. Masking that column and renormalizing
would hand its part to the second token (98 % in the starter's 30 layers). So the rollout without
the sink leaves the weight on the first token with the token that looks. Values, output projections
and MLPs are left out of it, and early tokens gain with every layer even so.

The pass is in fp32 whatever the model's precision, so that rows sum to 1; all its layers are in
memory at once, and a text is refused for which that would not fit.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ...devices import memory
from ...errors import InputError
from ...models.checks import FAMILIES, first_line, quiet
from ...models.scoring import body_and_head
from ..registry import Analysis, Attribution, Figure, Method, Score
from ..subject import Subject, Word

if TYPE_CHECKING:
    from ...models.loaded_model import LoadedModel

# More than this is stored in half precision, in bytes of fp32.
STORED_WHOLE = 200_000_000
# Rows must sum to 1 as exactly as the number format allows.
_TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-8}
_ROUGH = 2e-2
# A row that gives the first token all but this says nothing about the others.
_REST = 1e-6


class NoAttention(InputError):
    """This model shows no attention, or memory does not hold it; other methods still work."""


@dataclasses.dataclass(frozen=True)
class AttentionMaps:
    """The attention of a whole pass.

    Attributes:
        weights: ``[layers, heads, query, key]``, float32 or, for long texts, float16: how much the
            token at ``query`` looks at the one at ``key``; rows sum to 1, and nothing looks ahead.
        sink: Whether the first token is in it, or masked with the rows renormalised.
        reach: For each layer how many tokens a token can look at, itself included: fewer than all
            in layers with a sliding window. All in every layer without it.
    """

    weights: np.ndarray
    sink: bool = True
    reach: tuple[int, ...] = ()

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

    def visible(self, layer: int) -> np.ndarray:
        """``[query, key]`` booleans: what a layer can see."""
        seen = np.tril(np.ones((self.tokens, self.tokens), dtype=bool))
        return np.triu(seen, 1 - self.reach[layer]) if self.reach else seen

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


def capture(model: LoadedModel, subject: Subject) -> AttentionMaps:
    """The attention of the pass over a text, in the adapter's state at the time.

    Args:
        model: The model, in ``eval()`` mode.
        subject: The text.

    Raises:
        NoAttention: The model has no attention weights to show, or there is too little memory.
        InputError: What it shows is no attention: not a number, not summing to 1, looking ahead.
    """
    bare, kind = model.bare, type(model.bare).__name__
    _check_memory(model, subject.length)
    ids = torch.tensor([subject.ids], device=model.device.torch_device)
    inputs: dict[str, Any] = {"input_ids": ids, "use_cache": False}
    try:
        with eager(bare), torch.no_grad(), quiet():
            switched = bare.config._attn_implementation == "eager"
            if not switched and body_and_head(model.model)[0].takes_masks:
                # Falcon can't be switched, and adds its boolean mask as a number where weights are
                # asked for.
                lowest = torch.finfo(bare.dtype).min
                mask = torch.full((subject.length,) * 2, lowest, dtype=bare.dtype).triu(1)
                inputs["attention_mask"] = mask[None, None].to(ids.device)
            found = bare.base_model(**inputs, output_attentions=True, return_dict=True)
    except (TypeError, ValueError, NotImplementedError) as error:
        raise NoAttention(f"{kind} shows no attention: {first_line(error)}", FAMILIES) from error
    layers = [layer for layer in getattr(found, "attentions", None) or () if layer is not None]
    expected = int(bare.config.num_hidden_layers)
    if len(layers) != expected:
        raise NoAttention(
            f"{kind} shows the attention of {len(layers)} of its {expected} layers", FAMILIES
        )
    whole = sum(layer.numel() for layer in layers) * 4 <= STORED_WHOLE
    stored = np.float32 if whole else np.float16
    shape = (expected, *layers[0].shape[1:])
    weights = np.empty(shape, dtype=stored)
    reach = []
    for index in range(expected):
        weights[index] = values = _checked(layers[index], index, kind, shape[1:])
        layers[index] = None
        # What a window hides is exactly 0 in every head, whatever a family calls its windows.
        query, key = np.nonzero(values.any(0))
        reach.append(int((query - key).max()) + 1)
    return AttentionMaps(weights, reach=tuple(reach))


def _check_memory(model: LoadedModel, tokens: int) -> None:
    config = model.bare.config
    heads = int(getattr(config, "num_attention_heads", 0) or 1)
    needed = int(config.num_hidden_layers) * heads * tokens**2 * 4
    if needed > 0.6 * memory(model.device.device)[1]:
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
            FAMILIES,
        )
    values: np.ndarray = layer[0].detach().float().cpu().numpy()
    if not np.isfinite(values).all():
        raise InputError(
            f"the attention in layer {index} is not a number",
            "the model's weights are damaged, or its training went wrong",
        )
    off = float(np.abs(values.sum(-1, dtype=np.float64) - 1).max())
    if off > _TOLERANCE.get(layer.dtype, _ROUGH) or values.min() < 0:
        raise NoAttention(
            f"the attention in layer {index} of {kind} sums to 1 only within {off:.2g}", FAMILIES
        )
    ahead = np.triu_indices(shape[1], 1)
    if values[:, ahead[0], ahead[1]].any():
        raise InputError(
            f"the attention in layer {index} of {kind} looks ahead of what was written", FAMILIES
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
    return dataclasses.replace(maps, weights=weights, sink=False)


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


@dataclasses.dataclass(frozen=True)
class HeadStatistics:
    """Statistics of every attention head, means over the queries but the first.

    Attributes:
        values: By name ``[layers, heads]``, NaN where the text has nothing of the kind:

            - ``distance``: tokens back, weighted by attention; ``distance_without_sink``
            - ``entropy``: in nats
            - ``first_token_mass``, ``previous_token_mass`` (from the third token on), ``self_mass``
            - ``induction_mass``: on what followed an earlier occurrence of the query's token, where
              there is one (Olsson et al. 2022, "In-context Learning and Induction Heads")
            - ``prompt_mass``: on the prompt without the first token, from where the story begins
            - ``name_mass``: on names, from the first name on
        chance: Each of them for attention spread evenly over what can be seen, mean over layers.
    """

    values: dict[str, np.ndarray]
    chance: dict[str, float]

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON: lists of lists, None for a measure that the text has nothing of."""
        record: dict[str, Any] = {
            name: None if np.isnan(values).all() else values.tolist()
            for name, values in self.values.items()
        }
        record["chance"] = {k: None if np.isnan(v) else v for k, v in self.chance.items()}
        return record


def statistics(
    maps: AttentionMaps,
    subject: Subject,
    words: Sequence[Word],
    tags: Sequence[set[str]],
) -> HeadStatistics:
    """Statistics of every head.

    Args:
        maps: The attention with its first token.
        subject: The text.
        words: Its words.
        tags: Their kinds, as ``names.tag`` gives them.
    """
    measure = _measures(subject, words, tags)
    even = {}
    for layer, reach in enumerate(maps.reach or (maps.tokens,)):
        if reach not in even:
            seen = maps.visible(layer).astype(np.float64)
            even[reach] = measure(seen / seen.sum(-1, keepdims=True))
    chance, *others = even.values()
    if others:
        layers = [even[reach] for reach in maps.reach]
        chance = {name: float(np.mean([layer[name] for layer in layers])) for name in chance}
    found = [[measure(head.astype(np.float64)) for head in layer] for layer in maps.weights]
    values = {name: np.array([[one[name] for one in layer] for layer in found]) for name in chance}
    return HeadStatistics(values, chance)


def _measures(
    subject: Subject, words: Sequence[Word], tags: Sequence[set[str]]
) -> Callable[[np.ndarray], dict[str, float]]:
    """A function from ``[query, key]`` to the numbers of one head."""
    length = subject.length
    place = np.arange(length, dtype=np.float64)
    prompt, names = np.zeros(length), np.zeros(length)
    begins = length
    for word, kinds in zip(words, tags, strict=True):
        tokens = list(word.tokens)
        if word.written:
            begins = min(begins, tokens[0])
        elif tokens != [0]:
            prompt[tokens] = 1
        if "name" in kinds:
            names[tokens] = 1
    # The token before the first written one is the first that looks on the story's behalf.
    telling = place >= begins - 1 if begins < length and prompt.any() else np.zeros(length, bool)
    naming = (np.cumsum(names) > 0) & (place > 0)
    followed = _followed(subject.ids)

    def measure(weights: np.ndarray) -> dict[str, float]:
        with np.errstate(divide="ignore", invalid="ignore"):
            information = np.where(weights > 0, weights * np.log(weights), 0).sum(-1)
            rest = 1 - weights[:, 0]
            seen = weights @ place  # the first token adds nothing to it
            near = np.where(rest > 1e-6, place - seen / rest, np.nan)
        diagonal = np.diagonal(weights)
        found = {
            "distance": _mean((place - seen)[1:]),
            "distance_without_sink": _mean(near[1:][~np.isnan(near[1:])]),
            "entropy": _mean(-information[1:]),
            "first_token_mass": _mean(weights[1:, 0]),
            "previous_token_mass": _mean(np.diagonal(weights, -1)[1:]),
            "self_mass": _mean(diagonal[1:]),
            "induction_mass": _mean(np.array([weights[q, keys].sum() for q, keys in followed])),
            "prompt_mass": _mean((weights @ prompt)[telling]),
            "name_mass": _mean((weights @ names)[naming]),
        }
        return found

    return measure


def _followed(ids: Sequence[int]) -> list[tuple[int, list[int]]]:
    """For each token that came before: its position, and those just after its earlier places."""
    places: dict[int, list[int]] = {}
    result = []
    for position, token in enumerate(ids):
        earlier = places.setdefault(token, [])
        after = [place + 1 for place in earlier if place + 1 < position]
        if after:
            result.append((position, after))
        if position:
            earlier.append(position)
    return result


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else float("nan")


def rollout(maps: AttentionMaps, sink: bool = True) -> np.ndarray:
    """The product of all layers.

    Args:
        maps: The attention with its first token.
        sink: Whether attention to the first token counts; without it, it stays where it is.

    Returns:
        ``[tokens, tokens]`` float64, lower triangular, rows summing to 1.
    """
    result = np.eye(maps.tokens)
    for layer in maps.weights:
        mean = layer.mean(0, dtype=np.float64)
        if not sink:
            np.fill_diagonal(mean, np.diagonal(mean) + mean[:, 0])
            mean[1:, 0] = 0
        mean /= mean.sum(-1, keepdims=True)  # half precision sums to 1 only roughly
        result = 0.5 * (mean @ result + result)
    return result


def rollout_attribution(
    maps: AttentionMaps, subject: Subject, *, sink: bool = False
) -> Attribution:
    """The rows of the rollout that belong to the targets.

    Returns:
        Shares: each row sums to 1 over the tokens before its target.
    """
    queries = [target.position - 1 for target in subject.targets]
    return (ROLLOUT if sink else ROLLOUT_WITHOUT_SINK).attribution(
        rollout(maps, sink)[queries],
        {"layers": maps.layers, "heads": maps.heads, "sink": sink},
    )


def compute(analysis: Analysis) -> None:
    """Attention of every head, its statistics, its mean and its rollout."""
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
    quick=True,
)
