"""Style strength and blends of adapters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from writers import make_writer

from creativewritinggpt.errors import InputError
from creativewritinggpt.generation.engine import write
from creativewritinggpt.generation.sampling.settings import GenerationSettings
from creativewritinggpt.generation.style import blend, parse_part, set_strength
from creativewritinggpt.models.forward.backends import backend_for

IDS = [5, 17, 200, 3, 99, 350, 42]


def logits(writer: Any, weights: str = "fp32") -> torch.Tensor:
    return backend_for(writer, weights).read(IDS, 20)[1][0]


@pytest.fixture
def folders(tmp_path: Path, tiny_model: Any) -> list[str]:
    """Two adapters of the tiny Llama, of different rank and on different projections."""
    from peft import LoraConfig, get_peft_model

    made = []
    for number, (rank, targets) in enumerate(
        [(2, ["q_proj", "v_proj"]), (4, ["v_proj", "up_proj"])]
    ):
        torch.manual_seed(number)
        lora = LoraConfig(
            r=rank, lora_alpha=2 * rank, target_modules=targets, task_type="CAUSAL_LM",
            init_lora_weights=False,
        )  # fmt: skip
        get_peft_model(tiny_model("llama"), lora).save_pretrained(tmp_path / f"style{number}")
        made.append(str(tmp_path / f"style{number}"))
    return made


@pytest.mark.parametrize("weights", ["fp32", "transformers"])
def test_strength_0_is_the_base_1_the_tuned_and_between_is_between(
    tiny_model: Any, tiny_tokenizer: Any, folders: list[str], weights: str
) -> None:
    base = logits(make_writer(tiny_model("llama"), tiny_tokenizer), weights)
    writer = make_writer(tiny_model("llama"), tiny_tokenizer)
    blend(writer, [(folders[0], 1.0)])
    tuned = logits(writer, weights)
    set_strength(writer, 0)
    assert torch.allclose(logits(writer, weights), base, atol=1e-5)
    set_strength(writer, 1)
    assert torch.allclose(logits(writer, weights), tuned, atol=1e-5)
    gaps = []
    for strength in (0.25, 0.5, 0.75, 1.25, 1.5):
        set_strength(writer, strength)
        gaps.append(float((logits(writer, weights) - base).norm()))
    assert gaps == sorted(gaps)
    for wrong in (-0.1, 1.6, float("nan")):
        with pytest.raises(InputError, match="strength"):
            set_strength(writer, wrong)


def test_a_blend_adds_the_weighted_changes_of_all_weights(
    tiny_model: Any, tiny_tokenizer: Any, folders: list[str]
) -> None:
    from peft import PeftModel

    by_hand = tiny_model("llama")
    base = {name: p.clone() for name, p in by_hand.named_parameters()}
    total = {name: torch.zeros_like(p) for name, p in base.items()}
    for folder, weight in zip(folders, (0.7, 0.3), strict=True):
        merged = PeftModel.from_pretrained(tiny_model("llama"), folder).merge_and_unload()
        for name, p in merged.named_parameters():
            total[name] += weight * (p.detach() - base[name])
    with torch.no_grad():
        for name, p in by_hand.named_parameters():
            p.add_(total[name])
    writer = make_writer(tiny_model("llama"), tiny_tokenizer)
    blend(writer, [(folders[0], 0.7), (folders[1], 0.3)])
    expected = logits(make_writer(by_hand, tiny_tokenizer))
    for weights in ("fp32", "transformers"):
        assert torch.allclose(logits(writer, weights), expected, atol=1e-4)
    # Weights are changed without loading again, also to one of them alone.
    blend(writer, [(folders[1], 1.0)])
    alone = make_writer(tiny_model("llama"), tiny_tokenizer)
    blend(alone, [(folders[1], 1.0)])
    assert torch.allclose(logits(writer), logits(alone), atol=1e-5)
    # The dial turns what is on; what the blend left out stays off.
    set_strength(writer, 1)
    assert torch.allclose(logits(writer), logits(alone), atol=1e-5)


def test_the_dial_changes_the_text(tiny_writer: Any, folders: list[str]) -> None:
    writer = tiny_writer("llama")
    settings = GenerationSettings(seed=1, max_new_tokens=30, weights="int8")
    [before] = write(writer, "The lamp", settings)
    blend(writer, [(folders[0], 1.5)])
    [after] = write(writer, "The lamp", settings)
    assert before.text != after.text


def test_what_does_not_fit_is_named(
    tiny_model: Any, tiny_tokenizer: Any, tiny_writer: Any, folders: list[str], tmp_path: Path
) -> None:
    writer = tiny_writer("llama")
    with pytest.raises(InputError, match="no adapter whose strength"):
        set_strength(writer, 1)
    with pytest.raises(InputError, match="no adapter"):
        blend(writer, [(str(tmp_path / "nothing"), 1.0)])
    with pytest.raises(InputError, match="another base"):
        blend(tiny_writer("gpt2"), [(folders[0], 1.0)])
    blend(writer, [(folders[0], 1.0)])
    wider = tiny_model("llama", hidden_size=64)
    from peft import LoraConfig, get_peft_model

    get_peft_model(wider, LoraConfig(target_modules=["q_proj"])).save_pretrained(tmp_path / "wide")
    with pytest.raises(InputError, match="another base"):
        blend(writer, [(str(tmp_path / "wide"), 1.0)])
    with pytest.raises(InputError, match="twice"):
        blend(writer, [(folders[0], 0.5), (folders[0], 0.5)])
    with pytest.raises(InputError, match="weight of"):
        blend(writer, [(folders[0], 2.0)])


def test_an_adapter_below_the_home_folder_is_found(
    tiny_writer: Any, folders: list[str], monkeypatch: Any
) -> None:
    # A shell leaves the ~ of --adapter=~/noir to us.
    place = Path(folders[0])
    monkeypatch.setenv("HOME", str(place.parent))
    monkeypatch.setenv("USERPROFILE", str(place.parent))
    writer = tiny_writer("llama")
    blend(writer, [(f"~/{place.name}", 1.0)])
    assert writer.has_adapter


def test_parts_are_read_as_folder_and_weight() -> None:
    assert parse_part("styles/noir:0.7") == ("styles/noir", 0.7)
    assert parse_part("styles/noir") == ("styles/noir", 1.0)
    assert parse_part("C:\\styles\\noir") == ("C:\\styles\\noir", 1.0)
    for wrong in ("noir:much", "noir:-1", "noir:9"):
        with pytest.raises(InputError):
            parse_part(wrong)
