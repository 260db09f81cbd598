"""The Library's routes: stories, import and export, what is set aside, hostile names and files."""

from __future__ import annotations

import errno
import io
import json
import os
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

from creativewritinggpt.story import choices
from creativewritinggpt.story.file import StoryFile, read_story
from creativewritinggpt.story.tree import Story
from creativewritinggpt.studio import uploads
from creativewritinggpt.studio.library import file_stem, routes
from creativewritinggpt.studio.model_exports import last_progress
from creativewritinggpt.studio.runs import Runs
from creativewritinggpt.studio.studio import Studio
from creativewritinggpt.studio.uploads import safe_name


class Page:
    """Requests of a page."""

    def __init__(self, root: Path) -> None:
        self.studio = Studio(root, model="")
        self.studio.runs = Runs(self.studio, watch=False)
        self.client = TestClient(Starlette(routes=routes(self.studio)))

    def get(self, path: str, status: int = 200, **query: str) -> Any:
        answer = self.client.get(f"/api/{path}", params=query)
        assert answer.status_code == status, answer.text
        return answer.json()

    def post(self, action: str, status: int = 200, **body: Any) -> Any:
        answer = self.client.post(f"/api/library/{action}", json=body)
        assert answer.status_code == status, answer.text
        return answer.json()

    def send(self, name: str, content: bytes, status: int = 200) -> Any:
        answer = self.client.put("/api/uploads", params={"name": name}, content=content)
        assert answer.status_code == status, answer.text
        return answer.json()

    def bring_in(self, name: str, content: bytes, status: int = 200, **more: Any) -> Any:
        return self.post("import", status, upload=self.send(name, content)["id"], **more)

    def stories(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.get("library")["stories"]
        return found


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Page]:
    monkeypatch.chdir(tmp_path)
    made = Page(tmp_path)
    yield made
    made.studio.close(1)


def _story(path: Path, *texts: str, title: str = "") -> Path:
    story = Story()
    for text in texts:
        story.write(text)
    if title:
        story.set("title", title=title)
    file = StoryFile(path)
    file.open()
    file.save(story)
    file.close()
    return path


def _sentence(answer: dict[str, Any], part: str) -> None:
    error = answer["error"]
    assert part in error["message"], error
    assert "Traceback" not in json.dumps(answer) and "\n" not in error["message"]


def test_stories_are_listed_with_their_words_the_last_changed_first(page: Page) -> None:
    folder = page.studio.stories
    old = _story(folder / "ferry.json", "The night ferry was late.", title="The Ferry")
    os.utime(old, (1, 1))
    _story(folder / "lamp.json", "One two three.")
    (folder / "notes.json").write_text('{"notes": []}')
    (folder / ".hidden.json").write_text(old.read_text("utf-8"))
    first, second = page.stories()
    assert (first["file"], first["name"], first["words"]) == ("lamp.json", "One two three.", 3)
    assert (second["name"], second["words"], second["open"]) == ("The Ferry", 5, False)
    assert second["bytes"] == old.stat().st_size and second["opened"] is None


def test_stories_beside_the_one_that_is_open_are_listed_too(page: Page) -> None:
    _story(page.studio.root / "chapters.json", "Chapter one.")
    (page.studio.root / "package.json").write_text("{}")
    _story(page.studio.root / "lighthouse.json", "A lamp.")
    page.studio.desk.open(page.studio.root / "lighthouse.json")
    found = {one["file"]: one for one in page.stories()}
    assert set(found) == {"chapters.json", "lighthouse.json"}
    assert found["lighthouse.json"]["open"] and page.get("library/search", q="lamp")["found"]
    page.post("aside", id=found["chapters.json"]["id"])
    assert (page.studio.stories / "set aside" / "chapters.json").is_file()


def test_an_empty_library_is_empty(page: Page) -> None:
    found = page.get("library")
    assert found["stories"] == found["aside"] == found["models"] == []


