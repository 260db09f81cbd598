"""Models with a planted signal: what their answer is due to is known, not guessed.

Three are built by hand, weight by weight, so that the truth is a formula. One is trained for a
minute on a made-up language, so that it is as tangled as a real model, but its texts say where the
answer lies:

    pointer   one attention head copies the token at one place; nothing else reaches the answer
    bag       the answer is a weighted sum of the tokens read: the truth is exact, for any method
    pair      one token speaks for the answer, one against it, the rest is silent
    key       a trained transformer that names the animal or the metal it met, as it is asked to

Only torch and transformers are needed, so that other tools can be given the same models. The small
vocabulary is the price: nothing here says how well a method copes with 50,000 tokens.
"""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

START = "<|endoftext|>"
ANIMALS = ("cat", "dog", "fox", "owl", "hen", "bee", "elk", "rat")
METALS = ("tin", "lead", "gold", "zinc", "iron", "brass", "steel", "silver")
ANSWERS = ("one", "two", "three", "four", "five", "six", "seven", "eight")
ASK = ("which-animal", "which-metal")
_SPOKEN = (
    "the a old red cold slow wide dark small river house road tower garden window letter captain "
    "sister winter morning walked sang slept waited laughed under over near behind and but then"
)
NOISE = tuple(_SPOKEN.split())
VOCABULARY = (START, *NOISE, *ANIMALS, *METALS, *ASK, *ANSWERS)
IDS = {word: index for index, word in enumerate(VOCABULARY)}

# Scores of the pointer's place and of any other lie so far apart: exp(-40) is below rounding.
GAP = 40.0


@dataclasses.dataclass(frozen=True)
class Example:
    """A text whose next token is due to known places.

    Attributes:
        ids: What the model reads; the first is the start token.
        target: The next token, to be explained.
        foil: The token it is set against, or None.
        worth: For each of ``ids`` what it does for the target: the sign is that of its influence,
            0 is none.
        left_out: Places that do matter but are not asked for (the question itself); they count
            neither for nor against a method.
    """

    ids: tuple[int, ...]
    target: int
    foil: int | None
    worth: tuple[float, ...]
    left_out: tuple[int, ...] = (0,)

    @property
    def text(self) -> str:
        """The words after the start token."""
        return " ".join(VOCABULARY[token] for token in self.ids[1:])

    @property
    def spans(self) -> tuple[tuple[int, int], ...]:
        """The characters of ``text`` that each token stands for."""
        spans, at = [(0, 0)], 0
        for token in self.ids[1:]:
            spans.append((at, at + len(VOCABULARY[token])))
            at = spans[-1][1] + 1
        return tuple(spans)


@dataclasses.dataclass(frozen=True)
class Planted:
    """A model and texts whose explanation is known."""

    name: str
    model: Any
    examples: tuple[Example, ...]


def make_tokenizer() -> Any:
    """One token a word, parted by spaces."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordLevel(vocab=IDS, unk_token="the"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=START, eos_token=START, pad_token=START
    )


def _gpt2(**sizes: Any) -> Any:
    """A GPT-2 without dropout, and without the head's tie where it is built by hand."""
    from transformers import GPT2Config, GPT2LMHeadModel

    ids = {"bos_token_id": 0, "eos_token_id": 0}
    off = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    return GPT2LMHeadModel(GPT2Config(vocab_size=len(VOCABULARY), **ids, **off, **sizes)).eval()


