"""The Python API: the same jobs as the command line."""

import pytest
from corpora import write_stories

import creativewritinggpt
from creativewritinggpt.errors import InputError

FAST = {"device": "cpu", "precision": "fp32", "num_workers": 1, "max_length": 48, "max_steps": 1}


def test_train_load_write_evaluate(tiny_folder, tmp_path):
    stories = write_stories(tmp_path / "stories.jsonl")
    out = tmp_path / "out"
    result = creativewritinggpt.train(
        stories, model_name=str(tiny_folder("gpt2")), output_dir=str(out), **FAST
    )
    assert result.steps == 1 and set(result.domains) == {"stories"}
    writer = creativewritinggpt.load(out / "best_model", device="cpu", precision="fp32")
    text = writer.write("A king", max_new_tokens=6, seed=2)
    assert text == writer.write("A king", max_new_tokens=6, seed=2)
    assert text == "".join(p.text for p in writer.stream("A king", max_new_tokens=6, seed=2))
    assert len(writer.alternatives("A king", 3, preset="fantasy", max_new_tokens=4)) == 3
    found = creativewritinggpt.evaluate(writer, stories)
    assert found["domains"]["stories"]["tuned"]["documents"] == 40


def test_unknown_names_are_refused(tiny_folder):
    writer = creativewritinggpt.load(tiny_folder("llama"), device="cpu", precision="fp32")
    with pytest.raises(InputError, match="temprature"):
        writer.write("A king", temprature=1)
    with pytest.raises(InputError, match="no preset"):
        writer.write("A king", preset="fantsy")
    with pytest.raises(InputError, match="unknown setting"):
        creativewritinggpt.train("x.txt", learning_rat=1)
    with pytest.raises(AttributeError):
        creativewritinggpt.nothing  # noqa: B018
