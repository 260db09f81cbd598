"""A loaded model: weights, tokenizer, device and history in one object.

Training, generation, evaluation and analysis take this object, so that none of them has to know
where the model came from. A model for a processor is loaded in a light form first: its weight files
and its tokenizer by the ``tokenizers`` library, which is all that writing needs. The transformers
model, whose import takes seconds, is built when something asks for it.

transformers does not take every ``tokenizer.json`` as it is: for some classes it builds the
pipeline anew and takes only the vocabulary from the file. Those are opened here only where the
pipeline in the file is the one that would be built; for all others :func:`open_tokenizer` gives
None, and transformers is asked.

Trade-off: it is mutable; attaching or merging an adapter changes the object that was given.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from ..devices import DeviceChoice
from ..errors import InputError, UserError
from ..files import read_json

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedModel

    from .forward.weights import FileWeights
    from .overlays import Overlays

_Kind = TypeVar("_Kind", bound="LoadedModel")
_ROLES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token",
          "mask_token")  # fmt: skip
_END = "<|endoftext|>"
# The classes that build the pipeline themselves: special tokens, normalizer, pre-tokenizers.
_QWEN_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_BUILT: dict[str, tuple[dict[str, str], Any, list[Any]]] = {
    "GPT2Tokenizer": (
        {"bos_token": _END, "eos_token": _END, "unk_token": _END}, None, [("ByteLevel", True)],
    ),
    "Qwen2Tokenizer": (
        {"eos_token": _END, "pad_token": _END, "unk_token": _END}, {"type": "NFC"},
        [("Split", _QWEN_PATTERN), ("ByteLevel", False)],
    ),
}  # fmt: skip
_AS_IT_IS = ("TokenizersBackend", "PreTrainedTokenizer")
_DEFAULT_CLASS = {"gpt2": "GPT2Tokenizer", "qwen3": "Qwen2Tokenizer"}


class LoadedModel:
    """A causal language model with its tokenizer, its device and its history.

    Args:
        model: The transformers model on its device, fp32 weights, in ``eval()`` mode when it is
            loaded, or a PEFT wrapper of it; None in the light form.
        tokenizer: Its tokenizer; it adds no special tokens by itself where we load it.
        device: Device, precision and threads.
        name: What to call it: ``starter``, a hub id or a folder.
        base_name: The base model as any PEFT client knows it: a hub id or a folder.
        kind: Where the base comes from: ``starter``, ``hub`` or ``folder``.
        revision: The resolved hub revision of the base, where it came from the hub.
        adapter: The adapter's folder, where one was loaded.
        run: The record of the training that made it (``run.json``), where there is one.
        bos_id: The token that begins a text.
        eos_id: The token that ends a text.
        context_length: The context length in tokens.
        has_adapter: Whether an adapter is attached.
        files: The weights of the light form.
        build: Makes the transformers model and tokenizer of the light form.

    Attributes:
        files: The weights of the light form; None once the transformers model is there.
        folders: The folder of each adapter that was loaded, by name.
        overlays: The base and what adapters make of it as models of their own, where an adapter is
            more than LoRA that can be switched off.
        base_unknown: Why the base can't be had, for a wrapped model that was changed before.
        fast_body: A faster way through the model's body, while it is trained.
    """

    def __init__(
        self,
        *,
        model: Any,
        tokenizer: Any,
        device: DeviceChoice,
        name: str,
        base_name: str,
        kind: str,
        revision: str | None,
        adapter: str | None,
        run: dict[str, Any] | None,
        bos_id: int,
        eos_id: int,
        context_length: int,
        has_adapter: bool = False,
        files: FileWeights | None = None,
        build: Callable[[LoadedModel], tuple[Any, Any]] | None = None,
    ) -> None:
        self._model = model
        self.tokenizer = tokenizer
        self.device = device
        self.name = name
        self.base_name = base_name
        self.kind = kind
        self.revision = revision
        self.adapter = adapter
        self.run = run
        self.bos_id = bos_id
        self.eos_id = eos_id
        self.context_length = context_length
        self.has_adapter = has_adapter
        self.fast_body: Any = None
        self.files = files
        self.build = build
        self.overlays: Overlays | None = None
        self.folders: dict[str, Path] = {}
        self.base_unknown: str | None = None
        self._off: contextlib.ExitStack | None = None

    @property
    def model(self) -> Any:
        """The transformers model, or a PEFT wrapper of it; built now if it wasn't yet."""
        if self.overlays is not None:
            return self.overlays.current
        if self._model is None and self.build is not None:
            build, self.build = self.build, None
            # Whoever asks: parameters made in inference mode could never be trained.
            with torch.inference_mode(False):
                self._model, self.tokenizer = build(self)
            self.files = None
            if self._off is not None:
                self._off.enter_context(self._switched_off())
        return self._model

    @model.setter
    def model(self, model: Any) -> None:
        self._model = model
        if self.overlays is not None:
            self.overlays.current = model

    @property
    def bare(self) -> PreTrainedModel:
        """The transformers model itself, inside any PEFT wrapper; its adapter layers stay."""
        model: Any = self.model
        wrapped = hasattr(model, "peft_config")
        bare: PreTrainedModel = model.get_base_model() if wrapped else model
        return bare

    @contextlib.contextmanager
    def base(self) -> Iterator[None]:
        """The base model for the block: without all that adapters brought, saved modules included.

        Without an adapter nothing changes.

        Raises:
            InputError: The base can't be had.
        """
        if not self.has_adapter or self._off is not None:
            yield
            return
        if self.base_unknown:
            raise InputError(
                f"{self.name} is wrapped around a base that was changed: {self.base_unknown}",
                "load the adapter from its folder instead",
            )
        if self.overlays is not None:
            with self.overlays.only_base():
                yield
            return
        with contextlib.ExitStack() as stack:
            self._off = stack
            if self.files is None:
                stack.enter_context(self._switched_off())
            else:
                self.files.enabled = False
                stack.callback(setattr, self.files, "enabled", True)
            try:
                yield
            finally:
                self._off = None

    @contextlib.contextmanager
    def _switched_off(self) -> Iterator[None]:
        # Switching back on makes PEFT mark the adapter's weights as trainable.
        trainable = {name: p.requires_grad for name, p in self.model.named_parameters()}
        try:
            with self.model.disable_adapter():
                yield
        finally:
            for name, parameter in self.model.named_parameters():
                parameter.requires_grad_(trainable[name])

    def cast(self, kind: type[_Kind]) -> _Kind:
        """The same model (not a copy) as an object of a subclass."""
        other = kind.__new__(kind)
        other.__dict__.update(self.__dict__)
        return other

    def in_precision(self: _Kind, precision: str, *, light: bool = False) -> _Kind:
        """The same model (not a copy), computing in ``fp32`` or ``bf16``.

        Args:
            precision: The precision.
            light: Whether a light form stays one; nobody may then ask the result for its ``model``.
        """
        if not light:
            _ = self.model  # built once for both
        other = self.cast(type(self))
        other.device = dataclasses.replace(self.device, precision=precision)
        return other


