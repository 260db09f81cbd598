"""The slash commands that write versions of a passage and choose among them.

What was shown and what was taken is recorded in the story; see :mod:`..story.choices`.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import InputError
from ..generation.sampling.settings import SEEDS, seeds_from
from ..story import choices
from ..story.tree import Passage, Story
from .repl import Repl, whole_number

_MOST_ALTERNATIVES = 16


def last_passage(story: Story) -> Passage:
    """The last passage of the branch.

    Raises:
        InputError: The story is empty.
    """
    if story.last is None:
        raise InputError("the story is empty", "type a beginning, or an empty line")
    return story.last


def retry(repl: Repl, rest: str) -> None:
    """``/retry``: another version of the model's last passage."""
    story, settings = repl.session.story, repl.session.settings
    last = last_passage(story)
    if last.by != "model":
        raise InputError(
            "the last passage is not the model's", "an empty line lets the model go on after it"
        )
    seed = whole_number(rest, "/retry", low=0, high=SEEDS - 1) if rest.strip() else None
    if seed is None and settings.seed is not None:
        # The same seed would give the same text.
        seed = seeds_from(settings.seed if last.seed is None else last.seed, 2)[1]
    new = repl.go_on(last.parent, seed=seed, did="retry")
    if new is not None:
        choices.retry(story, last.id, new.id)
        repl.offered = [passage.id for passage in story.versions()]
        if len(repl.offered) > 1:
            repl.screen.note(f"version {len(repl.offered)}; /pick shows them all")


def alternatives(repl: Repl, rest: str) -> None:
    """``/alt``: write several ways to go on."""
    count = whole_number(rest, "/alt", low=2, high=_MOST_ALTERNATIVES, default=3)
    first = repl.session.new_seed()
    ordering = repl.session.ordering()
    if ordering is not None:
        repl.screen.note(f"writing {count} alternatives, best first: {ordering.sentence}")
        written = repl.write(None, seeds_from(first, count), shown=False)
        drafts = [passage for passage, _ in written if passage is not None]
        scores = ordering.scores([passage.text for passage in drafts])
        places = sorted(range(len(drafts)), key=lambda place: -scores[place])
        _offer_new(repl, [drafts[place] for place in places])
        return
    repl.screen.note(f"writing {count} alternatives")
    repl.heading(1, f"seed {first}")
    passages = [passage for passage, _ in repl.write(None, seeds_from(first, count))]
    found = [passage for passage in passages if passage is not None]
    _offer_new(repl, found, int(passages[0] is not None))


def _offer_new(repl: Repl, found: Sequence[Passage], shown: int = 0) -> None:
    """Show new passages in this order; the first ``shown`` are on the screen already."""
    choices.offer(repl.session.story, [p.id for p in found])
    repl.offer([p.id for p in found], [f"seed {p.seed}" for p in found], shown)


def pick(repl: Repl, rest: str) -> None:
    """``/pick``: take a version, or another token of the last passage."""
    story = repl.session.story
    if "." in rest:
        _pick_word(repl, rest)
        return
    if not repl.offered:
        repl.offered = [passage.id for passage in story.versions()]
    if not repl.offered:
        raise InputError("there is nothing to pick from", "/alt writes alternatives")
    if not rest.strip():
        repl.offer(repl.offered, [_label(story, place) for place in repl.offered])
        return
    passage = repl.offered[whole_number(rest, "/pick", high=len(repl.offered)) - 1]
    choices.pick(story, repl.offered, passage)
    repl.screen.flow(story.passages[passage].text)
    repl.screen.end_flow()


def _label(story: Story, place: int) -> str:
    seed, here = story.passages[place].seed, " (this one)" if place == story.state.head else ""
    return (f"seed {seed}" if seed is not None else "yours") + here


def _pick_word(repl: Repl, rest: str) -> None:
    """``/pick 12.2``: replace token 12 by its alternative 2 and go on from there."""
    last = last_passage(repl.session.story)
    place, _, choice = rest.strip().partition(".")
    tokens = repl.session.tokens_of(last)
    index = whole_number(place, "/pick", high=len(tokens)) - 1
    count = sum(one.id != tokens[index].id for one in tokens[index].before or [])
    number = whole_number(choice, "/pick", high=count) if count else 1
    end = repl.session.replace_token(last, index, number - 1)
    choices.token(repl.session.story, last.id, tokens[index].text)
    repl.screen.flow(end)
    repl.go_on()


def compare(repl: Repl, rest: str) -> None:
    """``/compare``: base and tuned model go on, with the same seed."""
    session = repl.session
    model = session.model
    if not model.adapters:
        raise InputError(
            f"{session.model_name} has no adapter, so there is nothing to compare it with",
            "/model takes an adapter folder, as outputs/best_model",
        )
    seed = session.new_seed()
    repl.screen.note(f"base and tuned, both with seed {seed}")
    repl.heading(1, "base")
    with model.loaded.base():
        [(base, _)] = repl.write(None, [seed], adapters=False)
    repl.heading(2, "tuned")
    [(tuned, _)] = repl.write(None, [seed])
    found = [(p.id, name) for p, name in ((base, "base"), (tuned, "tuned")) if p is not None]
    choices.offer(session.story, [place for place, _ in found])
    repl.offer([place for place, _ in found], [name for _, name in found], len(found))
