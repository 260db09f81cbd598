"""The index finds what a search by hand finds; a model that copies is caught."""

import json

import pytest
import torch
from corpora import write_stories
from hypothesis import given, settings
from hypothesis import strategies as st
from writers import make_writer

from creativewritinggpt.config.run import Config
from creativewritinggpt.data.document import Document
from creativewritinggpt.errors import InputError
from creativewritinggpt.evaluation.material import Material, other_domains, training_index
from creativewritinggpt.evaluation.metrics import word_spans, words_of
from creativewritinggpt.evaluation.originality import (
    CorpusIndex,
    build_index,
    check,
    originality,
    shared_runs,
)
from creativewritinggpt.evaluation.run import base_and_tuned, run
from creativewritinggpt.evaluation.settings import EvaluationSettings
from creativewritinggpt.training.run import train

LINE = "The lamp went out, and the captain laughed. Nobody answered; only the sea turned over."


def _index(folder, *texts):
    documents = [Document("tales", str(i), text, title=f"T{i}") for i, text in enumerate(texts)]
    build_index(folder / "index", documents)
    return CorpusIndex(folder / "index")


def _longest(words, corpus):
    joined = [f" {' '.join(text)} " for text in corpus]
    best = 0
    for start in range(len(words)):
        while start + best < len(words) and any(
            f" {' '.join(words[start : start + best + 1])} " in text for text in joined
        ):
            best += 1
    return best


WORDS = st.lists(st.sampled_from("a b c".split()), max_size=30)  # noqa: SIM905


@settings(deadline=None, max_examples=60)
@given(corpus=st.lists(WORDS, max_size=6), text=WORDS, strange=st.booleans())
def test_longest_run_is_that_of_a_search_by_hand(tmp_path_factory, corpus, text, strange):
    folder = tmp_path_factory.mktemp("index")
    index = _index(folder, *(" ".join(words) for words in corpus))
    text = [*text, "z", *text[:4]] if strange else text
    match = index.longest_match(text)
    assert (match.words if match else 0) == _longest(text, corpus)
    if match:
        place = match.place - index.starts[match.document]
        own = text[match.start : match.start + match.words]
        assert corpus[match.document][place : place + match.words] == own
        assert index.passage(match)[1] == " ".join(own)
    grams = [" ".join(text[i : i + 8]) for i in range(len(text) - 7)]
    joined = [f" {' '.join(words)} " for words in corpus]
    found = [any(f" {gram} " in text for text in joined) for gram in grams]
    share = check(index, " ".join(text))["share_of_8grams"]
    assert share == (pytest.approx(sum(found) / len(found)) if found else None)


def test_a_copied_passage_is_shown_with_its_document_and_what_stands_around_it(tmp_path):
    index = _index(tmp_path, "A grey morning.", f"It was late. {LINE} Then she slept.")
    found = check(index, "He said THE LAMP went out and, the captain laughed; nobody knew")
    assert found["longest_run"] == 9
    assert found["passage"] == "the lamp went out and the captain laughed nobody"
    assert (found["document"]["title"], found["document"]["number"]) == ("T1", 1)
    assert found["context"][0] == "it was late" and found["context"][1].startswith("answered only")
    assert found["share_of_8grams"] == pytest.approx(2 / 5)
    rows = originality(index, {"human": ["grey cats"], "tuned": [LINE, "morning"]})
    assert rows["human"]["longest_run_max"] == 1 and rows["tuned"]["longest_run_max"] == 15
    assert rows["tuned"]["longest_run_mean"] == 8 and rows["tuned"]["share_of_8grams"] == 1
    assert rows["human"]["share_of_8grams"] is None and rows["human"]["longest"] == []


def test_a_copy_that_begins_with_a_phrase_of_hundreds_of_documents_is_found_whole(tmp_path):
    common = "once upon a time there was a king who had no patience"
    own = "and his lamp went out over the sea while nobody answered him"
    index = _index(tmp_path, *[f"{common} w{i}" for i in range(300)], f"{common} {own}")
    match = index.longest_match(f"then {common} {own} again".split())
    assert match is not None and (match.start, match.words) == (1, 24)
    assert index.passage(match)[1] == f"{common} {own}"
    assert index.longest_match(common.split()).words == 12


def test_a_damaged_index_is_refused(tmp_path):
    _index(tmp_path, LINE)
    (tmp_path / "index" / "places.npy").write_bytes(b"no")
    with pytest.raises(InputError, match="no index"):
        CorpusIndex(tmp_path / "index")


