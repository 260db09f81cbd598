"""The scheduler: the same text however busy it is, cancelling, limits, several models, the end."""

from __future__ import annotations

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch

from creativewritinggpt.generation.decoder import Request
from creativewritinggpt.generation.results import Generated
from creativewritinggpt.generation.sampling.settings import GenerationSettings
from creativewritinggpt.server.scheduler import Job, QueueFull, Scheduler, ServedModel, Task

PROMPTS = ("Once upon a time", "The ferry was late,", "A king had three", "")


def wanted(number: int) -> dict[str, Any]:
    return {
        "prompt": PROMPTS[number % 4] * (1 + 40 * (number % 3)), "seed": number,
        "max_tokens": 5 + 7 * (number % 4), "temperature": 0.6 + 0.1 * (number % 5),
        "repetition_penalty": 1.0 + 0.1 * (number % 2), "stop": ["zz"] if number % 3 else None,
    }  # fmt: skip


class Collected:
    """A job and what came of it."""

    def __init__(self, scheduler: Scheduler, count: int = 1, name: str = "tiny", **changes: Any):
        self.pieces: list[Any] = []
        self.results: list[Generated] | None = None
        self.error: Exception | None = None
        self.ended = threading.Event()
        settings = GenerationSettings(**{"max_new_tokens": 400, "min_new_tokens": 400, **changes})
        requests = [Request([5, 6, 7], seed) for seed in range(count)]
        self.job = Job(name, requests, settings, self.pieces.append, self._end)
        scheduler.submit(self.job)

    def _end(self, results: list[Generated], error: Exception | None) -> None:
        self.results, self.error = results, error
        self.ended.set()

    def wait(self) -> list[Generated]:
        assert self.ended.wait(60)
        assert self.results is not None
        return self.results


@pytest.fixture
def scheduler(serving: Any) -> Scheduler:
    found: Scheduler = serving(max_queue=3, most_rows=2).scheduler
    return found


@pytest.mark.parametrize("weights", ["int8", "onnx"])
def test_64_requests_at_once_write_what_each_writes_alone(serving: Any, tiny_writer: Any,
                                                          weights: str) -> None:  # fmt: skip
    model = tiny_writer("llama", max_position_embeddings=1024, hidden_size=64)
    model.context_length = 1024
    client = serving(model, weights=weights, max_queue=100)

    def ask(number: int) -> Any:
        answer = client.post("/v1/completions", json=wanted(number))
        assert answer.status_code == 200, answer.text
        return answer.json()["choices"][0]["text"]

    alone = [ask(number) for number in range(64)]
    with ThreadPoolExecutor(64) as pool:
        assert list(pool.map(ask, range(64))) == alone
    with ThreadPoolExecutor(64) as pool:
        assert list(pool.map(ask, reversed(range(64)))) == alone[::-1]
    stats = client.get("/stats").json()
    assert stats["rows_total"][""] > 1.5 * stats["steps_total"][""]


def test_a_cancelled_job_ends_within_a_step_and_the_others_go_on(scheduler: Scheduler) -> None:
    one, two = Collected(scheduler), Collected(scheduler, max_new_tokens=60, min_new_tokens=60)
    while not one.pieces:
        time.sleep(0.001)
    one.job.cancel("client")
    written = len(one.pieces)
    [result] = one.wait()
    assert result.finish_reason == "interrupted" and len(one.pieces) - written <= 3
    assert scheduler.metrics.value("tokens_after_cancel_total") <= 1
    assert len(two.wait()[0].tokens) == 60
    assert scheduler.metrics.value("cancelled_total", 'by="client"') == 1


