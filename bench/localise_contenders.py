"""The contenders of ``bench/localise.py``: ways to score what each token read does for the next.

Peers are called as their own documentation calls them, with their own defaults: what a person gets
who tries them. ``original`` is the arithmetic of the script that this project grew out of, faults
included. Every method takes an example and gives one score a token.
"""

from __future__ import annotations

import contextlib
import dataclasses
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from planted import START, VOCABULARY, Example, make_tokenizer
from torch.nn import functional as F


@dataclasses.dataclass(frozen=True)
class Method:
    """A way to score tokens.

    Attributes:
        score: From an example to ``[tokens]``.
        signed: Whether the sign is meant to say something.
    """

    score: Callable[[Example], np.ndarray]
    signed: bool = True


def as_writer(model: Any) -> Any:
    """A planted model as the package takes it."""
    from creativewritinggpt.devices import DeviceChoice
    from creativewritinggpt.models.loaded_model import LoadedModel

    return LoadedModel(
        model=model,
        tokenizer=make_tokenizer(),
        device=DeviceChoice("cpu", "fp32", torch.get_num_threads(), {}),
        name="planted",
        base_name="planted",
        kind="folder",
        revision=None,
        adapter=None,
        run=None,
        bos_id=0,
        eos_id=0,
        context_length=int(model.config.max_position_embeddings),
    )


def as_subject(example: Example) -> Any:
    """An example as the package takes it, its next token as the target."""
    from creativewritinggpt.analysis.subject import Subject, Target

    return Subject(
        text=example.text,
        ids=example.ids,
        spans=example.spans,
        targets=(Target(len(example.ids), example.target, example.foil),),
        prompt_characters=len(example.text),
    )


def ours(model: Any) -> dict[str, Method]:
    """Every method of the package, with its defaults (all replacements alike in the perturbation).

    The planted words are no text, so that replacements are drawn from the whole vocabulary, as the
    original does; the unigram law needs a language.
    """
    from creativewritinggpt.analysis.methods import (
        attention,
        gradients,
        occlusion,
        perturbation,
    )

    writer = as_writer(model)

    def perturbed(example: Example) -> Any:
        return perturbation.perturb(writer, as_subject(example), distribution="uniform", samples=50)

    def captured(example: Example) -> Any:
        return attention.capture(writer, as_subject(example))

    def by(function: Callable[..., Any]) -> Callable[[Example], np.ndarray]:
        return lambda example: function(writer, as_subject(example)).scores[0]

    def left_out(example: Example) -> np.ndarray:
        found = occlusion.leave_one_out(writer, as_subject(example), unit="token")
        return (found if hasattr(found, "method") else found.attribution).scores[0]

    def rolled(sink: bool) -> Callable[[Example], np.ndarray]:
        return lambda example: attention.rollout(captured(example), sink=sink)[-1]

    def mean_attention(sink: bool) -> Callable[[Example], np.ndarray]:
        return lambda example: attention.mean_rows(
            captured(example), as_subject(example), sink=sink
        )[0]

    return {
        "integrated_gradients": Method(by(gradients.integrated_gradients)),
        "gradient_x_input": Method(by(gradients.gradient_x_input)),
        "saliency": Method(by(gradients.saliency), signed=False),
        "occlusion": Method(left_out),
        "kl": Method(lambda e: perturbed(e).kl_attribution().scores[0], signed=False),
        "probability_change": Method(lambda e: perturbed(e).change_attribution().scores[0]),
        "attention": Method(mean_attention(True), signed=False),
        "attention_without_sink": Method(mean_attention(False), signed=False),
        "rollout": Method(rolled(True), signed=False),
        "rollout_without_sink": Method(rolled(False), signed=False),
    }


