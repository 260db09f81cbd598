"""A small model hub on loopback, for the real hub client.

It speaks what ``huggingface_hub`` asks when it fetches a repository: its info at a revision, its
tree, and its files with ETag, commit and ranges. Repositories are folders or dictionaries;
``models`` and ``datasets`` differ only in their addresses. A file can be made to break off in the
middle, and a repository to be gated::

    with HubServer() as hub:
        hub.add("models", "tiny/gpt2", folder)
        ... HF_ENDPOINT=hub.url ...
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import socket
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

_KINDS = ("models", "datasets")


@dataclasses.dataclass
class Repository:
    """The files of one repository, and what its address answers."""

    kind: str
    name: str
    files: dict[str, bytes]
    gated: bool = False
    # How often each file still breaks off in the middle.
    breaks: dict[str, int] = dataclasses.field(default_factory=dict)

    @property
    def commit(self) -> str:
        """The revision: a hash of all that is in it."""
        digest = hashlib.sha1()
        for path, content in sorted(self.files.items()):
            digest.update(path.encode() + b"\0" + hashlib.sha1(content).digest())
        return digest.hexdigest()

    def info(self) -> dict[str, Any]:
        """What the hub says of the repository."""
        return {
            "_id": "0" * 24,
            "id": self.name,
            "modelId": self.name,
            "sha": self.commit,
            "private": False,
            "gated": "manual" if self.gated else False,
            "disabled": False,
            "downloads": 0,
            "likes": 0,
            "tags": [],
            "lastModified": "2026-01-01T00:00:00.000Z",
            "createdAt": "2026-01-01T00:00:00.000Z",
            "siblings": [{"rfilename": path} for path in sorted(self.files)],
        }

    def tree(self, folder: str, recursive: bool) -> list[dict[str, Any]]:
        """The entries below ``folder``."""
        prefix = f"{folder}/" if folder else ""
        entries: dict[str, dict[str, Any]] = {}
        for path in sorted(self.files):
            if not path.startswith(prefix):
                continue
            parts = path[len(prefix) :].split("/")
            for depth in range(1, len(parts)):
                above = prefix + "/".join(parts[:depth])
                if recursive or depth == 1:
                    entries[above] = {"type": "directory", "path": above, "oid": "0" * 40}
            if recursive or len(parts) == 1:
                entries[path] = self.entry(path)
        return list(entries.values())

    def entry(self, path: str) -> dict[str, Any]:
        """One file, as the tree and the paths' info give it."""
        content = self.files[path]
        return {"type": "file", "path": path, "oid": etag(content), "size": len(content)}


def etag(content: bytes) -> str:
    """The name of a content: the hash that git gives it."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class HubServer:
    """The server; use it as a context manager.

    Attributes:
        url: Its address, for ``HF_ENDPOINT``.
        requests: Every request so far, as ``METHOD path``.
        repositories: By kind and name.
    """

    def __init__(self) -> None:
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.requests: list[str] = []
        self.closed = False
        handler = type("Handler", (_Handler,), {"hub": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> HubServer:
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.closed = True
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def add(
        self, kind: str, name: str, content: Path | Mapping[str, bytes], *, gated: bool = False
    ) -> Repository:
        """Serve a folder, or a dictionary of files, as the repository ``name``."""
        assert kind in _KINDS
        if isinstance(content, Path):
            files = {
                path.relative_to(content).as_posix(): path.read_bytes()
                for path in sorted(content.rglob("*"))
                if path.is_file()
            }
        else:
            files = dict(content)
        repository = Repository(kind, name, files, gated)
        self.repositories[kind, name] = repository
        return repository


class _Handler(BaseHTTPRequestHandler):
    """Answers the hub client's requests."""

    hub: HubServer
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Keep the test's output clean."""

    def do_GET(self) -> None:  # noqa: N802
        self._answer()

    def do_HEAD(self) -> None:  # noqa: N802
        self._answer()

    def do_POST(self) -> None:  # noqa: N802
        self._answer()

    def _answer(self) -> None:
        address = urlsplit(self.path)
        path, query = unquote(address.path), parse_qs(address.query)
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length) if length else b""
        self.hub.requests.append(f"{self.command} {path}")
        if self.hub.closed:
            # A kept-alive connection must not outlive the server.
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        for (kind, name), repository in self.hub.repositories.items():
            files = f"/datasets/{name}/resolve/" if kind == "datasets" else f"/{name}/resolve/"
            for start, answer in ((f"/api/{kind}/{name}", self._api), (files, self._file)):
                rest = path.removeprefix(start)
                if rest == path or (answer == self._api and rest[:1] not in ("", "/")):
                    continue
                if repository.gated:
                    self._error(403, "GatedRepo", f"Access to {name} is restricted.")
                else:
                    answer(repository, rest.strip("/").split("/"), query, body)
                return
        if re.match("/api/(models|datasets)/", path):
            self._error(401, "RepoNotFound", "Invalid username or password.")
        else:
            self._error(404, "EntryNotFound", f"no such address: {path}")

    def _api(
        self, repository: Repository, rest: list[str], query: dict[str, list[str]], body: bytes
    ) -> None:
        verb, revision = rest[0], rest[1] if len(rest) > 1 else "main"
        if verb not in ("", "revision", "tree", "paths-info", "refs"):
            self._error(404, "EntryNotFound", f"not spoken here: {verb}")
        elif revision not in ("main", repository.commit):
            self._error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        elif verb == "tree":
            recursive = query.get("recursive", ["false"])[0].lower() == "true"
            self._json(repository.tree("/".join(rest[2:]), recursive))
        elif verb == "paths-info":
            if self.headers.get("Content-Type", "").startswith("application/json"):
                paths = json.loads(body)["paths"]
            else:
                paths = parse_qs(body.decode())["paths"]
            entries = {entry["path"]: entry for entry in repository.tree("", recursive=True)}
            self._json([entries[path] for path in paths if path in entries])
        elif verb == "refs":
            branch = {"name": "main", "ref": "refs/heads/main", "targetCommit": repository.commit}
            self._json({"branches": [branch], "tags": [], "converts": []})
        else:
            self._json(repository.info())

    def _file(
        self, repository: Repository, rest: list[str], query: dict[str, list[str]], body: bytes
    ) -> None:
        revision, path = rest[0], "/".join(rest[1:])
        if revision not in ("main", repository.commit):
            self._error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
            return
        if path not in repository.files:
            self._error(404, "EntryNotFound", "Entry not found")
            return
        content = repository.files[path]
        start, end, status = 0, len(content), 200
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if wanted:
            start, status = int(wanted.group(1)), 206
            end = min(end, int(wanted.group(2)) + 1) if wanted.group(2) else end
            if start >= len(content):
                self._error(416, "RangeNotSatisfiable", "out of range")
                return
        part = content[start:end]
        self.send_response(status)
        self.send_header("Content-Length", str(len(part)))
        self.send_header("Content-Type", "application/octet-stream")
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("ETag", f'"{etag(content)}"')
        self.send_header("X-Repo-Commit", repository.commit)
        if status == 206:
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(content)}")
        self.end_headers()
        if self.command == "HEAD":
            return
        if repository.breaks.get(path, 0) > 0:
            repository.breaks[path] -= 1
            self.wfile.write(part[: len(part) // 2])
            self.wfile.flush()
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        self.wfile.write(part)

    def _json(self, value: Any) -> None:
        content = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _error(self, status: int, code: str, message: str) -> None:
        content = json.dumps({"error": message}).encode()
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", message)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)
