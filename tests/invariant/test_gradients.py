"""However the rows of a step are spread over micro-steps, its gradient is the same (rule 3)."""

import numpy as np
import pytest
import torch
from writers import make_writer, random_rows

from creativewritinggpt.config.run import Config
from creativewritinggpt.models.adapter import attach
from creativewritinggpt.training.checkpoint import trained_parameters
from creativewritinggpt.training.loss import accumulate_gradient, summed_loss

pytestmark = pytest.mark.invariant
FAMILIES = ["gpt2", "llama", "qwen"]


def _gradient(writer, rows, indices, batch_size):
    writer.model.zero_grad(set_to_none=True)
    loss, tokens = accumulate_gradient(writer, rows, indices, batch_size)
    parameters = trained_parameters(writer.model)
    return loss, tokens, {name: value.grad.clone() for name, value in parameters.items()}


def _trained_a_little(model):
    """An adapter that is not zero, so that both of its matrices get a gradient."""
    writer = make_writer(model)
    attach(writer, Config(lora_dropout=0.0))
    with torch.no_grad():
        for name, value in writer.model.named_parameters():
            if "lora_B" in name:
                value.normal_(0, 0.1)
    return writer


@pytest.mark.parametrize("family", FAMILIES)
def test_gradient_is_the_same_for_any_micro_batch(tiny_model, family):
    writer = _trained_a_little(tiny_model(family))
    rows = random_rows(24)
    indices = np.arange(8)
    loss, tokens, expected = _gradient(writer, rows, indices, 8)
    for batch_size in (4, 3, 1):
        other_loss, other_tokens, found = _gradient(writer, rows, indices, batch_size)
        assert other_tokens == tokens
        assert other_loss == pytest.approx(loss, abs=1e-6)
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_step_loss_is_the_token_mean_of_the_documents_alone(tiny_model, family):
    """Packed, padded and accumulated, a step's loss is that of each document by itself."""
    model = tiny_model(family)
    rows = random_rows(10, max_length=96)
    with torch.no_grad():
        total, tokens = 0.0, 0
        for document in range(len(rows.tokens)):
            ids = [0, *rows.tokens[document].tolist(), 0]
            logits = model(input_ids=torch.tensor([ids[:-1]])).logits[0]
            total += torch.nn.functional.cross_entropy(
                logits, torch.tensor(ids[1:]), reduction="sum"
            ).item()
            tokens += len(ids) - 1
    writer = make_writer(model)
    model.requires_grad_(True)
    loss, counted = accumulate_gradient(writer, rows, np.arange(len(rows)), 2)
    assert counted == tokens
    assert loss == pytest.approx(total / tokens, abs=1e-5)


def test_gradient_equals_that_of_transformers_own_loss(tiny_model):
    model = tiny_model("gpt2", resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)
    model.requires_grad_(True)
    ids = torch.randint(1, 384, (1, 20))
    # transformers shifts the labels by itself; the tied head gets its share of the gradient too.
    model(input_ids=ids, labels=ids).loss.backward()
    expected = {name: value.grad.clone() for name, value in model.named_parameters()}
    model.zero_grad(set_to_none=True)
    batch = random_rows(1, max_length=20).take([0])
    batch.input_ids[:] = ids.numpy()
    batch.targets[:, :-1] = ids.numpy()[:, 1:]
    batch.targets[:, -1] = -100
    batch.position_ids[:] = np.arange(20)
    batch.segment_ids[:] = 1
    (summed_loss(make_writer(model), batch) / 19).backward()
    for name, value in model.named_parameters():
        torch.testing.assert_close(value.grad, expected[name], rtol=1e-4, atol=1e-6)
