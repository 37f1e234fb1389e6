"""What is on disk of a Job: its tries, written before they begin and when they have ended.

Pods may be removed by anyone, and their results with them. Without this file their work would be done again.
"""

from __future__ import annotations

import os

import msgspec

from crib.supervisor.job_decide import JobTry

NAME = "job.json"
MAX_RECORD = 4 << 20
"""Bytes: MAX_TRIES of them, each with its verdict."""


class JobRecord(msgspec.Struct, frozen=True):
    """`since` is when somebody asked for it: with another one it begins anew. A `phase` is the last one."""

    since: float
    tries: tuple[JobTry, ...] = ()
    finished: float = 0.0
    phase: str = ""
    message: str = ""


def has_record(directory: str) -> bool:
    """Whether it has one, of whatever life."""
    return os.path.exists(os.path.join(directory, NAME))


def read_record(directory: str, since: float) -> JobRecord:
    """The record of this life of the Job; an empty one where there is none. OSError, ValueError."""
    try:
        with open(os.path.join(directory, NAME), "rb") as file:
            found = msgspec.json.decode(file.read(MAX_RECORD), type=JobRecord)
    except FileNotFoundError:
        return JobRecord(since)
    return found if found.since == since else JobRecord(since)


def write_record(directory: str, record: JobRecord) -> None:
    """Put it in place of what was there, for good. OSError."""
    os.makedirs(directory, mode=0o750, exist_ok=True)
    path = os.path.join(directory, NAME)
    part = f"{path}.part"
    with open(os.open(part, os.O_CREAT | os.O_TRUNC | os.O_WRONLY | os.O_CLOEXEC, 0o600), "wb") as file:
        file.write(msgspec.json.encode(record))
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
