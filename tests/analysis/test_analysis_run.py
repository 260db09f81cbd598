"""One explanation from the text to the files."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from writers import make_writer

from creativewritinggpt import api
from creativewritinggpt.analysis import run as analysis_run
from creativewritinggpt.analysis.methods.attention import NoAttention
from creativewritinggpt.analysis.methods.occlusion import leave_one_out
from creativewritinggpt.analysis.record import aggregate, text_summary
from creativewritinggpt.analysis.registry import METHODS, AnalysisSettings
from creativewritinggpt.analysis.report import folder_name, save
from creativewritinggpt.analysis.run import explain
from creativewritinggpt.analysis.subject import Target, read, tokens_of, with_targets
from creativewritinggpt.analysis.why import reasons, why
from creativewritinggpt.errors import InputError, RunError

TEXT = "The lamp went out, and the captain laughed. “Who is there?” she"


def settings(**values: Any) -> AnalysisSettings:
    return AnalysisSettings(**{"samples": 3, "steps": 8, **values})


@pytest.fixture
def writer(tiny_model: Any, tiny_tokenizer: Any) -> Any:
    return make_writer(tiny_model("gpt2"), tiny_tokenizer)


@pytest.fixture
def tuned(tiny_model: Any, tiny_tokenizer: Any) -> Any:
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    config = LoraConfig(
        r=2, target_modules=["c_attn"], fan_in_fan_out=True, init_lora_weights=False
    )
    made = make_writer(get_peft_model(tiny_model("gpt2"), config).eval(), tiny_tokenizer)
    made.has_adapter, made.adapter = True, "here"
    return made


def test_the_next_token_is_explained_by_every_method(writer: Any, tmp_path: Path) -> None:
    found = explain(writer, TEXT, settings())
    record = found.record
    assert not found.unfinished
    methods = {"integrated_gradients", "gradient_x_input", "saliency", "kl", "occlusion"}
    assert methods | {"probability_change", "rollout"} <= set(record["methods"])
    assert set(record["faithfulness"]) >= methods
    length = len(record["tokens"])
    assert len(record["gradient_scores"]) == len(record["perturbation_scores"]) == length
    assert max(record["gradient_scores"]) == 1.0 and min(record["gradient_scores"]) >= 0
    logits = writer.model(torch.tensor([found.subject.ids])).logits[0, -1].log_softmax(-1)
    assert record["target"]["id"] == int(logits.argmax())
    assert record["target"]["log_probability"] == pytest.approx(float(logits.max()), abs=1e-5)
    files = {path.name for path in save(found, tmp_path / "results", settings())}
    assert {
        "attention_layer00.png", "attention_layer01.png", "gradients.png", "perturbation.png",
        "results.json", "report.html",
    } <= files  # fmt: skip
    read = json.loads((tmp_path / "results" / "results.json").read_text("utf-8"))
    assert read["tokens"] == record["tokens"]
    assert read["gradients"]["convergence_delta"] == record["gradients"]["convergence_delta"]
    assert np.shape(read["attention"]["first_token_mass"]) == (2, 4)
    assert "rows" not in read["attention"]
    assert any("integrated gradients" in line for line in text_summary(found.record))


def test_what_the_model_writes_is_explained_token_by_token(writer: Any) -> None:
    found = explain(writer, TEXT, settings(write=4, methods=["gradients"]))
    positions = [target["position"] for target in found.record["targets"]]
    start = len(found.subject.ids) - 4
    assert positions == list(range(start, start + 4))
    text = found.record["text"]
    assert text.startswith(TEXT) and found.record["prompt_characters"] == len(TEXT)
    again = writer.tokenizer.decode(list(found.subject.ids[start:]))
    assert text == TEXT + again
    for target in found.record["targets"]:
        assert found.subject.ids[target["position"]] == target["id"]


def test_characters_of_several_tokens_have_one_span() -> None:
    from creativewritinggpt.generation.text import spans_of

    dragon = "🐉".encode()
    pieces = [b"a ", dragon[:1], dragon[1:3], dragon[3:], b"b"]
    assert spans_of(pieces, 10, 14) == [(10, 12), (12, 13), (12, 13), (12, 13), (13, 14)]
    assert spans_of([b"\xf0", b"ab"], 0, 3)[-1][1] == 3


def test_a_word_of_the_text_and_a_contrast(writer: Any) -> None:
    found = explain(writer, TEXT, settings(target="captain", methods=["gradients"]))
    spans = [found.subject.spans[t.position] for t in found.subject.targets]
    assert "".join(TEXT[a:b] for a, b in spans).strip() == "captain"
    contrast = settings(target="captain", contrast="king", methods=["gradients"])
    set_against = explain(writer, TEXT, contrast)
    against = set_against.record["target"]
    assert against["foil"] and against["foil"]["id"] != against["id"]
    assert (
        f"and not “{against['foil']['text'].strip()}”: probability"
        in text_summary(set_against.record)[1]
    )


@pytest.mark.parametrize(
    ("text", "values", "message"),
    [
        ("", {}, "no text"),
        ("  \t ", {}, "nothing but blanks"),
        (TEXT, {"target": "window"}, "'window' is not in the text"),
        (TEXT, {"target": "captain", "contrast": "captain"}, "same token"),
        (TEXT, {"write": 100}, "more than half"),
        (TEXT, {"layers": [7], "methods": ["attention"]}, "no layer 7"),
        (TEXT, {"heads": [4], "methods": ["attention"]}, "no head 4"),
    ],
)
def test_what_can_not_be_explained_is_said(
    text: str, values: dict[str, Any], message: str, writer: Any, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message):
        save(explain(writer, text, settings(**values)), tmp_path, settings(**values))


def test_weights_that_are_no_numbers_are_said(writer: Any) -> None:
    with torch.no_grad():
        writer.model.transformer.h[0].attn.c_attn.weight[0, 0] = float("nan")
    with pytest.raises((RunError, InputError)):
        explain(writer, TEXT, settings())


def test_pictures_of_an_earlier_run_do_not_stay_and_other_files_do(
    writer: Any, tmp_path: Path
) -> None:
    chosen = settings(methods=["occlusion"])
    mine = ["attention_notes.txt", "my_matrix.png", "summary.json"]
    old = [
        "gradients.png", "gradients.svg", "kl_matrix.png", "attention_layer07.png",
        "attention_without_sink_layer00.svg", "attention_overview.png", "faithfulness.png",
    ]  # fmt: skip
    for name in mine + old:
        (tmp_path / name).write_text("old")
    save(explain(writer, TEXT, chosen), tmp_path, chosen)
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {*mine, "results.json", "report.html"}


def test_what_has_nothing_to_compare_with_is_said(writer: Any) -> None:
    said: list[str] = []
    explain(writer, TEXT, settings(methods=["difference"]), warn=said.append)
    assert said == ["what fine-tuning changed can't be told: the model has no adapter"]


def test_a_folder_that_can_not_be_written_is_refused_before_anything_is_computed(
    tiny_model: Any, tiny_tokenizer: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    (tmp_path / "results").write_text("")
    monkeypatch.setattr(api, "explain", lambda *_: pytest.fail("it was explained first"))
    with pytest.raises(InputError, match="can't be written"):
        api.analyze(TEXT, tiny_model("gpt2"), tokenizer=tiny_tokenizer, folder=tmp_path / "results")


@pytest.mark.parametrize("drawn", [{"layers": [0, 9]}, {"heads": [4]}])
def test_a_layer_or_head_out_of_range_is_said_before_anything_is_computed(
    drawn: dict[str, Any], writer: Any, monkeypatch: Any
) -> None:
    monkeypatch.setattr(
        analysis_run, "select_targets", lambda *_: pytest.fail("the model was asked")
    )
    with pytest.raises(InputError, match="there is no"):
        explain(writer, TEXT, settings(**drawn))


def test_a_model_that_shows_no_attention_is_explained_without_it(
    writer: Any, monkeypatch: Any, tmp_path: Path
) -> None:
    def nothing(*_: Any) -> None:
        raise NoAttention("this model shows no attention", "take another")

    monkeypatch.setattr("creativewritinggpt.analysis.methods.attention.capture", nothing)
    said: list[str] = []
    found = explain(writer, TEXT, settings(), warn=said.append)
    assert any("shows no attention; the other methods" in line for line in said)
    methods = found.record["methods"]
    assert "kl" in methods and "occlusion" in methods and "rollout" not in methods
    assert (tmp_path / "report.html") in save(found, tmp_path, settings())
    with pytest.raises(InputError, match="shows no attention"):
        explain(writer, TEXT, settings(methods=["attention"]))


def test_one_token_is_explained_as_far_as_it_goes(writer: Any, tmp_path: Path) -> None:
    found = explain(writer, "T", settings())
    assert len(found.record["tokens"]) == 1
    save(found, tmp_path, settings())


def test_a_text_beyond_the_window_is_cut_and_said(writer: Any) -> None:
    said: list[str] = []
    found = explain(writer, "lamp " * 400, settings(methods=["gradients"]), warn=said.append)
    assert len(found.subject.ids) <= writer.context_length
    assert "longer than the model's window" in said[0]
    assert found.record["warnings"] == said and found.record["view_start"] > 0


def test_base_and_tuned_stand_beside_each_other(tuned: Any, tmp_path: Path) -> None:
    before = {name: value.clone() for name, value in tuned.model.named_parameters()}
    found = explain(tuned, TEXT, settings())
    methods = found.record["methods"]
    for name in ("integrated_gradients", "kl", "occlusion", "rollout"):
        assert set(methods[name]) == {"tuned", "base"}
        assert methods[name]["tuned"]["scores"] != methods[name]["base"]["scores"]
    assert found.record["targets"][0]["base"]["log_probability"] < 0
    assert found.record["difference"]["updates"]
    save(found, tmp_path, settings())
    for name, value in tuned.model.named_parameters():
        assert torch.equal(value, before[name]), name


def test_after_an_interruption_what_is_done_is_kept(
    writer: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("creativewritinggpt.analysis.methods.perturbation.perturb", interrupted)
    found = explain(writer, TEXT, settings())
    assert found.unfinished[0] == "perturbation" and set(found.unfinished) < set(METHODS)
    assert "integrated_gradients" in found.record["methods"]
    save(found, tmp_path, settings())
    assert json.loads((tmp_path / "results.json").read_text("utf-8"))["unfinished"]


def test_a_first_answer_comes_before_the_slow_methods(writer: Any) -> None:
    seen: list[set[str]] = []

    def first(record: dict[str, Any]) -> None:
        seen.append(set(record["methods"]))

    wanted = AnalysisSettings(methods=["gradients", "occlusion"], steps=4)
    found = explain(writer, TEXT, wanted, first=first)
    assert seen == [{"occlusion"}]
    assert "integrated_gradients" in found.record["methods"]
    # Nothing is said twice where no slower method follows.
    explain(writer, TEXT, AnalysisSettings(methods=["occlusion", "lens"]), first=first)
    assert len(seen) == 1


def test_the_same_seed_gives_the_same_record(writer: Any) -> None:
    def record() -> dict[str, Any]:
        found = explain(writer, TEXT, settings(write=3)).record
        return {key: value for key, value in found.items() if key not in ("created", "attention")}

    first, second = (json.dumps(record(), default=str, sort_keys=True) for _ in range(2))
    assert first == second


def test_why_answers_in_a_few_lines(writer: Any) -> None:
    answer = why(writer, TEXT, "captain")
    assert "had a probability of" in answer
    assert "in nats: what it loses" in answer or "None of the words" in answer
    assert "Nothing stands before it" in why(writer, "The lamp", "The")
    with pytest.raises(InputError, match="not in the text"):
        why(writer, TEXT, "window")


def test_why_names_the_words_without_which_it_loses_most(writer: Any) -> None:
    """The same as leaving out each of the last words of the context in fp32."""
    text = TEXT + " and the captain was gone for good"
    exact = writer.in_precision("fp32")
    subject = read(exact, text)
    place = tokens_of(subject, "good")[0]
    cut = dataclasses.replace(subject, ids=subject.ids[:place], spans=subject.spans[:place])
    cut = with_targets(cut, [Target(place, subject.ids[place])])
    found = leave_one_out(exact, cut, first=place - 6)
    units = [unit["text"].strip() for unit in found.settings["units"]]
    assert all(unit["tokens"][-1] >= place - 6 for unit in found.settings["units"])
    best = units[int(np.argmax(found.settings["unit_scores"][0]))]
    answer = why(writer, text, "good", view=6, least=0.0)
    assert f"for it: {best} +" in answer

    def score(ids: Sequence[int]) -> float:
        with torch.no_grad():
            logits = writer.model(torch.tensor([ids])).logits[0, -1].double()
        return float(logits.log_softmax(-1)[subject.ids[place]])

    # Whole passes, without keys and values kept: fp32 whatever the processor is fastest in.
    for unit in found.settings["units"]:
        ids = list(cut.ids)
        for token in unit["tokens"]:
            ids[token] = writer.eos_id
        change = score(cut.ids) - score(ids)
        assert f"{unit['text'].strip()} {change:+.2f}" in answer
    # A word longer than the view is left out whole.
    unbroken = "x" * 60
    assert f" {unbroken} " in why(writer, f"{unbroken} good", "good", view=6, least=0.0)


def _reason(*given: Any, **settings: Any) -> Any:
    steps = reasons(*given, **settings)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


def test_reasons_by_token_word_and_sentence_with_how_far_to_trust_them(writer: Any) -> None:
    text = "The lamp went out. The captain laughed at the sea and all of it was gone for good"
    at = text.index("good")
    words = _reason(writer, text, (at, at + 4), judge=True)
    assert words.target == why(writer, text, "good").split("'")[1]
    said = [piece.text.strip() for piece in words.pieces if piece.text.strip()]
    assert text[:at].split()[-len(said) :] == said and len(said) > 5
    for piece in words.pieces:
        assert text[slice(*piece.span)] == piece.text
    trust = words.trust
    assert trust.draws == 20 and 0 <= trust.beaten <= 20
    assert trust.summed == pytest.approx(sum(piece.score for piece in words.pieces))
    assert f"{trust.loss:.2f} nats" in trust.sentence
    assert trust.sentence.startswith("Better" if trust.beaten >= 19 else "No better")

    def loss(pieces: Any) -> float:
        """Of whole passes, without keys and values kept."""
        ids = [0, *writer.tokenizer(text[:at])["input_ids"]]
        wanted = read(writer, text).ids[len(ids)]
        scores = []
        for replaced in ([], [token for piece in pieces for token in piece.tokens]):
            some = [writer.eos_id if i in replaced else token for i, token in enumerate(ids)]
            with torch.no_grad():
                logits = writer.model(torch.tensor([some])).logits[0, -1].double()
            scores.append(float(logits.log_softmax(-1)[wanted]))
        return scores[0] - scores[1]

    assert trust.whole == pytest.approx(loss(words.pieces), abs=1e-3)
    ranked = sorted(words.pieces, key=lambda piece: -piece.score)[: trust.pieces]
    assert trust.loss == pytest.approx(loss(ranked), abs=1e-3)
    sentences = _reason(writer, text, (at, at + 4), unit="sentence", judge=True)
    assert [piece.text.strip()[:8] for piece in sentences.pieces][:2] == ["The lamp", "The capt"]
    assert "Too little" in sentences.trust.sentence
    assert sentences.pieces[0].score == pytest.approx(loss(sentences.pieces[:1]), abs=1e-3)
    tokens = _reason(writer, text, (at, at + 4), unit="token")
    assert all(len(piece.tokens) == 1 for piece in tokens.pieces)


def test_several_words_are_explained_by_all_their_tokens(writer: Any) -> None:
    text = "The lamp went out and the captain laughed"
    at = text.index("captain")
    reason = _reason(writer, text, (at, len(text)))
    assert reason.target == "captain laughed"
    assert all(piece.span[1] <= at for piece in reason.pieces)
    subject = read(writer, text)
    places = [*tokens_of(subject, "captain"), *tokens_of(subject, "laughed")]
    with torch.no_grad():
        logits = writer.model(torch.tensor([subject.ids])).logits[0].double().log_softmax(-1)
    total = sum(float(logits[place - 1, subject.ids[place]]) for place in places)
    assert reason.probability == pytest.approx(np.exp(total), rel=1e-3)
    with pytest.raises(InputError):
        _reason(writer, text, (len(text), len(text)))
    with pytest.raises(InputError, match="too many for a quick answer"):
        _reason(writer, TEXT * 2, (0, 2 * len(TEXT)))


def test_several_texts_have_folders_and_means(writer: Any) -> None:
    assert folder_name(1, "The enchanted castle held secrets that")[:12] == "01-the-encha"
    assert folder_name(2, "🐉") == "02"
    records = [explain(writer, t, settings()).record for t in (TEXT, TEXT + " asked")]
    means = aggregate(records)
    both = [r["target"]["log_probability"] for r in records]
    assert means["log_probability"]["mean"] == pytest.approx(np.mean(both))
    assert means["log_probability"]["texts"] == 2
    assert means["first_token_mass"]["standard_error"] is not None


@pytest.mark.parametrize(
    ("family", "tuned"), [("gpt2", False), ("llama", False), ("qwen", False), ("llama", True)]
)
def test_a_model_in_memory_is_explained(
    family: str, tuned: bool, tiny_model: Any, tiny_tokenizer: Any, tmp_path: Path
) -> None:
    model = tiny_model(family)
    if tuned:
        from peft import LoraConfig, get_peft_model

        torch.manual_seed(0)
        config = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
        model = get_peft_model(model, config)
    found = api.analyze(
        TEXT, model, tokenizer=tiny_tokenizer, folder=tmp_path, samples=2, steps=4
    ).record
    assert found["model"] and (tmp_path / "report.html").is_file()
    assert set(found["faithfulness"]) >= {"integrated_gradients", "kl", "occlusion"}
    for scores in found["methods"].values():
        assert set(scores) == ({"tuned", "base"} if tuned else {"tuned"})
    assert ("difference" in found) == tuned


def test_a_model_in_memory_needs_its_tokenizer(tiny_model: Any) -> None:
    with pytest.raises(InputError, match="needs its tokenizer"):
        api.analyze(TEXT, tiny_model("llama"))
