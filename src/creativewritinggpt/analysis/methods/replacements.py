"""What a token is replaced with: the law from which random replacements are drawn.

What a replacement says about the model depends on it. Any token of the vocabulary (``uniform``, as
the original does) is mostly debris that no text contains, so that the model meets what it was never
trained on. Tokens as often as texts have them (``unigram``), with or without a space before them as
the one replaced, keep at least the look of a text; the frequencies are those of the sample corpus
that comes with the package, small and in English, so that rare words are never drawn. What the
model itself would have expected in that place (``model``; input marginalisation, Kim et al. 2020,
arXiv 2010.13984) stays nearest to what it knows, and asks for one more pass.

The token that is replaced is never drawn, nor is any mark that is no text: an end-of-text token in
the middle tells a model to forget. One sequence of random numbers serves all positions, so that
differences between them are less a matter of luck.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from importlib import resources
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from ...errors import InputError
from ...generation.text import encode, special_ids
from ...models.loaded_model import LoadedModel
from ...models.scoring import body_and_head

LAWS = ("uniform", "unigram", "model")
# What marks a leading space in the names of tokens: byte-level vocabularies, and SentencePiece's.
_SPACES = ("Ġ", "▁", " ")
# Positions whose distributions over the vocabulary exist at once.
_CHUNK = 64


def check_law(law: str) -> None:
    """Refuse a law that does not exist.

    Raises:
        InputError: There is no such law.
    """
    if law not in LAWS:
        raise InputError(f"there is no replacement law '{law}'", f"choose one of {', '.join(LAWS)}")


def draws(
    law: str,
    writer: LoadedModel,
    ids: Sequence[int],
    positions: Sequence[int],
    *,
    samples: int,
    seed: int,
) -> np.ndarray:
    """Replacements for the tokens at some positions.

    Args:
        law: ``uniform``, ``unigram`` or ``model``.
        writer: The model with its tokenizer.
        ids: The text as the model reads it.
        positions: Which tokens to replace; not the first for the law ``model``.
        samples: How many replacements for each.
        seed: Of the random numbers.

    Returns:
        int64 ``[positions, samples]``: token ids, none equal to the one replaced, none a mark.

    Raises:
        InputError: There is no such law, or there is nothing to draw from.
    """
    check_law(law)
    generator = np.random.default_rng(seed)
    if law == "model":
        return _from_model(writer, ids, positions, generator.random(samples))
    # More than needed, for what is drawn must differ from what is there.
    numbers = generator.random(2 * samples + 32)
    weights = np.zeros(_rows(writer))
    if law == "uniform":
        weights[_texts(writer)] = 1.0
    else:
        counts = unigrams(writer.tokenizer)
        weights[: len(counts)] = counts[: len(weights)]
    weights[sorted(_marks(writer))] = 0.0
    inside = np.zeros(len(weights), dtype=bool)
    if law == "unigram":
        inside[_spaced(writer.tokenizer)] = True
    laws = {True: weights * inside, False: weights * ~inside, None: weights}
    sequences = {kind: _drawn(part, numbers) for kind, part in laws.items() if part.any()}
    result = np.empty((len(positions), samples), dtype=np.int64)
    for row, position in enumerate(positions):
        token = ids[position]
        # Where the law knows no other token of the kind, any will do.
        kinds = [k for k in (bool(inside[token]), None) if laws[k].sum() > laws[k][token]]
        if not kinds:
            raise InputError(
                f"the replacement law '{law}' knows no token to put in the place of another",
                "choose another law",
            )
        kept = sequences[kinds[0]][sequences[kinds[0]] != token]
        if len(kept) < samples:  # nearly always that token: draw again, without it
            rest = laws[kinds[0]].copy()
            rest[token] = 0.0
            kept = np.concatenate([kept, _drawn(rest, numbers)])
        result[row] = kept[:samples]
    return result


def _drawn(weights: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """Tokens by inverting the cumulative distribution; never one of weight 0."""
    sums = np.cumsum(weights, dtype=np.float64)
    # Rounding may not carry a number past the last token.
    wanted = np.minimum(numbers * sums[-1], np.nextafter(sums[-1], 0))
    result: np.ndarray = np.searchsorted(sums, wanted, side="right").astype(np.int64)
    return result


def _from_model(
    writer: LoadedModel, ids: Sequence[int], positions: Sequence[int], numbers: np.ndarray
) -> np.ndarray:
    """What the model expects at each position, by the same numbers for all."""
    if min(positions, default=1) < 1:
        raise InputError("nothing is expected in place of the first token", "leave position 0 out")
    body, weight, bias = body_and_head(writer.model)
    device = writer.device.torch_device
    result = np.empty((len(positions), len(numbers)), dtype=np.int64)
    if not len(positions):
        return result
    marks = sorted(_marks(writer))
    with torch.no_grad():
        states = body(input_ids=torch.tensor([list(ids)], device=device), use_cache=False)[0]
        for start in range(0, len(positions), _CHUNK):
            some = list(positions[start : start + _CHUNK])
            logits = F.linear(states[[position - 1 for position in some]], weight, bias)
            expected = torch.softmax(logits.float(), -1).cpu().numpy().astype(np.float64)
            expected[:, marks] = 0.0
            for row, position in enumerate(some):
                expected[row, ids[position]] = 0.0
                if not expected[row].any():
                    raise InputError(
                        "the model expects nothing but the token that is there",
                        "choose the replacement law 'unigram'",
                    )
                result[start + row] = _drawn(expected[row], numbers)
    return result


def _rows(writer: LoadedModel) -> int:
    return int(writer.bare.get_input_embeddings().weight.shape[0])


def _texts(writer: LoadedModel) -> np.ndarray:
    """Tokens that the tokenizer knows; embeddings beyond them were never trained."""
    known = _rows(writer)
    if writer.tokenizer is not None:
        known = min(known, len(writer.tokenizer))
    return np.arange(known)


def _marks(writer: LoadedModel) -> set[int]:
    """Tokens that are no text, as far as the model has them."""
    marks = {writer.bos_id, writer.eos_id}
    if writer.tokenizer is not None:
        marks |= special_ids(writer.tokenizer)
    return {token for token in marks if 0 <= token < _rows(writer)}


@functools.lru_cache(maxsize=4)
def unigrams(tokenizer: Any) -> np.ndarray:
    """How often the sample corpus has each token; one more for those it has at all.

    Args:
        tokenizer: The tokenizer whose tokens are counted.

    Returns:
        float64 ``[tokens]``.

    Raises:
        InputError: There is no tokenizer to count with.
    """
    if tokenizer is None:
        raise InputError(
            "the replacement law 'unigram' needs a tokenizer", "choose the law 'uniform'"
        )
    folder = resources.files("creativewritinggpt.data") / "sample"
    counts = np.zeros(len(tokenizer))
    for file in sorted(folder.iterdir(), key=lambda file: file.name):
        if file.name.endswith(".jsonl"):
            for line in file.read_text("utf-8").splitlines():
                text = "\n\n".join(str(value) for value in json.loads(line).values())
                np.add.at(counts, encode(tokenizer, text), 1)
    return np.where(counts > 0, counts + 1, 0.0)


@functools.lru_cache(maxsize=4)
def _spaced(tokenizer: Any) -> np.ndarray:
    """Tokens that bring a space before them."""
    found = [
        token for name, token in tokenizer.get_vocab().items() if str(name).startswith(_SPACES)
    ]
    return np.array(sorted(found), dtype=np.int64)
