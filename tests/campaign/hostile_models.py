"""Hostile settings, adapters, model folders, tokenizers, and GGUF files."""

from __future__ import annotations

import functools
import json
import shutil
import struct
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from .mutations import JUNK, JUNK_NUMBER, JUNK_TEXT, grown, mutated, mutated_json, to_json
from .sandbox import Target

# --- recipes, presets, settings

_RECIPE = (
    b"model_name: starter\nlearning_rate: 5e-4\nlora_r: 8\ntarget_modules: [q_proj, v_proj]\n"
    b"mix: {a: 1, b: 2}\nmask_prompt: true\nmax_steps: 20\nsources: [writingprompts]\n"
)
_PRESET = (
    b"why: dark\ntemperature: 0.8\ntop_p: 0.9\nstop: ['###']\nbanned: [x]\nsamplers: top_k,min_p\n"
)
_YAML = [
    b"- ", b": ", b"\n", b"{", b"}", b"[", b"]", b"&a ", b"*a", b"<<: *a\n",
    b"!!python/object:os.system ",
    b"!!python/name:os.system", b"!!binary x", b"!!set {x}", b"!!timestamp 2001-99-99",
    b"2001-99-99",
    b"2001-02-30", b"? ", b"| ", b"> ", b"---\n", b"...\n", b"%YAML 9.9\n", b"!!int x",
    b"!!float x",
    b"0o9", b"1:99:99", b"0b", b"1_0", b"~", b"lora_r: ", b"learning_rate: ", b"mix: ",
    b"max_steps: ",
    b"temperature: ", b"stop: ", b"logit_bias: ", b"samplers: ", b"a: &a [*a]\n",
    b"lora_r: &a\n  - *a\n",
    b"a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\n"
    b"c: &c [*b,*b,*b,*b,*b,*b,*b,*b]\n"
    b"d: &d [*c,*c,*c,*c,*c,*c,*c,*c]\ne: &e [*d,*d,*d,*d,*d,*d,*d]\n"
    b"lora_r: [*e,*e,*e,*e,*e,*e,*e,*e]\n",
    b"[" * 2000, b"{a: " * 2000, b"- " * 2000, b"9" * 5000, b".inf", b".nan", b"-.inf", b"1e999",
]  # fmt: skip


def _act_recipe(data: bytes, folder: Path) -> None:
    from creativewritinggpt.config.run import load_config

    path = folder / "mine.yaml"
    path.write_bytes(data)
    json.dumps(load_config(str(path)).to_dict()).encode()


def _act_preset(data: bytes, folder: Path) -> None:
    from creativewritinggpt.generation.sampling.settings import GenerationSettings, with_preset

    path = folder / "mine.yaml"
    path.write_bytes(data)
    json.dumps(with_preset(GenerationSettings(), str(path)).to_dict())


@functools.cache
def _names() -> tuple[list[str], list[str]]:
    from creativewritinggpt.config.fields import fields_of
    from creativewritinggpt.config.run import Config
    from creativewritinggpt.generation.sampling.settings import GenerationSettings

    return ([field.name for field in fields_of(Config)],
            [field.name for field in fields_of(GenerationSettings)])  # fmt: skip


def _settings() -> st.SearchStrategy[Any]:
    run, writing = _names()
    return st.one_of(
        st.tuples(st.just("run"), st.dictionaries(st.sampled_from(run), JUNK, max_size=3)),
        st.tuples(st.just("writing"), st.dictionaries(st.sampled_from(writing), JUNK, max_size=3)),
        st.tuples(st.just("mix"), st.dictionaries(
            st.sampled_from(["a", "b", "c", "temperature", ""]) | JUNK_TEXT, JUNK_NUMBER)),
    )  # fmt: skip


def _act_settings(case: tuple[str, dict[str, Any]], folder: Path) -> None:
    import numpy as np

    from creativewritinggpt.config.run import load_config
    from creativewritinggpt.data.mixing import mix
    from creativewritinggpt.generation.sampling.settings import GenerationSettings

    kind, values = case
    if kind == "writing":
        json.dumps(GenerationSettings().changed(values).to_dict())
        return
    config = load_config(None, {"mix": values} if kind == "mix" else values)
    json.dumps(config.to_dict())
    if kind == "mix":
        mix(["a", "b", "a", "b"], np.array([5, 9, 100, 3]), config.mix, max_length=8)


# --- safetensors


def _safetensors(header: Any, body: bytes) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


