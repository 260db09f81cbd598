"""Records of explanations made without a model, for the tests of the page and the pictures."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from creativewritinggpt.analysis.subject import Subject, words_of

PROMPT = "The dragon 🐉 wanted $40 & a “song” from Mira, who kept the old castle.\n\n"
STORY = (
    "Mira laughed. <|endoftext|> was carved above the gate, and nobody at Harrowmere knew why. "
    "“Sing, then,” said the dragon 🐉, “or pay my $40.” She opened the door & sang until "
    "Mira's voice, thin as smoke, filled the castle.</script>"
)
_TOKEN = re.compile(r"<\|endoftext\|>| ?[^\W\d_]{1,6}| ?\d| ?[^\w\s]|\s|_")


def _tokens(text: str) -> list[tuple[str, tuple[int, int]]]:
    """Pieces of at most six letters; an emoji is three bytes that share its place."""
    result = []
    for match in _TOKEN.finditer(text):
        if ord(match.group()[-1]) > 0xFFFF:
            result += [("\ufffd", match.span())] * 3
        else:
            result.append((match.group(), match.span()))
    return result


def _alternatives(generator: np.random.Generator, chosen: dict[str, Any]) -> list[dict[str, Any]]:
    words = [" door", " window", " sea", "\n", " $", " <|endoftext|>", "ly", " night", "&"]
    probabilities = np.sort(generator.dirichlet(np.ones(len(words) + 1)))[::-1] * 0.9
    rows = [
        {"id": 1000 + i, "text": word, "probability": float(p)}
        for i, (word, p) in enumerate(zip(words, probabilities, strict=False))
    ]
    rows.insert(int(generator.integers(0, 4)), {**chosen, "probability": float(probabilities[3])})
    return rows[:8]


def _targets(
    generator: np.random.Generator,
    pieces: list[tuple[str, tuple[int, int]]],
    word_of: dict[int, int],
    positions: list[int],
    base: bool,
) -> list[dict[str, Any]]:
    result = []
    for position in positions:
        text = pieces[position][0] if position < len(pieces) else " silence"
        chosen = {"id": 7 + position, "text": text}
        probability = float(generator.beta(1, 3))
        target: dict[str, Any] = {
            "position": position, **chosen, "word": word_of.get(position),
            "log_probability": float(np.log(probability)), "probability": probability,
            "rank": int(generator.integers(1, 40)), "entropy": float(generator.uniform(0.5, 6)),
            "alternatives": _alternatives(generator, chosen), "foil": None, "base": None,
        }  # fmt: skip
        if base:
            target["base"] = {
                "log_probability": float(np.log(probability) - generator.exponential(1)),
                "probability": probability / 3, "rank": int(generator.integers(1, 400)),
                "alternatives": _alternatives(generator, chosen),
            }  # fmt: skip
        result.append(target)
    return result


def _attribution(
    generator: np.random.Generator, name: str, positions: list[int], length: int
) -> dict[str, Any]:
    shares = name.startswith(("rollout", "attention"))
    signed = name not in ("kl", "saliency") and not shares
    scores = generator.standard_t(3, (len(positions), length)) * 0.15
    if not signed:
        scores = np.abs(scores)
    for row, position in zip(scores, positions, strict=True):
        row[position:] = 0.0
    if shares:
        scores /= scores.sum(-1, keepdims=True)
    record = {
        "method": name, "signed": signed, "unit": "share" if shares else "nats",
        "settings": {"baseline": "end_of_text"} if "grad" in name else
        {"samples": 20, "seed": 0, "flip_rate": [[0.1]]},
        "scores": scores.tolist(), "per_target": [],
    }  # fmt: skip
    if name == "integrated_gradients":
        record["per_target"] = [
            {"convergence_delta": 0.004, "relative_delta": 0.006, "converged": i % 5 != 4,
             "steps": 24, "score": -2.0, "baseline_score": -7.5}
            for i in range(len(positions))
        ]  # fmt: skip
    if name in ("kl", "probability_change"):
        record["standard_error"] = (np.abs(scores) * 0.2 + 0.01).tolist()
    return record


METHODS = (
    "integrated_gradients", "gradient_x_input", "saliency", "occlusion", "kl",
    "probability_change", "rollout", "rollout_without_sink", "attention_without_sink",
)  # fmt: skip
_KINDS = {
    "Mira": ["name"], "Mira's": ["name"], "castle.</script>": ["place", "prompt"],
    "castle.": ["place"], "Harrowmere": ["place", "name"], "laughed.": ["action"],
    "opened": ["action"], "sang": ["action"], "dragon": ["prompt"], "$40.”": ["prompt"],
    "“Sing,": ["dialogue", "action"], "then,”": ["dialogue"], "“or": ["dialogue"],
    "pay": ["dialogue", "action"], "my": ["dialogue"],
}  # fmt: skip


def _curve(falls: bool, good: bool) -> dict[str, Any]:
    fractions = np.linspace(0, 1, 11)
    even = -2.0 - 5.0 * (fractions if falls else 1 - fractions)
    lead = 1.6 * np.sin(np.pi * fractions) * (1 if good else 0.1) * (-1 if falls else 1)
    values, spread = even + lead, 0.6 * np.sin(np.pi * fractions)
    return {
        "fractions": fractions.tolist(), "values": values.tolist(),
        "random_mean": even.tolist(), "random_low": (even - spread).tolist(),
        "random_high": (even + spread).tolist(),
        "auc": float(np.mean(values)),
    }  # fmt: skip


def _judgement(generator: np.random.Generator, *, good: bool) -> dict[str, Any]:
    laws = {
        law: {
            "comprehensiveness": float(generator.normal(2, 0.5)),
            "sufficiency": float(generator.normal(1, 0.5)),
            "deletion": _curve(True, good), "insertion": _curve(False, good),
            "p_value": 0.05, "better_than_random": good,
            "verdict": "better than random" if good else "no better than random",
        }
        for law in ("end_of_text", "unigram")
    }  # fmt: skip
    sentence = "replacing what it ranks first costs 2.10 nats, random ones 0.70"
    return {
        "law": "end_of_text", **laws["end_of_text"], "laws": laws,
        "sentence": sentence if good else f"no better than random: {sentence}",
        "settings": {"targets": [1, 2], "targets_in_all": 3, "random_rankings": 20},
    }  # fmt: skip


def _return(targets: list[dict[str, Any]], words: list[Any]) -> dict[str, Any]:
    last = targets[-1]
    return {
        "name": "mira", "word": last["word"], "target": len(targets) - 1, "earlier": [1, 2],
        "share": 0.31, "even": 0.05, "support": 0.2, "sentence": words[1].span,
        "sentence_share": 0.4, "sentence_even": 0.1, "sentence_names": True, "ratio": 6.2,
    }  # fmt: skip


def _moved(sign: int) -> list[dict[str, Any]]:
    return [
        {"id": i, "text": text, "base": 0.2 - sign * 0.1, "tuned": 0.2 + sign * 0.1}
        for i, text in enumerate((" dragon", "\n", " $", " <|endoftext|>"))
    ]


def _sections(
    generator: np.random.Generator, layers: int, heads: int, targets: list[dict[str, Any]],
    words: list[Any], length: int, base: bool,
) -> dict[str, Any]:  # fmt: skip
    names = ["embedding", *map(str, range(layers))]

    def lens() -> dict[str, Any]:
        return {
            "layers": names,
            "log_probability": (-generator.exponential(3, (len(names), len(targets)))).tolist(),
            "rank": generator.integers(1, 900, (len(names), len(targets))).tolist(),
            "top": [[target["alternatives"][:5] for target in targets] for _ in names],
        }

    result: dict[str, Any] = {
        "lens": {"tuned": lens(), **({"base": lens()} if base else {})},
        "faithfulness": {
            name: _judgement(generator, good=name != "saliency")
            for name in (*METHODS[:6], "attention_without_sink")
        },
        "story": {
            "told": {"attention": "Mira comes back once: 31% goes to earlier mentions."},
            "returns": {"attention": [_return(targets, words)]} if targets[0]["word"] else {},
        },
    }  # fmt: skip
    if base:
        result["difference"] = {
            "change": [None, *generator.normal(0.1, 0.8, length - 1).tolist()],
            "gained": [_moved(1) for _ in targets], "lost": [_moved(-1) for _ in targets],
            "gained_overall": _moved(1), "lost_overall": _moved(-1),
            "updates": [
                {"layer": layer, "projection": projection, "norm": 0.5,
                 "relative": float(generator.uniform(0, 0.03))}
                for layer in range(layers) for projection in ("attn.c_attn", "attn.c_proj")
            ],
            "attention": generator.uniform(0, 0.1, (layers, heads)).tolist(),
        }  # fmt: skip
    return result


def make_record(
    text: str = PROMPT + STORY, prompt_characters: int = len(PROMPT), *, base: bool = True,
    next_only: bool = False, layers: int = 4, heads: int = 4, view_start: int = 0, seed: int = 0,
) -> dict[str, Any]:  # fmt: skip
    """A record as the analysis makes it, with random numbers.

    Args:
        text: The whole text.
        prompt_characters: How much of it is the prompt.
        base: Whether there is a base model beside the tuned one.
        next_only: One target, the next token, instead of every written one.
        layers: Of attention.
        heads: Of each layer.
        view_start: First character that the model sees.
        seed: Of the numbers.
    """
    generator = np.random.default_rng(seed)
    found = [piece for piece in _tokens(text) if piece[1][0] >= view_start]
    pieces = [("<|endoftext|>", (view_start, view_start)), *found]
    length = len(pieces)
    words = words_of(
        Subject(text, tuple(range(length)), tuple(span for _, span in pieces), (),
                prompt_characters, view_start)
    )  # fmt: skip
    word_of = {token: index for index, word in enumerate(words) for token in word.tokens}
    first = next((i for i, p in enumerate(pieces) if i and p[1][0] >= prompt_characters), length)
    positions = [length] if next_only else list(range(first, length))
    targets = _targets(generator, pieces, word_of, positions, base)
    rows = generator.gamma(0.3, 1, (layers, heads, len(positions), length))
    rows[..., 0] += 2
    rows *= np.arange(length) < np.array(positions)[:, None]
    rows /= rows.sum(-1, keepdims=True)
    methods = {
        name: {
            model: _attribution(generator, name, positions, length)
            for model in (("tuned", "base") if base and name != "occlusion" else ("tuned",))
        }
        for name in METHODS
    }
    main = np.array(methods["integrated_gradients"]["tuned"]["scores"][0])
    change = methods["kl"]["tuned"]
    return {
        "format": "cwgpt-explanation", "version": 1, "text": text,
        "tokens": [piece for piece, _ in pieces[1:]],
        "gradient_scores": (np.abs(main[1:]) / max(np.abs(main).max(), 1e-9)).tolist(),
        "perturbation_scores": change["scores"][0][1:],
        "model": "outputs/best_model", "adapter": "outputs/best_model" if base else None,
        "base": "starter" if base else None, "revision": None, "seed": 0, "precision": "fp32",
        "command": 'cwgpt analyze --write 40 "The dragon …"', "created": "2026-11-23T12:00:00Z",
        "settings": {"samples": 20, "steps": None}, "view_start": view_start,
        "prompt_characters": prompt_characters, "warnings": ["a warning with <b>marks</b> & $"],
        "input": [
            {"position": i, "id": i, "text": piece, "char_span": list(span), "word": word_of.get(i)}
            for i, (piece, span) in enumerate(pieces)
        ],
        "words": [
            {"text": word.text, "char_span": list(word.span), "tokens": list(word.tokens),
             "kinds": _KINDS.get(word.text, []), "written": word.written}
            for word in words
        ],
        "targets": targets, "target": targets[0], "methods": methods,
        "gradients": {"signed": main.tolist(), "baseline": "end_of_text", "steps": 24,
                      "convergence_delta": 0.004, "relative_delta": 0.006, "converged": True,
                      "baseline_agreement": {"mean": 0.91, "zero": 0.84}},
        "perturbation": {"kl_nats": change["scores"][0],
                         "standard_error": change["standard_error"][0],
                         "law": "unigram", "samples": 20, "noise_floor": 1e-7,
                         "flip_rate": [0.1] * length},
        "attention": {"layers": layers, "heads": heads,
                      "first_token_mass": generator.uniform(0, 1, (layers, heads)).tolist(),
                      "distance": generator.uniform(1, 20, (layers, heads)).tolist(),
                      "entropy": generator.uniform(0, 3, (layers, heads)).tolist(), "rows": rows},
        **_sections(generator, layers, heads, targets, words, length, base),
    }  # fmt: skip


def long_text(words: int = 300, seed: int = 1) -> str:
    """A text of so many words, in paragraphs."""
    generator = np.random.default_rng(seed)
    names = "the a Mira castle lamp winter listened beyond dragon shadows opened door and"
    vocabulary = names.split()
    drawn = [str(generator.choice(vocabulary)) for _ in range(words)]
    return "".join(w + ("\n\n" if i % 60 == 59 else ". " if i % 11 == 10 else " ")
                   for i, w in enumerate(drawn)).strip()  # fmt: skip
