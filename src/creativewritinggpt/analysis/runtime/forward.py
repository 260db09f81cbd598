"""The forward pass of explanations: from token embeddings to the scores of chosen tokens.

A score is a token's log-probability, or, against a foil, the difference of the two logits (which
is that of their log-probabilities, without the sum over the vocabulary). The head runs at the
positions that are asked for and at no other, and no row ever reads past the last target. Everything
is computed in the weights' own precision, fp32 as a rule: gradients of a pass in bf16 don't add up.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from ...errors import InputError, RunError
from ...models.checks import finite
from ...models.loaded_model import LoadedModel
from ...models.scoring import body_and_head
from ..subject import Target

# Logits that exist at once, in numbers: 100 MB in fp32.
_LOGITS = 25_000_000


def embeddings(writer: LoadedModel, ids: Tensor) -> Tensor:
    """What the model makes of tokens before its first layer, without their positions.

    Args:
        writer: The model.
        ids: ``[…, tokens]``.

    Returns:
        ``[…, tokens, width]``, without a gradient.
    """
    with torch.no_grad():
        result: Tensor = writer.bare.get_input_embeddings()(ids)
    return result


def hidden_states(writer: LoadedModel, embeds: Tensor) -> Tensor:
    """The model's last hidden states, after the final norm.

    Args:
        writer: The model; its adapter works unless this is called within ``writer.base()``.
        embeds: ``[rows, tokens, width]`` instead of tokens; positions count from 0.

    Returns:
        ``[rows, tokens, width]``.
    """
    body, _, _ = _parts(writer)

    def states(rows: Tensor) -> Tensor:
        return body(inputs_embeds=rows, use_cache=False)

    return checked(states)(embeds)


def target_scores(writer: LoadedModel, embeds: Tensor, targets: Sequence[Target]) -> Tensor:
    """Scores of targets, a gradient reaching the embeddings where they ask for one.

    Args:
        writer: The model.
        embeds: ``[rows, tokens, width]``; tokens after the last target don't matter.
        targets: What to score, at positions up to ``tokens``.

    Returns:
        ``[rows, targets]``: log-probabilities, or logit differences where there is a foil; nats.
    """
    last = max(target.position for target in targets)
    states = hidden_states(writer, embeds[:, :last])
    columns = [head_scores(writer, states[:, target.position - 1], target) for target in targets]
    return torch.stack(columns, dim=1)


def head_scores(writer: LoadedModel, states: Tensor, target: Target) -> Tensor:
    """The score of one target given the hidden states before it.

    Args:
        writer: The model.
        states: ``[rows, width]``.
        target: The token and its foil.

    Returns:
        ``[rows]``.
    """
    _, weight, bias = _parts(writer)
    if target.foil is not None:
        score = states @ (weight[target.id] - weight[target.foil])
        return score if bias is None else score + (bias[target.id] - bias[target.foil])
    rows = max(1, _LOGITS // len(weight))
    parts = []
    for chunk in torch.split(states, rows):
        logits = F.linear(chunk, weight, bias)
        parts.append(logits[:, target.id] - torch.logsumexp(logits, -1))
    return torch.cat(parts)


def target_gradients(
    writer: LoadedModel, embeds: Tensor, targets: Sequence[Target]
) -> Iterator[tuple[Tensor, Tensor]]:
    """Scores and their gradients, one target after the other, all from one forward pass.

    The head is taken apart from the body: its gradient is one vector a row, so that no target's
    backward pass goes through the logits of another.

    Args:
        writer: The model.
        embeds: ``[rows, tokens, width]``.
        targets: What to score, at positions up to ``tokens``.

    Yields:
        For each target its scores ``[rows]`` and their gradient ``[rows, tokens, width]``; what
        comes after the target has 0.

    Raises:
        RunError: The model gives no numbers.
    """
    with torch.enable_grad():
        leaf = embeds.detach().requires_grad_(True)
        states = hidden_states(writer, leaf)
    for number, target in enumerate(targets):
        with torch.enable_grad():
            before = states[:, target.position - 1]
            apart = before.detach().requires_grad_(True)
            score = head_scores(writer, apart, target)
            check_finite(score.detach())
            (seed,) = torch.autograd.grad(score.sum(), apart)
            more = number + 1 < len(targets)
            (gradient,) = torch.autograd.grad(before, leaf, seed, retain_graph=more)
        yield score.detach(), gradient


@contextlib.contextmanager
def frozen(writer: LoadedModel) -> Iterator[None]:
    """No parameter asks for a gradient within the block; afterwards each is as it was."""
    trainable = [p for p in writer.model.parameters() if p.requires_grad]
    for parameter in trainable:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)


@contextlib.contextmanager
def whole_gelu(writer: LoadedModel) -> Iterator[None]:
    """GPT-2's activation as one operation within the block, and not as eight.

    transformers spells the tanh form of GELU out; with a backward pass this takes a fifth of all
    time. The numbers are the same but for rounding.
    """
    from transformers.activations import NewGELUActivation

    changed = []
    try:
        for module in writer.model.modules():
            if type(module) is NewGELUActivation:
                module.forward = functools.partial(F.gelu, approximate="tanh")
                changed.append(module)
        yield
    finally:
        for module in changed:
            del module.forward


def checked(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A forward function that may not lose rows of its batch.

    Methods that put many variants of an input into one batch take one result for each. A function
    that answers for the first row only goes unnoticed: the others get a gradient of zero, and the
    scores are those of the first variant alone.

    Args:
        function: Takes a batch ``[rows, …]`` and gives ``[rows, …]``.

    Returns:
        The same function, which raises InputError where the numbers of rows differ.
    """

    @functools.wraps(function)
    def guarded(inputs: Tensor, *args: object, **kwargs: object) -> Tensor:
        outputs = function(inputs, *args, **kwargs)
        rows = outputs.shape[0] if outputs.ndim else 1
        if outputs.ndim == 0 or rows != inputs.shape[0]:
            raise InputError(
                f"the forward function gave {rows} results for a batch of {inputs.shape[0]}",
                "it must return one result for each row",
            )
        return outputs

    return guarded


def check_finite(values: Tensor) -> None:
    """Refuse scores that are not numbers.

    Raises:
        RunError: The model gives no numbers.
    """
    if not bool(torch.isfinite(values).all()):
        raise _no_numbers()


def _no_numbers() -> RunError:
    return RunError(
        "the model gives values that are not numbers, so nothing can be explained",
        "its weights or its adapter are damaged; load or train them again",
    )


def _parts(writer: LoadedModel) -> tuple[Callable[..., Tensor], Tensor, Tensor | None]:
    """Body and head; damaged weights are called that, not taken for another kind of model."""
    try:
        return body_and_head(writer.model)
    except InputError:
        if all(finite(parameter) for parameter in writer.model.parameters()):
            raise
        raise _no_numbers() from None
