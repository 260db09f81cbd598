"""Adapters as PEFT saves them, evaluated and explained beside an untouched base."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from creativewritinggpt import api
from creativewritinggpt.analysis.registry import AnalysisSettings
from creativewritinggpt.analysis.run import explain
from creativewritinggpt.cli.main import main
from creativewritinggpt.data.document import Document
from creativewritinggpt.evaluation.scoring import score_documents

TEXTS = ("The lamp went out, and the captain laughed.", "Nobody answered. The sea turned over.")
BROUGHT: dict[str, dict[str, Any]] = {
    "biases": {"bias": "all"},
    "norm": {"modules_to_save": ["ln_f"]},
    "head": {"modules_to_save": ["wte", "lm_head"]},
}


@pytest.fixture(params=BROUGHT)
def adapter(request: Any, tmp_path: Path, tiny_folder: Any) -> tuple[Path, Path]:
    """Folders of a base, and of an adapter of it that brings more than LoRA."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    base = tiny_folder("gpt2")
    options = {
        "r": 2,
        "target_modules": ["c_attn"],
        "fan_in_fan_out": True,
        "task_type": "CAUSAL_LM",
    }
    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(base), LoraConfig(**options, **BROUGHT[request.param])
    )
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(tmp_path / "adapter")
    return base, tmp_path / "adapter"


def _nll(model: Any, tokenizer: Any, text: str) -> float:
    ids = torch.tensor([[tokenizer.bos_token_id, *tokenizer(text)["input_ids"]]])
    with torch.no_grad():
        logs = model(ids).logits[0, :-1].double().log_softmax(-1)
    return -float(logs.gather(1, ids[0, 1:, None]).sum())


def _both(base: Path, adapter: Path) -> tuple[Any, Any]:
    """PEFT's own models: the base alone, and the tuned one."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    plain = AutoModelForCausalLM.from_pretrained(base).eval()
    other = AutoModelForCausalLM.from_pretrained(base)
    return plain, PeftModel.from_pretrained(other, adapter).eval()


def test_evaluation_is_of_the_tuned_model_and_the_untouched_base(
    adapter: tuple[Path, Path], tmp_path: Path, monkeypatch: Any, tiny_tokenizer: Any, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    base, folder = adapter
    lines = "".join(json.dumps({"text": text}) + "\n" for text in TEXTS)
    (tmp_path / "texts.jsonl").write_text(lines, "utf-8")
    words = ["evaluate", "texts.jsonl", "--texts", "0", "--precision", "fp32"]
    words += ["--forgetting", "texts.jsonl"]
    assert main([*words, "--model", str(folder), "--output-dir", "one"]) == 0
    assert main([*words, "--compare", str(base), str(folder), "--output-dir", "two"]) == 0
    said = capsys.readouterr().err
    assert "Warning" not in said and "tuned ppl" in said
    one, two = (json.loads((tmp_path / n / "evaluation.json").read_text()) for n in ("one", "two"))
    assert [model["role"] for model in one["models"]] == ["base", "tuned"]
    assert one["models"][1]["adapter"] and Path(one["models"][0]["name"]) == base
    wanted = [sum(_nll(m, tiny_tokenizer, text) for text in TEXTS) for m in _both(base, folder)]
    found = one["domains"]["texts"]
    for role, label, nats in zip(("base", "tuned"), (str(base), str(folder)), wanted, strict=True):
        assert found[role]["nll_sum"] == pytest.approx(nats, rel=1e-5)
        assert two["domains"]["texts"][label]["nll_sum"] == pytest.approx(nats, rel=1e-5)
    for key in ("nats_per_token", "ci95", "relative"):
        same = two["domains"]["texts"]["differences"][str(folder)][key]
        assert found["differences"]["tuned"][key] == pytest.approx(same, abs=1e-6)


def test_what_tuning_changed_is_told_against_the_base_alone(
    adapter: tuple[Path, Path], tiny_tokenizer: Any
) -> None:
    base, folder = adapter
    model = api.load(folder, precision="fp32")
    settings = AnalysisSettings(methods=["attention", "lens", "difference"])
    record = explain(model, TEXTS[0], settings).record
    ids = torch.tensor([[token["id"] for token in record["input"]]])
    for name, plain in zip(("base", "tuned"), _both(base, folder), strict=True):
        with torch.no_grad():
            logs = plain(ids).logits[0].log_softmax(-1)
        own = logs[:-1].gather(1, ids[0, 1:, None])[:, 0]
        told = record["difference"][f"{name}_log_probability"][1:]
        np.testing.assert_allclose(told, own, atol=1e-5)
        last = record["lens"][name]["log_probability"][-1][0]
        assert last == pytest.approx(float(logs[-1, record["target"]["id"]]), abs=1e-5)
    with model.base():
        (score,) = score_documents(model, [Document("texts", "texts", TEXTS[0])])
    assert score.nll == pytest.approx(
        _nll(_both(base, folder)[0], tiny_tokenizer, TEXTS[0]), rel=1e-6
    )
