"""What stands between a prompt and its text: in tokens, masks, scores, prompts and records."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from writers import make_writer

from creativewritinggpt.config.run import Config
from creativewritinggpt.data.corpus import load_corpus
from creativewritinggpt.data.document import SEPARATOR, Document
from creativewritinggpt.data.rows.packing import IGNORE, pack, tokenize
from creativewritinggpt.data.rows.stream import StreamedRows, open_corpus
from creativewritinggpt.data.sources import named_sources, register_source
from creativewritinggpt.errors import InputError
from creativewritinggpt.evaluation.material import Material
from creativewritinggpt.evaluation.report import read_scores, write_report
from creativewritinggpt.evaluation.run import base_and_tuned, run
from creativewritinggpt.evaluation.scoring import score_documents
from creativewritinggpt.evaluation.settings import EvaluationSettings
from creativewritinggpt.evaluation.tasks import prompt_items
from creativewritinggpt.evaluation.texts import prompts_of
from creativewritinggpt.training.checkpoint import TrainState

JOINTS = {"writingprompts": SEPARATOR, "rocstories": " "}
SENTENCES = ("ran home.", "opened the old door.", "found a letter.", "laughed at the sea.")
SHAPE: dict[str, Any] = {"max_length": 64, "bos_id": 0, "eos_id": 0}


def stories(folder: Path, count: int = 40) -> str:
    """The official form of ROCStories: a column for each of five sentences."""
    path = folder / "stories.csv"
    with path.open("w", encoding="utf-8", newline="") as stream:
        rows = csv.writer(stream)
        rows.writerow(["storyid", "storytitle", *(f"sentence{i}" for i in range(1, 6))])
        for number in range(count):
            names = [f"Person{number}"] * 2 + ["She"] * 3
            said = [f"{a} {SENTENCES[(number + i) % 4]}" for i, a in enumerate(names)]
            rows.writerow([number, f"Story {number}", *said])
    return f"rocstories={path}"


def corpus_of(files: list[str], cache: Path, **changes: Any) -> Any:
    return load_corpus(Config(cache_dir=str(cache), val_size=8, **changes), files)


@pytest.mark.parametrize("name", sorted(named_sources()))
def test_each_built_in_source_has_its_joint(name: str, tmp_path: Path) -> None:
    if name in JOINTS or name in ("wikitext", "openwebtext"):
        corpus = corpus_of([], tmp_path, sources=["sample"])
        documents = [d for d in (*corpus.train, *corpus.validation) if d.source == name]
        joints = {document.joint for document in documents if document.prompt}
        assert documents and joints == ({JOINTS[name]} if name in JOINTS else set())
        assert set(corpus.reports[name].joints) == joints


def test_story_of_five_sentences_is_one_paragraph(tmp_path: Path, tiny_tokenizer: Any) -> None:
    corpus = corpus_of([stories(tmp_path)], tmp_path)
    document = corpus.train[0]
    assert "\n" not in document.full_text() and "  " not in document.full_text()
    assert document.full_text().count(".") == 5
    tokens = tokenize(corpus.train, tiny_tokenizer, tmp_path)
    assert tiny_tokenizer.decode(tokens[0]) == document.full_text()
    assert "  between prompt and text: a space" in corpus.reports["rocstories"].summary()


texts = st.text(st.sampled_from("abéx .,!?\n'“灯"), min_size=1, max_size=40).filter(
    lambda text: text == text.strip()
)


@settings(deadline=None, max_examples=200)
@given(
    st.lists(st.tuples(texts, st.sampled_from([" ", "\n\n", "\n", "", "\nB: ", "  "]), texts),
             min_size=1, max_size=6),
    st.integers(3, 40), st.booleans(),
)  # fmt: skip
@example([("Who is there", " ", "word")], 8, True)
def test_tokens_of_the_rows_are_the_full_text_and_masks_end_before_the_text(
    tiny_tokenizer: Any, cases: list[tuple[str, str, str]], max_length: int, mask: bool
) -> None:
    documents = [
        Document("d", str(i), text, prompt=prompt, joint=joint)
        for i, (prompt, joint, text) in enumerate(cases)
    ]
    tokens = tokenize(documents, tiny_tokenizer, None)
    rows = pack(tokens, max_length=max_length, bos_id=0, eos_id=0, mask_prompt=mask)
    for number, document in enumerate(documents):
        whole = tokens[number].tolist()
        assert tiny_tokenizer.decode(whole) == document.full_text()
        assert "".join(document.parts()) == document.full_text()
        masked = int(tokens.prompt_lengths[number])
        # What is masked is of the prompt and the joint; a token of the text never is.
        before = f"{document.prompt}{document.joint}"
        assert len(tiny_tokenizer.decode(whole[:masked]).rstrip("\ufffd")) <= len(before)
        targets = [
            int(token)
            for row in range(len(rows))
            for token in rows.targets[row][rows.document_ids[row] == number]
            if token not in (IGNORE, 0)
        ]
        assert sorted(targets) == sorted(whole[masked:] if mask else whole)


def test_first_token_of_the_text_carries_the_space_and_is_trained(tiny_tokenizer: Any) -> None:
    document = Document("d", "g", "the sea answered.", prompt="Who is there?", joint=" ")
    tokens = tokenize([document], tiny_tokenizer, None)
    text = tokens[0][tokens.prompt_lengths[0] :]
    assert tiny_tokenizer.decode(text) == " the sea answered."
    rows = pack(tokens, max_length=64, bos_id=0, eos_id=0, mask_prompt=True)
    targets = rows.targets[rows.targets != IGNORE]
    assert tiny_tokenizer.decode(targets[:-1]) == " the sea answered."


def test_another_joint_is_another_entry_of_the_token_cache(
    tmp_path: Path, tiny_tokenizer: Any
) -> None:
    document = Document("d", "g", "text", prompt="prompt")
    found = [
        tokenize([dataclasses.replace(document, joint=joint)], tiny_tokenizer, tmp_path)
        for joint in (SEPARATOR, " ")
    ]
    assert found[0].ids.tolist() != found[1].ids.tolist()
    # Without a prompt nothing is joined.
    one, other = (
        tokenize([Document("d", "g", "text", joint=joint)], tiny_tokenizer, tmp_path)
        for joint in (SEPARATOR, " ")
    )
    assert one.ids.tolist() == other.ids.tolist()
    assert len([entry for entry in (tmp_path / "tokens").iterdir() if entry.is_dir()]) == 3


def test_streamed_rows_have_the_joint_of_prepared_ones(tmp_path: Path, tiny_tokenizer: Any) -> None:
    file = stories(tmp_path)
    config = Config(streaming=True, max_steps=1, val_size=4, cache_dir=str(tmp_path))
    corpus = open_corpus(config, [file])
    rows = StreamedRows(corpus, config, tiny_tokenizer, {**SHAPE, "mask_prompt": False}, 0, 1)
    taken = rows.take(6)
    read = tiny_tokenizer.decode(taken.targets[taken.targets > 0].tolist())
    assert "Person" in read and "\n" not in read
    assert set(corpus.reports["rocstories"].joints) == {" "}


def test_scores_and_sizes_are_of_the_joined_text(tiny_model: Any, tiny_tokenizer: Any) -> None:
    writer = make_writer(tiny_model("llama"), tiny_tokenizer)
    document = Document("d", "g", "the sea answered.", prompt="Who is there?", joint=" ")
    plain = Document("d", "g", "Who is there? the sea answered.")
    [score], [whole] = score_documents(writer, [document]), score_documents(writer, [plain])
    assert (score.nll, score.tokens, score.words, score.bytes) == (
        whole.nll, whole.tokens, whole.words, whole.bytes,
    )  # fmt: skip
    ids = [0, *tiny_tokenizer(document.full_text())["input_ids"]]
    with torch.no_grad():
        logits = writer.model(input_ids=torch.tensor([ids[:-1]])).logits[0]
    nll = torch.nn.functional.cross_entropy(logits, torch.tensor(ids[1:]), reduction="sum")
    assert score.nll == pytest.approx(nll.item(), rel=1e-5)
    assert score.bits_per_byte == pytest.approx(
        nll.item() / math.log(2) / len(document.full_text().encode()), rel=1e-5
    )
    joined = dataclasses.replace(document, joint=SEPARATOR)
    assert score_documents(writer, [joined])[0].bytes == score.bytes + 1


@pytest.mark.parametrize(
    ("joint", "given_"),
    [(" ", "Who?"), (SEPARATOR, "Who?\n\n"), ("", "Who?"), ("\nB: ", "Who?\nB:")],
)
def test_model_is_given_the_prompt_and_a_joint_without_its_last_space(
    joint: str, given_: str
) -> None:
    document = Document("d", "g", "The sea.", prompt="Who?", joint=joint)
    [prompt] = prompts_of([document], 1, 0)
    assert prompt.text == given_ and prompt.text + prompt.human == document.full_text()
    documents = [dataclasses.replace(document, prompt=f"Who {i}?", group=str(i)) for i in range(10)]
    [item] = prompt_items(documents, 1, 0)
    assert all(f"{context}{text}".endswith(f"?{joint}The sea.") for context, text in item.options)
    assert len({text for _, text in item.options}) == 1


def _state(joints: dict[str, str] | None) -> tuple[TrainState, dict[str, Any]]:
    now: dict[str, Any] = {key: {} for key in ("config", "base", "shown")}
    now |= {"files": [], "data": "d", "joints": {"the joint of a": "a space"}}
    then = {key: value for key, value in now.items() if key != "joints"}
    if joints is not None:
        then["joints"] = joints
    metrics: dict[str, Any] = {"resumed_from": [], "forced": [], "best_step": 3}
    return TrainState(step=3, best_loss=1.0, metrics=metrics, fingerprint=then), now


def test_resume_with_another_joint_is_refused_in_a_line() -> None:
    state, now = _state(None)  # of a run from before joints were recorded
    with pytest.raises(InputError) as refused:
        state.check_same_run(now, Config(), force=False)
    assert "the joint of a was 'an empty line', is 'a space'" in refused.value.message
    state, now = _state({"the joint of a": "a space"})
    assert state.check_same_run(now, Config(), force=False) is False
    state, now = _state(None)
    assert state.check_same_run(now, Config(), force=True) is True
    assert state.best_loss is None and state.metrics["forced"]
    state, now = _state(None)
    now["joints"] = {"the joint of a": "an empty line"}
    assert state.check_same_run(now, Config(), force=False) is False


def test_results_with_another_joint_are_not_compared(
    tmp_path: Path, tiny_model: Any, tiny_tokenizer: Any
) -> None:
    writer = make_writer(tiny_model("gpt2"), tiny_tokenizer)
    documents = [
        Document("tales", str(i), "the sea answered.", prompt=f"Who {i}?", joint=" ")
        for i in range(3)
    ]
    only_scores = EvaluationSettings(texts=0)
    write_report(run(base_and_tuned(writer), Material(documents), only_scores), tmp_path)
    path = tmp_path / "evaluation.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [row["joint"] for row in rows] == [" "] * 3
    old = [{key: value for key, value in row.items() if key != "joint"} for row in rows]
    path.write_text("".join(json.dumps(row) + "\n" for row in old))
    before = read_scores(path)
    assert {score.joint for scores in before.values() for score in scores} == {SEPARATOR}
    with pytest.raises(InputError, match="an empty line between prompt and text of tales"):
        run(base_and_tuned(writer), Material(documents), only_scores, earlier=before)


def test_joint_of_a_custom_source_is_used_and_must_be_text(tmp_path: Path) -> None:
    for joint in (" — ", None):

        @register_source("joined")
        def joined(config: Config, joint: Any = joint) -> Any:
            for i in range(20):
                yield Document("joined", str(i), f"Answer {i}.", f"Who {i}?", joint=joint)

        if joint:
            found = corpus_of([], tmp_path, sources=["joined"])
            assert all("? — Answer" in document.full_text() for document in found.train)
        else:
            with pytest.raises(InputError, match="whose joint is None"):
                corpus_of([], tmp_path, sources=["joined"])


def test_record_of_a_corpus_says_the_joints(tmp_path: Path) -> None:
    corpus = corpus_of([stories(tmp_path)], tmp_path)
    again = corpus_of([stories(tmp_path)], tmp_path)  # from the cache
    for found in (corpus, again):
        record = json.loads(json.dumps(found.manifest()["sources"]))
        assert record["rocstories"]["joints"] == {" ": 40}
    assert np.unique([document.joint for document in again.train]).tolist() == [" "]
