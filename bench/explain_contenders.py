"""The contenders of ``bench/explain.py``: one explanation of one text, ours and the peers'.

All explain the same next token of the same text, by its log-probability, against the baseline that
is our default: the mean embedding after the start token (inseq knows its own only, end of text).
Peers are called so that their result is right: one score for each row of a batch, which is kept to
a size whose logits take some 60 MB a pass.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from generate_contenders import load as load_known
from generate_contenders import sample_prompts
from torch.nn import functional as F

BASELINE = "mean"
STEPS = 50
# Where 50 steps are not enough for the delta that ours reaches, captum takes twice as many, …
ENOUGH, MOST_STEPS = 0.01, 400
SAMPLES = 50
# Of these, as many as are timed where the text has 128 tokens.
PART_OF_SAMPLES = 20
MANY = 20
# Of 20 targets, those that a peer is timed on.
PART_OF_MANY = 4
# Texts that the one to be explained is chosen from.
TEXTS = 12
# Rows of a batch for the peers, by tokens of the text.
ROWS = {32: 10, 128: 3}


@dataclasses.dataclass(frozen=True)
class Task:
    """What is to be explained.

    Attributes:
        ids: What the model reads; the first is the start token.
        following: The token that comes next in the text.
        targets: Positions of the tokens to be explained; the last is that of ``following``.
    """

    ids: tuple[int, ...]
    following: int
    targets: tuple[int, ...]

    def token(self, position: int) -> int:
        """The token at a position."""
        return (*self.ids, self.following)[position]


@dataclasses.dataclass
class Explained:
    """What a contender found.

    Attributes:
        scores: Of the last target, ``[tokens]``; NaN where a token was not looked at.
        relative_delta: The largest |sum of scores - change of the target| / |change|, of the
            targets that were run.
        errors: Standard errors of ``scores``, where they were drawn at random.
        drawn: Samples of each token that ``errors`` come from.
        steps: Along the path; of ours, the most that any target needed.
        whole: How many times the time taken the whole task would take.
        seconds: Where only a part of the time taken counts, that part.
    """

    scores: np.ndarray
    relative_delta: float | None = None
    errors: np.ndarray | None = None
    drawn: int = 0
    steps: int | None = None
    whole: float = 1.0
    seconds: float | None = None


Work = Callable[[Task], Explained]


def load(model: str) -> Any:
    """The writer of a model; ``tiny`` is for trying the script out.

    The process forgets its peak of memory, since another model may have been loaded on the way.
    """
    writer = _load(model)
    gc.collect()
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return writer


def _load(model: str) -> Any:
    if model != "tiny":
        return load_known(model)
    from transformers import GPT2Config, GPT2LMHeadModel

    writer = load_known("starter")
    torch.manual_seed(0)
    writer.model = GPT2LMHeadModel(GPT2Config(n_layer=2, n_embd=64, n_head=4)).eval()
    writer.context_length = 1024
    return writer


def make_task(writer: Any, tokens: int, targets: int) -> Task:
    """A text of so many tokens, the start token included, whose last tokens are to be explained.

    The texts are such as their own tokens spell, so that tools which take text read the same
    tokens; of the first dozen it is the one with most to explain: the log-probability of its last
    token changes most from the baseline to the text.
    """
    tasks = []
    for prompt in sample_prompts(2 * tokens):
        ids = writer.tokenizer(prompt, add_special_tokens=False)["input_ids"][:tokens]
        again = writer.tokenizer(writer.tokenizer.decode(ids), add_special_tokens=False)
        if again["input_ids"] == ids:
            given = (writer.bos_id, *ids[:-1])
            tasks.append(Task(given, ids[-1], tuple(range(tokens - targets + 1, tokens + 1))))
        if len(tasks) == TEXTS:
            break
    if not tasks:
        raise RuntimeError("no text of the sample corpus spells its own tokens")
    return max(tasks, key=lambda task: _change(writer, task))


def _change(writer: Any, task: Task) -> float:
    """How far the last target's log-probability is from that at the baseline, in nats."""
    from creativewritinggpt.analysis.methods.gradients import Path as Line

    ends = Line(writer, _subject(writer, task), BASELINE).scores(np.array([0.0, 1.0]))
    return float(abs(ends[1, -1] - ends[0, -1]))


def replacing_flops(model: Any, tokens: int) -> float:
    """Matrix-product FLOPs that replacing each token but the first can't avoid, two a weight."""
    head = model.get_output_embeddings().weight.numel()
    looked_up = [m for m in model.base_model.modules() if isinstance(m, torch.nn.Embedding)]
    tables = sum(module.weight.numel() for module in looked_up)
    body = sum(p.numel() for p in model.base_model.parameters()) - tables
    passes = tokens * (tokens - 1) / 2
    return 2.0 * SAMPLES * (body * passes + head * (tokens - 1))


