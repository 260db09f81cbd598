"""What a model says at each target: its probability, its rank and what else could have come."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional as F

from ..models.scoring import CHUNK, body_and_head
from .runtime.forward import check_finite
from .subject import Subject, Target

if TYPE_CHECKING:
    from ..models.loaded_model import LoadedModel


@dataclasses.dataclass(frozen=True)
class Prediction:
    """The model's next-token distribution at one target.

    Attributes:
        target: The target.
        log_probability: Of its token, in nats.
        rank: How many tokens are likelier, plus one.
        entropy: Of the distribution, in nats.
        foil_log_probability: Of the foil, where there is one.
        likeliest: Ids and probabilities of the likeliest tokens.
    """

    target: Target
    log_probability: float
    rank: int
    entropy: float
    foil_log_probability: float | None
    likeliest: list[tuple[int, float]]


def predictions(writer: LoadedModel, subject: Subject, top: int = 8) -> list[Prediction]:
    """What the model says at each target, in the adapter's state at the time.

    Raises:
        RunError: The model computes no numbers.
    """
    states, weight, bias = _states(writer, subject)
    places = torch.tensor([t.position - 1 for t in subject.targets], device=states.device)
    found: list[Prediction] = []
    for start in range(0, len(places), CHUNK):
        with torch.no_grad():
            logits = F.linear(states[places[start : start + CHUNK]], weight, bias).float()
        check_finite(logits)
        rows = logits.log_softmax(-1).cpu()
        found += [
            _prediction(row, target, top)
            for row, target in zip(rows, subject.targets[start : start + CHUNK], strict=True)
        ]
    return found


def next_token(writer: LoadedModel, subject: Subject) -> int:
    """The likeliest token after the whole text."""
    states, weight, bias = _states(writer, subject)
    with torch.no_grad():
        logits = F.linear(states[-1], weight, bias).float()
    check_finite(logits)
    return int(logits.argmax())


def _states(writer: LoadedModel, subject: Subject) -> tuple[Any, Any, Any]:
    body, weight, bias = body_and_head(writer.model)
    ids = torch.tensor([subject.ids], device=writer.device.torch_device)
    with torch.no_grad():
        return body(input_ids=ids, use_cache=False)[0], weight, bias


def _prediction(row: torch.Tensor, target: Target, top: int) -> Prediction:
    likeliest = row.topk(min(top, len(row)))
    return Prediction(
        target=target,
        log_probability=float(row[target.id]),
        rank=int((row > row[target.id]).sum()) + 1,
        entropy=float(-(row.exp() * row).nan_to_num(0.0).sum()),
        foil_log_probability=None if target.foil is None else float(row[target.foil]),
        likeliest=[
            (int(token), float(value.exp()))
            for token, value in zip(likeliest.indices, likeliest.values, strict=True)
        ],
    )
