"""What a process wrote last stays for a daemon that comes back."""

from __future__ import annotations

import os
from pathlib import Path
from typing import cast

from crib.stubs.vm import guest_pb2 as guest
from crib.vm.shim.agent import AgentClient
from crib.vm.shim.carrying import GuestOutput, ProcessKey, open_output


class Saying:
    """An agent whose process says something and ends."""

    async def read(self, request: guest.ReadRequest) -> guest.ReadResponse:
        return guest.ReadResponse(data=b"last words\n" if request.offset == 0 else b"", eof=True)


def reading(path: Path) -> int:
    return os.open(path, os.O_RDONLY | os.O_NONBLOCK)


async def test_output_that_nobody_has_read_is_there_until_its_process_is_deleted(tmp_path: Path) -> None:
    path = tmp_path / "stdout"
    os.mkfifo(path)
    agent = cast(AgentClient, Saying())
    output = GuestOutput(agent, ProcessKey("box", ""), 1, open_output(str(path)))
    await output.carry()
    reader = reading(path)
    assert os.read(reader, 100) == b"last words\n"
    assert os.read(reader, 100) == b"", "and then comes the end"
    os.close(reader)
    output.close()
    output.close()


async def test_with_its_process_what_nobody_wants_is_gone(tmp_path: Path) -> None:
    path = tmp_path / "stdout"
    os.mkfifo(path)
    before = len(os.listdir("/proc/self/fd"))
    agent = cast(AgentClient, Saying())
    output = GuestOutput(agent, ProcessKey("box", ""), 1, open_output(str(path)))
    await output.carry()
    output.close()
    assert len(os.listdir("/proc/self/fd")) == before
    reader = reading(path)
    assert os.read(reader, 100) == b""
    os.close(reader)


async def test_a_file_is_not_held(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.touch()
    agent = cast(AgentClient, Saying())
    output = GuestOutput(agent, ProcessKey("box", ""), 1, open_output(str(path)))
    await output.carry()
    assert path.read_bytes() == b"last words\n"
    output.close()
