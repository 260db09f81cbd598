"""Products in int8 are near the exact ones, whatever the shapes and however uneven the columns."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from creativewritinggpt.models.forward.linear import (
    BLOCK,
    Int8Product,
    Workspace,
    int8_seconds,
)


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
)
def test_products_are_near_the_exact_ones(
    rows: int, inputs: int, outputs: int, bias: bool, uneven: float, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    spread = torch.randn(inputs, generator=generator).mul(uneven).exp()
    weight = torch.randn(outputs, inputs, generator=generator) / spread
    x = torch.randn(rows, inputs, generator=generator) * spread
    offset = torch.randn(outputs, generator=generator) if bias else None
    exact = torch.nn.functional.linear(x, weight, offset)
    # Against what the terms of a sum amount to, which may cancel to nothing.
    terms = (x.square() @ weight.square().T).sqrt().norm()
    found = Int8Product(weight, offset, Workspace())(x)
    assert float((found - exact).norm() / terms) < 0.04


@pytest.mark.parametrize("shape", [(256, 64), (64, 256), (128, 128)])
def test_a_few_giant_columns_do_not_cost_the_others_their_digits(
    shape: tuple[int, int],
) -> None:
    torch.manual_seed(0)
    outputs, inputs = shape
    weight, x = torch.randn(outputs, inputs), torch.randn(300, inputs)
    x[:, [5, 40]] *= 200
    weight[:, [5, 40]] /= 200  # as in trained models: giants count no more than the others
    product = Int8Product(weight, None, Workspace())
    assert error(product(x), x @ weight.T) < 0.02


def test_odd_input_is_computed_and_memory_is_shared() -> None:
    torch.manual_seed(0)
    workspace = Workspace()
    weight = torch.randn(40, 64)
    weight[:, 3] = 0
    weight[7] = 0
    both = [
        Int8Product(weight, None, workspace),
        Int8Product(weight.T.contiguous().T, None, workspace),
    ]
    x = torch.randn(30, 64)
    x[4] = 0
    results = [product(x) for product in both]
    torch.testing.assert_close(*results, rtol=1e-2, atol=0.1)
    assert both[0].shape == (40, 64)
    assert not results[0][4].any() and not results[0][:, 7].any()
    out = torch.empty(30, 40)
    assert both[0](x, out) is out and torch.equal(out, results[0])
    assert error(both[0](x.bfloat16()), x.bfloat16().float() @ weight.T) < 0.02
    assert both[0](x[:0]).shape == (0, 40)


def test_a_block_knows_nothing_of_the_next() -> None:
    torch.manual_seed(0)
    product = Int8Product(torch.randn(96, 48), torch.randn(96), Workspace())
    x = torch.randn(2 * BLOCK, 48)
    together = product(x)
    assert torch.equal(together[:BLOCK], product(x[:BLOCK]))
    assert torch.equal(together[BLOCK:], product(x[BLOCK:]))


def test_its_speed_is_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    first = int8_seconds(1)
    assert first > 0
    monkeypatch.setattr(Int8Product, "__call__", None)
    assert int8_seconds(1) == first
