"""Several processes that hold a part of every weight each (FSDP2), for models too large for one.

A block's weights are gathered for its pass and dropped after it. Whatever reads a weight must
therefore run inside the pass of the module that owns it: the loss and the scores, which read the
output head directly, run as the pass of one :class:`Inside` around the whole model. Every process
must make the same passes in the same order; one without a row left makes a pass without a target.

The price: the projections take PEFT's own path, since the fused ones keep the weights they have
seen; and where a device is full, the micro-batch can't be halved, since the other processes are
already waiting.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..data.rows.packing import IGNORE, PackedRows
from ..data.rows.packing import Rows as RowSource
from ..devices import DeviceChoice
from ..errors import InputError, RunError
from ..models.loaded_model import LoadedModel
from ..models.scoring import Rows, body_and_head, token_nll
from .engine import summed_loss
from .memory import is_out_of_memory
from .ranks import Ranks


class Inside(torch.nn.Module):
    """A module whose pass is any work on the model: inside it, the model's own weights are whole.

    Args:
        model: The model, made trainable.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, work: Callable[[], Tensor]) -> Tensor:
        """Do the work."""
        return work()


class Shards(Ranks):
    """One of several processes with a part of every weight each."""

    sharded = True
    inside: Inside

    def __init__(self, accelerator: Any) -> None:
        super().__init__(accelerator)
        from accelerate import FullyShardedDataParallelPlugin

        self.plugin = FullyShardedDataParallelPlugin()
        if self.plugin.fsdp_version != 2:
            raise InputError(
                "FSDP is asked for in its first version",
                "set fsdp_version: 2 in the Accelerate config, or FSDP_VERSION=2",
            )

    def split(self, writer: LoadedModel, device: DeviceChoice) -> None:
        """Let each process keep its part of the model only."""
        body_and_head(writer.model)  # tried while it is whole
        writer.device = device
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        # Accelerate's own preparation knows no processors, and no module around the model.
        self.inside = Inside(writer.model)
        options: dict[str, Any] = {
            "mesh": init_device_mesh(device.torch_device.type, (self.size,)),
            "offload_policy": self.plugin.cpu_offload,
        }
        blocks = set(writer.bare._no_split_modules or ())
        for module in list(writer.model.modules()):
            if type(module).__name__ in blocks:
                fully_shard(
                    module, reshard_after_forward=self.plugin.reshard_after_forward, **options
                )
        fully_shard(self.inside, **options)

    @contextlib.contextmanager
    def base(self, writer: LoadedModel) -> Iterator[None]:
        """Let the adapter count nothing.

        Switching it off would change which weights are trained, which FSDP must not see.
        """
        layers: list[Any] = [m for m in writer.model.modules() if hasattr(m, "lora_A")]
        before = [dict(layer.scaling) for layer in layers]
        for layer in layers:
            layer.scaling.update(dict.fromkeys(layer.scaling, 0.0))
        try:
            yield
        finally:
            for layer, scaling in zip(layers, before, strict=True):
                layer.scaling.update(scaling)

    def accumulate(
        self,
        writer: LoadedModel,
        rows: RowSource,
        indices: np.ndarray,
        batch_size: int,
        tokens: int,
    ) -> tuple[float, int]:
        """Add this process's part of a step's gradient, in as many passes as the others make.

        Args:
            writer: The model.
            rows: The packed rows of the whole run.
            indices: All rows of the step.
            batch_size: Rows in a micro-step.
            tokens: Target tokens of the whole step.

        Returns:
            This process's part of the loss, and the target tokens.
        """
        mine, total = indices[self.rank :: self.size], 0.0
        passes = math.ceil(math.ceil(len(indices) / self.size) / batch_size)
        for number in range(passes):
            taken = mine[number * batch_size : (number + 1) * batch_size]
            batch = rows.take(taken) if len(taken) else _without_targets(rows.take(indices[:1]))
            try:
                loss = self.inside(lambda batch=batch: summed_loss(writer, batch))
                # FSDP takes the mean over the processes; the loss is a sum over them.
                (loss * (self.size / tokens)).backward()
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                raise RunError(
                    f"{len(taken)} rows of {rows.max_length} tokens don't fit into a device's "
                    "memory",
                    "go on with --resume --force, a smaller --batch-size and more "
                    "--gradient-accumulation-steps, or more processes",
                ) from error
            total += loss.item()
        return total / tokens, tokens

    def share(self, rows: np.ndarray) -> np.ndarray:
        """All rows: :meth:`accumulate` takes this process's own."""
        return rows

    def add_up(
        self, parameters: Sequence[torch.nn.Parameter], loss: float, stop: bool
    ) -> tuple[float, bool]:
        """Sum the losses; FSDP has summed the gradients in the backward pass."""
        return self._numbers(loss, stop)

    def clip(self, parameters: Sequence[torch.nn.Parameter], longest: float) -> float:
        """Cut the gradient to a length over all processes."""
        with self.heard():
            norm: Any = torch.nn.utils.clip_grad_norm_(parameters, longest)
            return float(norm.full_tensor() if hasattr(norm, "full_tensor") else norm)

    def score(self, writer: LoadedModel, rows: Rows, batch_size: int) -> np.ndarray:
        """Each process scores its share of the rows, in as many passes as the others make."""
        found = np.zeros(rows.targets.shape, dtype=np.float64)
        count = len(found)
        mine = np.arange(count)[self.rank :: self.size]
        for number in range(math.ceil(math.ceil(count / self.size) / batch_size)):
            taken = mine[number * batch_size : (number + 1) * batch_size]
            chosen = taken if len(taken) else np.zeros(1, dtype=np.int64)
            part: Any = rows.take(chosen)  # type: ignore[attr-defined]
            with torch.no_grad():
                nll = self.inside(
                    lambda part=part: torch.from_numpy(token_nll(writer, part, batch_size))
                )
            if len(taken):
                found[taken] = nll.numpy()
        return self.added(found)

    def whole(self, tensor: Tensor) -> Tensor:
        """All of a parameter or moment, gathered from the processes."""
        with self.heard():
            full: Any = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
        return super().whole(full)

    def place(self, value: Tensor | None, like: Tensor) -> Tensor:
        """This process's part of a tensor that the first process has."""
        from torch.distributed.tensor import DTensor, distribute_tensor

        held = super().place(value, like)
        if not isinstance(like, DTensor):
            return held
        with self.heard():
            return distribute_tensor(held, like.device_mesh, like.placements)


def _without_targets(batch: PackedRows) -> PackedRows:
    """Rows that add nothing to the loss."""
    return dataclasses.replace(batch, targets=np.full_like(batch.targets, IGNORE))
