"""The Python API: the same jobs as the command line."""

import pytest
import torch
from corpora import write_stories

import creativewritinggpt
from creativewritinggpt.config.run import Config
from creativewritinggpt.errors import InputError
from creativewritinggpt.models.loading import load_model

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


def test_places_may_be_paths_and_a_ready_config_is_checked(tiny_folder, tmp_path):
    stories = write_stories(tmp_path / "stories.jsonl")
    places = {"model_name": tiny_folder("gpt2"), "output_dir": tmp_path / "out"}
    assert creativewritinggpt.train(stories, **places, **FAST).steps == 1
    config = Config(**places, **FAST)
    assert config.output_dir == str(tmp_path / "out")
    assert creativewritinggpt.train(stories, config=config, overwrite=True).steps == 1
    assert Config(max_length="48", sources="a,b").to_dict()["sources"] == ["a", "b"]
    for wrong in ("long", None, True):
        with pytest.raises(InputError, match="max_length must"):
            Config(max_length=wrong)


def test_evaluate_takes_any_writer(tiny_folder, tmp_path):
    stories = write_stories(tmp_path / "stories.jsonl")
    writer = load_model(str(tiny_folder("gpt2")), "cpu", "fp32")
    assert creativewritinggpt.evaluate(writer, stories)["macro_perplexity"]["base"] > 1


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_analyze_explains_a_model_in_bf16_and_leaves_it_as_it_was(
    tiny_model, tiny_tokenizer, family
):
    model = tiny_model(family).bfloat16().train()
    head = model.get_output_embeddings().eval()
    for write in (None, 2):
        found = creativewritinggpt.analyze(
            "A king had three", model, tokenizer=tiny_tokenizer, write=write
        )
        assert found.record["gradients"]["signed"] and found.record["perturbation"]
    assert model.training and not head.training
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
