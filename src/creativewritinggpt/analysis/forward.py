"""The forward pass of explanations: scores of targets from token embeddings, and batch sizes.

A score is a token's log-probability, or, against a foil, the difference of the two logits (which
is that of their log-probabilities, without the sum over the vocabulary). The head runs at the
positions that are asked for and at no other, and no row ever reads past the last target. Everything
is computed in the weights' own precision, fp32 as a rule: gradients of a pass in bf16 don't add up.

Batch sizes are estimated from the model's shape and the free memory, half of which stays untouched;
where memory does not suffice all the same, the batch is halved and tried again. Results depend on
them by rounding only.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..devices import is_out_of_memory, memory
from ..errors import InputError, RunError
from ..models.checks import finite
from ..models.loaded_model import LoadedModel
from ..models.scoring import CHUNK, Body, Head, body_and_head
from .subject import Subject, Target

Result = TypeVar("Result")

# Logits that exist at once, in numbers: 100 MB in fp32.
LOGITS_AT_ONCE = 25_000_000
# Tensors of the model's width that a layer keeps for its backward pass, a token.
_KEPT = 14
# Tensors of the intermediate width that it keeps beside them.
_KEPT_INSIDE = 6
# More tokens than this in one pass make nothing faster on a processor and leave its caches.
_TOKENS_ON_A_PROCESSOR = 1024
# Of the free memory, how much is taken.
_SHARE = 0.5
BASELINES = ("end_of_text", "mean", "zero")
# Embeddings summed at once for their mean.
_EMBEDDINGS_AT_ONCE = 8192


def embeddings(model: LoadedModel, ids: Tensor) -> Tensor:
    """What the model makes of tokens before its first layer, without their positions.

    Args:
        model: The model.
        ids: ``[…, tokens]``.

    Returns:
        ``[…, tokens, width]``, without a gradient.
    """
    with torch.no_grad():
        result: Tensor = model.bare.get_input_embeddings()(ids)
    return result


def baseline_embedding(model: LoadedModel, kind: str) -> Tensor:
    """The embedding that stands at every position of the baseline.

    Args:
        model: The model.
        kind: ``end_of_text`` (the token that ends a text), ``mean`` (of all tokens) or ``zero``.

    Returns:
        ``[width]``.

    Raises:
        InputError: There is no such baseline.
    """
    if kind not in BASELINES:
        raise InputError(f"there is no baseline '{kind}'", f"choose one of {', '.join(BASELINES)}")
    device = model.device.torch_device
    end = embeddings(model, torch.tensor([model.eos_id], device=device))[0]
    if kind == "zero":
        return torch.zeros_like(end)
    if kind == "mean":
        rows = int(model.bare.get_input_embeddings().weight.shape[0])
        total = torch.zeros_like(end)
        for ids in torch.split(torch.arange(rows, device=device), _EMBEDDINGS_AT_ONCE):
            total += embeddings(model, ids).sum(0)
        return total / rows
    return end


def baseline_text(model: LoadedModel, ids: Tensor, kind: str) -> Tensor:
    """The baseline of a text: the start token, and what says nothing at every other position.

    Args:
        model: The model.
        ids: ``[rows, tokens]``, the start token first.
        kind: As for :func:`baseline_embedding`.

    Returns:
        ``[rows, tokens, width]``.
    """
    start = embeddings(model, ids[:, :1])
    rest = baseline_embedding(model, kind).expand(len(ids), ids.shape[1] - 1, -1)
    return torch.cat([start, rest], 1)


def hidden_states(model: LoadedModel, embeds: Tensor) -> Tensor:
    """The model's last hidden states, after the final norm.

    Args:
        model: The model; its adapter works unless this is called within ``model.base()``.
        embeds: ``[rows, tokens, width]`` instead of tokens; positions count from 0.

    Returns:
        ``[rows, tokens, width]``.
    """
    body, _ = _parts(model)

    def states(rows: Tensor) -> Tensor:
        return body(inputs_embeds=rows, use_cache=False)

    return checked(states)(embeds)


def target_scores(model: LoadedModel, embeds: Tensor, targets: Sequence[Target]) -> Tensor:
    """Scores of targets, a gradient reaching the embeddings where they ask for one.

    Args:
        model: The model.
        embeds: ``[rows, tokens, width]``; tokens after the last target don't matter.
        targets: What to score, at positions up to ``tokens``.

    Returns:
        ``[rows, targets]``: log-probabilities, or logit differences where there is a foil; nats.
    """
    last = max(target.position for target in targets)
    states = hidden_states(model, embeds[:, :last])
    columns = [head_scores(model, states[:, target.position - 1], target) for target in targets]
    return torch.stack(columns, dim=1)


def head_scores(model: LoadedModel, states: Tensor, target: Target) -> Tensor:
    """The score of one target given the hidden states before it.

    Args:
        model: The model.
        states: ``[rows, width]``.
        target: The token and its foil.

    Returns:
        ``[rows]``.
    """
    _, head = _parts(model)
    if target.foil is not None:
        if head.cap is not None:
            own, other = head.logits(states, [target.id, target.foil]).unbind(-1)
            return own - other
        score = states @ (head.weight[target.id] - head.weight[target.foil])
        if head.bias is not None:
            score = score + (head.bias[target.id] - head.bias[target.foil])
        return score * head.scale
    rows = max(1, LOGITS_AT_ONCE // len(head.weight))
    parts = []
    for chunk in torch.split(states, rows):
        logits = head.logits(chunk)
        parts.append(logits[:, target.id] - torch.logsumexp(logits, -1))
    return torch.cat(parts)


def target_gradients(
    model: LoadedModel, embeds: Tensor, targets: Sequence[Target]
) -> Iterator[tuple[Tensor, Tensor]]:
    """Scores and their gradients, one target after the other, all from one forward pass.

    The head is taken apart from the body: its gradient is one vector a row, so that no target's
    backward pass goes through the logits of another.

    Args:
        model: The model.
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
        states = hidden_states(model, leaf)
    for number, target in enumerate(targets):
        with torch.enable_grad():
            before = states[:, target.position - 1]
            apart = before.detach().requires_grad_(True)
            score = head_scores(model, apart, target)
            check_finite(score.detach())
            (seed,) = torch.autograd.grad(score.sum(), apart)
            more = number + 1 < len(targets)
            (gradient,) = torch.autograd.grad(before, leaf, seed, retain_graph=more)
        yield score.detach(), gradient


