"""What choices become: decisions with their texts, and what is left out and why."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from creativewritinggpt.errors import InputError
from creativewritinggpt.story import choices
from creativewritinggpt.story.choice_files import read_any, read_choices, write_pairs
from creativewritinggpt.story.choice_report import half_width, places, render, report
from creativewritinggpt.story.decisions import Decision, Decisions, alike, decisions
from creativewritinggpt.story.file import dump, read_story
from creativewritinggpt.story.tree import Setup, Story

SETUP = Setup("tiny")
TEXTS = (" as ever, and no one minded.", " so Mara slept in a boat.", " but the bell had rung.")


def _story(*texts: str, setups: Any = None) -> tuple[Story, list[int]]:
    """A story with a beginning and alternatives after it that were shown."""
    story = Story()
    story.write("The night ferry was late,")
    texts = texts or TEXTS
    setups = setups or [SETUP] * len(texts)
    pairs = zip(texts, setups, strict=True)
    shown = [story.offer(text, by="model", setup=setup).id for text, setup in pairs]
    choices.offer(story, shown)
    return story, shown


def _left(story: Story) -> dict[str, int]:
    found = decisions(story)
    assert not found.used
    return dict(found.left_out)


def test_a_pick_becomes_one_decision_over_all_that_were_shown() -> None:
    story, shown = _story()
    choices.pick(story, shown, shown[1])
    [one] = decisions(story, "ferry.json").used
    assert (one.prompt, one.chosen) == ("The night ferry was late,", TEXTS[1])
    assert one.rejected == (TEXTS[0], TEXTS[2]) and (one.place, one.shown) == (1, 3)
    assert (one.weight, one.model, one.where, one.source) == (1.0, "tiny", "ferry.json", "session")


def test_what_was_shown_and_not_taken_is_left_out() -> None:
    story, _ = _story()
    assert _left(story) == {"shown, and none taken": 1}


def test_a_pick_that_was_undone_is_left_out_and_one_that_was_redone_is_not() -> None:
    story, shown = _story()
    choices.pick(story, shown, shown[1])
    choices.undo(story)
    assert _left(story) == {"taken back": 1}
    choices.redo(story)
    assert len(decisions(story).used) == 1


def test_a_pick_that_was_taken_back_leaves_the_one_before() -> None:
    story, shown = _story()
    choices.pick(story, shown, shown[0])
    choices.pick(story, shown, shown[2])
    choices.undo(story)
    found = decisions(story)
    assert [one.chosen for one in found.used] == [TEXTS[0]]
    assert found.left_out == {"taken back": 1}


def test_of_two_picks_among_the_same_the_last_holds() -> None:
    story, shown = _story()
    choices.pick(story, shown, shown[0])
    choices.pick(story, shown, shown[2])
    found = decisions(story)
    assert [one.chosen for one in found.used] == [TEXTS[2]]
    assert found.left_out == {"a later choice among the same passages holds": 1}


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        (Setup("tiny", memory="A tale."), "memory, lore or note differed"),
        (Setup("tiny", note="Be brief."), "memory, lore or note differed"),
        (Setup("large"), "written by another model, or by the base"),
        (Setup("tiny", {"tuned": 1.0}), "written by another model, or by the base"),
    ],
    ids=str,
)
def test_alternatives_of_another_context_are_left_out(other: Setup, reason: str) -> None:
    story, shown = _story(*TEXTS, setups=[SETUP, SETUP, other])
    choices.pick(story, shown, shown[0])
    found = decisions(story)
    assert [one.rejected for one in found.used] == [(TEXTS[1],)]
    assert found.alternatives_left_out == {reason: 1}
    story, shown = _story(*TEXTS[:2], setups=[SETUP, other])
    choices.pick(story, shown, shown[0])
    assert _left(story) == {reason: 1}


def test_other_samplers_and_seeds_are_the_same_context() -> None:
    story, shown = _story(*TEXTS[:2], setups=[SETUP, dataclasses.replace(SETUP, settings={"n": 1})])
    choices.pick(story, shown, shown[0])
    assert len(decisions(story).used) == 1


def test_texts_that_hardly_differ_are_left_out() -> None:
    words = " ".join(f"word{n}" for n in range(30))
    story, shown = _story(f" {words}", f" {words} ", f" {words} more")
    choices.pick(story, shown, shown[0])
    assert _left(story) == {"the same text": 1}
    assert alike(words, f"{words} more") > 0.9 > alike(words, " ".join(words.split()[::-1]))


def test_a_retry_speaks_for_the_version_that_was_kept() -> None:
    for undone in (False, True):
        story = Story()
        story.write("The lamp")
        first = story.write(" went out at once.", by="model", setup=SETUP).id
        new = story.write(" burned on.", 0, "retry", by="model", setup=SETUP).id
        choices.retry(story, first, new)
        if undone:
            choices.undo(story)
        [one] = decisions(story).used
        both = (" went out at once.", " burned on.")
        assert (one.chosen, one.rejected[0]) == (both if undone else both[::-1])
        assert one.weight == 0.5 and one.place is None


def test_three_versions_are_one_decision_and_a_later_pick_replaces_it() -> None:
    story = Story()
    story.write("The lamp")
    ids = [story.write(" went out.", by="model", setup=SETUP).id]
    for text in (" burned on.", " fell over."):
        ids.append(story.write(text, 0, "retry", by="model", setup=SETUP).id)
        choices.retry(story, *ids[-2:])
    [one] = decisions(story).used
    assert (one.chosen, one.rejected) == (" fell over.", (" went out.", " burned on."))
    choices.pick(story, ids, ids[0])
    [one] = decisions(story).used
    assert (one.kind, one.chosen) == ("pick", " went out.")


def test_an_undone_passage_against_what_was_kept_there() -> None:
    def undone() -> Story:
        story = Story()
        story.write("The lamp")
        story.write(" went out.", by="model", setup=SETUP)
        choices.undo(story)
        return story

    [one] = decisions(undone()).used
    assert (one.chosen, one.rejected, one.weight) == (None, (" went out.",), 0.1)
    story = undone()
    story.write(" stood in the window.")
    [one] = decisions(story).used
    assert (one.chosen, one.weight) == (" stood in the window.", 0.3)
    story = undone()
    choices.redo(story)
    assert not decisions(story).used
    story = undone()
    choices.undo(story)
    assert _left(story) == {"the text before it was taken back, too": 1}


def _edited() -> Story:
    story = Story()
    story.write("The night ferry was late. ")
    story.write("The ferryman looked at the water for a while. ", by="model", setup=SETUP)
    story.write("Nobody spoke until the bell rang. ", by="model", setup=SETUP)
    return story


def test_an_edit_is_a_pair_weighed_by_the_words_that_changed() -> None:
    story = _edited()
    choices.edit(story, story.text.replace("for a while", "till noon"))
    [one] = decisions(story).used
    assert one.kind == "edit" and one.prompt == "The night ferry was late. "
    assert one.chosen == "The ferryman looked at the water till noon. "
    assert one.rejected == ("The ferryman looked at the water for a while. ",)
    assert one.weight == pytest.approx(3 / 8)
    choices.edit(story, story.text.replace("looked at the water till noon", "slept"))
    [one] = decisions(story).used
    assert one.chosen == "The ferryman slept. ", "the last version of an edit counts"
    choices.undo(story, 2)
    assert not decisions(story).used


def test_a_deleted_passage_is_only_rejected() -> None:
    story = _edited()
    choices.edit(story, story.text.replace("Nobody spoke until the bell rang. ", ""))
    [one] = decisions(story).used
    assert (one.chosen, one.rejected) == (None, ("Nobody spoke until the bell rang. ",))


def test_another_token_is_a_pair_of_words() -> None:
    story = Story()
    story.write("The lamp")
    original = story.write(" went out.", by="model", setup=SETUP)
    kept = story.offer(" went", 0, by="model", setup=SETUP, copy_of=original.id)
    story.write(" home", kept.id, did="pick")
    choices.token(story, original.id, " out")
    [one] = decisions(story).used
    assert (one.prompt, one.chosen, one.rejected) == ("The lamp went", " home", (" out",))
    assert one.weight == 0.3


def test_choices_of_an_old_story_are_read_from_its_tree() -> None:
    story = read_story(Path(__file__).with_name("version_1.json"))
    found = decisions(story)
    assert (found.recorded, found.inferred) == (0, 3)
    assert [one.kind for one in found.used] == ["pick", "retry"]
    assert {one.source for one in found.used} == {"inferred"}
    assert all(one.place is None for one in found.used), "no order on the screen is known"


def test_what_is_recorded_is_not_inferred_once_more() -> None:
    story, shown = _story()
    choices.pick(story, shown, shown[1])
    story.write(" She stood up.", by="model", setup=SETUP)
    choices.undo(story)
    story.write(" He stood up.")
    choices.edit(story, story.text.replace("Mara slept in a boat", "Mara rowed home at dawn"))
    assert decisions(story).inferred == 0
    story.choices.clear()
    kinds = {one.kind for one in decisions(story).used}
    assert kinds == {"edit", "pick", "undo"}


def _lines(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def test_the_forms_of_a_file_of_choices(tmp_path: Path) -> None:
    path = _lines(
        tmp_path / "picks.jsonl",
        {"prompt": "One", "chosen": " day.", "rejected": " of them left."},
        {"prompt": "One", "chosen": " day.", "rejected": " night."},
        {"prompt": "Two", "chosen": " birds.", "rejected": [" cats sat.", " dogs.", " cats sat."]},
        {"prompt": "Three", "offered": [" a b", " c d", " e f"], "chosen": 1, "memory": "Sea."},
        {"prompt": "Four", "offered": [" a b", " c d"], "chosen": " c d", "kind": "retry"},
        {"prompt": "Five", "offered": [" a b", " c d"], "chosen": None},
        {"prompt": "Six", "chosen": None, "rejected": " no."},
        {"prompt": [{"role": "user", "content": "Go on: Seven"}],
         "chosen": [{"role": "assistant", "content": " seas"}],
         "rejected": [{"role": "assistant", "content": " hills"}]},
    )  # fmt: skip
    found = read_choices(path)
    assert [(one.chosen, one.rejected) for one in found.used] == [
        (" day.", (" of them left.", " night.")),
        (" birds.", (" cats sat.", " dogs.")),
        (" c d", (" a b", " e f")),
        (" c d", (" a b",)),
        (None, (" no.",)),
        (" seas", (" hills",)),
    ]
    assert (found.used[2].place, found.used[2].shown, found.used[2].memory) == (1, 3, "Sea.")
    assert found.left_out == {"shown, and none taken": 1}
    assert found.recorded == 7 and found.alternatives_left_out == {"the same text": 1}


def test_results_in_which_one_was_picked_by_hand(tmp_path: Path) -> None:
    rows = [
        {"line": line, "index": index, "n": 3, "model": "tiny", "prompt": "The lamp", "text": text}
        for line in (1, 2, 3)
        for index, text in enumerate(TEXTS)
    ]
    rows[1]["picked"] = True
    rows[6]["picked"] = rows[7]["picked"] = True
    found = read_choices(_lines(tmp_path / "out.jsonl", *rows))
    [one] = found.used
    assert (one.chosen, one.rejected, one.place) == (TEXTS[1], (TEXTS[0], TEXTS[2]), 1)
    assert found.left_out == {"shown, and none taken": 1, "several picked of one prompt": 1}


@pytest.mark.parametrize(
    ("line", "part"),
    [
        ("{", "no JSON object"),
        ("[1]", "no JSON object"),
        ('"text"', "no JSON object"),
        ("[" * 100_000, "no JSON object"),
        ('{"prompt": "a", "chosen": "b"}', "neither `rejected` nor `offered`"),
        ('{"chosen": "b", "rejected": "c"}', "`prompt` must be text"),
        ('{"prompt": 1, "chosen": "b", "rejected": "c"}', "`prompt` must be text"),
        ('{"prompt": "a", "chosen": 7, "rejected": "c"}', "`chosen` must be text"),
        ('{"prompt": "a", "chosen": "b", "rejected": [1]}', "`rejected` must be text"),
        ('{"prompt": "a", "offered": "bc", "chosen": 0}', "`offered` must be a list"),
        ('{"prompt": "a", "offered": ["b", "c"], "chosen": 2}', "none of the texts offered"),
        ('{"prompt": "a", "offered": ["b", "c"], "chosen": true}', "none of the texts offered"),
        ('{"prompt": "a", "chosen": "b", "rejected": "c", "kind": "wink"}', "`kind` is 'wink'"),
        ('{"prompt": "a", "chosen": "b", "rejected": "c", "weight": NaN}', "`weight` is no number"),
        ('{"prompt": "\\ud800", "chosen": "b", "rejected": "c"}', "no JSON object"),
    ],
)
def test_a_line_of_another_form_is_named(tmp_path: Path, line: str, part: str) -> None:
    path = tmp_path / "picks.jsonl"
    path.write_text('{"prompt": "a", "chosen": "b", "rejected": "c"}\n\n' + line + "\n", "utf-8")
    with pytest.raises(InputError) as caught:
        read_choices(path)
    assert "line 3" in caught.value.message and part in caught.value.message


@pytest.mark.parametrize("content", [b"", b"\n\n", b"\xef\xbb\xbf"])
def test_an_empty_file_holds_no_choices(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "picks.jsonl"
    path.write_bytes(content)
    with pytest.raises(InputError, match="holds no choices"):
        read_choices(path)


def test_neither_a_folder_nor_a_missing_file_is_read(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none.jsonl"):
        with pytest.raises(InputError):
            read_any(path)


def test_pairs_that_were_written_are_the_same_decisions(tmp_path: Path) -> None:
    story, shown = _story()
    choices.pick(story, shown, shown[1])
    path = tmp_path / "ferry.json"
    path.write_text(dump(story), "utf-8")
    found = read_any(path)
    assert write_pairs(found.used, tmp_path / "pairs.jsonl") == 2
    rows = [json.loads(line) for line in (tmp_path / "pairs.jsonl").read_text().splitlines()]
    assert all(isinstance(row["rejected"], str) for row in rows)
    [again] = read_any(tmp_path / "pairs.jsonl").used
    [one] = found.used
    assert (again.prompt, again.chosen, again.rejected) == (one.prompt, one.chosen, one.rejected)
    assert again.weight == pytest.approx(one.weight) and again.model == one.model


def test_the_same_decision_in_two_files_counts_once_and_opposite_ones_never() -> None:
    one = Decision("pick", "a", "b", ("c", "d"), 1.0)
    other = Decision("pick", "a", "c", ("b",), 1.0)
    found = Decisions([one])
    found.add(Decisions([one]))
    assert found.used == [one] and found.left_out["the same decision in another file"] == 1
    found.add(Decisions([other, Decision("pick", "a", "e", ("f",), 1.0)]))
    found.drop_contradicting()
    assert [each.chosen for each in found.used] == ["e"]
    assert found.left_out["contradicted by another choice"] == 2


def _picked(place: int, shown: int) -> Decision:
    return Decision("pick", "a", "b", ("c",), 1.0, place=place, shown=shown)


def test_the_first_place_is_measured_against_a_writer_who_does_not_look() -> None:
    fair = [_picked(n % 4, 4) for n in range(40)]
    result = places(fair)
    assert result is not None and result["expected"][0] == 10 and not result["outside"]
    assert result["low"] == pytest.approx(10 - 1.96 * (40 * 0.25 * 0.75) ** 0.5, abs=0.01)
    first = places([_picked(0, 4) for _ in range(40)])
    assert first is not None and first["outside"] and first["taken"] == [40, 0, 0, 0]
    mixed = places([_picked(0, 2), _picked(2, 4)])
    assert mixed is not None and mixed["expected"] == [0.75, 0.75, 0.25, 0.25]
    assert places([Decision("retry", "a", "b", ("c",), 0.5)]) is None


def test_the_report_says_how_sure_one_can_be() -> None:
    assert [half_width(n) for n in (0, 1, 40, 100, 200)] == [None, 0.5, 0.155, 0.098, 0.069]
    story, shown = _story()
    choices.pick(story, shown, shown[0])
    result = report(decisions(story), ["ferry.json"])
    assert result["kinds"]["pick"]["alternatives"] == 2 and result["few"]
    text = render(result)
    assert "1 choice recorded" not in text and "2 choices recorded, in 1 file" in text
    assert "one softmax over all that were shown" in text and "below 20 choices" in text
    assert "nothing to learn from yet" in render(report(decisions(Story()), ["empty.json"]))
