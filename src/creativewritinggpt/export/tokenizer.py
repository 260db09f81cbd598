"""Tokenizers as GGUF holds them: vocabulary, kinds of tokens, merges, and a name for the splitting.

A GGUF file does not hold how a text is cut before merges are applied, but a name that llama.cpp
has code for. A wrong name loads and reads badly, so a tokenizer is exported only if its JSON is
one of the forms known here.
"""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from ..errors import InputError

_NORMAL, _CONTROL, _USER_DEFINED, _UNUSED = 1, 3, 4, 5  # llama.cpp's token types
_QWEN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_LLAMA_3 = _QWEN.replace(r"|\p{N}|", r"|\p{N}{1,3}|")
# What is done to a text, in order, and whether a word that is in the vocabulary skips the merges.
_FORMS: dict[tuple[Any, ...], str] = {
    (False, ("bytes", True)): "gpt-2",
    (False, ("digits", True), ("bytes", True)): "smollm",
    (False, ("split", _QWEN), ("bytes", False)): "qwen2",
    (True, ("split", _LLAMA_3), ("bytes", False)): "llama-bpe",
}
_ADVICE = "export it with --to merged, which takes the tokenizer as it is"


@dataclasses.dataclass(frozen=True)
class GGUFTokenizer:
    """A byte-level BPE tokenizer.

    Attributes:
        pre: llama.cpp's name of its pre-tokenizer.
        tokens: In GGUF's order, as many as there are embeddings.
        types: llama.cpp's type of each token.
        merges: As ``"a b"``.
        bos_id: The token that begins a text.
        eos_id: The token that ends a text.
        pad_id: The padding token.
        chat_template: A template to write, or None.
    """

    pre: str
    tokens: list[str]
    types: list[int]
    merges: list[str]
    bos_id: int
    eos_id: int
    pad_id: int
    chat_template: str | None = None


def gguf_tokenizer(
    tokenizer: Any, rows: int, bos_id: int, eos_id: int, chat_template: str | None = None
) -> GGUFTokenizer:
    """A tokenizer as GGUF holds it.

    Args:
        tokenizer: A fast tokenizer of transformers, or a ``LightTokenizer``.
        rows: Rows of the embedding; tokens beyond the vocabulary are fillers.
        bos_id: The token that begins a text.
        eos_id: The token that ends a text.
        chat_template: A template to write, or None.

    Raises:
        InputError: It is no byte-level BPE, or cuts texts in a way that llama.cpp has no name for.
    """
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    pre = pre_tokenizer_name(content)
    vocabulary: dict[str, int] = content["model"]["vocab"]
    tokens = [f"[PAD{number}]" for number in range(rows)]
    types = [_UNUSED] * rows
    added = {token["id"]: token for token in content["added_tokens"]}
    for token, number in vocabulary.items():
        if number < rows:
            tokens[number], types[number] = token, _NORMAL
    for number, token in added.items():
        if number < rows:
            tokens[number] = token["content"]
            types[number] = _CONTROL if token["special"] else _USER_DEFINED
    for number in (bos_id, eos_id):
        types[number] = _CONTROL
    pad = tokenizer.pad_token_id
    return GGUFTokenizer(
        pre,
        tokens,
        types,
        [_merge(pair) for pair in content["model"]["merges"]],
        bos_id,
        eos_id,
        eos_id if pad is None or pad >= rows else pad,
        chat_template,
    )


def pre_tokenizer_name(content: dict[str, Any]) -> str:
    """llama.cpp's name for how a ``tokenizer.json`` cuts texts.

    Raises:
        InputError: There is none that is known here.
    """
    model = content["model"]
    if model.get("type") != "BPE" or (content.get("decoder") or {}).get("type") != "ByteLevel":
        raise InputError(
            f"the tokenizer is {model.get('type')} and not byte-level BPE, which alone is written "
            "into GGUF here",
            _ADVICE,
        )
    odd = [
        key
        for key in ("dropout", "byte_fallback", "continuing_subword_prefix", "end_of_word_suffix")
        if model.get(key)
    ]
    stages: list[tuple[str, Any]] = []
    pre = content.get("pre_tokenizer") or {}
    for stage in pre.get("pretokenizers", [pre]):
        kind = stage.get("type")
        if kind == "ByteLevel" and not stage.get("add_prefix_space"):
            stages.append(("bytes", stage.get("use_regex", True)))
        elif kind == "Digits":
            stages.append(("digits", stage.get("individual_digits")))
        elif kind == "Split" and stage["behavior"] == "Isolated" and not stage.get("invert"):
            stages.append(("split", stage["pattern"].get("Regex")))
        else:
            odd.append(str(kind))
    name = _FORMS.get((bool(model.get("ignore_merges")), *stages))
    normalizer = content.get("normalizer")
    # Qwen composes accents first (NFC), which llama.cpp leaves to the text.
    if normalizer and not (name == "qwen2" and normalizer == {"type": "NFC"}):
        odd.append(str(normalizer.get("type")))
    if name is None or odd:
        raise InputError(
            "the tokenizer cuts texts in a way that llama.cpp has no name for here"
            + (f" ({', '.join(odd)})" if odd else "")
            + ": known are those of "
            + ", ".join(_FORMS.values()),
            _ADVICE,
        )
    return name


def _merge(pair: Any) -> str:
    if isinstance(pair, str):
        return pair
    # A space within a token would part the pair in another place.
    return " ".join("".join(chr(ord(c) + 256) if c == " " else c for c in part) for part in pair)
