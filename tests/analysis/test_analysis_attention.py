"""Attention is captured whole, checked, summed up and drawn; a planted head shows what it sees."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from subjects import plain_subject, random_maps
from writers import make_writer

from creativewritinggpt.analysis.attention_plots import (
    Canvas,
    draw_layers,
    draw_overview,
    token_labels,
)
from creativewritinggpt.analysis.methods import attention as attention_module
from creativewritinggpt.analysis.methods.attention import (
    AttentionMaps,
    capture,
    mean_attention,
    mean_rows,
    rollout,
    rollout_attribution,
    statistics,
    without_sink,
)
from creativewritinggpt.analysis.subject import Subject, Target, read, with_targets, words_of
from creativewritinggpt.data.names import tag
from creativewritinggpt.errors import InputError

FAMILIES = ("gpt2", "llama", "qwen")
MASKED = (228, 230, 234)
TEXT = "The lamp went out. The captain laughed and asked her 🐉 for $40 <|endoftext|> &_a."


def pointer(tiny_model: Any, key: int, tokens: int) -> Any:
    """A GPT-2 whose one layer's first head makes the last position look at ``key``."""
    model = tiny_model("gpt2", n_layer=1, n_head=2, n_embd=64, n_positions=32)
    block, width = model.transformer.h[0], 64
    with torch.no_grad():
        model.transformer.wte.weight.zero_()
        model.transformer.wpe.weight.copy_(torch.eye(32, width))
        block.attn.c_attn.weight.zero_()
        block.attn.c_attn.bias.zero_()
        block.attn.c_attn.weight[tokens - 1, 0] = 100.0  # the last position asks
        block.attn.c_attn.weight[key, width] = 100.0  # and this one answers
    block.ln_1 = torch.nn.Identity()
    return model


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_captured_is_causal_attention(family: str, tiny_model: Any) -> None:
    writer = make_writer(tiny_model(family))
    maps = capture(writer, plain_subject(20))
    assert maps.weights.shape == (2, 4, 20, 20)
    assert maps.weights.dtype == np.float32
    assert (maps.weights >= 0).all()
    np.testing.assert_allclose(maps.weights.sum(-1), 1, atol=1e-5)
    assert not np.triu(maps.weights, 1).any()
    assert (maps.weights[:, :, 0, 0] == 1).all()


@pytest.mark.parametrize("family", FAMILIES)
def test_captured_attention_is_what_transformers_gives(family: str, tiny_model: Any) -> None:
    model = tiny_model(family)
    maps = capture(make_writer(model), plain_subject(12))
    model.set_attn_implementation("eager")
    with torch.no_grad():
        found = model(torch.arange(12)[None], output_attentions=True).attentions
    np.testing.assert_array_equal(maps.weights, torch.cat(found).numpy())


@pytest.mark.parametrize("family", FAMILIES)
def test_the_former_attention_is_put_back(family: str, tiny_model: Any, monkeypatch: Any) -> None:
    writer = make_writer(tiny_model(family))
    assert writer.bare.config._attn_implementation == "sdpa"
    capture(writer, plain_subject(5))
    assert writer.bare.config._attn_implementation == "sdpa"

    def broken(*_: Any, **__: Any) -> None:
        assert writer.bare.config._attn_implementation == "eager"
        raise KeyboardInterrupt

    monkeypatch.setattr(writer.bare.base_model, "forward", broken)
    with pytest.raises(KeyboardInterrupt):
        capture(writer, plain_subject(5))
    assert writer.bare.config._attn_implementation == "sdpa"


def test_an_adapter_counts_unless_it_is_switched_off(tiny_model: Any) -> None:
    from creativewritinggpt.config.run import Config
    from creativewritinggpt.models.adapter import attach

    writer, subject = make_writer(tiny_model("llama")), plain_subject(10)
    base = capture(writer, subject).weights
    attach(writer, Config())
    with torch.no_grad():
        for name, parameter in writer.model.named_parameters():
            if "lora_B" in name:
                parameter.add_(torch.randn(parameter.shape, generator=torch.Generator()) * 0.1)
    writer.model.eval()
    assert not np.allclose(capture(writer, subject).weights, base)
    with writer.base():
        np.testing.assert_array_equal(capture(writer, subject).weights, base)


