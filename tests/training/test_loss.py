"""The chunked loss equals the plain one, and its gradient the plain gradient."""

import pytest
import torch

from creativewritinggpt.models.scoring import Head
from creativewritinggpt.training.loss import chunked_cross_entropy


def plain_cross_entropy(hidden, weight, bias, targets):
    """The same sum with all logits at once."""
    logits = torch.nn.functional.linear(hidden, weight, bias).float()
    return torch.nn.functional.cross_entropy(logits, targets, reduction="sum")


def _case(count=37, width=16, vocabulary=91, dtype=torch.float64, bias=True):
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(count, width, generator=generator, dtype=dtype, requires_grad=True)
    weight = torch.randn(vocabulary, width, generator=generator, dtype=dtype, requires_grad=True)
    offset = torch.randn(vocabulary, generator=generator, dtype=dtype, requires_grad=True)
    targets = torch.randint(vocabulary, (count,), generator=generator)
    return hidden, weight, offset if bias else None, targets


@pytest.mark.parametrize("chunk", [1, 8, 37, 1000])
@pytest.mark.parametrize("bias", [True, False])
def test_chunked_loss_and_gradients_equal_plain(chunk, bias):
    hidden, weight, offset, targets = _case(bias=bias)
    inputs = [value for value in (hidden, weight, offset) if value is not None]
    plain = plain_cross_entropy(hidden, weight, offset, targets)
    expected = torch.autograd.grad(plain * 0.3, inputs)
    ours = chunked_cross_entropy(hidden, Head(weight, offset), targets, chunk)
    found = torch.autograd.grad(ours * 0.3, inputs)
    torch.testing.assert_close(ours, plain, rtol=1e-6, atol=1e-5)
    for ours_gradient, plain_gradient in zip(found, expected, strict=True):
        # Exponentials are taken in float32 whatever the weights are.
        torch.testing.assert_close(ours_gradient, plain_gradient, rtol=1e-4, atol=1e-6)


def test_frozen_head_gets_no_gradient():
    hidden, weight, _, targets = _case()
    weight = weight.detach()
    chunked_cross_entropy(hidden, Head(weight), targets).backward()
    assert weight.grad is None and hidden.grad is not None


def test_no_targets_give_zero():
    hidden, weight, _, targets = _case()
    loss = chunked_cross_entropy(hidden[:0], Head(weight), targets[:0])
    assert loss.item() == 0


def test_bf16_loss_is_near_the_plain_one():
    hidden, weight, _, targets = _case(count=400, width=64, dtype=torch.float32)
    plain = plain_cross_entropy(hidden, weight, None, targets)
    expected = torch.autograd.grad(plain, hidden)[0]
    with torch.autocast("cpu", torch.bfloat16):
        ours = chunked_cross_entropy(hidden, Head(weight), targets)
    found = torch.autograd.grad(ours, hidden)[0]
    assert ours.item() == pytest.approx(plain.item(), rel=5e-3)
    assert (found - expected).norm() / expected.norm() < 0.02


def test_targets_far_below_the_others_stay_finite():
    hidden = torch.full((2, 4), 50.0, requires_grad=True)
    weight = torch.tensor([[50.0] * 4, [-50.0] * 4])
    loss = chunked_cross_entropy(hidden, Head(weight), torch.tensor([1, 1]))
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(hidden.grad).all()


@pytest.mark.parametrize("scale", [1.0, 0.25])
@pytest.mark.parametrize("cap", [None, 3.0])
def test_bent_and_weighted_logits_get_their_gradient(scale, cap):
    hidden, weight, offset, targets = _case()
    counts = torch.linspace(-1, 2, len(targets))
    logits = scale * torch.nn.functional.linear(hidden, weight, offset)
    logits = logits if cap is None else cap * torch.tanh(logits / cap)
    each = torch.nn.functional.cross_entropy(logits, targets, reduction="none")
    plain, inputs = (each * counts).sum(), (hidden, weight, offset)
    head = Head(weight, offset, scale, cap)
    ours = chunked_cross_entropy(hidden, head, targets, 20, weights=counts)
    torch.testing.assert_close(ours.double(), plain, rtol=1e-5, atol=1e-4)
    for found, expected in zip(
        torch.autograd.grad(ours, inputs), torch.autograd.grad(plain, inputs), strict=True
    ):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
