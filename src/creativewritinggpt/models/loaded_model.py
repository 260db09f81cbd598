"""A model that can write, with all that must travel with it.

Training, generation, evaluation and analysis take this one object, so that none of them has to know
where the model came from. The price is that it is mutable: attaching or merging an adapter changes
the writer that was given.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ..devices import DeviceChoice

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerFast


@dataclasses.dataclass
class LoadedModel:
    """A causal language model with its tokenizer, its device and its history.

    Attributes:
        model: The model on its device, fp32 weights, in ``eval()`` mode when it is loaded.
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
        window: The context window, in tokens.
        has_adapter: Whether an adapter is attached.
        fast_body: A faster way through the model's body, while it is trained.
    """

    model: PreTrainedModel | PeftModel
    tokenizer: PreTrainedTokenizerFast
    device: DeviceChoice
    name: str
    base_name: str
    kind: str
    revision: str | None
    adapter: str | None
    run: dict[str, Any] | None
    bos_id: int
    eos_id: int
    window: int
    has_adapter: bool = False
    fast_body: Any = None

    @contextlib.contextmanager
    def base(self) -> Iterator[None]:
        """Switch the adapter off for the block; without an adapter nothing changes."""
        if not self.has_adapter:
            yield
            return
        # Switching back on makes PEFT mark the adapter's weights as trainable.
        trainable = {name: p.requires_grad for name, p in self.model.named_parameters()}
        try:
            with self.model.disable_adapter():
                yield
        finally:
            for name, parameter in self.model.named_parameters():
                parameter.requires_grad_(trainable[name])

    @property
    def bare(self) -> PreTrainedModel:
        """The transformers model itself, inside any PEFT wrapper; its adapter layers stay."""
        return self.model.get_base_model() if self.has_adapter else self.model