def groups(targets: Sequence[Target], wanted: Sequence[int]) -> list[list[int]]:
    """Neighbouring targets that share a forward pass, in as many groups as cost least.

    A forward pass costs about as much a token as a backward pass; each group has one forward pass
    and a backward pass for each target, all of the length of its last target.

    Args:
        targets: In the order of their positions.
        wanted: Which of them to group, in that order.

    Returns:
        The wanted ones, in groups.
    """
    every = list(wanted)
    cuts = [[every]]
    for count in range(2, len(every) + 1):
        edges = [round(part * len(every) / count) for part in range(count + 1)]
        cuts.append([every[low:high] for low, high in itertools.pairwise(edges)])
    return min(cuts, key=lambda cut: pass_cost(targets, cut)) if every else cuts[0]


def pass_cost(targets: Sequence[Target], cut: Sequence[Sequence[int]]) -> int:
    """Tokens that one step reads, forward and back."""
    return sum((len(part) + 1) * targets[part[-1]].position for part in cut)


@contextlib.contextmanager
def frozen(model: LoadedModel) -> Iterator[None]:
    """No parameter asks for a gradient within the block; afterwards each is as it was."""
    trainable = [p for p in model.model.parameters() if p.requires_grad]
    for parameter in trainable:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)


@contextlib.contextmanager
def fused_gelu(model: LoadedModel) -> Iterator[None]:
    """GPT-2's activation as one operation within the block, and not as eight.

    transformers spells the tanh form of GELU out, which takes as long as a matrix product, and with
    a backward pass a fifth of all time. The numbers are the same but for rounding.
    """
    from transformers.activations import NewGELUActivation

    changed = [
        module
        for module in model.model.modules()
        if type(module) is NewGELUActivation and "forward" not in vars(module)
    ]
    for module in changed:
        module.forward = functools.partial(F.gelu, approximate="tanh")
    try:
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


def _parts(model: LoadedModel) -> tuple[Body, Head]:
    """Body and head; damaged weights are called that, not taken for another kind of model."""
    try:
        return body_and_head(model.model)
    except InputError:
        if all(finite(parameter) for parameter in model.model.parameters()):
            raise
        raise _no_numbers() from None


