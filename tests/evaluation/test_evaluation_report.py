"""What is written and shown: texts beside people's, keys, tables, the page."""

import dataclasses
import json
import re

import pytest
from writers import make_writer

from creativewritinggpt.cli.main import main
from creativewritinggpt.config.run import Config
from creativewritinggpt.data.document import Document
from creativewritinggpt.errors import InputError, RunError
from creativewritinggpt.evaluation import report, svg, tasks
from creativewritinggpt.evaluation.material import Material, held_out
from creativewritinggpt.evaluation.perplexity import forgetting
from creativewritinggpt.evaluation.report import read_earlier, write_report, write_scores
from creativewritinggpt.evaluation.run import base_and_tuned, named, run
from creativewritinggpt.evaluation.scoring import DocumentScore
from creativewritinggpt.evaluation.settings import EvaluationSettings
from creativewritinggpt.evaluation.tables import loss_table
from creativewritinggpt.evaluation.texts import (
    GeneratedText,
    Prompt,
    choose_documents,
    decoding,
    prompts_of,
    text_figures,
)
from creativewritinggpt.files import write_text
from creativewritinggpt.models.adapter import attach

TEXT = "The captain laughed at the sea, and nobody answered. Anna slept. "


def test_prompts_are_the_documents_own_or_their_first_words():
    documents = [
        Document("a", "1", "Story here.", prompt="A prompt"),
        Document("b", "2", " ".join(f"w{i}" for i in range(100))),
        Document("b", "3", "too short"),
        Document("b", "4", "one two three four five six seven eight"),
    ]
    found = {prompt.text: prompt.human for prompt in prompts_of(documents, 9, seed=0)}
    assert found["A prompt\n\n"] == "Story here."
    assert found["one two three four"] == " five six seven eight"
    [long] = [text for text in found if text.startswith("w0")]
    assert len(long.split()) == 40 and len(found) == 3


def test_documents_are_chosen_evenly_and_whatever_their_order():
    documents = [Document("a", str(i), f"a{i}") for i in range(20)]
    documents += [Document("b", str(i), f"b{i}") for i in range(3)]
    chosen = choose_documents(documents, 8, seed=1)
    assert chosen == choose_documents(documents[::-1], 8, seed=1)
    assert [d.source for d in chosen].count("b") == 3 and len(chosen) == 8


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("greedy", {"temperature": 0.0, "top_p": 1.0, "repetition_penalty": 1.0}),
        ("top_p=0.9, temperature=0.8", {"temperature": 0.8, "top_p": 0.9, "top_k": 0}),
        ("top_k=40", {"temperature": 1.0, "top_k": 40, "repetition_penalty": 1.0}),
    ],
)
def test_a_way_of_decoding_is_plain_sampling_but_for_what_it_says(text, wanted):
    found = decoding(text).to_dict()
    assert {name: found[name] for name in wanted} == wanted


@pytest.mark.parametrize("text", ["greed", "top_q=1", "top_p=2"])
def test_an_unknown_way_of_decoding_is_refused(text):
    with pytest.raises(InputError):
        decoding(text)


def test_figures_of_texts_are_on_the_same_number_of_words():
    prompts = [Prompt("a", "Then Anna met Bo.", "")] * 2
    rows = {
        "human": [
            GeneratedText("a b c d", [1, 2, 3, 4], True),
            GeneratedText("x x x", [9, 9, 9], False),
        ],
        "tuned": [
            GeneratedText("a b", [1, 2], False),
            GeneratedText("Anna. Anna. y y", [5, 5, 6, 6], False),
        ],
    }
    found = text_figures(rows, prompts)
    assert found["human"]["compared_words"] == found["tuned"]["compared_words"] == 5
    assert found["human"]["distinct_1"] == pytest.approx(3 / 5)  # a b x x x
    assert found["tuned"]["distinct_1"] == pytest.approx(4 / 5)  # a b anna anna y
    assert found["human"]["end_of_text_rate"] == 0.5
    assert found["tuned"]["rep_2"] == 0 and found["human"]["rep_2"] == pytest.approx(100 * 1 / 5)
    assert found["tuned"]["prompt_names_used"] == pytest.approx(0.25)


def test_forgetting_is_the_mean_of_the_domains_relative_changes():
    def scores(domain, *nlls):
        return [DocumentScore(domain, str(i), n, 0, 10, 5, 30, digest=f"{domain}{i}")
                for i, n in enumerate(nlls)]  # fmt: skip

    found = forgetting({
        "base": scores("a", 10, 30) + scores("b", 100, 100),
        "tuned": scores("a", 11, 33) + scores("b", 100, 90),
    })  # fmt: skip
    assert found["relative"]["tuned"]["mean"] == pytest.approx((0.1 - 0.05) / 2)
    low, high = found["relative"]["tuned"]["ci95"]
    assert low <= 0.025 <= high
    assert set(found["domains"]) == {"a", "b"}


@pytest.fixture(scope="module")
def whole(tiny_model, tiny_tokenizer, tmp_path_factory):
    """An evaluation with everything in it, of a model with an adapter."""
    writer = make_writer(tiny_model("llama"), tiny_tokenizer)
    attach(writer, Config(lora_dropout=0.0))
    documents = [
        Document("tales", f"g{i}", TEXT * (2 + i % 3) + str(i), prompt=f"[WP] Anna <{i}> & Bo")
        for i in range(12)
    ]
    documents += [Document("news", f"n{i}", TEXT * 3 + f"no {i}") for i in range(3)]
    others = [Document("verse", f"v{i}", TEXT + f"yes {i}") for i in range(3)]
    settings = EvaluationSettings(texts=3, text_tokens=12, rank=3, order=3, stride=64)
    material = Material(documents, others, without={"originality": "there is no text"})
    found = run(base_and_tuned(writer), material, settings)
    folder = tmp_path_factory.mktemp("whole")
    write_report(found, folder)
    return found, folder