def _blank(width: int, places: int, **sizes: Any) -> tuple[Any, Any]:
    """A one-head model of zeros without layer norms, and the attention of its first layer."""
    model = _gpt2(
        **{
            "n_layer": 1,
            "n_head": 1,
            "n_embd": width,
            "n_inner": 1,
            "n_positions": places,
            **sizes,
        },
        tie_word_embeddings=False,
        scale_attn_weights=False,
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    for block in model.transformer.h:
        block.ln_1 = block.ln_2 = nn.Identity()
    model.transformer.ln_f = nn.Identity()
    return model, model.transformer.h[0].attn


def pointer_model(place: int, places: int = 32, strength: float = 8.0) -> Any:
    """Every token from ``place`` on predicts a copy of the token at ``place``.

    The width is cut in three: which token it is, where it stands, which token was copied. Queries
    ask for ``place`` by a constant, keys answer by position, values carry the token into the third
    part, and only that reaches the head.
    """
    words = len(VOCABULARY)
    model, attention = _blank(2 * words + places, places)
    width, where, copied = 2 * words + places, words, words + places
    with torch.no_grad():
        model.transformer.wte.weight[:, :words] = torch.eye(words)
        model.transformer.wpe.weight[:, where:copied] = torch.eye(places)
        attention.c_attn.bias[where + place] = GAP
        keys = attention.c_attn.weight[:, width : 2 * width]
        keys[where:copied, where:copied] = torch.eye(places)
        attention.c_attn.weight[:words, 2 * width + copied :] = torch.eye(words)
        attention.c_proj.weight[:] = torch.eye(width)
        model.lm_head.weight[:, copied:] = strength * torch.eye(words)
    return model


def bag_model(values: dict[str, float], strength: float = 20.0, seed: int = 0) -> Any:
    """Attention is uniform, and "one" gains over "two" by the mean of the values of what was read.

    logit("one") = -logit("two") = strength / 2 · mean(value), linear in the embeddings; all other
    logits are 0. Seven more entries of each embedding are random and read by nothing.
    """
    model, attention = _blank(9, 64)
    random_part = torch.randn(len(VOCABULARY), 7, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        model.transformer.wte.weight[:, 1:8] = random_part
        for word, value in values.items():
            model.transformer.wte.weight[IDS[word], 0] = value
        attention.c_attn.weight[0, 2 * 9 + 8] = 1.0
        attention.c_proj.weight[:] = torch.eye(9)
        model.lm_head.weight[IDS["one"], 8] = strength / 2
        model.lm_head.weight[IDS["two"], 8] = -strength / 2
    return model


def bag_worth(values: dict[str, float], ids: tuple[int, ...], strength: float) -> list[float]:
    """What each token adds to logit("one") - logit("two"), set against the start token."""
    start = values.get(START, 0.0)
    return [strength * (values.get(VOCABULARY[token], 0.0) - start) / len(ids) for token in ids]


def relu_pair_model(threshold_inside: bool) -> Any:
    """One of two networks that compute the same with different wiring.

    logit("one") - logit("two") is relu(relu(x1) - 1 - relu(x2)) or relu(relu(x1 - 1) - relu(x2)),
    where x1 is 3 in "cat" and x2 is 1 in "tin", read after the start token in a text of three.
    What each is due to must not depend on the wiring: 1.5 and -0.5, from a baseline of zero
    (Sundararajan et al. 2017, "Axiomatic Attribution for Deep Networks", figure 7).
    """
    model, attention = _blank(8, 16, n_layer=2, n_inner=2, activation_function="relu")
    first, second = (block.mlp for block in model.transformer.h)
    with torch.no_grad():
        model.transformer.wte.weight[IDS["cat"], 0] = 3.0
        model.transformer.wte.weight[IDS["tin"], 1] = 1.0
        # Values of three tokens, averaged by uniform attention and so tripled: entries 2 and 3.
        attention.c_attn.weight[:2, 2 * 8 + 2 : 2 * 8 + 4] = 3 * torch.eye(2)
        attention.c_proj.weight[:] = torch.eye(8)
        first.c_fc.weight[2:4] = torch.eye(2)
        first.c_fc.bias[0] = -1.0 if threshold_inside else 0.0
        first.c_proj.weight[:, 4:6] = torch.eye(2)
        second.c_fc.weight[4:6, 0] = torch.tensor([1.0, -1.0])
        second.c_fc.bias[0] = 0.0 if threshold_inside else -1.0
        second.c_proj.weight[0, 6] = 1.0
        model.lm_head.weight[IDS["one"], 6] = 1.0
    return model


def _noise(generator: random.Random, count: int) -> list[int]:
    return [IDS[generator.choice(NOISE)] for _ in range(count)]


def pointer(count: int = 16, length: int = 16, place: int = 5, seed: int = 0) -> Planted:
    """Texts of which one token is copied."""
    generator = random.Random(seed)
    worth = [0.0] * length
    worth[place] = 1.0
    examples = []
    for _ in range(count):
        ids = (0, *_noise(generator, length - 1))
        examples.append(Example(ids, ids[place], None, tuple(worth)))
    return Planted("pointer", pointer_model(place), tuple(examples))


BAG_VALUES = {START: 0.25, "one": 0.25, "two": 0.25} | {
    word: (0.25, 1.0, -1.0, 0.25, 2.0, -0.5)[index % 6] for index, word in enumerate(NOISE)
}


def bag(count: int = 16, length: int = 16, seed: int = 0) -> Planted:
    """Texts whose every token has a known share; the start token's own value is not zero."""
    generator = random.Random(seed)
    examples = []
    for _ in range(count):
        ids = (0, *_noise(generator, length - 1))
        worth = bag_worth(BAG_VALUES, ids, 20.0)
        sign = 1 if sum(worth) >= 0 else -1
        target, foil = (IDS["one"], IDS["two"])[::sign]
        examples.append(Example(ids, target, foil, tuple(sign * value for value in worth)))
    return Planted("bag", bag_model(BAG_VALUES), tuple(examples))


PAIR_VALUES = {"cat": 1.0, "tin": -0.8}


def pair(count: int = 16, length: int = 16, seed: int = 0) -> Planted:
    """Texts in which one token speaks for the answer and one against it."""
    generator = random.Random(seed)
    examples = []
    for _ in range(count):
        ids = [0, *_noise(generator, length - 1)]
        plus, minus = generator.sample(range(1, length), 2)
        ids[plus], ids[minus] = IDS["cat"], IDS["tin"]
        worth = [0.0] * length
        worth[plus], worth[minus] = PAIR_VALUES["cat"], PAIR_VALUES["tin"]
        examples.append(Example(tuple(ids), IDS["one"], None, tuple(worth)))
    return Planted("pair", bag_model(PAIR_VALUES, strength=60.0), tuple(examples))


def answer(kind: int, key: int) -> int:
    """The answer to question ``kind`` (0 animal, 1 metal) where the key met has that index."""
    return IDS[ANSWERS[(3 * key + 1) % 8 if kind == 0 else (5 * key + 2) % 8]]


class KeyLanguage:
    """Noise in which each word has three likely successors, an animal, a metal and a question.

    The noise is a language of its own on purpose: each of its words says much about the next one,
    as in real text, so that a score which adds up effects on all positions finds noise important.
    """

    def __init__(self, seed: int = 0) -> None:
        generator = np.random.default_rng([seed, 1])
        words = len(NOISE)
        self.successors = np.stack([generator.permutation(words)[:3] for _ in range(words)])

    def batch(
        self, generator: np.random.Generator, rows: int, length: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Texts and their keys.

        Returns:
            Token ids ``[rows, length]`` that begin with the start token and end with the question
            and its answer, and the places of the animal and the metal ``[rows, 2]``.
        """
        body = length - 3
        ids = np.zeros((rows, length), dtype=np.int64)
        word = generator.integers(len(NOISE), size=rows)
        for place in range(1, 1 + body):
            ids[:, place] = word + IDS[NOISE[0]]
            choice = generator.choice(3, size=rows, p=[0.6, 0.3, 0.1])
            word = self.successors[word, choice]
        places = np.stack([generator.permutation(body)[:2] + 1 for _ in range(rows)])
        keys = generator.integers(8, size=(rows, 2))
        every = np.arange(rows)
        ids[every, places[:, 0]] = IDS[ANIMALS[0]] + keys[:, 0]
        ids[every, places[:, 1]] = IDS[METALS[0]] + keys[:, 1]
        kinds = generator.integers(2, size=rows)
        ids[:, -2] = IDS[ASK[0]] + kinds
        answers = np.array([[answer(kind, key) for key in range(8)] for kind in (0, 1)])
        ids[:, -1] = answers[kinds, keys[every, kinds]]
        return ids, places


def train_key_model(seed: int = 0, steps: int = 500, rows: int = 64) -> Any:
    """A two-layer GPT-2 of width 64, trained on the key language; about half a minute.

    The loss is that of every next token, and of the answer once more, since one token in twenty
    would be learnt last.
    """
    language = KeyLanguage(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = _gpt2(n_layer=2, n_head=4, n_embd=64, n_positions=32).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.01)
    generator = np.random.default_rng([seed, 2])
    for step in range(steps):
        rate = min(1.0, (step + 1) / 30) * (1 - step / steps)
        for group in optimizer.param_groups:
            group["lr"] = 3e-3 * rate
        ids = torch.from_numpy(language.batch(generator, rows, int(generator.integers(16, 27)))[0])
        logits = model(input_ids=ids[:, :-1]).logits
        loss = F.cross_entropy(logits.transpose(1, 2), ids[:, 1:])
        loss = loss + F.cross_entropy(logits[:, -1], ids[:, -1])
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    model.requires_grad_(False)
    return model.eval()


def key_examples(model: Any, count: int = 64, length: int = 24, seed: int = 0) -> list[Example]:
    """New texts of the key language that the model answers rightly.

    The truth is the key that was asked for; the question is left out of the count, since the
    answer is due to it too. The other key is a decoy that must not be found.
    """
    language = KeyLanguage(seed)
    ids, places = language.batch(np.random.default_rng([seed, 3]), 2 * count, length)
    with torch.no_grad():
        said = model(input_ids=torch.from_numpy(ids[:, :-1])).logits[:, -1].argmax(-1).numpy()
    examples = []
    for row, place, word in zip(ids, places, said, strict=True):
        if word != row[-1] or len(examples) == count:
            continue
        worth = [0.0] * (length - 1)
        worth[place[int(row[-2]) - IDS[ASK[0]]]] = 1.0
        given = tuple(int(token) for token in row[:-1])
        examples.append(Example(given, int(row[-1]), None, tuple(worth), (0, length - 2)))
    return examples


def key(model: Any, count: int = 64) -> Planted:
    """The trained model with its texts."""
    return Planted("key", model, tuple(key_examples(model, count)))


def save_key_model(model: Any, path: Path) -> None:
    """Write the trained weights."""
    from safetensors.torch import save_model

    save_model(model, str(path))


def load_key_model(path: Path) -> Any:
    """Read them again."""
    from safetensors.torch import load_model

    model = _gpt2(n_layer=2, n_head=4, n_embd=64, n_positions=32)
    load_model(model, str(path))
    model.requires_grad_(False)
    return model.eval()
