"""The texts of a voice measurement: the author's chapters, the others, what the models write.

The prompts are the first words of paragraphs all over the held-out chapters. Prompt words never
count, and neither does the half sentence at the end of a text. All models continue the same prompts
with the same decoding and the same seeds, in rounds, until each has written enough.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..config.run import Config
from ..console import CountCallback
from ..data.corpus import read_documents
from ..data.document import Document
from ..data.sources import named_sources
from ..data.text import WORD, count_words, paragraph_ends, sentence_ends
from ..errors import InputError
from ..generation.decoder import Request
from ..generation.engine import Interrupted, collect, compose
from ..generation.results import Piece
from ..generation.sampling.settings import GenerationSettings
from ..models.loaded_model import LoadedModel
from . import metrics
from .originality import CorpusIndex, build_index, check, originality
from .settings import EvaluationSettings
from .stylometry import Sample
from .texts import PROMPT_WORDS, decoding
from .voice import VoiceTexts, check_texts, measure
from .voice_profile import profile

_TOKENS = 200
_WORDS_PER_TEXT = 130  # what is left of so many tokens
_FEWEST_PROMPTS = 30
_ROUNDS = 4
_COPIED = 0.5
"""Share of a chapter's 8-grams in the training text from which it counts as trained on."""


def voice_texts(
    documents: Sequence[Document],
    read: Sequence[Document],
    trained_on: set[str],
    held_out: set[str],
    index: CorpusIndex | None,
    others: Mapping[str, Sequence[Document]],
    others_from: str,
) -> VoiceTexts:
    """The human texts of a measurement, the author's parted by what the model was trained on.

    A document whose hash is in neither list was cut otherwise than in the training, or is new: the
    index of the training text tells.

    Args:
        documents: The author's.
        read: Further documents of the author that the model was trained on.
        trained_on: SHA-1 of the documents that the model was trained on.
        held_out: SHA-1 of those that the training held out.
        index: Of the training text.
        others: Other authors.
        others_from: Where they are from.
    """
    kept: list[Document] = []
    known = list(read)
    for document in documents:
        trained = document.digest in trained_on
        if index is not None and not trained and document.digest not in held_out:
            share = check(index, document.text)["share_of_8grams"]
            trained = share is not None and share > _COPIED
        (known if trained else kept).append(document)
    names = list(dict.fromkeys(document.source for document in documents))
    name = names[0] if len(names) == 1 else "the author"
    if documents and not kept:
        raise InputError(
            f"the model was trained on all texts of {name}",
            "give chapters that were held out, or leave out --voice: those held out in the "
            "training are then used",
        )
    return VoiceTexts(name, kept, others, known, others_from)


def only_author(run: Mapping[str, Any]) -> str | None:
    """The author of a run: its only source, where that is the user's own and no named corpus."""
    sources = list(run["data"]["sources"])
    if len(sources) != 1 or sources[0] in named_sources():
        return None
    return str(sources[0])


def other_authors(
    given: Sequence[str] | None,
    documents: Sequence[Document],
    author: set[str],
    known: set[str],
    config: Config,
) -> tuple[dict[str, list[Document]], str]:
    """Other authors by name, and where they are from.

    Args:
        given: Files or folders, each an author; without them the sample corpus by its domains.
        documents: What is evaluated: its other sources are further authors.
        author: Sources that are the author's.
        known: SHA-1 of the documents that the model was trained on; they are nobody's voice here.
        config: How files are read.
    """
    found: dict[str, list[Document]] = {}
    if given:
        for file in given:
            read = read_documents([file], config)
            for document in read:
                # Two folders may hold files of one name.
                name = document.source if document.source not in author else f"{file}"
                found.setdefault(name, []).append(document)
        return found, "the files given"
    sample = Config(sources=["sample"], cache_dir=config.cache_dir)
    for document in [*documents, *read_documents([], sample)]:
        if document.source not in author and document.digest not in known:
            found.setdefault(document.source, []).append(document)
    return found, "the sample corpus, which is of other forms and times than a novel"


def starts(documents: Sequence[Document], count: int) -> list[str]:
    """The first 40 words of ``count`` paragraphs, evenly over all documents; fewer of short ones.

    Texts of few paragraphs begin at sentences instead.
    """
    for ends in (paragraph_ends, sentence_ends):
        found = []
        for document in documents:
            text = document.text
            for start in [0, *ends(text)]:
                words = list(WORD.finditer(text, start, start + 40 * PROMPT_WORDS))
                if len(words) >= PROMPT_WORDS:
                    found.append(text[start : words[PROMPT_WORDS - 1].end()].strip())
        if len(found) >= count:
            break
    step = max(1.0, len(found) / count)
    return [found[int(number * step)] for number in range(min(count, len(found)))]


