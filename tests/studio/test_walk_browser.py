"""A walk of a writer through the page: one text on the page, in the studio and in the file."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
from browser import TEXT, idle, story_box, wait_for, wait_saved

pytestmark = pytest.mark.browser

WRITE = "studio.rooms.write.write"
WORDS = (
    "Mara",
    "the lamp.",
    "\u201cNo,\u201d he said.",
    "🕯️",
    "cafe\u0301",
    "👩‍👩‍👧 came",
    "قصة",
    "  ",
)
Step = Callable[[Any, random.Random], None]


def _caret(page: Any, chance: random.Random) -> None:
    """Put the caret somewhere in the text, not within a character."""
    page.evaluate(
        f"(share) => {{ const signs = [...{TEXT}]; const at = Math.floor(share * signs.length);"
        f"{WRITE}.view.dispatch({{selection: {{anchor: signs.slice(0, at).join('').length}}}});"
        f"{WRITE}.view.focus(); }}",
        chance.random(),
    )


def _post(page: Any, path: str, body: dict[str, Any]) -> None:
    page.evaluate(f"([path, body]) => {WRITE}.post(path, body).then(() => {{}})", [path, body])


def type_at_the_end(page: Any, chance: random.Random) -> None:
    page.keyboard.press("Control+End")
    page.keyboard.type(f" {chance.choice(WORDS)}")


def type_inside(page: Any, chance: random.Random) -> None:
    _caret(page, chance)
    page.keyboard.type(chance.choice(WORDS))
    if chance.random() < 0.5:
        page.keyboard.press("Enter")


def erase(page: Any, chance: random.Random) -> None:
    _caret(page, chance)
    for _ in range(chance.randrange(1, 6)):
        page.keyboard.press("Backspace")


def overwrite(page: Any, chance: random.Random) -> None:
    _caret(page, chance)
    for _ in range(chance.randrange(1, 4)):
        page.keyboard.press("Control+Shift+ArrowRight")
    page.keyboard.type(chance.choice(WORDS))


def go_on(page: Any, chance: random.Random) -> None:
    page.keyboard.press("Control+End")
    page.keyboard.press("Control+Enter")


def go_on_inside(page: Any, chance: random.Random) -> None:
    _caret(page, chance)
    page.keyboard.press("Control+Enter")


def stop(page: Any, chance: random.Random) -> None:
    go_on(page, chance)
    page.wait_for_timeout(chance.randrange(60))
    page.keyboard.press("Escape")


def type_beside_the_model(page: Any, chance: random.Random) -> None:
    go_on(page, chance)
    page.wait_for_timeout(chance.randrange(60))
    type_inside(page, chance)


def another_version(page: Any, chance: random.Random) -> None:
    go_on(page, chance)
    idle(page)
    page.keyboard.press("Control+Shift+Enter")
    if chance.random() < 0.5:
        idle(page)
        page.keyboard.press("Alt+ArrowUp")


def undo(page: Any, chance: random.Random) -> None:
    for _ in range(chance.randrange(1, 4)):
        page.keyboard.press("Control+z")


def redo(page: Any, chance: random.Random) -> None:
    undo(page, chance)
    idle(page)
    page.keyboard.press("Control+Shift+z")


def memory(page: Any, chance: random.Random) -> None:
    _post(page, "/api/story/set", {"memory": chance.choice(WORDS)})


def chapter(page: Any, chance: random.Random) -> None:
    _post(page, "/api/story/chapter", {"title": chance.choice(WORDS[:4])})


def branch(page: Any, chance: random.Random) -> None:
    name = f"branch {chance.randrange(10**6)}"
    _post(page, "/api/story/branch", {"name": name})
    page.keyboard.type(" Another way.")


def other_branch(page: Any, chance: random.Random) -> None:
    names = page.evaluate(f"{WRITE}.story().branches.map((one) => one.name)")
    _post(page, "/api/story/goto", {"branch": chance.choice(names)})


def reload(page: Any, chance: random.Random) -> None:
    type_at_the_end(page, chance)
    page.reload()
    story_box(page).wait_for()
    wait_for(page, "Boolean(globalThis.studio?.rooms.write)")


STEPS: tuple[Step, ...] = (
    type_at_the_end, type_inside, erase, overwrite, go_on, go_on_inside, stop,
    type_beside_the_model, another_version, undo, redo, memory, chapter, branch, other_branch,
    reload,
)  # fmt: skip


@pytest.mark.parametrize("seed", [23, 24])
def test_page_studio_and_file_have_one_text_after_every_step(
    studio: Any, page_of: Any, seed: int
) -> None:
    running = studio("random", delay=0.003)
    page, client = page_of(running), running.client()
    values = {"max_new_tokens": 10, "temperature": 1.2}
    assert client.patch("/api/settings", json={"values": values}).is_success
    story_box(page).click()
    page.keyboard.type("It was late, and the ferry had gone.")
    chance = random.Random(seed)
    walk = list(STEPS)
    chance.shuffle(walk)
    done = []
    for step in walk:
        step(page, chance)
        done.append(step.__name__)
        idle(page)
        shown = wait_saved(page, running)
        assert client.get("/api/state").json()["story"]["text"] == shown, done
    assert page.get_by_role("dialog").count() == 0
    for _ in range(500):  # all the way back
        if not client.post("/api/story/undo", json={"tab": page.evaluate("studio.tab")}).json()[
            "done"
        ]:
            break
    wait_for(page, f"{TEXT} === ''")
