"""Settings of an explanation: what is explained, by which methods, and which files are written."""

from __future__ import annotations

import dataclasses
from typing import Any

from ..config.fields import check, from_mapping, setting
from ..errors import InputError
from ..generation.text import whole_characters
from . import registry

METHODS = registry.names()
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
        for method in registry.in_order(self.methods):
            needed = registry.needed(method)
            if needed and not set(needed) & set(self.methods):
                raise InputError(
                    f"{method.name} needs the scores of another method",
                    f"add one of these to --methods: {', '.join(needed)}",
                )

    @classmethod
    def from_mapping(cls, values: dict[str, Any]) -> AnalysisSettings:
        """Settings from names and values, converted and checked.

        Raises:
            InputError: An unknown name, or a value that does not fit.
        """
        return from_mapping(cls, values, "settings")
