"""What the daemon and its supervisor tell each other: a pod that is kept up, and how it is.

A unit is a file of its own (JSON), a report a line of JSON on a pipe. Times are nanoseconds since the epoch.
"""

from __future__ import annotations

from typing import Literal

import msgspec

MAX_UNIT = 4 << 20
"""Bytes of a unit: a manifest of at most 1 MiB, quoted."""
MAX_REPORT = 1 << 20
"""Bytes of one line: 100 containers, each with a message."""
MAX_MESSAGE = 1000
"""Characters of a message."""


class Unit(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A pod that somebody wants to be kept up. `manifest` is the text that comes to it, with its uid."""

    namespace: str
    name: str
    uid: str
    pods_dir: str
    manifest: str
    since: int
    """When somebody last asked for it to run."""
    wanted: Literal["run", "stop"] = "run"
    grace: int = -1
    """Seconds for a stop that was asked for; -1: the pod's own."""


class ContainerReport(msgspec.Struct, frozen=True):
    """One container: `state` is a word for people, `until` when its pause is over (0: it has none).

    `probe` is what a probe has found wrong while it runs.
    """

    name: str
    id: str = ""
    state: str = "Waiting"
    message: str = ""
    ready: bool = False
    restarts: int = 0
    exit_code: int = 0
    until: int = 0
    probe: str = ""


class PodReport(msgspec.Struct, frozen=True):
    """One pod. `phase`: Starting, Running, Stopping, Stopped, Succeeded or Failed; of a Job also Suspended.

    `lost`: its sandbox has ended, and not because somebody kept it up.
    """

    uid: str
    phase: str
    message: str = ""
    sandbox: str = ""
    until: int = 0
    containers: tuple[ContainerReport, ...] = ()
    lost: bool = False


def encode_unit(unit: Unit) -> bytes:
    """The content of its file."""
    return msgspec.json.format(msgspec.json.encode(unit)) + b"\n"


def decode_unit(data: bytes) -> Unit:
    """ValueError where it is none."""
    return msgspec.json.decode(data, type=Unit)  # msgspec's errors are ValueErrors


def encode_report(report: PodReport) -> bytes:
    """One line."""
    return msgspec.json.encode(report) + b"\n"


def decode_report(line: bytes) -> PodReport:
    """ValueError where it is none."""
    return msgspec.json.decode(line, type=PodReport)


def unit_file(namespace: str, name: str) -> str:
    """The name of its file; no namespace or name of a pod has an underscore in it."""
    return f"{namespace}_{name}.json"
