"""The port `ContainerStreams` in memory: what `cat`, `echo` and `sh` do with their streams."""

from __future__ import annotations

import re
import shlex
from collections.abc import Collection, Sequence

from crib.ends import ByteStream, Session
from crib.model.container import ContainerRecord
from crib.model.errors import (
    CANNOT_RUN,
    NO_PROGRAM,
    CannotExecute,
    InvalidRequest,
    Unavailable,
    WrongState,
)
from crib.model.sandbox import SandboxRecord
from crib.model.streams import AttachRequest, ExecProcess, PodAddress
from tests.fakes.failpoints import Failpoints
from tests.fakes.host import PROGRAMS, FakeHost, ends_with
from tests.fakes.sessions import EchoStream, FakeSession

_FILES = ("passwd", "bin")
"""Names of what is there and is no program."""


class FakeStreams:
    """See ContainerStreams."""

    def __init__(self, host: FakeHost, failpoints: Failpoints) -> None:
        self._host = host
        self._failpoints = failpoints

    async def exec(self, record: ContainerRecord, process: ExecProcess) -> Session:
        await self._failpoints.reach("exec", record.id)
        container = self._host.container(record)
        if container.status != "running":
            raise WrongState(f"exec in container {record.id}: it is {container.status}")
        program = process.argv[0].rsplit("/", 1)[-1]
        what = f"exec of {program!r} in container {record.id}"
        if program in _FILES:
            raise CannotExecute(what, "permission denied", CANNOT_RUN)
        if program not in PROGRAMS:
            raise CannotExecute(what, "no such file or directory", NO_PROGRAM)

        def take(data: bytes) -> None:
            if program == "cat" and data:
                session.say(data)
            elif program == "cat" and not process.tty:
                session.finish(0)

        session = FakeSession(_asked(process), take, lambda: session.finish(137))
        if process.tty:
            session.on_close = lambda: session.finish(129)
        session.say(_output_of(process.argv).replace(b"\n", b"\r\n" if process.tty else b"\n"))
        code = ends_with(process.argv)
        if program == "cat" and not process.stdin:
            code = 0
        if code is not None:
            session.finish(code)
        container.commands.append(session)
        if process.contained:
            self._host.contained.append(session)
        return session

    async def attach(self, record: ContainerRecord, wanted: AttachRequest) -> Session:
        await self._failpoints.reach("attach", record.id)
        container = self._host.containers.get(record.id)
        if container is None or container.status not in ("created", "running"):
            raise WrongState(f"attach to container {record.id}: it has ended")
        config, is_cat = record.config, container.argv[0].endswith("cat")

        def take(data: bytes) -> None:
            if data and is_cat:
                self._host.say(record.id, data)
            elif not data and config.stdin_once:
                for one in container.attached:
                    if one.stdin is not None:
                        one.stdin.release()
                if is_cat:
                    self._host.finish(record.id, 0)

        asked = _asked(wanted) - (set() if config.stdin else {"stdin"})
        session = FakeSession(asked, take)

        def leave() -> None:
            if session in container.attached:
                container.attached.remove(session)
                if "stdin" in asked and config.stdin_once:
                    take(b"")

        session.on_close = leave
        container.attached.append(session)
        return session

    async def dial(
        self, record: SandboxRecord, containers: Collection[ContainerRecord], address: PodAddress
    ) -> ByteStream:
        await self._failpoints.reach("dial", record.id)
        if address.kind != "unix" and not 0 < address.port < 65536:
            raise InvalidRequest(f"{address.port} is no port", field="port")
        pod = self._host.pods.get(record.id)
        if pod is None or not pod.alive or address not in pod.echoes:
            raise Unavailable(f"connecting to {address} of sandbox {record.id}: connection refused")
        return EchoStream()


def _asked(wanted: ExecProcess | AttachRequest) -> set[str]:
    names = {name for name in ("stdin", "stdout", "stderr") if getattr(wanted, name)}
    return names - {"stderr"} if wanted.tty else names


def _output_of(argv: Sequence[str]) -> bytes:
    script = next((part for part in re.split(r"[;&]", argv[-1]) if part.strip().startswith("echo")), "")
    words = list(argv) if argv[0].endswith("echo") else shlex.split(script)
    return (" ".join(words[1:]) + "\n").encode() if words and words[0].endswith("echo") else b""
