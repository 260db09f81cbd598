"""The session without a terminal: what lines do to the story, on tiny models."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
from parrot import parrot
from writers import make_writer

from creativewritinggpt.errors import InputError
from creativewritinggpt.generation import engine
from creativewritinggpt.generation.decoder import Request
from creativewritinggpt.generation.sampling.settings import GenerationSettings
from creativewritinggpt.models.forward.native_backend import NativeContext
from creativewritinggpt.session.commands import COMMANDS
from creativewritinggpt.session.repl import Repl, answer, joined
from creativewritinggpt.session.screen import Screen, status
from creativewritinggpt.session.session import Ordering, Session, StyledModel
from creativewritinggpt.story.exchange import clean
from creativewritinggpt.story.file import StoryFile, dump, read_story, story_file
from creativewritinggpt.story.tree import Story

# Without a least length a random model would now and then end a text before its first word.
SETTINGS = GenerationSettings(max_new_tokens=12, min_new_tokens=6)
WORDS = " The lamp🎉e\u0301\x1b]0;vX\x07, went out"


class Desk:
    """A session whose screen is a list of what was said."""

    def __init__(self, writer: Any, path: Path, adapters: dict[str, float], **details: Any) -> None:
        self.stream = io.StringIO()
        loading: Future[StyledModel] = Future()
        loading.set_result(StyledModel(writer, adapters))
        self.session = Session(
            StoryFile(path), Story(), details.pop("settings", SETTINGS),
            lambda name: StyledModel(writer, {}), loading, "tiny",
        )  # fmt: skip
        self.repl = Repl(self.session, Screen(self.stream), COMMANDS, **details)

    def say(self, *lines: str) -> str:
        before = len(self.stream.getvalue())
        for line in lines:
            answer(self.repl, line)
        return self.stream.getvalue()[before:]

    @property
    def text(self) -> str:
        return self.session.story.text


@pytest.fixture
def desk(tmp_path: Path, tiny_model: Any, tiny_tokenizer: Any) -> Callable[..., Desk]:
    def make(family: str = "gpt2", adapter: bool = False, **details: Any) -> Desk:
        model = tiny_model(family)
        writer = make_writer(model, tiny_tokenizer)
        adapters: dict[str, float] = {}
        if adapter:
            import torch
            from peft import LoraConfig, get_peft_model

            config = LoraConfig(target_modules=["c_attn"], fan_in_fan_out=True)
            writer.model = get_peft_model(model, config).eval()
            torch.manual_seed(0)
            for name, parameter in writer.model.named_parameters():
                if "lora_B" in name:
                    torch.nn.init.normal_(parameter, std=0.5)
            writer.has_adapter, adapters = True, {"tuned": 1.0}
        return Desk(writer, tmp_path / "story.json", adapters, **details)

    return make


@pytest.fixture
def parrots(tmp_path: Path, tiny_tokenizer: Any) -> Callable[..., Desk]:
    def make(text: str = WORDS, **details: Any) -> Desk:
        writer = make_writer(parrot(tiny_tokenizer, text), tiny_tokenizer)
        return Desk(writer, tmp_path / "story.json", {}, **details)

    return make


@pytest.mark.parametrize("family", ["gpt2", "llama", "qwen"])
def test_a_passage_can_be_made_again_from_its_record(desk: Any, family: str) -> None:
    one = desk(family)
    one.say("/memory A tale of the sea.", "/lore lamp = It is old.", "/preset steady",
            "/set max_new_tokens=12")  # fmt: skip
    one.say("The lamp went out.", "", "", "The sea, and the captain. " * 9, "", "/retry")
    one.say("/note Be brief.", "/alt 3", "/pick 2", "/preset literary", "")
    story = read_story(one.session.file.path)
    made = [passage for passage in story.passages if passage.by == "model"]
    assert len(made) == 10 and any(passage.start for passage in made)
    assert {passage.setup.preset for passage in made} == {"steady", "literary"}
    for passage in made:
        setup = passage.setup
        settings = GenerationSettings().changed(setup.settings)
        prompt = story.text_at(passage.parent)[passage.start :]
        request = Request(prompt, passage.seed, setup.memory, setup.note)
        [again] = engine.write_all(one.session.loaded, [request], settings)
        assert again.text.rstrip("\ufffd") == passage.text
        assert setup.model == "tiny" and setup.settings["weights"] != "auto"


def test_every_change_is_on_disk_before_the_next_line(desk: Any) -> None:
    one = desk()
    for line in ("The lamp", "", "/retry", "/undo", "/chapter Two", "/memory Sea.", "/branch dark"):
        one.say(line)
        assert read_story(one.session.file.path).version == one.session.story.version


def test_undo_after_every_command_restores_the_text(desk: Any) -> None:
    one = desk()
    one.say("The lamp went out.", "/alt 2")
    for line in ("", "The sea.", "/continue 3", "/retry", "/pick 1", "/alt 2\n", "/pick 2.1",
                 "/edit Nobody.", "/chapter Two", "/branch b", "/goto 1"):  # fmt: skip
        before, cursor = one.text, one.session.story.cursor
        one.say(line)
        steps = one.session.story.cursor - cursor
        if steps:
            one.say(f"/undo {steps}")
        assert one.text == before, line
        one.say(f"/redo {max(steps, 1)}")


def test_retry_is_another_version_and_the_first_can_be_picked(desk: Any) -> None:
    one = desk()
    one.say("The lamp")
    first = one.text
    said = one.say("/retry")
    assert one.text != first and "version 2" in said
    one.say("/pick 1")
    assert one.text == first


def test_a_retry_reads_nothing_again(desk: Any, monkeypatch: Any) -> None:
    read: list[int] = []
    prefill = NativeContext.prefill

    def counted(self: NativeContext, ids: Any) -> Any:
        read.append(len(ids))
        return prefill(self, ids)

    monkeypatch.setattr(NativeContext, "prefill", counted)
    one = desk()
    one.say("The lamp went out, and the captain laughed.")
    assert sum(read) > 5
    read.clear()
    one.say("/retry", "/undo", "/retry")
    assert not read


def test_a_fixed_seed_says_the_same_again_but_not_on_retry(desk: Any) -> None:
    one = desk()
    one.say("/seed 7", "The lamp")
    first = one.text
    one.say("/undo", "")
    assert one.text == first
    one.say("/retry")
    assert one.text != first
    one.say("/retry 7")
    assert one.text == first


def test_what_was_undone_can_still_be_reached_after_something_else_was_written(desk: Any) -> None:
    one = desk()
    one.say("The lamp", "", "The sea.")
    lost, passages = one.text, len(one.session.story.passages)
    one.say("/undo 4", "Another beginning.")
    assert lost not in one.text
    said = one.say("/branches")
    assert f"#{passages - 1}" in said and "set aside" in said
    one.say(f"/goto #{passages - 1}")
    assert one.text == lost
    assert "takes a number" in one.say("/goto #99")


def test_alternatives_join_the_text_only_when_picked(desk: Any) -> None:
    one = desk()
    one.say("The lamp went out.", "/undo")
    said = one.say("/alt 3")
    assert one.text == "The lamp went out."
    assert all(f"\n{number}  seed" in said for number in (1, 2, 3))
    one.say("/pick 2")
    assert one.text == "The lamp went out." + one.session.story.children(0)[-2].text


def test_it_is_said_when_the_model_ends_the_text(parrots: Any) -> None:
    one = parrots(" lamp<|endoftext|>", settings=GenerationSettings(max_new_tokens=12, top_k=1))
    assert "the model ends the text here" in one.say("Hello")
    assert one.text == "Hello lamp"


def test_another_word_can_be_picked_and_the_model_goes_on(parrots: Any) -> None:
    one = parrots(" The lamp went out")
    one.say("Hello")
    passage = one.session.story.last
    said = one.say("/probs")
    assert "instead" in said and "100%" in said
    others = [
        token
        for token in one.session.tokens[passage.id][2].before
        if token.text not in passage.text
    ]
    # All are equally unlikely; the end of the text is none that goes on.
    place, other = next(
        (place, token) for place, token in enumerate(others, 1) if "<|" not in token.text
    )
    one.say(f"/pick 3.{place}")
    kept = "".join(token.text for token in one.session.tokens[passage.id][:2])
    assert one.text.startswith(f"Hello{kept}{other.text}")
    assert [p.by for p in one.session.story.path()] == ["writer", "model", "writer", "model"]


def test_base_and_tuned_go_on_with_the_same_seed(desk: Any) -> None:
    one = desk(adapter=True)
    said = one.say("The lamp", "/undo", "/compare")
    base, tuned = one.session.story.children(0)[-2:]
    assert base.seed == tuned.seed and base.text != tuned.text
    assert (dict(base.setup.adapters), dict(tuned.setup.adapters)) == ({}, {"tuned": 1.0})
    assert "1  base" in said and "2  tuned" in said
    with one.session.loaded.base():
        request = Request("The lamp", base.seed)
        [again] = engine.write_all(one.session.loaded, [request], SETTINGS)
    assert again.text.rstrip("\ufffd") == base.text


def test_probabilities_of_the_writers_own_text_are_the_models(desk: Any) -> None:
    one = desk()
    one.say("The lamp went out.")
    made = one.session.story.last
    recorded = one.session.tokens.pop(made.id)
    read = one.session.tokens_of(made)
    # The text may be cut into other tokens than it was written in.
    if [token.id for token in read] == [token.id for token in recorded]:
        for one_token, other in zip(read, recorded, strict=True):
            assert one_token.logprob == pytest.approx(other.logprob, abs=1e-4)
    one.say("/undo")
    assert sum(len(t.bytes) for t in one.session.tokens_of(one.session.story.last)) == 18


def test_heat_without_colour_marks_the_unlikely_in_figures(parrots: Any) -> None:
    one = parrots(" The lamp went out")
    one.say("Hello", "/undo", "/edit The captain laughed.")
    said = one.say("/heat")
    assert "[<0.1%]" in said and "captain" in said.replace("[<0.1%]", "")


def test_control_characters_reach_the_story_but_never_the_screen(parrots: Any) -> None:
    one = parrots(settings=GenerationSettings(max_new_tokens=40))
    said = one.say("Hello", "/probs all", "/heat", "/context all", "/undo", "/redo", "/branches")
    assert "\x1b]0;vX\x07" in one.text
    assert not {"\x1b", "\x07", "\x9b"} & set(said)


def test_characters_that_are_split_across_tokens_come_whole(parrots: Any) -> None:
    one = parrots(settings=GenerationSettings(max_new_tokens=22))
    said = one.say("Hello")
    assert "🎉e\u0301" in one.text and "🎉e\u0301" in said
    # Stopped after any of its tokens, a passage ends before a character that is not whole.
    for count in range(1, 9):
        half = parrots(settings=GenerationSettings(max_new_tokens=count, temperature=0.0))
        said = half.say(" The lamp")
        assert (" The lamp" + WORDS[9:] + WORDS).startswith(half.text)
        assert "\ufffd" not in half.text + said


def test_why_calls_what_was_handed_in(desk: Any) -> None:
    asked = []

    def explain(writer: Any, text: str, word: str) -> str:
        asked.append((writer.name, text, word))
        return "because of the sea"

    one = desk(explain=explain)
    one.say("/memory A tale.", "The lamp went out.", "/undo")
    assert "because of the sea" in one.say("/why lamp")
    assert asked == [("tiny", "A tale.\n\nThe lamp went out.", "lamp")]
    one.say("/note Be brief.", "/why lamp")
    assert asked[1][1] == "A tale.\n\nBe brief.\nThe lamp went out."
    assert asked[1][1] in one.say("/context all")
    assert "is not in the text" in one.say("/why dragon")
    assert "can't explain" in desk().say("/why")


def test_nothing_is_over_written_by_saving_elsewhere(desk: Any, tmp_path: Path) -> None:
    one = desk()
    (tmp_path / "there.json").write_text("mine")
    said = one.say("The lamp", f"/save {tmp_path / 'there.json'}")
    assert "is there already" in said and (tmp_path / "there.json").read_text() == "mine"
    one.say(f"/save {tmp_path / 'copy.json'}", "More.")
    assert read_story(tmp_path / "copy.json").text == one.text
    assert read_story(tmp_path / "story.json").text != one.text


def test_an_export_replaces_nothing_but_on_demand(desk: Any, tmp_path: Path) -> None:
    one = desk()
    (tmp_path / "mine.txt").write_text("mine")
    (tmp_path / "mine.json").write_text("mine")
    said = one.say("The lamp", f"/export {tmp_path / 'mine.txt'}")
    assert "is there already" in said and (tmp_path / "mine.txt").read_text() == "mine"
    one.say(f"/export {tmp_path / 'mine.txt'}", f"/export {tmp_path / 'mine.json'}")
    assert (tmp_path / "mine.txt").read_text() == clean(one.text).strip() + "\n"
    one.say(f"/export {tmp_path / 'mine.json'}")
    assert (tmp_path / "mine.json").read_text() == "mine"
    one.say("/export md", "More.", "/export md")
    assert "More." in (tmp_path / "story.md").read_text()


def test_stories_are_listed_and_taken_by_number(
    desk: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    one = desk()
    assert "no stories" in one.say("/load")
    one.say("The lamp", f"/save {tmp_path / 'stories' / 'old.json'}", "/title Old", "/undo")
    os.utime("stories/old.json", (1, 1))
    (tmp_path / "stories" / "other.json").write_text("{}")
    # What a save leaves that was killed is not offered as the newest story.
    shutil.copy("stories/old.json", "stories/.old.json.k3h9x1ab.tmp.json")
    one.say("/load story.json", "/title New")
    said = one.say("/load")
    assert re.search(r"1  .*story.json \(open\) .* New", said)
    assert re.search(r"2  .*stories/old.json .* 1970-01-01", said) and "other" not in said
    one.say("/load 2")
    assert one.session.file.path == Path("stories/old.json")


def test_text_from_elsewhere_becomes_a_story_of_its_own(
    desk: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "old.md").write_text("# A\n\nOne.\n\n# B\n\nTwo.\n")
    one = desk()
    one.say("The lamp")
    before = one.text
    one.say("/load old.md")
    assert one.session.story.chapters() == [("B", "Two.")] or one.text.endswith("Two.")
    assert read_story(tmp_path / "stories" / "old.json").text == one.text
    assert read_story(tmp_path / "story.json").text == before


def test_unknown_commands_get_a_suggestion_and_short_ones_their_meaning(desk: Any) -> None:
    one = desk()
    assert "did you mean /retry?" in one.say("/rety")
    assert "could be" in one.say("/s") and "/style" in one.say("/s")
    assert "there is no command /xyzzy" in one.say("/xyzzy")
    assert "did you mean 'temperature'" in one.say("/set temprature=1")
    assert "let the model go on" in one.say("/help conti")


def test_names_and_numbers_that_are_too_long_are_said_in_a_line(
    desk: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    one = desk()
    for line in ("/undo " + "9" * 5000, "/seed " + "9" * 5000, "/save " + "n" * 300,
                 "/load " + "n" * 300, "/export " + "n" * 300 + ".txt"):  # fmt: skip
        said = one.say(line)
        assert "error: " in said and "should not happen" not in said and len(said) < 300, said
    assert "written: ~draft.txt" in one.say("The lamp", "/export ~draft.txt")


def test_settings_are_shown_and_changed(desk: Any) -> None:
    one = desk()
    assert "0.5" in one.say("/set temperature=0.5") and one.session.settings.temperature == 0.5
    assert "must be" in one.say("/set temperature=hot")
    one.say("/set temperature 0.6")
    assert one.session.settings.temperature == 0.6
    assert "unknown setting" in one.say("/set colour")
    assert "max_new_tokens" in one.say("/set")
    one.say("/preset literary", "/seed 3", "/set max_new_tokens=7", "/preset steady")
    settings = one.session.settings
    assert (settings.temperature, settings.seed, settings.max_new_tokens) == (0.7, 3, 7)


def test_the_status_line_says_what_a_writer_wants_to_know(desk: Any) -> None:
    one = desk()
    assert "new seeds" in status(one.session) and "window 1% of 128" in status(one.session)
    one.say("/preset steady", "/seed 4", "The lamp")
    said = status(one.session)
    words = f"{len(one.text.split())} words"
    for part in ("tiny", "preset steady", "seed 4", "tokens/s", words, "story.json"):
        assert part in said
    for width in range(20, len(said)):
        short = status(one.session, width)
        assert len(short) <= width and "window" in short
        assert width < 60 or "tiny · preset steady · seed 4 · window" in short
        assert width < 80 or "tokens/s" in short
    one.say("/memory " + "long " * 99)
    assert "over-full" in status(one.session)


def test_a_failed_save_is_said_tried_again_and_holds_the_writer_back_once(
    desk: Any, monkeypatch: Any
) -> None:
    one = desk()
    one.say("The lamp")
    saved = one.text

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_text", full)
        assert "the disk is full" in one.say("More.")
        assert "NOT SAVED" in status(one.session)
        assert read_story(one.session.file.path).text == saved
        assert not one.repl.may_leave() and one.repl.may_leave()
    one.say("/stats")
    assert read_story(one.session.file.path).text == one.text


def test_a_drive_that_is_gone_and_bytes_that_are_no_text_end_no_session(
    desk: Any, monkeypatch: Any
) -> None:
    one = desk()
    one.say("The lamp", "/branch \udc80\udcff", "\udc80 went out.")
    assert read_story(one.session.file.path).version == one.session.story.version

    other = one.session.file.path.with_name("other.json")
    other.write_text(dump(Story()))

    def gone(*_: Any, **__: Any) -> None:
        raise OSError(107, "Transport endpoint is not connected")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_text", gone)
        assert "could not be written" in one.say("More.") and one.session.unsaved
        before = one.session.story
        assert "could not be written" in one.say(f"/load {other}")
        assert one.session.story is before
    StoryFile(other).open()  # is not held
    one.say("")
    assert not one.session.unsaved


def test_text_is_joined_as_a_writer_would_join_it() -> None:
    assert joined("", "Once") == "Once"
    assert joined("Once", "upon") == " upon"
    assert joined("Once ", "upon") == "upon"
    assert joined("Once", ", she said") == ", she said"
    assert joined("the capt", "+ain") == "ain"
    assert joined("Once", "\nupon") == "\nupon"
    assert joined("she said", "“No.”") == " “No.”"


def test_an_edit_of_the_last_passage_is_joined_as_well(desk: Any) -> None:
    one = desk()
    one.say("The lamp", "/edit Nobody moved.")
    assert one.text == "The lamp Nobody moved."


def test_a_slash_of_the_text_needs_two_and_n_is_a_line_end(desk: Any) -> None:
    one = desk()
    one.say("//home is a place", "/undo")
    assert one.text == "/home is a place"
    one.say(r"\n\nThe sea.", "/undo")
    assert one.text == "/home is a place\n\nThe sea."


def test_a_storys_file_ends_in_json_and_need_not_say_so() -> None:
    assert story_file("ferry").path == Path("ferry.json")
    for wrong in ("ferry.txt", ""):
        with pytest.raises(InputError, match="ends in .json"):
            story_file(wrong)


def test_every_command_has_help_that_fits_a_line(desk: Any) -> None:
    said = desk().say("/help")
    for command in COMMANDS.values():
        assert f"/{command.name}" in said
        assert len(command.help) <= 70


def test_every_command_stands_in_the_documentation() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "writing.md").read_text("utf-8")
    for command in COMMANDS.values():
        shown = f"/{command.name} {command.words}".strip().replace("|", "\\|")
        assert f"| `{shown}` | {command.help} |" in page


def test_stories_of_other_programs_open_and_their_lore_joins(
    parrots: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    book = {"lorebookVersion": 5, "entries": [{"text": "It grinds.", "keys": ["mill"]}]}
    fragments = [{"data": "The mill", "origin": "prompt"}, {"data": " fell.", "origin": "ai"}]
    content = {"story": {"fragments": fragments}, "lorebook": book, "ephemeralContext": [{}]}
    record = {"storyContainerVersion": 1, "metadata": {"title": "Mill"}, "content": content}
    Path("tale.story").write_text(json.dumps(record))
    Path("world.lorebook").write_text(json.dumps(book))
    one = parrots()
    said = one.say("The sea.", "/lore mill = Old.", "/lore sea = Salt.", "/load world.lorebook")
    assert "lore (1) of a NovelAI lorebook joined" in said and "1 of the same keys replaced" in said
    assert [lore.text for lore in one.session.story.state.lore] == ["Salt.", "It grinds."]
    one.say("/undo")
    assert [lore.text for lore in one.session.story.state.lore] == ["Old.", "Salt."]
    assert "joined" in one.say("/lore import tale.story")
    Path("plain.txt").write_text("The mill.")
    assert "no lore" in one.say("/lore import plain.txt")
    before = one.text
    said = one.say("/load tale.story")
    assert "NovelAI story: 2 passages, lore (1)" in said and "further contexts (1)" in said
    assert one.text == "The mill fell." and read_story("stories/tale.json").text == one.text
    assert "known are" in one.say("/load none.xyz") or "does not exist" in one.say("/load none.xyz")
    one.say("/load story.json")
    assert one.text == before
    assert "stories/tale.json is there already" in one.say("/load tale.story")


def test_settings_that_change_nothing_are_said_and_escapes_are_read(desk: Any) -> None:
    one = desk()
    assert "xtc_probability is 0" in one.say("/set xtc_threshold=0.2")
    assert "no effect" not in one.say("/set top_k=5")
    one.say(r"/set stop=\u0041\n\\n")
    assert one.session.settings.stop == ["A\n\\n"]


def _choices(one: Desk) -> list[tuple[str, int, int | None]]:
    story = read_story(one.session.file.path)
    return [(c.kind, len(c.offered), c.chosen) for c in story.choices]


def test_choices_are_in_the_file_with_what_was_on_the_screen(desk: Any) -> None:
    one = desk()
    one.say("The lamp", "/alt 3", "/pick 2", "/undo", "/redo", "/pick 3", "", "/retry")
    one.say("/edit It rained.")
    story = read_story(one.session.file.path)
    kinds = [choice.kind for choice in story.choices]
    assert kinds == ["pick", "pick", "undo", "redo", "pick", "retry", "edit"]
    first, taken, undone, redone, again, retried, edited = story.choices
    assert first.offered == taken.offered and first.chosen is None
    assert taken.chosen == first.offered[1] and (undone.of, redone.of) == (1, 2)
    assert again.chosen in again.offered
    assert retried.chosen == retried.offered[1] == edited.replaced[0]
    assert story.passages[edited.by[0]].text.endswith("It rained.")
    assert all(choice.source == "session" and choice.time for choice in story.choices)


def _longest_first(story: Story) -> Ordering:
    return Ordering(lambda texts: [float(len(text)) for text in texts], "you take long ones")


def test_alternatives_are_shown_best_first_once_choices_teach_something(desk: Any) -> None:
    one = desk(settings=SETTINGS.changed({"max_new_tokens": 30}))
    one.say("The lamp")
    one.session.learn = lambda story: None
    assert "best first" not in one.say("/alt 4")
    one.session.learn = _longest_first
    said = one.say("/alt 4")
    assert "best first: you take long ones" in said
    story = one.session.story
    shown = [len(story.passages[place].text) for place in story.choices[-1].offered]
    assert len(shown) == 4 and shown == sorted(shown, reverse=True)
    assert list(story.choices[-1].offered) == one.repl.offered
    one.say("/pick 1")
    assert story.last is not None and len(story.last.text) == max(shown)


def test_best_of_keeps_what_the_writer_would_take_or_says_that_it_can_not(desk: Any) -> None:
    one = desk(settings=SETTINGS.changed({"max_new_tokens": 30, "best_of": 4,
                                          "rank_by": "taste"}))  # fmt: skip
    assert "your choices teach nothing yet" in one.say("The lamp")
    written: list[int] = []

    def learn(story: Story) -> Ordering:
        def scores(texts: Sequence[str]) -> list[float]:
            # An incomplete character at the end is not kept.
            lengths = [len(text.rstrip("\ufffd")) for text in texts]
            written.extend(lengths)
            return [float(length) for length in lengths]

        return Ordering(scores, "")

    one.session.learn = learn
    one.say("")
    assert len(written) == 4
    assert len(one.session.story.last.text) == max(written)


def test_another_token_is_recorded_with_the_one_before(desk: Any) -> None:
    one = desk()
    one.say("/seed 1", "The lamp", "/pick 2.1")  # whose second token is a whole character
    [choice] = read_story(one.session.file.path).choices
    story = one.session.story
    original = story.passages[choice.offered[0]]
    chosen = story.passages[choice.chosen]
    before = story.passages[chosen.parent]
    assert before.copy_of == original.id
    assert original.text.startswith(before.text + choice.text) and chosen.text != choice.text


def test_base_and_tuned_are_a_choice_with_their_adapters(desk: Any) -> None:
    one = desk(adapter=True)
    one.say("The lamp", "/compare", "/pick 2")
    shown, taken = one.session.story.choices
    setups = [one.session.story.passages[place].setup for place in taken.offered]
    assert shown.offered == taken.offered and taken.chosen == taken.offered[1]
    assert [setup.adapters for setup in setups] == [{}, {"tuned": 1.0}]


def test_a_damaged_choice_is_said_and_the_story_opens(desk: Any, tmp_path: Path) -> None:
    one = desk()
    one.say("The lamp", "/alt 2", "/pick 1", f"/save {tmp_path / 'other.json'}")
    path = one.session.file.path
    record = json.loads(path.read_text("utf-8"))
    record["choices"][0]["offered"] = [0, 4000]
    two = path.with_name("damaged.json")
    two.write_text(json.dumps(record), "utf-8")
    said = one.say(f"/load {two}")
    assert "1 choice in the file can't be read" in said and "The lamp" in one.text
