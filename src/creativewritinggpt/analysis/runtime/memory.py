"""How many rows go through the model at once, so that memory is never what stops an explanation.

The number is estimated from the model's shape and the memory that is free, half of which stays
untouched; where the estimate was too bold after all, the batch is halved and tried again. The
results don't depend on it beyond rounding, so what is traded is speed only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch

from ...devices import memory
from ...errors import RunError
from ...models.loaded_model import LoadedModel

Result = TypeVar("Result")

# Tensors of the model's width that a layer keeps for its backward pass, a token.
_KEPT = 14
# Tensors of the intermediate width that it keeps beside them.
_KEPT_INSIDE = 6
# More tokens than this in one pass make nothing faster on a processor and leave its caches.
_TOKENS_ON_A_PROCESSOR = 1024
# Of the free memory, how much is taken.
_SHARE = 0.5


def micro_batch(writer: LoadedModel, tokens: int, *, gradients: bool, most: int = 64) -> int:
    """How many rows of so many tokens fit in memory at once.

    Args:
        writer: The model.
        tokens: Tokens in a row.
        gradients: Whether a backward pass follows.
        most: More are never taken.

    Returns:
        At least 1.
    """
    free = memory(writer.device.device)[1]
    if writer.device.torch_device.type == "mps":
        free = torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    rows = int(free * _SHARE / (tokens * _bytes_per_token(writer, tokens, gradients)))
    if writer.device.torch_device.type == "cpu":
        most = min(most, _TOKENS_ON_A_PROCESSOR // tokens)
    return max(1, min(rows, most))


def _bytes_per_token(writer: LoadedModel, tokens: int, gradients: bool) -> int:
    """What a token of a row of ``tokens`` needs, in bytes."""
    config = writer.bare.config
    width, layers = int(config.hidden_size), int(config.num_hidden_layers)
    inside = int(getattr(config, "intermediate_size", 0) or getattr(config, "n_inner", 0) or 0)
    a_layer = _KEPT * width + _KEPT_INSIDE * (inside or 4 * width)
    if config._attn_implementation == "eager":
        a_layer += 4 * int(config.num_attention_heads) * tokens
    # Without a backward pass the layers' memory is used again and again; the logits of the
    # positions that are asked for come on top, one a row at least.
    kept = a_layer * (layers if gradients else 2)
    return 4 * kept + 12 * int(config.vocab_size) // tokens


def in_batches(count: int, size: int, work: Callable[[int, int], Result]) -> list[Result]:
    """Do a work in batches, in smaller ones where memory does not suffice.

    Args:
        count: How many rows there are.
        size: How many to take at once, at first.
        work: Called with the first row and the one after the last.

    Returns:
        What ``work`` returned, batch by batch.

    Raises:
        RunError: Memory does not suffice for a single row.
    """
    results: list[Result] = []
    start = 0
    while start < count:
        stop = min(start + size, count)
        try:
            results.append(work(start, stop))
        except (MemoryError, RuntimeError) as error:
            if not _is_lack_of_memory(error):
                raise
            if stop - start == 1:
                raise RunError(
                    "there is not enough memory to explain this text",
                    "explain a shorter one, or close what else needs memory",
                ) from error
            size = (stop - start) // 2
        else:
            start = stop
            continue
        # Only here, after the exception with all that it holds, is there something to free.
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    return results


def _is_lack_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory ran out, on a GPU or here."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    said = str(error)
    return "out of memory" in said or "not enough memory" in said or "can't allocate" in said
