"""Generated texts: continuations of the same prompts by every model, beside the human ones.

Every figure of a generated text belongs to its decoding settings: a model that loops in greedy
decoding may not when it samples. So decoding, number of texts and length are the key of the
figures. Figures that depend on length are computed on texts cut to the same number of words, text
by text, in all rows.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from ..console import CountCallback
from ..data.document import Document
from ..data.rows.packing import encode
from ..data.text import WORD
from ..errors import InputError
from ..generation.decoder import Request
from ..generation.engine import write_all
from ..generation.sampling.settings import GenerationSettings, presets, settings_for
from ..models.loaded_model import LoadedModel
from . import metrics
from .originality import CorpusIndex, originality
from .settings import EvaluationSettings

HUMAN = "human"
PROMPT_WORDS = 40
"""Words of a document without a prompt that are used as one."""

SAMPLES = 6
"""Prompts whose texts are shown in the report; all are in ``evaluation_texts.jsonl``."""

# Plain sampling, without the defaults that are a matter of taste.
_PLAIN = {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "repetition_penalty": 1.0}


@dataclasses.dataclass(frozen=True)
class Prompt:
    """A prompt and its human continuation.

    Attributes:
        source: The domain it is from.
        text: What the models are given.
        human: The human continuation.
    """

    source: str
    text: str
    human: str


@dataclasses.dataclass(frozen=True)
class GeneratedText:
    """A continuation of a prompt.

    Attributes:
        text: Without the prompt.
        tokens: Its token ids.
        ended: Whether it ended within the length.
    """

    text: str
    tokens: list[int]
    ended: bool


def choose_documents(documents: Sequence[Document], count: int, seed: int) -> list[Document]:
    """``count`` documents, evenly over the domains, the same for any order of ``documents``."""

    def rank(document: Document) -> str:
        text = f"{seed}\0{document.digest}"
        return hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()

    by_domain: dict[str, list[Document]] = {}
    for document in sorted(documents, key=rank, reverse=True):
        by_domain.setdefault(document.source, []).append(document)
    chosen: list[Document] = []
    while len(chosen) < count and any(by_domain.values()):
        for _, waiting in sorted(by_domain.items()):
            if waiting and len(chosen) < count:
                chosen.append(waiting.pop())
    return chosen


def prompts_of(documents: Sequence[Document], count: int, seed: int) -> list[Prompt]:
    """Prompts: the documents' own, or else the first words of their text.

    Args:
        documents: Held-out documents; those without a continuation are left out.
        count: How many, as evenly over the domains as there are documents.
        seed: Seed of the choice of documents.
    """
    prompts = {document: prompt for document in documents if (prompt := _prompt(document))}
    usable = [document for document in documents if document in prompts]
    return [prompts[document] for document in choose_documents(usable, count, seed)]


def _prompt(document: Document) -> Prompt | None:
    if document.prompt:
        given, continuation = document.parts()
        return Prompt(document.source, given, continuation) if document.text.strip() else None
    words = list(WORD.finditer(document.text))
    if len(words) < 8:
        return None
    cut = words[min(PROMPT_WORDS, len(words) // 2) - 1].end()
    return Prompt(document.source, document.text[:cut], document.text[cut:])


def decoding(text: str) -> GenerationSettings:
    """Decoding settings from their name.

    Args:
        text: ``greedy``, the name of a preset, or settings such as ``top_p=0.9,temperature=0.8``,
            on top of plain sampling.

    Raises:
        InputError: It is none of these.
    """
    if text == "greedy":
        return GenerationSettings().changed({**_PLAIN, "temperature": 0.0})
    if "=" not in text:
        if text not in presets():
            raise InputError(
                f"there is no decoding {text!r}",
                f"give greedy, NAME=VALUE,… or a preset: {', '.join(presets())}",
            )
        return settings_for(text, {})
    pairs = [part.partition("=") for part in text.split(",")]
    values = {name.strip(): value.strip() for name, _, value in pairs}
    return GenerationSettings().changed({**_PLAIN, **values}, "decoding")


class GeneratedTexts:
    """The texts of all models after the same prompts, for each decoding.

    Attributes:
        prompts: The prompts.
        decodings: Decoding settings by their key: name, length, number of texts and seed.
        rows: By key and label, a text for each prompt.
    """

    def __init__(self, documents: Sequence[Document], settings: EvaluationSettings) -> None:
        self.prompts = prompts_of(documents, settings.texts, settings.seed)
        self.tokens, seed = settings.text_tokens, settings.seed
        how = f"{self.tokens} tokens; {len(self.prompts)} texts; seed {seed}"
        changes = {"max_new_tokens": self.tokens, "seed": seed}
        self.decodings = {
            f"{name}; {how}": decoding(name).changed(changes)
            for name in (settings.decoding if self.prompts else ())
        }
        self.rows: dict[str, dict[str, list[GeneratedText]]] = {key: {} for key in self.decodings}

    def generate(self, model: LoadedModel, label: str, progress: CountCallback | None) -> None:
        """Generate the texts of one model; the first model's tokens cut the human ones."""
        for number, (key, settings) in enumerate(self.decodings.items()):
            if progress is not None:
                progress(number, len(self.decodings))
            if HUMAN not in self.rows[key]:
                self.rows[key][HUMAN] = human_texts(model.tokenizer, self.prompts, self.tokens)
            self.rows[key][label] = generated_texts(model, self.prompts, settings)

    def lines(self) -> list[dict[str, Any]]:
        """All texts, an entry for each prompt and decoding."""
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

    def figures(self, index: CorpusIndex | None) -> dict[str, Any]:
        """``decoding``, ``generation`` and ``originality`` of ``evaluation.json``.

        Args:
            index: Of the training text, where there is one.
        """
        if not self.decodings:
            return {"decoding": {}, "generation": None, "originality": None}
        shown = {prompt.text for prompt in self.prompts[:SAMPLES]}
        copied = None
        if index is not None:
            copied = {
                key: originality(index, {label: [t.text for t in ts] for label, ts in row.items()})
                for key, row in self.rows.items()
            }
        return {
            "decoding": {key: settings.to_dict() for key, settings in self.decodings.items()},
            "generation": {
                "figures": {key: text_figures(row, self.prompts) for key, row in self.rows.items()},
                "samples": [line for line in self.lines() if line["prompt"] in shown],
            },
            "originality": copied,
        }


