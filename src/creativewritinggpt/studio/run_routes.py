"""The routes of all runs, and with them those of the rooms Train, Judge and Explain."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from urllib.parse import quote

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Route

from . import choosing, explaining, judging, training
from .answers import NotFound, answered, read_object, report
from .runs import PASSING, REPORTS, RunRecord, Runs


def routes(studio: Any) -> list[BaseRoute]:
    """The routes of all runs, and of the rooms Train, Judge and Explain."""
    runs = Runs(studio)
    studio.runs = runs
    own = RunRoutes(runs)
    return [
        Route("/api/runs", answered(own.list), methods=["GET"]),
        Route("/api/runs/{id}", answered(own.one), methods=["GET"]),
        Route("/api/runs/{id}", answered(own.rename), methods=["PATCH"]),
        Route("/api/runs/{id}", answered(own.aside), methods=["DELETE"]),
        Route("/api/runs/{id}/stop", answered(own.stop), methods=["POST"]),
        Route("/api/runs/{id}/log", answered(own.log), methods=["GET"]),
        Route("/api/runs/{id}/result", answered(own.result), methods=["GET"]),
        Route("/api/runs/{id}/curves", answered(own.curves), methods=["GET"]),
        Route("/api/runs/{id}/report", answered(own.report), methods=["GET"]),
        *training.routes(studio, runs),
        *choosing.routes(training.Training(studio, runs)),
        *judging.routes(studio, runs),
        *explaining.routes(studio, runs),
    ]


class RunRoutes:
    """Handlers of what all kinds of runs share."""

    def __init__(self, runs: Runs) -> None:
        self.runs = runs

    async def list(self, http: Request) -> Response:
        """``GET /api/runs``: all runs but the passing ones, newest first."""

        def listed() -> list[dict[str, Any]]:
            self.runs.look()
            kept = (one for one in self.runs.records() if one.kind not in PASSING)
            return [self.runs.show(one) for one in kept]

        return JSONResponse({"runs": await run_in_threadpool(listed)})

    async def one(self, http: Request) -> Response:
        """``GET /api/runs/{id}``."""
        return await self._shown(self.runs.get(http.path_params["id"]))

    async def rename(self, http: Request) -> Response:
        """``PATCH /api/runs/{id} {name}``."""
        name = str((await read_object(http)).get("name", ""))
        return await self._shown(self.runs.rename(http.path_params["id"], name))

    async def aside(self, http: Request) -> Response:
        """``DELETE /api/runs/{id}``: set aside."""
        await run_in_threadpool(self.runs.set_aside, http.path_params["id"])
        return JSONResponse({})

    async def stop(self, http: Request) -> Response:
        """``POST /api/runs/{id}/stop``."""
        return await self._shown(await run_in_threadpool(self.runs.stop, http.path_params["id"]))

    async def log(self, http: Request) -> Response:
        """``GET /api/runs/{id}/log``: text."""
        self.runs.get(http.path_params["id"])
        return PlainTextResponse(await run_in_threadpool(self.runs.log, http.path_params["id"]))

    async def result(self, http: Request) -> Response:
        """``GET /api/runs/{id}/result``: what the command printed.

        Raises:
            NotFound: There is no result yet.
        """
        record = self.runs.get(http.path_params["id"])
        found = await run_in_threadpool(self.runs.result, record.id)
        if found is None:
            raise NotFound("this run has no result yet")
        return JSONResponse(found)

    async def report(self, http: Request) -> Response:
        """``GET /api/runs/{id}/report``: its page, for a sandboxed frame or as a download.

        Raises:
            NotFound: It has none.
        """
        record = self.runs.get(http.path_params["id"])
        name = REPORTS.get(record.kind)
        path = Path(record.output) / (name or "")
        if name is None or not path.is_file():
            raise NotFound("this run has no report yet", "wait until it has ended")
        answer = report(await run_in_threadpool(path.read_bytes))
        if "download" in http.query_params:
            file = re.sub(r"[^\w.-]+", "-", f"{record.name}.html")
            answer.headers["content-disposition"] = f"attachment; filename*=UTF-8''{quote(file)}"
        return answer

    async def curves(self, http: Request) -> Response:
        """``GET /api/runs/{id}/curves``."""
        curves = self.runs.curves(http.path_params["id"])

        def read() -> dict[str, Any]:
            curves.follow()
            return curves.to_dict()

        return JSONResponse(await run_in_threadpool(read))

    async def _shown(self, record: RunRecord) -> Response:
        return JSONResponse({"run": await run_in_threadpool(self.runs.show, record)})
