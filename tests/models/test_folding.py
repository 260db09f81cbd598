"""Weights that are changed before they are rounded: the model stays what it is."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch

from creativewritinggpt.models.forward import families
from creativewritinggpt.models.forward import onnx_int8 as matrices
from creativewritinggpt.models.forward.linear import Dense
from creativewritinggpt.models.forward.native_backend import (
    KeyValueCache,
    NativeBackend,
    PrefillAttention,
)
from creativewritinggpt.models.forward.weights import ModuleWeights

IDS = [5, 17, 200, 3, 99, 350, 42, 7]
_BIASES = {"attention_bias": True, "mlp_bias": True}
# Heads of 24 are no power of two.
_ODD = {"hidden_size": 96}
VARIANTS: list[tuple[str, dict[str, Any]]] = [
    ("gpt2", {}), ("gpt2", {"n_embd": 96}), ("llama", {}), ("llama", _BIASES), ("llama", _ODD),
    ("qwen", {}),
]  # fmt: skip


@pytest.mark.parametrize(("family", "changes"), VARIANTS)
def test_a_folded_model_that_is_not_rounded_computes_the_same(
    family: str,
    changes: dict[str, Any],
    tiny_model: Any,
    noisy: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = noisy(tiny_model(family, **changes))
    dense = functools.partial(Dense, dtype=torch.float32)
    prepared: list[dict[str, bool]] = []

    def by_row(weight: torch.Tensor, bias: torch.Tensor | None, **given: bool) -> Dense:
        prepared.append(given)
        return dense(weight, bias)

    monkeypatch.setattr(families, "matrix_factory", lambda kind: (dense, torch.float32))
    monkeypatch.setattr(families, "Int8PerRow", by_row)
    make = families.GPT2Forward if family == "gpt2" else families.LlamaForward
    with torch.inference_mode():
        forward = make(ModuleWeights(model), "onnx")
        cache = KeyValueCache(2, forward.heads, forward.size, 1, len(IDS), torch.float32)
        places = torch.arange(len(IDS))
        x = forward.hidden(torch.tensor(IDS), places, PrefillAttention(cache, 0, len(IDS)))
        found = forward.logits(x[-1:])[0]
        wanted = model(torch.tensor([IDS])).logits[0, -1]
    assert len(prepared) == (2 if family == "gpt2" else 4)
    assert float((found - wanted).norm() / wanted.norm()) < 1e-5


@pytest.mark.parametrize("variant", [_BIASES, {"mlp_bias": True}, {"attention_bias": True}])
def test_onnxruntime_adds_the_biases_of_gates_and_heads(
    variant: dict[str, bool], tiny_model: Any, noisy: Any
) -> None:
    pytest.importorskip("onnxruntime")
    model = noisy(tiny_model("llama", hidden_size=64, intermediate_size=96, **variant))
    found = NativeBackend(ModuleWeights(model), "onnx").read(IDS, 20)[1][0]
    wanted = NativeBackend(ModuleWeights(model), "fp32").read(IDS, 20)[1][0]
    assert float((found - wanted).norm() / wanted.norm()) < 0.1


def test_values_come_balanced_and_spread() -> None:
    torch.manual_seed(0)
    heads, size, sharing = 2, 16, 3
    weight, out = torch.randn(10 + heads * size, 8), torch.randn(12, heads * sharing * size)
    weight[-1] *= 100  # a value that stands out
    out.view(12, heads, sharing, size)[:, 1, :, -1] *= 0.01  # and was turned down
    (changed, bias), (taking, _) = matrices.spread_values((weight, None), (out, None), heads, size)
    assert bias is None and torch.equal(changed[:10], weight[:10])
    x = torch.randn(50, 8)

    def mixed(rows: torch.Tensor) -> torch.Tensor:
        """What each query head takes from its values, if it looks at one token alone."""
        return (x @ rows[10:].t()).view(-1, heads, 1, size).expand(-1, -1, sharing, -1).flatten(1)

    exact = mixed(weight) @ out.t()
    assert torch.allclose(mixed(changed) @ taking.t(), exact, rtol=1e-4, atol=1e-3)

    def standing_out(values: torch.Tensor) -> float:
        return float((values.abs().amax(1) / values.square().mean(1).sqrt()).mean())

    assert standing_out(mixed(changed)) < 3 < 5 < standing_out(mixed(weight))


def test_what_a_gate_is_multiplied_by_comes_balanced() -> None:
    torch.manual_seed(0)
    both, bias, down = torch.randn(12, 8), torch.randn(12), torch.randn(5, 6)
    down[:, 2] = 0  # nothing takes it
    down[:, 4] *= 1e4
    (changed, shifted), (taking, _) = matrices.balance_gate((both, bias), (down, None))
    lengths = torch.linalg.vector_norm(taking, dim=0)
    assert torch.allclose(lengths, torch.tensor([1.0, 1, 0, 1, 1, 1]))
    x = torch.randn(20, 8)

    def after(weight: torch.Tensor, offset: torch.Tensor | None, last: torch.Tensor) -> Any:
        gate, up = torch.nn.functional.linear(x, weight, offset).chunk(2, -1)
        return (torch.nn.functional.silu(gate) * up) @ last.t()

    exact = after(both, bias, down)
    assert torch.allclose(after(changed, shifted, taking), exact, rtol=1e-4, atol=1e-2)
