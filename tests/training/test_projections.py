"""The fused projections equal PEFT's own layers."""

import numpy as np
import pytest
import torch
from writers import make_writer, random_rows

from creativewritinggpt.config.run import Config
from creativewritinggpt.models.adapter import attach
from creativewritinggpt.models.scoring import token_nll
from creativewritinggpt.training.checkpoint import trained_parameters
from creativewritinggpt.training.fast.layers import (
    DenseLinear,
    Kernels,
    Projections,
    fused_projections,
    project,
    random_bytes,
)
from creativewritinggpt.training.loss import accumulate_gradient

pytestmark = pytest.mark.invariant


def _writer(model, precision="fp32", **changes):
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0  # as models are loaded for training
    writer = make_writer(model, precision=precision)
    attach(writer, Config(**{"lora_dropout": 0.0, "target_modules": ["all-linear"], **changes}))
    with torch.no_grad():
        for name, value in writer.model.named_parameters():
            if "lora_B" in name:
                value.normal_(0, 0.1)
    return writer


def _gradients(writer, rows):
    writer.model.train()
    writer.model.zero_grad(set_to_none=True)
    loss, _ = accumulate_gradient(writer, rows, np.arange(4), 4)
    return loss, {name: p.grad.clone() for name, p in trained_parameters(writer.model).items()}


@pytest.mark.parametrize("family", ["gpt2", "llama", "qwen"])
def test_fused_loss_and_gradients_equal_pefts(tiny_model, family):
    writer, rows = _writer(tiny_model(family)), random_rows(12)
    loss, expected = _gradients(writer, rows)
    with fused_projections(writer) as count:
        assert count == {"gpt2": 8, "llama": 14, "qwen": 14}[family]
        fused_loss, found = _gradients(writer, rows)
    assert fused_loss == pytest.approx(loss, abs=1e-6)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-6)
    again, _ = _gradients(writer, rows)
    assert again == loss  # PEFT's own path is back


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_fused_bf16_gradient_is_as_near_to_fp32_as_pefts(tiny_model, family):
    rows = random_rows(12)
    exact_loss, exact = _gradients(_writer(tiny_model(family)), rows)
    writer = _writer(tiny_model(family), "bf16")
    plain_loss, plain = _gradients(writer, rows)
    with fused_projections(writer):
        fused_loss, fused = _gradients(writer, rows)

    def error(found):
        difference = sum((found[name] - exact[name]).square().sum() for name in exact)
        return (difference / sum(exact[name].square().sum() for name in exact)).sqrt().item()

    assert abs(fused_loss - exact_loss) < 0.01
    assert error(fused) < 1.5 * error(plain) + 0.005


def test_scores_are_the_same_and_the_base_is_still_the_base(tiny_model):
    writer, rows = _writer(tiny_model("llama")), random_rows(6).take(slice(None))
    writer.model.eval()
    tuned = token_nll(writer, rows)
    with writer.base():
        base = token_nll(writer, rows)
    with fused_projections(writer):
        np.testing.assert_allclose(token_nll(writer, rows), tuned, atol=1e-5)
        with writer.base():
            np.testing.assert_array_equal(token_nll(writer, rows), base)


def test_dropout_keeps_the_expected_share_and_the_mean():
    torch.manual_seed(0)
    mask = random_bytes(torch.Size([1000, 256]), torch.device("cpu")) >= 26
    assert mask.float().mean().item() == pytest.approx(1 - 26 / 256, abs=0.002)
    columns = mask.float().mean(0)
    assert columns.std().item() == pytest.approx((0.1 * 0.9 / 1000) ** 0.5, rel=0.2)


def test_gradient_with_dropout_is_that_of_the_masked_branch(tiny_model):
    """Numerically: with the mask held fixed, the backward pass is the forward pass's derivative."""
    from peft import LoraConfig, inject_adapter_in_model

    torch.manual_seed(1)
    settings = LoraConfig(r=3, lora_alpha=2, lora_dropout=0.3, target_modules=["projection"])
    module = torch.nn.ModuleDict({"projection": torch.nn.Linear(6, 4)})
    layer = inject_adapter_in_model(settings, module).double()["projection"]
    first, second = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    torch.nn.init.normal_(second)
    projections = Projections(
        [layer], lambda weight, bias: DenseLinear(weight, bias, torch.float64), Kernels()
    )
    x = torch.randn(5, 6, dtype=torch.float64, requires_grad=True)
    torch.manual_seed(2)
    y = project(x, projections, training=True)
    torch.manual_seed(2)
    threshold = round(256 * 0.3)
    mask = random_bytes(x.shape, x.device) >= threshold
    scale = 2 / 3 * 256 / (256 - threshold)
    expected = layer.get_base_layer()(x) + scale * (x * mask) @ first.T @ second.T
    torch.testing.assert_close(y, expected)
    weights = torch.randn(5, 4, dtype=torch.float64)
    found = torch.autograd.grad((y * weights).sum(), [x, first, second])
    wanted = torch.autograd.grad((expected * weights).sum(), [x, first, second])
    for ours, reference in zip(found, wanted, strict=True):
        # The parameters' gradients come in float32, as the parameters are.
        torch.testing.assert_close(ours.double(), reference, rtol=1e-5, atol=1e-6)


def test_training_with_dropout_differs_from_training_without(tiny_model):
    rows = random_rows(12)
    writer = _writer(tiny_model("gpt2"), lora_dropout=0.5)
    with fused_projections(writer):
        torch.manual_seed(0)
        first, _ = _gradients(writer, rows)
        torch.manual_seed(0)
        again, _ = _gradients(writer, rows)
        torch.manual_seed(1)
        other, _ = _gradients(writer, rows)
    assert first == again != other
