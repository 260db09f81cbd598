"""Setup of a run on choices: what is trained on, what is measured, and what the run leaves.

Choices are held out by time: the last tenth of each story's, with what shares their context. Fewer
than twenty can't tell the best state; then none is held out, and the last state that no guard stops
is kept. Trade-off: what is held out is not learnt, and a few choices veto what is right: of 100
choices a fifth held out cost 9 points of the drafts that simulated writers take, and with a tenth
one taste of two kept the start.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .. import console
from ..config.run import Config
from ..data.document import Document
from ..distributed import ProcessGroup
from ..errors import InputError
from ..models.adapter import save_model
from ..models.loaded_model import LoadedModel
from ..story.decisions import Decision
from ..training.checkpoint import FREE_TO_CHANGE, SHOWN, TrainState, trained_parameters
from ..training.run_dir import model_card, run_record
from ..training.run_files import BEST
from ..training.schedule import Plan, plan_run
from .comparisons import Comparison, Floats, compare, log_probabilities
from .drafts import Drafts, broken
from .measures import ChoiceValidation, measured
from .objective import Objective
from .settings import ChoiceSettings

FEWEST = 5
"""Choices below which nothing is trained."""

ENOUGH = 20
"""Choices between texts from which on ``auto`` compares them."""

TELLING = 20
"""Fewest choices that are held out: fewer can't tell the best state."""

_WAYS = {
    "accepted": "training on the accepted text alone",
    "preference": "preference tuning, with the accepted text beside it",
    "kto": "KTO, each text judged for itself",
    "orpo": "ORPO, on the accepted text and its odds",
}


@dataclasses.dataclass(frozen=True)
class Material:
    """What a run learns from.

    Attributes:
        decisions: The decisions that can be used, oldest first.
        record: Where they came from, and what was left out, for the report.
        place: Identity of the decisions, for a resume.
    """

    decisions: tuple[Decision, ...]
    record: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    place: str = ""


def between_texts(decisions: Sequence[Decision]) -> int:
    """Number of decisions that prefer a text to others, single words aside."""
    return sum(
        one.chosen is not None and bool(one.rejected) and one.kind != "token" for one in decisions
    )


def method_for(settings: ChoiceSettings, decisions: Sequence[Decision]) -> str:
    """The way of learning that ``auto`` takes for so many choices, or the one that was asked for.

    Raises:
        InputError: There is too little to learn from.
    """
    method = settings.choices_method
    if method == "auto":
        method = "preference" if between_texts(decisions) >= ENOUGH else "accepted"
    accepted = sum(one.chosen is not None for one in decisions)
    count = len(decisions) if method == "kto" else accepted
    if not accepted:
        raise InputError(
            "there is no text that the writer took or wrote, only what was rejected",
            "pick drafts with /alt and /pick, or edit what the model writes",
        )
    if count < FEWEST:
        raise InputError(
            f"{console.counted(count, 'choice')} can be learnt from, and {FEWEST} are the least",
            "go on writing; cwgpt choices FILE says what there is",
        )
    return method


def split(decisions: Sequence[Decision], share: float) -> tuple[list[int], list[int]]:
    """Numbers of the decisions to train on and of those held out: the last ones of each file."""
    files: dict[str, list[int]] = {}
    for number, one in enumerate(decisions):
        files.setdefault(one.where, []).append(number)
    out: set[int] = set()
    due = 0.5  # rounds
    for numbers in files.values():
        due += share * len(numbers)
        count = min(int(due), len(numbers) - 1 if len(files) == 1 else len(numbers))
        due -= count
        out.update(numbers[len(numbers) - count :])
    # The same context on both sides would be known by heart.
    known = {(decisions[n].where, decisions[n].prompt) for n in out}
    out = {n for n, one in enumerate(decisions) if (one.where, one.prompt) in known}
    return [n for n in range(len(decisions)) if n not in out], sorted(out)