def _subject(writer: Any, task: Task) -> Any:
    from creativewritinggpt.analysis.subject import Subject, Target

    tokenizer = writer.tokenizer
    ends = [len(tokenizer.decode(task.ids[1:end])) for end in range(1, len(task.ids) + 1)]
    spans = ((0, 0), *zip(ends[:-1], ends[1:], strict=True))
    return Subject(
        text=tokenizer.decode(task.ids[1:]),
        ids=task.ids,
        spans=spans,
        targets=tuple(Target(position, task.token(position)) for position in task.targets),
        prompt_characters=ends[-1],
    )


def ours(writer: Any, case: str, quick: bool) -> Work:
    """The package's own functions."""
    if case == "perturbation":
        from creativewritinggpt.analysis.methods.perturbation import perturb

        def replace(task: Task) -> Explained:
            samples = 4 if quick else SAMPLES if len(task.ids) <= 32 else PART_OF_SAMPLES
            began = time.perf_counter()
            found = perturb(writer, _subject(writer, task), distribution="uniform", samples=samples)
            seconds, whole = time.perf_counter() - began, SAMPLES / samples
            return Explained(
                found.kl[-1], errors=found.kl_se[-1], drawn=samples, whole=whole,
                seconds=seconds * whole if whole != 1 else None,
            )  # fmt: skip

        return replace
    if case == "attention_pictures":
        return lambda task: _pictures(writer, task)

    from creativewritinggpt.analysis.methods.gradients import integrated_gradients

    def integrate(task: Task) -> Explained:
        found = integrated_gradients(
            writer,
            _subject(writer, task),
            baseline=BASELINE,
        )
        delta = max(target["relative_delta"] or 0.0 for target in found.per_target)
        steps = max(target["steps"] for target in found.per_target)
        return Explained(found.scores[-1], delta, steps=steps)

    return integrate


def _pictures(writer: Any, task: Task) -> Explained:
    """All attention pictures of a text."""
    from creativewritinggpt.analysis import attention_plots
    from creativewritinggpt.analysis.methods import attention

    subject = _subject(writer, task)
    with tempfile.TemporaryDirectory() as folder:
        maps = attention.capture(writer, subject)
        attention_plots.draw_layers(maps, subject, Path(folder))
        attention_plots.draw_overview(maps, subject, Path(folder))
    return Explained(np.zeros(len(task.ids)))


def _log_probability(model: Any, token: int) -> Callable[[torch.Tensor], torch.Tensor]:
    """From embeddings to the log-probability of ``token`` as the next one, one for each row."""
    return lambda embeds: model(inputs_embeds=embeds).logits[:, -1].log_softmax(-1)[:, token]


def _spread(task: Task) -> tuple[tuple[int, ...], float]:
    """The targets that a peer is timed on, and how many times their time all would take."""
    if len(task.targets) <= PART_OF_MANY:
        return task.targets, 1.0
    places = np.linspace(0, len(task.targets) - 1, PART_OF_MANY).round().astype(int)
    return tuple(task.targets[place] for place in places), len(task.targets) / PART_OF_MANY


def captum(writer: Any, case: str, quick: bool) -> Work:
    """Captum's IntegratedGradients; a run for each target, on the text up to it."""
    if not case.startswith("integrated_gradients"):
        raise RuntimeError(f"captum has no {case}")

    def integrate(task: Task) -> Explained:
        positions, whole = _spread(task)
        runs = [_captum(writer, task, position, STEPS) for position in positions]
        return Explained(runs[-1][0], max(run[1] for run in runs), steps=STEPS, whole=whole)

    return integrate


def captum_enough(writer: Any, case: str, quick: bool) -> Work:
    """Captum with as many steps as its delta needs to be as small as ours: the last run counts."""
    if case != "integrated_gradients":
        raise RuntimeError(f"captum has no {case}")

    def integrate(task: Task) -> Explained:
        steps = STEPS
        while True:
            began = time.perf_counter()
            scores, delta = _captum(writer, task, task.targets[-1], steps)
            took = time.perf_counter() - began
            if delta <= ENOUGH or steps >= (STEPS if quick else MOST_STEPS) or STEPS < 50:
                return Explained(scores, delta, steps=steps, seconds=took)
            steps *= 2

    return integrate


def _captum(writer: Any, task: Task, position: int, steps: int) -> tuple[np.ndarray, float]:
    """Scores ``[tokens]`` and the relative delta of one target."""
    from captum.attr import IntegratedGradients

    from creativewritinggpt.analysis.forward import baseline_text

    table = writer.model.get_input_embeddings()
    ids = torch.tensor([task.ids[:position]])
    embeds = table(ids).detach()
    baseline = baseline_text(writer, ids, BASELINE)
    score = _log_probability(writer.model, task.token(position))
    found, delta = IntegratedGradients(score).attribute(
        embeds,
        baseline,
        n_steps=steps,
        internal_batch_size=ROWS.get(len(task.ids), 10),
        return_convergence_delta=True,
    )
    with torch.no_grad():
        change = score(embeds) - score(baseline)
    return found[0].sum(-1).numpy(), abs(float(delta) / float(change))


