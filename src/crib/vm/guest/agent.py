"""The agent: answers the host's calls over one port."""

from __future__ import annotations

import os
import stat
import time

from crib.vm.guest import channel, codec, disks, figures
from crib.vm.guest.configure import configure
from crib.vm.guest.crun import Crun
from crib.vm.guest.dialing import Dialing
from crib.vm.guest.errors import INTERNAL, INVALID_ARGUMENT, UNIMPLEMENTED, Failure
from crib.vm.guest.events import Events
from crib.vm.guest.loop import READ, WRITE, Later, Loop
from crib.vm.guest.messages import GUEST, GUEST_CALLS, TASK, TASK_CALLS
from crib.vm.guest.tasks import Tasks

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from crib.vm.guest.loop import Job

READ_BYTES = 1 << 16
MOST_UNSENT = 4 << 20
"""Bytes of answers that the host has not taken before no more calls are read."""
HOST_AWAY_SECONDS = 0.05
"""Until a port is looked at again that nobody holds at the host's end: nothing tells of that."""
MILLISECONDS = 1000
_HANG_UP = 0x10


class Agent:
    """One connection to the host. `stages` is what Info tells of the boot, in nanoseconds since it."""

    def __init__(
        self, port: int, generation: int, stages: dict[str, int], state: str = "/run/crib/agent"
    ) -> None:
        self._loop = loop = Loop()
        self._port = port
        self._is_device = stat.S_ISCHR(os.fstat(port).st_mode)
        self._generation = generation
        self._stages = stages
        self._events = Events()
        self._crun = Crun(loop, "/usr/bin/crun", state)
        self._tasks = Tasks(loop, self._crun, self._events, state)
        self._dialing = Dialing(loop)
        self._channel = channel.AgentChannel(generation, os.urandom(channel.NONCE_BYTES))
        self._unsent: list[bytes] = []
        self._unsent_bytes = 0
        self._crun_version = ""
        self._calls: dict[tuple[str, str], tuple[Any, Any, Callable[[dict[str, Any]], Any]]] = {}
        for service, tables, calls in (
            (TASK, TASK_CALLS, self._tasks.calls()),
            (GUEST, GUEST_CALLS, self._guest_calls()),
        ):
            for name, (question, reply) in tables.items():
                self._calls[service, name] = (question, reply, calls[name])
        os.set_blocking(port, False)

    def run(self) -> None:
        """Greet, and answer until the connection is over."""
        self._stages["ready_at"] = figures.uptime()
        self._send([self._channel.greeting])
        self._loop.run()

    def _guest_calls(self) -> dict[str, Callable[[dict[str, Any]], Any]]:
        return {
            "Configure": lambda asked: configure(self._loop, asked),
            "Read": self._read, "Write": self._write, "Dial": self._dialing.dial,
            "CloseStream": self._dialing.close, "Events": self._read_events, "Info": self._info,
            "Memory": lambda asked: figures.memory(online=asked["online"]),
            "Cpus": lambda asked: figures.cpus(online=asked["online"]),
            "Disk": lambda asked: disks.numbers(self._loop, asked["lun"]),
            "Written": lambda asked: self._tasks.root(asked).written(),
            "Users": lambda asked: self._tasks.root(asked).users(),
            "Poweroff": lambda _: figures.power_off(),
        }  # fmt: skip

    # the connection

    def _watch(self) -> None:
        events = WRITE if self._unsent else 0
        if self._unsent_bytes < MOST_UNSENT:
            events |= READ
        self._loop.watch(self._port, events, self._happened)

    def _happened(self, events: int) -> None:
        if events & WRITE:
            self._flush()
        if events & READ or (events & _HANG_UP and not events & WRITE):
            self._receive()
        elif not self._loop.is_over:
            self._watch()

    def _receive(self) -> None:
        try:
            data = os.read(self._port, READ_BYTES)
        except (BlockingIOError, InterruptedError):
            data = None
        if data == b"":
            if not self._is_device:
                self._loop.is_over = True
                return
            self._loop.unwatch(self._port)
            self._loop.after(HOST_AWAY_SECONDS).then(lambda _: self._watch())
            return
        if data:
            for stream, service, method, payload in self._channel.receive(data):
                self._called(stream, (service, method), payload)
        self._watch()

    def _send(self, frames: list[bytes]) -> None:
        self._unsent += frames
        self._unsent_bytes += sum(map(len, frames))
        self._flush()
        self._watch()

    def _flush(self) -> None:
        """Each frame by a write of its own: a virtio port takes it as a whole, or not at all."""
        sent = 0
        for frame in self._unsent:
            try:
                count = os.write(self._port, frame)
            except (BlockingIOError, InterruptedError):
                break
            self._unsent_bytes -= count
            if count < len(frame):  # a socket
                self._unsent[sent] = frame[count:]
                break
            sent += 1
        del self._unsent[:sent]

    # the calls

    def _called(self, stream: int, name: tuple[str, str], payload: bytes) -> None:
        done = self._loop.start(self._answer(name, payload))
        done.then(lambda ended: self._answered(stream, name, ended))

    def _answer(self, name: tuple[str, str], payload: bytes) -> Job:
        if (found := self._calls.get(name)) is None:
            raise Failure(UNIMPLEMENTED, f"there is no call {name[0]}/{name[1]}")
        question, reply, call = found
        try:
            asked = codec.decode(question, payload)
        except codec.BadMessage as error:
            raise Failure(INVALID_ARGUMENT, f"the request cannot be read: {error}") from None
        said = call(asked)
        if not isinstance(said, dict):
            said = yield from said
        return codec.encode(reply, said)

    def _answered(self, stream: int, name: tuple[str, str], ended: Later) -> None:
        error = ended.error
        if error is None:
            self._send(channel.answer(stream, ended.value))
        elif isinstance(error, Failure):
            self._send(channel.refusal(stream, error.code, str(error)))
        else:
            where = error.__traceback__
            while where is not None and where.tb_next is not None:
                where = where.tb_next
            place = f"{where.tb_frame.f_code.co_filename}:{where.tb_lineno}" if where is not None else ""
            said = f"{name[1]}: {type(error).__name__}: {error}"
            self._events.log(f"{said} ({place})")
            self._send(channel.refusal(stream, INTERNAL, said))

    def _read(self, asked: dict[str, Any]) -> Job:
        if asked["connection"]:
            source = self._dialing.found(asked["connection"]).source
        else:
            source = self._tasks.process(asked).source(asked["stream"])
        return source.read(asked["offset"], asked["max"], self._limit(asked))

    def _write(self, asked: dict[str, Any]) -> Job:
        if asked["connection"]:
            writing = self._dialing.found(asked["connection"]).sink.write(asked["data"])
        else:
            writing = self._tasks.process(asked).write(asked["data"])
        accepted = yield from writing
        return {"accepted": accepted}

    def _read_events(self, asked: dict[str, Any]) -> Job:
        return self._events.read(asked["cursor"], self._limit(asked))

    def _limit(self, asked: dict[str, Any]) -> Later | None:
        return self._loop.after(asked["wait"] / MILLISECONDS) if asked["wait"] else None

    def _info(self, _: dict[str, Any]) -> Job:
        if not self._crun_version:
            self._crun_version = yield from self._crun.version()
        return {
            "kernel": os.uname().release,
            "agent_version": figures.agent_version(),
            "crun_version": self._crun_version,
            "generation": self._generation,
            **self._stages,
            "uptime": figures.uptime(),
            "now": time.time_ns(),
        }