class ChoiceBatches:
    """Decisions of each step, by their numbers; see :class:`~..training.trainer.Batches`."""

    def __init__(self, comparisons: Sequence[Comparison], plan: Plan) -> None:
        self._plan = plan
        self._tokens = [sum(map(len, one.texts)) for one in comparisons]
        self.max_length = max(len(row) for one in comparisons for row in one.rows())

    def step(self, step: int) -> tuple[None, np.ndarray, int]:
        """The decisions of a step, and the tokens of their texts."""
        chosen = self._plan.rows_of_step(step)
        return None, chosen, sum(self._tokens[index] for index in chosen.tolist())

    def first(self, count: int) -> tuple[None, np.ndarray]:
        """The first decisions."""
        return None, self._plan.rows_of_step(0)[:count]

    def applied(self) -> None:
        """Nothing to note: the position is the step's number."""

    def state(self) -> dict[str, Any] | None:
        """No position of its own."""
        return None

    def restore(self, state: dict[str, Any] | None) -> None:
        """Nothing to restore."""


class ChoiceSetup:
    """Model, choices and schedule of a run; see :class:`~..training.run.RunSetup`.

    Args:
        config: Rate, passes, batch, seed.
        settings: How choices are learnt from.
        material: The choices.
        model: The model.
        group: The process; there is one.
        output: The run's folder; None to write nothing.

    Attributes:
        method: The way of learning.
        training: The decisions that are trained on.
        held_out: Those that are held out.
        lost: Number of decisions without a comparison.
        base: [texts] of the measured decisions under the base model; the start's, where the start
            is the base.
        start: The figures at the start.
    """

    def __init__(
        self,
        config: Config,
        settings: ChoiceSettings,
        material: Material,
        model: LoadedModel,
        group: ProcessGroup,
        output: Path | None,
    ) -> None:
        if group.size > 1:
            raise InputError(
                "choices are learnt from in one process", "start it without a launcher"
            )
        self.config, self.settings, self.material = config, settings, material
        self.model, self.group, self._output = model, group, output
        self.method = method_for(settings, material.decisions)
        usable = [
            one
            for one in material.decisions
            if one.weight > 0 and (one.chosen is not None or self.method in ("preference", "kto"))
        ]
        found, self.lost = compare(model, usable, settings.context_tokens)
        rest, out = split([one.decision for one in found], settings.held_out)
        if sum(found[index].has_chosen for index in out) < TELLING:
            rest, out = list(range(len(found))), []
        self.training = [found[index] for index in rest]
        self.held_out = [found[index] for index in out]
        if not any(one.has_chosen for one in self.training):
            raise InputError(
                "no accepted text is left to train on", "give more choices, or a lower --held-out"
            )
        self.measured = self.held_out or self.training
        self.plan = plan_run(config, len(self.training))
        if config.eval_steps is None:  # once a pass
            steps = self.plan.steps_per_epoch
            self.plan = dataclasses.replace(
                self.plan, eval_steps=steps, save_steps=config.save_steps or steps
            )
        self._trained = self.training
        if self.method == "accepted":  # the other texts need not be read
            self._trained = [dataclasses.replace(one, texts=one.texts[:1]) for one in self.training]
        self.batches = ChoiceBatches(self._trained, self.plan)
        self.manifest = {"manifest_hash": material.place, "sources": self._sources()}
        self.base: list[Floats] = []
        self.start = ChoiceValidation(0.0, None, {})
        self._first: list[Floats] = []
        self._drafts: Drafts | None = None
        self._state = TrainState()
        self._best: dict[str, Any] = {}
        self._start_weights: dict[str, Any] = {}
        self._objective: Objective | None = None

    @property
    def output(self) -> Path:
        """The run's folder."""
        assert self._output is not None
        return self._output

    def begin(self, state: TrainState) -> None:
        """Measure the start: log-probabilities of all texts, drafts."""
        config, settings = self.config, self.settings
        self._state = state
        rows = config.batch_size
        self._phase("reading the choices with the model as it is")
        self._objective = Objective(
            self.model, self._trained, self.method, settings, config.seed, rows
        )
        known = self._objective.reference if self.measured is self.training else []
        self._first = known or log_probabilities(self.model, self.measured, rows)
        self.base = self.base or self._first
        if settings.draft_prompts:
            self._phase("writing drafts before the training")
            self._drafts = Drafts(self.model, self.measured, settings, config.seed)
        self.start = self._figures(at_start=True)
        self._start_weights = self._weights()
        if state.step == 0:
            state.best_loss, state.best_step = self.start.criterion, 0
            self._best = self._start_weights
            state.metrics["choices"] = [self._entry(self.start)]

    def _phase(self, what: str) -> None:
        """Say what begins now, where a run is shown."""
        if self._output is not None:
            console.phase(what)

    def gradient(self, rows: Any, indices: np.ndarray, batch_size: int, tokens: int) -> float:
        """Add the gradient of a step; its loss."""
        assert self._objective is not None
        return self._objective.gradient(indices.tolist(), batch_size)

    def validate(self) -> ChoiceValidation:
        """Measure the choices; before the start is known those of the base model."""
        if self._objective is None:
            self.base = log_probabilities(self.model, self.measured, self.config.batch_size)
            return measured(self.measured, self.base, self.base, self.settings.beta)
        found = self._figures()
        self._state.metrics["choices"].append(self._entry(found))
        return found

    def _figures(self, at_start: bool = False) -> ChoiceValidation:
        logs = log_probabilities(self.model, self.measured, self.config.batch_size)
        found = measured(self.measured, logs, self._first, self.settings.beta)
        guard: str | None = None
        more, texts = dict[str, float](), tuple[str, ...]()
        if self._drafts is not None:
            drafts, habits = (
                (self._drafts.before, self._drafts.start)
                if at_start
                else self._drafts.again(self.model)
            )
            guard = broken(self._drafts.start, habits, self.settings)
            more, texts = dataclasses.asdict(habits), tuple(draft.text for draft in drafts)
        if guard is None and found.gain < -self.settings.most_unlikelier:
            guard = (
                f"what was taken gets less likely: {found.gain:+.3f} nats a token since the start"
            )
        if not self.held_out:
            by = -float(self._state.step)
        elif self.method in ("preference", "kto"):
            by = found.scaled_loss
        else:
            by = found.loss
        return dataclasses.replace(found, by=by, more=more, drafts=texts, guard=guard)

    def _entry(self, found: ChoiceValidation) -> dict[str, Any]:
        return {
            "step": self._state.step, **found.figures(), "guard": found.guard,
            "drafts": list(found.drafts),
        }  # fmt: skip

    def _weights(self) -> dict[str, Any]:
        parameters = trained_parameters(self.model.model)
        return {name: value.detach().clone() for name, value in parameters.items()}

    def _restore(self, weights: Mapping[str, Any]) -> None:
        for name, parameter in trained_parameters(self.model.model).items():
            parameter.data.copy_(weights[name])

    def keep_best(self, state: TrainState) -> None:
        """Keep the model as it is now: in the run's folder, else in memory."""
        if self._output is not None:
            self.save(self._output / BEST, state)
        else:
            self._best = self._weights()

    def finish(self, state: TrainState) -> None:
        """Leave the best state: where nothing beat the start, that is the start."""
        if self._output is None:
            self._restore(self._best)
        elif state.best_step == 0:
            self._restore(self._start_weights)
            self.save(self._output / BEST, dataclasses.replace(state, step=0))

    def drafts(self) -> list[dict[str, Any]]:
        """Drafts before and after, with the same seeds."""
        if self._drafts is None:
            return []
        state = self._state
        entries = {entry["step"]: entry for entry in state.metrics["choices"]}
        return self._drafts.to_dict(entries[state.best_step]["drafts"])

    def announce(
        self,
        base: Any,
        sizes: tuple[int, int],
        micro_batch: int,
        seconds: tuple[float, float],
    ) -> None:
        """Say what is learnt from, how, and how long it takes."""
        for sentence in _plan_sentences(self, sizes, seconds):
            console.note(sentence)

    def _sources(self) -> dict[str, Any]:
        return {"choices": {"train": len(self.training), "validation": len(self.held_out)}}

    def kinds(self) -> dict[str, int]:
        """Decisions by kind, of those that are learnt from or measured."""
        return dict(Counter(one.decision.kind for one in (*self.training, *self.held_out)))

    def fingerprint(self) -> dict[str, Any]:
        """What a resume is compared with."""
        config = self.config.to_dict()
        return {
            "config": {key: config[key] for key in config if key not in FREE_TO_CHANGE},
            "files": [], "places": [], "content": [], "model_place": None,
            "data": self.material.place,
            "base": self._base_record(),
            "joints": {},
            "shown": {name: config[name] for name in SHOWN},
            "choices": self.settings.to_dict(),
        }  # fmt: skip

    def full_manifest(self, base: Any) -> dict[str, Any]:
        """Content of ``manifest.json``."""
        run = {**self.fingerprint(), "precision": self.config.precision, "compile": False}
        plan = {
            "total_steps": self.plan.total_steps, "eval_steps": self.plan.eval_steps,
            "base_val_loss": base.loss, "base_domains": {},
        }  # fmt: skip
        return {**self.manifest, "choices": dict(self.material.record), "run": run, "plan": plan}

    def held_out_lines(self) -> str:
        """The accepted texts that are measured, as documents."""
        lines = []
        for number, one in enumerate(self.measured):
            if one.decision.chosen is not None:
                prompt = one.decision.prompt or None
                document = Document(
                    "choices", str(number), one.decision.chosen, prompt, split="validation",
                    joint="",
                )  # fmt: skip
                lines.append(json.dumps(dataclasses.asdict(document), ensure_ascii=False) + "\n")
        return "".join(lines)

    def _base_record(self) -> dict[str, Any]:
        model = self.model
        return {
            "name": model.name, "kind": model.kind, "base_name": model.base_name,
            "revision": model.revision,
        }  # fmt: skip

    def save(self, folder: Path, state: TrainState) -> None:
        """Write the model as it is now, with its record and card."""
        metrics = state.metrics
        entry = {one["step"]: one for one in metrics["choices"]}.get(state.step, {})
        measured = metrics["evaluation_steps"]
        training = {
            "step": state.step,
            "total_steps": self.plan.total_steps,
            "base_val_loss": metrics["base_val_loss"],
            "val_loss": (
                metrics["val_loss"][measured.index(state.step)] if state.step in measured else None
            ),
            "best_step": state.best_step,
            "best_val_loss": None,
            "domains": {},
            "trainable_parameters": metrics["trainable_parameters"],
            "total_parameters": metrics["total_parameters"],
            "trainable_percent": metrics["trainable_percent"],
            "seconds": state.seconds,
            "useful_tokens": state.useful_tokens,
            "resumed_from": metrics["resumed_from"],
            "probed": state.fingerprint.get("probed"),
            "samples": [],
        }
        data = {**self.manifest, "streamed": None}
        run = run_record(self.config, self.model.device, self._base_record(), data, training)
        run["choices"] = {
            "method": self.method, "settings": self.settings.to_dict(),
            "record": dict(self.material.record), "kinds": self.kinds(),
            "figures": {key: value for key, value in entry.items() if key != "drafts"},
        }  # fmt: skip
        save_model(self.model, folder, run, model_card(run))