@pytest.mark.parametrize("key", [0, 3, 7])
def test_a_planted_head_shows_where_it_looks(key: int, tiny_model: Any) -> None:
    subject = plain_subject(12, (12,))
    maps = capture(make_writer(pointer(tiny_model, key, 12)), subject)
    assert maps.weights[0, 0, -1, key] > 0.999
    assert maps.rows(subject)[0, 0, 0].argmax() == key
    # The other head knows nothing and looks at all alike.
    np.testing.assert_allclose(maps.weights[0, 1, -1], 1 / 12, atol=1e-6)
    if key:
        assert mean_rows(maps, subject)[0].argmax() == key
        assert mean_attention(maps, subject).scores[0].argmax() == key
        assert rollout_attribution(maps, subject).scores[0, :-1].argmax() == key


def test_a_model_without_attention_weights_is_refused() -> None:
    from transformers import MambaConfig, MambaForCausalLM

    config = MambaConfig(vocab_size=384, hidden_size=32, num_hidden_layers=2)
    with pytest.raises(InputError, match="MambaForCausalLM shows"):
        capture(make_writer(MambaForCausalLM(config).eval()), plain_subject(6))


def test_weights_that_are_not_numbers_are_said(tiny_model: Any) -> None:
    model = tiny_model("gpt2")
    with torch.no_grad():
        model.transformer.h[1].attn.c_attn.weight[0, 0] = float("nan")
    with pytest.raises(InputError, match="the attention in layer 1 is not a number"):
        capture(make_writer(model), plain_subject(6))


@pytest.mark.parametrize(
    ("damage", "message"), [("ahead", "looks ahead"), ("sum", "sums to 1 only within")]
)
def test_what_is_no_attention_is_refused(
    damage: str, message: str, tiny_model: Any, monkeypatch: Any
) -> None:
    writer = make_writer(tiny_model("gpt2"))
    forward = writer.bare.base_model.forward

    def wrong(*args: Any, **kwargs: Any) -> Any:
        found = forward(*args, **kwargs)
        for layer in found.attentions:
            layer[0, 0, 1] = 0.5 if damage == "sum" else 0.0
            layer[0, 0, 1, :2] += 0.1 if damage == "sum" else 0.0
            layer[0, 0, 1, -1] += 0.0 if damage == "sum" else 1.0
        return found

    monkeypatch.setattr(writer.bare.base_model, "forward", wrong)
    with pytest.raises(InputError, match=message):
        capture(writer, plain_subject(8))


def test_long_texts_are_stored_in_half_precision(tiny_model: Any, monkeypatch: Any) -> None:
    writer, subject = make_writer(tiny_model("gpt2")), plain_subject(16)
    whole = capture(writer, subject).weights
    monkeypatch.setattr(attention_module, "STORED_WHOLE", 100)
    half = capture(writer, subject)
    assert half.weights.dtype == np.float16
    np.testing.assert_allclose(half.weights, whole, atol=1e-3)
    np.testing.assert_allclose(rollout(half).sum(-1), 1, atol=1e-12)


