"""Results of the engine: tokens with their statistics, pieces of text, whole texts, their ranking.

Log-probabilities are natural logarithms of the model's own distribution, before any sampler, unless
the name says otherwise; a text's ``tokens`` decode to exactly its ``text``. torch is imported only
where statistics are computed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from .sampling.settings import GenerationSettings
from .text import Vocabulary

if TYPE_CHECKING:
    import torch

    from .sampling.samplers import Trace

Scores = Callable[[Sequence[str]], list[float]]
"""Scores of drafts, higher for better ones."""

# Nats per token that a text of nothing but repeated n-grams loses. An ordinary continuation has a
# mean log-probability between -2 and -4, a loop one near 0: this ranks the loop last.
_REPETITION_COST = 5.0
_LIKELY = 1e-3  # tokens of a larger probability are sorted for the alternatives


@dataclasses.dataclass(frozen=True, slots=True)
class Alternative:
    """A token that could have come, and its probability (0…1)."""

    id: int
    text: str
    probability: float


@dataclasses.dataclass(frozen=True, slots=True)
class Removal:
    """What one sampler excluded: number of tokens, their raw probability, the likeliest of them."""

    tokens: int
    probability: float
    likeliest: list[Alternative]


@dataclasses.dataclass(frozen=True, slots=True)
class Token:
    """A written token with its statistics.

    Attributes:
        id: Token id.
        text: Its text, incomplete characters shown as the replacement character.
        bytes: Its exact bytes.
        logprob: Log-probability, in nats.
        rank: Number of likelier tokens, plus one.
        entropy: Entropy of the model's distribution, in nats.
        probability: Probability in the distribution that it was drawn from.
        before: The likeliest tokens before the samplers.
        after: The likeliest tokens after them.
        removed: What each sampler excluded, by its name.
    """

    id: int
    text: str
    bytes: bytes
    logprob: float
    rank: int
    entropy: float
    probability: float
    before: list[Alternative] | None = None
    after: list[Alternative] | None = None
    removed: dict[str, Removal] | None = None

    def to_dict(self) -> dict[str, Any]:
        """All fields that have a value, ready for JSON; ``bytes`` as a list of numbers."""
        record = dataclasses.asdict(self)
        record["bytes"] = list(self.bytes)
        return {name: value for name, value in record.items() if value is not None}


@dataclasses.dataclass(frozen=True, slots=True)
class Generated:
    """A text that the model wrote after a prompt.

    Attributes:
        text: The text without the prompt.
        prompt: The prompt as given.
        seed: Its random seed; alone, with the same settings, it gives this text again.
        finish_reason: ``stop`` (end of text or a stop string), ``length``, or ``interrupted``.
        tokens: The tokens of the text.
        prompt_tokens: Number of tokens of the prompt that the model saw.
        view_start: First character of prompt + text in the model's context at the end; 0 if all.
        settings: The settings that it was written with.
        first_token_seconds: Seconds from the request to the first token.
        tokens_per_second: Speed after the first token, of this row alone.
        healed: The end of the prompt whose tokens were re-opened; usually empty.
        score: What it was ranked by, with ``best_of``.
    """

    text: str
    prompt: str
    seed: int
    finish_reason: str
    tokens: list[Token]
    prompt_tokens: int
    view_start: int
    settings: GenerationSettings
    first_token_seconds: float
    tokens_per_second: float
    healed: str = ""
    score: float | None = None

    @property
    def mean_logprob(self) -> float:
        """Mean log-probability per token, in nats; 0 for an empty text."""
        if not self.tokens:
            return 0.0
        return sum(token.logprob for token in self.tokens) / len(self.tokens)

    def to_dict(self, *, tokens: bool = True) -> dict[str, Any]:
        """The record of ``--json``."""
        record: dict[str, Any] = {
            "prompt": self.prompt,
            "text": self.text,
            "finish_reason": self.finish_reason,
            "seed": self.seed,
            "usage": {
                "prompt_tokens": self.prompt_tokens,
                "completion_tokens": len(self.tokens),
            },
            "timing": {
                "first_token_seconds": round(self.first_token_seconds, 4),
                "tokens_per_second": round(self.tokens_per_second, 2),
            },
            "view_start": self.view_start,
            "mean_logprob": self.mean_logprob,
            "settings": self.settings.to_dict(),
        }
        if self.healed:
            record["healed"] = self.healed
        if self.score is not None:
            record["score"] = self.score
        if tokens:
            record["tokens"] = [token.to_dict() for token in self.tokens]
        return record


@dataclasses.dataclass(frozen=True, slots=True)
class Piece:
    """New text of one alternative while it is being written.

    Attributes:
        index: Number of the alternative.
        text: Text that will not be taken back; may be empty.
        tokens: The tokens that this text completes.
        view_start: First character of prompt + text in the model's context.
        result: The whole text, with the last piece of an alternative.
    """

    index: int
    text: str
    tokens: list[Token]
    view_start: int = 0
    result: Generated | None = None


def repeated_share(tokens: Sequence[int], n: int = 4) -> float:
    """Share of the n-grams of ``tokens`` that occurred before in the same text; 0…1."""
    runs = [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]
    return 1 - len(set(runs)) / len(runs) if runs else 0.0


def best(
    texts: Sequence[Generated], n: int, rank_by: str, taste: Scores | None = None
) -> list[Generated]:
    """The ``n`` best of ``texts`` with their scores, best first; an empty text ranks last.

    Args:
        texts: Alternatives of one prompt.
        n: Number to keep.
        rank_by: ``likelihood``: mean log-probability in nats, which prefers loops; ``varied``: the
            same less the cost of repeated 4-grams; ``taste``: by ``taste``.
        taste: Scores of texts by the writer's choices.

    Raises:
        InputError: ``rank_by`` is ``taste``, and there is none.
    """
    if rank_by == "taste" and taste is None:
        raise InputError(
            "there are no choices to rank drafts by",
            "give stories or files of choices with --choices, or --rank-by varied",
        )
    liked = taste([text.text for text in texts]) if rank_by == "taste" and taste else []
    scored = []
    for place, text in enumerate(texts):
        score = liked[place] if liked else text.mean_logprob
        if rank_by == "varied":
            score -= _REPETITION_COST * repeated_share([token.id for token in text.tokens])
        scored.append(dataclasses.replace(text, score=score))
    scored.sort(key=lambda text: (bool(text.text.strip()), text.score), reverse=True)
    return scored[:n]


def step_tokens(
    logits: torch.Tensor,
    tokens: torch.Tensor,
    probabilities: torch.Tensor,
    words: Vocabulary,
    *,
    alternatives: int = 0,
    final: torch.Tensor | None = None,
    trace: Trace | None = None,
) -> list[Token]:
    """The tokens of one decoding step with their statistics, one per row.

    Args:
        logits: The model's, float32 ``[rows, vocabulary]``.
        tokens: Token ids, int64 ``[rows]``.
        probabilities: Of the tokens in the distribution that they were drawn from, ``[rows]``.
        words: The vocabulary.
        alternatives: Number of alternatives to name per token, before and after the samplers.
        final: Logits after all samplers, for the alternatives after them.
        trace: Logits after each sampler, for what each of them excluded.
    """
    import numpy as np
    import torch

    log_probabilities = torch.log_softmax(logits, -1)
    chosen = log_probabilities.gather(-1, tokens.unsqueeze(-1))
    # numpy compares and counts ten times as fast as torch.
    pairs = zip(log_probabilities.numpy(), chosen.numpy(), strict=True)
    ranks = [int(np.count_nonzero(row > one)) + 1 for row, one in pairs]
    distribution = log_probabilities.exp()
    entropies: torch.Tensor = -torch.linalg.vecdot(distribution, log_probabilities)
    if bool(entropies.isnan().any()):  # a token of probability zero: 0 · log 0 counts as 0
        entropies = torch.special.entr(distribution).sum(-1)
    logprobs, shares = chosen.squeeze(-1).tolist(), probabilities.tolist()
    entropy = entropies.tolist()
    return [
        Token(
            id=token,
            text=words.shown(token),
            bytes=words.bytes_of(token),
            logprob=logprobs[row],
            rank=ranks[row],
            entropy=entropy[row],
            probability=shares[row],
            **(_named(logits, row, alternatives, words, final, trace) if alternatives else {}),
        )
        for row, token in enumerate(tokens.tolist())
    ]


def _named(
    logits: torch.Tensor, row: int, count: int, words: Vocabulary, final: torch.Tensor | None,
    trace: Trace | None,
) -> dict[str, Any]:  # fmt: skip
    """The ``count`` likeliest tokens of a row before and after the samplers, and those removed."""
    shares = logits[row].softmax(-1)
    order = _ordered(shares, count)
    found: dict[str, Any] = {"before": _alternatives(order[0][:count], order[1][:count], words)}
    if final is not None:
        values, ids = _ordered(final[row].softmax(-1), count)
        found["after"] = _alternatives(values[:count], ids[:count], words)
    if trace is not None:
        found["removed"] = _removed(logits, trace, row, count, words, shares, order)
    return found


def _ordered(shares: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The largest probabilities, largest first, and their token ids: ``count`` at least.

    All above a limit are sorted, or all above zero where the samplers left a few: that takes a
    fifth of the time of ``topk``.
    """
    import numpy as np
    import torch

    weights = shares.numpy()
    likely = np.flatnonzero(weights > _LIKELY)
    if len(likely) < count:
        likely = np.flatnonzero(weights > 0)
        if len(likely) > 1 / _LIKELY:
            return shares.topk(min(count, len(weights)))
    ids = likely[np.argsort(-weights[likely], kind="stable")]
    return torch.from_numpy(weights[ids]), torch.from_numpy(ids)


