"""Our figures are those of lm-evaluation-harness, which is asked itself where it is installed.

It is heavy (some forty packages), so it is not in the group of the tests but in ``bench-evaluate``:
``make bench-env``, then ``.venv-bench/bin/python -m pytest tests/unit/test_lm_eval_harness.py``.
"""

import pytest

from creativewritinggpt.data.document import Document
from creativewritinggpt.evaluation.perplexity import summarise
from creativewritinggpt.evaluation.scoring import score_documents
from creativewritinggpt.models.loading import load_writer

pytest.importorskip(
    "lm_eval", reason="lm-evaluation-harness is not installed (make bench-env installs it)"
)
N = 32
# Letters that the tokenizer of the tests never joins: as many tokens as characters.
TEXT = "qxzjqzxqjzxjqqzjxxzqjjqxzzxjq" * 10


@pytest.fixture
def harness(tiny_folder):
    """The harness and our writer, on the same folder."""
    from lm_eval.models.huggingface import HFLM

    folder = tiny_folder("llama")
    model = HFLM(pretrained=str(folder), device="cpu", dtype="float32", batch_size=1, max_length=N)
    return model, load_writer(str(folder), "cpu", "fp32")


@pytest.mark.parametrize("length", [0, 1, N - 1, N, N + 1, 5 * N])
def test_rolling_log_likelihood_is_that_of_the_harness(harness, length):
    from lm_eval.api.instance import Instance

    model, writer = harness
    text = TEXT[:length]
    [expected] = model.loglikelihood_rolling(
        [Instance("loglikelihood_rolling", {}, (text,), 0)], disable_tqdm=True
    )
    [score] = score_documents(writer, [Document("d", "g", text)], window=N)
    assert score.tokens == length
    assert -score.nll == pytest.approx(expected, rel=1e-6)


def test_ratios_are_those_of_the_harness(harness):
    from lm_eval.api.metrics import bits_per_byte, weighted_perplexity

    _, writer = harness
    texts = ["The lamp went out, and nobody answered.", "“Who?” she asked.", "naïve 灯"]
    scores = score_documents(writer, [Document("d", str(i), text) for i, text in enumerate(texts)])
    found = summarise(scores)
    in_bytes = [(-score.nll, len(t.encode())) for score, t in zip(scores, texts, strict=True)]
    in_words = [(-score.nll, len(t.split())) for score, t in zip(scores, texts, strict=True)]
    assert found["bits_per_byte"] == pytest.approx(bits_per_byte(in_bytes), rel=1e-9)
    assert found["word_perplexity"] == pytest.approx(weighted_perplexity(in_words), rel=1e-9)
