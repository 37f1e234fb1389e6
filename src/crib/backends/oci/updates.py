"""Other limits for what is there: a container's cgroup, its processes' OOM scores, a pod's own cgroup.

With the cgroupfs driver the cgroup's files are written here and not by the runtime's `update`: it is all or
nothing, works with every runtime, and reaches what `runc update` leaves out (huge pages, unified). With
systemd the scope is systemd's, so the runtime tells it first, and only what the runtime leaves out is
written here.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os

import msgspec

from crib.backends.oci.bundles import BundleNote, Bundles
from crib.backends.oci.environment import OciEnvironment
from crib.backends.oci.failures import checked, trying
from crib.backends.oci.refusals import refused_field
from crib.backends.oci.slices import limit_slice
from crib.host.cgroup_limits import Files, write_limits
from crib.host.files import atomic_write
from crib.host.processes import RunOptions, run
from crib.host.threads import OURS, Job
from crib.model.container import ContainerRecord
from crib.model.errors import InvalidRequest, WrongState
from crib.model.sandbox import Resources, SandboxRecord
from crib.ocispec.limits import limit_files, pod_limits, slice_properties
from crib.ocispec.process import oom_score_adj
from crib.ocispec.resources import cgroup_limits
from crib.wire import oci_runtime as oci

_log = logging.getLogger(__name__)

_LIMITS = {"memory.max": "memory.current", "memory.limit_in_bytes": "memory.usage_in_bytes"}
_CACHE = {
    "memory.current": ("active_file", "inactive_file"),
    "memory.usage_in_bytes": ("total_active_file", "total_inactive_file"),
}
_OOM_ROUNDS = 5
"""How often processes are listed again: they may fork meanwhile."""
_LEFT_OUT = "hugetlb."
"""What runc's `update` does not take."""


class Updates:
    """See Handler.update and Handler.update_pod."""

    def __init__(self, environment: OciEnvironment, bundles: Bundles) -> None:
        self._env = environment
        self._bundles = bundles

    async def container(self, record: ContainerRecord, resources: Resources) -> None:
        what = f"update of container {record.id}"
        with trying(what):
            note = await self._bundles.note(record.id)
        if note is None:
            raise WrongState(f"{what}: it has no bundle")
        limits = cgroup_limits(resources, self._env.host, "linux")
        before = dict(self._files(cgroup_limits(record.resources, self._env.host)))
        # Not what is as it was: the container, or whoever is above us, may have set it otherwise since.
        files = [(key, value) for key, value in self._files(limits) if before.get(key) != value]
        score = oom_score_adj(resources.oom_score_adj, self._env.host)
        with trying(what):
            if self._env.names.systemd:
                self._check_memory(what, note.cgroup, files)
                await self._update_in_runtime(what, record, note, limits)
                files = [pair for pair in files if pair[0].startswith(_LEFT_OUT) or pair[0] in limits.unified]
            await OURS.run(Job(what, owner=record.id), self._write, what, note.cgroup, files, "linux")
            if resources.oom_score_adj != record.resources.oom_score_adj:
                await OURS.run(Job(what, owner=record.id), self._score, note.cgroup, score)

    async def pod(self, record: SandboxRecord, field: str) -> None:
        """A cgroup that the client named is the client's: a kubelet limits its pods itself."""
        if record.config.cgroup_parent:
            return
        what = f"limits of sandbox {record.id}"
        wanted = pod_limits(record)
        limits = cgroup_limits(wanted, self._env.host, field)
        if limits.memory is not None and not wanted.memory_swap_limit_in_bytes:
            # Its containers have limits of their own for swap; nothing is said of one above them.
            memory = oci.Memory(limit=limits.memory.limit)
            limits = msgspec.structs.replace(limits, memory=memory)
        cgroup = self._env.names.own_pod(record.id)
        with trying(what):
            if self._env.names.systemd:
                properties = slice_properties(limits, self._env.host.cgroup_layout)
                await limit_slice(os.path.basename(cgroup), properties)
            else:
                job = Job(what, owner=record.id)
                await OURS.run(job, self._write, what, cgroup, self._files(limits), field)

    async def _update_in_runtime(
        self, what: str, record: ContainerRecord, note: BundleNote, limits: oci.Resources
    ) -> None:
        path = f"{self._env.paths.container(record.id)}/update.json"
        await OURS.run(Job(what, owner=record.id), atomic_write, path, oci.encode(limits), 0o600)
        argv = self._env.runtime_of(note.handler).update(record.id, path)
        limit, options = self._env.settings.verb_timeout, RunOptions(owner=record.id)
        checked(what, await run(argv, timeout=limit, options=options))

    def _files(self, limits: oci.Resources) -> Files:
        return limit_files(limits, self._env.host.cgroup_layout)

    def _write(self, what: str, cgroup: str, files: Files, field: str) -> None:
        self._check_memory(what, cgroup, files)
        reserved = [(_reservation(key), value) for key, value in files if key.startswith(_LEFT_OUT)]
        more = [(key, value) for key, value in reserved if self._env.cgroups.has(cgroup, key)]
        try:
            write_limits(self._env.cgroups, cgroup, (*files, *more))
        except OSError as error:
            if error.errno == errno.EBUSY and "memory." in os.path.basename(str(error.filename)):
                raise WrongState(
                    f"{what}: more is in use than the memory limit allows, and cannot be reclaimed"
                    f" ({error.filename}: {error.strerror})"
                ) from error
            if refused := refused_field(error, field):
                problem = f"{what}: {error.filename}: {error.strerror}"
                raise InvalidRequest(problem, field=refused) from error
            raise

    def _check_memory(self, what: str, cgroup: str, files: Files) -> None:
        """With v2 the kernel takes such a limit, and kills; with v1 it refuses, and says less."""
        for key, value in files:
            usage = _LIMITS.get(key)
            if usage is None or not value.isdigit():
                continue
            used = int(self._env.cgroups.read(cgroup, usage))
            lines = self._env.cgroups.read(cgroup, "memory.stat").splitlines()
            stat = {name: number for name, _, number in (line.partition(" ") for line in lines)}
            needed = used - sum(int(stat.get(name, 0)) for name in _CACHE[usage])
            if needed > int(value):
                raise WrongState(
                    f"{what}: its memory limit cannot be {value} bytes, as {needed} bytes are in use"
                    " besides what can be dropped"
                )

    def _score(self, cgroup: str, score: int) -> None:
        """Write it for every process; one that nobody here may lower keeps what it has, which is logged."""
        done: set[int] = set()
        for _round in range(_OOM_ROUNDS):
            pids = set(self._env.cgroups.pids(cgroup)) - done
            if not pids:
                return
            for pid in pids:
                done.add(pid)
                try:
                    with contextlib.suppress(ProcessLookupError, FileNotFoundError):
                        _write_score(pid, score)
                except PermissionError as error:
                    _log.warning("process %d in %s keeps its oom_score_adj: %s", pid, cgroup, error)


def _write_score(pid: int, score: int) -> None:
    with open(f"/proc/{pid}/oom_score_adj", "w", encoding="ascii") as file:
        file.write(str(score))


def _reservation(key: str) -> str:
    """The file that limits reserving huge pages, which must allow what using them does."""
    _, size, rest = key.split(".", 2)
    return f"hugetlb.{size}.rsvd.{rest}"
