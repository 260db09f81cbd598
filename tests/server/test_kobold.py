"""KoboldAI's protocol, as KoboldAI Lite, SillyTavern and mikupad speak it."""

from __future__ import annotations

import json
import re
from typing import Any

from creativewritinggpt.generation.text import encode

LITE = {
    "n": 1, "max_context_length": 512, "max_length": 12, "rep_pen": 1.07, "temperature": 0.75,
    "top_p": 0.92, "top_k": 100, "top_a": 0, "typical": 1, "tfs": 1, "rep_pen_range": 360,
    "rep_pen_slope": 0.7, "sampler_order": [6, 0, 1, 3, 4, 2, 5], "memory": "A tale.\n",
    "trim_stop": True, "genkey": "KCPP1234", "min_p": 0, "dynatemp_range": 0,
    "dynatemp_exponent": 1, "smoothing_factor": 0, "nsigma": 0, "banned_tokens": [],
    "render_special": False, "logprobs": True, "replace_instruct_placeholders": True,
    "presence_penalty": 0, "logit_bias": {}, "stop_sequence": ["\nUser:"], "mirostat": 0,
    "mirostat_tau": 5, "mirostat_eta": 0.1, "use_default_badwordsids": False, "bypass_eos": False,
    "prompt": "Once upon a time a king",
}  # fmt: skip
"""The shape of what KoboldAI Lite sends."""


def test_lite_connects_generates_looks_and_aborts(serving: Any) -> None:
    client = serving()
    assert client.get("/api/v1/model").json()["result"] not in ("", "ReadOnly")
    assert client.get("/api/v1/info/version").json() == {"result": "1.2.5"}
    version = client.get("/api/extra/version").json()
    assert version["result"] == "KoboldCpp" and version["txt2img"] is False
    for path in ("/api/v1/config/max_context_length", "/api/extra/true_max_context_length"):
        assert client.get(path).json() == {"value": 1024}
    assert client.get("/api/extra/perf").json()["queue"] == 0
    assert client.get("/sdapi/v1/sd-models").json() == []
    answer = client.post("/api/v1/generate", json={**LITE, "sampler_seed": 3})
    [result] = answer.json()["results"]
    assert result["finish_reason"] in ("length", "stop") and result["prompt_tokens"] > 0
    tokens = result["logprobs"]["content"]
    written = bytes(byte for token in tokens for byte in token["bytes"])
    assert written.decode("utf-8", "replace") == result["text"]
    looked = client.post("/api/extra/generate/check", json={"genkey": "KCPP1234"}).json()
    assert looked == {"results": [{"text": result["text"]}]}
    assert client.get("/api/extra/generate/check?genkey=none").json()["results"][0]["text"] == ""
    assert client.post("/api/extra/abort").json() == {"success": False, "done": False}
    logged = client.post("/api/extra/last_logprobs", json={"genkey": "KCPP1234"}).json()
    assert logged["logprobs"]["content"] == tokens


def test_lites_stream_has_events_that_its_parser_reads(serving: Any) -> None:
    client = serving()
    whole = client.post("/api/v1/generate", json={**LITE, "sampler_seed": 3}).json()["results"][0]
    text = client.post("/api/extra/generate/stream", json={**LITE, "sampler_seed": 3}).text
    assert "\r" not in text
    found = re.findall(r"^event: (.*)\ndata: (.*)(?:\r?\n){2}", text, re.MULTILINE)
    assert {name for name, _ in found} == {"message"}
    events = [json.loads(data) for _, data in found]
    assert "".join(event["token"] for event in events) == whole["text"]
    assert events[-1]["finish_reason"] == whole["finish_reason"]


def test_a_prompt_that_is_too_long_is_cut_at_its_beginning(serving: Any) -> None:
    client = serving()
    body = {"prompt": "one two three " * 2000, "max_length": 5, "max_context_length": 200}
    [result] = client.post("/api/v1/generate", json=body).json()["results"]
    assert result["prompt_tokens"] <= 200
    [result] = client.post("/api/v1/generate", json={**body, "max_context_length": 9**9}).json()[
        "results"
    ]
    assert 900 < result["prompt_tokens"] < 1024


def test_tokens_are_counted_with_the_start_of_text(serving: Any) -> None:
    client = serving()
    ids = encode(client.scheduler.models["tiny"].model.tokenizer, "a king")
    assert client.post("/api/extra/tokencount", json={"prompt": "a king"}).json() == {
        "value": len(ids) + 1, "ids": [0, *ids],
    }  # fmt: skip
    answer = client.post("/api/extra/detokenize", json={"ids": [0, *ids]}).json()
    assert answer["result"] == "a king"


def test_errors_have_kobolds_form(serving: Any) -> None:
    client = serving()
    for body in ({"prompt": 5}, {"max_length": 0}, {"temperature": -1}, {"rep_pen": "x"}):
        answer = client.post("/api/v1/generate", json=body)
        assert answer.status_code == 400 and answer.json()["detail"].keys() == {"msg", "type"}
    assert client.get("/api/v1/none").json()["detail"]["msg"]
