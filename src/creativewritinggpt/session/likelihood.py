"""How likely the model finds a passage, token by token.

What was written in this session has its record already. For anything else, the writer's own text
too, the passage is given to the model token by token, as if it wrote it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ..generation import record
from ..generation.context import Pinned, make_view
from ..generation.results import Token
from ..generation.text import encode, vocabulary
from ..models.forward.backends import backend_for
from ..story.context import assemble
from ..story.tree import Passage, Story

if TYPE_CHECKING:
    from ..models.loaded_model import LoadedModel

# Tokens of a long passage that are looked at, from its start.
MOST = 2000


@torch.inference_mode()
def read_passage(
    writer: LoadedModel, story: Story, passage: Passage, weights: str, alternatives: int
) -> list[Token]:
    """The record of each token of ``passage``.

    Args:
        writer: The model.
        story: The story that it is a part of.
        passage: The passage; a very long one is read from its start.
        weights: The backend, as in the settings.
        alternatives: How many of the likeliest tokens to record.

    Raises:
        InputError: Memory and note leave no room.
    """
    seen = assemble(writer, story, passage.parent)
    words = vocabulary(writer.tokenizer)
    ids = encode(writer.tokenizer, passage.text)[: min(MOST, writer.window // 2)]
    pinned = Pinned(encode(writer.tokenizer, seen.memory), encode(writer.tokenizer, seen.note))
    body = encode(writer.tokenizer, seen.prompt)
    # Read with less room, so that the passage fits behind it.
    window = writer.window - len(ids)
    view = make_view(body, words, window=window, bos_id=writer.bos_id, pinned=pinned)
    context, logits = backend_for(writer, weights).read(view.ids, writer.window)
    found = []
    for token in ids:
        chosen = torch.tensor([token])
        figures = record.measure(logits, chosen, torch.softmax(logits, -1)[:, token])
        one = record.make_token(token, 0, figures, words)
        found.append(
            Token(
                one.id, one.text, one.bytes, one.logprob, one.rank, one.entropy, one.probability,
                before=record.likeliest(logits[0], alternatives, words),
            )
        )  # fmt: skip
        logits = context.step([token])
    return found