def _plan_sentences(
    setup: ChoiceSetup, sizes: tuple[int, int], seconds: tuple[float, float]
) -> list[str]:
    """What is learnt from, how, how sure that is, and how long it takes.

    Args:
        setup: The run, its start measured.
        sizes: Trained and total parameters.
        seconds: Of a validation and of an optimizer step.
    """
    settings, plan = setup.settings, setup.plan
    count = len(setup.training) + len(setup.held_out)
    why = ""
    if settings.choices_method == "auto":
        least = "at least" if setup.method == "preference" else "fewer than"
        why = f" (what {least} {ENOUGH} choices between texts are good for)"
    apart = f", of which {len(setup.held_out)} are held out to measure" if setup.held_out else ""
    said = [f"{console.counted(count, 'choice')} to learn from{apart}: {_WAYS[setup.method]}{why}."]
    said += [str(line) for line in setup.material.record.get("remarks", ())]
    if setup.lost:
        said.append(
            f"{console.counted(setup.lost, 'choice')} can't be compared by this model's tokenizer "
            "or have no room for a context, and are left out."
        )
    if setup.held_out:
        half = 98 / math.sqrt(len(setup.held_out))
        said.append(
            f"An accuracy on {len(setup.held_out)} choices is known to ±{half:.0f} points; nothing "
            "is promised. What is not better than the start is not kept."
        )
    else:
        said.append(
            f"Under {TELLING} held-out choices can't tell whether it gets better, so that all are "
            "trained on: nothing is promised. The drafts before and after are for your own eyes."
        )
    evaluations = sum(plan.evaluates_after(step) for step in range(1, plan.total_steps + 1))
    expected = plan.total_steps * seconds[1] + evaluations * (4 * seconds[0] + 5.0)
    said.append(
        f"{plan.total_steps} steps of up to {plan.rows_per_step} choices, {plan.epochs:.2g} "
        f"passes; {sizes[0]:,} of {sizes[1]:,} parameters; about {console.duration(expected)}."
    )
    return said
