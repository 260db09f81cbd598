"""The model's figures for every token of a given text, a block of tokens at a time."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING, Any

import torch

from ..generation.results import Token, step_tokens
from ..generation.text import vocabulary

if TYPE_CHECKING:
    from ..models.loaded_model import LoadedModel

BLOCK = 256
"""Tokens that are read between two steps of the texts that are written."""


@dataclasses.dataclass(frozen=True)
class Scores:
    """Figures of a text's tokens.

    Attributes:
        tokens: Of each token, given the start of text and all before it.
        base: The same of the base model, where it was asked for.
    """

    tokens: list[Token]
    base: list[Token] | None = None


def score(
    model: LoadedModel, ids: Sequence[int], *, alternatives: int = 0, base: bool = False
) -> Generator[None, None, Scores]:
    """Log-probability, rank, entropy and alternatives of every token of a text.

    The forward pass is that of evaluation: the model as it is, without an 8-bit format.

    Args:
        model: The model.
        ids: Token ids of the text, without the start of text.
        alternatives: Number of alternatives to name per token.
        base: Whether the base model is asked, too.
    """
    tokens = yield from _tokens(model, ids, alternatives)
    if not base:
        return Scores(tokens)
    with model.base():
        return Scores(tokens, (yield from _tokens(model, ids, alternatives)))


def _tokens(
    model: LoadedModel, ids: Sequence[int], alternatives: int
) -> Generator[None, None, list[Token]]:
    words = vocabulary(model.tokenizer)
    network: Any = model.model
    device = model.device.torch_device
    read = [model.bos_id, *ids[:-1]]
    found: list[Token] = []
    cache = None
    for start in range(0, len(ids), BLOCK):
        part = read[start : start + BLOCK]
        with contextlib.ExitStack() as stack:
            stack.enter_context(torch.inference_mode())
            stack.enter_context(model.device.autocast())
            output = network(
                input_ids=torch.tensor([part], device=device),
                past_key_values=cache,
                use_cache=True,
            )
        cache = output.past_key_values
        logits = output.logits[0].float().cpu()
        wanted = torch.tensor(ids[start : start + BLOCK])
        probabilities = torch.softmax(logits, -1).gather(-1, wanted.unsqueeze(-1)).squeeze(-1)
        found += step_tokens(logits, wanted, probabilities, words, alternatives=alternatives)
        yield
    return found
