"""Products in int8 are near the exact ones, whatever the shapes and however uneven the columns."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from creativewritinggpt.models.forward import int8_kernels
from creativewritinggpt.models.forward.int8 import (
    BLOCK,
    Int8Product,
    Workspace,
    fastest_kernel,
    seconds,
)
from creativewritinggpt.models.forward.int8_kernels import IntMm, Scaled, fitting, kernels, scaled

KERNELS = kernels()


def error(found: torch.Tensor, exact: torch.Tensor) -> float:
    return float((found - exact).norm() / exact.norm().clamp(min=1e-9))


@settings(max_examples=40, deadline=None)
@given(
    rows=st.sampled_from([1, 2, 9, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK + 5]),
    inputs=st.sampled_from([3, 8, 34, 96, 128, 192, 512]),
    outputs=st.sampled_from([1, 7, 64, 128, 300]),
    bias=st.booleans(),
    uneven=st.floats(0, 1),
    seed=st.integers(0, 99),
    name=st.sampled_from(sorted(KERNELS)),
)
def test_products_are_near_the_exact_ones(
    rows: int, inputs: int, outputs: int, bias: bool, uneven: float, seed: int, name: str
) -> None:
    generator = torch.Generator().manual_seed(seed)
    spread = torch.randn(inputs, generator=generator).mul(uneven).exp()
    weight = torch.randn(outputs, inputs, generator=generator) / spread
    x = torch.randn(rows, inputs, generator=generator) * spread
    offset = torch.randn(outputs, generator=generator) if bias else None
    exact = torch.nn.functional.linear(x, weight, offset)
    # Against what the terms of a sum amount to, which may cancel to nothing.
    terms = (x.square() @ weight.square().T).sqrt().norm()
    kernel = KERNELS[name]
    found = Int8Product(weight, offset, Workspace(), kernel=kernel)(x)
    assert float((found - exact).norm() / terms) < 0.04 * 127 / kernel.levels


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("shape", [(256, 64), (64, 256), (128, 128)])
def test_a_few_giant_columns_do_not_cost_the_others_their_digits(
    shape: tuple[int, int], name: str
) -> None:
    torch.manual_seed(0)
    outputs, inputs = shape
    weight, x = torch.randn(outputs, inputs), torch.randn(300, inputs)
    x[:, [5, 40]] *= 200
    weight[:, [5, 40]] /= 200  # as in trained models: giants count no more than the others
    product = Int8Product(weight, None, Workspace(), kernel=KERNELS[name])
    assert error(product(x), x @ weight.T) < 0.02 * 127 / product.kernel.levels


@pytest.mark.parametrize("name", KERNELS)
def test_odd_input_is_computed_and_memory_is_shared(name: str) -> None:
    torch.manual_seed(0)
    kernel = KERNELS[name]
    workspace = Workspace()
    weight = torch.randn(40, 64)
    weight[:, 3] = 0
    weight[7] = 0
    both = [
        Int8Product(weight, None, workspace, kernel=kernel),
        Int8Product(weight.T.contiguous().T, None, workspace, kernel=kernel),
    ]
    x = torch.randn(30, 64)
    x[4] = 0
    results = [product(x) for product in both]
    torch.testing.assert_close(*results, rtol=1e-2, atol=0.1)
    assert both[0].shape == (40, 64)
    assert not results[0][4].any() and not results[0][:, 7].any()
    out = torch.empty(30, 40)
    assert both[0](x, out) is out and torch.equal(out, results[0])
    assert (
        error(both[0](x.bfloat16()), x.bfloat16().float() @ weight.T) < 0.02 * 127 / kernel.levels
    )
    assert both[0](x[:0]).shape == (0, 40)


def test_a_block_knows_nothing_of_the_next() -> None:
    torch.manual_seed(0)
    product = Int8Product(torch.randn(96, 48), torch.randn(96), Workspace())
    x = torch.randn(2 * BLOCK, 48)
    together = product(x)
    assert torch.equal(together[:BLOCK], product(x[:BLOCK]))
    assert torch.equal(together[BLOCK:], product(x[BLOCK:]))


def test_its_speed_is_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    first = seconds(1)
    assert min(first.values()) > 0
    monkeypatch.setattr(Int8Product, "__call__", None)
    assert seconds(1) == first
    assert fastest_kernel(1).levels > 0


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("rows", [1, 9, 255, 256])
def test_products_of_whole_numbers_are_exact(name: str, rows: int) -> None:
    torch.manual_seed(0)
    kernel = KERNELS[name]
    for inputs, outputs in ((3, 7), (34, 40), (192, 64), (768, 300)):
        most = kernel.weight_levels
        weight = torch.randint(-most, most + 1, (inputs, outputs), dtype=torch.int8)
        x = torch.randint(-kernel.levels, kernel.levels + 1, (rows, inputs))
        space = torch.empty(rows, outputs, dtype=torch.int32)
        scale = torch.full((outputs,), 0.5 if kernel.scales else 1.0)
        packed = kernel.pack(weight, scale, BLOCK)
        found = kernel.multiply(kernel.encode(x.to(torch.int8)), packed, space)
        assert torch.equal(found.double(), (x @ weight.long()).double() * scale)


def test_a_kernel_whose_sums_do_not_fit_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    class Saturating(Scaled):
        def multiply(self, rows: Any, packed: Any, space: Any = None) -> torch.Tensor:
            result = super().multiply(rows, packed, space)
            return result.clamp(-1e6, 1e6) if self.levels > 90 else result

    assert fitting(IntMm())
    assert not fitting(Saturating(127, 127)) and fitting(Saturating(90, 90))
    monkeypatch.setattr(int8_kernels, "Scaled", Saturating)
    scaled.cache_clear()
    try:
        kernel = scaled()
        assert kernel is not None and kernel.levels == 90
    finally:
        scaled.cache_clear()
