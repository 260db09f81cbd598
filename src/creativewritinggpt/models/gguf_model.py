"""GGUF files of GPT-2, Llama, Qwen 2 and Qwen 3: the layout of their tensors, and reading them.

GGUF names tensors its own way, stores GPT-2's projections ``[out, in]`` where transformers has
``[in, out]``, and orders the rows of Llama's query and key projections so that the two halves of a
rotated pair are neighbours. ``export.gguf_file`` writes by the same tables, and what it writes is
read back through this module, which also reads files of llama.cpp's own converter.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError

if TYPE_CHECKING:
    import numpy as np
    import torch

_LLAMA_OUTER = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
}
_LLAMA_LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_GPT2_OUTER = {
    "token_embd": "transformer.wte",
    "position_embd": "transformer.wpe",
    "output_norm": "transformer.ln_f",
    "output": "lm_head",
}
_GPT2_LAYER = {
    "attn_norm": "ln_1",
    "attn_qkv": "attn.c_attn",
    "attn_output": "attn.c_proj",
    "ffn_norm": "ln_2",
    "ffn_up": "mlp.c_fc",
    "ffn_down": "mlp.c_proj",
}
_LAYERS = {"gpt2": "transformer.h."}
ARCHITECTURES = ("gpt2", "llama", "qwen2", "qwen3")
"""The architectures that are read and written; GGUF's names are transformers' ``model_type``."""

_BY_ARCHITECTURE = {
    name: (_GPT2_OUTER, _GPT2_LAYER) if name == "gpt2" else (_LLAMA_OUTER, _LLAMA_LAYER)
    for name in ARCHITECTURES
}
_TRANSPOSED = ("attn_qkv", "attn_output", "ffn_up", "ffn_down")
ROPE_FACTORS = "rope_freqs.weight"
"""Divisors of the rotary frequencies (Llama 3.1); float32 ``[head size / 2]``."""


def parameter_name(architecture: str, tensor: str) -> str:
    """Transformers' name of a GGUF tensor, as ``blk.0.attn_q.weight``.

    Raises:
        KeyError: The architecture has no such tensor.
    """
    outer, inner = _BY_ARCHITECTURE[architecture]
    stem, _, kind = tensor.rpartition(".")
    if stem in outer:
        return f"{outer[stem]}.{kind}"
    _, layer, part = stem.split(".", 2)
    return f"{_LAYERS.get(architecture, 'model.layers.')}{layer}.{inner[part]}.{kind}"


def tensor_name(architecture: str, parameter: str) -> str:
    """GGUF's name of a parameter of transformers, as ``model.layers.0.self_attn.q_proj.weight``.

    Raises:
        KeyError: GGUF has no name for it in this architecture.
    """
    outer, inner = _BY_ARCHITECTURE[architecture]
    module, _, kind = parameter.rpartition(".")
    for theirs, ours in outer.items():
        if module == ours:
            return f"{theirs}.{kind}"
    start = _LAYERS.get(architecture, "model.layers.")
    layer, _, part = module.removeprefix(start).partition(".")
    by_part = {ours: theirs for theirs, ours in inner.items()}
    if not module.startswith(start) or not layer.isdecimal():
        raise KeyError(parameter)
    return f"blk.{layer}.{by_part[part]}.{kind}"


def is_transposed(architecture: str, tensor: str) -> bool:
    """Whether a tensor is stored ``[out, in]`` that transformers holds as ``[in, out]``."""
    part = tensor.removesuffix(".weight").rpartition(".")[2]
    return architecture == "gpt2" and tensor.endswith(".weight") and part in _TRANSPOSED


def rotated_heads(architecture: str, tensor: str, heads: int, kv_heads: int) -> int | None:
    """The number of heads whose rows are permuted in a tensor; None where rows are in order.

    llama.cpp rotates neighbouring pairs in the architecture ``llama`` alone.
    """
    if architecture != "llama":
        return None
    part = tensor.split(".")[2] if tensor.startswith("blk.") else ""
    return {"attn_q": heads, "attn_k": kv_heads}.get(part)


def permute_to_halves(values: np.ndarray, heads: int) -> np.ndarray:
    """Put a projection's rows in the order that transformers' rotary embedding expects.

    llama.cpp turns neighbouring pairs of a head (0, 1), (2, 3)…; transformers turns the halves
    (0, d/2), (1, d/2 + 1)….

    Args:
        values: ``[heads * d, …]``.
        heads: Number of heads that the rows belong to.
    """
    import numpy as np

    pairs = values.reshape(heads, values.shape[0] // heads // 2, 2, -1)
    return np.ascontiguousarray(pairs.swapaxes(1, 2)).reshape(values.shape)


_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
"""Bytes of a value by GGUF's number of its kind; strings and arrays have none."""
_STRING, _ARRAY = 8, 9
_MOST_VALUES = 1 << 22
"""Keys, values of arrays and tensors that a file may have; a vocabulary has a few hundred thousand
of each of its three arrays."""


