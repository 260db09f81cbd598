"""Drafts of a model in training, always of the same prompts and seeds, and what they show.

Three things tell a model that goes astray from one that learns (docs/choices.md): repetition in its
drafts; how far its distribution has moved on what it wrote at the start; and the entropy of that
distribution. The last two are measured on the drafts of the start, so that they compare the same
tokens and have no noise of sampling.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError
from ..evaluation.metrics import distinct_n, loop_rate, rep_n, words_of
from ..generation.decoder import Request
from ..generation.engine import write_all
from ..generation.results import Generated
from ..generation.sampling.settings import seeds_from, settings_for
from ..generation.text import encode
from ..models.loaded_model import LoadedModel
from ..training.loss import CHUNK
from .comparisons import Comparison, Row, score
from .settings import ChoiceSettings

_PROMPT = 1500  # characters of the text before a draft


@dataclasses.dataclass(frozen=True)
class Habits:
    """Figures of drafts.

    Attributes:
        words: Mean number of words of a draft.
        repetition: Percentage of 4-grams of tokens that repeat one of the same draft, at most of
            all drafts together (rep-4).
        loops: Share of drafts that end in a loop.
        distinct: Share of different bigrams among all.
        entropy: Mean entropy of the next token on the drafts of the start, in nats.
        drift: KL(start ‖ now) of the next token on the drafts of the start, in nats.
    """

    words: float
    repetition: float
    loops: float
    distinct: float
    entropy: float
    drift: float


class Drafts:
    """Drafts of the model as it is when this is made, to be compared with later ones.

    Args:
        model: The model at the start.
        comparisons: Decisions whose contexts are prompts.
        settings: Number and length of the drafts.
        seed: The first seed.
    """

    def __init__(
        self,
        model: LoadedModel,
        comparisons: Sequence[Comparison],
        settings: ChoiceSettings,
        seed: int,
    ) -> None:
        decisions = list({one.decision.prompt: one.decision for one in comparisons}.values())
        count = min(settings.draft_prompts, len(decisions))
        places = np.linspace(0, len(decisions) - 1, count).round().astype(int).tolist()
        self.decisions = [decisions[place] for place in places]
        self.seeds = seeds_from(seed, count)
        # The faster backends would copy the weights each time.
        values = {"max_new_tokens": settings.draft_tokens, "weights": "transformers"}
        self._settings = settings_for("literary", values)
        self._context = settings.context_tokens
        self.before = self._write(model)
        rows = [self._row(model, draft) for draft in self.before if draft.tokens]
        self._rows = [row for row in rows if row is not None]
        self._start: list[Tensor] = []  # in half precision: 100 kB per token of the starter
        self.start = self.measure(model, self.before)

    def _write(self, model: LoadedModel) -> list[Generated]:
        model.model.eval()
        requests = [
            Request(one.prompt[-_PROMPT:], seed, one.memory, one.note)
            for one, seed in zip(self.decisions, self.seeds, strict=True)
        ]
        try:
            return write_all(model, requests, self._settings, warn=lambda text: None)
        except InputError:  # memory and note are too long for this model
            requests = [dataclasses.replace(one, memory="", note="") for one in requests]
            return write_all(model, requests, self._settings, warn=lambda text: None)

    def _row(self, model: LoadedModel, draft: Generated) -> Row | None:
        text = [token.id for token in draft.tokens]
        room = min(self._context, model.context_length - len(text)) - 1
        if room < 0:
            return None
        context = encode(model.tokenizer, draft.prompt)[-room:] if room else []
        return Row([model.bos_id, *context], text)

    def again(self, model: LoadedModel) -> tuple[list[Generated], Habits]:
        """The same drafts by the model as it is now, and their figures."""
        drafts = self._write(model)
        return drafts, self.measure(model, drafts)

    def measure(self, model: LoadedModel, drafts: Sequence[Generated]) -> Habits:
        """Figures of drafts, and of the model on the drafts of the start."""
        ids = [[token.id for token in draft.tokens] for draft in drafts]
        repeated = [rep_n([one], 4) or 0.0 for one in ids]
        entropies, moved = [], []
        for number, row in enumerate(self._rows):
            logs = _distributions(model, row)
            if len(self._start) == number:  # the first time
                self._start.append(logs.half())
            first = self._start[number].float()
            entropies.append(-(logs.exp() * logs).sum(-1).cpu().numpy())
            moved.append((first.exp() * (first - logs)).sum(-1).cpu().numpy())
        return Habits(
            words=float(np.mean([len(words_of(draft.text)) for draft in drafts])),
            repetition=float(np.mean(repeated)),
            loops=loop_rate(ids) or 0.0,
            distinct=distinct_n(ids, 2) or 0.0,
            entropy=float(np.concatenate(entropies).mean()) if entropies else 0.0,
            drift=float(np.concatenate(moved).mean()) if moved else 0.0,
        )

    def to_dict(self, after: Sequence[str]) -> list[dict[str, Any]]:
        """Each draft before and after, with its prompt and seed."""
        return [
            {"prompt": one.prompt[-_PROMPT:], "memory": one.memory, "note": one.note,
             "seed": seed, "before": before.text, "after": text}
            for one, seed, before, text in zip(
                self.decisions, self.seeds, self.before, after, strict=True
            )
        ]  # fmt: skip


def _distributions(model: LoadedModel, row: Row) -> Tensor:
    """[tokens, vocabulary] log-probabilities at each token of a row's text."""
    model.model.eval()
    with torch.no_grad():
        states = score(model, [row]).states
        head = states.head.to(torch.float32)
        parts = [
            torch.log_softmax(head.logits(part).float(), -1)
            for part in torch.split(states.hidden.float(), CHUNK)
        ]
    return torch.cat(parts)


def broken(start: Habits, now: Habits, settings: ChoiceSettings) -> str | None:
    """A sentence where drafts have gone wrong beyond the settings' limits."""
    if now.repetition > start.repetition + settings.most_repetition:
        return (
            f"the drafts repeat themselves: {now.repetition:.0f}% of their runs of four tokens, "
            f"{start.repetition:.0f}% at the start"
        )
    if now.loops > start.loops + 0.25:
        return f"{now.loops:.0%} of the drafts end in a loop, {start.loops:.0%} at the start"
    if now.entropy < start.entropy * (1 - settings.most_entropy_loss):
        return (
            f"the model grows too sure of its words: an entropy of {now.entropy:.2f} nats, "
            f"{start.entropy:.2f} at the start"
        )
    if now.drift > settings.most_drift:
        return (
            f"the model has moved too far from what it was: {now.drift:.2f} nats a token on what "
            "it wrote at the start"
        )
    return None
