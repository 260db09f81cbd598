"""What each exported format loses and costs, and whether other programs agree.

    python bench/export.py formats FILE [--model starter] [--stories 12] [--tokens 256]
    python bench/export.py starter
    python bench/export.py large [--parameters 1.5]
    python bench/export.py older [--transformers 4.57.3]

    formats   every GGUF format of a model against its float32 weights, on stories of FILE (a
              story per line, as text or as JSON with the story under `story` or `text`)
    starter   the starter to Q8_0, verified to level 3: seconds and peak memory
    large     a Llama of 1.5 billion random parameters in bf16 to Q8_0, verified to level 3, and
              to merged bf16: seconds and peak memory
    older     the merged folder in an older transformers, in a folder of packages of its own

`starter` and `large` run in processes of their own; peak memory is the kernel's, mapped files
included.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from formats import stories as stories_of
from measuring import in_own_process

from creativewritinggpt import console
from creativewritinggpt.devices import peak_memory_bytes
from creativewritinggpt.export import gguf_file, verify
from creativewritinggpt.export.merged import config_json, write_tokenizer, write_weights
from creativewritinggpt.export.quantization import FORMATS
from creativewritinggpt.export.run import export
from creativewritinggpt.export.settings import ExportSettings
from creativewritinggpt.export.tokenizer import gguf_tokenizer
from creativewritinggpt.export.weights import merged_weights
from creativewritinggpt.models.gguf_model import GGUFModel
from creativewritinggpt.models.loading import load_model

TEXT = "The night ferry was late, and nobody on the pier had thought to bring a lamp."
# Run by an older transformers, without this package.
_OLDER = """
import json, sys
import torch, transformers
from transformers import AutoModelForCausalLM, AutoTokenizer
folder, text = sys.argv[1:3]
ids = AutoTokenizer.from_pretrained(folder)(text)["input_ids"]
model = AutoModelForCausalLM.from_pretrained(folder, torch_dtype=torch.float32).eval()
with torch.no_grad():
    logits = model(torch.tensor([ids])).logits[0]
torch.save(logits, sys.argv[3])
print(json.dumps({"version": transformers.__version__, "ids": ids,
                  "rope_theta": getattr(model.config, "rope_theta", None)}))
"""


def formats(
    name: str, file: str, stories: int, tokens: int, names: list[str]
) -> list[dict[str, Any]]:
    """Size and losses of each format of a model."""
    model = load_model(name, "cpu", "fp32")
    weights = merged_weights(model)
    tokenizer = gguf_tokenizer(
        model.tokenizer, weights.config.vocab_size, model.bos_id, model.eos_id
    )
    about = gguf_file.Description("starter", "SmolLM2", "135M", None, "v1.0")
    texts = (verify.token_ids(model, text)[:tokens] for text in stories_of(Path(file)))
    rows = torch.tensor(list(itertools.islice((t for t in texts if len(t) == tokens), stories)))
    full = model.cast(type(model)).model
    with torch.no_grad():
        references = [
            verify.Reference(batch, full(input_ids=batch).logits, "as loaded")
            for batch in rows.split(4)
        ]
    found = []
    with tempfile.TemporaryDirectory() as scratch:
        for form in names:
            path = Path(scratch) / f"{form}.gguf"
            gguf_file.write(path, weights, tokenizer, FORMATS[form], about)
            file_model = GGUFModel(path)
            config = file_model.config()
            parts = [
                verify.compare(verify.streamed_logits(config, file_model, wanted.rows), wanted)
                for wanted in references
            ]
            found.append({"format": form, "bytes": path.stat().st_size, **_mean(parts)})
            path.unlink()
            console.note(json.dumps(found[-1]))
    return found


def _mean(parts: list[dict[str, Any]]) -> dict[str, Any]:
    """Figures of batches as one, weighted by their tokens."""
    tokens = sum(part["tokens"] for part in parts)

    def mean(key: str, change: Any = lambda value: value) -> float:
        return float(sum(change(part[key]) * part["tokens"] for part in parts) / tokens)

    return {
        "tokens": tokens,
        "mean_kl": mean("mean_kl"),
        "max_kl": max(part["max_kl"] for part in parts),
        "same_first": mean("same_first"),
        "perplexity": math.exp(mean("perplexity", math.log)),
        "perplexity_fp32": math.exp(mean("perplexity_fp32", math.log)),
    }


class _Random(Mapping[str, torch.Tensor]):
    """Random weights of given shapes, each made when asked for."""

    def __init__(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self.shapes = shapes

    def __getitem__(self, name: str) -> torch.Tensor:
        generator = torch.Generator().manual_seed(len(name) + sum(map(ord, name)))
        if len(self.shapes[name]) == 1:
            return torch.ones(self.shapes[name])
        return torch.randn(self.shapes[name], generator=generator) * 0.02

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def __len__(self) -> int:
        return len(self.shapes)


def large_folder(folder: Path, billions: float) -> None:
    """A Llama of about so many parameters, of Qwen2.5-1.5B's proportions, with random weights."""
    from transformers import LlamaConfig

    from creativewritinggpt.models.forward.families import LlamaForward

    starter = load_model("starter", "cpu", "fp32")
    layers = max(1, round((billions - 0.233) / 0.0468))
    config = LlamaConfig(
        vocab_size=151_936, hidden_size=1536, intermediate_size=8960, num_hidden_layers=layers,
        num_attention_heads=12, num_key_value_heads=2, max_position_embeddings=4096,
        tie_word_embeddings=True, bos_token_id=0, eos_token_id=0, pad_token_id=None,
    )  # fmt: skip
    config.architectures = ["LlamaForCausalLM"]
    shapes = LlamaForward.shapes(config)
    write_weights(folder, _Random(shapes), shapes, "bf16")
    (folder / "config.json").write_text(json.dumps(config_json(config, "bf16")))
    write_tokenizer(folder, starter)