def _alternatives(values: torch.Tensor, ids: torch.Tensor, words: Vocabulary) -> list[Alternative]:
    """Tokens with their probabilities, without those of probability zero."""
    pairs = zip(ids.tolist(), values.tolist(), strict=True)
    return [Alternative(token, words.shown(token), value) for token, value in pairs if value > 0]


def _removed(
    logits: torch.Tensor, trace: Trace, row: int, count: int, words: Vocabulary,
    shares: torch.Tensor, order: tuple[torch.Tensor, torch.Tensor],
) -> dict[str, Removal]:  # fmt: skip
    """What each sampler of ``trace`` excluded in one row, with its ``count`` likeliest tokens.

    Args:
        logits: The model's, ``[rows, vocabulary]``.
        trace: Logits after each sampler.
        row: The row.
        count: Number of tokens to name.
        words: The vocabulary.
        shares: The row's probabilities before all samplers.
        order: The largest of them, largest first, and their token ids.
    """
    import numpy as np
    import torch

    ordered, weights = order[1].numpy(), shares.numpy()
    alive, last = np.isfinite(logits[row].numpy()), logits
    found = {}
    for name, changed in trace:
        if changed is last:
            continue
        last, after = changed, np.isfinite(changed[row].numpy())
        gone = alive & ~after
        number = int(np.count_nonzero(gone))
        if number:
            first, most = np.flatnonzero(gone[ordered])[:count], min(count, number)
            if len(first) == most:
                likeliest = order[0][first], order[1][first]
            else:
                likeliest = (shares * torch.from_numpy(gone)).topk(most)
            lost = float(weights @ gone)
            found[name] = Removal(number, lost, _alternatives(*likeliest, words))
        alive = after
    return found