def micro_batch(model: LoadedModel, tokens: int, *, gradients: bool, most: int = 64) -> int:
    """How many rows of so many tokens fit in memory at once.

    Args:
        model: The model.
        tokens: Tokens in a row.
        gradients: Whether a backward pass follows.
        most: More are never taken.

    Returns:
        At least 1.
    """
    free = memory(model.device.device)[1]
    if model.device.torch_device.type == "mps":
        free = torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    rows = int(free * _SHARE / (tokens * _bytes_per_token(model, tokens, gradients)))
    if model.device.torch_device.type == "cpu":
        most = min(most, _TOKENS_ON_A_PROCESSOR // tokens)
    return max(1, min(rows, most))


def _bytes_per_token(model: LoadedModel, tokens: int, gradients: bool) -> int:
    """What a token of a row of ``tokens`` needs, in bytes."""
    config = model.bare.config
    width, layers = int(config.hidden_size), int(config.num_hidden_layers)
    inside = int(getattr(config, "intermediate_size", 0) or getattr(config, "n_inner", 0) or 0)
    a_layer = _KEPT * width + _KEPT_INSIDE * (inside or 4 * width)
    if config._attn_implementation == "eager":
        a_layer += 4 * int(config.num_attention_heads) * tokens
    # Without a backward pass the layers' memory is used again and again; the logits of the
    # positions that are asked for come on top, one a row at least.
    kept = a_layer * (layers if gradients else 2)
    return 4 * kept + 12 * int(config.vocab_size) // tokens


def in_batches(count: int, size: int, work: Callable[[int, int], Result]) -> list[Result]:
    """Do a work in batches, in smaller ones where memory does not suffice.

    Args:
        count: How many rows there are.
        size: How many to take at once, at first.
        work: Called with the first row and the one after the last.

    Returns:
        What ``work`` returned, batch by batch.

    Raises:
        RunError: Memory does not suffice for a single row.
    """
    results: list[Result] = []
    start = 0
    while start < count:
        stop = min(start + size, count)
        try:
            results.append(work(start, stop))
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            if stop - start == 1:
                raise RunError(
                    "there is not enough memory to explain this text",
                    "explain a shorter one, or close what else needs memory",
                ) from error
            size = (stop - start) // 2
        else:
            start = stop
            continue
        # Only here, after the exception with all that it holds, is there something to free.
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    return results


@dataclasses.dataclass(frozen=True)
class Prediction:
    """The model's next-token distribution at one target.

    Attributes:
        target: The target.
        log_probability: Of its token, in nats.
        rank: How many tokens are likelier, plus one.
        entropy: Of the distribution, in nats.
        foil_log_probability: Of the foil, where there is one.
        likeliest: Ids and probabilities of the likeliest tokens.
    """

    target: Target
    log_probability: float
    rank: int
    entropy: float
    foil_log_probability: float | None
    likeliest: list[tuple[int, float]]


def predictions(model: LoadedModel, subject: Subject, top: int = 8) -> list[Prediction]:
    """What the model says at each target, in the adapter's state at the time.

    Raises:
        RunError: The model computes no numbers.
    """
    found: list[Prediction] = []
    places = [target.position - 1 for target in subject.targets]
    for start, logs in _log_probabilities(model, subject, places):
        found += predictions_from(logs, subject.targets[start : start + len(logs)], top)
    return found


def predictions_from(logs: Tensor, targets: Sequence[Target], top: int = 8) -> list[Prediction]:
    """The same of log-probabilities ``[targets, vocabulary]`` that are known."""
    wanted = torch.tensor([target.id for target in targets], device=logs.device)
    columns = [column.tolist() for column in distribution(logs, wanted, top)]
    found = []
    for row, (target, own, rank, entropy, ids, likely) in enumerate(
        zip(targets, *columns, strict=True)
    ):
        foil = None if target.foil is None else float(logs[row, target.foil])
        likeliest = list(zip(ids, likely, strict=True))
        found.append(Prediction(target, own, rank, entropy, foil, likeliest))
    return found


def next_token(model: LoadedModel, subject: Subject) -> int:
    """The likeliest token after the whole text."""
    ((_, logs),) = _log_probabilities(model, subject, [subject.length - 1])
    return int(logs.argmax())


def distribution(logs: Tensor, wanted: Tensor, top: int) -> tuple[np.ndarray, ...]:
    """What next-token distributions say of the tokens wanted.

    Args:
        logs: Log-probabilities ``[rows, vocabulary]``.
        wanted: Token ids ``[rows]``.
        top: How many of the likeliest tokens to name.

    Returns:
        Log-probability and rank of the wanted tokens and entropy, ``[rows]``; ids and probabilities
        of the likeliest tokens, ``[rows, top]``.
    """
    own = logs.gather(1, wanted[:, None])
    rank = (logs > own).sum(1) + 1
    entropy = -(logs.exp() * logs).nan_to_num(0.0).sum(1)
    best = logs.topk(min(top, logs.shape[1]), dim=1)
    found = (own[:, 0], rank, entropy, best.indices, best.values.exp())
    return tuple(
        column.cpu().numpy().astype(np.float64 if column.is_floating_point() else np.int64)
        for column in found
    )


def _log_probabilities(
    model: LoadedModel, subject: Subject, places: Sequence[int]
) -> Iterator[tuple[int, Tensor]]:
    """First row and log-probabilities ``[rows, vocabulary]`` after some places, rows by chunks."""
    body, head = body_and_head(model.model)
    ids = torch.tensor([subject.ids], device=model.device.torch_device)
    with torch.no_grad():
        states = body(input_ids=ids, use_cache=False)[0]
    for start in range(0, len(places), CHUNK):
        with torch.no_grad():
            some = states[list(places[start : start + CHUNK])]
            logits = head.logits(some).float()
        check_finite(logits)
        yield start, logits.log_softmax(-1)
