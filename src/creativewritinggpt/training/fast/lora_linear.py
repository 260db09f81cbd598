"""Projections of one input side by side, with their adapters.

    y = x Wᵀ + b;   y[:, j] += s_j · (m ⊙ x) A_jᵀ B_jᵀ        for each projection j with an adapter

The base products of queries, keys and values (or of gate and up) are one product, and so are the
adapters' first ones; all read one dropout mask, where PEFT draws one for each. Parameters stay
PEFT's own.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..projections import random_bytes
from .frozen_linear import Frozen
from .kernels import Kernels


class Adapter:
    """The adapter of one projection: PEFT's two parameters, the scale, the output columns."""

    def __init__(self, first: Tensor, second: Tensor, scale: float, columns: slice) -> None:
        self.first, self.second, self.scale, self.columns = first, second, scale, columns


class Projections:
    """Frozen projections of one input, joined, and their adapters.

    Args:
        layers: Linear, Conv1D or PEFT's LoRA layers around them, all with the same input.
        make: Makes the frozen product of ``[out, in]`` and bias.
        kernels: Functions between the products.
    """

    def __init__(
        self,
        layers: Sequence[Any],
        make: Callable[[Tensor, Tensor | None], Frozen],
        kernels: Kernels,
    ) -> None:
        from transformers.pytorch_utils import Conv1D

        bases, weights, biases = list[Any](), list[Tensor](), list[Tensor | None]()
        self.adapters, self.threshold = list[Adapter](), 0
        start = 0
        for layer in layers:
            base = layer.get_base_layer() if hasattr(layer, "lora_A") else layer
            weight = base.weight.detach()
            weight = weight.T if isinstance(base, Conv1D) else weight  # [out, in]
            bases.append(base)
            weights.append(weight)
            bias = getattr(base, "bias", None)
            biases.append(None if bias is None else bias.detach())
            columns = slice(start, start + len(weight))
            start = columns.stop
            if layer is not base:
                name = next(iter(layer.lora_A))
                first, second = layer.lora_A[name].weight, layer.lora_B[name].weight
                scale = float(layer.scaling[name])
                self.adapters.append(Adapter(first, second, scale, columns))
                dropout = layer.lora_dropout[name]
                self.threshold = round(256 * float(getattr(dropout, "p", 0.0)))
        bias = None
        if any(part is not None for part in biases):
            bias = torch.cat(
                [
                    weight.new_zeros(len(weight)) if part is None else part
                    for part, weight in zip(biases, weights, strict=True)
                ]
            )
        joined = weights[0] if len(layers) == 1 else _joined(bases, weights)
        self.frozen = make(joined, bias)
        self.kernels = kernels
        ends = itertools.accumulate(len(adapter.first) for adapter in self.adapters)
        self.ranks = [
            slice(end - len(adapter.first), end)
            for adapter, end in zip(self.adapters, ends, strict=True)
        ]

    @property
    def parameters(self) -> list[Tensor]:
        """First and second matrix of each adapter."""
        return [matrix for adapter in self.adapters for matrix in (adapter.first, adapter.second)]

    def noise(self, x: Tensor, training: bool) -> Tensor | None:
        """Random bytes that decide which inputs are dropped, or None without dropout."""
        if not (training and self.threshold and self.adapters):
            return None
        return random_bytes(x.shape, x.device)

    def _kept(self, x: Tensor, noise: Tensor | None) -> Tensor:
        return x if noise is None else self.kernels.kept(x, noise, self.threshold)

    def _scale(self, adapter: Adapter, noise: Tensor | None) -> float:
        return adapter.scale * (256 / (256 - self.threshold) if noise is not None else 1.0)

    def _firsts(self, dtype: torch.dtype) -> Tensor:
        """The first matrices of all adapters, ``[ranks, in]``."""
        return torch.cat([adapter.first for adapter in self.adapters]).to(dtype)

    def forward(self, x: Tensor, noise: Tensor | None) -> tuple[Tensor, Tensor]:
        """The outputs ``[tokens, out]``, and ``[tokens, ranks]`` of all adapters between."""
        y = self.frozen.forward(x)
        if not self.adapters:
            return y, x.new_empty(len(x), 0)
        hidden = self._kept(x, noise) @ self._firsts(x.dtype).T
        for adapter, ranks in zip(self.adapters, self.ranks, strict=True):
            second, scale = adapter.second.to(x.dtype).T, self._scale(adapter, noise)
            y[:, adapter.columns].addmm_(hidden[:, ranks], second, alpha=scale)
        return y, hidden

    def backward_input(
        self, dy: Tensor, noise: Tensor | None, hidden: Tensor, wanted: bool
    ) -> tuple[Tensor | None, Tensor]:
        """The gradient of the input, where it is wanted, and of ``hidden``.

        Args:
            dy: The gradient of the output, ``[tokens, out]``.
            noise: The bytes of the forward pass.
            hidden: What the forward pass returned beside its output.
            wanted: Whether anything below is trained.
        """
        d_hidden = torch.empty_like(hidden)
        for adapter, ranks in zip(self.adapters, self.ranks, strict=True):
            part = dy[:, adapter.columns] @ adapter.second.to(dy.dtype)
            d_hidden[:, ranks] = part.mul_(self._scale(adapter, noise))
        if not wanted:
            return None, d_hidden
        dx = self.frozen.backward(dy)
        if not self.adapters:
            return dx, d_hidden
        if noise is None:
            return dx.addmm_(d_hidden, self._firsts(dy.dtype)), d_hidden
        through = d_hidden @ self._firsts(dy.dtype)
        return self.kernels.kept_sum(dx, through, noise, self.threshold), d_hidden

    def backward_parameters(
        self, dy: Tensor, x: Tensor, noise: Tensor | None, hidden: Tensor, d_hidden: Tensor
    ) -> list[Tensor]:
        """Gradients in the order of :attr:`parameters`; ``x`` is the input, ``[tokens, in]``."""
        gradients: list[Tensor] = []
        if not self.adapters:
            return gradients
        firsts = (d_hidden.T @ self._kept(x, noise)).float()
        for adapter, ranks in zip(self.adapters, self.ranks, strict=True):
            second = (hidden[:, ranks].T @ dy[:, adapter.columns]).float()  # [rank, out]
            gradients += [firsts[ranks], second.mul_(self._scale(adapter, noise)).T]
        return gradients


def _joined(layers: Sequence[Any], weights: Sequence[Tensor]) -> Tensor:
    """One weight of several layers, ``[out, in]``; theirs become parts of it, not copies."""
    joined = torch.cat(list(weights))
    if all(isinstance(layer, torch.nn.Linear) for layer in layers):
        parts = torch.split(joined, [len(weight) for weight in weights])
        for layer, part in zip(layers, parts, strict=True):
            layer.weight.data = part
    return joined