def _check_header(path: Path) -> None:
    """Walk through a header's counts and lengths before the reader makes an object of each value.

    Raises:
        ValueError: It continues past the end of the file, holds arrays of arrays, as llama.cpp
            takes none, or more than :data:`_MOST_VALUES` values.
        OSError: The file can't be read.
    """
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        if data[:4] != b"GGUF":
            raise ValueError("it does not begin with GGUF")
        # The version is a small number in the order of the file's bytes.
        order = "<" if any(data[4:6]) else ">"
        place, values = 8, 0

        def number(kind: str = "Q") -> int:
            start = skip(struct.calcsize(order + kind))
            return int(struct.unpack_from(order + kind, data, start)[0])

        def skip(size: int) -> int:
            nonlocal place
            start, place = place, place + size
            if place > len(data):
                raise ValueError("its header continues past the end of the file")
            return start

        def count(more: int) -> int:
            nonlocal values
            values += more
            if values > _MOST_VALUES:
                raise ValueError(f"its header holds more than {_MOST_VALUES:,} values")
            return more

        tensors, keys = number(), number()
        for _ in range(count(keys)):
            skip(number())
            kind, many = number("I"), 1
            if kind == _ARRAY:
                kind, many = number("I"), count(number())
            if kind == _STRING:
                for _ in range(many):
                    skip(number())
            elif kind in _SIZES:
                skip(_SIZES[kind] * many)
            else:
                raise ValueError(f"its header holds a value of the unknown kind {kind}")
        for _ in range(count(tensors)):
            skip(number())
            skip(8 * number("I") + 4 + 8)


