"""Talks with chat models and among players as documents."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from creativewritinggpt.config.run import Config
from creativewritinggpt.data.document import Document, FileReport, Reading, SourceReport
from creativewritinggpt.data.readers.chats import compose, messages_of, template_messages
from creativewritinggpt.data.sources.files import open_files
from creativewritinggpt.errors import InputError

ASKED, REPLY, MORE, LAST = "Write of a mill.", "The mill stood.", "Go on.\nSlowly.", "It fell."
WHOLE = f"{REPLY}\n\n> Go on.\n> Slowly.\n\n{LAST}"


def read(path: Path, **settings: Any) -> tuple[list[Document], FileReport]:
    """The documents of a file and what became of its characters."""
    config = Config(**settings)
    (source,) = open_files([str(path)], config)
    reading = Reading(SourceReport(source.name), config.skip_bad_rows)
    documents = list(source.read(reading))
    (file,) = reading.report.files.values()
    return documents, file


def lines(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def turns(role: str, text: str, user: str, reply: str, **more: Any) -> list[dict[str, Any]]:
    said = ((user, ASKED), (reply, REPLY), (user, MORE), (reply, LAST))
    return [{role: who, text: what, **more} for who, what in said]


FORMS: dict[str, Any] = {
    "ShareGPT": {"conversations": turns("from", "value", "human", "gpt")},
    "OpenAI": {"messages": turns("role", "content", "user", "assistant")},
    "Claude": {"chat_messages": turns("sender", "text", "human", "assistant")},
    "parts": {
        "messages": [
            {"role": m["role"], "content": [{"type": "text", "text": m["content"]}]}
            for m in turns("role", "content", "user", "assistant")
        ]
    },
    "Character.AI": {
        "turns": [
            {"author": {"is_human": m["w"] == "u"}, "candidates": [{"raw_content": m["t"]}]}
            for m in turns("w", "t", "u", "c")
        ]
    },
    "a list": turns("role", "content", "user", "assistant"),
    "a string of JSON": {
        "conversations": json.dumps(turns("from", "value", "human", "gpt")),
    },
    "a string of Python": {"conversations": str(turns("from", "value", "human", "gpt"))},
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("ending", [".jsonl", ".json"])
def test_every_form_of_a_talk_is_one_document(tmp_path: Path, form: str, ending: str) -> None:
    path = tmp_path / f"a{ending}"
    rows = [FORMS[form]] * 3
    path.write_text(
        "".join(f"{json.dumps(r)}\n" for r in rows) if ending == ".jsonl" else json.dumps(rows)
    )
    documents, file = read(path)
    assert [(d.prompt, d.text) for d in documents] == [(ASKED, WHOLE)] * 3
    assert documents[0].joint == "\n\n"
    # The marks before the author's later lines are no text of the file.
    assert file.kept - file.characters == 3 * 2 and not file.left_out


def test_a_single_talk_is_a_file(tmp_path: Path) -> None:
    for value in (FORMS["OpenAI"], FORMS["a list"]):
        (tmp_path / "a.json").write_text(json.dumps(value))
        documents, _ = read(tmp_path / "a.json")
        assert [(d.prompt, d.text) for d in documents] == [(ASKED, WHOLE)]


def test_chatgpts_export_is_read_from_its_tree(tmp_path: Path) -> None:
    nodes: dict[str, Any] = {"root": {"message": None, "parent": None, "children": ["0"]}}
    for place, message in enumerate(turns("role", "content", "user", "assistant")):
        said = {
            "author": {"role": message["role"]},
            "content": {"content_type": "text", "parts": [message["content"]]},
        }
        parent = str(place - 1) if place else "root"
        children = [str(place + 1)] if place < 3 else []
        nodes[str(place)] = {"message": said, "parent": parent, "children": children}
    rows = [{"title": f"Mill {i}", "mapping": nodes} for i in range(3)]
    (tmp_path / "conversations.json").write_text(json.dumps(rows))
    documents, _ = read(tmp_path / "conversations.json")
    assert [(d.title, d.prompt, d.text) for d in documents[:1]] == [("Mill 0", ASKED, WHOLE)]


def test_what_is_no_part_of_a_talk_is_left_out_and_counted(tmp_path: Path) -> None:
    talk = [
        {"role": "system", "content": "You write."},
        {"role": "user", "content": [{"type": "text", "text": ASKED}, {"type": "image_url"}]},
        {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "dice"}}]},
        {"role": "tool", "content": "six"},
        {"role": "assistant", "content": f"<think>Hm, a mill.</think>\n{REPLY}"},
    ]
    documents, file = read(lines(tmp_path / "a.jsonl", *[{"messages": talk}] * 3))
    assert (documents[0].prompt, documents[0].text) == (ASKED, REPLY)
    assert dict(file.left_out) == {
        "system messages": 27,
        "parts of messages that are no text": 27,
        "calls of tools": 12,
        "results of tools": 9,
        "thoughts before a reply": 72,
    }
    assert file.characters == file.kept + file.left_out.total()


def test_a_talk_without_a_reply_is_left_out_and_counted(tmp_path: Path) -> None:
    silent = {"messages": [{"role": "user", "content": "Anyone?"}]}
    documents, file = read(lines(tmp_path / "a.jsonl", FORMS["OpenAI"], silent))
    assert len(documents) == 1 and file.left_out == {"talks without a reply": 7}


def tavern(**more: Any) -> list[dict[str, Any]]:
    header = {"user_name": "Ann", "character_name": "Odile", "chat_metadata": {"note": "x"}}
    said = [("Odile", "*She looks up.* Yes?"), ("Ann", "A lamp, please."), ("Odile", "None left.")]
    rows = [
        {"name": who, "is_user": who == "Ann", "is_system": False, "send_date": "1", "mes": what}
        for who, what in said
    ]
    rows[0] |= {"swipes": ["*She looks up.* Yes?", "Another greeting."], "swipe_id": 0}
    rows.append({"name": "Note", "is_user": False, "is_system": True, "mes": "Ann has left."})
    return [header, *rows]


def test_a_chat_of_sillytavern_is_one_document_with_its_speakers(tmp_path: Path) -> None:
    documents, file = read(lines(tmp_path / "a.jsonl", *tavern()))
    (document,) = documents
    assert document.prompt is None and document.text == (
        "Odile: *She looks up.* Yes?\n\nAnn: A lamp, please.\n\nOdile: None left."
    )
    assert file.left_out["swipes that were not chosen"] == len("Anothergreeting.")
    assert file.left_out["system messages"] == len("NoteAnnhasleft.")


def test_rows_of_the_same_talk_are_one_document_in_their_order(tmp_path: Path) -> None:
    with (tmp_path / "a.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["conversation_id", "role", "content"])
        for turn in turns("role", "content", "user", "assistant"):
            writer.writerows([talk, turn["role"], turn["content"]] for talk in (7, 8))
    documents, file = read(tmp_path / "a.csv")
    assert [(d.prompt, d.text) for d in documents] == [(ASKED, WHOLE)] * 2
    assert "a talk for each 'conversation_id'" in file.form


def test_what_was_said_and_replied_in_rows_of_a_talk_is_one_document(tmp_path: Path) -> None:
    rows = [
        {"chat_id": talk, "prompt": asked, "response": reply}
        for talk in ("a", "b")
        for asked, reply in ((ASKED, REPLY), (MORE, LAST))
    ]
    documents, _ = read(lines(tmp_path / "a.jsonl", *rows))
    assert [(d.prompt, d.text) for d in documents] == [(ASKED, WHOLE)] * 2


def test_messages_of_a_whole_file_begin_anew_with_a_system_message(tmp_path: Path) -> None:
    one = [{"role": "system", "content": "You write."}, *FORMS["a list"]]
    documents, file = read(lines(tmp_path / "a.jsonl", *one, *one))
    assert [(d.prompt, d.text) for d in documents] == [(ASKED, WHOLE)] * 2
    assert file.left_out == {"system messages": 18}


def test_messages_of_one_side_are_texts_of_their_own(tmp_path: Path) -> None:
    rows = [{"text": {"role": "assistant", "content": f"The mill of {i}."}} for i in range(9)]
    documents, file = read(lines(tmp_path / "a.jsonl", *rows))
    assert [d.text for d in documents] == [f"The mill of {i}." for i in range(9)]
    assert "text from 'text.content'" in file.form


def test_what_was_chosen_may_be_a_talk(tmp_path: Path) -> None:
    rows = [{"chosen": FORMS["a list"], "rejected": FORMS["a list"][:2]}] * 3
    documents, file = read(lines(tmp_path / "a.jsonl", *rows))
    assert (documents[0].prompt, documents[0].text) == (ASKED, WHOLE)
    assert file.left_out["column 'rejected'"] > 0


def test_a_tree_of_messages_is_refused(tmp_path: Path) -> None:
    rows = [
        {"message_id": str(i), "parent_id": str(i // 2), "role": who, "text": f"Said {i}."}
        for i, who in enumerate(["prompter", "assistant"] * 4)
    ]
    with pytest.raises(InputError, match="tree of messages"):
        read(lines(tmp_path / "a.jsonl", *rows))


TEMPLATES = {
    "ChatML": "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\n{0}<|im_end|>\n"
    "<|im_start|>assistant\n{1}<|im_end|>\n",
    "Llama 3": "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\n{0}<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n{1}<|eot_id|>",
    "Llama 2": "<s>[INST] <<SYS>>\nBe kind.\n<</SYS>>\n\n{0} [/INST] {1} </s>",
    "Mistral": "<s>[INST] {0} [/INST]{1}</s>",
    "Gemma": "<bos><start_of_turn>user\n{0}<end_of_turn>\n<start_of_turn>model\n{1}<end_of_turn>\n",
    "Phi": "<|user|>\n{0}<|end|>\n<|assistant|>\n{1}<|end|>",
    "Zephyr": "<|system|>\nBe kind.</s>\n<|user|>\n{0}</s>\n<|assistant|>\n{1}</s>",
    "Vicuna": "A chat between a curious user and an assistant. USER: {0} ASSISTANT: {1}</s>",
    "Alpaca": "Below is an instruction.\n\n### Instruction:\n{0}\n\n### Response:\n{1}",
    "Human and Assistant": "\n\nHuman: {0}\n\nAssistant: {1}",
}


@pytest.mark.parametrize("template", TEMPLATES)
def test_the_template_of_a_chat_model_is_read_as_its_talk(tmp_path: Path, template: str) -> None:
    row = {"text": TEMPLATES[template].format(ASKED, REPLY)}
    documents, file = read(lines(tmp_path / "a.jsonl", *[row] * 3))
    assert [(d.prompt, d.text) for d in documents] == [(ASKED, REPLY)] * 3
    assert file.characters == file.kept + file.left_out.total()


@pytest.mark.parametrize(
    "text",
    [
        "### Response:\nA heading in a story.",
        'He typed "User: admin" and waited.',
        "The label said [INST] and nothing else.",
        "USER: one side only.",
        "<|im_start|> is what they call it.",
    ],
)
def test_prose_with_such_marks_stays_as_it_is(text: str) -> None:
    assert template_messages(text) is None


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["user", "assistant", "system", "tool"]), st.text("aé \n.", max_size=20)
        ),
        min_size=1,
        max_size=8,
    )
)
def test_no_letter_of_a_talk_is_lost_unsaid(said: list[tuple[str, str]]) -> None:
    messages = messages_of([{"role": role, "content": text} for role, text in said])
    assert messages is not None
    talk = compose(messages)
    signs = sum(len(c.split()) and 1 for c in f"{talk.prompt}{talk.text}" if c != ">")
    assert signs + talk.left_out.total() == sum(not c.isspace() for _, text in said for c in text)


def test_columns_named_after_the_sides_are_prompt_and_text(tmp_path: Path) -> None:
    rows = [{"user": f"Write {i}.", "assistant": f"The mill of {i} stood."} for i in range(6)]
    documents, file = read(lines(tmp_path / "a.jsonl", *rows))
    assert (documents[2].prompt, documents[2].text) == ("Write 2.", "The mill of 2 stood.")
    assert file.kept == file.characters


def test_a_prompt_beside_messages_stands_once(tmp_path: Path) -> None:
    talk = FORMS["a list"]
    apart = {"prompt": talk[:1], "completion": talk[1:]}
    repeated = {"prompt": ASKED, "messages": talk}
    within = {"prompt": talk[:1], "chosen": talk, "rejected": talk[:2]}
    for row in (apart, repeated, within):
        documents, file = read(lines(tmp_path / "a.jsonl", *[row] * 3))
        assert [(d.prompt, d.text) for d in documents] == [(ASKED, WHOLE)] * 3
        assert file.kept - 6 + file.left_out.total() == file.characters


def test_completions_that_are_labelled_bad_are_left_out_and_counted(tmp_path: Path) -> None:
    rows = [
        {"prompt": "Go.", "completion": f"It went {i}.", "label": bool(i % 2)} for i in range(6)
    ]
    documents, file = read(lines(tmp_path / "a.jsonl", *rows))
    assert [d.text for d in documents] == ["It went 1.", "It went 3.", "It went 5."]
    assert file.left_out == {"rows whose 'label' is false": 3 * len("Go.Itwent0.")}
    assert file.characters == file.kept + file.left_out.total()


def test_a_streamed_talk_is_whole_where_reading_begins_again(tmp_path: Path) -> None:
    rows = [{**turn, "chat_id": i} for i in range(100) for turn in FORMS["a list"]]
    path = lines(tmp_path / "a.jsonl", *rows)
    (source,) = open_files([str(path)], Config())
    reading = Reading(SourceReport("a"))
    places = []
    for document in source.read(reading):
        places.append(reading.at)
        assert document.text == WHOLE
    assert len(places) == 100 and not source.sharded
    again = Reading(SourceReport("a"), start=places[50])
    assert [document.text for document in source.read(again)] == [WHOLE] * 100
