"""The described interface, by requests that are made from its description."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings

schemathesis = pytest.importorskip("schemathesis")


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["POSITIVE", "NEGATIVE"])
def test_no_request_made_from_the_description_is_a_server_error(
    server: Callable[..., Any], mode: str
) -> None:
    from schemathesis.specs.openapi import checks

    running = server("--weights", "fp32", "--request-seconds", "1")
    schema = schemathesis.openapi.from_url(f"{running.url}/openapi.json")
    kept = [
        schemathesis.checks.not_a_server_error,
        checks.status_code_conformance,
        checks.content_type_conformance,
        checks.response_schema_conformance,
    ]
    asked = 0
    for found in schema.get_all_operations():
        operation = found.ok()

        @given(case=operation.as_strategy(generation_mode=schemathesis.GenerationMode[mode]))
        @settings(
            max_examples=25, deadline=None, derandomize=True, database=None,
            phases=[Phase.explicit, Phase.generate], suppress_health_check=list(HealthCheck),
        )  # fmt: skip
        def ask(case: Any) -> None:
            nonlocal asked
            asked += 1
            case.call_and_validate(checks=kept, timeout=30)

        try:
            ask()
        except Exception as error:
            if type(error).__name__ != "Unsatisfiable":  # nothing can be wrong in a bare GET
                raise
    assert asked > 150 and running.popen.poll() is None
