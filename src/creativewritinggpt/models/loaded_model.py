"""A loaded model: weights, tokenizer, device and history in one object.

Training, generation, evaluation and analysis take this object, so that none of them has to know
where the model came from. A model for a processor is loaded in a light form first: its weight files
and its tokenizer, which is all that writing needs. The transformers model, whose import takes
seconds, is built when something asks for it.

Trade-off: it is mutable; attaching or merging an adapter changes the object that was given.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from ..devices import DeviceChoice

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from .forward.weights import FileWeights

_Kind = TypeVar("_Kind", bound="LoadedModel")


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
        self._off: contextlib.ExitStack | None = None

    @property
    def model(self) -> Any:
        """The transformers model, or a PEFT wrapper of it; built now if it wasn't yet."""
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

    @property
    def bare(self) -> PreTrainedModel:
        """The transformers model itself, inside any PEFT wrapper; its adapter layers stay."""
        model: Any = self.model
        bare: PreTrainedModel = model.get_base_model() if self.has_adapter else model
        return bare

    @contextlib.contextmanager
    def base(self) -> Iterator[None]:
        """Switch the adapters off for the block; without one nothing changes."""
        if not self.has_adapter or self._off is not None:
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

    def in_precision(self: _Kind, precision: str) -> _Kind:
        """The same model (not a copy), computing in ``fp32`` or ``bf16``."""
        _ = self.model  # built once for both
        other = self.cast(type(self))
        other.device = dataclasses.replace(self.device, precision=precision)
        return other