def test_attention_too_large_for_memory_is_refused(tiny_model: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(attention_module, "memory", lambda device: (1000, 1000))
    with pytest.raises(InputError, match="the attention of 16 tokens takes"):
        capture(make_writer(tiny_model("gpt2")), plain_subject(16))


@given(st.integers(0, 99), st.integers(1, 3), st.integers(1, 3), st.integers(1, 12))
@settings(deadline=None, max_examples=25)
def test_rollout_is_causal_and_its_rows_sum_to_one(
    seed: int, layers: int, heads: int, tokens: int
) -> None:
    maps = random_maps(seed, layers, heads, tokens)
    for sink in (True, False):
        result = rollout(maps, sink)
        assert not np.triu(result, 1).any()
        assert (result >= 0).all()
        np.testing.assert_allclose(result.sum(-1), 1, atol=1e-9)
    assert not rollout(maps, sink=False)[1:, 0].any()


def test_rollout_of_one_layer_is_half_attention_half_stay() -> None:
    maps = random_maps(1, 1, 2, 6)
    expected = 0.5 * (maps.weights[0].mean(0) + np.eye(6))
    np.testing.assert_allclose(rollout(maps), expected, atol=1e-6)


def test_rollout_drifts_to_the_sink_and_without_it_does_not() -> None:
    weights = np.tril(np.full((1, 8, 8), 0.02))
    weights[:, :, 0] += 1 - weights.sum(-1)
    maps = AttentionMaps(np.repeat(weights[None].astype(np.float32), 24, 0))
    assert rollout(maps)[-1, 0] > 0.99
    assert rollout(maps, sink=False)[-1, 1] < 0.3


@given(st.integers(0, 99), st.integers(1, 10))
@settings(deadline=None, max_examples=20)
def test_masking_the_sink_keeps_attention_attention(seed: int, tokens: int) -> None:
    maps = random_maps(seed, 2, 2, tokens)
    masked = without_sink(maps)
    assert not masked.sink
    np.testing.assert_allclose(masked.weights.sum(-1), 1, atol=1e-5)
    assert not masked.weights[:, :, 1:, 0].any()
    assert not np.triu(masked.weights, 1).any()


def test_a_row_that_is_all_sink_looks_at_itself() -> None:
    weights = np.zeros((1, 1, 3, 3), dtype=np.float32)
    weights[..., 0] = 1
    masked = without_sink(AttentionMaps(weights)).weights[0, 0]
    np.testing.assert_array_equal(masked, np.eye(3))


def statistics_of(weights: np.ndarray, subject: Subject) -> Any:
    words = words_of(subject)
    prompt = subject.text[: subject.prompt_characters]
    return statistics(AttentionMaps(weights), subject, words, tag(words, subject.text, prompt))


def test_statistics_of_known_heads() -> None:
    tokens = 6
    weights = np.zeros((1, 3, tokens, tokens), dtype=np.float32)
    weights[0, 0, :, 0] = 1  # all sink
    weights[0, 1, np.arange(1, tokens), np.arange(tokens - 1)] = 1  # the one before
    weights[0, 1, 0, 0] = 1
    weights[0, 2] = np.tril(np.ones((tokens, tokens)))
    weights[0, 2] /= weights[0, 2].sum(-1, keepdims=True)  # all alike
    found = statistics_of(weights, plain_subject(tokens))
    np.testing.assert_allclose(found.values["distance"][0], [3, 1, 1.5], atol=1e-6)
    np.testing.assert_allclose(found.values["first_token_mass"][0, :2], [1, 0.2], atol=1e-6)
    np.testing.assert_allclose(found.values["previous_token_mass"][0, :2], [0, 1], atol=1e-6)
    np.testing.assert_allclose(found.values["entropy"][0, :2], 0, atol=1e-9)
    assert found.values["entropy"][0, 2] == pytest.approx(
        np.log(np.arange(2, tokens + 1)).mean(), abs=1e-6
    )
    for name in ("distance", "entropy", "first_token_mass", "self_mass", "previous_token_mass"):
        assert found.values[name][0, 2] == pytest.approx(found.chance[name], abs=1e-6)
    assert found.values["distance_without_sink"][0, 1] == pytest.approx(1)
    assert np.isnan(found.values["name_mass"]).all()
    record = found.to_dict()
    assert record["name_mass"] is None
    assert record["prompt_mass"] is None
    assert record["chance"]["name_mass"] is None


def test_mass_on_names_and_on_the_prompt_counts_their_tokens() -> None:
    text = "We saw Mira. It ran"
    spans = ((0, 0), (0, 2), (2, 6), (6, 11), (11, 12), (12, 15), (15, 19))
    subject = Subject(text, tuple(range(7)), spans, (), prompt_characters=12)
    weights = np.zeros((1, 2, 7, 7), dtype=np.float32)
    weights[0, 0, :, 0] = 1
    weights[0, 0, 3:, [0, 3]] = 0.5  # half on Mira
    weights[0, 1] = np.eye(7)
    found = statistics_of(weights, subject)
    # From "Mira" (position 3) on, and from the token before the story (position 4) on.
    np.testing.assert_allclose(found.values["name_mass"][0], [0.5, 0.5], atol=1e-6)
    np.testing.assert_allclose(found.values["prompt_mass"][0], [0.5, 1 / 3], atol=1e-6)


def test_an_induction_head_is_told_by_what_it_looks_at() -> None:
    ids = (0, 5, 6, 7, 5, 6, 7)
    subject = Subject("abcdef", ids, ((0, 0), *((i, i + 1) for i in range(6))), (), 6)
    weights = np.repeat(np.eye(7, dtype=np.float32)[None, None], 2, 1)
    for query in (4, 5, 6):
        weights[0, 0, query] = 0
        weights[0, 0, query, query - 2] = 1
    found = statistics_of(weights, subject)
    np.testing.assert_allclose(found.values["induction_mass"][0], [1, 0])


@pytest.fixture
def odd_subject(tiny_model: Any, tiny_tokenizer: Any) -> tuple[Any, Subject]:
    """A text with a dollar sign, an emoji, an underscore and the name of the end-of-text token."""
    writer = make_writer(tiny_model("gpt2"), tiny_tokenizer)
    subject = read(writer, TEXT)
    return writer, with_targets(subject, [Target(subject.length, 1)])


def test_labels_are_readable(odd_subject: tuple[Any, Subject]) -> None:
    labels = token_labels(odd_subject[1])
    assert len(labels) == odd_subject[1].length
    assert not any(sign in label for label in labels for sign in "Ġ\ufffd\n")
    assert sum("dragon" in label for label in labels) == 1


def test_every_layer_gets_a_picture(odd_subject: tuple[Any, Subject], tmp_path: Path) -> None:
    from PIL import Image

    writer, subject = odd_subject
    maps = capture(writer, subject)
    seen: list[tuple[int, int]] = []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        paths = draw_layers(
            maps, subject, tmp_path, model="a_$b$", svg=True,
            progress=lambda done, all_of: seen.append((done, all_of)),
        )  # fmt: skip
        paths += draw_overview(maps, subject, tmp_path, model="a_$b$", svg=True)
    assert [path.name for path in paths] == [
        "attention_layer00.png", "attention_layer00.svg", "attention_layer01.png",
        "attention_layer01.svg", "attention_overview.png", "attention_overview.svg",
    ]  # fmt: skip
    assert seen == [(1, 2), (2, 2)]
    pictures = []
    for path in paths[:4:2]:
        with Image.open(path) as picture:
            assert min(picture.size) > 300
            pictures.append(np.asarray(picture.convert("RGB")))
    assert pictures[0].shape == pictures[1].shape
    assert (pictures[0] != pictures[1]).any()
    svg = paths[1].read_text(encoding="utf-8")
    assert "head 3" in svg
    assert "Attention in layer 0" in svg
    assert svg.count("<image") >= 4


def test_the_pixels_of_a_head_are_its_weights(tmp_path: Path) -> None:
    from PIL import Image

    weights = np.zeros((1, 1, 4, 4), dtype=np.float32)
    weights[0, 0, :, 0] = 1
    weights[0, 0, 3] = [0, 1, 0, 0]
    subject = plain_subject(4)
    (path,) = draw_layers(AttentionMaps(weights), subject, tmp_path)
    with Image.open(path) as picture:
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    grey = (pixels == MASKED).all(-1)
    # Edges of letters may have that grey too, but no long run of it.
    ys, xs = np.nonzero(grey & (grey.sum(1, keepdims=True) > 20) & (grey.sum(0) > 20))
    cell = (xs.max() + 1 - xs.min()) / 3  # of the first row, three of four cells
    left, top = xs.min() - cell, ys.min()
    at = {
        (row, column): pixels[int(top + (row + 0.5) * cell), int(left + (column + 0.5) * cell)]
        for row in range(4)
        for column in range(4)
    }
    assert (at[3, 2] == 255).all()
    assert (at[2, 2] == 255).all()
    assert (at[0, 1] == MASKED).all()
    np.testing.assert_array_equal(at[3, 1], at[1, 0])
    assert at[3, 1][0] < 50 < at[3, 1][2]


def test_chosen_layers_and_heads_only(odd_subject: tuple[Any, Subject], tmp_path: Path) -> None:
    writer, subject = odd_subject
    maps = capture(writer, subject)
    (one,) = draw_layers(without_sink(maps), subject, tmp_path, layers=[1], heads=[2, 0])
    assert one.name == "attention_without_sink_layer01.png"
    with pytest.raises(InputError) as caught:
        draw_layers(maps, subject, tmp_path, layers=[2])
    assert (caught.value.message, caught.value.advice) == (
        "there is no layer 2", "the model has layers 0 to 1"
    )  # fmt: skip
    with pytest.raises(InputError, match="there is no head -1"):
        draw_layers(maps, subject, tmp_path, heads=[-1])


def test_the_caption_speaks_of_the_first_token_only_where_it_is_shown(
    tmp_path: Path, monkeypatch: Any
) -> None:
    notes: list[str] = []
    monkeypatch.setattr(Canvas, "note", lambda _, said: notes.append(said))
    maps = random_maps(0, 1, 2, 5)
    for shown in (maps, without_sink(maps)):
        draw_layers(shown, plain_subject(5), tmp_path)
    assert notes[0].startswith("Start: share of the first token; max: end of the head's scale. Row")
    assert notes[1].startswith("Max: end of the head's scale. Row")


@pytest.mark.parametrize("tokens", [1, 2, 300])
def test_texts_of_any_length_are_drawn(tokens: int, tmp_path: Path) -> None:
    maps = random_maps(0, 1, 2, tokens)
    paths = draw_layers(maps, plain_subject(tokens), tmp_path)
    paths += draw_overview(maps, plain_subject(tokens), tmp_path)
    assert all(path.stat().st_size > 2000 for path in paths)
