"""Two novelists are told apart by their most frequent words."""

import os
from pathlib import Path

import pytest

from creativewritinggpt.config.run import Config
from creativewritinggpt.data.corpus import read_documents
from creativewritinggpt.evaluation.voice import VoiceTexts, measure

pytestmark = pytest.mark.realdata
NOVELS = ("the_hound_of_the_baskervilles.txt", "the_war_of_the_worlds.txt")


@pytest.fixture(scope="module")
def texts():
    folder = Path(os.environ["CWGPT_REAL_DATA"]) / "fiction"
    found = {name: read_documents([str(folder / name)], Config()) for name in NOVELS}
    found["tales"] = read_documents([str(folder / "fairytales.jsonl")], Config())
    for document in read_documents([], Config(sources=["sample"])):
        found.setdefault(document.source, []).append(document)
    return found


@pytest.mark.parametrize("author", NOVELS)
def test_held_out_chapters_are_nearer_to_their_author_than_anyone_else(author, texts):
    others = {name: of for name, of in texts.items() if name != author}
    asked = VoiceTexts(author, texts[author][::2], others, texts[author][1::2])
    found = measure(asked, resamples=300)
    own = found["distances"]["author"]
    assert found["words"] == 5000
    assert found["told_apart"]
    assert own["value"] < 0.5
    assert min(entry["distance"] for entry in found["others"].values()) > 0.75
    assert found["imposters"]["auc"] > 0.97
    assert found["imposters"]["c_at_1"] > 0.9
