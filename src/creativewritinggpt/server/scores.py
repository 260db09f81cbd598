"""The model's figures for every token of a given text, a block of tokens at a time."""

from __future__ import annotations

import dataclasses
from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING

from ..generation.forced import ForcedReader
from ..generation.results import Token

if TYPE_CHECKING:
    from ..models.loaded_model import LoadedModel


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
    begin = [model.bos_id]
    tokens = yield from ForcedReader(model).tokens(begin, ids, alternatives=alternatives)
    if not base:
        return Scores(tokens)
    reader = ForcedReader(model, base=True)
    return Scores(tokens, (yield from reader.tokens(begin, ids, alternatives=alternatives)))
