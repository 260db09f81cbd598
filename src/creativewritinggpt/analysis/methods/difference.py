"""The effect of the fine-tuning: the same text read by the base model and by the tuned one.

The adapter is switched off and on, so that one set of weights does for both. For each token of the
text there is the change of its log-probability, for each position the KL divergence of the two
predictions, and the tokens that gained and lost most. Distributions are compared in fp32, some
positions at a time.

The size of an update ``scale · B A`` of rank r is measured without multiplying it out::

    ‖B A‖² = trace(Aᵀ Bᵀ B A) = sum of (Bᵀ B) ∘ (A Aᵀ)        two r × r matrices

Other kinds of adapters, and several at once, are merged into a copy of the projection, one at a
time.
"""

from __future__ import annotations

import copy
import dataclasses
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ...console import CountCallback
from ...errors import InputError
from ...generation.text import vocabulary
from ...models.scoring import body_and_head
from .. import registry
from ..registry import Analysis, Method
from ..subject import Subject
from .attention import AttentionMaps, capture

if TYPE_CHECKING:
    from ...models.loaded_model import LoadedModel
    from ...models.overlays import Overlays

_LAYER = re.compile(r"\.(\d+)\.")
# Positions whose distributions exist at once, two of each.
POSITIONS_AT_ONCE = 256


@dataclasses.dataclass(frozen=True)
class Update:
    """The change of one projection.

    Attributes:
        name: Of the projection in the model.
        layer: The number of the layer, from 0; None for a projection outside the layers.
        projection: What it is called within its layer: ``attn.c_attn``, ``self_attn.q_proj``.
        norm: Frobenius norm of the update.
        relative: The same over the norm of the base weight.
    """

    name: str
    layer: int | None
    projection: str
    norm: float
    relative: float

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return dataclasses.asdict(self)


def updates(model: LoadedModel) -> list[Update]:
    """The update of every projection that has an adapter, in the model's order; none without one.

    Source: Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models".
    """
    if not model.has_adapter:
        return []
    if model.overlays is not None:
        return _of_overlays(model.overlays)
    from peft.tuners.tuners_utils import BaseTunerLayer

    result = []
    for name, module in model.bare.named_modules():
        if not isinstance(module, BaseTunerLayer) or not list(module.active_adapters):
            continue
        weight = getattr(module.get_base_layer(), "weight", None)
        if weight is None or weight.ndim != 2:
            continue
        with torch.no_grad():
            own = float(torch.linalg.norm(weight.detach().float()))
            norm = _low_rank(module)
            norm = _merged(module) if norm is None else norm
        result.append(_update(name, norm, own))
    return result


def _update(name: str, norm: float, own: float) -> Update:
    number = _LAYER.search(f".{name}")
    return Update(
        name=name,
        layer=int(number.group(1)) if number else None,
        projection=f".{name}"[number.end() :] if number else name,
        norm=norm,
        relative=norm / own if own else float("inf") if norm else 0.0,
    )


def _of_overlays(overlays: Overlays) -> list[Update]:
    """The change of every weight that an adapter brought, biases included, of equal shapes."""
    base = dict(overlays.base.named_parameters(remove_duplicate=False))
    found: list[Update] = []
    for key, parameter in overlays.current.named_parameters(remove_duplicate=False):
        before = base.get(key)
        if before is None or before.shape != parameter.shape:
            continue
        if before.data_ptr() == parameter.data_ptr():
            continue
        own = _exact(before)
        norm = float(torch.linalg.norm(_exact(parameter) - own))
        found.append(_update(key.removesuffix(".weight"), norm, float(torch.linalg.norm(own))))
    return found


def _low_rank(module: Any) -> float | None:
    """The norm of a plain LoRA update; None for any other kind."""
    active = [name for name in module.active_adapters if name in getattr(module, "lora_A", {})]
    if len(active) != 1 or len(module.active_adapters) != 1:
        return None
    name = active[0]
    if getattr(module, "use_dora", {}).get(name) or getattr(module, "lora_variant", {}).get(name):
        return None
    first, second = _exact(module.lora_A[name].weight), _exact(module.lora_B[name].weight)
    square = ((second.T @ second) * (first @ first.T)).sum()
    return float(square.clamp(min=0).sqrt()) * abs(float(module.scaling[name]))


def _exact(weight: Tensor) -> Tensor:
    return weight.detach().cpu().double()


def _merged(module: Any) -> float:
    """The norm of what merging would add, tried on a copy."""
    twin = copy.deepcopy(module)
    before = _exact(twin.get_base_layer().weight).clone()
    twin.merge()
    return float(torch.linalg.norm(_exact(twin.get_base_layer().weight) - before))


