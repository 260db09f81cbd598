"""Statistics of given tokens in given contexts, as if the model had written them, in blocks.

The forward pass is that of evaluation: the model as it is, without an 8-bit format. Contexts that
begin alike, as those of consecutive passages of a story do, are read once.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING, Any

import torch

from .results import Token, step_tokens
from .text import vocabulary

if TYPE_CHECKING:
    from ..models.loaded_model import LoadedModel

BLOCK = 256
"""Maximum number of tokens that are read between two yields."""


class ForcedReader:
    """Reads contexts and the tokens after them; what was read last is kept for the next one.

    Args:
        model: The model.
        base: Whether its base model reads. The adapters are off within a block only, so that other
            work on the model may run between two.
    """

    def __init__(self, model: LoadedModel, *, base: bool = False) -> None:
        self.model = model
        self.base = base
        self._words = vocabulary(model.tokenizer)
        self._read: list[int] = []
        self._cache: Any = None

    def tokens(
        self, view: Sequence[int], ids: Sequence[int], *, alternatives: int = 0
    ) -> Generator[None, None, list[Token]]:
        """The statistics of ``ids`` after ``view``.

        Args:
            view: Token ids that the model reads first; at least one.
            ids: Token ids whose statistics are wanted; with ``view`` they fit the context length.
            alternatives: Number of alternatives to name per token.
        """
        found: list[Token] = []
        if not ids:
            return found
        for logits in self._blocks([*view, *ids[:-1]], len(view) - 1):
            wanted = torch.tensor(ids[len(found) : len(found) + len(logits)])
            shares = torch.softmax(logits, -1).gather(-1, wanted.unsqueeze(-1)).squeeze(-1)
            found += step_tokens(logits, wanted, shares, self._words, alternatives=alternatives)
            yield
        return found

    def logits(self, view: Sequence[int]) -> Generator[None, None, torch.Tensor]:
        """The logits after ``view``, float32 ``[1, vocabulary]``."""
        logits = torch.empty(0)
        for logits in self._blocks(view, len(view) - 1):  # noqa: B007 - the last one is wanted
            yield
        return logits

    def _blocks(self, ids: Sequence[int], first: int) -> Generator[torch.Tensor, None, None]:
        """Logits after each of ``ids`` from index ``first`` on, in parts ``[tokens, vocabulary]``.

        Blocks without a wanted token give an empty part.
        """
        start = self._keep(ids, first)
        for begin in range(start, len(ids), BLOCK):
            end = min(begin + BLOCK, len(ids))
            wanted = max(0, end - max(begin, first))
            logits = self._forward(list(ids[begin:end]), max(1, wanted))
            yield logits[len(logits) - wanted :]

    def _keep(self, ids: Sequence[int], most: int) -> int:
        """Number of first tokens of ``ids``, at most ``most``, that need not be read again."""
        same = 0
        for one, other in zip(self._read[:most], ids, strict=False):
            if one != other:
                break
            same += 1
        if same < len(self._read):
            if same and self._cuttable():
                self._cache.crop(same - len(self._read))  # so many from the end
            else:
                self._cache, same = None, 0
            self._read = self._read[:same]
        return same

    def _cuttable(self) -> bool:
        """Whether tokens at the end of the cache can be forgotten: no layer has a window."""
        from transformers.cache_utils import DynamicLayer

        layers = getattr(self._cache, "layers", [])
        return bool(layers) and all(type(layer) is DynamicLayer for layer in layers)

    def _forward(self, ids: list[int], count: int) -> torch.Tensor:
        """Read ``ids``; the logits after the last ``count`` of them, float32."""
        with contextlib.ExitStack() as stack:
            if self.base:
                stack.enter_context(self.model.base())
            network: Any = self.model.model
            stack.enter_context(torch.inference_mode())
            stack.enter_context(self.model.device.autocast())
            device = self.model.device.torch_device
            output = network(
                input_ids=torch.tensor([ids], device=device),
                attention_mask=torch.ones(1, len(self._read) + len(ids), device=device).long(),
                past_key_values=self._cache,
                use_cache=True,
                logits_to_keep=count,
            )
        self._cache = output.past_key_values
        self._read += ids
        logits: torch.Tensor = output.logits[0].float().cpu()
        return logits