def test_a_broken_or_newer_story_is_listed_with_what_is_wrong(page: Page) -> None:
    path = _story(page.studio.stories / "new.json", "text")
    record = json.loads(path.read_text("utf-8"))
    path.write_text(json.dumps({**record, "version": 99}), "utf-8")
    _story(page.studio.stories / "broken.json", "text").write_text(
        '{"format": "creativewritinggpt-story", '
    )
    found = {one["file"]: one["error"] for one in page.stories()}
    assert "newer version" in found["new.json"] and "not valid JSON" in found["broken.json"]
    for one in page.stories():
        page.post("open", 400, id=one["id"])
        assert page.post("aside", id=one["id"]), "what can't be read can be set aside"


def test_search_finds_titles_and_texts_with_their_places(page: Page) -> None:
    _story(page.studio.stories / "a.json", "The lamp went out.\nNobody saw the LAMP.", title="Sea")
    _story(page.studio.stories / "b.json", "A candle burned.", title="The Lamp")
    ids = {one["file"]: one["id"] for one in page.stories()}
    found = {one["id"]: one["places"] for one in page.get("library/search", q="lamp")["found"]}
    assert set(found) == set(ids.values())
    assert found[ids["a.json"]][0] == ["The ", "lamp", " went out. Nobody saw the LAMP."]
    assert found[ids["b.json"]] == []
    assert page.get("library/search", q='"went out"')["found"][0]["id"] == ids["a.json"]
    assert page.get("library/search", q="lamp candle")["found"] == [
        {"id": ids["b.json"], "places": [["A ", "candle", " burned."]]}
    ]
    for nothing in ("", "   ", "xyzzy", "(", "*", "\\", "\x00"):
        assert page.get("library/search", q=nothing)["found"] == []


def test_a_new_story_has_a_file_after_its_title_and_is_open(page: Page) -> None:
    page.post("new", title="The Night Ferry: Ⅱ / “Fog”")
    page.post("new", title="The Night Ferry: Ⅱ / “Fog”")
    page.post("new", title="")
    files = {one["file"]: one for one in page.stories()}
    assert "The Night Ferry Ⅱ Fog.json" in files and "The Night Ferry Ⅱ Fog-2.json" in files
    assert sum(one["open"] for one in files.values()) == 1
    assert page.studio.desk.file.path.name[:2] == "20"
    assert files["The Night Ferry Ⅱ Fog.json"]["opened"] is not None
    kinds = {json.loads(text)["kind"] for _, text in page.studio.events.since(0) or []}
    assert {"library", "story"} <= kinds


@pytest.mark.parametrize("title", [7, ["a"], {"a": 1}, None, True], ids=str)
def test_a_title_is_text(page: Page, title: Any) -> None:
    _sentence(page.post("new", 400, title=title), "a title is text")


def test_rename_changes_the_title_and_not_the_file(page: Page) -> None:
    _story(page.studio.stories / "ferry.json", "The ferry.")
    page.post("new", title="Open")
    ids = {one["file"]: one["id"] for one in page.stories()}
    page.post("rename", id=ids["ferry.json"], title="  The\n Ferry ")
    page.post("rename", id=ids["Open.json"], title="Wide open")
    found = {one["file"]: one["title"] for one in page.stories()}
    assert found == {"ferry.json": "The Ferry", "Open.json": "Wide open"}
    _sentence(page.post("rename", 400, id=ids["ferry.json"], title=" \u0007 "), "can't be empty")


def test_a_copy_has_the_whole_tree(page: Page) -> None:
    path = page.studio.stories / "ferry.json"
    story = Story()
    story.write("The ferry")
    shown = [story.offer(text, by="model").id for text in (" came.", " sank.")]
    choices.pick(story, shown, shown[0])
    file = StoryFile(path)
    file.open()
    file.save(story)
    file.close()
    page.post("duplicate", id=page.stories()[0]["id"])
    copy = read_story(page.studio.stories / "ferry copy.json")
    assert copy.passages == story.passages and copy.choices == story.choices
    assert copy.state.title == "ferry (copy)"


