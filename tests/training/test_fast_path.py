"""The fast path gives the plain path's numbers: losses, gradients and whole courses of training."""

import json
import shutil

import numpy as np
import pytest
import torch
from corpora import write_stories
from hypothesis import given, settings
from hypothesis import strategies as st
from writers import as_tokens, make_writer, random_rows

from creativewritinggpt.config.run import Config
from creativewritinggpt.data.rows.packing import IGNORE, plan_rows
from creativewritinggpt.errors import InputError
from creativewritinggpt.models.adapter import attach
from creativewritinggpt.training.checkpoint import trained_parameters
from creativewritinggpt.training.fast import attention, block
from creativewritinggpt.training.fast.attention import end_to_end
from creativewritinggpt.training.fast.block import fast_path
from creativewritinggpt.training.fast.layers import can_compile, dropout_mask
from creativewritinggpt.training.loss import accumulate_gradient
from creativewritinggpt.training.run import train

pytestmark = pytest.mark.invariant
FAMILIES = ["gpt2", "llama", "qwen"]


def _writer(model, precision="fp32", **changes):
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0  # as models are loaded for training
    for name in ("embd_pdrop", "resid_pdrop", "attn_pdrop"):
        if hasattr(model.config, name):
            setattr(model.config, name, 0.0)
    writer = make_writer(model, precision=precision)
    attach(writer, Config(**{"lora_dropout": 0.0, "target_modules": ["all-linear"], **changes}))
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, value in writer.model.named_parameters():
            if "lora_B" in name:
                value.normal_(0, 0.1, generator=generator)
            elif "bias" in name or "norm" in name or "ln_" in name:
                value.add_(torch.randn(value.shape, generator=generator), alpha=0.2)
    return writer


def _gradients(writer, rows, batch_size=4, indices=None):
    writer.model.train()
    writer.model.zero_grad(set_to_none=True)
    loss, _ = accumulate_gradient(
        writer, rows, np.arange(len(rows)) if indices is None else indices, batch_size
    )
    return loss, {name: p.grad.clone() for name, p in trained_parameters(writer.model).items()}


def _distance(found, expected):
    difference = sum((found[name] - expected[name]).square().sum() for name in expected)
    return (difference / sum(value.square().sum() for value in expected.values())).sqrt().item()


@pytest.mark.parametrize("targets", [["all-linear"], None, ["mlp.down_proj", "mlp.c_proj"]])
@pytest.mark.parametrize("family", FAMILIES)
def test_fast_loss_and_gradients_equal_plain(tiny_model, family, targets):
    if targets and "mlp.c_proj" in targets:
        targets = targets[1:] if family == "gpt2" else targets[:1]
    writer, rows = _writer(tiny_model(family), target_modules=targets), random_rows(16)
    loss, expected = _gradients(writer, rows)
    with fast_path(writer):
        assert writer.fast_body is not None
        fast_loss, found = _gradients(writer, rows)
    assert writer.fast_body is None
    assert fast_loss == pytest.approx(loss, abs=1e-6)
    assert _distance(found, expected) < 1e-5
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_fast_bf16_gradient_is_as_near_to_fp32_as_the_plain_one(tiny_model, family):
    rows = random_rows(12)
    _, exact = _gradients(_writer(tiny_model(family)), rows)
    writer = _writer(tiny_model(family), "bf16")
    _, plain = _gradients(writer, rows)
    with fast_path(writer):
        assert writer.fast_body.multiple == block.TOKENS_MULTIPLE
        _, fast = _gradients(writer, rows)
    assert _distance(fast, exact) < 1.5 * _distance(plain, exact) + 0.005


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 40), min_size=1, max_size=12),
    width=st.integers(4, 24),
    multiple=st.sampled_from([1, 8]),
)
def test_documents_end_to_end_are_those_of_the_rows(lengths, width, multiple):
    documents = [[100 * number + place for place in range(1, length + 1)]
                 for number, length in enumerate(lengths)]  # fmt: skip
    rows = plan_rows(as_tokens(documents), max_length=width, bos_id=0, eos_id=7).take(slice(None))
    flat = end_to_end(rows, multiple)
    tokens = int((rows.segment_ids > 0).sum())
    padding = min(-tokens % multiple, rows.segment_ids.size - tokens)
    assert len(flat.input_ids) == tokens + padding == len(set(flat.places.tolist()))
    assert sum(group.count * group.length for group in flat.groups) == len(flat.input_ids)
    assert (flat.targets[:tokens] != IGNORE).all() and (flat.targets[tokens:] == IGNORE).all()
    pieces = set()
    for group in flat.groups[:-1] if padding else flat.groups:
        for part in range(group.count):
            place = slice(
                group.start + part * group.length, group.start + (part + 1) * group.length
            )
            assert flat.position_ids[place].tolist() == list(range(group.length))
            pieces.add((tuple(flat.input_ids[place].tolist()), tuple(flat.targets[place].tolist())))
    expected = set()
    for row in range(len(rows)):
        for segment in range(1, rows.segment_ids[row].max() + 1):
            chosen = rows.segment_ids[row] == segment
            expected.add((tuple(rows.input_ids[row][chosen]), tuple(rows.targets[row][chosen])))
    assert pieces == expected


