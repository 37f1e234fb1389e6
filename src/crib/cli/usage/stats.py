"""`crib stats`: the figures themselves, as the runtime has them, once or again and again."""

from __future__ import annotations

import asyncio
import json
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from crib.cli.forms import Form, Format
from crib.cli.output import as_dict, document, size, table, tell
from crib.cli.usage.columns import UNKNOWN, amount, count
from crib.client import lookup
from crib.client.errors import Ambiguous, NotFound
from crib.client.usage import UsageClient
from crib.stubs.runtime.v1 import api_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from google.protobuf.message import Message

    from crib.cli.session import CliSession
    from crib.cli.usage_options import StatsOptions
    from crib.client import Connection
    from crib.client.usage import RunningCount, Usage, UsageReading

COLUMNS = (
    *("POD", "CONTAINER", "CPU TIME", "MEMORY", "LIMIT", "SWAP", "PIDS", "DISK"),
    *("READ", "WRITTEN", "RECEIVED", "SENT"),
)
_NOT_FIGURES = ("attributes", "containers", "timestamp", "windows")
"""Fields of the CRI's messages that are not the figures of the pod or container that was asked for."""


async def stats(session: CliSession, options: StatsOptions) -> None:
    """Show the figures once, or with --watch at each interval until the person leaves."""
    form = Format.JSON if options.json else options.output
    async with session.connect() as connection:
        source = _Everything(connection) if options.target is None else _One(connection, options)
        while True:
            await source.read()
            _show(source, form, again=options.watch)
            sys.stdout.flush()
            if not options.watch:
                return
            await asyncio.sleep(options.interval)


def _show(source: _Everything | _One, form: Form, *, again: bool) -> None:
    if form is Format.JSON and again:  # a line for each reading
        print(json.dumps(source.document()).replace("\x7f", "\\u007f"))
    elif form is not Format.TABLE:
        if again:
            print("---")
        document(source.document(), form)
    else:
        if again:
            tell(f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}")
        table(*source.table())


class _Everything:
    """All pods and containers."""

    def __init__(self, connection: Connection) -> None:
        self._reader = UsageClient(connection)
        self._reading: UsageReading | None = None

    async def read(self) -> None:
        self._reading = await self._reader.read()

    def table(self) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
        return COLUMNS, list(self._rows())

    def _rows(self) -> Iterator[Sequence[str]]:
        assert self._reading is not None
        for pod in sorted(self._reading.pods, key=lambda pod: (pod.namespace, pod.name)):
            label = f"{pod.namespace}/{pod.name}"
            yield label, UNKNOWN, *_cells(pod.usage)
            for container in pod.containers:
                yield label, container.name, *_cells(container.usage)

    def document(self) -> dict[str, Any]:
        """Bytes, core-nanoseconds and percent; null for what is not known."""
        assert self._reading is not None
        pods = [
            {
                "id": pod.id,
                "namespace": pod.namespace,
                "name": pod.name,
                **_document(pod.usage),
                "containers": [
                    {"id": one.id, "name": one.name, **_document(one.usage)} for one in pod.containers
                ],
            }
            for pod in self._reading.pods
        ]
        return {"timestamp": self._reading.at, "pods": pods}


def _cells(usage: Usage) -> tuple[str, ...]:
    return (
        UNKNOWN if usage.cpu is None else f"{usage.cpu.value / 1e9:.1f}s",
        amount(usage.memory),
        amount(usage.memory_limit),
        amount(usage.swap),
        count(usage.processes),
        amount(usage.disk),
        *(amount(_value(one)) for one in (usage.read, usage.written, usage.received, usage.sent)),
    )


def _value(counter: RunningCount | None) -> int | None:
    return None if counter is None else counter.value


def _document(usage: Usage) -> dict[str, Any]:
    pressure = usage.pressure
    return {
        "cpuNanoSeconds": _value(usage.cpu),
        "cpuNanoCores": usage.nano_cores,
        "memoryBytes": usage.memory,
        "memoryLimitBytes": usage.memory_limit,
        "swapBytes": usage.swap,
        "processes": usage.processes,
        "writableLayerBytes": usage.disk,
        "readBytes": _value(usage.read),
        "writtenBytes": _value(usage.written),
        "receivedBytes": _value(usage.received),
        "sentBytes": _value(usage.sent),
        "pressurePercent": {"cpu": pressure.cpu, "memory": pressure.memory, "io": pressure.io},
    }


class _One:
    """Everything that the CRI tells of one pod or container."""

    def __init__(self, connection: Connection, options: StatsOptions) -> None:
        self._connection = connection
        self._options = options
        self._found: pb.PodSandboxStats | pb.ContainerStats = pb.ContainerStats()

    async def read(self) -> None:
        connection, options = self._connection, self._options
        target = options.target or ""
        if not options.container:
            try:
                pod = await lookup.find_pod(connection, target)
            except Ambiguous:
                raise
            except NotFound:
                pass
            else:
                of_pod = pb.PodSandboxStatsRequest(pod_sandbox_id=pod.id)
                self._found = (await connection.call(connection.runtime.PodSandboxStats, of_pod)).stats
                return
        found = await lookup.find_container(connection, target, options.container)
        of_container = pb.ContainerStatsRequest(container_id=found.container.id)
        self._found = (await connection.call(connection.runtime.ContainerStats, of_container)).stats

    def table(self) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
        figures = self._found.linux if isinstance(self._found, pb.PodSandboxStats) else self._found
        return ("FIGURE", "VALUE"), list(_figures(figures, ""))

    def document(self) -> dict[str, Any]:
        """The CRI's own message."""
        return as_dict(self._found)


def _figures(message: Message, path: str) -> Iterator[tuple[str, str]]:
    """Every number of a message by its field's name in the CRI; a dash where the runtime tells none."""
    for field in message.DESCRIPTOR.fields:
        if field.name in _NOT_FIGURES:
            continue
        name = f"{path}{field.name}"
        value = getattr(message, field.name)
        if field.message_type is None:
            yield name, _figure(name, value)
        elif field.message_type.name == "UInt64Value":
            yield name, _figure(name, value.value) if message.HasField(field.name) else UNKNOWN
        elif field.is_repeated:
            for one in value:
                yield from _figures(one, f"{name}.{one.name}.")
        elif message.HasField(field.name):
            yield from _figures(value, f"{name}.")
        else:
            yield name, UNKNOWN


def _figure(name: str, value: float | str) -> str:
    if isinstance(value, str):
        return value or UNKNOWN
    if name.endswith("_bytes"):
        return f"{value} ({size(int(value))})"
    if name.endswith(("nano_seconds", "psi.Some.Total", "psi.Full.Total")):
        return f"{value} ns ({value / 1e9:.3f} s)"
    if ".Avg" in name:
        return f"{value:.2f} %"
    if name.endswith("nano_cores"):
        return f"{value} ({value / 1e9:.3f} cores)"
    return str(value)