def test_what_is_set_aside_keeps_its_name_and_comes_back(page: Page) -> None:
    path = _story(page.studio.stories / "ferry.json", "The ferry.", title="Ferry")
    content = path.read_bytes()
    page.post("aside", id=page.stories()[0]["id"])
    assert not page.stories() and not path.exists()
    [aside] = page.get("library")["aside"]
    assert (page.studio.stories / "set aside" / "ferry.json").read_bytes() == content
    _sentence(page.post("aside", 409, id=aside["id"]), "set aside already")
    _story(path, "Another ferry.")
    page.post("back", id=aside["id"])
    assert {one["file"] for one in page.stories()} == {"ferry.json", "ferry-2.json"}
    assert (page.studio.stories / "ferry-2.json").read_bytes() == content
    _sentence(page.post("back", 409, id=page.stories()[0]["id"]), "not set aside")


def test_the_story_in_write_is_not_set_aside_and_one_open_elsewhere_is_said(page: Page) -> None:
    page.post("new", title="Here")
    _sentence(page.post("aside", 409, id=page.stories()[0]["id"]), "open in Write")
    other = StoryFile(_story(page.studio.stories / "there.json", "text"))
    other.open()
    found = {one["file"]: one for one in page.stories()}
    assert found["there.json"]["elsewhere"] and not found["Here.json"]["elsewhere"]
    for action in ("aside", "rename"):
        _sentence(
            page.post(action, 400, id=found["there.json"]["id"], title="x"), "another session"
        )
    page.post("open", id=found["there.json"]["id"])  # to be read
    assert page.studio.desk.readonly and "another session" in page.studio.desk.readonly
    page.post("open", id=found["Here.json"]["id"])
    page.post("duplicate", id=found["there.json"]["id"])
    other.close()
    assert not any(one["elsewhere"] for one in page.stories())


def test_a_file_that_is_gone_is_said(page: Page) -> None:
    path = _story(page.studio.stories / "ferry.json", "text")
    [one] = page.stories()
    path.unlink()
    for action in ("open", "aside", "rename", "duplicate"):
        _sentence(page.post(action, 404, id=one["id"], title="x"), "is gone")


MIKUPAD = {
    "prompt": [{"type": "user", "content": "The lamp"}, {"type": "text", "content": " went out."}],
    "memoryTokens": {"text": "A tale of the sea.", "prefix": "", "suffix": ""},
    "authorNoteTokens": {"text": "", "prefix": "", "suffix": ""},
    "endpoint": "http://localhost", "temperature": 0.7, "title": "Lamp",
}  # fmt: skip
KOBOLD = {
    "gamestarted": True, "prompt": "The night ferry was late,", "memory": "Harbour.",
    "authorsnote": "", "actions": [" as ever.", " Mara slept."], "actions_metadata": {},
    "worldinfo": [], "anotetemplate": "<|>",
}  # fmt: skip


def test_stories_of_other_programs_come_in_and_what_is_left_out_is_shown(page: Page) -> None:
    kobold = page.bring_in("ferry.json", json.dumps(KOBOLD).encode())
    assert "KoboldAI" in kobold["form"] and "passages" in kobold["came"]
    mikupad = page.bring_in("lamp.json", json.dumps(MIKUPAD).encode())
    assert "mikupad" in mikupad["form"] and any("settings" in one for one in mikupad["left_out"])
    texts = {read_story(page.studio.stories / one["file"]).text for one in page.stories()}
    assert texts == {"The night ferry was late, as ever. Mara slept.", "The lamp went out."}
    assert not list((page.studio.outputs / ".studio" / "uploads").iterdir()), "sent files are gone"


def test_text_and_markdown_come_in_under_their_names(page: Page) -> None:
    page.bring_in("Bericht über das Meer.txt", b"Das Meer war grau.\n")
    page.bring_in("novel.md", b"# The Sea\n\n## One\n\nIt rained.\n\n## Two\n\nIt stopped.\n")
    found = {one["file"]: one for one in page.stories()}
    assert found["The Sea.json"]["chapters"] == 2
    assert found["Bericht über das Meer.json"]["words"] == 4


