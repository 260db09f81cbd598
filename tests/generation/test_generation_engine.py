"""The decoding loop: what it writes, where it ends, and that a seed means one text."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from creativewritinggpt.errors import InputError, RunError
from creativewritinggpt.generation.decoder import MOST_ROWS, Request
from creativewritinggpt.generation.engine import Interrupted, stream, write, write_all
from creativewritinggpt.generation.sampling.samplers import Chain
from creativewritinggpt.generation.sampling.settings import SEEDS, GenerationSettings
from creativewritinggpt.generation.text import encode
from creativewritinggpt.models.forward.native_backend import NativeContext
from creativewritinggpt.models.forward.onnx_int8 import onnx_available

PROMPT = "Once upon a time a king had three daughters"
PLAIN = {"repetition_penalty": 1.0, "top_p": 1.0, "temperature": 1.0}


def settings(**changes: Any) -> GenerationSettings:
    return GenerationSettings(**{"max_new_tokens": 24, "seed": 7, **PLAIN, **changes})


def no_end(writer: Any) -> None:
    """Make the end of text impossible, so that lengths are known."""
    with torch.no_grad():
        head = writer.model.get_output_embeddings()
        bias = torch.zeros(head.weight.shape[0])
        bias[writer.eos_id] = -1e9
        head.bias = torch.nn.Parameter(bias)


BY_ONNXRUNTIME = [
    pytest.param(kind, marks=pytest.mark.skipif(not onnx_available(), reason="needs onnxruntime"))
    for kind in ("onnx",)
]


@pytest.fixture(params=["gpt2", "llama", "qwen"])
def writer(request: Any, tiny_writer: Any) -> Any:
    if request.param == "gpt2":
        return tiny_writer("gpt2")
    # Heads of 16, which onnxruntime's operators want.
    return tiny_writer(request.param, num_attention_heads=2, num_key_value_heads=1)


@pytest.fixture
def gpt2(tiny_writer: Any) -> Any:
    return tiny_writer("gpt2")


@pytest.mark.parametrize("weights", ["fp32", "transformers"])
def test_greedy_equals_transformers_token_by_token(writer: Any, weights: str) -> None:
    ids = [writer.bos_id, *encode(writer.tokenizer, PROMPT)]
    theirs = writer.model.generate(
        torch.tensor([ids]), do_sample=False, max_new_tokens=60, pad_token_id=writer.eos_id
    )[0, len(ids) :].tolist()
    if writer.eos_id in theirs:
        theirs = theirs[: theirs.index(writer.eos_id)]
    [ours] = write(writer, PROMPT, settings(temperature=0, max_new_tokens=60, weights=weights))
    assert [token.id for token in ours.tokens] == theirs
    assert ours.text == writer.tokenizer.decode(theirs)


def test_greedy_with_penalties_equals_transformers(writer: Any) -> None:
    no_end(writer)
    ids = [writer.bos_id, *encode(writer.tokenizer, PROMPT)]
    theirs = writer.model.generate(
        torch.tensor([ids]), do_sample=False, max_new_tokens=40, no_repeat_ngram_size=3,
        pad_token_id=writer.eos_id, repetition_penalty=1.3,
    )[0, len(ids) :].tolist()  # fmt: skip
    [ours] = write(
        writer,
        PROMPT,
        settings(
            temperature=0, max_new_tokens=40, repetition_penalty=1.3, penalty_range=0,
            no_repeat_ngram=3,
        ),
    )  # fmt: skip
    assert [token.id for token in ours.tokens] == theirs


@pytest.mark.parametrize("weights", ["fp32", "int8", *BY_ONNXRUNTIME, "transformers"])
def test_same_seed_gives_the_same_text_alone_and_in_a_batch(writer: Any, weights: str) -> None:
    together = write(writer, PROMPT, settings(weights=weights), n=4)
    assert [text.seed for text in together] == [7, 8, 9, 10]
    assert len({text.text for text in together}) > 1
    for text in together:
        [alone] = write(writer, PROMPT, settings(seed=text.seed, weights=weights))
        assert alone.text == text.text
        assert [t.id for t in alone.tokens] == [t.id for t in text.tokens]


@pytest.mark.parametrize("weights", ["fp32", "int8", *BY_ONNXRUNTIME, "transformers"])
def test_rows_with_different_prompts_are_what_they_are_alone(writer: Any, weights: str) -> None:
    prompts = ["The lamp", PROMPT, "", "“Who is there?” she asked. Nobody"]
    together = write_all(writer, [Request(p, 3) for p in prompts], settings(weights=weights))
    for prompt, text in zip(prompts, together, strict=True):
        [alone] = write(writer, prompt, settings(seed=3, weights=weights))
        assert alone.text == text.text, prompt


def test_more_requests_than_rows_are_all_written_in_order(gpt2: Any) -> None:
    texts = write(gpt2, PROMPT, settings(max_new_tokens=3), n=MOST_ROWS + 3)
    assert [text.seed for text in texts] == list(range(7, 7 + MOST_ROWS + 3))


def test_alternatives_of_the_largest_seed_have_seeds_that_can_be_given(writer: Any) -> None:
    texts = write(writer, PROMPT, settings(seed=SEEDS - 1, max_new_tokens=4), n=3)
    assert [text.seed for text in texts] == [SEEDS - 1, 0, 1]
    [alone] = write(writer, PROMPT, settings(seed=texts[2].seed, max_new_tokens=4))
    assert alone.text == texts[2].text


def test_stream_hands_out_exactly_the_text(writer: Any) -> None:
    # Random bytes: most characters come in pieces, many never become whole.
    pieces = list(stream(writer, PROMPT, settings(temperature=3.0, max_new_tokens=60)))
    result = pieces[-1].result
    assert result is not None and all(piece.result is None for piece in pieces[:-1])
    assert "".join(piece.text for piece in pieces) == result.text
    assert [t for piece in pieces for t in piece.tokens] == result.tokens
    assert result.text == writer.tokenizer.decode([token.id for token in result.tokens])


def test_closing_the_stream_stops_the_writing(gpt2: Any) -> None:
    pieces = stream(gpt2, PROMPT, settings(temperature=0))
    first = next(pieces)
    pieces.close()
    assert list(pieces) == []
    assert next(stream(gpt2, PROMPT, settings(temperature=0))).text == first.text


def test_empty_prompt_starts_from_the_end_of_text(gpt2: Any) -> None:
    theirs = gpt2.model.generate(
        torch.tensor([[gpt2.bos_id]]), do_sample=False, max_new_tokens=20,
        suppress_tokens=[gpt2.eos_id], pad_token_id=0,
    )[0, 1:].tolist()  # fmt: skip
    [ours] = write(gpt2, "", settings(temperature=0, max_new_tokens=20, min_new_tokens=20))
    assert [token.id for token in ours.tokens] == theirs


def test_end_of_text_stops_and_is_not_part_of_the_text(gpt2: Any) -> None:
    with torch.no_grad():
        head = gpt2.model.get_output_embeddings()
        bias = torch.zeros(head.weight.shape[0])
        bias[gpt2.eos_id] = 1e4
        head.bias = torch.nn.Parameter(bias)
    [text] = write(gpt2, PROMPT, settings())
    assert (text.text, text.tokens, text.finish_reason) == ("", [], "stop")
    [longer] = write(gpt2, PROMPT, settings(min_new_tokens=5))
    assert len(longer.tokens) == 5 and longer.finish_reason == "stop"


def test_maximum_length_is_kept(gpt2: Any) -> None:
    no_end(gpt2)
    [text] = write(gpt2, PROMPT, settings(max_new_tokens=9))
    assert len(text.tokens) == 9 and text.finish_reason == "length"


def test_stop_string_ends_the_text_before_it_and_is_never_streamed(gpt2: Any) -> None:
    no_end(gpt2)
    [whole] = write(gpt2, PROMPT, settings(max_new_tokens=40))
    stop = whole.text[12:15]
    pieces = list(stream(gpt2, PROMPT, settings(max_new_tokens=40, stop=["never", stop])))
    result = pieces[-1].result
    assert result is not None and result.finish_reason == "stop"
    assert result.text == whole.text[: whole.text.index(stop)]
    assert "".join(piece.text for piece in pieces) == result.text


def test_settings_may_be_larger_than_any_text_or_vocabulary(gpt2: Any) -> None:
    huge = {"top_k": 10**400, "penalty_range": 10**400, "dry_range": 10**400, "dry_multiplier": 1}
    usual = settings(dry_multiplier=1, penalty_range=0)
    [expected] = write(gpt2, PROMPT, usual)
    [found] = write(gpt2, PROMPT, usual.changed(huge))
    assert found.text == expected.text


def test_half_a_character_in_the_prompt_counts_as_a_replacement_character(gpt2: Any) -> None:
    [found] = write(gpt2, "A \udcff king", settings())
    [expected] = write(gpt2, "A \ufffd king", settings())
    assert found.text == expected.text and found.prompt == "A \udcff king"


def test_control_sequence_in_the_prompt_is_plain_text(gpt2: Any) -> None:
    ids = encode(gpt2.tokenizer, "a<|endoftext|>b")
    assert gpt2.eos_id not in ids
    assert gpt2.tokenizer.decode(ids) == "a<|endoftext|>b"


def test_logprob_rank_and_entropy_are_the_models(gpt2: Any) -> None:
    [text] = write(gpt2, PROMPT, settings(max_new_tokens=6, temperature=0.7, top_k=5))
    ids = [gpt2.bos_id, *encode(gpt2.tokenizer, PROMPT)]
    for token in text.tokens:
        with torch.inference_mode():
            logits = gpt2.model(torch.tensor([ids])).logits[0, -1]
        log_probabilities = torch.log_softmax(logits, -1)
        assert token.logprob == pytest.approx(float(log_probabilities[token.id]), abs=1e-4)
        assert token.rank == int((logits > logits[token.id]).sum()) + 1 <= 5
        entropy = -(log_probabilities.exp() * log_probabilities).sum()
        assert token.entropy == pytest.approx(float(entropy), abs=1e-3)
        kept = torch.log_softmax(logits.topk(5).values / 0.7, -1).exp()
        assert token.probability == pytest.approx(float(kept[token.rank - 1]), abs=1e-3)
        ids.append(token.id)


def test_nan_weights_are_said(gpt2: Any) -> None:
    with torch.no_grad():
        next(gpt2.model.parameters()).fill_(float("nan"))
    with pytest.raises(RunError, match="not a number"):
        write(gpt2, PROMPT, settings())


def test_interrupted_writing_keeps_what_is_there(gpt2: Any, monkeypatch: Any) -> None:
    no_end(gpt2)
    [whole] = write(gpt2, PROMPT, settings())
    step = NativeContext.step
    calls = []

    def interrupted(self: Any, tokens: Any) -> Any:
        calls.append(tokens)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return step(self, tokens)

    monkeypatch.setattr(NativeContext, "step", interrupted)
    with pytest.raises(Interrupted) as caught:
        write(gpt2, PROMPT, settings(), n=2)
    texts = caught.value.results
    assert [text.finish_reason for text in texts] == ["interrupted"] * 2
    assert len(texts[0].tokens) == 5 and whole.text.startswith(texts[0].text.rstrip("\ufffd"))
    assert caught.value.exit_code == 130


def test_banned_phrase_is_never_written_nor_streamed(gpt2: Any) -> None:
    no_end(gpt2)
    [whole] = write(gpt2, PROMPT, settings(max_new_tokens=40))
    banned = [whole.text[9:12], whole.text[20:24]]
    pieces = list(stream(gpt2, PROMPT, settings(max_new_tokens=40, banned=banned)))
    result = pieces[-1].result
    assert result is not None and result.finish_reason == "length"
    assert "".join(piece.text for piece in pieces) == result.text
    assert all(phrase.lower() not in result.text.lower() for phrase in banned)
    # It goes its own way only where the phrase began, at the token that holds its first letter.
    assert result.text[:5] == whole.text[:5] and len(result.tokens) == 40


@pytest.mark.parametrize("weights", ["fp32", "int8", *BY_ONNXRUNTIME, "transformers"])
def test_banned_phrase_in_a_batch_gives_what_it_gives_alone(gpt2: Any, weights: str) -> None:
    no_end(gpt2)
    base = settings(max_new_tokens=30, weights=weights)
    whole = write(gpt2, PROMPT, base, n=3)
    banned = [whole[1].text[6:8], whole[2].text[11:13]]
    together = write(gpt2, PROMPT, base.changed({"banned": banned}), n=3)
    for text in together:
        [alone] = write(gpt2, PROMPT, base.changed({"banned": banned, "seed": text.seed}))
        assert alone.text == text.text
        assert all(phrase.lower() not in text.text.lower() for phrase in banned)


def test_best_of_returns_the_best_by_its_score(gpt2: Any) -> None:
    no_end(gpt2)
    every = write(gpt2, PROMPT, settings(), n=6)
    best = write(gpt2, PROMPT, settings(best_of=6, rank_by="likelihood"), n=2)
    means = sorted((text.mean_logprob for text in every), reverse=True)
    assert [text.score for text in best] == pytest.approx(means[:2])


def test_contradictory_and_impossible_settings_are_refused() -> None:
    for wrong in (
        {"temperature": -1},
        {"top_p": 0},
        {"top_p": float("nan")},
        {"min_new_tokens": 30, "max_new_tokens": 20},
        {"temperature": 0, "xtc_probability": 0.5},
        {"samplers": ["top_k", "top_k"]},
        {"samplers": ["magic"]},
        {"stop": [""]},
        {"logit_bias": {" king": 1000.0}},
        {"max_new_tokens": 10**400},
    ):
        with pytest.raises(InputError):
            GenerationSettings(**wrong)  # type: ignore[arg-type]


def test_changed_reads_text_and_names_what_is_unknown() -> None:
    base = GenerationSettings()
    assert base.changed({"top-p": "0.5", "max_new_tokens": "7", "seed": None}).top_p == 0.5
    assert base.changed({"stop": "\n\n"}).stop == ["\n\n"]
    assert base.changed({"stop": ["a, b", " "]}).stop == ["a, b", " "]
    assert base.changed({"logit_bias": {" king": "2"}}).logit_bias == {" king": 2.0}
    assert base.changed({"logit_bias": " king=2,a=b=-1"}).logit_bias == {" king": 2.0, "a=b": -1.0}
    with pytest.raises(InputError, match="logit_bias"):
        base.changed({"logit_bias": "king"})
    with pytest.raises(InputError, match="temprature") as caught:
        base.changed({"temprature": 1})
    assert caught.value.advice == "did you mean 'temperature'?"
    with pytest.raises(InputError, match="whole number"):
        base.changed({"top_k": "many"})


def test_sampling_leaves_the_number_of_threads(gpt2: Any, monkeypatch: Any) -> None:
    seen = []
    apply = Chain.apply
    monkeypatch.setattr(
        Chain,
        "apply",
        lambda self, *rest: (seen.append(torch.get_num_threads()), apply(self, *rest))[1],
    )
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        write(gpt2, PROMPT, settings(max_new_tokens=3))
        assert torch.get_num_threads() == 2 and seen and set(seen) == {1}
    finally:
        torch.set_num_threads(before)
