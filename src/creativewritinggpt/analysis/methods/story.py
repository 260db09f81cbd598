"""Attribution by kinds of words, and where scores go when a name returns.

Token scores are summed by the kinds of their words for each target; where a name is said again, the
share of the earlier mentions is computed. Each share stands beside the one that scores spread
evenly over the visible tokens would have. The start token is left out of both, since it takes what
has nowhere else to go. Pronouns are not followed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ...data.names import is_title, name_key
from ...data.text import ends_sentence
from ..registry import Analysis, Method
from ..subject import Subject, Word
from .attention import AttentionMaps, masked_sink

KINDS = ("name", "place", "dialogue", "action", "prompt")
# Below this the scores of a target are noise, and their shares would be noise blown up.
_NOISE = 1e-9


@dataclasses.dataclass(frozen=True)
class KindShares:
    """How much of each target's scores rests on words of each kind.

    A word may be of several kinds, so that shares need not sum to 1.

    Attributes:
        share: For each kind ``[targets]``: the part of the absolute scores on its words.
        even: For each kind ``[targets]``: its part of the tokens before the target.
        support: For each kind ``[targets]``: the sum of its words' signed scores.
    """

    share: dict[str, np.ndarray]
    even: dict[str, np.ndarray]
    support: dict[str, np.ndarray]

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON: by kind the means, and what they are over the targets one by one."""
        return {
            kind: {
                "share": float(self.share[kind].mean()),
                "even": float(self.even[kind].mean()),
                "ratio": _ratio(float(self.share[kind].mean()), float(self.even[kind].mean())),
                "support": float(self.support[kind].mean()),
                "by_target": self.share[kind].tolist(),
                "even_by_target": self.even[kind].tolist(),
            }
            for kind in self.share
        }


@dataclasses.dataclass(frozen=True)
class Return:
    """A name that is said again.

    Attributes:
        name: As it is told from others: small letters, no ending.
        word: Index of the word where it comes back.
        target: Index of the target that explains its first token.
        earlier: Indices of the words where it was said before.
        share: Of the absolute scores, how much is on those.
        even: How much it would be if they were spread evenly.
        support: The signed sum on them.
        sentence: Characters of the sentence that has most.
        sentence_share: How much it has.
        sentence_even: How much it would have if they were spread evenly.
        sentence_names: Whether the name was said in that sentence.
    """

    name: str
    word: int
    target: int
    earlier: list[int]
    share: float
    even: float
    support: float
    sentence: tuple[int, int]
    sentence_share: float
    sentence_even: float
    sentence_names: bool

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return dataclasses.asdict(self) | {"ratio": _ratio(self.share, self.even)}


def by_kind(
    scores: np.ndarray, subject: Subject, words: Sequence[Word], tags: Sequence[set[str]]
) -> KindShares:
    """Sum scores by kinds of words.

    Args:
        scores: ``[targets, tokens]`` of an attribution, or attention from before each target.
        subject: The text with its targets.
        words: Its words.
        tags: Their kinds.
    """
    share, even = _shares(scores, subject)
    result = KindShares({}, {}, {})
    for kind in KINDS:
        chosen = _tokens(words, [i for i, kinds in enumerate(tags) if kind in kinds])
        mask = np.zeros(subject.length)
        mask[chosen] = 1
        result.share[kind], result.even[kind] = share @ mask, even @ mask
        result.support[kind] = np.asarray(scores, dtype=np.float64) @ mask
    return result


def returns(
    scores: np.ndarray, subject: Subject, words: Sequence[Word], tags: Sequence[set[str]]
) -> list[Return]:
    """Where the scores go when a name is said again, in the order of the text.

    Only words whose first token is a target are looked at: that is where the model decides.

    Args:
        scores: ``[targets, tokens]``.
        subject: The text with its targets.
        words: Its words.
        tags: Their kinds.
    """
    share, even = _shares(scores, subject)
    sentences = sentences_of(words)
    result = []
    for word, target, earlier in _recurrences(subject, words, tags):
        on_earlier = _tokens(words, earlier)
        sums = [
            (float(share[target, tokens].sum()), float(even[target, tokens].sum()))
            for tokens in (_tokens(words, sentence) for sentence in sentences)
        ]
        best = max(range(len(sentences)), key=lambda index: sums[index][0])
        first, last = sentences[best][0], sentences[best][-1]
        result.append(
            Return(
                name=name_key(words[word].text) or "",
                word=word,
                target=target,
                earlier=earlier,
                share=float(share[target, on_earlier].sum()),
                even=float(even[target, on_earlier].sum()),
                support=float(np.asarray(scores)[target, on_earlier].sum()),
                sentence=(words[first].span[0], words[last].span[1]),
                sentence_share=sums[best][0],
                sentence_even=sums[best][1],
                sentence_names=any(index in sentences[best] for index in earlier),
            )
        )
    return result


