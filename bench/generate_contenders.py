"""The contenders of ``bench/generate.py``: ours in each number format, and the peers.

All write the same prompts with the same sampling settings and never end early. Both models use the
starter's tokenizer; ``gpt2-124m`` has random weights of GPT-2's shape, and its tokenizer is filled
up with names that no text holds.
"""

from __future__ import annotations

import json
import random
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib import resources
from pathlib import Path
from typing import Any

MODELS = ("gpt2-124m", "starter")
SAMPLING = {"temperature": 0.9, "top_p": 0.95, "repetition_penalty": 1.1}


class Contender:
    """Something that writes: a name, a way to write, and the bytes it reads for each token."""

    def __init__(self, write: Callable[[str, int, int], Any], weight_bytes: int) -> None:
        self.write = write
        self.weight_bytes = weight_bytes


def sample_words() -> list[str]:
    """The words of the sample corpus, one text after the other."""
    lines: list[str] = []
    folder = resources.files("creativewritinggpt") / "data" / "sample"
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name):
        if entry.name.endswith(".jsonl"):
            rows = (json.loads(line) for line in entry.read_text("utf-8").splitlines())
            lines += [max((str(v) for v in row.values()), key=len) for row in rows]
    return " ".join(lines).split()


def sample_prompts(tokens: int) -> list[str]:
    """Prompts of about so many tokens from the sample corpus, all different."""
    words = sample_words()
    # A token is about three quarters of a word.
    size = tokens * 3 // 4
    starts = list(range(0, len(words) - size, size))
    random.Random(0).shuffle(starts)
    return [" ".join(words[start : start + size]) for start in starts]


def load(model: str) -> Any:
    """The writer of a model, in fp32."""
    from creativewritinggpt.models.loading import load_model

    writer = load_model("starter")
    if model == "gpt2-124m":
        import torch
        from transformers import GPT2Config, GPT2LMHeadModel

        assert writer.model is not None  # built now, with the tokenizer that tokens can be added to
        torch.manual_seed(0)
        writer.model = GPT2LMHeadModel(GPT2Config()).eval()
        writer.context_length = 1024
        size = int(writer.model.config.vocab_size)
        unused = [f"[unused{number}]" for number in range(len(writer.tokenizer), size)]
        writer.tokenizer.add_tokens(unused)
    return writer


def _weights(model: Any) -> int:
    """Parameters that every token is multiplied by: not the embeddings that are only looked up."""
    head = model.get_output_embeddings().weight
    inputs = {id(model.get_input_embeddings().weight)}
    looked_up = [p for n, p in model.named_parameters() if n.endswith("wpe.weight")]
    left_out = (inputs | {id(p) for p in looked_up}) - {id(head)}
    return sum(p.numel() for p in model.parameters() if id(p) not in left_out)


def _ours(model: str, weights: str) -> Contender:
    from creativewritinggpt.generation.engine import write
    from creativewritinggpt.generation.sampling.settings import GenerationSettings
    from creativewritinggpt.models.forward.backends import backend_for

    writer = load(model)
    count = _weights(writer.model)
    kind = backend_for(writer, weights).name

    def run(prompt: str, tokens: int, rows: int) -> None:
        settings = GenerationSettings(
            max_new_tokens=tokens, min_new_tokens=tokens, weights=weights, seed=1, **SAMPLING
        )
        texts = write(writer, prompt, settings, n=rows)
        if [len(text.tokens) for text in texts] != [tokens] * rows:
            raise RuntimeError("a text ended early")

    return Contender(run, int(count * {"bf16": 2, "int8": 1, "onnx": 1}.get(kind, 4)))


def _transformers(model: str, dtype: str) -> Contender:
    import torch

    writer = load(model)
    count = _weights(writer.model)
    if dtype == "bf16":
        writer.model = writer.model.to(torch.bfloat16)

    def run(prompt: str, tokens: int, rows: int) -> None:
        ids = [writer.bos_id, *writer.tokenizer(prompt, add_special_tokens=False)["input_ids"]]
        given = torch.tensor([ids])
        output = writer.model.generate(
            given,
            attention_mask=torch.ones_like(given),
            do_sample=True,
            top_k=0,
            max_new_tokens=tokens,
            min_new_tokens=tokens,
            num_return_sequences=rows,
            pad_token_id=writer.eos_id,
            eos_token_id=writer.eos_id,
            **SAMPLING,
        )
        if tuple(output.shape) != (rows, len(ids) + tokens):
            raise RuntimeError("a text ended early")

    return Contender(run, count * (2 if dtype == "bf16" else 4))