@dataclasses.dataclass(frozen=True)
class Moved:
    """A token whose probability the tuning moved.

    Attributes:
        id: The token.
        base: Its probability by the base model.
        tuned: By the tuned one.
    """

    id: int
    base: float
    tuned: float


@dataclasses.dataclass(frozen=True)
class Difference:
    """The base model and the tuned one on the same text.

    Attributes:
        base_log_probability: ``[tokens]`` of each token given those before it, in nats; NaN for the
            start token, which nothing predicts.
        tuned_log_probability: The same by the tuned model.
        kl: ``[tokens]`` nats, KL(tuned‖base) of the next-token distribution after each token.
        gained: For each target the tokens that gained most probability, most first.
        lost: For each target those that lost most.
        gained_overall: The same as means over all places of the text.
        lost_overall: Those that lost most.
        attention: ``[layers, heads]`` how far the attention moved: the mean over queries of half
            the sum of absolute differences, 0 (not at all) to 1; None where it was not asked for.
        updates: The adapter's update of each projection.
    """

    base_log_probability: np.ndarray
    tuned_log_probability: np.ndarray
    kl: np.ndarray
    gained: list[list[Moved]]
    lost: list[list[Moved]]
    gained_overall: list[Moved]
    lost_overall: list[Moved]
    attention: np.ndarray | None
    updates: list[Update]

    @property
    def change(self) -> np.ndarray:
        """``[tokens]`` nats: positive where the tuning made a token likelier."""
        result: np.ndarray = self.tuned_log_probability - self.base_log_probability
        return result

    def to_dict(self, token_text: Callable[[int], str] | None = None) -> dict[str, Any]:
        """Ready for JSON: None for the start token.

        Args:
            token_text: Gives the text of a token, to stand beside its id.
        """

        def told(moved: list[Moved]) -> list[dict[str, Any]]:
            return [
                dataclasses.asdict(m) | ({"text": token_text(m.id)} if token_text else {})
                for m in moved
            ]

        return {
            "base_log_probability": _with_none(self.base_log_probability),
            "tuned_log_probability": _with_none(self.tuned_log_probability),
            "change": _with_none(self.change),
            "kl": self.kl.tolist(),
            "mean_change": float(np.nanmean(self.change)),
            "mean_kl": float(self.kl.mean()),
            "gained": [told(moved) for moved in self.gained],
            "lost": [told(moved) for moved in self.lost],
            "gained_overall": told(self.gained_overall),
            "lost_overall": told(self.lost_overall),
            "attention": None if self.attention is None else self.attention.tolist(),
            "updates": [update.to_dict() for update in self.updates],
        }


def compare(
    model: LoadedModel,
    subject: Subject,
    *,
    top: int = 8,
    attention: bool = True,
    maps: AttentionMaps | None = None,
    base_maps: AttentionMaps | None = None,
    progress: CountCallback | None = None,
) -> Difference | None:
    """Read the text with the adapter on and off.

    Args:
        model: The model with its adapter on.
        subject: The text; its targets get their own lists of what gained and lost.
        top: Tokens in a list.
        attention: Whether to compare the attention too.
        maps: The tuned model's attention, where it is known already.
        base_maps: The base model's, likewise.
        progress: Called with the positions done and all positions.

    Returns:
        The difference, or None for a model without an adapter.

    Raises:
        InputError: The attention was asked for and the model shows none.
    """
    if not model.has_adapter:
        return None
    body, head = body_and_head(model.model)
    ids = torch.tensor([subject.ids], device=model.device.torch_device)
    with torch.no_grad():
        tuned = body(input_ids=ids, use_cache=False)[0]  # [tokens, width]
        with model.base():
            body, base_head = body_and_head(model.model)
            base = body(input_ids=ids, use_cache=False)[0]
    known, known_to_base = len(head.weight), len(base_head.weight)
    if known != known_to_base:
        raise InputError(
            f"the adapter knows {known} tokens and its base {known_to_base}, and predictions over "
            "different tokens can't be compared",
            "leave difference out of --methods",
        )
    comparison = _Comparison(subject, top)
    for start in range(0, len(tuned), POSITIONS_AT_ONCE):
        part = slice(start, start + POSITIONS_AT_ONCE)
        with torch.no_grad():
            logs = [
                one.logits(states[part]).float().log_softmax(-1)
                for states, one in ((tuned, head), (base, base_head))
            ]
        comparison.add(start, *logs)
        if progress is not None:
            progress(min(start + POSITIONS_AT_ONCE, len(tuned)), len(tuned))
    moved = None
    if attention:
        maps = maps or capture(model, subject)
        with model.base():
            base_maps = base_maps or capture(model, subject)
        if maps.layers == base_maps.layers:  # an adapter may repeat layers
            moved = attention_moved(maps, base_maps)
    gained, lost = comparison.overall()
    return Difference(
        comparison.base, comparison.tuned, comparison.kl, comparison.gained, comparison.lost,
        gained, lost, moved, updates(model),
    )  # fmt: skip


