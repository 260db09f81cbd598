"""Texts longer than the window: the view moves in whole paragraphs and keeps what is pinned."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from creativewritinggpt.errors import InputError
from creativewritinggpt.generation.engine import stream, write
from creativewritinggpt.generation.row import Pinned, characters, make_view
from creativewritinggpt.generation.sampling.settings import GenerationSettings
from creativewritinggpt.generation.text import encode, vocabulary

PARAGRAPHS = "\n\n".join(
    f"{number}. The lamp went out, and the captain laughed at the sea." for number in range(30)
)


def greedy(**changes: Any) -> GenerationSettings:
    return GenerationSettings(
        **{"temperature": 0.0, "repetition_penalty": 1.0, "max_new_tokens": 20, **changes}
    )


def test_a_text_that_fits_is_seen_whole(tiny_tokenizer: Any) -> None:
    body = encode(tiny_tokenizer, "The lamp went out.")
    view = make_view(body, vocabulary(tiny_tokenizer), context_length=len(body) + 2, bos_id=0)
    assert view.ids == [0, *body] and view.start == 0


def test_the_view_begins_with_a_paragraph_and_gives_up_a_quarter(tiny_tokenizer: Any) -> None:
    words = vocabulary(tiny_tokenizer)
    body = encode(tiny_tokenizer, PARAGRAPHS)
    view = make_view(body, words, context_length=200, bos_id=0)
    text = tiny_tokenizer.decode(view.ids[1:])
    assert PARAGRAPHS.endswith(text) and text[0].isdigit()
    assert 200 * 0.4 < len(view.ids) <= 150
    assert characters(body[: view.start], words) == len(PARAGRAPHS) - len(text)


@pytest.mark.parametrize("joint", ["\n", ". ", " ", ""])
def test_without_paragraphs_the_next_best_place_is_taken(tiny_tokenizer: Any, joint: str) -> None:
    text = joint.join(["don't wait for him, they said"] * 40)
    body = encode(tiny_tokenizer, text)
    view = make_view(body, vocabulary(tiny_tokenizer), context_length=150, bos_id=0)
    assert 0 < len(view.ids) <= 113
    assert text.endswith(tiny_tokenizer.decode(view.ids[1:]))


def test_the_view_does_not_move_before_it_must(tiny_tokenizer: Any) -> None:
    words = vocabulary(tiny_tokenizer)
    body = encode(tiny_tokenizer, PARAGRAPHS)
    start = make_view(body, words, context_length=200, bos_id=0).start
    more = body + body[:20]
    assert make_view(more, words, context_length=200, bos_id=0, start=start).start == start


def test_memory_and_note_stay_in_view(tiny_tokenizer: Any) -> None:
    words = vocabulary(tiny_tokenizer)
    memory = encode(tiny_tokenizer, "He is a king.\n")
    note = encode(tiny_tokenizer, "[Write darkly.]\n")
    body = encode(tiny_tokenizer, PARAGRAPHS)
    view = make_view(body, words, context_length=220, bos_id=0, pinned=Pinned(memory, note))
    text = tiny_tokenizer.decode(view.ids)
    assert text.startswith("<|endoftext|>He is a king.\n")
    assert "\n[Write darkly.]\n" in text
    after = text.split("[Write darkly.]\n")[1]
    assert after.count("\n\n") == 2 and len(view.ids) <= 165


def test_too_much_memory_is_refused(tiny_tokenizer: Any) -> None:
    with pytest.raises(InputError, match="memory and note"):
        make_view(
            [1], vocabulary(tiny_tokenizer), context_length=20, bos_id=0, pinned=Pinned([1] * 30)
        )


def test_a_prompt_longer_than_the_window_is_cut_and_that_is_said(tiny_writer: Any) -> None:
    writer = tiny_writer("gpt2")
    said: list[str] = []
    [text] = write(writer, PARAGRAPHS, greedy(), warn=said.append)
    assert len(said) == 1 and "longer than the model's window" in said[0]
    assert text.view_start > 0 and PARAGRAPHS[text.view_start].isdigit()
    [tail] = write(writer, PARAGRAPHS[text.view_start :], greedy(), warn=said.append)
    assert tail.text == text.text and len(said) == 1


def test_writing_past_the_window_goes_on_as_from_the_new_view(tiny_writer: Any) -> None:
    writer = tiny_writer("llama")
    with torch.no_grad():
        writer.model.lm_head.bias = torch.nn.Parameter(torch.zeros(384))
        writer.model.lm_head.bias[0] = -1e9
    prompt = PARAGRAPHS[:200]
    pieces = list(stream(writer, prompt, greedy(max_new_tokens=300)))
    result = pieces[-1].result
    assert result is not None and len(result.tokens) == 300
    starts = [piece.view_start for piece in pieces]
    assert starts == sorted(starts) and 1 < len(set(starts)) < 20
    # What follows a move is what the model writes after the visible tail alone.
    moved = next(i for i, start in enumerate(starts) if start > 0)
    ids = encode(writer.tokenizer, prompt) + [token.id for token in result.tokens]
    words = vocabulary(writer.tokenizer)
    cut = next(i for i in range(len(ids)) if characters(ids[:i], words) >= starts[moved])
    seen = [writer.bos_id, *ids[cut : len(encode(writer.tokenizer, prompt)) + moved + 1]]
    with torch.inference_mode():
        logits = writer.model(torch.tensor([seen])).logits[0, -1]
    assert int(logits.argmax()) == result.tokens[moved + 1].id
