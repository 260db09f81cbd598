from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from creativewritinggpt.data.document import Document, SourceReport
from creativewritinggpt.data.splits import hold_out_tail, split
from creativewritinggpt.data.store import Documents, DocumentStore, blocks, write_store
from creativewritinggpt.errors import InputError


def words(seed: int, length: int = 60) -> str:
    return " ".join(random.Random(seed).choices([f"w{i}" for i in range(3000)], k=length))


def store(folder: Path, documents: list[Document], name: str = "a") -> DocumentStore:
    folder.mkdir(parents=True)
    write_store(folder, blocks(documents), SourceReport(name))
    return DocumentStore(folder)


def divided(
    *stores: DocumentStore, train_size: int = 10**6, val_size: int = 2000, seed: int = 42
) -> tuple[Documents, Documents]:
    return split(list(stores), train_size=train_size, val_size=val_size, seed=seed)


def stories(count: int, source: str = "a", start: int = 0) -> list[Document]:
    return [Document(source, f"{source}{i}", words(start + i)) for i in range(count)]


@settings(
    deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    groups=st.lists(st.integers(0, 12), min_size=2, max_size=60),
    val_size=st.integers(1, 30),
    seed=st.integers(0, 5),
)
def test_no_group_stands_on_both_sides(
    tmp_path_factory: pytest.TempPathFactory, groups: list[int], val_size: int, seed: int
) -> None:
    documents = [Document("a", f"g{g}", words(i)) for i, g in enumerate(groups)]
    train, validation = divided(
        store(tmp_path_factory.mktemp("s") / "s", documents), val_size=val_size, seed=seed
    )
    if len(set(groups)) > 1:
        assert not {d.group for d in train} & {d.group for d in validation}
    assert len(train) + len(validation) == len(documents)
    smallest = min(groups.count(g) for g in groups)
    assert 1 <= len(validation) <= max(smallest, min(val_size, len(documents) // 10))


def test_at_most_a_tenth_validates_and_at_most_val_size(tmp_path: Path) -> None:
    train, validation = divided(store(tmp_path / "1", stories(100)))
    assert (len(train), len(validation)) == (90, 10)
    train, validation = divided(store(tmp_path / "2", stories(100)), val_size=3)
    assert (len(train), len(validation)) == (97, 3)
    train, validation = divided(store(tmp_path / "3", stories(5)))
    assert (len(train), len(validation)) == (4, 1)


def test_the_split_depends_on_seed_and_groups_only(tmp_path: Path) -> None:
    documents = stories(100)
    held = {d.group for d in divided(store(tmp_path / "1", documents))[1]}
    assert held == {d.group for d in divided(store(tmp_path / "2", documents[::-1]))[1]}
    assert held != {d.group for d in divided(store(tmp_path / "3", documents), seed=7)[1]}


def test_a_document_that_is_most_of_its_source_is_trained_on(tmp_path: Path) -> None:
    documents = [*stories(40), Document("a", "book", " ".join(words(i) for i in range(900, 1000)))]
    for seed in range(40):
        train, validation = divided(store(tmp_path / str(seed), documents), seed=seed)
        assert len(validation) == 4 and "book" in {document.group for document in train}
    # Where all are large, one of them validates all the same.
    _, validation = divided(store(tmp_path / "few", documents[-3:]))
    assert len(validation) == 1


def test_every_source_validates(tmp_path: Path) -> None:
    big, small = (
        store(tmp_path / "1", stories(500)),
        store(tmp_path / "2", stories(8, "b", 900), "b"),
    )
    _, validation = divided(big, small, val_size=20)
    assert len(validation) <= 20
    assert validation.sources().count("b") == 1
    assert small.report.validation == 1 and big.report.validation == len(validation) - 1


def test_exact_duplicates_go_within_and_across_sources(tmp_path: Path) -> None:
    documents = stories(40)
    again = [Document("a", f"again{i}", documents[i].text.upper()) for i in range(10)]
    other = [Document("b", f"b{i}", documents[i].text + ".") for i in range(30)]
    first = store(tmp_path / "1", documents + again)
    second = store(tmp_path / "2", other + stories(10, "b", 500), "b")
    train, validation = divided(first, second)
    texts = [d.text.rstrip(".").upper() for d in [*train, *validation]]
    assert len(texts) == len(set(texts)) == 50
    assert first.report.duplicates == 10 and second.report.duplicates == 30


def test_near_duplicates_of_validation_leave_the_training_set(tmp_path: Path) -> None:
    documents = stories(50)
    held = {d.group for d in divided(store(tmp_path / "1", documents))[1]}
    planted = [Document("b", f"near {d.group}", f"{d.text} and one thing more") for d in documents]
    second = store(tmp_path / "3", planted + stories(450, "b", 700), "b")
    train, validation = divided(store(tmp_path / "2", documents), second)
    kept = {d.group for d in train}
    for group in {d.group for d in validation if d.source == "a"}:
        assert f"near {group}" not in kept
    assert second.report.near_duplicates >= len(held) - 1
    # Near duplicates within the training set stay.
    assert sum(group.startswith("near") for group in kept) >= 30


def test_a_group_that_another_source_holds_out_is_not_trained_on(tmp_path: Path) -> None:
    shared = [Document("b", f"a{i}", words(1000 + i)) for i in range(100)]
    first, second = store(tmp_path / "1", stories(100)), store(tmp_path / "2", shared, "b")
    train, validation = divided(first, second)
    assert not {d.group for d in train} & {d.group for d in validation}


def test_an_official_split_is_used(tmp_path: Path) -> None:
    documents = [
        Document("a", f"g{i}", words(i), split="validation" if i < 30 else "train")
        for i in range(100)
    ]
    made = store(tmp_path / "1", documents)
    train, validation = divided(made)
    assert len(validation) == 10 and all(d.split == "validation" for d in validation)
    assert len(train) == 70 and all(d.split == "train" for d in train)
    assert made.report.dropped["official validation documents beyond val_size"] == 20


def test_a_duplicate_of_an_official_validation_document_leaves_training(tmp_path: Path) -> None:
    documents = stories(50) + [Document("a", "held", words(3), split="validation")]
    train, validation = divided(store(tmp_path / "1", documents))
    assert [d.group for d in validation] == ["held"]
    assert words(3) not in {d.text for d in train}


def test_only_validation_files_are_split_like_any_other(tmp_path: Path) -> None:
    documents = [Document("a", f"g{i}", words(i), split="validation") for i in range(60)]
    train, validation = divided(store(tmp_path / "1", documents))
    assert (len(train), len(validation)) == (54, 6)


def test_train_size_bounds_the_training_documents_the_same_way_each_time(tmp_path: Path) -> None:
    made = store(tmp_path / "1", stories(200))
    train, validation = divided(made, train_size=50)
    assert len(train) == 50 and made.report.dropped["beyond train_size"] == 130
    again, _ = divided(store(tmp_path / "2", stories(200)), train_size=50)
    assert list(train) == list(again)
    more, _ = divided(store(tmp_path / "3", stories(200)), train_size=60)
    assert {d.group for d in train} < {d.group for d in more}


def test_a_single_document_holds_out_its_tail_at_a_paragraph(tmp_path: Path) -> None:
    text = "\n\n".join(words(i, 20) + "." for i in range(30))
    made = store(tmp_path / "1", [Document("a", "a", text)])
    train, validation = divided(made)
    assert f"{train[0].text}\n\n{validation[0].text}" == text
    assert 0.05 < len(validation[0].text) / len(text) < 0.15
    assert (made.report.train, made.report.validation) == (1, 1)


def test_documents_of_one_group_hold_out_their_last(tmp_path: Path) -> None:
    documents = [Document("a", "same", words(i)) for i in range(20)]
    train, validation = divided(store(tmp_path / "1", documents))
    assert list(validation) == documents[-2:] and list(train) == documents[:-2]


def test_one_sentence_can_not_be_split(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="too short"):
        divided(store(tmp_path / "1", [Document("a", "a", "It was night.")]))


@settings(deadline=None, max_examples=100)
@given(st.lists(st.sampled_from(["One.", "Two words?", "“Quoted!”", "And so on…"]), max_size=40))
def test_head_and_tail_are_the_text(sentences: list[str]) -> None:
    text = " ".join(sentences)
    cut = hold_out_tail(text) if text else None
    if cut is not None:
        head, tail = cut
        assert f"{head} {tail}" == text and head and tail
    else:
        assert len(sentences) < 2 or len(set(sentences)) > 0


def test_the_documents_of_a_split_are_a_sequence(tmp_path: Path) -> None:
    train, _ = divided(store(tmp_path / "1", stories(30)))
    assert train[0] == next(iter(train)) and train[-1] == list(train)[-1]
    assert train[2:4] == list(train)[2:4]
    assert list(train.digests()) == [d.digest for d in train]
    assert train.sources() == [d.source for d in train]
    with pytest.raises(IndexError):
        train[len(train)]
