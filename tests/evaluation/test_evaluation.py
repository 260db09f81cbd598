"""Windows, perplexity and intervals against plain computations."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from writers import make_writer

from creativewritinggpt.config.run import Config
from creativewritinggpt.data.document import Document
from creativewritinggpt.data.rows.packing import IGNORE
from creativewritinggpt.errors import InputError
from creativewritinggpt.evaluation import scoring
from creativewritinggpt.evaluation.material import Material
from creativewritinggpt.evaluation.perplexity import (
    compare,
    legacy_perplexity,
    ratio_interval,
    summarise,
)
from creativewritinggpt.evaluation.report import read_scores, write_report
from creativewritinggpt.evaluation.run import base_and_tuned, run
from creativewritinggpt.evaluation.scoring import (
    DocumentScore,
    plan_passes,
    rolling_windows,
    score_documents,
    sliding_windows,
)
from creativewritinggpt.evaluation.settings import EvaluationSettings
from creativewritinggpt.evaluation.tables import as_markdown
from creativewritinggpt.models.adapter import attach

SCORES_ONLY = EvaluationSettings(texts=0)
TEXT = "The captain laughed at the sea, and nobody answered. "


def _documents(*texts, source="tales"):
    return [Document(source, f"g{number}", text) for number, text in enumerate(texts)]


@settings(deadline=None, max_examples=150)
@given(count=st.integers(0, 60), window=st.integers(2, 20))
def test_every_token_and_the_end_are_scored_once(count, window):
    ids = np.arange(10, 10 + count)
    scored, ends = [], 0
    for piece in rolling_windows(0, ids, window, 1, 2):
        assert 0 < len(piece.inputs) <= window
        chosen = piece.targets != IGNORE
        for position in np.flatnonzero(chosen):
            if position == piece.end:
                assert piece.targets[position] == 2
                ends += 1
            else:
                scored.append(int(piece.targets[position]))
                before = piece.inputs[position]
                assert before == (1 if piece.targets[position] == 10 else scored[-1] - 1)
    assert scored == ids.tolist()
    assert ends == 1


def test_last_window_is_stretched_to_the_left():
    first, last, end = rolling_windows(0, np.arange(10, 23), 10, 1, 2)
    assert [len(window.inputs) for window in (first, last, end)] == [10, 10, 10]
    assert (last.targets != IGNORE).sum() == 3
    assert ((end.targets != IGNORE).sum(), end.end) == (1, 9)


@pytest.mark.parametrize("family", ["gpt2", "llama", "qwen"])
def test_short_document_has_the_plain_loss(family, tiny_model, tiny_tokenizer):
    writer = make_writer(tiny_model(family), tiny_tokenizer)
    [score] = score_documents(writer, _documents(TEXT))
    ids = [0, *tiny_tokenizer(TEXT)["input_ids"], 0]
    with torch.no_grad():
        logits = writer.model(input_ids=torch.tensor([ids[:-1]])).logits[0]
    nll = torch.nn.functional.cross_entropy(logits, torch.tensor(ids[1:]), reduction="none")
    assert score.tokens == len(ids) - 2
    assert score.nll == pytest.approx(nll[:-1].sum().item(), abs=1e-4)
    assert score.eos_nll == pytest.approx(nll[-1].item(), abs=1e-5)
    assert (score.words, score.bytes) == (len(TEXT.split()), len(TEXT.encode()))


@pytest.mark.parametrize("family", ["gpt2", "llama", "qwen"])
def test_scores_are_the_same_to_the_last_bit_whatever_shares_a_pass(
    family, tiny_model, tiny_tokenizer
):
    writer = make_writer(tiny_model(family), tiny_tokenizer)
    documents = _documents(*(TEXT * count for count in (1, 9, 3, 1, 20, 2)), "Word", "No")
    expected = score_documents(writer, documents)
    assert score_documents(writer, documents[::-1])[::-1] == expected
    assert [score_documents(writer, [document])[0] for document in documents] == expected
    assert score_documents(writer, documents * 3)[8:16] == expected


@pytest.mark.parametrize("family", ["gpt2", "llama", "qwen"])
@pytest.mark.parametrize("tuned", [False, True])
def test_attention_per_window_gives_what_a_mask_gives(
    family, tuned, tiny_model, tiny_tokenizer, monkeypatch
):
    writer = make_writer(tiny_model(family), tiny_tokenizer)
    if tuned:
        attach(writer, Config(lora_r=4, target_modules=["all-linear"]))
        with torch.no_grad():
            for name, parameter in writer.model.named_parameters():
                if "lora_B" in name:
                    parameter.normal_(std=0.2)
        writer.model.eval()
    documents = _documents(*(TEXT * count for count in (1, 9, 3, 20)), "Word")
    expected = score_documents(writer, documents)
    kind = writer.bare.config._attn_implementation
    monkeypatch.setattr(scoring, "supports_varlen", lambda *_: False)
    plain = score_documents(writer, documents)
    assert [s.nll for s in plain] == pytest.approx([s.nll for s in expected], rel=1e-6)
    assert [s.eos_nll for s in plain] == pytest.approx([s.eos_nll for s in expected], rel=1e-5)
    assert writer.bare.config._attn_implementation == kind == "sdpa"


def test_bf16_is_near_fp32(tiny_model, tiny_tokenizer):
    model = tiny_model("llama")
    documents = _documents(TEXT * 4, TEXT * 9)
    exact, near = (
        sum(score.nll for score in score_documents(writer, documents))
        for writer in (make_writer(model, tiny_tokenizer, p) for p in ("fp32", "bf16"))
    )
    assert exact != near == pytest.approx(exact, rel=1e-2)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(1, 64), min_size=1, max_size=60))
def test_every_window_is_in_one_pass_and_passes_are_full(lengths):
    plan = plan_passes(lengths, 64)
    assert sorted(index for taken in plan for index in taken) == list(range(len(lengths)))
    sums = [sum(lengths[index] for index in taken) for taken in plan]
    assert max(sums) <= 64
    assert len(sums) <= 2 * sum(lengths) / 64 + 1


@settings(deadline=None, max_examples=100)
@given(count=st.integers(0, 60), window=st.integers(1, 20), stride=st.integers(1, 20))
def test_sliding_windows_score_every_token_once_with_much_context(count, window, stride):
    stride = min(stride, window)
    ids, scored = np.arange(10, 10 + count), []
    for piece in sliding_windows(0, ids, window, stride, 1):
        places = np.flatnonzero(piece.targets != IGNORE)
        scored += piece.targets[places].tolist()
        assert len(piece.inputs) <= window and places[-1] == len(piece.inputs) - 1
        if scored[0] != piece.targets[places[0]]:
            assert places[0] >= window - stride
    assert scored == ids.tolist()


def test_stride_of_a_whole_window_loses_and_a_short_one_is_another_figure(
    tiny_model, tiny_tokenizer
):
    writer = make_writer(tiny_model("llama"), tiny_tokenizer)
    [score] = score_documents(writer, _documents(TEXT * 9), window=64, stride=8, legacy=True)
    assert score.sliding_nll != pytest.approx(score.nll, rel=1e-6)
    ids = tiny_tokenizer(TEXT * 9)["input_ids"][: writer.context_length]
    with torch.no_grad():
        loss = writer.model(input_ids=torch.tensor([ids]), labels=torch.tensor([ids])).loss
    assert legacy_perplexity([score]) == pytest.approx(math.exp(loss.item()), rel=1e-5)
    with pytest.raises(InputError, match="stride is 999"):
        score_documents(writer, _documents(TEXT), stride=999)


def test_figures_are_ratios_of_sums():
    scores = [DocumentScore("a", "1", 10.0, 1.0, 5, 4, 20), DocumentScore("a", "2", 2, 3, 4, 2, 10)]
    found = summarise(scores)
    assert found["perplexity"] == pytest.approx(math.exp(12 / 9))
    assert found["bits_per_byte"] == pytest.approx(12 / 30 / math.log(2))
    assert found["word_perplexity"] == pytest.approx(math.exp(12 / 6))
    assert found["eos_nll"] == 2.0


def test_interval_covers_the_truth_about_as_often_as_it_says():
    generator = np.random.default_rng(0)
    hits = 0
    for trial in range(100):
        values = generator.normal(3.0, 0.5, size=60)
        low, high = ratio_interval(values, np.ones(60), seed=trial)
        hits += low <= 3.0 <= high
    assert 85 <= hits <= 100


def test_stories_of_one_prompt_are_resampled_together():
    alone = [DocumentScore("a", str(i), 3.0 + i % 2, 0, 1, 1, 1) for i in range(40)]
    pairs = [DocumentScore("a", str(i % 2), 3.0 + i % 2, 0, 1, 1, 1) for i in range(40)]
    width = [high - low for low, high in (summarise(s)["ci95"] for s in (alone, pairs))]
    assert width[1] > 2 * width[0]


def test_equal_models_have_no_difference():
    scores = [DocumentScore("a", str(i), 3.0 + i, 0, 5, 1, 1) for i in range(9)]
    found = compare(scores, scores)
    assert found["nats_per_token"] == 0.0 and found["ci95"] == [0.0, 0.0]
    assert found["better"] == 0


def test_models_that_do_not_differ_are_found_to_about_95_times_in_100():
    generator = np.random.default_rng(1)
    inside = 0
    for _ in range(100):
        lengths = generator.integers(20, 400, size=80)
        noise = generator.normal(0, 0.05, size=80) * lengths
        first = [
            DocumentScore("a", str(i), 3.0 * n, 0, int(n), 1, 4 * int(n), digest=str(i))
            for i, n in enumerate(lengths)
        ]
        second = [dataclasses.replace(s, nll=s.nll + e) for s, e in zip(first, noise, strict=True)]
        low, high = compare(first, second)["ci95"]
        inside += low <= 0 <= high
    assert 88 <= inside <= 99


def test_different_documents_and_other_tokens_are_not_compared():
    first = [DocumentScore("a", str(i), 3.0, 0, 5, 1, 9, digest=str(i)) for i in range(4)]
    with pytest.raises(InputError, match="different documents"):
        compare(first, first[::-1])
    found = compare(first, [dataclasses.replace(score, tokens=6) for score in first])
    assert found["nats_per_token"] is None and found["ci95"] is None
    assert found["bits_per_byte"] == 0


def test_scores_are_kept_and_compared_with_those_of_a_later_run(
    tiny_model, tiny_tokenizer, tmp_path
):
    writer = make_writer(tiny_model("gpt2"), tiny_tokenizer)
    documents = _documents(TEXT * 2, TEXT, "A. B.")
    material = Material(documents)
    found = run(base_and_tuned(writer), material, SCORES_ONLY)
    write_report(found, tmp_path)
    kept = read_scores(tmp_path / "evaluation.jsonl")
    assert kept == found.scores
    again = run(
        base_and_tuned(make_writer(tiny_model("gpt2", seed=1), tiny_tokenizer)),
        material,
        SCORES_ONLY,
        earlier={"before": kept["base"]},
    ).result
    assert again["domains"]["tales"]["differences"]["before"]["nats_per_token"] != 0
    renamed = [dataclasses.replace(document, source="sea") for document in documents]
    alone = base_and_tuned(writer)
    under_another_name = run(
        alone, Material(renamed), SCORES_ONLY, earlier={"before": kept["base"]}
    ).result
    assert under_another_name["domains"]["sea"]["differences"]["before"]["nats_per_token"] == 0
    narrow = dataclasses.replace(SCORES_ONLY, window=16)
    with pytest.raises(InputError, match="window of 1024 tokens, and not 16"):
        run(alone, material, narrow, earlier={"before": kept["base"]})
    with pytest.raises(InputError, match="is of other documents: 1 stand"):
        run(base_and_tuned(writer), Material(documents[:2]), earlier={"before": kept["base"]})
    (tmp_path / "evaluation.jsonl").write_text("{}\n")
    with pytest.raises(InputError, match="not the record"):
        read_scores(tmp_path / "evaluation.jsonl")


def test_base_is_scored_with_the_adapter_off(tiny_model, tiny_tokenizer):
    writer = make_writer(tiny_model("llama"), tiny_tokenizer)
    plain = score_documents(writer, _documents(TEXT))[0].nll
    attach(writer, Config(lora_dropout=0.0))
    with torch.no_grad():
        for name, value in writer.model.named_parameters():
            if "lora_B" in name:
                value.normal_(0, 0.3)
    found = run(base_and_tuned(writer), Material(_documents(TEXT, TEXT * 2)), SCORES_ONLY).result
    assert (
        found["domains"]["tales"]["base"]["nll_sum"]
        != found["domains"]["tales"]["tuned"]["nll_sum"]
    )
    again = score_documents(writer, _documents(TEXT))[0].nll
    with writer.base():
        assert score_documents(writer, _documents(TEXT))[0].nll == pytest.approx(plain, abs=1e-5)
    assert again != pytest.approx(plain, abs=1e-3)


def test_mean_of_domains_counts_every_domain_the_same(tiny_model, tiny_tokenizer):
    writer = make_writer(tiny_model("gpt2"), tiny_tokenizer)
    documents = _documents(TEXT * 5) + _documents("Xyz qu.", source="odd")
    found = run(base_and_tuned(writer), Material(documents), SCORES_ONLY).result
    losses = [
        entry["base"]["nll_sum"] / entry["base"]["tokens"] for entry in found["domains"].values()
    ]
    assert found["macro_perplexity"]["base"] == pytest.approx(math.exp(sum(losses) / 2))
    assert "| odd |" in as_markdown(found)


def test_no_text_is_refused(tiny_model, tiny_tokenizer):
    with pytest.raises(InputError, match="no text to evaluate"):
        writer = make_writer(tiny_model("gpt2"), tiny_tokenizer)
        run(base_and_tuned(writer), Material(_documents("", "  ")))


def test_one_word_and_other_scripts_are_scored(tiny_model, tiny_tokenizer):
    writer = make_writer(tiny_model("gpt2"), tiny_tokenizer)
    scores = score_documents(writer, _documents("Word", "灯が消えた。", "🚀" * 90, "x" * 3000))
    assert all(math.isfinite(score.nll) and score.tokens > 0 for score in scores)


def test_a_document_of_100000_words_is_scored_window_by_window(tiny_model, tiny_tokenizer):
    writer = make_writer(tiny_model("gpt2", n_layer=1), tiny_tokenizer)
    [score] = score_documents(writer, _documents("sea " * 100_000))
    assert score.words == 100_000 and score.tokens > 100_000 and math.isfinite(score.nll)


def test_words_and_bytes_are_those_of_the_original_text(tiny_model, tiny_tokenizer):
    writer = make_writer(tiny_model("gpt2"), tiny_tokenizer)
    document = Document("wikitext", "g", "It's.", original_words=3, original_bytes=7)
    [score] = score_documents(writer, [document])
    assert (score.words, score.bytes) == (3, 7)
