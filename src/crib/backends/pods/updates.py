"""Other limits for what is there: a container's cgroup, its processes' OOM scores, a pod's own cgroup.

The cgroup's files are written here and not by the runtime's `update`: it is all or nothing, works with every
runtime, and reaches what some of them leave out (huge pages, unified). A unit of systemd gets the same
afterwards: the kernel has taken it then, and systemd, which would only log what the kernel refuses, writes it
again whenever it reloads.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
from dataclasses import dataclass

import msgspec

from crib.backends.bundle.bundles import Bundles
from crib.backends.environment import HandlerEnvironment
from crib.backends.failures import trying, why
from crib.backends.pods.cgroup_names import CgroupNames
from crib.backends.pods.slices import change_unit, start_slice
from crib.host.cgroup_limits import Files, restore_limits, write_limits
from crib.host.threads import OURS, Job
from crib.model.container import ContainerRecord
from crib.model.errors import InvalidRequest, WrongState, below
from crib.model.sandbox import Resources, SandboxRecord
from crib.ocispec.edits_checks import limit_problems
from crib.ocispec.edits_resources import with_limits
from crib.ocispec.limits import limit_files, pod_limits
from crib.ocispec.process import oom_score_adj
from crib.ocispec.resources import cgroup_limits
from crib.ocispec.unit_properties import OOM_GROUP, OOM_POLICY, unit_properties
from crib.wire import oci_runtime as oci

_log = logging.getLogger(__name__)

_LIMITS = {"memory.max": "memory.current", "memory.limit_in_bytes": "memory.usage_in_bytes"}
_CACHE = {
    "memory.current": ("active_file", "inactive_file"),
    "memory.usage_in_bytes": ("total_active_file", "total_inactive_file"),
}
_OOM_ROUNDS = 5
"""How often processes are listed again: they may fork meanwhile."""
_HUGE_PAGES = "hugetlb."
REFUSED_NUMBERS = (
    errno.EINVAL,
    errno.ERANGE,
    errno.EOVERFLOW,
    errno.ENOENT,  # a size of huge pages that this kernel has not
    errno.EACCES,  # a processor or memory node that the cgroup above has not (cgroup v1)
)
"""What the kernel says of a value, and not of a failure of its own."""
_FIELDS = {
    "cpu.cfs_period_us": "cpu_period",
    "cpu.cfs_quota_us": "cpu_quota",
    "cpu.max": "cpu_quota",
    "cpu.shares": "cpu_shares",
    "cpuset.cpus": "cpuset_cpus",
    "cpuset.mems": "cpuset_mems",
    "memory.limit_in_bytes": "memory_limit_in_bytes",
    "memory.max": "memory_limit_in_bytes",
    "memory.memsw.limit_in_bytes": "memory_swap_limit_in_bytes",
    "memory.swap.max": "memory_swap_limit_in_bytes",
}


@dataclass(frozen=True, slots=True)
class _Change:
    """Of a cgroup's limits."""

    what: str
    owner: str
    cgroup: str


