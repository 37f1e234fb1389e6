"""The task service: containers and the processes in them, as a shim has it, made by crun."""

from __future__ import annotations

import os
import time

from crib.vm.guest import cgroups, roots
from crib.vm.guest.codec import encode
from crib.vm.guest.crun import Crun
from crib.vm.guest.errors import ALREADY_EXISTS, FAILED_PRECONDITION, INVALID_ARGUMENT, NOT_FOUND, Failure
from crib.vm.guest.loop import CHANGE, Loop
from crib.vm.guest.processes import CREATED, PAUSED, RUNNING, STOPPED, Process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from crib.vm.guest.events import Events
    from crib.vm.guest.loop import Job

SIGKILL = 9
MAX_SIGNAL = 64
FREEZE_SECONDS = 10.0
"""For all processes of a container to stand still."""
MAX_ID_BYTES = 128
_NAME = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-")


class GuestContainer:
    """One container: its first process, those that were executed, and its cgroup."""

    def __init__(self, container_id: str, bundle: str, first: Process) -> None:
        self.id = container_id
        self.bundle = bundle
        self.first = first
        self.executed: dict[str, Process] = {}
        self.cgroup = ""
        self.root: roots.StackedRoot | None = None
        self.memory_events = -1
        self.is_paused = False


class Tasks:
    """All containers of the pod."""

    def __init__(self, loop: Loop, crun: Crun, events: Events, state: str) -> None:
        self._loop = loop
        self._crun = crun
        self._events = events
        self._state = state
        self._containers: dict[str, GuestContainer] = {}
        self._count = 0
        for name in ("consoles", "pids", "specs", "roots"):
            os.makedirs(f"{state}/{name}", 0o700, exist_ok=True)

    def calls(self) -> dict[str, Callable[[dict[str, Any]], Any]]:
        """The calls by name. Each returns the answer, or a job that does."""
        return {
            "State": self._state_of, "Create": self._create, "Start": self._start, "Delete": self._delete,
            "Pids": self._pids, "Pause": self._pause, "Resume": self._resume, "Kill": self._kill,
            "Exec": self._exec, "ResizePty": self._resize, "CloseIO": self._close_io,
            "Update": self._update, "Wait": self._wait, "Stats": self._stats, "Connect": self._connect,
            "Shutdown": lambda _: {},
        }  # fmt: skip

    def process(self, asked: dict[str, Any]) -> Process:
        """The process that `id` and `exec_id` name."""
        return self._found(asked["id"], asked["exec_id"])[1]

    def root(self, asked: dict[str, Any]) -> roots.StackedRoot:
        """Of the container `id`, where the guest has made it."""
        container, _ = self._found(asked["id"], "")
        if container.root is None:
            raise Failure(FAILED_PRECONDITION, f"the root of container {container.id} is the host's")
        return container.root

    # what a container is made and ended by

    def _create(self, asked: dict[str, Any]) -> Job:
        name, bundle = _checked("id", asked["id"]), asked["bundle"]
        if name in self._containers:
            raise Failure(ALREADY_EXISTS, f"id: there is a container {name} already")
        if not bundle.startswith("/"):
            raise Failure(INVALID_ARGUMENT, f"bundle: {bundle!r} is no absolute path")
        if asked["checkpoint"]:
            raise Failure(INVALID_ARGUMENT, "checkpoint: a container in a VM cannot be restored")
        container = GuestContainer(name, bundle, Process(self._loop, asked))
        self._containers[name] = container
        try:
            container.root = yield from roots.mount(self._loop, bundle, f"{self._state}/roots/{name}")
            words = ["create", "--bundle", bundle]
            yield from self._make(container.first, words, [name])
        except BaseException:
            yield from self._removed(container)
            raise
        self._watch(container)
        self._loop.child(container.first.pid).then(lambda ended: self._first_ended(container, *ended.value))
        return {"pid": container.first.pid}

    def _make(self, process: Process, words: list[str], last: list[str], score: str = "0") -> Job:
        """Have crun make a process, with its streams. `score`: see Crun.run."""
        self._count += 1
        pid_file = f"{self._state}/pids/{self._count}"
        streams = process.open_streams(f"{self._state}/consoles/{self._count}")
        try:
            yield from self._crun.run(
                [*words, "--pid-file", pid_file, *streams.words, *last], streams.given(), score
            )
            master = yield from streams.master()
            with open(pid_file) as file:
                process.begin(int(file.read()), master)
        except BaseException:
            process.forget()
            raise
        finally:
            streams.close()
            try:
                os.unlink(pid_file)
            except FileNotFoundError:
                pass

    def _start(self, asked: dict[str, Any]) -> Job:
        container, process = self._found(asked["id"], asked["exec_id"])
        if process.status != CREATED or not container.first.pid:
            raise Failure(FAILED_PRECONDITION, "the process is not created, or was started already")
        if not asked["exec_id"]:
            yield from self._crun.run(["start", container.id])
            if process.status == CREATED:  # it may have ended meanwhile
                process.status = RUNNING
            return {"pid": process.pid}
        if container.first.status != RUNNING or container.is_paused:
            raise Failure(FAILED_PRECONDITION, f"container {container.id} is not running")
        process.status = RUNNING
        spec = f"{self._state}/specs/{container.id}.{asked['exec_id']}"
        with open(spec, "wb") as file:
            file.write(process.asked["spec"]["value"])
        try:
            words = ["exec", "--detach", "--process", spec]
            yield from self._make(process, words, [container.id], _score(container.first.pid))
        except BaseException:
            process.end(255, _now())
            raise
        finally:
            os.unlink(spec)
        self._loop.child(process.pid).then(lambda ended: process.end(*ended.value))
        return {"pid": process.pid}

    def _delete(self, asked: dict[str, Any]) -> Job:
        container, process = self._found(asked["id"], asked["exec_id"])
        if process.status == RUNNING or not container.first.pid:
            raise Failure(FAILED_PRECONDITION, "the process is running, or is being made")
        if asked["exec_id"]:
            process.forget()
            del container.executed[asked["exec_id"]]
        else:
            if process.status == CREATED:
                self._signal(process, SIGKILL)
                yield process.ended
            yield from self._removed(container)
        return {"pid": process.pid, **process.told_end()}

    def _removed(self, container: GuestContainer) -> Job:
        """The container and all that was made for it; what is not there is no error."""
        try:
            yield from self._crun.run(["delete", "--force", container.id])
        except Failure as failure:
            # it was never made, or its process is gone: what is left of it is removed here
            self._events.log(f"container {container.id}: {failure}")
        self._unwatch(container)
        if container.cgroup:
            cgroups.remove(container.cgroup)
        for process in (container.first, *container.executed.values()):
            process.forget()
        if container.root is not None:
            container.root.unmount()
        self._containers.pop(container.id, None)

    def _first_ended(self, container: GuestContainer, exit_status: int, at: int) -> None:
        self._told_oom(container)
        # where containers share their pids, nothing else ends what the first process leaves behind
        if container.cgroup:
            cgroups.kill(container.cgroup)
        container.first.end(exit_status, at)

    # what is asked of one

    def _exec(self, asked: dict[str, Any]) -> dict[str, Any]:
        container, _ = self._found(asked["id"], "")
        name = _checked("exec_id", asked["exec_id"])
        if name in container.executed:
            raise Failure(ALREADY_EXISTS, f"exec_id: there is a process {name} already")
        if asked["spec"] is None or not asked["spec"]["value"]:
            raise Failure(INVALID_ARGUMENT, "spec: it is empty")
        if container.first.status != RUNNING:
            raise Failure(FAILED_PRECONDITION, f"container {container.id} is not running")
        container.executed[name] = Process(self._loop, asked)
        return {}

    def _kill(self, asked: dict[str, Any]) -> dict[str, Any]:
        container, process = self._found(asked["id"], asked["exec_id"])
        signal = asked["signal"]
        if not 0 < signal <= MAX_SIGNAL:
            raise Failure(INVALID_ARGUMENT, f"signal: {signal} is none of 1 to {MAX_SIGNAL}")
        if not asked["all"]:
            self._signal(process, signal)
        elif signal == SIGKILL:
            cgroups.kill(container.cgroup)
        else:
            for pid in cgroups.pids(container.cgroup):
                _send(pid, signal)
        return {}

    def _signal(self, process: Process, signal: int) -> None:
        if process.status == STOPPED or not process.pid:
            raise Failure(
                NOT_FOUND, "the process has ended" if process.pid else "the process was not started"
            )
        _send(process.pid, signal)

    def _wait(self, asked: dict[str, Any]) -> Job:
        process = self.process(asked)
        yield process.ended
        return process.told_end()

    def _state_of(self, asked: dict[str, Any]) -> dict[str, Any]:
        container, process = self._found(asked["id"], asked["exec_id"])
        told = {"id": container.id, "bundle": container.bundle, "exec_id": asked["exec_id"], **process.told()}
        if container.is_paused and process.status == RUNNING:
            told["status"] = PAUSED
        return told

    def _pids(self, asked: dict[str, Any]) -> dict[str, Any]:
        container, _ = self._found(asked["id"], "")
        return {"processes": [{"pid": pid} for pid in cgroups.pids(container.cgroup)]}

    def _resize(self, asked: dict[str, Any]) -> dict[str, Any]:
        self.process(asked).resize(asked["width"], asked["height"])
        return {}

    def _close_io(self, asked: dict[str, Any]) -> dict[str, Any]:
        if asked["stdin"]:
            self.process(asked).close_stdin()
        return {}

    def _connect(self, asked: dict[str, Any]) -> dict[str, Any]:
        container, _ = self._found(asked["id"], "")
        return {"shim_pid": os.getpid(), "task_pid": container.first.pid, "version": "v3"}

    def _pause(self, asked: dict[str, Any]) -> Job:
        return self._frozen(asked["id"], is_paused=True)

    def _resume(self, asked: dict[str, Any]) -> Job:
        return self._frozen(asked["id"], is_paused=False)

    def _frozen(self, name: str, *, is_paused: bool) -> Job:
        container, _ = self._found(name, "")
        if container.first.status != RUNNING or container.is_paused == is_paused:
            raise Failure(
                FAILED_PRECONDITION, f"container {name} is not {'running' if is_paused else 'paused'}"
            )
        changed = cgroups.CgroupChanges(self._loop, container.cgroup, "cgroup.events")
        limit = self._loop.after(FREEZE_SECONDS)
        try:
            cgroups.write(container.cgroup, "cgroup.freeze", str(int(is_paused)))
            while changed.values().get("frozen") != is_paused:
                if limit.is_set:
                    cgroups.write(container.cgroup, "cgroup.freeze", "0")
                    raise Failure(
                        FAILED_PRECONDITION, f"container {name} did not freeze in {FREEZE_SECONDS:.0f} s"
                    )
                yield changed.next(limit)
        finally:
            changed.close()
        container.is_paused = is_paused
        return {}

    def _update(self, asked: dict[str, Any]) -> Job:
        container, _ = self._found(asked["id"], "")
        if asked["resources"] is None:
            raise Failure(INVALID_ARGUMENT, "resources: there are none")
        path = f"{self._state}/specs/{container.id}.resources"
        with open(path, "wb") as file:
            file.write(asked["resources"]["value"])
        try:
            yield from self._crun.run(["update", "--resources", path, container.id])
        finally:
            os.unlink(path)
        return {}

    def _stats(self, asked: dict[str, Any]) -> dict[str, Any]:
        container, _ = self._found(asked["id"], "")
        metrics = encode(cgroups.METRICS_TABLE, cgroups.metrics(container.cgroup))
        return {"stats": {"type_url": cgroups.METRICS, "value": metrics}}

    # memory that ran out

    def _watch(self, container: GuestContainer) -> None:
        container.cgroup = cgroups.of_process(container.first.pid)
        try:
            path = f"{cgroups.ROOT}{container.cgroup}/memory.events"
            container.memory_events = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return  # in a root that has no memory controller
        self._loop.watch(container.memory_events, CHANGE, lambda _: self._told_oom(container))

    def _unwatch(self, container: GuestContainer) -> None:
        if container.memory_events >= 0:
            self._loop.unwatch(container.memory_events)
            os.close(container.memory_events)
            container.memory_events = -1

    def _told_oom(self, container: GuestContainer) -> None:
        if container.memory_events >= 0:
            values = cgroups.flat(os.pread(container.memory_events, 4096, 0).decode())
            self._events.oom(container.id, container.cgroup, values.get("oom_kill", 0))

    def _found(self, name: str, exec_id: str) -> tuple[GuestContainer, Process]:
        if (container := self._containers.get(name)) is None:
            raise Failure(NOT_FOUND, f"id: there is no container {name}")
        if not exec_id:
            return container, container.first
        if (process := container.executed.get(exec_id)) is None:
            raise Failure(NOT_FOUND, f"exec_id: container {name} has no process {exec_id}")
        return container, process


def _score(pid: int) -> str:
    """The OOM score of a process, which a command beside it has too: `crun exec` sets none."""
    try:
        with open(f"/proc/{pid}/oom_score_adj") as file:
            return file.read().strip()
    except OSError:  # it has just ended
        return "0"


def _checked(field: str, name: str) -> str:
    """An id that can be part of a path."""
    if not name or len(name) > MAX_ID_BYTES or not _NAME.issuperset(name) or name.startswith("."):
        raise Failure(INVALID_ARGUMENT, f"{field}: {name[:MAX_ID_BYTES]!r} is no id")
    return name


def _send(pid: int, signal: int) -> None:
    try:
        os.kill(pid, signal)
    except ProcessLookupError:
        pass  # it has ended; its end is told of by Wait


def _now() -> int:
    return time.time_ns()
