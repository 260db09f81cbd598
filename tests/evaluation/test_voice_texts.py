"""Habits of style by hand, prompts and texts of a measurement, and the whole on a tiny model."""

import json
import re

import pytest
from voices import chapters, style, text_of

from creativewritinggpt.cli.main import main
from creativewritinggpt.data.document import Document
from creativewritinggpt.errors import InputError
from creativewritinggpt.evaluation.settings import EvaluationSettings
from creativewritinggpt.evaluation.stylometry import Sample
from creativewritinggpt.evaluation.voice import VoiceTexts
from creativewritinggpt.evaluation.voice_page import (
    check_table,
    habit_picture,
    habit_sentences,
    main_table,
    scale_picture,
    summary,
)
from creativewritinggpt.evaluation.voice_profile import (
    habits,
    moving_type_token_ratio,
    passages,
    profile,
)
from creativewritinggpt.evaluation.voice_texts import (
    VoiceSamples,
    checked,
    copied,
    human_figures,
    sampling,
    starts,
    voice_texts,
)

TEXT = (
    "“I can't go,” said Mira; she was waiting. “Why?” Very slowly, he answered—and went out!\n\n"
    "He was not there... The door (a blue one) had never been locked."
)
OTHERS = {f"other {n}": chapters(100 + n, 4) for n in range(4)}
SETTINGS = EvaluationSettings(texts=1, text_tokens=8, decoding=["top_p=0.9"], voice_words=2000)


def _by_label(text):
    found = habits(text, ["the", "he"], frozenset({"the", "he", "was"}))
    return {habit.label: value for habit, value in found.items()}


def test_habits_by_hand():
    found = _by_label(TEXT)
    words = 29
    assert found["commas"] == pytest.approx(2 * 1000 / words)
    assert found["dashes"] == found["ellipses"] == found["brackets"]
    assert found["dashes"] == pytest.approx(1000 / words)
    assert found["exclamation marks"] == found["semicolons"] == found["question marks"]
    assert found["words within quotation marks"] == pytest.approx(100 * 4 / words)
    assert found["negations (not, never, no …)"] == pytest.approx(3 * 1000 / words)
    assert found["contractions (don't, I'll …)"] == pytest.approx(1000 / words)
    assert found["adverbs in -ly"] == pytest.approx(1000 / words)
    assert found["was or were with -ing"] == pytest.approx(1000 / words)
    assert found["“said”"] == pytest.approx(1000 / words)
    assert found["“he”"] == pytest.approx(2 * 1000 / words)
    assert found["he, him, his"] == found["“he”"]
    assert found["past among forms of be, have, do, say, go"] == 100
    assert "different words among 500" not in found


def test_the_shape_of_quotes_and_dashes_is_no_habit():
    plain = TEXT.translate(str.maketrans("“”", '""')).replace("—", "--").replace("...", "…")
    assert _by_label(plain) == _by_label(TEXT)


def test_shuffled_words_keep_their_rates_and_lose_their_sentences():
    text = text_of(style(1), 4000, 3)
    words = text.replace(".", "").split()
    shuffled = " ".join(sorted(words, key=hash)) + "."
    first, second = _by_label(text), _by_label(shuffled)
    assert first["“the”"] == second["“the”"]
    assert second["words in a sentence"] > 10 * first["words in a sentence"]


def test_different_words_in_a_window_by_hand():
    assert moving_type_token_ratio(["a", "b", "a", "c"], 3) == pytest.approx((2 + 3) / 2 / 3)
    assert moving_type_token_ratio(["a"], 3) is None


def test_passages_are_heaps_of_excerpts_of_one_length():
    found = passages(chapters(1, 4), 100, 800)
    assert len(found) == 4
    for text in found:
        assert 800 <= len(text.split()) < 1000
        parts = text.split("\n\n")
        assert len(parts) == 8
        assert all(part.endswith(".") for part in parts)


def test_an_authors_own_text_is_inside_the_range_and_another_is_not():
    author = chapters(1, 20)
    generated = {
        label: [text_of(style(seed), 130, (seed, n, 9)) for n in range(20)]
        for label, seed in (("other", 300), ("own", 1))
    }
    found = profile(author, OTHERS, generated)
    assert found["inside"]["own"] > 0.7
    assert found["inside"]["other"] < found["inside"]["own"] - 0.15
    furthest = found["rows"][0]["models"]
    assert abs(furthest["own"]["z"]) >= abs(found["rows"][-1]["models"]["own"]["z"])