def test_report_has_everything_in_every_form(whole):
    found, folder = whole
    result = found.result
    assert list(result["generation"]["figures"]) == list(result["decoding"]) == [
        "greedy; 12 tokens; 3 texts; seed 42", "top_p=0.9; 12 tokens; 3 texts; seed 42",
    ]  # fmt: skip
    for figures in result["generation"]["figures"].values():
        assert set(figures) == {"human", "base", "tuned"}
    assert result["originality"] is None
    # An adapter that was just attached changes nothing.
    assert result["forgetting"]["relative"]["tuned"] == {"mean": 0, "ci95": [0, 0]}
    assert result["tests"]["prompt_ranking"]["gain"]["tuned"]["accuracy"] == 0
    markdown = (folder / "evaluation.md").read_text("utf-8")
    for part in ("| tales |", "| mean of domains |", "## Forgetting", "## Tests", "seq-rep-4",
                 "Originality was not measured: there is no text."):  # fmt: skip
        assert part in markdown
    shown = (folder / "evaluation.html").read_text("utf-8")
    assert not re.search(r"https?:|<script|<link|src=", shown)
    assert shown.count("<svg") == 4 and re.search(r"prefers-color-scheme: *dark", shown)
    assert "Anna &lt;" in shown and "Anna <" not in shown
    assert shown.count("<circle") == 15 + 1
    assert (folder / "evaluation_texts.jsonl").read_text("utf-8").count("\n") == 6
    assert (folder / "evaluation.jsonl").read_text("utf-8").count("\n") == 15


def test_a_task_that_fails_costs_nothing_that_is_measured(
    tiny_folder, tmp_path, monkeypatch, capsys
):
    def failing(*_, **__):
        raise RunError("the tasks could not be run")

    monkeypatch.setattr(tasks, "require_lm_eval", lambda: None)
    monkeypatch.setattr(tasks, "run_tasks", failing)
    (tmp_path / "text.txt").write_text(TEXT * 9)
    words = ["evaluate", tmp_path / "text.txt", "--model", tiny_folder("gpt2"), "--tasks=far",
             "--texts=0", "--device=cpu", f"--output-dir={tmp_path / 'kept'}"]  # fmt: skip
    assert main(list(map(str, words))) == RunError.exit_code
    assert "the tasks could not be run" in capsys.readouterr().err
    assert (tmp_path / "kept" / "evaluation.json").is_file()


def test_a_folder_that_cannot_be_written_to_is_refused_before_anything_is_read(tmp_path, capsys):
    (tmp_path / "mine").write_text("text")
    assert main(["evaluate", "missing.txt", f"--output-dir={tmp_path / 'mine'}"]) == 2
    assert "can't be written" in capsys.readouterr().err


def test_evaluations_in_folders_of_one_name_are_told_apart(tmp_path):
    scores = {"tuned": [DocumentScore("a", "g", 3.0, 0, 5, 1, 9)]}
    files = [tmp_path / name / "outputs" / "evaluation.jsonl" for name in ("one", "two")]
    for file in files:
        write_scores(file, scores)
    assert list(read_earlier(files)) == [
        "outputs:tuned", f"{files[1].parent}:tuned",
    ]  # fmt: skip
    with pytest.raises(InputError, match="named twice"):
        read_earlier([files[0], *files, files[1]])


def test_long_names_are_cut_in_pictures_and_whole_in_their_titles():
    name = "a_domain_with_an_exceedingly_long_name_7"
    picture = svg.bars([svg.Bar(name, 0, 1.0, None, "one")], "bits")
    assert f"<title>{name}</title>" in picture and "_long_name_7<" in picture
    assert max(map(len, re.findall(r">([^<>]+)</text>", picture))) <= 22


def test_points_of_all_domains_are_shown_where_there_are_too_many(whole, monkeypatch):
    monkeypatch.setattr(report, "MOST_POINTS", 5)
    shown = report.page(whole[0])
    scatter = shown[shown.index("By document") :]
    assert "news: " in scatter[: scatter.index("</svg>")]
    assert "5 of 15 documents" in shown


def test_any_number_of_models_are_loaded_one_at_a_time(tiny_model, tiny_tokenizer):
    loaded = []

    def load(name):
        loaded.append(name)
        return make_writer(tiny_model("gpt2", seed=len(loaded)), tiny_tokenizer)

    documents = [Document("tales", str(i), TEXT * (i + 1)) for i in range(4)]
    settings = EvaluationSettings(texts=0)
    found = run(named(["a", "b", "c"], load), Material(documents), settings).result
    assert loaded == ["a", "b", "c"]
    assert list(found["domains"]["tales"]["differences"]) == ["b", "c"]
    heads, [row] = loss_table(found)
    assert len(heads) == len(row) == 3 + 2 + 4 + 4
    with pytest.raises(InputError, match="named twice"):
        named(["a", "a"], load)


def test_held_out_documents_may_hold_line_ends_of_any_kind_and_damage_is_said(tmp_path):
    kept = Document("tales\u2028\x85", "One\x1cTwo", "The lamp\u2028went out.")
    path = tmp_path / "validation.jsonl"
    write_text(path, json.dumps(dataclasses.asdict(kept), ensure_ascii=False) + "\n")
    config = Config(output_dir=str(tmp_path))
    assert held_out([], config) == [kept]
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(InputError, match="validation.jsonl is damaged"):
        held_out([], config)