def attention_moved(tuned: AttentionMaps, base: AttentionMaps) -> np.ndarray:
    """``[layers, heads]``: total variation distance of the attention rows, mean over queries.

    The first query is left out, since it can look at nothing but itself.
    """
    result = np.zeros((tuned.layers, tuned.heads))
    for layer, (one, other) in enumerate(zip(tuned.weights, base.weights, strict=True)):
        apart = np.abs(one.astype(np.float32) - other.astype(np.float32))
        if tuned.tokens > 1:
            result[layer] = 0.5 * apart[:, 1:].sum(-1, dtype=np.float64).mean(-1)
    return result


class _Comparison:
    """Collects what two readings of a text differ in, some positions at a time."""

    def __init__(self, subject: Subject, top: int) -> None:
        self.subject, self.top = subject, top
        self.base, self.tuned = np.full((2, subject.length), np.nan)
        self.kl = np.zeros(subject.length)
        self.gained: list[list[Moved]] = []
        self.lost: list[list[Moved]] = []
        self._sums: tuple[Tensor, Tensor] | None = None  # of probabilities, [vocabulary] each

    def add(self, start: int, tuned: Tensor, base: Tensor) -> None:
        """Take the log-probabilities ``[positions, vocabulary]`` from position ``start`` on."""
        end = start + len(tuned)
        p, q = tuned.exp(), base.exp()
        self.kl[start:end] = (p * (tuned - base)).nan_to_num(0.0).sum(-1).cpu().numpy()
        following = self.subject.ids[start + 1 : end + 1]
        if following:
            wanted = torch.tensor(following, device=tuned.device)[:, None]
            into = slice(start + 1, start + 1 + len(following))
            for logs, values in ((tuned, self.tuned), (base, self.base)):
                values[into] = logs[: len(following)].gather(1, wanted)[:, 0].cpu().numpy()
        for target in self.subject.targets:
            if start <= target.position - 1 < end:
                gained, lost = _moved(
                    p[target.position - 1 - start], q[target.position - 1 - start], self.top
                )
                self.gained.append(gained)
                self.lost.append(lost)
        sums = p.sum(0), q.sum(0)
        known = self._sums
        self._sums = sums if known is None else (known[0] + sums[0], known[1] + sums[1])

    def overall(self) -> tuple[list[Moved], list[Moved]]:
        """What gained and lost most, as means over the positions."""
        assert self._sums is not None
        tuned, base = (sums / self.subject.length for sums in self._sums)
        return _moved(tuned, base, self.top)


def _moved(tuned: Tensor, base: Tensor, top: int) -> tuple[list[Moved], list[Moved]]:
    """The tokens that gained and that lost most, of probabilities ``[vocabulary]``."""
    change = tuned - base
    result = []
    for sign in (1, -1):
        best = (sign * change).topk(min(top, len(change)))
        result.append(
            [
                Moved(token, float(base[token]), float(tuned[token]))
                for token, size in zip(best.indices.tolist(), best.values.tolist(), strict=True)
                if size > 0
            ]
        )
    return result[0], result[1]


def _with_none(values: np.ndarray) -> list[float | None]:
    return [None if np.isnan(value) else float(value) for value in values]


def compute(analysis: Analysis) -> None:
    """Base and tuned model on the same text."""
    by_name = set(analysis.settings.methods) != set(registry.names())
    try:
        found = compare(
            analysis.fp32, analysis.subject, attention=analysis.maps is not None,
            maps=analysis.maps, base_maps=analysis.base_maps,
            progress=analysis.progress("comparing with the base"),
        )  # fmt: skip
    except InputError as error:
        if by_name:
            raise
        analysis.warn(f"base and tuned are not compared: {error.message}")
        return
    if found is not None:
        shown = vocabulary(analysis.loaded.tokenizer).shown
        analysis.record["difference"] = found.to_dict(shown)
    elif by_name:
        analysis.warn("what fine-tuning changed can't be told: the model has no adapter")


METHOD = Method(
    name="difference",
    title="base and tuned model",
    description="What the fine-tuning changed.",
    compute=compute,
)
