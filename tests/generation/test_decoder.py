"""Continuous batching: rows join and leave between steps and write what they write alone."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings, strategies

from creativewritinggpt.console import warn
from creativewritinggpt.generation.decoder import Decoder, Request, Writing
from creativewritinggpt.generation.engine import write
from creativewritinggpt.generation.results import Generated
from creativewritinggpt.generation.sampling.settings import GenerationSettings
from creativewritinggpt.models.forward.backends import backend_for
from creativewritinggpt.models.forward.native_backend import BLOCK


@pytest.fixture
def gpt2(tiny_writer: Any) -> Any:
    return tiny_writer("gpt2")


PROMPTS = ("Once upon a time", "The ferry was late,", "A king had", "")


def decoder_for(model: Any, weights: str, **options: Any) -> Decoder:
    return Decoder(model, backend_for(model, weights), warn=warn, **options)


def wanted(number: int, weights: str) -> GenerationSettings:
    return GenerationSettings(
        seed=number, max_new_tokens=4 + 3 * (number % 4), weights=weights,
        temperature=0.5 + number / 4, repetition_penalty=1.0 + 0.1 * (number % 2),
    )  # fmt: skip


@pytest.mark.parametrize("weights", ["int8", "transformers"])
def test_rows_that_join_at_any_step_write_what_they_write_alone(gpt2: Any, weights: str) -> None:
    alone = [
        write(gpt2, PROMPTS[number % 4], wanted(number, weights))[0].text for number in range(8)
    ]

    @settings(max_examples=10, deadline=None)
    @given(
        strategies.lists(strategies.integers(0, 5), min_size=8, max_size=8),
        strategies.integers(1, 8),
    )
    def joined(steps: list[int], most: int) -> None:
        decoder = decoder_for(gpt2, weights, most_rows=most)
        results: dict[int, Generated] = {}
        step = 0
        left = sorted(range(8), key=lambda number: steps[number])
        while left or decoder.writings:
            while left and steps[left[0]] <= step:
                number = left.pop(0)
                chosen = wanted(number, weights)
                request = Request(PROMPTS[number % 4], number)
                decoder.add(number, request, chosen, decoder.chain(chosen))
            for _, piece in decoder.advance():
                if piece.result is not None:
                    results[piece.index] = piece.result
            step += 1
        assert [results[number].text for number in range(8)] == alone

    joined()


def test_a_long_prompt_is_read_in_blocks_between_steps(tiny_writer: Any) -> None:
    model = tiny_writer("gpt2", n_positions=4 * BLOCK)
    model.context_length = 4 * BLOCK
    decoder = decoder_for(model, "fp32")
    chosen = GenerationSettings(max_new_tokens=20, seed=1, min_new_tokens=20)
    chain = decoder.chain(chosen)
    decoder.add(0, Request("Once", 1), chosen, chain)
    decoder.advance()
    long = [5 + number % 40 for number in range(3 * BLOCK)]
    decoder.add(1, Request(long, 2), chosen, chain)
    steps = 0
    while not decoder.writings[-1].row.tokens:
        assert any(writing.row.index == 0 for writing, _ in decoder.advance())
        steps += 1
    assert steps == 3 * BLOCK // BLOCK + 2  # the start of text makes a fourth block


def test_a_cancelled_row_writes_nothing_more_and_the_others_go_on(gpt2: Any) -> None:
    decoder = decoder_for(gpt2, "fp32")
    chosen = GenerationSettings(max_new_tokens=12, min_new_tokens=12, seed=3)
    chain = decoder.chain(chosen)
    one, two = (decoder.add(i, Request(PROMPTS[i], 3 + i), chosen, chain) for i in range(2))
    for _ in range(4):
        decoder.advance()
    one.cancel()
    results: dict[int, Generated] = {}
    tokens = len(one.row.tokens)
    while decoder.writings:
        for writing, piece in decoder.advance():
            assert isinstance(writing, Writing)
            if piece.result is not None:
                results[piece.index] = piece.result
    assert results[0].finish_reason == "interrupted" and len(results[0].tokens) == tokens
    assert results[1].text == write(gpt2, PROMPTS[1], chosen.changed({"seed": 4}))[0].text
    assert two.row.finish_reason == "length"
