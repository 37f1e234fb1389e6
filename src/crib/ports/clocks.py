"""The clock, and the timer for a stage of a pod's start."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

Clock = Callable[[], int]
"""Nanoseconds since the epoch; tests turn it by hand."""

StageTimer = Callable[[str, str], AbstractContextManager[object]]
"""Gives the context manager that times one stage, by name and subject, of a pod's start (engine.timeline)."""
