"""Token healing: a prompt that ends in a space or within a word goes on as if it had not ended."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from creativewritinggpt.generation.engine import Request, stream, write, write_all
from creativewritinggpt.generation.sampling.settings import GenerationSettings
from creativewritinggpt.generation.text import encode, vocabulary
from creativewritinggpt.models.loading import wrap

PLAIN = {"repetition_penalty": 1.0, "top_p": 1.0, "weights": "fp32"}


def asked(**changes: Any) -> GenerationSettings:
    return GenerationSettings(**{**PLAIN, "max_new_tokens": 6, "seed": 1, **changes})


def favour(writer: Any, after: str, wanted: str) -> None:
    """Make ``wanted`` by far the likeliest token after a text that ends in ``after``."""
    tokenizer = writer.tokenizer
    [last] = encode(tokenizer, after)[-1:]
    [token] = encode(tokenizer, wanted)
    model = writer.model
    with torch.no_grad():
        for block in model.transformer.h:  # a model of the last token alone
            block.attn.c_proj.weight.zero_()
            block.mlp.c_proj.weight.zero_()
        model.transformer.wpe.weight.zero_()
        model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.clone() * 0.01)
        state = model.transformer.ln_f(model.transformer.wte.weight[last])
        model.lm_head.weight[token] = state


@pytest.fixture
def writer(tiny_model: Any, tiny_tokenizer: Any) -> Any:
    return wrap(tiny_model("gpt2"), tiny_tokenizer, "cpu", "fp32")


@pytest.fixture(scope="module")
def pieces() -> Any:
    """A tokenizer of SentencePiece's kind, with bytes for what it does not know."""
    from tokenizers import Tokenizer, decoders, models, normalizers
    from transformers import PreTrainedTokenizerFast

    words = ["▁", "t", "i", "m", "e", "▁t", "▁time", "▁ti", "o", "n", "c", "▁o", "▁once", "s", "ti"]
    names = ["<s>", "</s>", "<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), *words]
    tokenizer = Tokenizer(
        models.BPE(
            vocab={name: number for number, name in enumerate(names)},
            merges=[("▁", "t"), ("▁", "o"), ("t", "i")],
            unk_token="<unk>",
            byte_fallback=True,
            fuse_unk=True,
        )
    )
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(),
         decoders.Strip(" ", 1, 0)]
    )  # fmt: skip
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


def test_after_a_space_the_word_comes_as_without_it(writer: Any) -> None:
    favour(writer, " captain", " turned")
    without = write(writer, "the captain", asked(temperature=0, max_new_tokens=3))[0]
    spaced = write(writer, "the captain ", asked(temperature=0, max_new_tokens=3))[0]
    assert without.text.startswith(" turned")
    assert spaced.text == without.text[1:]
    assert spaced.healed == " "
    assert spaced.tokens[0].text == "turned"
    assert spaced.tokens[0].id == without.tokens[0].id
    assert spaced.tokens[0].logprob == pytest.approx(without.tokens[0].logprob, abs=1e-5)
    off = write(writer, "the captain ", asked(temperature=0, max_new_tokens=3, heal=False))[0]
    assert off.healed == "" and not off.text.startswith("turned")


def test_a_word_that_was_cut_goes_on(writer: Any) -> None:
    favour(writer, " the", " captain")
    cut = write(writer, "Once the capt", asked(temperature=0, max_new_tokens=1))[0]
    assert (cut.healed, cut.text) == (" capt", "ain")
    assert [token.bytes for token in cut.tokens] == [b"ain"]


def test_a_prompt_that_the_model_would_have_written_stays_to_the_last_bit(writer: Any) -> None:
    favour(writer, " upon", " the")
    prompt = "Once upon the"
    assert vocabulary(writer.tokenizer).open_ends(prompt, encode(writer.tokenizer, prompt))
    for seed in range(4):
        healed = write(writer, prompt, asked(seed=seed))[0]
        plain = write(writer, prompt, asked(seed=seed, heal=False))[0]
        assert healed.healed == ""
        assert [t.to_dict() for t in healed.tokens] == [t.to_dict() for t in plain.tokens]