def one_export(name: str, to: str, folder: str) -> dict[str, Any]:
    """An export in this process, with its time and peak memory."""
    started = time.perf_counter()
    model = load_model(name, "cpu", "fp32")
    result = export(model, to, Path(folder) / to, ExportSettings(verify=3))
    [levels] = result.record["verification"].values()
    return {
        "to": to,
        "seconds": time.perf_counter() - started,
        "peak_bytes": peak_memory_bytes(),
        "bytes": result.files[0].stat().st_size,
        "mean_kl": levels[2]["mean_kl"],
        "passed": all(level["passed"] is not False for level in levels),
    }


def older(version: str) -> dict[str, Any]:
    """The merged starter in an older transformers: largest difference of logits, and the ids."""
    with tempfile.TemporaryDirectory() as scratch:
        packages = Path(scratch) / "packages"
        subprocess.run(
            [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(packages),
             f"transformers=={version}"], check=True,
        )  # fmt: skip
        model = load_model("starter", "cpu", "fp32")
        settings = ExportSettings(dtype="fp32", verify=3)
        folder = export(model, "merged", Path(scratch) / "merged", settings).folder
        done = subprocess.run(
            [sys.executable, "-c", _OLDER, str(folder), TEXT, str(Path(scratch) / "logits.pt")],
            env={**os.environ, "PYTHONPATH": str(packages), "HF_HUB_OFFLINE": "1"},
            cwd=scratch, capture_output=True, text=True, check=True,
        )  # fmt: skip
        found = json.loads(done.stdout.splitlines()[-1])
        logits = torch.load(Path(scratch) / "logits.pt", weights_only=True)
        ids = verify.token_ids(model, TEXT)
        with torch.no_grad():
            wanted = model.model(input_ids=torch.tensor([found["ids"]])).logits[0]
        return {
            "transformers": found["version"],
            "same_tokens": found["ids"] == ids,
            "rope_theta": found["rope_theta"],
            "largest_difference": float((logits - wanted).abs().max()),
        }


def main() -> None:
    """Run one of the comparisons; JSON on stdout."""
    if sys.argv[1:2] == ["--worker"]:
        print(json.dumps(one_export(*sys.argv[2:5])))
        return
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("formats", "starter", "large", "older"))
    parser.add_argument("file", nargs="?", help="stories, for formats")
    parser.add_argument("--model", default="starter", help="for formats")
    parser.add_argument("--stories", type=int, default=12)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--formats", nargs="+", default=list(FORMATS), choices=list(FORMATS))
    parser.add_argument("--parameters", type=float, default=1.5, help="billions, for large")
    parser.add_argument("--transformers", default="4.57.3", help="version, for older")
    parser.add_argument("--to", nargs="+", default=["gguf", "merged"], help="for large")
    given = parser.parse_args()
    if given.what == "formats":
        if not given.file:
            parser.error("formats needs FILE")
        found: Any = formats(given.model, given.file, given.stories, given.tokens, given.formats)
        _table(found)
    elif given.what == "older":
        found = older(given.transformers)
    else:
        with tempfile.TemporaryDirectory() as scratch:
            name, targets = "starter", ["gguf"]
            if given.what == "large":
                name, targets = str(Path(scratch) / "large"), given.to
                Path(name).mkdir()
                large_folder(Path(name), given.parameters)
            found = [in_own_process(__file__, [name, to, scratch], 3600) for to in targets]
    print(json.dumps(found))


def _table(rows: list[dict[str, Any]]) -> None:
    console.table(
        "GGUF formats",
        ["format", "MB", "mean KL", "same first choice", "perplexity"],
        [
            [
                row["format"], f"{row['bytes'] / 1e6:.0f}", f"{row['mean_kl']:.2g}",
                f"{100 * row['same_first']:.1f} %", f"{row['perplexity']:.2f}",
            ]
            for row in rows
        ],
    )  # fmt: skip


if __name__ == "__main__":
    main()
