"""Settings: one place, checked, with messages that name field, value and fix."""

import dataclasses
import re

import pytest

from creativewritinggpt.config.run import Config, load_config, recipe_names, recipe_text
from creativewritinggpt.errors import InputError


def test_defaults_are_those_of_the_original():
    config = Config()
    assert (config.model_name, config.max_length, config.batch_size) == ("gpt2", 512, 8)
    assert (config.lora_r, config.lora_alpha, config.lora_dropout) == (8, 16, 0.1)
    assert (config.learning_rate, config.num_epochs, config.max_grad_norm) == (5e-4, 5, 1.0)
    assert (config.gradient_accumulation_steps, config.patience, config.min_delta) == (1, 2, 0.01)
    assert (config.train_size, config.val_size) == (20000, 2000)
    assert (config.output_dir, config.results_dir) == ("outputs", "results")
    assert config.target_modules is None


def test_every_setting_has_a_sentence_of_help():
    for field in dataclasses.fields(Config):
        assert field.metadata["help"].endswith("."), field.name


@pytest.mark.parametrize("name", recipe_names())
def test_recipe_loads_and_explains_every_key(name):
    config = load_config(name).to_dict()
    lines = recipe_text(name).splitlines()
    settings = [number for number, line in enumerate(lines) if re.match(r"\w+:", line)]
    assert len(settings) >= 10
    for number in settings:
        assert lines[number].partition(":")[0] in config
        before = lines[number - 1]
        assert before.startswith("# ") and before.endswith("."), lines[number]


def test_recipes_are_the_promised_ones():
    assert set(recipe_names()) >= {"starter", "gpt2", "novel"}
    assert load_config("gpt2").gradient_accumulation_steps == 4


def test_starter_recipe_is_taken_by_itself():
    assert load_config(None, {"model_name": "starter"}) == load_config("starter")
    assert load_config("gpt2", {"model_name": "starter"}).lora_r == 8
    assert load_config(None, {"model_name": "other"}).lora_r == Config().lora_r


def test_flag_wins_over_recipe_wins_over_default(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("lora_r: 4\nseed: 7\n")
    config = load_config(str(file), {"seed": "9"})
    assert (config.lora_r, config.seed, config.lora_alpha) == (4, 9, Config().lora_alpha)


def test_yaml_exponents_are_numbers(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("learning_rate: 1e-4\n")
    assert load_config(str(file)).learning_rate == 1e-4


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("learning_rat: 1", ["unknown setting 'learning_rat'", "learning_rate"]),
        ("lora_r: 0", ["lora_r is 0", "at least 1"]),
        ("lora_r: 2.5", ["lora_r must be a whole number", "2.5"]),
        ("lora_dropout: 2", ["lora_dropout is 2.0", "at most 0.9"]),
        ("learning_rate: .nan", ["learning_rate is nan", "finite"]),
        ("learning_rate: 0", ["learning_rate is 0.0", "greater than 0"]),
        ("schedule: step", ["schedule is 'step'", "linear, cosine, constant"]),
        ("mask_prompt: 3", ["mask_prompt must be true or false"]),
        ("seed:", ["seed must have a value"]),
        ("mix: {a: -1}", ["mix is"]),
        ("mix: {a: .nan}", ["mix is"]),
        ("mix: {a: 1, b: .inf}", ["mix is"]),
        ("- 1\n- 2", ["must hold settings"]),
        ("a: [", ["not valid YAML", "line"]),
    ],
)
def test_bad_settings_are_named_with_their_fix(tmp_path, text, parts):
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    with pytest.raises(InputError) as caught:
        load_config(str(file))
    said = f"{caught.value.message} {caught.value.advice}"
    for part in parts:
        assert part in said, said
    assert "\n" not in caught.value.message


def test_unknown_recipe_lists_those_there_are():
    with pytest.raises(InputError) as caught:
        load_config("nowhere")
    assert "starter" in str(caught.value.advice)


def test_config_survives_json():
    config = load_config("starter")
    assert Config(**config.to_dict()) == config


def test_the_model_is_the_first_argument_of_a_config():
    assert Config("starter").model_name == "starter"
    assert Config("starter").device is None