def following_heads(
    maps: AttentionMaps, subject: Subject, words: Sequence[Word], tags: Sequence[set[str]]
) -> np.ndarray | None:
    """``[layers, heads]``: what each head gives to earlier mentions when a name is said again.

    The start token is masked; mean over the recurrences that are targets, None where there are
    none.
    """
    found = list(_recurrences(subject, words, tags))
    if not found:
        return None
    result = np.zeros((maps.layers, maps.heads))
    for layer in range(maps.layers):
        weights = masked_sink(maps.weights[layer])
        for _, target, earlier in found:
            query = subject.targets[target].position - 1
            result[layer] += weights[:, query, _tokens(words, earlier)].sum(-1)
    return result / len(found)


def returns_text(found: Sequence[Return], what: str = "attention") -> str:
    """One sentence for people about the recurrences, empty where there are none.

    Args:
        found: The recurrences.
        what: Whose shares they are.
    """
    if not found:
        return ""
    names = list(dict.fromkeys(item.name.capitalize() for item in found))
    share = float(np.mean([item.share for item in found]))
    even = float(np.mean([item.even for item in found]))
    shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    times = "once" if len(found) == 1 else f"{len(found)} times"
    verb = "come" if len(names) > 1 else "comes"
    return (
        f"{shown} {verb} back {times}: {share:.0%} of the {what} goes to earlier mentions, where "
        f"{even:.0%} would go if it were spread evenly."
    )


def sentences_of(words: Sequence[Word]) -> list[list[int]]:
    """Indices of words by sentence; a line break ends one, the start token belongs to none."""
    result: list[list[int]] = [[]]
    for index, word in enumerate(words):
        if not word.text:
            continue
        result[-1].append(index)
        if ("\n" in word.text or ends_sentence(word.text)) and not is_title(word.text):
            result.append([])
    return [sentence for sentence in result if sentence]


def _recurrences(
    subject: Subject, words: Sequence[Word], tags: Sequence[set[str]]
) -> Iterator[tuple[int, int, list[int]]]:
    """The word, its target and the earlier words of the same name."""
    by_position = {target.position: index for index, target in enumerate(subject.targets)}
    said: dict[str, list[int]] = {}
    for index, (word, kinds) in enumerate(zip(words, tags, strict=True)):
        key = name_key(word.text) if "name" in kinds else None
        if key is None:
            continue
        earlier = said.setdefault(key, [])
        target = by_position.get(word.tokens[0])
        if earlier and target is not None:
            yield index, target, list(earlier)
        earlier.append(index)


def _shares(scores: np.ndarray, subject: Subject) -> tuple[np.ndarray, np.ndarray]:
    """``[targets, tokens]`` sizes that sum to 1, without the start token; and even ones."""
    size = np.abs(np.asarray(scores, dtype=np.float64))
    positions = np.array([target.position for target in subject.targets])
    seen = np.arange(subject.length) < positions[:, None]
    seen[:, 0] = False
    size = np.where(seen, size, 0)
    total = size.sum(-1, keepdims=True)
    share = np.where(total > _NOISE, size / np.maximum(total, _NOISE), 0)
    return share, seen / np.maximum(seen.sum(-1, keepdims=True), 1)


def _tokens(words: Sequence[Word], indices: Sequence[int]) -> list[int]:
    return [token for index in indices for token in words[index].tokens]


def _ratio(share: float, even: float) -> float | None:
    return share / even if even > 0 else None


def story_record(
    scores: dict[str, np.ndarray],
    subject: Subject,
    words: Sequence[Word],
    tags: Sequence[set[str]],
) -> dict[str, Any]:
    """Kinds and recurrences by several methods, ready for JSON.

    Args:
        scores: By name, each ``[targets, tokens]``.
        subject: The text with its targets.
        words: Its words.
        tags: Their kinds.

    Returns:
        ``kinds``, ``returns`` and ``told``, each by method; methods without recurrences are left
        out of the last two.
    """
    record: dict[str, Any] = {"kinds": {}, "returns": {}, "told": {}}
    for name, values in scores.items():
        record["kinds"][name] = by_kind(values, subject, words, tags).to_dict()
        found = returns(values, subject, words, tags)
        if found:
            record["returns"][name] = [item.to_dict() for item in found]
            record["told"][name] = returns_text(found, name.replace("_", " "))
    return record


def compute(analysis: Analysis) -> None:
    """Names, places, speech and action, and where the model looks for them."""
    wanted = ("attention_without_sink", "integrated_gradients", "kl")
    scores = {name: analysis.found[name].scores for name in wanted if name in analysis.found}
    if not scores:
        return
    about = analysis.subject, analysis.words, analysis.kinds
    analysis.record["story"] = story_record(scores, *about)
    if analysis.maps is not None:
        analysis.record["story"]["following_heads"] = following_heads(analysis.maps, *about)


METHOD = Method(
    name="story",
    title="names, places and speech",
    description="Where the model looks for names, places, speech and action.",
    compute=compute,
    builds_on=("attention", "gradients", "perturbation"),
)
