"""A server under mixed load for some time: no error, memory and open files stay as they are.

    python bench/soak.py [--minutes 30] [--url URL]

Streams, whole answers, chats, scores, clients that go away in mid-stream, bad requests. Without
`--url` the starter is served in a process of its own, whose memory and open files are told every
tenth of the time. Exit code 1 where an answer was none of those expected.
"""

from __future__ import annotations

import argparse
import collections
import json
import random
import sys
import threading
import time

import httpx
import psutil
from serve import Served, ours

CLIENTS = 6


def one_request(client: httpx.Client, url: str, random_: random.Random) -> str:
    """One request of a random kind; its kind and outcome."""
    words = " ".join(random_.choices(["the", "ferry", "king", "sea", "was", "late"], k=30))
    body = {"prompt": words, "max_tokens": random_.choice([1, 8, 40]), "ignore_eos": True}
    kind = random_.choice(["whole", "stream", "leave", "chat", "score", "bad", "kobold"])
    if kind == "whole":
        status = client.post(f"{url}/v1/completions", json={**body, "n": 2}).status_code
    elif kind == "chat":
        messages = [{"role": "user", "content": words}]
        status = client.post(
            f"{url}/v1/chat/completions", json={"messages": messages, "max_tokens": 8}
        ).status_code
    elif kind == "score":
        status = client.post(f"{url}/v1/scores", json={"text": words}).status_code
    elif kind == "kobold":
        status = client.post(
            f"{url}/api/v1/generate", json={"prompt": words, "max_length": 8}
        ).status_code
    elif kind == "bad":
        bad = client.post(f"{url}/v1/completions", json={**body, "temperature": 99})
        status = 200 if bad.status_code == 400 else bad.status_code
    else:
        if kind == "leave":
            body["max_tokens"] = 2000
        with client.stream(
            "POST", f"{url}/v1/completions", json={**body, "stream": True}
        ) as answer:
            status = answer.status_code
            for number, _ in enumerate(answer.iter_lines()):
                if kind == "leave" and number > 4:
                    break
    return f"{kind} {status}"


def main() -> int:
    """Run the load."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--url")
    arguments = parser.parse_args()
    server = None if arguments.url else Served(ours())
    url = arguments.url or (server.url if server else "")
    end = time.monotonic() + 60 * arguments.minutes
    outcomes: collections.Counter[str] = collections.Counter()
    lock = threading.Lock()

    def load(seed: int) -> None:
        random_ = random.Random(seed)
        with httpx.Client(timeout=120) as client:
            while time.monotonic() < end:
                try:
                    outcome = one_request(client, url, random_)
                except httpx.HTTPError as error:
                    outcome = f"error {type(error).__name__}"
                with lock:
                    outcomes[outcome] += 1

    threads = [threading.Thread(target=load, args=(seed,)) for seed in range(CLIENTS)]
    for thread in threads:
        thread.start()
    process = psutil.Process(server.popen.pid) if server else None
    told = []
    while any(thread.is_alive() for thread in threads):
        time.sleep(6 * arguments.minutes)
        if process is not None:
            told.append(
                {"minutes": round(arguments.minutes - (end - time.monotonic()) / 60, 2),
                 "memory_mb": round(process.memory_info().rss / 2**20),
                 "files": process.num_fds() if hasattr(process, "num_fds") else None}
            )  # fmt: skip
            print(json.dumps(told[-1]), file=sys.stderr, flush=True)
    for thread in threads:
        thread.join()
    stats = httpx.get(f"{url}/stats", timeout=30).json()
    if server is not None:
        server.close()
    failed = {name: count for name, count in outcomes.items() if not name.endswith(" 200")}
    print(json.dumps({"outcomes": dict(sorted(outcomes.items())), "failed": failed, "told": told,
                      "after_cancel": stats["tokens_after_cancel_total"],
                      "cancelled": stats["cancelled_total"]}, indent=1))  # fmt: skip
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