def test_a_job_can_be_cancelled_while_its_prompt_is_read(serving: Any, monkeypatch: Any) -> None:
    client = serving(most_rows=4)
    scheduler: Scheduler = client.scheduler
    Collected(scheduler, max_new_tokens=1, min_new_tokens=0).wait()
    from creativewritinggpt.models.forward.native_backend import NativeContext

    blocks = []
    prefill = NativeContext.prefill

    def slow(self: Any, ids: Any) -> Any:
        blocks.append(len(ids))
        collected.job.cancel("client")
        return prefill(self, ids)

    monkeypatch.setattr(NativeContext, "prefill", slow)
    ended = threading.Event()
    collected = Collected.__new__(Collected)
    collected.job = Job(
        "tiny", [Request([7] * 1000, 1)], GenerationSettings(), lambda piece: None,
        lambda results, error: ended.set(),
    )  # fmt: skip
    scheduler.submit(collected.job)
    assert ended.wait(30) and blocks == [256]


def test_more_than_the_queue_takes_is_refused_at_once(serving: Any) -> None:
    client = serving(max_queue=2, most_rows=1)
    scheduler: Scheduler = client.scheduler
    running = Collected(scheduler)
    while not running.pieces:
        time.sleep(0.001)
    waiting = [Collected(scheduler) for _ in range(2)]
    with pytest.raises(QueueFull):
        Collected(scheduler)
    answer = client.post("/v1/completions", json={"prompt": "x"})
    assert answer.status_code == 429 and int(answer.headers["retry-after"]) >= 1
    assert answer.json()["error"]["code"] == "rate_limit_exceeded"
    assert client.post("/api/v1/generate", json={"prompt": "x"}).status_code == 503
    assert client.get("/health").status_code == 200
    for one in (running, *waiting):
        one.job.cancel("client")
    for one in (running, *waiting):
        one.wait()
    assert client.post("/v1/completions", json={"prompt": "x"}).status_code == 200


def test_a_request_ends_at_its_deadline_with_what_is_written(serving: Any) -> None:
    client = serving(seconds=0.3)
    body = {"prompt": "x", "max_tokens": 8000, "ignore_eos": True}
    answer = client.post("/v1/completions", json=body).json()
    [choice] = answer["choices"]
    assert choice["finish_reason"] == "length" and choice["text"]
    assert answer["usage"]["completion_tokens"] < 8000


def test_damaged_weights_fail_their_requests_alone(serving: Any, tiny_writer: Any) -> None:
    model = tiny_writer("gpt2")
    with torch.no_grad():
        next(iter(model.model.parameters())).fill_(float("nan"))
    client = serving(model)
    for _ in range(2):
        answer = client.post("/v1/completions", json={"prompt": "x"})
        assert answer.status_code == 500 and "NaN" in answer.json()["error"]["message"]
    body = {"prompt": "x", "stream": True}
    text = client.post("/v1/completions", json=body).text
    assert "error" in text and text.endswith("data: [DONE]\n\n")
    assert client.get("/health").status_code == 200


def test_other_work_runs_between_the_steps_and_can_be_cancelled(scheduler: Scheduler) -> None:
    writing = Collected(scheduler)
    units: list[int] = []
    ended: list[Any] = []
    done = threading.Event()

    def work(model: Any) -> Any:
        for number in range(5):
            units.append(len(writing.pieces))
            yield number
        return "result"

    def end(result: Any, error: Exception | None) -> None:
        ended.append((result, error))
        done.set()

    scheduler.submit(Task("tiny", work, end))
    assert done.wait(30) and ended == [("result", None)]
    assert len(set(units)) > 1  # the writing went on between the units

    def endless(model: Any) -> Any:
        while True:
            yield

    done.clear()
    task = Task("tiny", endless, end)
    scheduler.submit(task)
    task.cancel()
    assert done.wait(30) and ended[1][1] is not None
    writing.job.cancel("client")
    writing.wait()


