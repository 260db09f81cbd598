"""What the protocols ask of the scheduler, for code that runs in an event loop."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Sequence
from typing import TYPE_CHECKING, Any

from starlette.requests import Request as HttpRequest

from ..errors import InputError
from ..generation.decoder import Request
from ..generation.results import Generated, Piece
from ..generation.sampling.settings import GenerationSettings, seeds_from
from ..generation.text import encode, encode_marked
from .scheduler import Job, Scheduler, ServedModel, Task, Work

if TYPE_CHECKING:
    from ..models.loaded_model import LoadedModel

MOST_ROWS = 32
"""Texts that one request may ask for: prompts × n, or prompts × best_of."""
MOST_WINDOWS = 4
"""Tokens that one request may write, in context lengths."""
MOST_CHARACTERS = 400_000
"""Characters of all prompts of a request."""
PING_SECONDS = 15.0
"""Time after which a stream without news gets a comment, so that nobody takes it for dead."""


class Gone(Exception):
    """The client went away."""


class Run:
    """A job whose pieces arrive in an event loop."""

    def __init__(self, scheduler: Scheduler) -> None:
        self.scheduler = scheduler
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[Piece | list[Generated] | Exception] = asyncio.Queue()
        self.job: Job | None = None

    def on_piece(self, piece: Piece) -> None:
        """Called by the scheduler."""
        self._hand_over(piece)

    def on_end(self, results: list[Generated], error: Exception | None) -> None:
        """Called by the scheduler."""
        self._hand_over(results if error is None else error)

    def _hand_over(self, event: Piece | list[Generated] | Exception) -> None:
        if not _call_in(self._loop, self._events.put_nowait, event):
            self.cancel("shutdown")

    def cancel(self, by: str = "client") -> None:
        """End the writing."""
        if self.job is not None:
            self.job.cancel(by)
            self.scheduler.wake()

    async def pieces(self, ping: float = PING_SECONDS) -> AsyncIterator[Piece | None]:
        """Each new piece; None where nothing came for a while.

        Raises:
            Exception: What ended the job.
        """
        while True:
            try:
                event = await asyncio.wait_for(self._events.get(), ping)
            except TimeoutError:
                yield None
                continue
            if isinstance(event, Exception):
                raise event
            if isinstance(event, list):
                return
            yield event

    async def results(self) -> list[Generated]:
        """The whole texts.

        Raises:
            Exception: What ended the job.
        """
        while True:
            event = await self._events.get()
            if isinstance(event, Exception):
                raise event
            if isinstance(event, list):
                return event


class Service:
    """The served models for the protocols.

    Args:
        scheduler: The scheduler.
        strict: Whether methods that are not offered are refused.
        seconds: Time after which a request's writing ends.
    """

    def __init__(
        self, scheduler: Scheduler, *, strict: bool = False, seconds: float | None = None
    ) -> None:
        self.scheduler = scheduler
        self.strict = strict
        self.seconds = seconds

    @property
    def default(self) -> ServedModel:
        """The model that a request gets that names none."""
        return next(iter(self.scheduler.models.values()))

    async def encode(self, served: ServedModel, text: str, *, marks: bool = False) -> list[int]:
        """Token ids of a text, made in another thread.

        Args:
            served: The model.
            text: The text.
            marks: Whether the names of special tokens in it are those tokens.

        Raises:
            InputError: The text is too long.
        """
        if len(text) > MOST_CHARACTERS:
            raise InputError(f"a prompt may have {MOST_CHARACTERS} characters")
        return await asyncio.to_thread(
            encode_marked if marks else encode, served.model.tokenizer, text
        )

    def start(
        self,
        served: ServedModel,
        prompts: Sequence[str | Sequence[int]],
        settings: GenerationSettings,
        count: int,
        *,
        memory: str = "",
        alternatives: int = 0,
        token_bias: dict[int, float] | None = None,
        owner: str = "",
    ) -> Run:
        """Start to write ``count`` texts for each prompt.

        The end of a prompt that is given as text may be re-opened (token healing).

        Raises:
            InputError, QueueFull, Closing: The job is not taken.
        """
        seeds = seeds_from(settings.seed, count)
        requests = [Request(one, seed, memory, owner=owner) for one in prompts for seed in seeds]
        run = Run(self.scheduler)
        run.job = Job(
            served.name, requests, settings, run.on_piece, run.on_end, alternatives, token_bias,
            self.seconds,
        )  # fmt: skip
        self.scheduler.submit(run.job)
        return run

    async def work(
        self,
        served: ServedModel,
        work: Callable[[LoadedModel], Work],
        http: HttpRequest | None = None,
        priority: int = 1,
    ) -> Any:
        """The result of other work on the model.

        Raises:
            Gone: The client went away.
            Exception: What ended the work.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()

        def settle(result: Any, error: Exception | None) -> None:
            if future.done():
                return
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(result)

        def on_end(result: Any, error: Exception | None) -> None:
            _call_in(loop, settle, result, error)

        task = Task(served.name, work, on_end, priority)
        self.scheduler.submit(task)
        try:
            return await present(http, future) if http is not None else await future
        finally:
            if not future.done():
                task.cancel()
                self.scheduler.wake()


def _call_in(loop: asyncio.AbstractEventLoop, act: Callable[..., None], *given: Any) -> bool:
    """Call something in the thread of an event loop; whether that still runs."""
    try:
        loop.call_soon_threadsafe(act, *given)
    except RuntimeError:  # it is closed
        return False
    return True


async def present(http: HttpRequest, awaited: Any) -> Any:
    """The result of something, while the client waits for it.

    Raises:
        Gone: The client went away.
    """
    watch = asyncio.ensure_future(disconnected(http))
    wanted = asyncio.ensure_future(awaited)
    try:
        done, _ = await asyncio.wait({watch, wanted}, return_when=asyncio.FIRST_COMPLETED)
        if wanted in done:
            return wanted.result()
        raise Gone
    finally:
        watch.cancel()
        wanted.cancel()


async def disconnected(http: HttpRequest) -> None:
    """Wait until the client goes away."""
    while (await http.receive())["type"] != "http.disconnect":
        pass


def owner_of(http: HttpRequest) -> str:
    """Whose request it is: the key that it came with, by its number."""
    return str(http.scope.get("cwgpt.key", ""))


def mean_logprob(text: Generated) -> float:
    """What ``best_of`` ranks by; an empty text ranks last."""
    return text.mean_logprob if text.tokens else -math.inf


def window(served: ServedModel) -> int:
    """Tokens of a prompt at most: one place is the start of text, one the next token's."""
    return served.model.context_length - 1


def check_size(served: ServedModel, rows: int, new_tokens: int) -> None:
    """Refuse a request that writes too much.

    Raises:
        InputError: It does.
    """
    most = MOST_WINDOWS * served.model.context_length
    if rows > MOST_ROWS:
        raise InputError(f"a request may ask for {MOST_ROWS} texts, not {rows}")
    if rows * new_tokens > max(most, 8192):
        raise InputError(f"a request may write {max(most, 8192)} tokens, not {rows * new_tokens}")


def without_start(served: ServedModel, ids: Sequence[int]) -> list[int]:
    """Token ids without a leading start of text, which every prompt gets."""
    return list(ids[1:] if ids and ids[0] == served.model.bos_id else ids)