class Updates:
    """See ContainerRuntime.update and PodRuntime.update."""

    def __init__(self, environment: HandlerEnvironment, bundles: Bundles) -> None:
        self._env = environment
        self._names: CgroupNames = CgroupNames.of(environment.settings)
        self._bundles = bundles

    async def created(self, record: ContainerRecord) -> None:
        """Tell systemd what no annotation can, and not every runtime does: its CPUs and memory nodes."""
        wanted = record.config.resources
        if not (wanted.cpuset_cpus or wanted.cpuset_mems):
            return
        note = await self._bundles.note(record.id)
        if note is not None and note.cgroup.endswith(".scope"):
            sets = Resources(cpuset_cpus=wanted.cpuset_cpus, cpuset_mems=wanted.cpuset_mems)
            with below("linux.resources"):
                files = self._files(cgroup_limits(sets, self._env.host))
            with trying(f"create of container {record.id}"):
                await change_unit(os.path.basename(note.cgroup), unit_properties(files))

    async def fresh(self, record: ContainerRecord, limits: oci.Resources) -> None:
        """Those of a cgroup that we have made for a container, and in which nothing runs yet."""
        what = f"limits of container {record.id}"
        with trying(what):
            note = await self._bundles.note(record.id)
            if note is None:
                raise WrongState(f"{what}: it has no bundle")
            files = self._files(limits)
            with below("linux.resources"):
                await self._change(_Change(what, record.id, note.cgroup), files, files)

    async def container(self, record: ContainerRecord, resources: Resources) -> None:
        what = f"update of container {record.id}"
        with trying(what):
            note = await self._bundles.note(record.id)
        if note is None:
            raise WrongState(f"{what}: it has no bundle")
        limits = self._limits(resources)
        if self._env.facts.own_kernel:
            return  # only what stands in for the container is in its cgroup, and a limit could end that
        before = dict(self._files(self._limits(record.resources)))
        # Not what did not change: the container, or somebody above us, may have set it otherwise since.
        files = [(key, value) for key, value in self._files(limits) if before.get(key) != value]
        if (
            note.cgroup.endswith(".scope")
            and self._env.facts.systemd >= OOM_POLICY
            and OOM_GROUP in dict(files)
        ):
            problem = f"{what}: systemd sets it when the container is made, and not later"
            raise InvalidRequest(problem, field=f"unified[{OOM_GROUP!r}]")
        score = oom_score_adj(resources.oom_score_adj, self._env.host)
        with trying(what):
            await self._change(_Change(what, record.id, note.cgroup), files, self._files(limits))
            if resources.oom_score_adj != record.resources.oom_score_adj:
                await OURS.run(Job(what, owner=record.id), self._score, note.cgroup, score)

    async def pod(self, record: SandboxRecord) -> None:
        """A cgroup that the client named is the client's: a kubelet limits its pods itself."""
        if record.config.cgroup_parent:
            return
        what = f"limits of sandbox {record.id}"
        wanted = pod_limits(record, self._env.own_overhead)
        limits = cgroup_limits(wanted, self._env.host)
        if limits.memory is not None and not wanted.memory_swap_limit_in_bytes:
            # Its containers have limits of their own for swap; nothing is said of one above them.
            memory = oci.Memory(limit=limits.memory.limit)
            limits = msgspec.structs.replace(limits, memory=memory)
        files = self._files(limits)
        cgroup = self._names.own_pod(record.id)
        with trying(what):
            if files and self._names.systemd:
                if not self._env.cgroups.exists(cgroup):
                    await start_slice(os.path.basename(cgroup), transient=True)
                # It hands a controller down when it gets a limit: too late for the kernel's own word.
                self._env.cgroups.create(cgroup)
            await self._change(_Change(what, record.id, cgroup), files, files)

    async def _change(self, change: _Change, files: Files, every: Files) -> None:
        """Write the files, and tell systemd `every` limit where the cgroup is a unit of its."""
        if not files:
            return
        job = Job(change.what, owner=change.owner)
        before = await OURS.run(job, self._write, change, files)
        if not change.cgroup.endswith((".scope", ".slice")):
            return
        try:
            # Not only the changed ones: it may not know the others, and writes all of a controller's files.
            await change_unit(os.path.basename(change.cgroup), unit_properties(every))
        except BaseException:
            await OURS.run(job, restore_limits, self._env.cgroups, change.cgroup, before)
            raise

    def _limits(self, resources: Resources) -> oci.Resources:
        """Those of the CRI, and those beyond it; InvalidRequest for what this host cannot keep."""
        if problems := list(limit_problems(resources.beyond, self._env.host)):
            raise InvalidRequest("; ".join(problems))
        return with_limits(cgroup_limits(resources, self._env.host), resources.beyond)

    def _files(self, limits: oci.Resources) -> Files:
        return limit_files(limits, self._env.host.cgroup_layout)

    def _write(self, change: _Change, files: Files) -> Files:
        what, cgroup = change.what, change.cgroup
        self._check_memory(what, cgroup, files)
        reserved = [(_reservation(key), value) for key, value in files if key.startswith(_HUGE_PAGES)]
        more = [(key, value) for key, value in reserved if self._env.cgroups.has(cgroup, key)]
        try:
            return write_limits(self._env.cgroups, cgroup, (*files, *more))
        except OSError as error:
            if error.errno == errno.EBUSY and "memory." in os.path.basename(str(error.filename)):
                raise WrongState(
                    f"{what}: more is in use than the memory limit allows, and cannot be reclaimed"
                    f" ({why(error)})"
                ) from error
            if refused := refused_field(error):
                raise InvalidRequest(f"{what}: {why(error)}", field=refused) from error
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


def refused_field(error: OSError) -> str:
    """The limit whose file could not be written; empty when the value is not to blame."""
    path = str(error.filename or "")
    if error.errno not in REFUSED_NUMBERS or not path or not os.path.isdir(os.path.dirname(path)):
        return ""
    return limit_field(os.path.basename(path))


def limit_field(file: str) -> str:
    """Of CRI LinuxContainerResources, by the file of the cgroup that it is written to."""
    if file.startswith("hugetlb."):
        return "hugepage_limits"
    return _FIELDS.get(file, f"unified[{file!r}]")
