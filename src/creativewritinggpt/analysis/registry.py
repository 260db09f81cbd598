"""Attribution methods: what a method is, what it reads and returns, and the table of all methods.

A method is one object, ``METHOD``, in a module of its own; its name and module are one line of
``_MODULES``. Settings, the run, ``results.json``, the page, the pictures and the terminal read the
object and have no lists of their own. Modules are imported when a method is first asked for, so
that ``cwgpt --help`` does not wait for PyTorch.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal

from ..console import CountCallback, ProgressCallback, counting
from ..errors import InputError

if TYPE_CHECKING:
    import numpy as np

    from ..models.loaded_model import LoadedModel
    from .subject import Subject
    from .text.words import Word

# One line per method, in the order in which they are computed: its name and its module.
_MODULES = {
    "attention": "methods.attention",
    "gradients": "methods.gradients",
    "perturbation": "methods.perturbation",
    "occlusion": "methods.occlusion",
    "lens": "methods.lens",
    "difference": "methods.difference",
    "faithfulness": "methods.faithfulness",
    "story": "text.story",
}
# In ``builds_on``: any method that has scores.
ANY = "*"
# What faithfulness says of an attribution, as ``record["faithfulness"][name]["verdict"]``.
BETTER, NO_BETTER, TOO_SHORT = "better than random", "no better than random", "too short to tell"
# Scores below this are noise of fp32 arithmetic, in nats.
NOISE_FLOOR = 1e-6


@dataclasses.dataclass(frozen=True)
class Attribution:
    """What each input token contributed to each target.

    Scores are kept signed and in their unit; whatever is normalized is made on request, and is
    zero where there is nothing but rounding noise.

    Attributes:
        method: The name of its :class:`Score`: ``integrated_gradients``, ``kl``, ``occlusion``.
        scores: ``[targets, tokens]`` float64; 0 at and after a target's own position.
        signed: Whether the sign has a meaning: positive supports the target, negative opposes it.
        unit: Of the scores, as ``nats``.
        settings: How it was computed: baseline, steps, replacement distribution, samples, seed.
        per_target: For each target what belongs to it alone, as its convergence delta.
        standard_error: ``[targets, tokens]``, where the method draws at random.
    """

    method: str
    scores: np.ndarray
    signed: bool
    unit: str
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)
    per_target: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    standard_error: np.ndarray | None = None

    def normalised(self, floor: float = NOISE_FLOOR) -> np.ndarray:
        """``[targets, tokens]`` in 0…1: absolute values over the largest; zeros below ``floor``."""
        import numpy as np

        size = np.abs(self.scores)
        largest = size.max(axis=-1, keepdims=True, initial=0.0)
        return np.where(largest > floor, size / np.maximum(largest, floor), 0.0)

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        record: dict[str, Any] = {
            "method": self.method,
            "signed": self.signed,
            "unit": self.unit,
            "settings": self.settings,
            "scores": self.scores.tolist(),
            "per_target": self.per_target,
        }
        if self.standard_error is not None:
            record["standard_error"] = self.standard_error.tolist()
        return record


@dataclasses.dataclass(frozen=True)
class Score:
    """One kind of scores that a method computes: its name in the record and its words for people.

    Attributes:
        name: The key in ``record["methods"]``.
        title: For labels and headings, in lower case.
        description: One or two sentences for the page. "log-probability" in it is replaced by the
            lead over the foil where there is one.
        signed: Whether the sign has a meaning.
        unit: Of the scores.
        summary: How the terminal introduces it, as "by leaving out"; not listed there without.
        axis: The axis label of its bars; ``{score}`` stands for log-probability or lead.
        facts: One line for captions on how the scores were computed, from the record.
        record_key: The original program's key for the first target's normalized scores.
        judged: Whether faithfulness judges it.
        family: Scores of one family are chosen together on the page (attention and rollout).
    """

    name: str
    title: str
    description: str
    signed: bool = True
    unit: str = "nats"
    summary: str = ""
    axis: str = "{score}, nats"
    facts: Callable[[Mapping[str, Any]], str] | None = None
    record_key: str | None = None
    judged: bool = True
    family: str = ""

    def attribution(
        self,
        scores: np.ndarray,
        settings: dict[str, Any],
        per_target: Iterable[dict[str, Any]] = (),
        standard_error: np.ndarray | None = None,
    ) -> Attribution:
        """A result of this kind.

        Args:
            scores: ``[targets, tokens]``.
            settings: How they were computed.
            per_target: For each target what belongs to it alone.
            standard_error: ``[targets, tokens]``.
        """
        return Attribution(
            self.name, scores, self.signed, self.unit, settings, list(per_target), standard_error
        )


@dataclasses.dataclass(frozen=True)
class Figure:
    """A picture of a method's results.

    Attributes:
        kind: ``bars`` (words of the first target), ``matrix`` (targets by words, for several
            targets), ``attention`` (every head of every layer) or ``curves`` (faithfulness).
        file: Its name without ending; for ``attention`` the beginning of the names.
        scores: Names of the scores drawn; ``bars`` draws a second one beside the first.
    """

    kind: Literal["bars", "matrix", "attention", "curves"]
    file: str
    scores: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Method:
    """An attribution method, as ``--methods`` names it.

    Attributes:
        name: As in ``--methods``.
        title: For headings, in lower case.
        description: One sentence on what it tells.
        compute: Adds the method's results to a running analysis.
        scores: The kinds of scores that it adds, none for methods that tell something else.
        figures: The pictures of its results.
        builds_on: Names of methods of which at least one has to be asked for too; ``ANY`` for any
            that has scores. Methods that build on others are computed after all others.
    """

    name: str
    title: str
    description: str
    compute: Callable[[Analysis], None]
    scores: tuple[Score, ...] = ()
    figures: tuple[Figure, ...] = ()
    builds_on: tuple[str, ...] = ()


@dataclasses.dataclass
class Analysis:
    """A running analysis: what the methods read, and where they put their results.

    Attributes:
        loaded: The model in the precision that it was loaded in.
        fp32: The same model, computing in fp32.
        subject: The text with its targets.
        settings: The ``AnalysisSettings``.
        words: The words of the text.
        kinds: For each word what it is: name, place, dialogue, action, prompt.
        models: ``("tuned",)``, or with the base model beside it ``("tuned", "base")``.
        record: What becomes ``results.json``; methods add parts of their own.
        warn: Called with what the user should know; the record has it too.
        told: Called as the work goes on.
        found: The tuned model's attributions by name.
        maps: ``AttentionMaps``, once the method ``attention`` has them.
        base_maps: Those of the base model.
    """

    loaded: LoadedModel
    fp32: LoadedModel
    subject: Subject
    settings: Any
    words: list[Word]
    kinds: list[set[str]]
    models: tuple[str, ...]
    record: dict[str, Any]
    warn: Callable[[str], None]
    told: ProgressCallback | None = None
    found: dict[str, Attribution] = dataclasses.field(default_factory=dict)
    maps: Any = None
    base_maps: Any = None

    def model(self, name: str) -> contextlib.AbstractContextManager[object]:
        """Within the block the model computes as ``tuned`` or, without its adapter, as ``base``."""
        return self.loaded.base() if name == "base" else contextlib.nullcontext()

    def progress(self, what: str, model: str = "tuned") -> CountCallback | None:
        """A callback for a computation's progress, None where nobody asks."""
        return counting(self.told, what + (" of the base" if model == "base" else ""))

    def add(self, found: Attribution, model: str = "tuned") -> None:
        """Put an attribution into the record, and into the original program's keys.

        Args:
            found: Of the analysis' subject.
            model: ``tuned`` or ``base``.
        """
        self.record["methods"].setdefault(found.method, {})[model] = found.to_dict()
        if model != "tuned":
            return
        self.found[found.method] = found
        score = scores().get(found.method)
        if score is not None and score.record_key:
            self.record[score.record_key] = found.normalised()[0, 1:].tolist()