def test_a_model_trained_until_it_copies_is_caught(tiny_model, tiny_tokenizer, tmp_path):
    tale = f"{LINE} Then somebody lit the lamp again, and the sea was quiet."
    index = _index(tmp_path, tale)
    model = tiny_model("gpt2")
    ids = torch.tensor([[0, *tiny_tokenizer(tale)["input_ids"], 0]])
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(120):
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert loss.item() < 0.1
    # It begins as the tale, and a person went on otherwise: half of the words are the prompt.
    beginning, other = " ".join(LINE.split()[:8]), "A king had three daughters and no patience."
    held_out = [Document("tales", "h", f"{beginning} {other}")]
    chosen = EvaluationSettings(texts=1, decoding=["greedy"], text_tokens=60)
    writers = base_and_tuned(make_writer(model.eval(), tiny_tokenizer))
    found = run(writers, Material(held_out, index=index), chosen).result
    [rows] = found["originality"].values()
    human, [key] = rows["human"], found["decoding"]
    assert key == "greedy; 60 tokens; 1 texts; seed 42"
    assert rows["base"]["longest_run_max"] >= 8 > 2 * human["longest_run_max"]
    assert rows["base"]["share_of_8grams"] > 0.5 > human["share_of_8grams"] == 0


def test_the_training_text_is_made_again_or_its_loss_is_said(tiny_folder, tmp_path):
    stories = write_stories(tmp_path / "stories.jsonl", 30)
    config = Config(
        model_name=str(tiny_folder("gpt2")), output_dir=str(tmp_path / "out"), max_steps=1,
        max_length=48, device="cpu", precision="fp32", num_workers=1,
    )  # fmt: skip
    train(config, [str(stories)])
    model = str(tmp_path / "out" / "best_model")
    first = json.loads(stories.read_text("utf-8").splitlines()[0])
    index, why = training_index(model, config)
    assert why is None and len(index.documents) == 27
    assert check(index, first["story"])["share_of_8grams"] in (0.0, 1.0)
    # The index is kept: the text is no longer needed.
    stories.rename(tmp_path / "gone.jsonl")
    assert training_index(model, config)[0] is not None
    elsewhere = Config(cache_dir=str(tmp_path / "other-cache"))
    index, why = training_index(model, elsewhere)
    assert index is None and "can't be read again" in why and "stories.jsonl" in why
    write_stories(stories, 30, seed=9)
    assert training_index(model, elsewhere) == (
        None, "the training text has changed since the training"
    )  # fmt: skip
    assert training_index("starter", config) == (
        None, "there is no record of the training of starter"
    )  # fmt: skip
    # Domains of the sample corpus show what was forgotten, as long as they were not trained on.
    held_out = [Document("wikitext", "g", "text")]
    others, why = other_domains(None, [model], held_out, config)
    assert why is None
    assert {d.source for d in others} == {"writingprompts", "rocstories", "openwebtext"}
    assert other_domains(None, ["starter"], held_out, config)[1].startswith("no model here")
    few, _ = other_domains(None, [model], held_out, config, 100)
    assert 0 < len(few) < len(others) and {d.source for d in few} == {d.source for d in others}
    assert other_domains(None, [model], held_out, config, 0) == ([], "it was switched off")


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.integers(0, 3), min_size=0, max_size=60),
    st.lists(st.integers(0, 3), min_size=0, max_size=60),
)
def test_shared_runs_are_those_of_a_search_by_hand(tmp_path_factory, corpus, text):
    names = ["Ship", "sea", "lamp", "king"]
    index = _index(tmp_path_factory.mktemp("index"), " ".join(names[n] for n in corpus))
    written = "… ".join(names[n] for n in text)
    covered = set()
    for found in shared_runs(index, written):
        words = words_of(written[found["start"] : found["end"]])
        assert len(words) == found["words"] >= 8
        assert " ".join(words) in " ".join(names[n].lower() for n in corpus)
        first = len(words_of(written[: found["start"]]))
        covered |= set(range(first, first + found["words"]))
    wanted = {
        at + place
        for at in range(len(text) - 7)
        if any(text[at : at + 8] == corpus[j : j + 8] for j in range(len(corpus) - 7))
        for place in range(8)
    }
    assert covered == wanted


@given(st.text(alphabet="aé'’ .,1_漢字かなß🐙\n", max_size=40))
def test_places_of_words_are_where_they_are_written(text):
    spans = word_spans(text)
    assert [word for word, _, _ in spans] == words_of(text)
    for word, start, end in spans:
        assert text[start:end].casefold().replace("’", "'") == word


def test_titles_may_hold_line_ends_of_any_kind_and_a_damaged_index_is_said(tmp_path):
    """U+2028 and U+0085 stand as they are in JSON, and end lines in Python."""
    title = "One\u2028Two\x85Three"
    build_index(tmp_path / "index", [Document("tales\u2028", "1", LINE, title=title)])
    assert CorpusIndex(tmp_path / "index").documents[0]["title"] == title
    (tmp_path / "index" / "documents.jsonl").write_text('{"source": "ta')
    with pytest.raises(InputError, match="holds no index"):
        CorpusIndex(tmp_path / "index")
