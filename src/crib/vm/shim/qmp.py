"""What qemu is told while it runs, by QMP (QEMU, docs/interop/qmp-spec.rst): one command at a time.

Lines of JSON over a socket that qemu was given. A descriptor goes beside a command, by SCM_RIGHTS.
"""

from __future__ import annotations

import array
import asyncio
import contextlib
import json
import socket
from collections.abc import Mapping
from typing import Any

from crib.vm.shim.watching import received

COMMAND_TIME = 30.0
"""Seconds for qemu to do what it is told, on a busy host."""
MOST_LINE_BYTES = 1 << 20


class QmpFailed(OSError):
    """qemu refuses, does not answer, or has gone; the message has its words."""


class Qmp:
    """One qemu, on the event loop."""

    def __init__(self, end: socket.socket) -> None:
        """`end` is ours from now on."""
        self._end = end
        self._loop = asyncio.get_running_loop()
        self._turn = asyncio.Lock()
        self._held = bytearray()
        self._greeted: asyncio.Future[None] = self._loop.create_future()
        self._is_ready = False
        self._answer: asyncio.Future[dict[str, Any]] | None = None
        self._waiting: dict[tuple[str, str], asyncio.Future[None]] = {}
        end.setblocking(False)
        self._loop.add_reader(end, self._read)

    async def ask(self, command: str, arguments: Mapping[str, Any], fd: int = -1) -> Any:
        """What qemu returns; `fd` goes with the command. QmpFailed."""
        async with self._turn:
            if not self._is_ready:
                await self._bounded(asyncio.shield(self._greeted), "its greeting")
                await self._told("qmp_capabilities", {})
                self._is_ready = True
            return await self._told(command, arguments, fd)

    async def unplug(self, device: str) -> None:
        """Take a device away; returns when the guest has let go of it. QmpFailed."""
        key = ("DEVICE_DELETED", device)
        gone = self._waiting[key] = self._loop.create_future()
        try:
            await self.ask("device_del", {"id": device})
            await self._bounded(gone, f"the end of device {device}")
        finally:
            self._waiting.pop(key, None)

    def close(self) -> None:
        """qemu has gone, or is left alone. Who waits is told. Safe to repeat."""
        if self._end.fileno() >= 0:
            self._loop.remove_reader(self._end)
            self._end.close()
        for one in (self._greeted, self._answer, *self._waiting.values()):
            if one is not None and not one.done():
                one.set_exception(QmpFailed("qemu has gone"))
                one.exception()  # nobody may wait for it

    async def _told(self, command: str, arguments: Mapping[str, Any], fd: int = -1) -> Any:
        if self._end.fileno() < 0:
            raise QmpFailed(f"{command}: qemu has gone")
        answer = self._answer = self._loop.create_future()
        line = json.dumps({"execute": command, "arguments": dict(arguments)}).encode()
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))] if fd >= 0 else []
        try:
            # A line is short, and qemu has answered all lines before: the socket has room for it.
            self._end.sendmsg([line], rights)
            said = await self._bounded(answer, command)
        except OSError as error:
            raise QmpFailed(f"{command}: {error}") from error
        finally:
            self._answer = None
        if "error" in said:
            raise QmpFailed(f"qemu, {command}: {said['error'].get('desc', said['error'])}")
        return said.get("return")

    async def _bounded(self, waiting: asyncio.Future[Any], what: str) -> Any:
        try:
            async with asyncio.timeout(COMMAND_TIME):
                return await waiting
        except TimeoutError:
            raise QmpFailed(f"{what}: no answer of qemu in {COMMAND_TIME:.0f} s") from None

    def _read(self) -> None:
        data = received(self._end)
        if data is None:
            return
        self._held += data
        if not data or len(self._held) > MOST_LINE_BYTES:
            self.close()
            return
        *lines, rest = bytes(self._held).split(b"\n")
        self._held[:] = rest
        for line in lines:
            with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError):
                self._heard(json.loads(line))

    def _heard(self, message: dict[str, Any]) -> None:
        if "QMP" in message and not self._greeted.done():
            self._greeted.set_result(None)
        elif "event" in message:
            key = (message["event"], str(message.get("data", {}).get("device", "")))
            if (found := self._waiting.get(key)) is not None and not found.done():
                found.set_result(None)
        elif self._answer is not None and not self._answer.done():
            self._answer.set_result(message)