def inseq(writer: Any, case: str, quick: bool) -> Work:
    """Inseq's integrated gradients, of the log-probability and with as many steps."""
    if not case.startswith("integrated_gradients"):
        raise RuntimeError(f"inseq has no {case}")
    import inseq as package

    tokenizer = writer.tokenizer
    model = package.load_model(writer.model, "integrated_gradients", tokenizer=tokenizer)

    def integrate(task: Task) -> Explained:
        positions, whole = _spread(task)
        deltas, scores = [], None
        for position in positions:
            prompt = tokenizer.decode(task.ids[:position])
            text = tokenizer.decode([*task.ids[:position], task.token(position)])
            if tokenizer(text)["input_ids"] != [*task.ids[:position], task.token(position)]:
                raise RuntimeError("inseq would read other tokens")
            found = model.attribute(
                prompt,
                text,
                show_progress=False,
                attributed_fn="probability",
                logprob=True,
                n_steps=STEPS,
                internal_batch_size=ROWS.get(len(task.ids), 10),
                return_convergence_delta=True,
            ).sequence_attributions[0]
            scores = found.target_attributions[:position, -1].sum(-1).numpy()
            # Its delta is what is missing from the sum, so that the change is known from both.
            delta = float(found.step_scores["deltas"].flatten()[-1])
            deltas.append(abs(delta / (float(scores.sum()) - delta)))
        return Explained(scores, max(deltas), steps=STEPS, whole=whole)

    return integrate


def original(writer: Any, case: str, quick: bool) -> Work:
    """The original's perturbation: one full pass for each token and sample, on a part of them.

    Its own score (the sum over all positions) is what is timed; the score of the next token comes
    from the same passes, to be compared with ours.
    """
    if case != "perturbation":
        raise RuntimeError(f"the original's {case} is no peer")
    model = writer.model

    def replace(task: Task) -> Explained:
        ids = torch.tensor([task.ids])
        places = np.linspace(1, len(task.ids) - 1, 2 if quick else 8).round().astype(int)
        samples = 2 if quick else 16 if len(task.ids) <= 32 else 8
        scores, errors = (np.full(len(task.ids), np.nan) for _ in range(2))
        generator = torch.Generator().manual_seed(0)
        words = int(model.config.vocab_size)
        with torch.no_grad():
            before = F.softmax(model(ids).logits, dim=-1)
            for place in places:
                drawn = []
                for _ in range(samples):
                    changed = ids.clone()
                    changed[0, place] = torch.randint(words, (1,), generator=generator)
                    after = F.softmax(model(changed).logits, dim=-1)
                    F.kl_div(after.log(), before, reduction="batchmean").item()
                    last = F.kl_div(after[0, -1].log(), before[0, -1], reduction="sum")
                    drawn.append(last.item())
                scores[place] = np.mean(drawn)
                errors[place] = np.std(drawn, ddof=1) / samples**0.5
        # Ours does not replace the start token, which is no part of the text.
        whole = (len(task.ids) - 1) * SAMPLES / (len(places) * samples)
        return Explained(scores, errors=errors, drawn=samples, whole=whole)

    return replace


def reference(writer: Any, case: str, quick: bool) -> Work:
    """Integrated gradients of the last target at very many steps, written out plainly."""
    if not case.startswith("integrated_gradients"):
        raise RuntimeError(f"there is no reference of {case}")
    from creativewritinggpt.analysis.forward import baseline_text

    model, table = writer.model, writer.model.get_input_embeddings()
    body, head = model.base_model, model.get_output_embeddings()
    model.requires_grad_(False)

    def integrate(task: Task) -> Explained:
        # 128 tokens at 500 steps would take longer than all the rest.
        steps = STEPS if quick else 500 if len(task.ids) <= 32 else 100
        ids = torch.tensor([task.ids])
        embeds, start = table(ids), baseline_text(writer, ids, BASELINE)
        nodes, weights = np.polynomial.legendre.leggauss(steps)
        total = torch.zeros(embeds.shape[1:], dtype=torch.float64)

        def score(point: torch.Tensor) -> torch.Tensor:
            last = body(inputs_embeds=point, use_cache=False).last_hidden_state[:, -1]
            return head(last).log_softmax(-1)[:, task.following]

        for first in range(0, steps, 8):
            part = slice(first, first + 8)
            alphas = torch.tensor((nodes[part] + 1) / 2, dtype=embeds.dtype)[:, None, None]
            points = (start + alphas * (embeds - start)).requires_grad_()
            (slope,) = torch.autograd.grad(score(points).sum(), points)
            share = torch.tensor(weights[part] / 2)[:, None, None]
            total += (slope.double() * share).sum(0)
        scores = (total * (embeds - start)[0].double()).sum(-1).numpy()
        with torch.no_grad():
            change = float(score(embeds) - score(start))
        return Explained(scores, abs(float(scores.sum()) / change - 1), steps=steps)

    return integrate


CONTENDERS: dict[str, Callable[[Any, str, bool], Work]] = {
    "ours": ours,
    "captum": captum,
    "captum_enough": captum_enough,
    "inseq": inseq,
    "original": original,
    "reference": reference,
}


@contextlib.contextmanager
def few_steps() -> Any:
    """Within the block peers take two steps: enough to warm up."""
    global STEPS
    former, STEPS = STEPS, 2
    try:
        yield
    finally:
        STEPS = former
