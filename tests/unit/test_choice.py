"""Compiling is tried where a run may repay it, and kept where it is faster."""

from types import SimpleNamespace

import pytest

from creativewritinggpt.training import choice


class Machine:
    """Kernels that say which way is taken, and what a step takes that way."""

    def __init__(self, plain=2.0, compiled=1.0, fails=False):
        self.measured, self.compiled = 0, False
        self.seconds = {False: plain, True: compiled}
        self.fails = fails
        self.writer = SimpleNamespace(fast_body=SimpleNamespace(kernels=self))

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