def test_a_text_that_is_not_english_has_no_rows_of_english_words():
    text = "Быть или не быть, вот в чём вопрос. Достойно ли смиряться под ударами судьбы! "
    author = [Document("a", "a", text * 30) for _ in range(8)]
    found = profile(author, {"b": author}, {"x": [text * 3]})
    assert not found["english"]
    assert not any("“" in row["label"] or "-ly" in row["label"] for row in found["rows"])
    assert profile([Document("a", "a", text)], {"b": author}, {"x": ["слово. "]}) is None


def test_prompts_are_forty_words_at_paragraphs_all_over_the_chapters():
    documents = [
        Document("a", "a", "\n\n".join(f"{name} {n} {'word ' * 60}." for n in range(50)))
        for name in ("One", "Two")
    ]
    found = starts(documents, 20)
    assert len(found) == len(set(found)) == 20
    assert all(len(text.split()) == 40 for text in found)
    assert sum(text.startswith("One") for text in found) == 10
    assert starts([Document("a", "a", "too short")], 20) == []
    # One paragraph alone: prompts begin at sentences.
    assert len(starts([Document("a", "a", text_of(style(1), 3000, 1))], 20)) == 20


def test_chapters_that_were_trained_on_are_parted_from_those_held_out():
    documents = chapters(1, 6)
    known = {document.digest for document in documents[:4]}
    found = voice_texts(documents, (), known, set(), None, OTHERS, "files")
    assert (len(found.held_out), len(found.training), found.author) == (2, 4, "author")
    with pytest.raises(InputError, match="trained on all texts"):
        voice_texts(documents[:4], (), known, set(), None, OTHERS, "files")


def test_greedy_decoding_alone_is_refused():
    with pytest.raises(InputError, match="greedy"):
        sampling(EvaluationSettings(decoding=["greedy"]))
    key, chosen = sampling(EvaluationSettings(decoding=["greedy", "temperature=0.7"]))
    assert key.startswith("temperature=0.7; 200 tokens")
    assert chosen.temperature == 0.7


def test_copied_and_repeated_passages_are_counted():
    author = chapters(1, 2)
    passage = " ".join(author[0].text.split()[100:160])
    found = copied(author, {"x": [passage, passage], "y": [text_of(style(5), 60, 4)]})
    assert found["x"]["share_of_8grams"] == 1.0
    assert found["x"]["longest_run_max"] >= 58
    assert found["x"]["repeated_8grams"] == pytest.approx(0.5)
    assert found["y"]["share_of_8grams"] < 0.1


def test_too_short_chapters_are_refused_before_anything_is_written():
    short = VoiceTexts("a", [Document("a", "a", "Only a line.")], OTHERS)
    with pytest.raises(InputError, match="no voice can be told"):
        checked(short, 2000)
    lines = [Document("a", "a", text_of(style(1), 11, n)) for n in range(500)]
    with pytest.raises(InputError, match="40 words to go on from"):
        checked(VoiceTexts("a", lines, OTHERS), 2000)


TEXTS = VoiceTexts("author", chapters(1, 6), OTHERS, chapters(1, 6, first=50))


def _written(**models):
    """A measurement in which models wrote these texts."""
    samples = VoiceSamples(TEXTS, SETTINGS)
    for label, texts in models.items():
        samples.samples[label] = [Sample(n, text) for n, text in enumerate(texts)]
        samples.tokens[label] = [list(map(hash, text.split())) for text in texts]
    return samples


def test_copies_have_a_high_voice_and_are_found_out():
    other = [text_of(style(77), 150, (n, 3)) for n in range(20)]
    copies = [
        " ".join(d.text.split()[k : k + 160]) for d in TEXTS.training for k in (100, 300, 500)
    ]
    samples = _written(base=other, tuned=copies)
    found = samples.figures()
    assert found["voice"]["tuned"]["value"] > 0.8
    assert found["copied"]["tuned"]["share_of_8grams"] == 1.0
    assert found["copied"]["base"]["share_of_8grams"] < 0.1
    assert found["prompts"] == 30
    assert found["repetition"]["base"]["loop_rate"] == 0
    assert len(samples.lines()) == 30
    assert json.loads(json.dumps(found)) == found
    heads, rows = main_table(found)
    assert rows[0][0] == "author, other chapters"
    by_name = {row[0]: dict(zip(heads, row, strict=True)) for row in rows}
    assert by_name["tuned"]["copied"] == "100.0%"
    assert by_name["tuned"]["verdict"] == "author"
    assert "without texts that loop" not in [row[0] for row in check_table(found)[1]]
    for picture in (scale_picture(found), habit_picture(found)):
        assert picture.startswith("<svg")
        assert not re.search(r"nan|inf\b", picture)
    assert "base" in habit_picture(found)
    for said in habit_sentences(found):
        assert "than the author's" in said
    assert found["sentence"] in summary(found)[0]


