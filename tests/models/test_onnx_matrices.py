"""Weights of 8 bits with one scale a row and an output: spread, they need no more digits."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from creativewritinggpt.models.forward import families
from creativewritinggpt.models.forward.native_backend import (
    KeyValueCache,
    NativeBackend,
    PrefillAttention,
)
from creativewritinggpt.models.forward.onnx_int8 import Int8PerRow, hadamard
from creativewritinggpt.models.forward.weights import ModuleWeights

# Wide enough that a column can stand out, with heads that onnxruntime's operators know.
_LLAMA = {"hidden_size": 128, "intermediate_size": 192, "num_attention_heads": 4}
WIDE: dict[str, dict[str, int]] = {
    "gpt2": {"n_embd": 128, "n_head": 4}, "llama": _LLAMA, "qwen": _LLAMA
}  # fmt: skip
IDS = [5, 17, 200, 3, 99, 350, 42, 7, 7, 120, 33, 2]


class Plain(Int8PerRow):
    """The same rounding of weights and rows as they are."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        super().__init__(weight, bias)
        self.balance, self.spread = torch.ones(weight.shape[1]), torch.ones(1, 1)
        self.scales = weight.abs().amax(1) / 127
        self.codes = (weight.t() / self.scales).round().to(torch.int8)


def _own(model: Any, family: str, kind: str, ids: list[int]) -> torch.Tensor:
    """Logits after ``ids`` by the forward pass in torch."""
    make = families.GPT2Forward if family == "gpt2" else families.LlamaForward
    with torch.inference_mode():
        forward = make(ModuleWeights(model), kind)
        layers, places = len(forward.layers), torch.arange(len(ids))
        cache = KeyValueCache(layers, forward.heads, forward.size, 1, len(ids), torch.float32)
        x = forward.hidden(torch.tensor(ids), places, PrefillAttention(cache, 0, len(ids)))
        return forward.logits(x[-1:])[0]


@pytest.mark.parametrize("size", [1, 2, 8, 64])
def test_hadamard_matrices_are_orthogonal_symmetric_and_flat(size: int) -> None:
    matrix = hadamard(size)
    assert torch.allclose(matrix @ matrix, torch.eye(size), atol=1e-6)
    assert torch.equal(matrix, matrix.T)
    assert torch.allclose(matrix.abs(), torch.full((size, size), size**-0.5))


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("inputs", [2, 71, 96, 576])
def test_weights_and_neighbours_stay_within_what_16_bits_hold(inputs: int, before: bool) -> None:
    torch.manual_seed(0)
    weight = torch.randn(40, inputs) * torch.logspace(-6, 2, 40).unsqueeze(1)
    weight[3] = 0
    matrix = Int8PerRow(weight, torch.randn(40), balance=before, spread=before)
    codes = matrix.codes.int()
    assert codes.shape == (inputs, 40) and int(codes.abs().max()) <= 127
    even = inputs // 2 * 2
    pairs = codes[0:even:2] + codes[1:even:2]
    most = 2 * matrix.levels + 1
    assert most <= 255 and int(pairs.abs().max()) * most <= 2**15 - 1
    assert not codes[:, 3].any()
    x = torch.randn(9, inputs)
    x[2] = 0
    exact = x @ weight.t() + matrix.offset
    assert float((matrix(x) - exact).norm() / exact.norm()) < 0.02
    assert torch.equal(matrix(x)[2], matrix.offset)


def test_columns_that_stand_out_cost_no_digits() -> None:
    torch.manual_seed(0)
    weight, x = torch.randn(96, 576), torch.randn(32, 576)
    weight[:, [7, 300]] *= 0.02  # models learn to turn such a column down
    x[:, [7, 300]] *= 60
    x[:5, 40] *= 30  # and some rows have one that nobody expects
    exact = x @ weight.t()
    spread, plain = (
        float((make(weight, None)(x) - exact).norm() / exact.norm()) for make in (Int8PerRow, Plain)
    )
    assert spread < 0.02 < 0.1 < plain


@pytest.mark.parametrize("family", ["gpt2", "llama", "qwen"])
def test_onnxruntime_computes_what_the_forward_pass_in_torch_does(
    family: str, tiny_model: Any, noisy: Any
) -> None:
    pytest.importorskip("onnxruntime")
    model = noisy(tiny_model(family, **WIDE[family]))
    backend: Any = NativeBackend(ModuleWeights(model), "onnx")
    together = backend.read(IDS, 20)[1][0]
    context, _ = backend.read(IDS[:1], 20)
    for token in IDS[1:]:
        logits = context.step([token])
    own = _own(model, family, "onnx", IDS)
    # A last bit that differs can tip a whole number over, which shows, but no more than rounding.
    for found in (together, logits[0]):
        assert float((found - own).norm() / own.norm()) < 0.03


def test_onnxruntime_multiplies_the_largest_numbers_exactly() -> None:
    pytest.importorskip("onnxruntime")
    from creativewritinggpt.models.forward.onnx_graph import chain
    from creativewritinggpt.models.forward.onnx_int8 import offsets, session_of

    torch.manual_seed(0)
    weight = torch.randint(0, 2, (96, 128)).float() * 2 - 1
    weight[:, 1::2] = weight[:, ::2]  # neighbours of one sign
    matrix = Int8PerRow(weight, None)
    matrix.balance, matrix.spread = torch.ones(128), torch.eye(64)
    matrix.codes = (weight.t() * 72).to(torch.int8)
    session = session_of(chain([matrix]), 1)
    for rows in (1, 2, 8):
        x = torch.randint(0, 2, (rows, 128)).float() * 2 - 1
        inputs = {"x": x.unsqueeze(1), "zeros": offsets(rows, 1)}
        [found] = session.run(None, {name: tensor.numpy() for name, tensor in inputs.items()})
        assert torch.allclose(torch.from_numpy(found)[:, 0], matrix(x), rtol=1e-6)