def generated_texts(
    model: LoadedModel, prompts: Sequence[Prompt], settings: GenerationSettings
) -> list[GeneratedText]:
    """One text for each prompt; text ``i`` has the seed ``settings.seed + i``."""
    seed = settings.seed or 0
    requests = [Request(prompt.text, seed + i) for i, prompt in enumerate(prompts)]
    results = write_all(model, requests, settings, warn=lambda _: None)
    return [
        GeneratedText(
            found.text, [token.id for token in found.tokens], found.finish_reason == "stop"
        )
        for found in results
    ]


def human_texts(tokenizer: Any, prompts: Sequence[Prompt], tokens: int) -> list[GeneratedText]:
    """The human continuations, cut to ``tokens`` of the model's tokens."""
    texts = []
    for prompt in prompts:
        ids = encode(tokenizer, prompt.human)
        cut = tokenizer.decode(ids[:tokens]).rstrip("\ufffd") if len(ids) > tokens else prompt.human
        texts.append(GeneratedText(cut, ids[:tokens], len(ids) <= tokens))
    return texts


def text_figures(
    rows: Mapping[str, Sequence[GeneratedText]], prompts: Sequence[Prompt]
) -> dict[str, dict[str, Any]]:
    """The figures of each row of texts.

    Args:
        rows: By label (a model, or ``human``) a text for each prompt.
        prompts: The prompts.

    Returns:
        By label: ``distinct_1`` to ``3``, ``self_bleu_4`` and ``zipf`` on words, texts cut to the
        same number of words in all rows; ``rep_2`` to ``4``, ``diversity``, ``seq_rep_4`` and
        ``loop_rate`` on tokens; sentences, readability and prompt use on whole texts;
        ``end_of_text_rate``. None where a figure is not defined.
    """
    words = {label: [metrics.words_of(t.text) for t in texts] for label, texts in rows.items()}
    same = [min(lengths) for lengths in zip(*([len(w) for w in ws] for ws in words.values()),
                                            strict=True)]  # fmt: skip
    result = {}
    for label, texts in rows.items():
        cut = [of_text[:count] for of_text, count in zip(words[label], same, strict=True) if count]
        tokens = [text.tokens for text in texts]
        lengths = [n for text in texts for n in metrics.sentence_lengths(text.text)]
        mean, spread = metrics.mean_and_spread(lengths) or (None, None)
        pairs = [(prompt.text, text.text) for prompt, text in zip(prompts, texts, strict=True)]
        result[label] = {
            "texts": len(texts),
            "words": sum(map(len, words[label])),
            "compared_words": sum(map(len, cut)),
            **{f"distinct_{n}": metrics.distinct_n(cut, n) for n in (1, 2, 3)},
            "self_bleu_4": metrics.self_bleu(cut, 4),
            "zipf": metrics.zipf_coefficient(cut),
            **{f"rep_{n}": metrics.rep_n(tokens, n) for n in (2, 3, 4)},
            "diversity": metrics.diversity(tokens),
            "seq_rep_4": metrics.seq_rep_n(tokens, 4),
            "loop_rate": metrics.loop_rate(tokens),
            "sentence_words": mean,
            "sentence_words_sd": spread,
            **metrics.readability([text.text for text in texts]),
            **metrics.prompt_use(pairs),
            "end_of_text_rate": sum(text.ended for text in texts) / len(texts),
        }
    return result