def test_word_and_epub_go_out_and_come_in_again(page: Page) -> None:
    story = Story()
    story.chapter("One")
    story.write("“Who is there?” she asked.\nNobody — said a word. 🕯️")
    story.chapter("Two")
    story.write("The lamp went out.")
    story.set("title", title="The Lamp")
    file = StoryFile(page.studio.stories / "lamp.json")
    file.open()
    file.save(story)
    file.close()
    [one] = page.stories()
    for form in ("docx", "epub", "md", "html", "txt", "json"):
        answer = page.client.get(f"/api/library/download/{one['id']}.{form}")
        assert answer.status_code == 200 and len(answer.content) > 50
        header = answer.headers["content-disposition"]
        assert header.startswith("attachment") and f"The%20Lamp.{form}" in header.replace(
            " ", "%20"
        )
        assert answer.headers["content-type"].startswith("application/octet-stream")
        written = Path(page.post("export", id=one["id"], form=form)["file"])
        assert written.parent == page.studio.root / "exports" and written.stat().st_size > 50
        again = page.bring_in(f"back.{form}", answer.content)
        path = page.studio.ids.path(again["id"])
        assert "Nobody — said a word. 🕯️" in read_story(path).text
    assert Path(page.post("export", id=one["id"], form="txt")["file"]).name == "The Lamp-2.txt"
    _sentence(page.post("export", 400, id=one["id"], form="exe"), "can't be written")


def test_a_file_with_several_stories_asks_for_one(page: Page) -> None:
    adventures = [
        {"title": name, "actions": [{"type": "story", "text": f"{name} went."}], "memory": "Sea."}
        for name in ("Ann", "Bea")
    ]
    sent = page.send("all #1.json", json.dumps({"adventures": adventures}).encode())
    answer = page.post("import", 409, upload=sent["id"])
    _sentence(answer, "holds 2 stories")
    assert (answer["stories"], answer["listed"]) == (2, "1 Ann, 2 Bea")
    _sentence(page.post("import", 400, upload=sent["id"], number=3), "holds 2 stories")
    page.post("import", upload=sent["id"], number=2)
    [one] = page.stories()
    assert read_story(page.studio.stories / one["file"]).text == "Bea went."


@pytest.mark.parametrize(
    ("name", "content", "part"),
    [
        ("empty.txt", b"", ""),
        ("noise.json", os.urandom(2000), ""),
        ("no.json", b"{", "no valid JSON"),
        ("list.json", b'[{"a": 1}]', "no story that is known"),
        ("deep.json", b"[" * 100_000, "nested too deeply"),
        ("book.epub", b"PK\x03\x04 and nothing", ""),
        ("book.docx", b"\xd0\xcf\x11\xe0" + b"\0" * 600, ""),
        ("face.png", b"\x89PNG\r\n\x1a\n" + b"\0" * 40, "holds no character"),
        ("face.webp", b"RIFF1234WEBP", "WebP"),
    ],
)
def test_a_file_that_is_no_story_is_refused_in_a_sentence(
    page: Page, name: str, content: bytes, part: str
) -> None:
    sent = page.send(name, content)
    answer = page.client.post("/api/library/import", json={"upload": sent["id"]})
    if answer.status_code == 200:  # an empty text is an empty story, and noise may be text
        assert name in ("empty.txt", "noise.json")
        return
    assert answer.status_code == 400
    _sentence(answer.json(), part)
    assert not page.stories()
    assert not list((page.studio.outputs / ".studio" / "uploads").iterdir())