_HEADER = {
    "__metadata__": {"format": "pt"},
    "base_model.model.transformer.h.0.attn.c_attn.lora_A.weight":
        {"dtype": "F32", "shape": [2, 32], "data_offsets": [0, 256]},
    "base_model.model.transformer.h.0.attn.c_attn.lora_B.weight":
        {"dtype": "F32", "shape": [96, 2], "data_offsets": [256, 1024]},
}  # fmt: skip
_OFFSETS = st.sampled_from([0, 1, -1, 256, 1024, 2**31, 2**32, 2**63, 2**64, 2**70, 1.5, None, "x"])


@st.composite
def _tensors(draw: st.DrawFn) -> bytes:
    """A safetensors file with a hostile header, or damaged."""
    kind = draw(st.integers(0, 4))
    whole = _safetensors(_HEADER, bytes(1024))
    if kind == 0:
        return draw(mutated([whole]))
    if kind == 1:
        length = draw(st.sampled_from([0, 1, 8, 2**20, 2**31, 2**63, 2**64 - 1]))
        return struct.pack("<Q", length) + whole[8:]
    header = draw(
        mutated_json([_HEADER], st.one_of(JUNK, _OFFSETS, st.lists(_OFFSETS, max_size=3)))
    )
    if kind == 2 and isinstance(header, dict):
        header |= {f"x{n}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
                   for n in range(draw(st.sampled_from((10, 5000))))}  # fmt: skip
    numbers = draw(st.sampled_from([b"\x00", b"\xff", b"\x00\x00\xc0\x7f", b"\x00\x00\x80\x7f"]))
    return _safetensors(header, (numbers * 1024)[:1024])


def _act_tensors(data: bytes, folder: Path) -> None:
    from creativewritinggpt.models.checks import open_safetensors

    path = folder / "a.safetensors"
    path.write_bytes(data)
    open_safetensors(path)


# --- adapters

CONFIG: dict[str, Any] = {
    "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 2, "lora_alpha": 4, "lora_dropout": 0.0,
    "target_modules": ["c_attn"], "bias": "none", "fan_in_fan_out": True, "use_dora": False,
    "base_model_name_or_path": "tiny", "modules_to_save": None, "rank_pattern": {},
    "alpha_pattern": {}, "use_rslora": False, "inference_mode": True, "layers_to_transform": None,
    "layer_replication": None, "init_lora_weights": True, "revision": None, "auto_mapping": None,
}  # fmt: skip
_MLX = {"fine_tune_type": "lora", "model": "tiny",
        "lora_parameters": {"rank": 2, "scale": 2.0, "dropout": 0.0,
                            "keys": ["attn.c_attn"]}}  # fmt: skip
_FIELDS = st.one_of(
    JUNK,
    st.sampled_from(["LORA", "LOHA", "IA3", "OFT", "PROMPT_TUNING", "all", "lora_only",
                     "all-linear",
                     ".*", "(((((a+)+)+)+)+)$", "[", "lm_head", ["wte", "lm_head"],
                                                  {"c_attn": 10**9},
                     [[0, 10**9]], 10**9, -1, 0, "../../x", "os.system"]),
)  # fmt: skip


@st.composite
def _adapters(draw: st.DrawFn) -> dict[str, bytes]:
    mlx = draw(st.integers(0, 5)) == 0
    config = draw(mutated_json([_MLX if mlx else CONFIG], _FIELDS))
    data = to_json(config)
    if draw(st.integers(0, 9)) == 0:
        data = draw(mutated([data]))
    tensors = draw(st.one_of(st.just(_safetensors(_HEADER, bytes(1024))), _tensors()))
    if mlx:
        tensors = tensors.replace(b".lora_A.weight", b".lora_a").replace(
            b".lora_B.weight", b".lora_b"
        )
        return {"adapter_config.json": data, "adapters.safetensors": tensors}
    more = draw(st.sampled_from([{}, {"adapter_model.bin": b"x"}, {"README.md": b"x"}]))
    return {"adapter_config.json": data, "adapter_model.safetensors": tensors, **more}


def adapter(config: Any) -> dict[str, bytes]:
    """The files of an adapter with these settings."""
    weights = _safetensors(_HEADER, bytes(1024))
    return {"adapter_config.json": to_json(config), "adapter_model.safetensors": weights}


