"""The port `ContainerRuntime` in memory."""

from __future__ import annotations

import json
import signal
from collections.abc import AsyncIterator, Mapping, Sequence

from crib.model.container import ContainerRecord, ContainerUser, Exit
from crib.model.edits import ContainerEdits
from crib.model.errors import Broken, InvalidRequest, WrongState
from crib.model.explanation import ExplainedSpec
from crib.model.sandbox import Resources
from crib.ports.clocks import StageTimer
from crib.ports.containers import CreatedContainer, CreateRequest, Observation, RestoredProcesses
from tests.fakes.failpoints import Failpoints
from tests.fakes.host import PROGRAMS, FakeContainer, FakeHost, ends_with

STOP_OF_SYSTEMD = signal.SIGRTMIN + 3


class FakeContainers:
    """See ContainerRuntime. It runs `true`, `false`, `sleep`, `cat`, and `sh -c` with `exit N` and `echo`."""

    def __init__(self, host: FakeHost, failpoints: Failpoints) -> None:
        self._host = host
        self._failpoints = failpoints

    async def create(self, request: CreateRequest, stage: StageTimer) -> CreatedContainer:
        record, sandbox, image = request.record, request.sandbox, request.image
        with stage("create", record.config.name):
            await self._failpoints.reach("create", record.id)
            pod = self._host.pods.get(sandbox.id)
            if pod is None or not pod.alive or not pod.started:
                raise Broken(f"create of container {record.id}: pod {sandbox.id} has no namespaces")
            edits = request.edits
            argv = (*(record.config.command or image.entrypoint), *(record.config.args or image.cmd))
            process, monitor = self._host.process(), self._host.process()
            if request.adjust is not None:
                edits = (*edits, *await request.adjust(_spec(argv, _env(edits))))
            if request.restore is not None:
                process = monitor = None
            made = FakeContainer(argv, process, _env(edits), resources=record.resources)
            self._host.containers[record.id] = made
            await self._failpoints.reach("create_late", record.id)
        stop_signal = STOP_OF_SYSTEMD if argv[0] == "/sbin/init" else 0
        return CreatedContainer(ContainerUser(0, 0), process, monitor, stop_signal)

    async def explain(self, request: CreateRequest) -> ExplainedSpec:
        await self._failpoints.reach("explain", request.record.id)
        config, image = request.record.config, request.image
        argv = [*(config.command or image.entrypoint), *(config.args or image.cmd)]
        if not argv:
            raise InvalidRequest(f"image {config.image} names no command", field="command")
        origin = "container command" if config.command else "image ENTRYPOINT"
        origins = {"": "default", "/process/args": origin}
        for edits in request.edits:
            for key, _ in edits.env:
                origins[f"/process/env/{list(_env(request.edits)).index(key)}"] = edits.origin
        return ExplainedSpec(_spec(argv, _env(request.edits)), origins)

    def made_spec(self, record: ContainerRecord) -> bytes:
        container = self._host.containers.get(record.id)
        return _spec(container.argv, container.env) if container is not None else b""

    async def start(self, record: ContainerRecord) -> RestoredProcesses | None:
        await self._failpoints.reach("start", record.id)
        container = self._host.container(record)
        if container.status != "created":
            raise Broken(f"start of container {record.id}: it is {container.status}")
        program = container.argv[0].rsplit("/", 1)[-1] if container.argv else ""
        if program not in PROGRAMS:
            raise Broken(f"start of container {record.id}: {program!r}: no such file or directory")
        container.status = "running"
        code = ends_with(container.argv)
        if code is not None:
            self._host.finish(record.id, code)
        await self._failpoints.reach("start_late", record.id)
        if not record.awaits_restore:
            return None
        first, monitor = self._host.process(), self._host.process()
        container.process = first
        return RestoredProcesses(first, monitor) if first is not None and monitor is not None else None

    async def signal(self, record: ContainerRecord, signum: int, *, everyone: bool = False) -> None:
        await self._failpoints.reach("signal", record.id)
        container = self._host.containers.get(record.id)
        if container is None or container.status not in ("created", "running"):
            return
        container.signals.append(signum)
        if container.immortal or (container.stubborn and signum != signal.SIGKILL):
            return
        self._host.finish(record.id, 128 + signum)

    async def update(self, record: ContainerRecord, resources: Resources) -> None:
        await self._failpoints.reach("update", record.id)
        container = self._host.containers.get(record.id)
        if container is None:
            raise WrongState(f"update of container {record.id}: it has no bundle")
        if set(resources.cpuset_cpus) - set("0123456789,-"):
            raise InvalidRequest("not a list", field="cpuset_cpus")
        if 0 < resources.memory_limit_in_bytes < container.in_use:
            raise WrongState(f"update of container {record.id}: {container.in_use} bytes are in use")
        container.resources = resources
        await self._failpoints.reach("update_late", record.id)

    async def delete(self, record: ContainerRecord) -> None:
        await self._failpoints.reach("delete", record.id)
        self._host.containers.pop(record.id, None)

    async def exits(self) -> AsyncIterator[Exit]:
        for container in tuple(self._host.containers.values()):
            if container.exit is not None:
                yield container.exit
        while True:
            yield await self._host.news.get()

    async def observe(self, record: ContainerRecord) -> Observation:
        await self._failpoints.reach("observe", record.id)
        container = self._host.containers.get(record.id)
        if container is None:
            return Observation("gone", None, False)
        return Observation(container.status, container.exit, container.monitor_alive)


def _env(every: Sequence[ContainerEdits]) -> dict[str, str]:
    """What edits bring; the container's own is not looked at here."""
    return dict(pair for edits in every for pair in edits.env)


def _spec(argv: Sequence[str], env: Mapping[str, str]) -> bytes:
    process = {"args": argv, "env": [f"{key}={value}" for key, value in env.items()]}
    return json.dumps({"ociVersion": "1.0.2", "process": process}).encode()
