"""The cases, a module for each part of the interface. `every` is all of them."""

from __future__ import annotations

import importlib

from crib.conform.case import Case, declared

MODULES = (
    "runtime",
    "sandboxes",
    "sandbox_fields",
    "namespaces",
    "containers",
    "checkpoints",
    "stops",
    "commands",
    "security",
    "profiles",
    "limits",
    "mounts",
    "logs",
    "executions",
    "streams",
    "lists",
    "stats",
    "events",
    "images",
    "metrics",
)


def every() -> list[Case]:
    """By module, as they are written."""
    for name in MODULES:
        importlib.import_module(f"crib.conform.cases.{name}")
    return declared()
