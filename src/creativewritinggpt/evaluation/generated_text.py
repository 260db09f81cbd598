"""What the models of an evaluation wrote, and the figures formed of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..console import CountCallback
from ..data.document import Document
from ..generation.sampling.settings import GenerationSettings
from ..models.loaded_model import LoadedModel
from .metrics.corpus_index import CorpusIndex
from .metrics.originality import originality
from .settings import EvaluationSettings
from .texts import (
    HUMAN,
    Written,
    decoding,
    decoding_key,
    human_texts,
    prompts_of,
    text_figures,
    write_texts,
)

SAMPLES = 6
"""Prompts whose texts are shown in the report; all are in ``evaluation_texts.jsonl``."""


class Generation:
    """Texts of all models after the same prompts, in every way of decoding.

    Attributes:
        prompts: The prompts.
        ways: The decoding settings by their key.
        rows: By key and label, a text for each prompt.
    """

    def __init__(self, documents: Sequence[Document], settings: EvaluationSettings) -> None:
        self.prompts = prompts_of(documents, settings.texts, settings.seed)
        self.tokens = settings.text_tokens
        self.ways: dict[str, GenerationSettings] = {}
        for name in settings.decoding if self.prompts else ():
            way = decoding(name).changed(
                {"max_new_tokens": settings.text_tokens, "seed": settings.seed}
            )
            self.ways[decoding_key(name, way, len(self.prompts))] = way
        self.rows: dict[str, dict[str, list[Written]]] = {key: {} for key in self.ways}

    def write(self, writer: LoadedModel, label: str, progress: CountCallback | None) -> None:
        """Let one model write; people's texts are cut to its tokens the first time."""
        for number, (key, way) in enumerate(self.ways.items()):
            if progress is not None:
                progress(number, len(self.ways))
            row = self.rows[key]
            if HUMAN not in row:
                row[HUMAN] = human_texts(writer.tokenizer, self.prompts, self.tokens)
            row[label] = write_texts(writer, self.prompts, way)

    def lines(self) -> list[dict[str, Any]]:
        """Everything that was written, an entry for each prompt and way of decoding."""
        return [
            {
                "decoding": key,
                "source": prompt.source,
                "prompt": prompt.text,
                "texts": {label: texts[number].text for label, texts in row.items()},
                "ended": {label: texts[number].ended for label, texts in row.items()},
            }
            for key, row in self.rows.items()
            for number, prompt in enumerate(self.prompts)
        ]


def written_figures(
    generation: Generation, index: CorpusIndex | None, without: dict[str, str]
) -> dict[str, Any]:
    """``decoding``, ``generation`` and ``originality`` of ``evaluation.json``.

    Args:
        generation: What was written.
        index: Of the training text, where it is at hand.
        without: Reasons for what is not measured; completed here.
    """
    if not generation.ways:
        without.setdefault(
            "generation", "no text was written (--texts 0, or nothing to go on with)"
        )
        without.setdefault("originality", "no text was written")
        return {"decoding": {}, "generation": None, "originality": None}
    figures = {key: text_figures(row, generation.prompts) for key, row in generation.rows.items()}
    samples = [line for line in generation.lines() if _shown(line, generation)]
    found = None
    if index is not None:
        found = {key: originality(index, _texts(row)) for key, row in generation.rows.items()}
    return {
        "decoding": {key: way.to_dict() for key, way in generation.ways.items()},
        "generation": {"figures": figures, "samples": samples},
        "originality": found,
    }


def _shown(line: Mapping[str, Any], generation: Generation) -> bool:
    return line["prompt"] in [prompt.text for prompt in generation.prompts[:SAMPLES]]


def _texts(row: Mapping[str, Sequence[Written]]) -> dict[str, list[str]]:
    return {label: [text.text for text in texts] for label, texts in row.items()}
