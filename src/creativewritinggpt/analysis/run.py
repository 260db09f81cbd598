"""One explanation from beginning to end: choose the tokens, ask every method, keep what is done.

Gradients, attention and the rest are of the fp32 pass that wrote the text or would write it;
random replacements, which are an estimate anyway, are computed in the precision that the machine is
fastest in, and their noise floor is measured and recorded.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .attribution import Attribution
from .methods.attention import AttentionMaps, NoAttention
from .predictions import predictions
from .report import record as records
from .select_targets import choose
from .settings import METHODS, AnalysisSettings
from .subject import Subject
from .text.words import Word, words_of

if TYPE_CHECKING:
    from ..models.loaded_model import LoadedModel

Tell = Callable[[str, int, int | None], None]
# With more targets the base model is not explained beside the tuned one: it doubles the time.
MOST_WITH_BASE = 40
# Integrated gradients are repeated from the other baselines where so many tokens, forward and back,
# allow the steps that settle most scores: for one target up to 20 tokens of text.
AGREEMENT_REACH = 12_000
AGREEMENT_STEPS = 300
# Up to so many tokens the influence of each on every later place is measured, too.
MOST_WITH_INFLUENCE = 64
# Of so few tokens a random ranking is often as good as the best.
FEW = 10


@dataclasses.dataclass
class Explanation:
    """What was found.

    Attributes:
        record: All of it, as in ``results.json``.
        subject: The text as the model reads it, with its targets.
        words: Its words.
        attention: The weights of all layers and heads, where they were asked for.
        unfinished: Methods that were interrupted or not reached.
    """

    record: dict[str, Any]
    subject: Subject
    words: list[Word]
    attention: AttentionMaps | None = None
    unfinished: list[str] = dataclasses.field(default_factory=list)


def explain(
    writer: LoadedModel,
    text: str,
    settings: AnalysisSettings | None = None,
    *,
    tell: Tell | None = None,
    warn: Callable[[str], None] | None = None,
) -> Explanation:
    """Explain what the model makes of a text.

    Args:
        writer: The model.
        text: The text.
        settings: What to explain and how.
        tell: Told how far it is.
        warn: Told what the user should know; the record has it too.

    Returns:
        What was found; after Ctrl-C, what was found until then.

    Raises:
        InputError: Text or settings don't fit.
        RunError: The model computes no numbers.
    """
    settings = settings or AnalysisSettings()
    exact = dataclasses.replace(writer, device=dataclasses.replace(writer.device, precision="fp32"))
    warnings: list[str] = []

    def say(text: str) -> None:
        warnings.append(text)
        if warn is not None:
            warn(text)

    _check_drawn(writer, settings)
    subject = choose(exact, text, settings, say)
    work = _Work(writer, exact, subject, settings, tell, say)
    work.record["warnings"] = warnings
    try:
        for method in _ORDER:
            if method in settings.methods:
                work.unfinished.append(method)
                getattr(work, method)()
                work.unfinished.remove(method)
    except KeyboardInterrupt:
        reached = _ORDER.index(work.unfinished[-1]) + 1 if work.unfinished else 0
        work.unfinished += [m for m in _ORDER[reached:] if m in settings.methods]
        work.record["unfinished"] = list(work.unfinished)
    return Explanation(work.record, subject, work.words, work.maps, work.unfinished)


# What others build on comes first.
_ORDER = (
    "attention", "gradients", "perturbation", "occlusion", "lens", "difference", "faithfulness",
    "story",
)  # fmt: skip


class _Work:
    """The methods, each of which adds its part to the record."""

    def __init__(
        self,
        writer: LoadedModel,
        exact: LoadedModel,
        subject: Subject,
        settings: AnalysisSettings,
        tell: Tell | None,
        say: Callable[[str], None],
    ) -> None:
        from .text.tags import tag

        self.writer, self.exact, self.subject, self.settings = writer, exact, subject, settings
        self.tell, self.say = tell, say
        self.words = words_of(subject)
        self.kinds = tag(self.words, subject.text, subject.text[: subject.prompt_characters])
        self.maps: AttentionMaps | None = None
        self.base_maps: AttentionMaps | None = None
        self.found: dict[str, Attribution] = {}
        self.unfinished: list[str] = []
        self.with_base = writer.has_adapter and len(subject.targets) <= MOST_WITH_BASE
        if writer.has_adapter and not self.with_base:
            say(
                f"more than {MOST_WITH_BASE} tokens are explained: attributions are of the tuned "
                "model alone"
            )
        self.record = records.begin(writer, subject, self.words, self.kinds)
        self.record["seed"] = settings.seed
        self.record["settings"] = dataclasses.asdict(settings)
        self.record["precision"] = {
            "gradients": "fp32", "attention": "fp32", "perturbation": writer.device.precision,
        }  # fmt: skip
        said = predictions(exact, subject)
        base = None
        if writer.has_adapter:
            with exact.base():
                base = predictions(exact, subject)
        targets = records.target_records(writer, subject, self.words, said, base)
        self.record["targets"], self.record["target"] = targets, targets[0]

    def _progress(self, what: str) -> Callable[[int, int], None] | None:
        tell = self.tell
        return None if tell is None else (lambda done, total: tell(what, done, total))

    def _add(self, found: Attribution, model: str = "tuned", name: str | None = None) -> None:
        records.add_method(self.record, found, name, model)
        if model == "tuned":
            self.found[name or found.method] = found

    def attention(self) -> None:
        """All heads, their statistics, and the rollout."""
        from .methods.attention import capture, mean_attention
        from .methods.heads import statistics
        from .methods.rollout import rollout_attribution

        try:
            self.maps = capture(self.exact, self.subject)
        except NoAttention as error:
            if self.settings.methods == ["attention"]:
                raise
            self.say(f"{error}; the other methods are explained without it")
            return
        statistic = statistics(self.maps, self.subject, self.words, self.kinds)
        part: dict[str, Any] = {
            "layers": self.maps.layers,
            "heads": self.maps.heads,
            **statistic.to_dict(),
            "rows": self.maps.rows(self.subject),
            "note": "attention is not attribution",
        }
        if self.with_base:
            with self.exact.base():
                self.base_maps = capture(self.exact, self.subject)
            part["base_rows"] = self.base_maps.rows(self.subject)
        self.record["attention"] = part
        for model, maps in (("tuned", self.maps), ("base", self.base_maps)):
            if maps is not None:
                self._add(mean_attention(maps, self.subject), model)
                for sink in (True, False):
                    self._add(rollout_attribution(maps, self.subject, sink=sink), model)

    def gradients(self) -> None:
        """Integrated gradients, and the two cheap views."""
        from .methods.gradients import (
            baseline_agreement,
            gradient_x_input,
            integrated_gradients,
            saliency,
        )
        from .methods.path import most_steps

        def both(model: str) -> Attribution:
            what = "integrated gradients" + (" of the base" if model == "base" else "")
            found = integrated_gradients(
                self.exact, self.subject, baseline=self.settings.baseline,
                steps=self.settings.steps, progress=self._progress(what),
            )  # fmt: skip
            self._add(found, model)
            self._add(gradient_x_input(self.exact, self.subject), model)
            self._add(saliency(self.exact, self.subject), model)
            return found

        main = both("tuned")
        part: dict[str, Any] = {
            "signed": main.scores[0].tolist(),
            "baseline": self.settings.baseline,
            **main.per_target[0],
        }
        failed = [i for i, target in enumerate(main.per_target) if not target["converged"]]
        if failed:
            self.say(
                f"integrated gradients did not converge for {len(failed)} of "
                f"{len(main.per_target)} tokens; they are marked"
            )
        most = most_steps(self.subject.targets, AGREEMENT_REACH)
        if most >= AGREEMENT_STEPS:
            part["baseline_agreement"] = baseline_agreement(
                self.exact, self.subject, main, steps=self.settings.steps, most_steps=most,
                progress=self._progress("other baselines"),
            )  # fmt: skip
        self.record["gradients"] = part
        if self.with_base:
            with self.exact.base():
                both("base")

    def perturbation(self) -> None:
        """Random replacements: divergence, change of the target, influence of all on all."""
        from .methods.perturbation import perturb

        everywhere = self.subject.length <= MOST_WITH_INFLUENCE
        for model in ("tuned", "base") if self.with_base else ("tuned",):
            with _adapter(self.writer, model):
                found = perturb(
                    self.writer, self.subject, law=self.settings.law,
                    samples=self.settings.samples, seed=self.settings.seed,
                    positions="all" if model == "tuned" and everywhere else "targets",
                    progress=self._progress(
                        "random replacements" + (" of the base" if model == "base" else "")
                    ),
                )  # fmt: skip
            self._add(found.kl_attribution(), model)
            self._add(found.change_attribution(), model)
            if model == "tuned":
                self.record["perturbation"] = found.to_dict()
                if found.influence is not None:
                    self.record["influence"] = found.influence.tolist()

    def occlusion(self) -> None:
        """Leave one out."""
        from .methods.occlusion import leave_one_out

        for model in ("tuned", "base") if self.with_base else ("tuned",):
            with _adapter(self.exact, model):
                found = leave_one_out(
                    self.exact, self.subject, unit=self.settings.unit,
                    progress=self._progress("leaving words out"),
                )  # fmt: skip
            self._add(found, model)

    def lens(self) -> None:
        """What each layer would say."""
        from .methods.lens import logit_lens

        shown = records.token_text(self.writer)
        part = {"tuned": logit_lens(self.exact, self.subject).to_dict(shown)}
        if self.writer.has_adapter:
            with self.exact.base():
                part["base"] = logit_lens(self.exact, self.subject).to_dict(shown)
        self.record["lens"] = part

    def difference(self) -> None:
        """What the fine-tuning changed."""
        from .methods.difference import compare

        found = compare(
            self.exact, self.subject, attention=self.maps is not None, maps=self.maps,
            base_maps=self.base_maps, progress=self._progress("comparing with the base"),
        )  # fmt: skip
        if found is not None:
            self.record["difference"] = found.to_dict(records.token_text(self.writer))
        elif set(self.settings.methods) != set(METHODS):  # asked for by name
            self.say("what fine-tuning changed can't be told: the model has no adapter")

    def faithfulness(self) -> None:
        """Whether each attribution is better than a random one."""
        from .methods.faithfulness import Judge

        if self.subject.targets[-1].position <= FEW:
            self.say(
                f"with fewer than {FEW} tokens before it hardly any explanation can be told from a "
                "random one"
            )
        judge = Judge(self.exact, self.subject, seed=self.settings.seed)
        part: dict[str, Any] = {}
        for name, found in self.found.items():
            if name == "rollout":
                continue  # its first token takes all; without it, it is judged
            progress = self._progress(f"judging {name.replace('_', ' ')}")
            part[name] = judge.judge(found, progress).to_dict()
        self.record["faithfulness"] = part

    def story(self) -> None:
        """Names, places, speech and action, and where the model looks for them."""
        from .text.story import following_heads, story_record

        wanted = ("attention_without_sink", "integrated_gradients", "kl")
        scores = {name: self.found[name].scores for name in wanted if name in self.found}
        if scores:
            self.record["story"] = story_record(scores, self.subject, self.words, self.kinds)
            if self.maps is not None:
                self.record["story"]["following_heads"] = following_heads(
                    self.maps, self.subject, self.words, self.kinds
                )


def _check_drawn(writer: LoadedModel, settings: AnalysisSettings) -> None:
    """Refuse pictures of layers or heads that the model does not have, before any computing."""
    from .plots.attention import chosen

    for noun, wanted in (("layer", settings.layers), ("head", settings.heads)):
        name = {"layer": "num_hidden_layers", "head": "num_attention_heads"}[noun]
        chosen(wanted, int(getattr(writer.bare.config, name, 0)), noun)


def _adapter(writer: LoadedModel, model: str) -> Any:
    """The block's model: with its adapter, or the base."""
    import contextlib

    return writer.base() if model == "base" else contextlib.nullcontext()