class LightTokenizer:
    """A ``tokenizers.Tokenizer`` with the names that transformers gives its tokenizers' methods.

    Args:
        folder: Where it was read from.
        backend: The tokenizer; special tokens in texts are plain text to it.
        roles: Special tokens by role, as ``eos_token``.
        special: Special tokens, those with roles and others.
    """

    def __init__(
        self, folder: Path, backend: Tokenizer, roles: dict[str, str], special: set[str]
    ) -> None:
        self.folder = folder
        self.backend_tokenizer = backend
        self.backend_tokenizer.encode_special_tokens = True
        self.bos_token_id, self.eos_token_id, self.pad_token_id = (
            backend.token_to_id(roles[role]) if role in roles else None
            for role in ("bos_token", "eos_token", "pad_token")
        )
        self.all_special_ids = [backend.token_to_id(token) for token in special]

    @property
    def added_tokens_decoder(self) -> dict[int, Any]:
        """The added tokens by id; each has ``special`` and ``content``."""
        added: dict[int, Any] = self.backend_tokenizer.get_added_tokens_decoder()
        return added

    def __call__(
        self,
        text: str,
        *,
        add_special_tokens: bool = False,
        split_special_tokens: bool = True,
        return_offsets_mapping: bool = False,
    ) -> dict[str, Any]:
        """``{"input_ids": …}`` of a text, without special tokens, and its ``offset_mapping``."""
        if add_special_tokens or not split_special_tokens:
            raise ValueError("only plain text is encoded here")
        found = self.backend_tokenizer.encode(text, add_special_tokens=False)
        result: dict[str, Any] = {"input_ids": found.ids}
        if return_offsets_mapping:
            result["offset_mapping"] = found.offsets
        return result

    def __len__(self) -> int:
        return int(self.backend_tokenizer.get_vocab_size(with_added_tokens=True))

    def decode(self, ids: list[int], skip_special_tokens: bool = False, **_: Any) -> str:
        """The text of token ids."""
        text: str = self.backend_tokenizer.decode(
            list(ids), skip_special_tokens=skip_special_tokens
        )
        return text

    def convert_ids_to_tokens(self, token: int) -> str | None:
        """The vocabulary entry of a token id."""
        entry: str | None = self.backend_tokenizer.id_to_token(token)
        return entry

    def get_vocab(self) -> dict[str, int]:
        """Token ids by vocabulary entry."""
        vocabulary: dict[str, int] = self.backend_tokenizer.get_vocab(with_added_tokens=True)
        return vocabulary