@pytest.mark.parametrize("family", FAMILIES)
def test_padding_to_a_multiple_changes_no_gradient(tiny_model, family):
    writer, rows = _writer(tiny_model(family)), random_rows(16)
    with fast_path(writer):
        assert writer.fast_body.multiple == 1
        loss, expected = _gradients(writer, rows)
        writer.fast_body.multiple = 32
        padded_loss, found = _gradients(writer, rows)
    assert padded_loss == pytest.approx(loss, abs=1e-6)
    assert _distance(found, expected) < 1e-6


@pytest.mark.parametrize("family", FAMILIES)
def test_attention_is_the_same_in_blocks_and_fused(tiny_model, family, monkeypatch):
    """All documents one way, all the other, and both in one micro-step."""
    monkeypatch.setattr(attention, "BLOCK", 8)
    rows = random_rows(16, max_length=48)
    writer = _writer(tiny_model(family))
    loss, expected = _gradients(writer, rows)
    for lengths in (range(0), range(1, 21), range(20, 100), range(100)):
        monkeypatch.setattr(attention, "IN_BLOCKS", lengths)
        with fast_path(writer):
            fast_loss, found = _gradients(writer, rows)
        assert fast_loss == pytest.approx(loss, abs=1e-6)
        assert _distance(found, expected) < 1e-5


def test_dropout_noise_gives_the_gradient_of_what_was_computed(tiny_model):
    """With the noise held fixed, the loss falls along the gradient as fast as its length says."""
    writer, rows = _writer(tiny_model("llama"), lora_dropout=0.3), random_rows(8)
    parameters = trained_parameters(writer.model)
    with fast_path(writer):
        torch.manual_seed(0)
        loss, gradient = _gradients(writer, rows, 8)
        torch.manual_seed(1)
        assert _gradients(writer, rows, 8)[0] != loss
        length = sum(value.square().sum() for value in gradient.values())
        step, losses = 2e-3 / length.sqrt(), []
        for sign in (1, -1):
            with torch.no_grad():
                for name, value in parameters.items():
                    value.add_(gradient[name], alpha=sign * step.item())
                torch.manual_seed(0)
            losses.append(_gradients(writer, rows, 8)[0])
            with torch.no_grad():
                for name, value in parameters.items():
                    value.add_(gradient[name], alpha=-sign * step.item())
    slope = (losses[0] - losses[1]) / (2 * step)
    assert slope.item() == pytest.approx(length.item(), rel=0.02)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_int8_is_near_and_trains_to_the_same_loss(tiny_model, family):
    """Wide enough for 16 columns to be few; losses of 30 steps within half a percent."""
    size = {"n_embd": 128} if family == "gpt2" else {"hidden_size": 128, "intermediate_size": 256}
    rows = random_rows(40)
    courses = []
    for int8 in (False, True):
        writer = _writer(tiny_model(family, **size))
        optimizer = torch.optim.AdamW(trained_parameters(writer.model).values(), lr=2e-3)
        losses, first = [], None
        with fast_path(writer, int8=int8):
            for step in range(30):
                loss, gradient = _gradients(
                    writer, rows, 8, np.arange(8 * (step % 3), 8 * (step % 3) + 8)
                )
                first = gradient if first is None else first
                losses.append(loss)
                optimizer.step()
        courses.append((losses, first))
    (plain, exact), (rounded, near) = courses
    assert 1e-4 < _distance(near, exact) < 0.1
    assert plain[-1] < plain[0] - 0.2
    np.testing.assert_allclose(rounded, plain, rtol=5e-3)


