"""The starter in llama.cpp: the bounds that docs/export.md states."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from export_models import save_adapter

from creativewritinggpt.export.run import export
from creativewritinggpt.export.settings import ExportSettings
from creativewritinggpt.models.loading import load_model
from creativewritinggpt.models.starter import ensure_starter

pytestmark = [pytest.mark.network, pytest.mark.slow]


def levels_of(result):
    [levels] = result.record["verification"].values()
    return {level["level"]: level for level in levels}


def test_the_starter_and_its_adapter_in_llama_cpp(tmp_path):
    pytest.importorskip("xllamacpp")
    starter = load_model("starter", "cpu", "fp32")
    result = export(starter, "gguf", tmp_path / "gguf", ExportSettings(quantize=["F32"]))
    levels = levels_of(result)
    assert levels[4]["mean_kl"] <= 1e-4 and levels[4]["greedy_same"] == 64
    assert result.files[0].name == "SmolLM2-135M-Instruct-v1.0-F32.gguf"

    base = ensure_starter()
    folder = save_adapter(base, tmp_path / "adapter", targets=["q_proj", "k_proj"], use_rslora=True)
    adapter = export(load_model(str(folder), "cpu", "fp32"), "lora-gguf", tmp_path / "lora")
    levels = levels_of(adapter)
    assert levels[4]["mean_kl"] <= 1e-4 and levels[4]["mean_kl_half"] <= 1e-4


def test_eight_bits_of_the_starter_take_little_memory(tmp_path):
    ensure_starter()  # its conversion takes more memory than the export
    script = Path(__file__).parents[2] / "bench" / "export.py"
    done = subprocess.run(
        [sys.executable, str(script), "--worker", "starter", "gguf", str(tmp_path)],
        capture_output=True, text=True, check=True, timeout=500,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )  # fmt: skip
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["passed"] and found["peak_bytes"] < 2.5e9 and found["mean_kl"] <= 0.005
