"""Manifests for `Client`: from a file or text to pods that run, and back to nothing.

The work is done in `workloads`, which `crib run` uses, too. What only this needs (YAML and the kinds of
Kubernetes) is imported when it is first used.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from crib.client import images, lookup, pods
from crib.client.errors import InvalidRequest, NotFound, RuntimeFailure
from crib.client.images import Pulled
from crib.client.views import pull_report
from crib.stubs.runtime.v1.api_pb2 import AuthConfig, PodSandbox, PodSandboxStatus

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from crib.client.connection import Connection
    from crib.client.views import PullReport
    from crib.client.workloads.launch import Launch
    from crib.manifest.plan import Dirs, Plans
    from crib.stubs.runtime.v1.api_pb2 import AuthConfig


class Listening:
    """A `workloads.start.Listener` that calls functions."""

    def __init__(
        self, progress: Callable[[PullReport], None] | None, note: Callable[[str], None] | None
    ) -> None:
        self._progress = progress
        self._note = note

    def note(self, text: str) -> None:
        """A line for people."""
        if self._note is not None:
            self._note(text)

    def waits_for(self, what: str) -> None:
        """The caller has a time of its own."""

    async def pull(self, connection: Connection, image: str, auth: AuthConfig | None) -> None:
        """Pull this image, and tell how far it is."""
        async for item in images.pull_progress(connection, image, auth):
            if self._progress is not None and not isinstance(item, Pulled):
                self._progress(pull_report(item))


def read(manifest: str | os.PathLike[str], dirs: Dirs) -> Plans:
    """The pods of a file, or of a text with line breaks. NotFound, InvalidRequest."""
    from crib.client.workloads.site import read_site
    from crib.manifest.documents import ManifestText
    from crib.manifest.faults import ManifestError
    from crib.manifest.load import read_plans

    is_text = isinstance(manifest, str) and "\n" in manifest
    name = "" if is_text else os.fspath(manifest)
    text = str(manifest) if is_text else _content(name)
    try:
        return read_plans([ManifestText(name, text)], read_site(dirs.root))
    except ManifestError as error:
        raise InvalidRequest("\n".join(map(str, error.faults))) from error


def _content(path: str) -> str:
    from crib.manifest.documents import MAX_TEXT

    try:
        with open(path, encoding="utf-8") as file:
            return file.read(MAX_TEXT + 1)
    except FileNotFoundError:
        raise NotFound(f"there is no manifest {path}") from None
    except OSError as error:
        raise RuntimeFailure(f"cannot read manifest {path}: {error.strerror}") from error
    except UnicodeDecodeError:
        raise InvalidRequest(f"manifest {path} is not UTF-8 text") from None


async def run(
    connection: Connection, plans: Plans, dirs: Dirs, listener: Listening, *, replace: bool
) -> list[str]:
    """Check and pull everything, then start pod after pod. What was started before a failure stays.

    Returns the pods' ids.
    """
    launch = await _prepared(connection, plans, dirs, listener, replace=replace)
    for plan in plans.pods:
        for path in plan.unkept:
            listener.note(f"{plan.label}: {path}: no effect: nobody keeps the pod up after its start")
    for job in plans.jobs:
        for text in job.unkept:
            listener.note(f"job {job.label}: {text}: nobody looks after it")
    with _making_files():
        return [(await launch.start(plan)).id for plan in plans.pods]


async def keep(
    connection: Connection, plans: Plans, dirs: Dirs, listener: Listening, *, replace: bool
) -> list[str]:
    """As `run`, but the daemon starts the pods, and keeps them up. PodFailure for one that does not run.

    Of a Job, the pods that it has begun with are returned.
    """
    from crib.client.workloads import jobs, keeping

    launch = await _prepared(connection, plans, dirs, listener, replace=replace)
    kept: list[str] = []
    for job in plans.jobs:
        with _making_files():
            await launch.make_way_for_job(job)
        await jobs.keep_job(connection, job, dirs)
        kept += [pod.id for pod in jobs.pods_of(job.label, await lookup.pods(connection))]
    for plan in plans.alone():
        with _making_files():
            await launch.make_way(plan)
        kept.append((await keeping.keep(connection, plan, dirs)).id)
    return kept


async def _prepared(
    connection: Connection, plans: Plans, dirs: Dirs, listener: Listening, *, replace: bool
) -> Launch:
    from crib.client.workloads.launch import Launch

    launch = Launch(connection, dirs, listener, replace=replace)
    for text in (*plans.notes, *(f"{plan.label}: {note}" for plan in plans.pods for note in plan.notes)):
        listener.note(text)
    with _making_files():
        await launch.prepare(plans)
    return launch


@contextlib.contextmanager
def _making_files() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RuntimeFailure(f"cannot make the files of a pod: {error}") from error


async def stop(connection: Connection, pod_id: str, grace: int) -> None:
    """Stop a pod; who keeps it up stops it, and leaves it so."""
    from crib.client.workloads import keeping

    for pod in await keeping.all_kept(connection):
        if pod.pod_sandbox_id == pod_id and await keeping.stop(connection, pod.uid, grace):
            return
    await pods.stop(connection, pod_id, grace)


async def remove(connection: Connection, status: PodSandboxStatus, dirs: Dirs) -> None:
    """Kill and remove a pod, and its files on this machine."""
    from crib.client.workloads.removal import remove_pod

    pod = PodSandbox(id=status.id, metadata=status.metadata, state=status.state)
    try:
        await remove_pod(connection, pod, dirs)
    except OSError as error:
        raise RuntimeFailure(f"cannot remove the files of pod {status.id[:12]}: {error}") from error
