"""Puts what script/man has written into the wheel, if script/package builds it."""

from __future__ import annotations

import os
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class ManHook(BuildHookInterface):  # type: ignore[type-arg]  # generic in its configuration, which we have none of
    """For wheels only, see pyproject.toml."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if share := os.environ.get("CRIB_SHARE"):
            build_data["shared_data"][share] = "share"