class GGUFModel(Mapping[str, "torch.Tensor"]):
    """The parameters of a GGUF file under transformers' names, each dequantised when asked for.

    Args:
        path: The file.

    Attributes:
        fields: Its keys and values.
        architecture: One of :data:`ARCHITECTURES`.
        tensors: The reader's description of each tensor, by GGUF's name.

    Raises:
        InputError: It is no GGUF file, or of another architecture.
    """

    def __init__(self, path: Path) -> None:
        from gguf import GGUFReader

        self.path = path
        try:
            _check_header(path)
            reader = GGUFReader(path)
            self.fields: dict[str, Any] = {
                name: field.contents() for name, field in reader.fields.items()
            }
        except (ValueError, IndexError, KeyError, OSError) as error:
            raise InputError(f"{path} can't be read as GGUF: {error}") from error
        self.architecture = str(self.fields.get("general.architecture"))
        if self.architecture not in ARCHITECTURES:
            raise InputError(
                f"{path} is of the architecture {self.architecture}",
                f"these are read: {', '.join(ARCHITECTURES)}",
            )
        self.tensors = {tensor.name: tensor for tensor in reader.tensors}
        self._names: dict[str, str] = {}
        for name in self.tensors:
            if name != ROPE_FACTORS:
                try:
                    self._names[parameter_name(self.architecture, name)] = name
                except (KeyError, ValueError) as error:
                    raise InputError(f"{path} holds an unknown tensor {name}") from error

    def setting(self, name: str, default: Any = None) -> Any:
        """The value of a key of the architecture, as ``block_count``."""
        return self.fields.get(f"{self.architecture}.{name}", default)

    @property
    def heads(self) -> tuple[int, int]:
        """Numbers of query heads and of key heads.

        Raises:
            InputError: The file tells none.
        """
        heads = self.setting("attention.head_count")
        pair = heads, self.setting("attention.head_count_kv", heads)
        if not all(isinstance(count, int) and count > 0 for count in pair):
            raise InputError(
                f"{self.path} has {pair[0]!r} heads, {pair[1]!r} of them for keys",
                "fetch or export the file again",
            )
        return pair

    @property
    def tied(self) -> bool:
        """Whether the head is the token embedding."""
        return "output.weight" not in self.tensors

    def raw(self, name: str) -> np.ndarray:
        """A tensor as GGUF orders it, dequantised to float32.

        Read from the file and not from a map of it, so that memory holds one tensor at a time.
        """
        import numpy as np
        from gguf import dequantize

        tensor = self.tensors[name]
        data = np.fromfile(
            self.path, tensor.data.dtype, tensor.data.size, offset=int(tensor.data_offset)
        ).reshape(tensor.data.shape)
        values = dequantize(data, tensor.tensor_type)
        return np.ascontiguousarray(values, dtype=np.float32)

    def __getitem__(self, name: str) -> torch.Tensor:
        import numpy as np
        import torch

        own = self._names[name]
        values = self.raw(own)
        heads = rotated_heads(self.architecture, own, *self.heads)
        if heads is not None:
            if len(values) % (2 * heads):
                raise InputError(
                    f"{self.path} says {heads} heads, but {own} has {len(values)} rows",
                    "fetch or export the file again",
                )
            values = permute_to_halves(values, heads)
        if is_transposed(self.architecture, own):
            values = np.ascontiguousarray(values.T)
        return torch.from_numpy(values)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def config(self, rope: dict[str, Any] | None = None) -> Any:
        """The model's shape as a configuration of transformers.

        Args:
            rope: Its ``rope_parameters``, where the file does not hold them but only what follows
                from them (:data:`ROPE_FACTORS`).

        Raises:
            InputError: Its rotary embedding is scaled in a way that is not read.
        """
        from transformers import AutoConfig

        find = self.setting
        settings: dict[str, Any] = {
            "vocab_size": len(self.fields["tokenizer.ggml.tokens"]),
            "tie_word_embeddings": self.tied,
            "bos_token_id": self.fields.get("tokenizer.ggml.bos_token_id"),
            "eos_token_id": self.fields.get("tokenizer.ggml.eos_token_id"),
        }
        heads, kv_heads = self.heads
        if self.architecture == "gpt2":
            settings |= {
                "n_positions": find("context_length"),
                "n_embd": find("embedding_length"),
                "n_inner": find("feed_forward_length"),
                "n_layer": find("block_count"),
                "n_head": heads,
                "layer_norm_epsilon": find("attention.layer_norm_epsilon"),
            }
            return AutoConfig.for_model("gpt2", **settings)
        size = find("attention.key_length", find("embedding_length") // heads)
        settings |= {
            "hidden_size": find("embedding_length"),
            "intermediate_size": find("feed_forward_length"),
            "num_hidden_layers": find("block_count"),
            "num_attention_heads": heads,
            "num_key_value_heads": kv_heads,
            "head_dim": size,
            "max_position_embeddings": find("context_length"),
            "rms_norm_eps": find("attention.layer_norm_rms_epsilon"),
            "rope_parameters": rope or self._rope(),
            "attention_bias": "blk.0.attn_q.bias" in self.tensors,
        }
        if self.architecture == "llama":
            settings["mlp_bias"] = "blk.0.ffn_up.bias" in self.tensors
        return AutoConfig.for_model(self.architecture, **settings)

    def _rope(self) -> dict[str, Any]:
        kind = self.setting("rope.scaling.type", "none")
        found = {"rope_type": "default", "rope_theta": self.setting("rope.freq_base", 10000.0)}
        if kind == "linear":
            found |= {"rope_type": "linear", "factor": self.setting("rope.scaling.factor")}
        elif kind != "none" or ROPE_FACTORS in self.tensors:
            raise InputError(f"{self.path} has a rotary embedding of the kind {kind}")
        return found
