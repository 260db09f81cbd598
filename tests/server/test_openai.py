"""OpenAI's protocol: shapes, figures, streams, refusals."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from creativewritinggpt.generation.engine import write
from creativewritinggpt.generation.sampling.settings import GenerationSettings
from creativewritinggpt.generation.text import encode

PROMPT = "Once upon a time a king"


def complete(client: Any, **body: Any) -> Any:
    answer = client.post("/v1/completions", json={"prompt": PROMPT, "max_tokens": 8, **body})
    assert answer.status_code == 200, answer.text
    return answer.json()


def events(client: Any, path: str = "/v1/completions", **body: Any) -> list[Any]:
    body = {"prompt": PROMPT, "max_tokens": 12, "stream": True, **body}
    with client.stream("POST", path, json=body) as answer:
        assert answer.status_code == 200
        lines = answer.read().decode().split("\n\n")
    assert lines[-2:] == ["data: [DONE]", ""]
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-2] if line[0] != ":"]


def refused(client: Any, path: str = "/v1/completions", **body: Any) -> Any:
    answer = client.post(path, json={"prompt": PROMPT, **body})
    assert 400 <= answer.status_code < 500, answer.text
    error = answer.json()["error"]
    assert error["message"] and error.keys() == {"message", "type", "param", "code"}
    return error


def test_a_completion_is_what_the_engine_writes_with_openais_defaults(serving: Any) -> None:
    client = serving()
    model = client.scheduler.models["tiny"].model
    plain = GenerationSettings(
        max_new_tokens=16, temperature=1, top_p=1, repetition_penalty=1, seed=5, weights="fp32"
    )
    [text] = write(model, PROMPT, plain)
    answer = complete(client, seed=5, max_tokens=None)
    assert answer["object"] == "text_completion" and answer["model"] == "tiny"
    [choice] = answer["choices"]
    assert (choice["text"], choice["index"], choice["logprobs"]) == (text.text, 0, None)
    assert choice["finish_reason"] in ("stop", "length") and answer["seed"] == 5
    ids = encode(model.tokenizer, PROMPT)
    assert answer["usage"]["prompt_tokens"] == len(ids)
    assert answer["usage"]["completion_tokens"] == len(text.tokens)


def test_four_forms_of_a_prompt_mean_the_same(serving: Any) -> None:
    client = serving()
    ids = encode(client.scheduler.models["tiny"].model.tokenizer, PROMPT)
    texts = [
        complete(client, prompt=form, seed=1)["choices"][0]["text"]
        for form in (PROMPT, [PROMPT], ids, [ids], [0, *ids])
    ]
    assert len(set(texts)) == 1


def test_choices_go_by_prompt_then_by_alternative(serving: Any) -> None:
    client = serving()
    answer = complete(client, prompt=["One", "Two two"], n=3, seed=9)
    assert [choice["index"] for choice in answer["choices"]] == list(range(6))
    alone = [complete(client, prompt=text, seed=9 + i)["choices"][0]["text"]
             for text in ("One", "Two two") for i in range(3)]  # fmt: skip
    assert [choice["text"] for choice in answer["choices"]] == alone


def test_best_of_takes_the_likeliest(serving: Any) -> None:
    client = serving()
    every = complete(client, n=6, seed=2, logprobs=0)["choices"]

    def mean(choice: Any) -> float:
        values = choice["logprobs"]["token_logprobs"]
        return sum(values) / len(values) if values else -math.inf

    [best] = complete(client, best_of=6, seed=2, logprobs=0)["choices"]
    assert best["text"] == max(every, key=mean)["text"]


def test_echo_gives_the_models_own_figures_of_the_prompt(serving: Any) -> None:
    client = serving()
    model = client.scheduler.models["tiny"].model
    ids = encode(model.tokenizer, PROMPT)
    with torch.no_grad():
        logits = model.model(torch.tensor([[0, *ids]])).logits[0].double()
    reference = torch.log_softmax(logits, -1)[range(len(ids)), ids].tolist()
    answer = complete(client, prompt=ids, echo=True, max_tokens=0, logprobs=3)
    [choice] = answer["choices"]
    assert choice["text"] == PROMPT and answer["usage"]["completion_tokens"] == 0
    figures = choice["logprobs"]
    assert figures["token_logprobs"][0] is None and figures["top_logprobs"][0] is None
    assert figures["token_logprobs"][1:] == pytest.approx(reference[1:], abs=1e-5)
    assert "".join(figures["tokens"]) == PROMPT
    offsets = figures["text_offset"]
    assert [
        PROMPT[o : o + len(t)] for o, t in zip(offsets, figures["tokens"], strict=True)
    ] == figures["tokens"]
    greedy = torch.argmax(logits, -1).tolist()
    for place in range(1, len(ids)):
        own, top = figures["token_logprobs"][place], figures["top_logprobs"][place]
        assert figures["tokens"][place] in top and len(top) in (3, 4)
        # What lm-evaluation-harness asks: is the token the likeliest, by exact equality.
        assert (own == max(top.values())) == (greedy[place] == ids[place])


def test_echo_of_a_prompt_with_a_start_of_text_counts_it(serving: Any) -> None:
    client = serving()
    ids = encode(client.scheduler.models["tiny"].model.tokenizer, PROMPT)
    one = complete(client, prompt=[0, *ids], echo=True, max_tokens=1, logprobs=1, temperature=0)
    figures = one["choices"][0]["logprobs"]
    assert len(figures["token_logprobs"]) == len(ids) + 2
    assert figures["token_logprobs"][0] is None
    assert all(value is not None for value in figures["token_logprobs"][1:])


@pytest.mark.parametrize("logprobs", [None, 2])
def test_a_stream_joined_is_the_whole_text(serving: Any, logprobs: int | None) -> None:
    client = serving()
    for seed in range(5):
        body = {"seed": seed, "n": 2, "logprobs": logprobs, "max_tokens": 12, "stop": ["e ", "zz"]}
        whole = complete(client, **body)["choices"]
        chunks = events(client, **body)
        for choice in whole:
            mine = [c["choices"][0] for c in chunks if c["choices"][0]["index"] == choice["index"]]
            assert "".join(chunk["text"] for chunk in mine) == choice["text"]
            reasons = [chunk["finish_reason"] for chunk in mine]
            assert reasons[-1] == choice["finish_reason"] and not any(reasons[:-1])
            if logprobs:
                tokens = [t for c in mine if c["logprobs"] for t in c["logprobs"]["tokens"]]
                assert tokens == choice["logprobs"]["tokens"]


def test_usage_comes_in_a_stream_only_when_asked(serving: Any) -> None:
    client = serving()
    assert all(chunk["choices"] for chunk in events(client))
    last = events(client, stream_options={"include_usage": True})[-1]
    assert last["choices"] == [] and last["usage"]["completion_tokens"] > 0
    assert refused(client, stream_options={"include_usage": True})["param"] == "stream_options"


def test_a_chat_is_a_text_whose_system_turns_are_the_memory(serving: Any) -> None:
    client = serving()
    model = client.scheduler.models["tiny"].model
    messages = [
        {"role": "system", "content": "A fable."},
        {"role": "user", "content": [{"type": "text", "text": "Write."}]},
        {"role": "assistant", "content": "Once"},
        {"role": "user", "content": "More."},
    ]
    body = {"messages": messages, "seed": 4, "max_completion_tokens": 6, "logprobs": True,
            "top_logprobs": 2}  # fmt: skip
    answer = client.post("/v1/chat/completions", json=body).json()
    plain = GenerationSettings(
        max_new_tokens=6, temperature=1, top_p=1, repetition_penalty=1, seed=4, weights="fp32"
    )
    [text] = write(model, "Write.\n\nOnce\n\nMore.\n\n", plain, memory="A fable.\n\n")
    [choice] = answer["choices"]
    assert choice["message"]["content"] == text.text and answer["object"] == "chat.completion"
    figures = choice["logprobs"]["content"]
    wanted = [token.logprob for token in text.tokens]
    assert [entry["logprob"] for entry in figures] == pytest.approx(wanted, abs=1e-5)
    assert all(len(entry["top_logprobs"]) == 2 for entry in figures)
    chunks = events(client, "/v1/chat/completions", **{**body, "prompt": None})
    assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
    assert chunks[-1]["choices"][0]["delta"] == {}
    joined = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)
    assert joined == text.text


def test_a_bias_forbids_and_forces_token_ids(serving: Any) -> None:
    client = serving()
    model = client.scheduler.models["tiny"].model
    [token] = encode(model.tokenizer, "k")
    answer = complete(client, logit_bias={str(token): 100}, temperature=0, max_tokens=3)
    assert answer["choices"][0]["text"] == "kkk"
    assert complete(client, logit_bias={})["choices"]


def test_the_names_of_other_programs_mean_the_same(serving: Any) -> None:
    client = serving()
    ours = complete(client, seed=3, top_k=5, repetition_penalty=1.5, penalty_range=7, max_tokens=20)
    theirs = complete(client, seed=3, top_k=5, repeat_penalty=1.5, repeat_last_n=7, n_predict=9,
                      max_tokens=20)  # fmt: skip
    assert ours["choices"] == theirs["choices"]
    off = complete(client, seed=3, repeat_penalty=1.5, repeat_last_n=0, max_tokens=20)
    assert off["choices"] == complete(client, seed=3, max_tokens=20)["choices"]
    breakers = complete(client, dry_multiplier=1, dry_sequence_breakers='["\\n", ":"]')
    assert breakers["choices"]
    assert complete(client, preset="mystery")["choices"]
    long = complete(client, ignore_eos=True, max_tokens=40)
    assert long["usage"]["completion_tokens"] == 40


def test_what_is_not_offered_is_said_or_refused(serving: Any) -> None:
    client = serving()
    assert "mirostat" in complete(client, mirostat=2, tfs_z=1)["warnings"][0]
    assert "warnings" not in complete(client, mirostat=0, tfs_z=1, grammar="", made_up=5)
    assert refused(serving(strict=True), mirostat=2)["param"] == "mirostat"


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"temperature": 9}, "temperature"),
        ({"temperature": "1"}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"repeat_penalty": 100}, "repeat_penalty"),
        ({"max_tokens": -2}, "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"max_tokens": 10**9}, "max_tokens"),
        ({"n": 0}, "n"),
        ({"n": 100}, "n"),
        ({"n": 3, "best_of": 2}, "best_of"),
        ({"best_of": 3, "stream": True}, "best_of"),
        ({"logprobs": 21}, "logprobs"),
        ({"logit_bias": {"999999": 1}}, "logit_bias"),
        ({"logit_bias": {"5": 101}}, "logit_bias"),
        ({"logit_bias": {"x": 1}}, "logit_bias"),
        ({"logit_bias": "x"}, "logit_bias"),
        ({"stop": 5}, "stop"),
        ({"stop": ["x"] * 17}, "stop"),
        ({"stop": "x" * 300}, "stop"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [[]] * 40}, "prompt"),
        ({"prompt": [1, "a"]}, "prompt"),
        ({"prompt": [5, 400]}, "prompt"),
        ({"prompt": [-1]}, "prompt"),
        ({"prompt": {"a": 1}}, "prompt"),
        ({"stream": "yes"}, "stream"),
        ({"suffix": "end"}, "suffix"),
        ({"preset": "no such"}, "preset"),
        ({"seed": "x"}, "seed"),
    ],
)  # fmt: skip
def test_a_bad_field_is_refused_by_its_name(serving: Any, body: Any, param: str) -> None:
    assert refused(serving(), **body)["param"] == param


def test_a_prompt_longer_than_the_window_is_refused_or_cut(serving: Any) -> None:
    client = serving()
    error = refused(client, prompt=[7] * 1100)
    assert (error["param"], error["code"]) == ("prompt", "context_length_exceeded")
    cut = complete(client, prompt=[7] * 1100, truncate_prompt_tokens=20)
    assert cut["usage"]["prompt_tokens"] == 20


def test_bodies_that_are_no_json_object_are_refused(serving: Callable[..., Any]) -> None:
    client = serving()
    bodies = (b"", b"{", b"[]", b"3", b'"x"', b"\xff\xfe", b'{"temperature": NaN}', b"[" * 100_000,
              b'{"prompt": ' + b"[" * 50_000 + b"]" * 50_000 + b"}")  # fmt: skip
    for body in bodies:
        answer = client.post(
            "/v1/completions", content=body, headers={"content-type": "application/json"}
        )
        assert answer.status_code == 400, body[:40]
    assert complete(client)["choices"]


def test_an_unknown_model_or_path_is_404_with_a_hint(serving: Any) -> None:
    client = serving()
    assert refused(client, model="nope")["code"] == "model_not_found"
    assert client.get("/v1/models/nope").status_code == 404
    for path, hint in (("/completions", "/v1/completions"), ("/v1/v1/models", "/v1/models")):
        answer = client.get(path)
        assert answer.status_code == 404 and hint in answer.json()["error"]["message"]
    assert client.get("/v1/completions").status_code == 405
    listed = client.get("/v1/models").json()["data"]
    assert [(one["id"], one["max_model_len"]) for one in listed] == [("tiny", 1024)]
    assert client.get("/v1/models/tiny").json() == listed[0]


def test_tokens_go_there_and_back(serving: Any) -> None:
    client = serving()
    text = "A café — “naïve” 😀"
    found = client.post("/tokenize", json={"content": text}).json()
    assert found["count"] == len(found["tokens"])
    assert client.post("/detokenize", json={"tokens": found["tokens"]}).json()["content"] == text
    marks = client.post("/tokenize", json={"prompt": "<|endoftext|>"}).json()["tokens"]
    assert marks == [0]
    with_start = client.post("/tokenize", json={"prompt": text, "add_special_tokens": True}).json()
    assert with_start["tokens"] == [0, *found["tokens"]]
    assert client.get("/tokenizer_info").json()["eos_token"] == "<|endoftext|>"


def test_scores_are_the_models_log_probabilities(serving: Any) -> None:
    client = serving()
    model = client.scheduler.models["tiny"].model
    ids = encode(model.tokenizer, PROMPT * 20)
    with torch.no_grad():
        logits = model.model(torch.tensor([[0, *ids]])).logits[0].double()
    reference = torch.log_softmax(logits, -1)[range(len(ids)), ids].tolist()
    body = {"text": PROMPT * 20, "alternatives": 2}
    found = client.post("/v1/scores", json=body).json()
    assert [one["logprob"] for one in found["tokens"]] == pytest.approx(reference, abs=1e-4)
    assert all(len(one["alternatives"]) == 2 for one in found["tokens"])
    assert found["nats_per_token"] == pytest.approx(-sum(reference) / len(ids), abs=1e-5)


def test_an_explanation_is_the_short_answer_or_the_whole_record(serving: Any) -> None:
    client = serving()
    text = "Once upon a time a king had three daughters"
    body = {"text": text, "target": "king"}
    answer = client.post("/v1/explanations", json=body).json()
    assert "'king'" in answer["explanation"] or "probability" in answer["explanation"]
    full = client.post("/v1/explanations", json={**body, "full": True}).json()["explanation"]
    assert {"gradients", "perturbation", "attention"} <= full.keys()
    assert client.post("/v1/explanations", json={"text": text}).status_code == 400
    wrong = client.post("/v1/explanations", json={"text": text, "target": "zebra"})
    assert wrong.status_code == 400 and "zebra" in wrong.json()["error"]["message"]


@pytest.mark.parametrize("prompt", ["Once upon a ", "Once upon a ki", "Once upon a king"])
def test_the_end_of_a_text_heals_as_in_the_engine(serving: Any, prompt: str) -> None:
    client = serving()
    model = client.scheduler.models["tiny"].model
    for heal in (True, False):
        plain = GenerationSettings(max_new_tokens=8, temperature=1, top_p=1, repetition_penalty=1,
                                   seed=5, weights="fp32", heal=heal)  # fmt: skip
        [text] = write(model, prompt, plain)
        body = {"prompt": prompt, "seed": 5, "heal": heal}
        assert complete(client, **body)["choices"][0]["text"] == text.text
        chunks = events(client, max_tokens=8, **body)
        assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == text.text


MIKUPAD = {
    "stream": True, "prompt": "Once upon a time a king", "max_tokens": 12, "n_predict": 12,
    "temperature": 1, "dynatemp_range": 0, "dynatemp_exponent": 1, "repeat_penalty": 1,
    "repetition_penalty": 1, "rep_pen": 1, "repeat_last_n": 256, "top_k": 40, "top_p": 0.95,
    "min_p": 0.05, "typical_p": 1, "tfs_z": 1, "mirostat": 0, "mirostat_tau": 5,
    "mirostat_eta": 0.1, "xtc_threshold": 0.1, "xtc_probability": 0, "dry_multiplier": 0,
    "dry_sequence_breakers": ["\n", ":", '"', "*"], "banned_tokens": [], "logit_bias": {},
    "ignore_eos": False, "add_bos_token": True, "skip_special_tokens": False, "logprobs": 10,
    "n_probs": 10, "seed": 7, "grammar": "", "model": "",
}  # fmt: skip
"""The shape of what mikupad sends to an OpenAI-compatible server."""


def test_mikupad_finds_every_token_among_its_alternatives(serving: Any) -> None:
    client = serving(origins=["null"])
    answer = client.post("/v1/completions", json=MIKUPAD, headers={"origin": "null"})
    assert answer.headers["access-control-allow-origin"] == "null"
    lines = answer.text.split("\n\n")[:-2]
    chunks = [json.loads(line.removeprefix("data: "))["choices"][0] for line in lines]
    seen = [chunk for chunk in chunks if chunk["logprobs"] and chunk["logprobs"]["tokens"]]
    assert len(seen) > 3
    for chunk in seen:
        [token], [top] = chunk["logprobs"]["tokens"], chunk["logprobs"]["top_logprobs"]
        assert token in top and 10 <= len(top) <= 11
        # An incomplete character waits for its rest; every other token is its event's text.
        assert chunk["text"] in (token, "") or "\ufffd" in chunk["text"]