def _bomb(ending: str, megabytes: int = 90) -> bytes:
    """A packed manuscript that unpacks to very much."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        if ending == "epub":
            archive.writestr("mimetype", "application/epub+zip")
            archive.writestr(
                "META-INF/container.xml",
                '<container xmlns="urn:oasis:names:tc:opendocument:xmlns:container"><rootfiles>'
                '<rootfile full-path="a.opf" media-type="application/oebps-package+xml"/>'
                "</rootfiles></container>",
            )
            archive.writestr(
                "a.opf",
                '<package xmlns="http://www.idpf.org/2007/opf"><manifest>'
                '<item id="a" href="a.xhtml" media-type="application/xhtml+xml"/></manifest>'
                '<spine><itemref idref="a"/></spine></package>',
            )
            name = "a.xhtml"
        else:
            name = "word/document.xml" if ending == "docx" else "story.json"
        with archive.open(name, "w", force_zip64=True) as inner:
            for _ in range(megabytes):
                inner.write(b" " * 1_000_000)
    return stream.getvalue()


@pytest.mark.parametrize("ending", ["epub", "docx", "kaistory"])
def test_a_packed_file_that_unpacks_to_very_much_is_refused(page: Page, ending: str) -> None:
    answer = page.bring_in(f"bomb.{ending}", _bomb(ending, 300), 400)
    assert len(answer["error"]["message"]) < 400
    assert not page.stories()


@pytest.mark.parametrize(
    "name",
    ["../../evil.txt", "/etc/passwd", "..\\evil.txt", "C:\\evil.txt", "a\x00b.txt", "..", ".", "",
     "   ", "\n", "a\u0007.txt", "a/b", "\u202e\u202d"],
    ids=repr,
)  # fmt: skip
def test_hostile_names_are_refused_and_nothing_is_written(page: Page, name: str) -> None:
    answer = page.send(name, b"text", 400)
    message = answer["error"]["message"]
    assert "\u202e" not in message and "\x00" not in message and message
    assert not list(page.studio.root.rglob("*evil*")) and not list(page.studio.root.rglob("pass*"))


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("a" * 255 + ".txt", "a" * 116 + ".txt"),
        ("🕯️" * 80 + ".md", None),
        ("قصة البحر.txt", "قصة البحر.txt"),
        ("\u202egpj.txt", "gpj.txt"),
        (".hidden.txt", "hidden.txt"),
        ("CON.txt", "_CON.txt"),
        ("nul", "_nul"),
        ("what? *now*: <a>|.txt", "what_ _now__ _a__.txt"),
        ("trailing. . ", "trailing"),
        ("no ending", "no ending"),
    ],
)
def test_odd_names_become_names_that_every_system_has(name: str, kept: str | None) -> None:
    found = safe_name(name)
    assert len(found.encode()) <= 120 and "/" not in found and not found.startswith(".")
    assert kept is None or found == kept
    assert found.endswith(".md") or kept is not None


def test_odd_titles_become_file_names() -> None:
    assert file_stem("../../etc/passwd") == "etc passwd"
    assert file_stem("🕯️🕯️") == "" and file_stem("\x00\n/..") == ""
    assert file_stem("قصة البحر") == "قصة البحر"
    assert len(file_stem("ß" * 300).encode()) <= 80


def test_a_file_of_more_bytes_than_are_taken_is_refused(
    page: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploads, "MOST_BYTES", 1000)
    _sentence(page.send("large.txt", b"x" * 1001, 413), "larger than")

    def pieces() -> Any:  # without a length
        for _ in range(30):
            yield b"y" * 100

    answer = page.client.put("/api/uploads", params={"name": "large.txt"}, content=pieces())
    assert answer.status_code == 413
    assert not list((page.studio.outputs / ".studio" / "uploads").iterdir())


@pytest.mark.parametrize(
    "id", ["../ferry.json", "/etc/passwd", "p999", "", 7, None, ["p0"]], ids=str
)
def test_only_ids_of_the_studio_name_files(page: Page, id: Any) -> None:
    for action in ("open", "aside", "back", "rename", "duplicate", "export", "models/aside"):
        answer = page.post(action, 400, id=id, title="x", form="txt")
        _sentence(answer, "no longer known here")
    page.post("import", 400, upload=id)


def test_links_that_lead_out_are_listed_and_never_followed(
    page: Page, tmp_path_factory: Any
) -> None:
    outside = _story(tmp_path_factory.mktemp("outside") / "secret.json", "A secret.")
    page.studio.stories.mkdir()
    (page.studio.stories / "link.json").symlink_to(outside)
    page.studio.outputs.mkdir()
    (page.studio.outputs / "model").symlink_to(outside.parent)
    (outside.parent / "config.json").write_text("{}")
    [one] = page.stories()
    assert "leads out" in one["error"] and one["words"] == 0
    assert page.get("library/search", q="secret")["found"] == []
    assert page.get("library")["models"] == []
    for action in ("open", "aside", "duplicate", "export", "rename"):
        answer = page.post(action, 400, id=one["id"], form="txt", title="x")
        _sentence(answer, "leads out of the studio's folders")
    assert "A secret." in outside.read_text("utf-8")


def test_a_listed_file_that_became_a_link_out_is_not_followed(
    page: Page, tmp_path_factory: Any
) -> None:
    path = _story(page.studio.stories / "ferry.json", "The ferry.")
    outside = _story(tmp_path_factory.mktemp("outside") / "secret.json", "A secret.")
    [one] = page.stories()
    path.unlink()
    path.symlink_to(outside)
    answer = page.client.get(f"/api/library/download/{one['id']}.txt")
    assert answer.status_code == 400 and "secret" not in answer.text.replace("secret.json", "")


def _model(folder: Path, **record: Any) -> Path:
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "starter"}')
    (folder / "adapter_model.safetensors").write_bytes(b"\0" * 1000)
    (folder / "run.json").write_text(json.dumps(record))
    return folder


def test_models_are_listed_with_the_figures_of_their_cards(page: Page) -> None:
    _model(
        page.studio.outputs / "ferry" / "best_model",
        training={"base_val_loss": 3.0, "val_loss": 2.0, "step": 40, "total_steps": 80},
        data={"sources": {"novel": {}}}, created="2026-01-02",
    )  # fmt: skip
    _model(page.studio.outputs / "odd", training={"val_loss": "x", "step": None}, data=3)
    (page.studio.outputs / "ferry" / "checkpoints" / "1").mkdir(parents=True)
    found = {one["name"]: one for one in page.get("library")["models"]}
    ferry = found["outputs/ferry/best_model"]
    assert ferry["figures"][0] == ["held-out perplexity", "20.09 → 7.39"]
    assert ["step", "40 of 80"] in ferry["figures"] and ["trained on", "novel"] in ferry["figures"]
    assert (ferry["kind"], ferry["base"], ferry["bytes"] > 1000) == ("adapter", "starter", True)
    assert found["outputs/odd"]["figures"] == []


def test_a_model_is_set_aside_and_comes_back(page: Page) -> None:
    folder = _model(page.studio.outputs / "ferry" / "best_model")
    [one] = page.get("library")["models"]
    page.post("models/aside", id=one["id"])
    assert not folder.exists() and page.get("library")["models"] == []
    [aside] = page.get("library")["models_aside"]
    assert aside["name"] == "outputs/set aside/ferry/best_model"
    _sentence(page.post("models/aside", 409, id=aside["id"]), "set aside already")
    page.post("models/aside", id=aside["id"], back=True)
    assert (folder / "adapter_model.safetensors").stat().st_size == 1000
    page.studio.engine.name = "outputs/ferry/best_model"
    [one] = page.get("library")["models"]
    assert one["writing"]
    _sentence(page.post("models/aside", 409, id=one["id"]), "the one that writes")


RESULT = {
    "event": "result", "folder": "exports/ferry-gguf", "notes": ["ollama create ferry"],
    "verified": {"ferry.gguf": ["structure: holds 3 tensors as planned"]},
    "export": {"files": {"ferry.gguf": {"what": "GGUF, Q8_0", "bytes": 1000}}},
}  # fmt: skip


def _exported(page: Page, *lines: Any) -> str:
    """An export whose child printed these lines."""
    id = page.studio.runs.new_id("export")
    code = "".join(f"print({json.dumps(json.dumps(line))});" for line in lines)
    record = page.studio.runs.start(id, "export", "ferry as gguf", ["-c", code])
    for _ in range(200):
        page.studio.runs.look()
        if record.ended is not None:
            return id
        time.sleep(0.05)
    raise AssertionError("the child does not end")


def test_an_export_shows_its_progress_and_then_what_was_verified(page: Page) -> None:
    progress = {"event": "progress", "what": "writing ferry.gguf", "done": 3, "total": 9}
    id = _exported(page, progress, RESULT)
    [one] = page.get("library/exports")["exports"]
    assert (one["id"], one["state"], one["progress"]) == (id, "done", None)
    assert one["folder"] == "exports/ferry-gguf" and one["notes"] == ["ollama create ferry"]
    [file] = one["files"]
    assert file == {
        "name": "ferry.gguf", "what": "GGUF, Q8_0", "bytes": 1000,
        "levels": ["structure: holds 3 tensors as planned"],
    }  # fmt: skip


def test_the_last_progress_is_read_from_a_file_that_is_being_written(tmp_path: Path) -> None:
    path = tmp_path / "output"
    assert last_progress(path) is None
    lines = [json.dumps({"event": "progress", "what": "w", "done": n, "total": 9}) for n in (1, 2)]
    path.write_text("x" * 9000 + "\n" + "\n".join(lines) + '\n{"event": "prog')
    assert last_progress(path) == {"what": "w", "done": 2, "total": 9}


def test_a_run_that_was_set_aside_is_listed_and_comes_back(page: Page) -> None:
    id = _exported(page, RESULT)
    page.studio.runs.set_aside(id)
    [aside] = page.get("library")["runs_aside"]
    assert (aside["id"], aside["name"], aside["kind"]) == (id, "ferry as gguf", "export")
    assert page.get("library/exports")["exports"] == []
    page.post("runs/back", id=id)
    assert len(page.get("library/exports")["exports"]) == 1
    assert page.get("library")["runs_aside"] == []
    page.post("runs/back", 404, id="../../etc")


@pytest.mark.parametrize(
    ("body", "part"),
    [
        ({"to": "exe"}, "there is no export to 'exe'"),
        ({}, "there is no export to None"),
        ({"to": "gguf", "quantize": ["Q9"]}, "Q9"),
        ({"to": "gguf", "mood": "good"}, "mood"),
        ({"to": "gguf", "name": "../up"}, "name is '../up'"),
        ({"to": "gguf", "name": "--overwrite"}, "name is '--overwrite'"),
    ],
    ids=str,
)
def test_a_wrong_export_is_refused_before_a_process_starts(
    page: Page, body: dict[str, Any], part: str
) -> None:
    _model(page.studio.outputs / "ferry")
    [one] = page.get("library")["models"]
    _sentence(page.post("models/export", 400, id=one["id"], **body), part)
    assert not page.studio.runs.records()


@pytest.mark.slow
def test_a_model_is_exported_by_a_process_of_its_own(
    page: Page, tiny_model: Any, tiny_tokenizer: Any
) -> None:
    folder = page.studio.outputs / "ferry" / "best_model"
    tiny_model("llama").save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    [one] = page.get("library")["models"]
    page.post("models/export", id=one["id"], to="merged", dtype="fp32", verify=2)
    [record] = page.studio.runs.records()
    for _ in range(1200):
        page.studio.runs.look()
        if record.ended is not None:
            break
        time.sleep(0.1)
    [shown] = page.get("library/exports")["exports"]
    assert shown["state"] == "done", (shown["message"], shown["advice"])
    assert Path(shown["folder"]) == page.studio.root / "exports" / "ferry-merged"
    assert any("equal to the source" in line for one in shown["files"] for line in one["levels"])


def test_a_full_disk_is_said_and_nothing_half_is_left(
    page: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def full(*_: Any, **__: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(uploads, "run_in_threadpool", full)
    answer = page.send("novel.txt", b"text", 507)
    _sentence(answer, "the disk is full")
    assert not list((page.studio.outputs / ".studio").glob("uploads/*"))
