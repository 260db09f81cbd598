"""Logit lens: what the model would predict if it stopped after each layer.

Hidden states of every layer go through the model's own final norm and output head (nostalgebraist
2020, "interpreting GPT: the logit lens"). What transformers calls the last hidden state has been
normed already; norming it twice is the usual mistake, so the last layer equals the model's own
logits here by test. The states of early layers are not in the basis of the head: a low rank there
says little.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ...errors import InputError
from ...generation.text import vocabulary
from ...models.checks import FAMILIES
from ...models.scoring import CHUNK, body_and_head
from ..forward import distribution
from ..registry import Analysis, Method
from ..subject import Subject

if TYPE_CHECKING:
    from ...models.loaded_model import LoadedModel


# A module's name inside a numbered layer.
_IN_A_LAYER = re.compile(r"\.\d+\.")


@dataclasses.dataclass(frozen=True)
class Lens:
    """What each layer would say at each target.

    Attributes:
        log_probability: ``[layers + 1, targets]`` of the target, in nats; the first row is the
            embedding, the last the model's own answer.
        rank: ``[layers + 1, targets]`` of the target, 1 = the likeliest.
        entropy: ``[layers + 1, targets]`` of the whole distribution, in nats.
        top_ids: ``[layers + 1, targets, top]`` the likeliest tokens.
        top_probabilities: Their probabilities.
    """

    log_probability: np.ndarray
    rank: np.ndarray
    entropy: np.ndarray
    top_ids: np.ndarray
    top_probabilities: np.ndarray

    @property
    def settled(self) -> list[int | None]:
        """For each target the layer from which on it stays the likeliest; None where it isn't."""
        result: list[int | None] = []
        for ranks in self.rank.T:
            others = np.flatnonzero(ranks != 1)
            first = int(others[-1]) + 1 if len(others) else 0
            result.append(first if first < len(ranks) else None)
        return result

    def to_dict(self, token_text: Callable[[int], str] | None = None) -> dict[str, Any]:
        """Ready for JSON.

        Args:
            token_text: Gives the text of a token, to stand beside its id.
        """
        ids = sorted({int(token) for token in self.top_ids.ravel()})
        texts = {token: token_text(token) for token in ids} if token_text else {}
        top = [
            [
                [
                    {"id": int(token), "probability": float(probability)}
                    | ({"text": texts[int(token)]} if texts else {})
                    for token, probability in zip(tokens, probabilities, strict=True)
                ]
                for tokens, probabilities in zip(*layer, strict=True)
            ]
            for layer in zip(self.top_ids, self.top_probabilities, strict=True)
        ]
        return {
            "layers": ["embedding", *map(str, range(len(self.rank) - 1))],
            "log_probability": self.log_probability.tolist(),
            "rank": self.rank.tolist(),
            "entropy": self.entropy.tolist(),
            "top": top,
            "settled": self.settled,
        }


def logit_lens(model: LoadedModel, subject: Subject, top: int = 5) -> Lens:
    """What each layer would say at each target, in the adapter's state at the time.

    Args:
        model: The model.
        subject: The text with its targets.
        top: How many of the likeliest tokens to keep.

    Raises:
        InputError: The model does not show its hidden states.
    """
    _, head = body_and_head(model.model)
    ids = torch.tensor([subject.ids], device=model.device.torch_device)
    with torch.no_grad():
        states, norm = _states_and_norm(model.bare, ids)
        places = torch.tensor([t.position - 1 for t in subject.targets], device=ids.device)
        wanted = torch.tensor([t.id for t in subject.targets], device=ids.device)
        layers = []
        for index, layer in enumerate(states):
            here = layer[0, places]
            here = here if index == len(states) - 1 else norm(here)
            parts = [
                distribution(head.logits(some).float().log_softmax(-1), ids, top)
                for some, ids in zip(
                    torch.split(here, CHUNK), torch.split(wanted, CHUNK), strict=True
                )
            ]
            layers.append([np.concatenate(column) for column in zip(*parts, strict=True)])
    return Lens(*(np.stack(column) for column in zip(*layers, strict=True)))


def _states_and_norm(bare: Any, ids: Tensor) -> tuple[list[Tensor], Callable[[Tensor], Tensor]]:
    """Hidden states of all layers, the last one normed, and what did it.

    Families name their final norm differently, so it is told by what it does: of the modules
    outside the layers, those that make the last hidden state (a norm, OPT's projection, or none).
    """
    inner, made = bare.base_model, []

    def note(module: torch.nn.Module, inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor) and inputs and isinstance(inputs[0], Tensor):
            made.append((module, inputs[0], output))

    hooks = [
        module.register_forward_hook(note)
        for name, module in inner.named_modules()
        if not any(module.children()) and not _IN_A_LAYER.search(f".{name}.")
    ]
    try:
        found = inner(input_ids=ids, output_hidden_states=True, use_cache=False, return_dict=True)
    finally:
        for hook in hooks:
            hook.remove()
    states, last = list(found.hidden_states or ()), found.last_hidden_state
    if len(states) != int(bare.config.num_hidden_layers) + 1:
        raise InputError(
            f"{type(bare).__name__} does not show the states of all its layers",
            FAMILIES,
        )
    states[-1], chain = last, torch.nn.Sequential()
    for module, taken, output in reversed(made):
        if output.shape == last.shape and output.data_ptr() == last.data_ptr():
            chain.insert(0, module)
            last = taken
    return states, chain


def compute(analysis: Analysis) -> None:
    """The guess of each layer, of the base model too."""
    part = {}
    for model in ("tuned", "base") if analysis.loaded.has_adapter else ("tuned",):
        with analysis.model(model):
            found = logit_lens(analysis.fp32, analysis.subject)
        part[model] = found.to_dict(vocabulary(analysis.loaded.tokenizer).shown)
    analysis.record["lens"] = part


METHOD = Method(
    name="lens",
    title="logit lens",
    description="What each layer would predict.",
    compute=compute,
    quick=True,
)
