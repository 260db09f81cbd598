"""Our figures are those of lm-evaluation-harness, which is asked itself where it is installed.

It is heavy (some forty packages), so it is not in the group of the tests but in ``bench-evaluate``:
``make bench-env``, then
``.venv-bench/bin/python -m pytest tests/evaluation/test_lm_eval_harness.py``.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from creativewritinggpt.data.document import Document
from creativewritinggpt.data.rows.packing import encode
from creativewritinggpt.errors import InputError
from creativewritinggpt.evaluation.perplexity import summarise
from creativewritinggpt.evaluation.scoring import score_documents
from creativewritinggpt.evaluation.tasks import ChoiceTest, Item, answer, run_tasks
from creativewritinggpt.models.loading import load_model

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
    return model, load_model(str(folder), "cpu", "fp32")


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


@pytest.mark.parametrize("joint", [" ", "\n\n"])
def test_prompt_and_text_are_scored_as_the_harness_scores_the_joined_text(harness, joint):
    from lm_eval.api.instance import Instance

    model, writer = harness
    document = Document("d", "g", TEXT[:70], prompt=TEXT[:9], joint=joint)
    joined = f"{TEXT[:9]}{joint}{TEXT[:70]}"
    [expected] = model.loglikelihood_rolling(
        [Instance("loglikelihood_rolling", {}, (joined,), 0)], disable_tqdm=True
    )
    [score] = score_documents(writer, [document], window=N)
    assert -score.nll == pytest.approx(expected, rel=1e-6)
    # The harness, too, leaves the last space of a context to its continuation; and line ends.
    parts = [encode(writer.tokenizer, part) for part in document.parts()]
    if joint == " ":
        assert parts == [*model._encode_pair(f"{document.prompt}{joint}", document.text)]


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


def _task(folder):
    """A task of four items with local data."""
    rows = [{"text": f"The sea {i}", "choices": [" slept", " sang"], "label": i % 2}
            for i in range(4)]  # fmt: skip
    (folder / "items.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    path = folder / "task.yaml"
    path.write_text(
        f"task: tiny\ndataset_path: json\ndataset_kwargs: {{data_files: {{test: "
        f"{folder / 'items.jsonl'}}}}}\ntest_split: test\noutput_type: multiple_choice\n"
        'doc_to_text: "{{text}}"\ndoc_to_choice: "{{choices}}"\ndoc_to_target: label\n'
        "metric_list: [{metric: acc}]\n"
    )
    return path, rows


def test_a_task_of_the_harness_runs_on_our_model_object(harness, tmp_path):
    _, writer = harness
    path, rows = _task(tmp_path)
    found = run_tasks(writer, [str(path)])["tiny"]
    items = [Item(str(i), tuple((row["text"], choice) for choice in row["choices"]))
             for i, row in enumerate(rows)]  # fmt: skip
    first = answer(writer, ChoiceTest("tiny", items, 0.5)).right
    expected = [right if row["label"] == 0 else 1 - right
                for right, row in zip(first, rows, strict=True)]  # fmt: skip
    accuracy = next(value for name, value in found.items() if name.startswith("acc"))
    assert accuracy == pytest.approx(sum(expected) / 4)
    with pytest.raises(InputError, match="no task 'lambada_opena'"):
        run_tasks(writer, ["lambada_opena"])


def test_the_originals_command_runs_tasks_and_does_not_shadow_the_library(tiny_folder, tmp_path):
    path, _ = _task(tmp_path)
    text = tmp_path / "text.txt"
    text.write_text("The captain laughed at the sea, and nobody answered. " * 20)
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "evaluate.py", str(text), "--model", str(tiny_folder("gpt2")), "--tasks",
         str(path), "--texts", "0", "--output-dir", str(tmp_path), "--json", "--device", "cpu"],
        cwd=root, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["tasks"]["base"]["tiny"]