_methods: dict[str, Method] = {}


def names() -> tuple[str, ...]:
    """The names of all methods, in the order of the table."""
    return (*_MODULES, *(name for name in _methods if name not in _MODULES))


def register(method: Method) -> None:
    """Add a method that is not part of the package; it runs when settings name it."""
    _methods[method.name] = method


def unregister(name: str) -> None:
    """Take a method that was registered out again."""
    _methods.pop(name, None)


def get(name: str) -> Method:
    """A method by its name.

    Raises:
        InputError: There is none.
    """
    if name not in _methods:
        if name not in _MODULES:
            raise InputError(f"methods is {name!r}", f"choose one of: {', '.join(names())}")
        module = importlib.import_module(f".{_MODULES[name]}", __package__)
        _methods[name] = module.METHOD
    return _methods[name]


def in_order(wanted: Iterable[str]) -> list[Method]:
    """Methods in the order of computing: those that build on others last.

    Raises:
        InputError: There is no such method.
    """
    found = {name: get(name) for name in wanted}
    in_table = [found[name] for name in names() if name in found]
    return sorted(in_table, key=lambda method: bool(method.builds_on))


def needed(method: Method) -> list[str]:
    """The names in ``builds_on``, with ``ANY`` written out."""
    if ANY in method.builds_on:
        return [name for name in names() if get(name).scores]
    return list(method.builds_on)


def scores() -> dict[str, Score]:
    """All kinds of scores by name, in the order of their methods."""
    return {score.name: score for name in names() for score in get(name).scores}


def score(name: str) -> Score:
    """A kind of scores by its name; one that is not registered has its name for a title."""
    return scores().get(name) or Score(name, name.replace("_", " "), "")