@pytest.mark.parametrize("prompt", ("It was over.", "“Who is there?”\n", "A line\n\n", "so —", ""))
def test_line_ends_and_punctuation_are_no_beginnings(writer: Any, prompt: str) -> None:
    words = vocabulary(writer.tokenizer)
    assert words.open_ends(prompt, encode(writer.tokenizer, prompt)) == {}


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    prompt=st.text(alphabet=" etaoinshrdlu'é—“王👍🏽\n.", max_size=12),
    seed=st.integers(0, 99),
    changes=st.sampled_from(
        [{}, {"temperature": 0}, {"stop": ["a"]}, {"banned": ["e", "th"]}, {"min_new_tokens": 3},
         {"weights": "transformers"}]
    ),
)  # fmt: skip
def test_what_is_written_begins_with_the_prompt(
    writer: Any, prompt: str, seed: int, changes: Any
) -> None:
    tokenizer = writer.tokenizer
    wanted = asked(seed=seed, **changes)
    found = write(writer, prompt, wanted)[0]
    assert (
        b"".join(token.bytes for token in found.tokens)
        .decode(errors="replace")
        .startswith(found.text)
    )
    ids = encode(tokenizer, prompt)
    tails = vocabulary(tokenizer).open_ends(prompt, ids)
    assert prompt.endswith(found.healed)
    if found.healed:
        assert tails
    streamed = list(stream(writer, prompt, wanted))
    assert "".join(piece.text for piece in streamed) == found.text
    for text in changes.get("banned", ()):
        assert text not in found.text.lower()
    assert len(found.tokens) <= wanted.max_new_tokens


def test_alternatives_and_batches_are_healed_as_one_is(writer: Any) -> None:
    favour(writer, " the", " captain")
    prompts = ["Once the capt", "Once the ", "a king had", "Once the capt"]
    for weights in ("fp32", "transformers"):
        wanted = asked(weights=weights)
        alone = [write(writer, prompt, asked(weights=weights, seed=7))[0] for prompt in prompts]
        together = write_all(writer, [Request(prompt, 7) for prompt in prompts], wanted)
        assert [one.text for one in together] == [one.text for one in alone]
        assert [one.healed for one in together] == [one.healed for one in alone]
        several = write(writer, prompts[0], wanted, n=3)
        assert {one.healed for one in several} == {" capt"}
        assert several[0].text == write(writer, prompts[0], wanted)[0].text


@pytest.mark.parametrize("weights", ("fp32", "transformers"))
def test_a_banned_phrase_at_the_start_keeps_the_prompt(writer: Any, weights: str) -> None:
    favour(writer, " the", " captain")
    asked_for = asked(temperature=0, banned=["ain"], weights=weights)
    found = write(writer, "Once the capt", asked_for)[0]
    assert "ain" not in found.text
    # No other token begins with the end of the prompt: it goes on as it was given.
    assert found.healed == ""
    plain = write(writer, "Once the capt", asked_for.changed({"heal": False}))[0]
    assert found.text == plain.text


def test_pieces_of_sentencepiece_and_bytes(pieces: Any, tiny_model: Any) -> None:
    model = tiny_model("llama", vocab_size=len(pieces), bos_token_id=0, eos_token_id=1)
    writer = wrap(model, pieces, "cpu", "fp32")
    words = vocabulary(pieces)
    assert words.open_ends("once ti", encode(pieces, "once ti"))
    assert words.open_ends("é", encode(pieces, "é")) == {}
    for prompt in ("once ", "once ti", "ti", "o", "once é ", "once  "):
        for seed in range(6):
            found = write(writer, prompt, asked(seed=seed))[0]
            ids = encode(pieces, prompt)
            assert prompt.endswith(found.healed)
            if not found.healed:
                continue
            kept = pieces.decode(encode(pieces, prompt)[: len(ids)], skip_special_tokens=True)
            assert kept == prompt
            pieces_text = "".join(piece.text for piece in stream(writer, prompt, asked(seed=seed)))
            assert pieces_text == found.text
            if "\ufffd" not in found.text:
                assert b"".join(t.bytes for t in found.tokens).decode() == found.text
