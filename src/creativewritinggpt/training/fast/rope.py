"""Rotary positions: how queries and keys are turned before they meet."""

from __future__ import annotations

from torch import Tensor

from .attention import Heads


class Rotation:
    """Each query and key head's two halves, turned by the angles of the token's position.

    Args:
        cos: ``[tokens, head size]``, scaled as the model wants.
        sin: Likewise.
    """

    def __init__(self, cos: Tensor, sin: Tensor) -> None:
        half = cos.shape[-1] // 2
        self.cos, self.sin = cos[:, None, :half], sin[:, None, :half]

    def turn_(self, qkv: Tensor, heads: Heads) -> None:
        """Turn queries and keys in place."""
        self._turn(qkv, heads, self.sin)

    def turn_back_(self, qkv: Tensor, heads: Heads) -> None:
        """The gradient of :meth:`turn_`, in place."""
        self._turn(qkv, heads, -self.sin)

    def _turn(self, qkv: Tensor, heads: Heads, sin: Tensor) -> None:
        turned = heads.queries + heads.keys
        both = qkv.view(len(qkv), heads.all, 2, heads.size // 2)[:, :turned]
        first, second = both[:, :, 0], both[:, :, 1]
        cos, sin = self.cos.to(qkv.dtype), sin.to(qkv.dtype)
        new_first = first * cos - second * sin
        second.mul_(cos).addcmul_(first, sin)
        first.copy_(new_first)
