"""The order of `crib conform`: connect, prepare, run, clean up, report."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from crib.client import ClientError, Connection
from crib.conform import cgroups, running
from crib.conform.cases import every
from crib.conform.running import CaseResult
from crib.conform.subject import CGROUP, CLEAN_LIMIT, DEFAULT_IMAGE, Subject

if TYPE_CHECKING:
    from crib.conform.case import Case
    from crib.stubs.runtime.v1 import api_pb2 as pb

DIRECTORY = "crib-conform-"
"""What the names of runs' directories begin with."""
UNMOUNT_SECONDS = 30.0
"""For one umount."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is asked for. `limit` is in seconds, for each case."""

    image: str = DEFAULT_IMAGE
    pull_image: str = ""
    handler: str = ""
    only: Sequence[str] = ()
    parallel: int = 4
    limit: float = 120.0


@dataclass(frozen=True, slots=True)
class ConformReport:
    """A run's end. `left` is what could not be removed."""

    endpoint: str
    version: pb.VersionResponse
    results: Sequence[CaseResult]
    seconds: float
    left: Sequence[str] = field(default=())

    @property
    def passed(self) -> bool:
        """Whether no must-case failed."""
        return not any(result.counts for result in self.results)


def cases(only: Sequence[str]) -> list[Case]:
    """Those that the patterns pick; ClientError when there is none."""
    found = running.picked(every(), only)
    if not found:
        raise ClientError(f"no case is like {', '.join(map(repr, only))}; see --list")
    return found


async def conform(connection: Connection, plan: Plan, tell: Callable[[CaseResult], None]) -> ConformReport:
    """Run the cases against a runtime. ClientError when it cannot be used at all."""
    wanted = cases(plan.only)
    directory = tempfile.mkdtemp(prefix=DIRECTORY)
    # a runtime's unprivileged parts, and users of containers, read files below
    os.chmod(directory, 0o755)  # noqa: S103  # holds nothing secret
    subject = Subject(connection, directory, plan.image, plan.pull_image, plan.handler)
    began = time.monotonic()
    left: list[str] = []
    try:
        await subject.prepare()
        results = await running.run_cases(subject, wanted, plan.parallel, plan.limit, tell)
    finally:
        left += await asyncio.shield(_cleaned(subject))
    return ConformReport(connection.endpoint, subject.version, results, time.monotonic() - began, left)


async def _cleaned(subject: Subject) -> list[str]:
    try:
        async with asyncio.timeout(CLEAN_LIMIT):
            return await subject.clean(subject.run)
    except TimeoutError:
        return [f"not everything was removed within {CLEAN_LIMIT:g} s; see --clean"]
    except ClientError as error:
        return [f"what is left was not removed: {error}; see --clean"]
    finally:
        cgroups.remove(subject.cgroup)
        await asyncio.to_thread(_remove_directory, subject.directory)


def _remove_directory(directory: str) -> None:
    """With what a case that was cut off has mounted below, and nobody else will unmount."""
    with open("/proc/self/mountinfo", encoding="utf-8") as file:
        points = [line.split()[4] for line in file]
    for point in reversed(points):
        if point.startswith(f"{directory}/"):
            subprocess.run(["umount", point], stderr=subprocess.DEVNULL, timeout=UNMOUNT_SECONDS, check=False)
    shutil.rmtree(directory, ignore_errors=True)


async def clean(connection: Connection) -> list[str]:
    """Remove pods, cgroups and directories of all runs, also of killed ones; what failed is given back."""
    left = await Subject(connection, "").clean()
    for name in cgroups.named(CGROUP):
        cgroups.remove(name)
    for entry in list(os.scandir(tempfile.gettempdir())):
        if entry.name.startswith(DIRECTORY) and entry.is_dir(follow_symlinks=False):
            await asyncio.to_thread(_remove_directory, entry.path)
    return left