def open_tokenizer(folder: Path, config: Any) -> LightTokenizer | None:
    """The tokenizer of a folder, or None where only transformers knows how to read it.

    Args:
        folder: A model or adapter folder.
        config: The model's configuration, by attributes.
    """
    from tokenizers import Tokenizer

    try:
        settings = read_json(folder / "tokenizer_config.json")
        definition = (folder / "tokenizer.json").read_text("utf-8")
        content = json.loads(definition)
        map_file = folder / "special_tokens_map.json"
        roles = read_json(map_file) if map_file.is_file() else {}
        name = _class_of(settings, config, content)
        if name is None or not _is_plain(settings, content, name):
            return None
        defaults = {} if name in _AS_IT_IS else _BUILT[name][0]
        given = {
            role: token["content"] if isinstance(token, dict) else token
            for role, token in {**defaults, **roles, **settings}.items()
            if role in _ROLES and token is not None
        }
        known = {token["content"]: token for token in content["added_tokens"]}
        if not all(known[token]["special"] for token in given.values()):
            return None
        backend = Tokenizer.from_str(definition)
    except (UserError, OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    except Exception as error:  # what the library raises for a damaged file has no type of its own
        if type(error) is not Exception:
            raise
        return None
    backend.no_truncation()
    backend.no_padding()
    return LightTokenizer(folder, backend, given, set(given.values()))


def _class_of(settings: dict[str, Any], config: Any, content: dict[str, Any]) -> str | None:
    """The class that transformers would read the folder with, if it is one that we know."""
    if config.model_type == "qwen2":  # whatever the folder says
        return "Qwen2Tokenizer"
    given = settings.get("tokenizer_class") or getattr(config, "tokenizer_class", None)
    name = str(given).removesuffix("Fast") if given else _DEFAULT_CLASS.get(config.model_type)
    if name == "LlamaTokenizer" and "ByteLevel" in json.dumps(content["pre_tokenizer"]):
        return "TokenizersBackend"
    return name if name in _AS_IT_IS or name in _BUILT else None


def _is_plain(settings: dict[str, Any], content: dict[str, Any], name: str) -> bool:
    """Whether transformers would change nothing of what the file says."""
    unusual = ("add_prefix_space", "additional_special_tokens", "auto_map", "add_bos_token",
               "add_eos_token", "clean_up_tokenization_spaces", "extra_special_tokens")  # fmt: skip
    if any(settings.get(key) for key in unusual):
        return False
    in_file = {str(token["id"]): token for token in content["added_tokens"]}
    for number, token in (settings.get("added_tokens_decoder") or {}).items():
        if in_file.get(number) != {"id": int(number), **token}:
            return False
    if name in _AS_IT_IS:
        return True
    _, normalizer, stages = _BUILT[name]
    model, pre = content["model"], content["pre_tokenizer"]
    odd = ("dropout", "byte_fallback", "fuse_unk", "ignore_merges", "continuing_subword_prefix",
           "end_of_word_suffix")  # fmt: skip
    found = []
    for stage in pre.get("pretokenizers", [pre]):
        if stage["type"] == "ByteLevel":
            if stage.get("add_prefix_space"):
                return False
            found.append(("ByteLevel", stage.get("use_regex", True)))
        elif stage["type"] == "Split" and (stage["behavior"], stage["invert"]) == (
            "Isolated",
            False,
        ):
            found.append(("Split", stage["pattern"].get("Regex")))
        else:
            return False
    return bool(
        content["normalizer"] == normalizer
        and found == stages
        and content["decoder"]["type"] == "ByteLevel"
        and model["type"] == "BPE"
        and not any(model.get(key) for key in odd)
    )
