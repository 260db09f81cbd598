"""The course of a run: steps, order of rows, learning rate."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from creativewritinggpt.config.run import Config
from creativewritinggpt.training.schedule import learning_rate_factor, plan_run


@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant"])
@pytest.mark.parametrize(("total", "warmup"), [(50, 5), (7, 0), (1, 1)])
def test_factor_equals_transformers(schedule, total, warmup):
    import torch
    from transformers import get_scheduler

    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    name = "constant_with_warmup" if schedule == "constant" else schedule
    reference = get_scheduler(name, optimizer, warmup, total)
    for step in range(total):
        assert learning_rate_factor(step, total, warmup, schedule) == pytest.approx(
            optimizer.param_groups[0]["lr"], abs=1e-12
        )
        optimizer.step()
        reference.step()


@settings(deadline=None, max_examples=60)
@given(
    rows=st.integers(1, 60),
    batch=st.integers(1, 9),
    accumulation=st.integers(1, 5),
    seed=st.integers(0, 99),
)
def test_every_row_comes_once_an_epoch_with_any_remainder(rows, batch, accumulation, seed):
    config = Config(batch_size=batch, gradient_accumulation_steps=accumulation, seed=seed)
    plan = plan_run(config, rows)
    assert plan.total_steps == plan.steps_per_epoch * config.num_epochs
    for epoch in range(2):
        seen = [
            plan.rows_of_step(epoch * plan.steps_per_epoch + step)
            for step in range(plan.steps_per_epoch)
        ]
        assert all(0 < len(part) <= batch * accumulation for part in seen)
        assert sorted(np.concatenate(seen)) == list(range(rows))


def test_horizon_is_counted_in_optimizer_steps():
    config = Config(batch_size=4, gradient_accumulation_steps=4, num_epochs=5)
    plan = plan_run(config, 1000)
    assert plan.total_steps == 63 * 5
    assert plan.warmup_steps == 32
    assert plan.learning_rate(plan.warmup_steps) == config.learning_rate
    last = config.learning_rate / (plan.total_steps - plan.warmup_steps)
    assert plan.learning_rate(plan.total_steps - 1) == pytest.approx(last)


def test_order_is_a_function_of_seed_and_epoch():
    plan, again = plan_run(Config(), 64), plan_run(Config(), 64)
    other = plan_run(Config(seed=1), 64)
    assert (plan.rows_of_step(3) == again.rows_of_step(3)).all()
    assert (plan.rows_of_step(3) != other.rows_of_step(3)).any()
    assert (plan.rows_of_step(0) != plan.rows_of_step(plan.steps_per_epoch)).any()


def test_max_steps_counts_whatever_the_epochs():
    assert plan_run(Config(max_steps=3), 1000).total_steps == 3
    assert plan_run(Config(max_steps=900, num_epochs=1), 8).total_steps == 900


def test_warm_up_is_at_most_500_steps():
    assert plan_run(Config(batch_size=1), 20000).warmup_steps == 500
    assert plan_run(Config(warmup_steps=0), 20).warmup_steps == 0


def test_there_are_at_least_five_validations_and_one_an_epoch():
    short = plan_run(Config(max_steps=60), 10_000)
    assert sum(short.evaluates_after(step) for step in range(1, 61)) == 5
    long = plan_run(Config(num_epochs=20), 80)
    assert sum(long.evaluates_after(step) for step in range(1, long.total_steps + 1)) == 20