def test_work_that_fails_is_an_error_of_its_own(scheduler: Scheduler) -> None:
    ended: list[Any] = []
    done = threading.Event()

    def work(model: Any) -> Any:
        yield
        raise ValueError("no")

    def end(result: Any, error: Exception | None) -> None:
        ended.append(error)
        done.set()

    scheduler.submit(Task("tiny", work, end))
    assert done.wait(30) and isinstance(ended[0], ValueError)
    assert Collected(scheduler, max_new_tokens=2, min_new_tokens=0).wait()


def test_closing_drains_and_then_ends_what_is_left(tiny_writer: Any) -> None:
    scheduler = Scheduler([ServedModel("tiny", tiny_writer("gpt2"), weights="fp32")])
    scheduler.start()
    short = Collected(scheduler, max_new_tokens=5, min_new_tokens=5)
    long = Collected(scheduler, max_new_tokens=100_000, min_new_tokens=100_000)
    scheduler.close(1.0)
    assert len(short.wait()[0].tokens) == 5
    assert long.wait() == [] and long.error is not None and not scheduler.alive
    with pytest.raises(Exception, match="closing"):
        Collected(scheduler)


def test_adapters_of_one_base_are_models_of_their_own(serving: Any, tiny_writer: Any) -> None:
    import peft

    from creativewritinggpt.generation.style import set_strength

    model = tiny_writer("gpt2")
    config = peft.LoraConfig(
        r=4, target_modules=["c_attn"], fan_in_fan_out=True, init_lora_weights=False
    )
    base = tiny_writer("gpt2")
    model.model = peft.get_peft_model(model.model, config)
    model.has_adapter = True
    scheduler = Scheduler(
        [ServedModel("base", model, lambda: set_strength(model, 0.0), "fp32"),
         ServedModel("tuned", model, lambda: set_strength(model, 1.0), "fp32")]
    )  # fmt: skip
    scheduler.start()
    chosen = {"max_new_tokens": 30, "min_new_tokens": 30, "seed": 1}
    both = [Collected(scheduler, name=name, **chosen) for name in ("base", "tuned", "base")]
    one, two, three = (collected.wait()[0].text for collected in both)
    scheduler.close(0)
    alone = serving(base).scheduler
    assert one == three == Collected(alone, **chosen).wait()[0].text != two


def test_metrics_tell_what_was_done(serving: Any) -> None:
    client = serving()
    client.post("/v1/completions", json={"prompt": "x", "max_tokens": 5, "ignore_eos": True})
    text = client.get("/metrics").text
    assert 'cwgpt_requests_total{status="200"} 1' in text
    assert "cwgpt_generation_tokens_total 5" in text
    assert 'cwgpt_request_success_total{reason="length"} 1' in text
    assert "cwgpt_time_to_first_token_seconds_count 1" in text
    for line in text.splitlines():
        assert line.startswith("# ") or len(line.rsplit(" ", 1)) == 2
    assert json.dumps(client.get("/stats").json())


def test_a_known_beginning_is_not_read_again(serving: Any, monkeypatch: Any) -> None:
    from creativewritinggpt.models.forward.native_backend import NativeContext

    client = serving(keys=["first-key-of-two-keys", "second-key-of-two-keys"])
    blocks: list[int] = []
    prefill = NativeContext.prefill

    def counted(self: Any, ids: Any) -> Any:
        blocks.append(len(ids))
        return prefill(self, ids)

    monkeypatch.setattr(NativeContext, "prefill", counted)

    def ask(prompt: list[int], key: str = "first-key-of-two-keys") -> Any:
        body = {"prompt": prompt, "max_tokens": 2, "seed": 1}
        answer = client.post("/v1/completions", json=body, headers={"x-api-key": key}).json()
        read, blocks[:] = sum(blocks), []
        return answer["choices"][0]["text"], read

    text, read = ask([7] * 600)
    assert read == 601 and ask([7] * 600) == (text, 0)
    assert ask([7] * 600 + [8])[1] == 602 - 512
    # Another key's texts would be told by the time that a prompt takes.
    assert ask([7] * 600, "second-key-of-two-keys") == (text, 601)