def test_without_a_scale_the_picture_is_of_distances():
    two = dict(list(OTHERS.items())[:2])
    texts = VoiceTexts("author", TEXTS.held_out, two, TEXTS.training)
    found = human_figures(texts, 2000)
    assert found["voice"] is None
    assert "nothing in common" in scale_picture(found)
    assert check_table(found) == ([], [])
    assert "others" in found["profile"]["inside"]


def test_a_model_that_writes_hardly_anything_is_said():
    samples = _written(base=["It was the sea.", "Nothing else."])
    with pytest.raises(InputError, match="base has text for pools of 6 words"):
        samples.figures()


@pytest.mark.slow
def test_voice_of_a_model_tuned_on_one_author_through_the_command(
    tiny_folder, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    for name, seed in (("novel", 1), ("b", 101), ("c", 102), ("d", 103)):
        parts = [
            f"CHAPTER {n + 1}\n\n"
            + text_of(style(seed), 1200, (seed, n)).replace(". It", ".\n\nIt")
            for n in range(24)
        ]
        (tmp_path / f"{name}.txt").write_text("\n\n\n".join(parts))
    fast = ["--device", "cpu", "--precision", "fp32", "--num-workers", "1"]
    assert main(["train", "novel.txt", "--model-name", str(tiny_folder("llama")), "--max-steps",
                 "2", "--max-length", "48", *fast]) == 0  # fmt: skip
    few = ["--texts", "1", "--text-tokens", "8", "--voice-words", "2000"]
    others = ["--others", "b.txt", "c.txt", "d.txt"]
    capsys.readouterr()
    assert main(["evaluate", "--json", *few, *others, *fast]) == 0
    said = capsys.readouterr()
    voice = json.loads(said.out)["voice"]
    assert voice["author"] == "novel"
    assert set(voice["distances"]) == {"author", "others", "base", "tuned"}
    assert set(voice["others"]) == {"b", "c", "d"}
    assert voice["sentence"] in said.err
    card = (tmp_path / "outputs" / "best_model" / "README.md").read_text()
    assert card.count("## Voice") == 1
    assert voice["sentence"] in card
    shown = (tmp_path / "outputs" / "evaluation.html").read_text()
    assert "What differs" in shown
    assert voice["sentence"].partition(" (")[0] in shown
    assert "## Voice: what differs" in (tmp_path / "outputs" / "evaluation.md").read_text()
    lines = (tmp_path / "outputs" / "evaluation_texts.jsonl").read_text().splitlines()
    assert sum(json.loads(line)["decoding"].startswith("voice: ") for line in lines) == 30
    assert voice["bits_per_byte"]["tuned"] > 0
    assert card.index("## Results") < card.index("## Voice") < card.index("## Data")
    # Asked for by files: the chapters that were trained on are told by their hashes.
    assert main(["evaluate", "--json", "--voice", "novel.txt", *few, *others, *fast]) == 0
    asked = json.loads(capsys.readouterr().out)["voice"]
    assert asked["distances"]["author"] == voice["distances"]["author"]
    card = (tmp_path / "outputs" / "best_model" / "README.md").read_text()
    assert card.count("## Voice") == 1 and "## Limits" in card
    assert main(["evaluate", "--voice", "novel.txt", *others, *few, "--decoding", "greedy",
                 *fast]) == 2  # fmt: skip
    assert "greedy" in capsys.readouterr().err


def test_without_a_model_the_command_tells_authors_apart(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name, seed in (("novel", 1), ("b", 101), ("c", 102), ("d", 103)):
        (tmp_path / f"{name}.txt").write_text(text_of(style(seed), 6000, seed))
    command = ["evaluate", "--voice", "novel.txt", "--others", "b.txt", "c.txt", "d.txt"]
    assert main([*command, "--json"]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["voice"]["told_apart"]
    assert "novel can be told from the others" in said.err
    (tmp_path / "empty.txt").write_text("")
    assert main(["evaluate", "--voice", "novel.txt", "--others", "novel.txt"]) == 2
    assert "same text" in capsys.readouterr().err
    assert main(["evaluate", "--voice", "empty.txt"]) == 2
    (tmp_path / "note.txt").write_text("A line. Another line, with a word or two.")
    assert main(["evaluate", "--voice", "note.txt"]) == 2
    assert "no voice can be told" in capsys.readouterr().err
    (tmp_path / "picture.png").write_bytes(bytes(range(256)) * 40)
    assert main(["evaluate", "--voice", "picture.png"]) == 2
