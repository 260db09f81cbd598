"""Windows, perplexity and intervals against plain computations."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from writers import make_writer

from creativewritinggpt.config import Config
from creativewritinggpt.data.document import Document
from creativewritinggpt.data.packing import IGNORE
from creativewritinggpt.errors import InputError
from creativewritinggpt.evaluation import perplexity, report
from creativewritinggpt.evaluation.perplexity import (
    DocumentScore,
    compare,
    ratio_interval,
    score_documents,
    summarise,
)
from creativewritinggpt.evaluation.windows import rolling_windows
from creativewritinggpt.models.adapter import attach

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


def test_scores_do_not_depend_on_batches_or_order(tiny_model, tiny_tokenizer, monkeypatch):
    writer = make_writer(tiny_model("gpt2"), tiny_tokenizer)
    documents = _documents(*(TEXT * count for count in (1, 9, 3, 1, 20, 2)))
    expected = score_documents(writer, documents)
    monkeypatch.setattr(perplexity, "BATCH_TOKENS", 1)
    alone = score_documents(writer, documents[::-1])[::-1]
    for one, other in zip(expected, alone, strict=True):
        assert one.nll == pytest.approx(other.nll, rel=1e-6)


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
    assert compare(scores, scores) == {"nats_per_token": 0.0, "ci95": [0.0, 0.0]}


def test_base_is_scored_with_the_adapter_off(tiny_model, tiny_tokenizer):
    writer = make_writer(tiny_model("llama"), tiny_tokenizer)
    plain = score_documents(writer, _documents(TEXT))[0].nll
    attach(writer, Config(lora_dropout=0.0))
    with torch.no_grad():
        for name, value in writer.model.named_parameters():
            if "lora_B" in name:
                value.normal_(0, 0.3)
    found = report.evaluate(writer, _documents(TEXT, TEXT * 2))
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
    found = report.evaluate(writer, documents)
    losses = [
        entry["base"]["nll_sum"] / entry["base"]["tokens"] for entry in found["domains"].values()
    ]
    assert found["macro_perplexity"]["base"] == pytest.approx(math.exp(sum(losses) / 2))
    assert "| odd |" in report.as_markdown(found)


def test_no_text_is_refused(tiny_model, tiny_tokenizer):
    with pytest.raises(InputError, match="no text to evaluate"):
        report.evaluate(make_writer(tiny_model("gpt2"), tiny_tokenizer), _documents("", "  "))


def test_one_word_and_other_scripts_are_scored(tiny_model, tiny_tokenizer):
    writer = make_writer(tiny_model("gpt2"), tiny_tokenizer)
    scores = score_documents(writer, _documents("Word", "灯が消えた。", "🚀" * 90, "x" * 3000))
    assert all(math.isfinite(score.nll) and score.tokens > 0 for score in scores)