def captum(model: Any) -> dict[str, Method]:
    """Captum on embeddings or tokens, and its wrapper for language models."""
    from captum.attr import (
        FeatureAblation,
        InputXGradient,
        IntegratedGradients,
        LayerIntegratedGradients,
        LLMAttribution,
        LLMGradientAttribution,
        Saliency,
        TextTokenInput,
    )

    tokenizer, table = make_tokenizer(), model.get_input_embeddings()

    def on_embeddings(kind: Any) -> Callable[[Example], np.ndarray]:
        method = kind(lambda embeds: model(inputs_embeds=embeds).logits[:, -1])

        def score(example: Example) -> np.ndarray:
            embeds = table(torch.tensor([example.ids])).detach()
            return method.attribute(embeds, target=example.target)[0].sum(-1).detach().numpy()

        return score

    def for_language_models(wrapped: Any) -> Callable[[Example], np.ndarray]:
        def score(example: Example) -> np.ndarray:
            given = TextTokenInput(f"{START} {example.text}", tokenizer)
            found = wrapped.attribute(given, target=torch.tensor([example.target]))
            return found.seq_attr.detach().numpy()

        return score

    by_gradients = LLMGradientAttribution(LayerIntegratedGradients(model, table), tokenizer)
    by_ablation = LLMAttribution(FeatureAblation(model), tokenizer)
    return {
        "integrated_gradients": Method(on_embeddings(IntegratedGradients)),
        "llm_integrated_gradients": Method(for_language_models(by_gradients)),
        "gradient_x_input": Method(on_embeddings(InputXGradient)),
        "saliency": Method(on_embeddings(Saliency), signed=False),
        "occlusion": Method(for_language_models(by_ablation)),
    }


def inseq(model: Any) -> dict[str, Method]:
    """Inseq: scores of the next token's probability, aggregated as it aggregates them."""
    import inseq as package

    tokenizer = make_tokenizer()
    names = {
        "integrated_gradients": "integrated_gradients",
        "gradient_x_input": "input_x_gradient",
        "saliency": "saliency",
        "occlusion": "occlusion",
        "attention": "attention",
    }

    def with_method(name: str) -> Callable[[Example], np.ndarray]:
        def score(example: Example) -> np.ndarray:
            with eager(model) if name == "attention" else contextlib.nullcontext():
                wrapped = package.load_model(model, name, tokenizer=tokenizer)
                prompt = f"{START} {example.text}"
                found = wrapped.attribute(
                    prompt, f"{prompt} {VOCABULARY[example.target]}", show_progress=False
                )
            scores = found.sequence_attributions[0].aggregate().target_attributions[:, -1]
            return scores[: len(example.ids)].detach().numpy()

        return score

    # Its aggregation takes the length of each token's vector, and its occlusion the absolute value.
    return {ours: Method(with_method(theirs), signed=False) for ours, theirs in names.items()}


@contextlib.contextmanager
def eager(model: Any) -> Any:
    """Attention that shows its weights, within the block."""
    former = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        yield
    finally:
        model.set_attn_implementation(former)


def original(model: Any, samples: int = 50) -> dict[str, Method]:
    """The arithmetic of the original ``analysis.py``, faults included."""
    from captum.attr import IntegratedGradients

    table = model.get_input_embeddings()

    def integrated_gradients(example: Example) -> np.ndarray:
        def forward(embeds: torch.Tensor) -> torch.Tensor:
            # One number for the whole batch of 50: 49 of its rows get no gradient.
            return torch.max(model(inputs_embeds=embeds).logits[0, -1, :]).unsqueeze(0)

        ids = torch.tensor([example.ids])
        found = IntegratedGradients(forward).attribute(
            table(ids).detach(), table(torch.zeros_like(ids)).detach()
        )
        return found[0].sum(-1).abs().detach().numpy()

    def perturbation(example: Example) -> np.ndarray:
        generator = torch.Generator().manual_seed(0)
        ids = torch.tensor([example.ids])
        scores = np.zeros(len(example.ids))
        with torch.no_grad():
            before = F.softmax(model(ids).logits, dim=-1)
            for place in range(len(scores)):
                for _ in range(samples):
                    changed = ids.clone()
                    changed[0, place] = torch.randint(len(VOCABULARY), (1,), generator=generator)
                    after = F.softmax(model(changed).logits, dim=-1)
                    # "batchmean" divides by 1: the sum over all positions from `place` on.
                    scores[place] += F.kl_div(after.log(), before, reduction="batchmean").item()
        return scores / samples

    return {
        "integrated_gradients": Method(integrated_gradients, signed=False),
        "kl": Method(perturbation, signed=False),
    }


CONTENDERS: dict[str, Callable[[Any], dict[str, Method]]] = {
    "ours": ours,
    "captum": captum,
    "inseq": inseq,
    "original": original,
}


def methods_of(name: str, model: Any) -> dict[str, Method]:
    """A contender's methods for a model."""
    warnings.simplefilter("ignore")
    return CONTENDERS[name](model)
