"""Compiling and other numbers of rows are tried where a run may repay it, the faster is kept."""

from types import SimpleNamespace

import pytest

from creativewritinggpt.training import choice
from creativewritinggpt.training.memory import MicroBatch


class Machine:
    """Kernels that say which way is taken, and what a step takes that way."""

    def __init__(self, plain=2.0, compiled=1.0, fails=False):
        self.measured, self.compiled = 0, False
        self.seconds = {False: plain, True: compiled}
        self.fails = fails
        device = SimpleNamespace(device="cpu", threads=2)
        self.writer = SimpleNamespace(fast_body=SimpleNamespace(kernels=self), device=device)

    def use(self, compiled):
        self.compiled = compiled

    def measure(self):
        if self.compiled and self.fails:
            raise RuntimeError("g++ ended with 1\nand more")
        self.measured += 1
        return self.seconds[self.compiled]


@pytest.fixture
def choose(monkeypatch):
    def run(machine, steps=1000, recorded=None, compiler=True):
        monkeypatch.setattr(choice, "can_compile", lambda: compiler)
        return choice.choose_compiled(machine.writer, machine.measure, steps, recorded)

    return run


def test_a_long_run_takes_the_faster_way(choose):
    machine = Machine()
    found = choose(machine)
    assert found.compiled and machine.compiled and found.step_seconds == 1.0
    assert "1.00 s compiled and 2.00 s not" in found.reason
    machine = Machine(compiled=2.1)
    assert not choose(machine).compiled and not machine.compiled


def test_a_short_run_does_not_try(choose):
    machine = Machine()
    assert "too short" in choose(machine, steps=20).reason
    assert machine.measured == 1 and not machine.compiled


def test_a_resumed_run_does_as_it_did_and_measures_nothing(choose):
    for recorded in (True, False):
        machine = Machine()
        assert choose(machine, recorded=recorded).compiled is recorded is machine.compiled
        assert machine.measured == 0


def test_without_a_compiler_or_with_one_that_fails_the_plain_way_is_taken(choose):
    machine = Machine(fails=True)
    found = choose(machine)
    assert not found.compiled and not machine.compiled
    assert "compiling failed: g++ ended with 1" in found.reason
    assert "no C++ compiler" in choose(Machine(), compiler=False).reason
    machine = Machine()
    machine.writer.fast_body = None
    assert "plain path" in choose(machine).reason


class Rows:
    """What a step takes with so many rows at once."""

    def __init__(self, rows, **seconds):
        self.micro = MicroBatch(rows, 512)
        self.seconds = {int(name[1:]): value for name, value in seconds.items()}
        self.measured = []

    def measure(self):
        self.measured.append(self.micro.rows)
        return self.seconds[self.micro.rows]

    def choose(self, most=8, steps=1000, kind="a model"):
        return choice.choose_rows(kind, self.micro, most, self.measure, steps, 2)


def test_a_long_run_takes_the_rows_that_are_fastest():
    rows = Rows(2, _1=3.0, _2=2.5, _4=2.0)
    assert rows.choose() == "a step takes 1.50 times as long with 1, 1.25 times as long with 2"
    assert rows.micro.rows == 4
    rows = Rows(2, _1=2.0, _2=2.5, _4=3.0)
    rows.choose(kind="another")
    assert rows.micro.rows == 1


def test_the_same_kind_of_step_is_tried_once_a_machine():
    """Dropout's noise follows the rows: what a busy moment says must not change a result."""
    rows = Rows(2, _1=3.0, _2=2.5, _4=2.0)
    first = rows.choose()
    again = Rows(2, _1=1.0, _2=2.5, _4=2.0)
    assert again.choose() == first and again.micro.rows == 4 and not again.measured
    again = Rows(2, _1=1.0, _2=2.5, _4=2.0)
    again.choose(most=3)  # another question
    assert again.micro.rows == 1


def test_rows_stay_where_others_are_hardly_faster_or_do_not_fit():
    rows = Rows(2, _1=2.46, _2=2.5, _4=2.4)  # more rows take memory as well
    rows.choose()
    assert rows.micro.rows == 2
    rows = Rows(2, _1=3.0, _2=2.5)
    rows.choose(most=3)
    assert rows.micro.rows == 2 and 4 not in rows.measured
    rows = Rows(1)
    assert rows.choose(most=1) == "batch_size and memory allow no other" and not rows.measured


def test_a_short_run_tries_no_other_rows():
    rows = Rows(2)
    assert "too short" in rows.choose(steps=20)
    assert rows.micro.rows == 2 and not rows.measured


def test_where_it_is_said_why_nothing_is_tried():
    machine, rows = Machine(), Rows(2)
    found = choice.choose(machine.writer, rows.micro, 8, machine.measure, 1000, "two processes")
    assert not found.compiled and found.reason == found.rows_reason == "two processes"
    assert found.rows == 2 and machine.measured == 0


def test_rows_are_tried_the_way_that_was_chosen(monkeypatch):
    """Compiled functions first; the time told is that of both choices."""
    monkeypatch.setattr(choice, "_kind", lambda writer: "a model")
    machine, rows = Machine(), Rows(2, _1=3.0, _2=2.5, _4=0.5)

    def measure():
        return rows.measure() * machine.measure()

    choice_of_both = choice.choose(machine.writer, rows.micro, 4, measure, 1000)
    assert machine.compiled and choice_of_both.compiled and choice_of_both.rows == 4
    assert choice_of_both.step_seconds == 0.5
    # The device says itself when it is full, and what is cached is the processor's.
    machine.writer.device.device, rows = "cuda", Rows(2, _2=2.5)
    found = choice.choose(machine.writer, rows.micro, 4, measure, 1000)
    assert found.rows == rows.micro.rows == 2 and "processors only" in found.rows_reason