def _ctranslate2(model: str) -> Contender:
    import ctranslate2

    writer = load(model)
    count = _weights(writer.model)
    folder = Path(tempfile.mkdtemp(prefix="bench-generate-"))
    writer.model.save_pretrained(folder / "hub")
    writer.tokenizer.save_pretrained(folder / "hub")
    converter = ctranslate2.converters.TransformersConverter(str(folder / "hub"))
    converter.convert(str(folder / "converted"), quantization="int8")
    # It writes null for what a model has not, and then can't read it.
    config = folder / "converted" / "config.json"
    entries = json.loads(config.read_text("utf-8"))
    entries = {name: value for name, value in entries.items() if value is not None}
    entries.setdefault("unk_token", writer.tokenizer.eos_token)
    config.write_text(json.dumps(entries), "utf-8")
    generator = ctranslate2.Generator(
        str(folder / "converted"), device="cpu", compute_type="int8", intra_threads=0
    )

    def run(prompt: str, tokens: int, rows: int) -> None:
        ids = [writer.bos_id, *writer.tokenizer(prompt, add_special_tokens=False)["input_ids"]]
        names = writer.tokenizer.convert_ids_to_tokens(ids)
        results = generator.generate_batch(
            [names],
            num_hypotheses=rows,
            max_length=tokens,
            min_length=tokens,
            sampling_topk=0,
            sampling_topp=SAMPLING["top_p"],
            sampling_temperature=SAMPLING["temperature"],
            repetition_penalty=SAMPLING["repetition_penalty"],
            include_prompt_in_result=False,
        )
        if [len(ids) for ids in results[0].sequences_ids] != [tokens] * rows:
            raise RuntimeError("a text ended early")

    return Contender(run, count)


def _llama_cpp(model: str) -> Contender:
    import httpx
    import torch
    import xllamacpp

    from creativewritinggpt.export.run import export
    from creativewritinggpt.export.settings import ExportSettings

    writer = load(model)
    count = _weights(writer.model)
    folder = Path(tempfile.mkdtemp(prefix="bench-generate-")) / "model"
    [path] = export(writer, "gguf", folder, ExportSettings(verify=1)).files
    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.n_parallel, params.n_ctx = 8, 8 * 1024
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = torch.get_num_threads()
    server = xllamacpp.Server(params)  # in this process: it answers on the loopback address
    client = httpx.Client(base_url=server.listening_address, timeout=None)
    while not _is_ready(client):
        time.sleep(0.05)

    def run(prompt: str, tokens: int, rows: int) -> None:
        ids = [writer.bos_id, *writer.tokenizer(prompt, add_special_tokens=False)["input_ids"]]
        body = {"prompt": ids, "n_predict": tokens, "ignore_eos": True, "top_k": 0, "min_p": 0.0,
                "top_p": SAMPLING["top_p"], "temperature": SAMPLING["temperature"],
                "repeat_penalty": SAMPLING["repetition_penalty"], "repeat_last_n": 64}  # fmt: skip

        def write(_: int) -> None:
            # The address: the server lives as long as it is named here.
            answer = client.post(f"{server.listening_address}/completion", json=body)
            answer.raise_for_status()
            if (written := answer.json()["tokens_predicted"]) != tokens:
                raise RuntimeError(f"llama.cpp wrote {written} tokens, not {tokens}")

        with ThreadPoolExecutor(rows) as pool:  # its server writes them together
            list(pool.map(write, range(rows)))

    # Q8_0 keeps a 16-bit scale for each 32 weights: 8.5 bits.
    return Contender(run, count * 34 // 32)


def _is_ready(client: Any) -> bool:
    """Whether a server listens and has loaded its model."""
    import httpx

    try:
        return bool(client.get("/health").status_code == 200)
    except httpx.ConnectError:
        return False


CONTENDERS: dict[str, Callable[[str], Contender]] = {
    "ours-fp32": lambda model: _ours(model, "fp32"),
    "ours-bf16": lambda model: _ours(model, "bf16"),
    "ours-int8": lambda model: _ours(model, "int8"),
    "ours-onnx": lambda model: _ours(model, "onnx"),
    "ours": lambda model: _ours(model, "auto"),
    "transformers": lambda model: _transformers(model, "fp32"),
    "transformers-bf16": lambda model: _transformers(model, "bf16"),
    "ctranslate2": _ctranslate2,
    "llama.cpp": _llama_cpp,
}


def make_contender(name: str, model: str) -> Contender:
    """A contender, loaded and ready."""
    return CONTENDERS[name](model)
