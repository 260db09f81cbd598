"""Trained on a source of known entropy, the loss ends there and never below (rule 10)."""

import numpy as np
import pytest
import torch
from writers import as_tokens, make_writer

from creativewritinggpt.data.rows.packing import pack, plan_rows
from creativewritinggpt.training.loss import accumulate_gradient
from creativewritinggpt.training.metrics import validate

pytestmark = [pytest.mark.invariant, pytest.mark.slow]
STATES = 8


def _markov(generator, transitions, length):
    state = int(generator.integers(STATES))
    walk = []
    for _ in range(length):
        state = int(generator.choice(STATES, p=transitions[state]))
        walk.append(state + 1)
    return walk


def test_loss_reaches_the_entropy_of_a_markov_source_and_stays_above(tiny_model):
    generator = np.random.default_rng(0)
    transitions = generator.dirichlet(np.full(STATES, 0.6), size=STATES)
    stationary = np.linalg.matrix_power(transitions, 200)[0]
    entropy = -(stationary[:, None] * transitions * np.log(transitions)).sum()
    shape = {"max_length": 64, "bos_id": 0, "eos_id": 0}
    # Every piece but the first begins with a known token, so that only 1 in 1,000 tokens, the
    # first of each document, is harder than the source.
    train = plan_rows(
        as_tokens([_markov(generator, transitions, 1000) for _ in range(120)]), **shape
    )
    held_out = pack(as_tokens([_markov(generator, transitions, 1000) for _ in range(30)]), **shape)
    model = tiny_model(
        "gpt2", vocab_size=STATES + 1, n_layer=1, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0
    )
    model.requires_grad_(True)
    writer = make_writer(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.0)
    losses = []
    for step in range(240):
        for group in optimizer.param_groups:
            group["lr"] = 3e-3 * (1 - step / 240)
        rows = np.random.default_rng([1, step]).integers(len(train), size=32)
        writer.model.train()
        accumulate_gradient(writer, train, rows, 32)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if step % 60 == 59:
            domains = np.zeros(30, dtype=int)
            losses.append(validate(writer, held_out, domains, ["markov"], 16).loss)
    assert losses[-1] == pytest.approx(entropy, abs=0.02)
    # Four standard errors of the mean over 30,000 tokens.
    assert min(losses) > entropy - 0.015