class VoiceSamples:
    """What each model writes after the same prompts.

    Args:
        texts: The human texts.
        settings: Words, decoding and seed.

    Attributes:
        key: The decoding, its length and seed, as in the other figures; None where none samples.
        prompts: The prompts.
        samples: Texts by model.
        tokens: Token ids of each text by model.
    """

    def __init__(self, texts: VoiceTexts, settings: EvaluationSettings) -> None:
        self.texts, self.words = texts, settings.voice_words
        self.prompts = starts(
            texts.held_out, max(_FEWEST_PROMPTS, self.words // _WORDS_PER_TEXT + 1)
        )
        self.key, self._settings = sampling(settings)
        self.samples: dict[str, list[Sample]] = {}
        self.tokens: dict[str, list[list[int]]] = {}

    def generate(self, model: LoadedModel, label: str, progress: CountCallback | None) -> None:
        """Let one model write, in rounds over all prompts, until it has written enough."""
        samples = self.samples.setdefault(label, [])
        tokens = self.tokens.setdefault(label, [])
        words = 0
        for number in range(_ROUNDS):
            first = (self._settings.seed or 0) + number * len(self.prompts)
            requests = [Request(prompt, first + i) for i, prompt in enumerate(self.prompts)]

            results = collect(
                compose(model, requests, self._settings, warn=lambda _: None),
                show=_word_counter(progress, words, self.words),
            )
            if any(result.finish_reason == "interrupted" for result in results):
                raise Interrupted(results)
            for prompt, result in enumerate(results):
                ids = [token.id for token in result.tokens]
                text = result.text
                if result.finish_reason != "stop":
                    text = text[: max(sentence_ends(text), default=len(text))]
                if text.strip():
                    samples.append(Sample(prompt, text, metrics.ends_in_loop(ids)))
                    tokens.append(ids)
                    words += count_words(text)
            if words >= self.words or not words:
                break

    def lines(self) -> list[dict[str, Any]]:
        """All texts, an entry for each prompt."""
        return [
            {
                "decoding": f"voice: {self.key}",
                "source": self.texts.author,
                "prompt": prompt,
                "texts": {
                    label: "\n\n".join(s.text for s in of if s.prompt == number)
                    for label, of in self.samples.items()
                },
            }
            for number, prompt in enumerate(self.prompts)
        ]

    def figures(self) -> dict[str, Any]:
        """``voice`` of ``evaluation.json``, but for bits per byte.

        Raises:
            InputError: A model wrote too little.
        """
        texts = self.texts
        found = measure(texts, self.samples, words=self.words, prompts=self.prompts)
        found["prompts"] = len(self.prompts)
        found["decoding"] = self.key
        of_model = {label: [s.text for s in of] for label, of in self.samples.items()}
        author = [*texts.held_out, *texts.training]
        found["profile"] = profile(author, texts.others, of_model)
        found["copied"] = copied(author, of_model)
        found["repetition"] = {
            label: {"rep_4": metrics.rep_n(of, 4), "loop_rate": metrics.loop_rate(of)}
            for label, of in self.tokens.items()
        }
        return found


def _word_counter(
    progress: CountCallback | None, before: int, wanted: int
) -> Callable[[Piece], None]:
    """Tells how many words are written, of those wanted."""
    written = before

    def show(piece: Piece) -> None:
        nonlocal written
        written += piece.text.count(" ")
        if progress is not None:
            progress(min(written, wanted), wanted)

    return show


def sampling(settings: EvaluationSettings) -> tuple[str, GenerationSettings]:
    """The first decoding that samples, and its key.

    Raises:
        InputError: All are greedy, whose loops ruin the frequencies of words.
    """
    for name in settings.decoding:
        chosen = decoding(name)
        if chosen.temperature:
            changed = chosen.changed({"max_new_tokens": _TOKENS, "seed": settings.seed})
            return f"{name}; {_TOKENS} tokens; seed {settings.seed}", changed
    raise InputError(
        "greedy decoding alone shows no voice: its loops ruin the frequencies of words",
        "add --decoding top_p=0.9",
    )


def copied(author: Sequence[Document], texts: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """What each model's texts share with all chapters of the author, and with each other.

    Args:
        author: All chapters at hand, those held out too: a known author is in many a base model.
        texts: By model.

    Returns:
        By model the figures of :func:`.originality.originality`, and ``repeated_8grams``: the share
        of 8-grams of words that were written before.
    """
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        build_index(Path(folder) / "index", author)
        found = originality(CorpusIndex(Path(folder) / "index"), texts)
    for label, of in texts.items():
        grams = [gram for text in of for gram in metrics.ngrams(metrics.words_of(text), 8)]
        found[label]["repeated_8grams"] = 1 - len(set(grams)) / len(grams) if grams else None
    return found


def human_figures(texts: VoiceTexts, words: int) -> dict[str, Any]:
    """The figures without a model: can the author be told from the others, and by what?"""
    found = measure(texts, words=words)
    author = [*texts.held_out, *texts.training]
    return found | {"profile": profile(author, texts.others, {})}


def checked(texts: VoiceTexts, words: int) -> VoiceTexts:
    """The same texts, where they are enough for a measurement.

    Raises:
        InputError: They are too short, or there is nobody else.
    """
    check_texts(texts, words)
    if not starts(texts.held_out, 1):
        raise InputError(
            f"no chapter held out of {texts.author} has {PROMPT_WORDS} words to go on from",
            "give longer ones with --voice",
        )
    return texts
