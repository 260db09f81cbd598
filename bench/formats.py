"""Next-token distributions of each weight format against float32, on real text.

    python bench/formats.py FILE [--stories 12] [--tokens 200] [--formats onnx int8 …]

FILE holds a story per line, as text or as JSON with the story under `story` or `text`; the first
ones that are long enough are taken. The model is the starter, untuned. The text is given token by
token to the backend, as while writing, and in one pass to the model in float32; at every position
the two distributions are compared.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from creativewritinggpt import console
from creativewritinggpt.generation.text import encode
from creativewritinggpt.models.forward.backends import backend_for

FORMATS = ("onnx", "int8", "bf16", "fp32")
_SHORTEST = 800


@dataclasses.dataclass(frozen=True)
class Quality:
    """A backend against float32.

    Attributes:
        weights: The backend's number format.
        tokens: Positions compared.
        mean_kl: Mean Kullback-Leibler divergence from float32, in nats.
        top1_agreement: Share of positions with the same likeliest token.
        perplexity: Of the text, by the backend.
        exact_perplexity: Of the text, in float32.
        standard_error: Of the change of perplexity, as a share: few words say little about it.
    """

    weights: str
    tokens: int
    mean_kl: float
    top1_agreement: float
    perplexity: float
    exact_perplexity: float
    standard_error: float

    @property
    def perplexity_change(self) -> float:
        """How much higher the perplexity is, as a share."""
        return self.perplexity / self.exact_perplexity - 1


def compare(
    writer: Any,
    texts: Sequence[str],
    weights: str = "int8",
    tokens: int = 256,
    prompt: int = 16,
) -> Quality:
    """Compare a backend with float32 on the first ``tokens`` tokens of each text.

    Args:
        writer: The model, on a processor.
        texts: Real text; what is shorter than a short prompt is left out.
        weights: The backend, as in the settings.
        tokens: At most so many of each text.
        prompt: Tokens that are read at once before the comparison begins.

    Raises:
        InputError: The backend can't be had for this model.
    """
    backend = backend_for(writer, weights)
    kl = agreement = 0.0
    exact_losses, losses = [], []
    with torch.inference_mode():
        for text in texts:
            ids = [writer.bos_id, *encode(writer.tokenizer, text)[: tokens - 1]]
            if len(ids) <= prompt + 1:
                continue
            given = torch.tensor([ids])
            logits = writer.model(given, attention_mask=torch.ones_like(given)).logits
            exact = logits[0, prompt - 1 : -1].float()
            context, logits = backend.read(ids[:prompt], len(ids))
            for place, token in enumerate(ids[prompt:]):
                p = torch.log_softmax(exact[place], -1)
                q = torch.log_softmax(logits[0], -1)
                kl += float((p.exp() * (p - q)).sum())
                agreement += int(p.argmax()) == int(q.argmax())
                exact_losses.append(-float(p[token]))
                losses.append(-float(q[token]))
                logits = context.step([token])
    count = len(losses)
    if not count:
        return Quality(weights, 0, 0.0, 1.0, 1.0, 1.0, 0.0)
    change = np.subtract(losses, exact_losses)
    return Quality(
        weights if weights != "auto" else backend.name,
        count,
        kl / count,
        agreement / count,
        math.exp(np.mean(losses)),
        math.exp(np.mean(exact_losses)),
        float(change.std(ddof=1) / math.sqrt(count)) if count > 1 else math.inf,
    )


def show(results: Sequence[Quality]) -> None:
    """Print comparisons as a table."""
    console.table(
        "next-token distributions against float32",
        [
            "weights",
            "tokens",
            "mean KL (nats)",
            "same first choice",
            "perplexity",
            "in float32",
            "",
        ],
        [
            (
                r.weights,
                f"{r.tokens:,}",
                f"{r.mean_kl:.5f}",
                f"{r.top1_agreement:.1%}",
                f"{r.perplexity:.3f}",
                f"{r.exact_perplexity:.3f}",
                f"{r.perplexity_change:+.2%} ± {2 * r.standard_error:.2%}",
            )
            for r in results
        ],
    )


def stories(file: Path) -> Iterator[str]:
    """The stories of a file that have a page or more."""
    with file.open(encoding="utf-8") as stream:
        for line in stream:
            story = line.strip()
            if story.startswith("{"):
                record = json.loads(story)
                story = str(record.get("story") or record.get("text") or "")
            if len(story) >= _SHORTEST:
                yield story


def main() -> None:
    """Compare and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", type=Path)
    parser.add_argument("--stories", type=int, default=12)
    parser.add_argument("--tokens", type=int, default=200, help="of each story")
    parser.add_argument("--formats", nargs="+", choices=FORMATS, default=list(FORMATS))
    arguments = parser.parse_args()
    from creativewritinggpt.models.loading import load_model

    writer = load_model("starter")
    texts = [
        story for _, story in zip(range(arguments.stories), stories(arguments.file), strict=False)
    ]
    show([compare(writer, texts, name, tokens=arguments.tokens) for name in arguments.formats])


if __name__ == "__main__":
    main()