@functools.cache
def tiny() -> tuple[Any, Path]:
    """A tiny model in memory, and its folder."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast
    from transformers.utils import logging

    logging.disable_progress_bar()
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=300, n_layer=2, n_embd=32, n_head=4, n_positions=64,
                        bos_token_id=0, eos_token_id=0, pad_token_id=0)  # fmt: skip
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<|endoftext|>"], show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )  # fmt: skip
    tokenizer.train_from_iterator(["The lamp went out, and the captain laughed."] * 4, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<|endoftext|>",
                                   eos_token="<|endoftext|>")  # fmt: skip
    folder = Path(tempfile.mkdtemp(prefix="tiny-", dir=Path.home())) / "model"
    GPT2LMHeadModel(config).save_pretrained(folder)
    fast.save_pretrained(folder)
    return _load(folder), folder


def _load(folder: Path) -> Any:
    import creativewritinggpt as cwgpt

    return cwgpt.load(str(folder), device="cpu", precision="fp32")


def _write(model: Any) -> str:
    return str(model.write("The lamp", max_new_tokens=2, seed=1))


def put(members: dict[str, bytes], folder: Path) -> Path:
    """The folder ``given``, with these files."""
    place = folder / "given"
    place.mkdir()
    for name, data in members.items():
        (place / name).write_bytes(data)
    return place


def _act_adapter(case: dict[str, bytes], folder: Path) -> None:
    from creativewritinggpt.models.adapter import load_adapter

    place = put(case, folder)
    model = _load(tiny()[1])
    load_adapter(model, place)


# --- whole folders


@functools.cache
def _members() -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(tiny()[1].iterdir())}


_MODEL_FIELDS = st.one_of(
    JUNK,
    st.sampled_from(["llama", "gpt2", "bert", "t5", "mamba", "../x", ["GPT2LMHeadModel"],
                     {"AutoModelForCausalLM": "modeling.Evil"}, {"quant_method": "gptq"}, 10**6, 1,
                     "bfloat16", "float8", {"rope_type": "yarn"}, "flash_attention_2"]),
)  # fmt: skip


@st.composite
def _folders(draw: st.DrawFn) -> dict[str, bytes]:
    members = dict(_members())
    kind = draw(st.integers(0, 5))
    configs = [name for name in members if name.endswith(".json")]
    name = draw(st.sampled_from(configs))
    if kind <= 2:
        base = json.loads(members["config.json" if kind == 0 else name])
        members["config.json" if kind == 0 else name] = to_json(
            draw(mutated_json([base], _MODEL_FIELDS))
        )
    elif kind == 3:
        members[name] = draw(mutated([members[name]]))
    elif kind == 4:
        whole = members["model.safetensors"]
        size = struct.unpack("<Q", whole[:8])[0]
        header = draw(mutated_json([json.loads(whole[8 : 8 + size])], st.one_of(JUNK, _OFFSETS)))
        members["model.safetensors"] = _safetensors(header, whole[8 + size :])
    else:
        del members["model.safetensors"]
        weight_map = {"transformer.wte.weight": draw(st.sampled_from(
            ["../../../etc/passwd", "/etc/passwd", "x.bin", "config.json", "", ".", 5,
             None]))}  # fmt: skip
        members["model.safetensors.index.json"] = to_json(
            draw(st.sampled_from([{"weight_map": weight_map}, {"weight_map": []}, [], {}]))
        )
    if draw(st.integers(0, 6)) == 0:
        members |= {"modeling.py": b"open('outside.txt', 'w')\nclass Evil: pass\n",
                    "tokenization.py": b"open('outside.txt', 'w')\n"}  # fmt: skip
    return members


def _act_folder(case: dict[str, bytes], folder: Path) -> None:
    _write(_load(put(case, folder)))


@st.composite
def _tokenizers(draw: st.DrawFn) -> dict[str, bytes]:
    """Another tokenizer.json: its parts exchanged for others, its numbers for larger ones."""
    base = json.loads(_members()["tokenizer.json"])
    vocabulary = base["model"]["vocab"]
    parts: list[Any] = [
        {"type": "Unigram", "unk_id": 0, "vocab": [["x", 0.0]], "byte_fallback": True},
        {"type": "WordPiece", "unk_token": "x", "vocab": {"x": 0}}, {"type": "BPE"},
        {"type": "Whitespace"}, {"type": "ByteLevel"}, {"type": "Precompiled",
                                                        "precompiled_charsmap": "x"},
        {"type": "Replace", "pattern": {"Regex": "(a+)+$"}, "content": "x" * 1000},
        {"type": "Split", "pattern": {"Regex": "("}, "behavior": "Isolated", "invert": False},
        {"type": "TemplateProcessing", "single": [], "pair": [], "special_tokens": {}},
        {"type": "Sequence", "normalizers": []}, {"type": "Prepend", "prepend": "y" * 500},
        {"max_length": 1, "strategy": "LongestFirst", "stride": 9, "direction": "Right"},
    ]  # fmt: skip
    kind = draw(st.integers(0, 3))
    if kind == 0:
        name = draw(st.sampled_from(["model", "normalizer", "pre_tokenizer", "decoder",
                                     "post_processor", "truncation", "padding"]))  # fmt: skip
        base[name] = draw(st.sampled_from(parts))
    elif kind == 1:
        key = draw(st.sampled_from(sorted(vocabulary)))
        vocabulary[key] = draw(
            st.sampled_from([0, 299, 300, 10**6, 2**32 - 1, 2**32, -1, 1.5, None])
        )
    elif kind == 2:
        base["added_tokens"] = draw(mutated_json([base["added_tokens"] * 2], st.one_of(
            JUNK, st.integers(290, 320), st.sampled_from([2**31, 2**32 - 1, "",
                                                          " "]))))  # fmt: skip
    else:
        base = draw(mutated_json([base]))
    return {**_members(), "tokenizer.json": to_json(base)}


# --- GGUF


@functools.cache
def _gguf() -> bytes:
    from starter_files import write_gguf
    from transformers import AutoTokenizer

    place = tiny()[1].parent / "tiny.gguf"
    write_gguf(place, AutoTokenizer.from_pretrained(tiny()[1]))
    return place.read_bytes()


def _string(text: bytes) -> bytes:
    return struct.pack("<Q", len(text)) + text


_GGUF_PIECES = [
    b"GGUF", struct.pack("<IQQ", 3, 1, 1), struct.pack("<IQQ", 2, 2**63, 2**63),
    struct.pack("<I", 9),
    _string(b"general.architecture") + struct.pack("<I", 8) + _string(b"llama"),
    _string(b"llama.block_count") + struct.pack("<II", 4, 2**31),
    _string(b"general.alignment") + struct.pack("<II", 4, 0),
    _string(b"a") + struct.pack("<IIQ", 9, 9, 2**40), struct.pack("<Q", 2**63),
    struct.pack("<IIQ", 9, 8, 3),
    _string(b"token_embd.weight") + struct.pack("<IQQIQ", 2, 2**33, 2**33, 0, 2**63),
]  # fmt: skip


def _ggufs() -> st.SearchStrategy[bytes]:
    whole = _gguf()
    head = whole[:24_000]
    header = mutated([head]).map(lambda data: data + whole[len(head) :])
    return st.one_of(header, mutated([whole]), st.builds(
        bytes.__add__, st.just(b"GGUF" + struct.pack("<IQQ", 3, 1, 2)),
        grown(_GGUF_PIECES)))  # fmt: skip


def _act_gguf(data: bytes, folder: Path) -> None:
    from creativewritinggpt.models.starter import save_dequantised

    path, out = folder / "a.gguf", folder / "out"
    path.write_bytes(data)
    out.mkdir()
    save_dequantised(path, out)


# --- records of runs


@st.composite
def _records(draw: st.DrawFn) -> dict[str, bytes]:
    run = {"base": {"name": "tiny", "kind": "folder", "revision": None, "path": "x"},
           "config": {"model_name": "tiny", "max_length": 48}, "version": "0.1",
           "model": {"name": "tiny", "kind": "folder"}, "adapter": True}  # fmt: skip
    config = {**CONFIG, "base_model_name_or_path": str(tiny()[1])}
    data = draw(st.one_of(mutated_json([run]).map(to_json), mutated([to_json(run)])))
    return {"adapter_config.json": to_json(draw(mutated_json([config], _FIELDS))), "run.json": data,
            "adapter_model.safetensors": _safetensors(_HEADER, bytes(1024))}  # fmt: skip


def _act_record(case: dict[str, bytes], folder: Path) -> None:
    _write(_load(put(case, folder)))


def _prepare() -> None:
    model, folder = tiny()
    _write(model)
    _gguf()
    with tempfile.TemporaryDirectory() as scratch:
        good = {"adapter_config.json": to_json(CONFIG),
                "adapter_model.safetensors": _safetensors(_HEADER, bytes(1024))}  # fmt: skip
        place = Path(scratch)
        _act_adapter(good, place)
        shutil.rmtree(place / "given")
        # PEFT's own way too, for kinds that are no plain LoRA.
        bias = {**CONFIG, "use_dora": True}
        try:
            _act_adapter({**good, "adapter_config.json": to_json(bias)}, place)
        except Exception:
            assert folder.is_dir()


TARGETS = (
    Target("recipe", st.one_of(mutated([_RECIPE]), grown(_YAML)), _act_recipe, _names),
    Target("preset", st.one_of(mutated([_PRESET]), grown(_YAML)), _act_preset, _names),
    Target("settings", st.deferred(_settings), _act_settings, _names, pace=300),
    Target("safetensors", _tensors(), _act_tensors, _prepare),
    Target("adapter", _adapters(), _act_adapter, _prepare),
    Target("model-folder", _folders(), _act_folder, _prepare, pace=60),
    Target("tokenizer", _tokenizers(), _act_folder, _prepare, pace=60),
    Target("gguf", st.deferred(_ggufs), _act_gguf, _prepare, pace=80),
    Target("run-record", _records(), _act_record, _prepare, pace=80),
)