@pytest.mark.slow
@pytest.mark.skipif(not can_compile(), reason="no C++ compiler")
def test_compiled_kernels_equal_plain_ones(tiny_model):
    writer, rows = _writer(tiny_model("gpt2"), lora_dropout=0.3), random_rows(12)
    with fast_path(writer):
        torch.manual_seed(0)
        loss, expected = _gradients(writer, rows)
    with fast_path(writer, compiled=True):
        torch.manual_seed(0)
        compiled_loss, found = _gradients(writer, rows)
        torch.manual_seed(0)
        again_loss, again = _gradients(writer, rows)
    assert compiled_loss == pytest.approx(loss, abs=1e-6)
    assert _distance(found, expected) < 1e-5
    assert again_loss == compiled_loss and all(
        torch.equal(again[name], found[name]) for name in found
    )


def test_int8_is_recorded_resumed_and_refused_where_it_can_not_be(tiny_folder, tmp_path):
    stories = str(write_stories(tmp_path / "stories.jsonl"))
    settings = {
        "model_name": str(tiny_folder("llama")), "output_dir": str(tmp_path / "out"),
        "precision": "int8", "device": "cpu", "num_workers": 1, "max_length": 48, "max_steps": 4,
        "patience": 0,
    }  # fmt: skip
    with pytest.raises(InputError, match="int8 trains LoRA adapters"):
        train(Config(**settings, method="full"), [stories])
    train(Config(**settings, save_steps=1), [stories])
    found = []
    for run in (1, 2):
        record = json.loads((tmp_path / "out" / "final_model" / "run.json").read_text())
        assert record["training"]["probed"]["precision"] == "int8"
        assert record["training"]["probed"]["compiled"] is False
        found.append((tmp_path / "out/final_model/adapter_model.safetensors").read_bytes())
        if run == 1:
            shutil.rmtree(tmp_path / "out" / "checkpoints" / "step-4")
            train(Config(output_dir=settings["output_dir"]), resume=True)
    assert found[0] == found[1]


def test_a_processor_that_is_slow_in_int8_is_told_of(monkeypatch, capsys):
    monkeypatch.setattr(block, "product_seconds", lambda threads: {"fp32": 1.0, "bf16": 2.0})
    monkeypatch.setattr(block, "int8_seconds", lambda threads: 3.0)
    block.warn_if_int8_is_slow()
    assert "3.0 times as long as in fp32" in capsys.readouterr().err
    monkeypatch.setattr(block, "int8_seconds", lambda threads: 0.5)
    block.warn_if_int8_is_slow()
    assert not capsys.readouterr().err


def test_the_dropout_mask_is_where_the_noise_reaches_the_threshold():
    noise = torch.arange(256, dtype=torch.uint8)
    for threshold in range(1, 256):
        found = dropout_mask(noise, threshold, torch.bfloat16)
        assert torch.equal(found, (noise >= threshold).to(torch.bfloat16))
