"""docs/cri-conformance.md has a row for every field of the messages that make pods and containers.

That the test in each row exists is test_papers.py's matter.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from crib.stubs.runtime.v1 import api_pb2

ROOT = Path(__file__).parents[2]
MESSAGES = (
    "ContainerConfig",
    "LinuxContainerConfig",
    "LinuxContainerSecurityContext",
    "LinuxContainerResources",
    "NamespaceOption",
    "Mount",
    "Device",
    "PodSandboxConfig",
    "LinuxPodSandboxConfig",
    "LinuxSandboxSecurityContext",
)
ROW = re.compile(r"\| `(\w+)` \| (.+) \| `(tests/[\w/]+\.py)::(\w+)` \|")


def rows() -> dict[str, list[tuple[str, ...]]]:
    """Message to its rows: field, what crib does, file, test."""
    found: dict[str, list[tuple[str, ...]]] = {}
    message = ""
    for line in (ROOT / "docs" / "cri-conformance.md").read_text().splitlines():
        if line.startswith("## "):
            message = line[3:]
            found[message] = []
        elif line.startswith("| `"):
            row = ROW.fullmatch(line)
            assert row is not None, f"not a row: {line}"
            found[message].append(row.groups())
    return found


ROWS = rows()


@pytest.mark.parametrize("message", MESSAGES)
def test_every_field_has_a_row(message: str) -> None:
    fields = [field.name for field in getattr(api_pb2, message).DESCRIPTOR.fields]
    assert sorted(row[0] for row in ROWS[message]) == sorted(fields)


def test_there_are_no_other_messages() -> None:
    assert tuple(ROWS) == MESSAGES


def test_no_row_is_a_promise() -> None:
    assert not [row for rows in ROWS.values() for row in rows if "TODO" in row[1]]
