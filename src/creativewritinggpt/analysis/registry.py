"""Attribution methods and settings: what a method is, the table of all, and what can be asked for.

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

from ..config.fields import check, from_mapping, setting
from ..console import CountCallback, ProgressCallback, counting
from ..errors import InputError
from ..generation.text import whole_characters

if TYPE_CHECKING:
    import numpy as np

    from ..models.loaded_model import LoadedModel
    from .subject import Subject, Word

# One line per method, in the order in which they are listed: its name and its module.
_MODULES = {
    "attention": "methods.attention",
    "gradients": "methods.gradients",
    "perturbation": "methods.perturbation",
    "occlusion": "methods.occlusion",
    "lens": "methods.lens",
    "difference": "methods.difference",
    "faithfulness": "methods.faithfulness",
    "story": "methods.story",
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
        quick: Whether it takes no more than a few seconds; such methods are computed first.
    """

    name: str
    title: str
    description: str
    compute: Callable[[Analysis], None]
    scores: tuple[Score, ...] = ()
    figures: tuple[Figure, ...] = ()
    builds_on: tuple[str, ...] = ()
    quick: bool = False


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
    """Methods in the order of computing: quick ones first, those that build on others last.

    Raises:
        InputError: There is no such method.
    """
    found = {name: get(name) for name in wanted}
    in_table = [found[name] for name in names() if name in found]
    return sorted(in_table, key=lambda method: (bool(method.builds_on), not method.quick))


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


METHODS = names()
_WHAT = "What is explained"
_HOW = "How"
_FILES = "What is written"


@dataclasses.dataclass(frozen=True)
class AnalysisSettings:
    """Settings of an explanation; see the field's help."""

    write: int | None = setting(
        None, "Generate N tokens after the text, and explain each of them.",
        low=1, high=1000, group=_WHAT, metavar="N",
    )  # fmt: skip
    target: str | None = setting(
        None, "Explain this word of the text (its last occurrence) instead of the next token.",
        group=_WHAT, metavar="WORD",
    )  # fmt: skip
    next_word: str | None = setting(
        None, "Explain why this word could come next, instead of the likeliest token.",
        group=_WHAT, metavar="WORD",
    )  # fmt: skip
    contrast: str | None = setting(
        None,
        "Explain why the target rather than this word (the foil).",
        group=_WHAT,
        metavar="WORD",
    )
    preset: str | None = setting(
        None, "With --write: sampling preset by genre or mood.", group=_WHAT, metavar="NAME"
    )
    methods: list[str] = setting(
        list(METHODS), f"Methods to compute: {', '.join(METHODS)}.", group=_HOW, metavar="NAME,…"
    )
    baseline: str = setting(
        "zero", "Baseline of integrated gradients: zero or mean embedding, or end-of-text token.",
        choices=("zero", "mean", "end_of_text"), group=_HOW,
    )  # fmt: skip
    steps: int | None = setting(
        None, "Integration steps; default: as many as the convergence delta needs.",
        low=1, high=2000, group=_HOW, metavar="N",
    )  # fmt: skip
    samples: int = setting(
        20, "Random replacements per token.", low=2, high=10000, group=_HOW, metavar="N"
    )
    law: str = setting(
        "unigram", "Replacement distribution: any token, by frequency, or as the model predicts.",
        choices=("uniform", "unigram", "model"), group=_HOW,
    )  # fmt: skip
    unit: str = setting(
        "word", "Unit that occlusion replaces at once.",
        choices=("token", "word", "sentence", "part"), group=_HOW,
    )  # fmt: skip
    base: bool = setting(
        True, "Compute attributions of the base model too; about twice the time.", group=_HOW
    )
    seed: int = setting(42, "Random seed.", low=0, group=_HOW, metavar="N")
    layers: list[int] | None = setting(
        None, "Draw only these layers, counted from 0.", group=_FILES, metavar="N,…"
    )
    heads: list[int] | None = setting(
        None, "Draw only these heads, counted from 0.", group=_FILES, metavar="N,…"
    )
    without_sink: bool = setting(
        False, "Draw the attention without its first token (the sink) as well.", group=_FILES
    )
    svg: bool = setting(False, "Write every figure as SVG as well.", group=_FILES)

    def __post_init__(self) -> None:
        check(self)
        for name in ("target", "next_word", "contrast"):
            if (word := getattr(self, name)) is not None:
                object.__setattr__(self, name, whole_characters(word))
        given = [
            name for name in ("write", "target", "next_word") if getattr(self, name) is not None
        ]
        if len(given) > 1:
            flags = [f"--{name.replace('_', '-')}" for name in given]
            raise InputError(f"{' and '.join(flags)} exclude each other", f"give {flags[0]} alone")
        for name in ("methods", "layers", "heads"):
            if getattr(self, name) == []:
                raise InputError(f"--{name} is empty", f"name some, or leave --{name} out")
        self._check_methods()
        if self.preset is not None and self.write is None:
            raise InputError(
                "--preset says how the model writes, and nothing is to be written",
                "add --write N, or leave --preset out",
            )
        if self.contrast is not None and self.write is not None:
            raise InputError(
                "--contrast sets one token against a word, and --write explains many",
                "give --contrast with --target or --next-word",
            )

    def _check_methods(self) -> None:
        """Refuse what would do nothing with these methods."""
        drawn = [
            name for name in ("layers", "heads", "without_sink")
            if getattr(self, name) not in (None, False)
        ]  # fmt: skip
        if drawn and "attention" not in self.methods:
            flag = f"--{drawn[0].replace('_', '-')}"
            raise InputError(
                f"{flag} chooses pictures of attention, which is not among the methods",
                f"add attention to --methods, or leave {flag} out",
            )
        if self.methods == list(METHODS):
            return
        for method in in_order(self.methods):
            others = needed(method)
            if others and not set(others) & set(self.methods):
                raise InputError(
                    f"{method.name} needs the scores of another method",
                    f"add one of these to --methods: {', '.join(others)}",
                )

    @classmethod
    def from_mapping(cls, values: dict[str, Any]) -> AnalysisSettings:
        """Settings from names and values, converted and checked.

        Raises:
            InputError: An unknown name, or a value that does not fit.
        """
        return from_mapping(cls, values, "settings")
