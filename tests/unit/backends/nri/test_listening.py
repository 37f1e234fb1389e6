"""The socket of node plugins, on a real file system."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from crib.backends.nri import listening
from crib.backends.nri.listening import PluginSocket
from tests.plugin_lab import until


class Door:
    """What a socket has accepted and told."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self.accepted: list[socket.socket] = []
        self.told: list[str] = []
        self.socket = PluginSocket(self.path, self.accepted.append, self.told.append)

    async def knock(self) -> None:
        """Connect, and be accepted."""
        count = len(self.accepted)
        with socket.socket(socket.AF_UNIX) as end:
            end.setblocking(False)
            await asyncio.get_running_loop().sock_connect(end, self.path)
            await until(lambda: len(self.accepted) > count)


@pytest.fixture
async def door(tmp_path: Path) -> AsyncIterator[Door]:
    made = Door(tmp_path / "run" / "nri" / "nri.sock")
    yield made
    await made.socket.close()
    for one in made.accepted:
        one.close()


async def test_only_root_may_connect_and_directories_are_made_for_it(door: Door) -> None:
    await door.socket.open()
    await door.knock()
    path = Path(door.path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [stat.S_IMODE(one.stat().st_mode) for one in (path.parent, path.parent.parent)] == [0o700, 0o700]
    assert door.told == [""]
    await door.socket.close()
    assert not path.exists()


async def test_a_directory_that_is_there_keeps_its_mode(door: Door) -> None:
    directory = Path(door.path).parent
    directory.mkdir(parents=True)
    directory.chmod(0o755)
    await door.socket.open()
    assert stat.S_IMODE(directory.stat().st_mode) == 0o755


async def test_a_socket_that_a_dead_daemon_left_is_replaced(door: Door) -> None:
    os.makedirs(os.path.dirname(door.path))
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(door.path)
        dead.listen()
    await door.socket.open()
    await door.knock()


async def test_another_runtime_that_listens_there_is_told_and_not_overwritten(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listening, "LOOK_SECONDS", 0.02)
    os.makedirs(os.path.dirname(door.path))
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(door.path)
        other.listen()
        before = os.stat(door.path).st_ino
        await door.socket.open()
        assert f"(pid {os.getpid()}) listens there" in door.told[0]
        assert os.stat(door.path).st_ino == before
        await until(lambda: len(door.told) > 1)
    await until(lambda: door.told[-1] == "")  # it has ended
    await door.knock()


async def test_somebody_who_is_too_busy_to_accept_listens_too(door: Door) -> None:
    os.makedirs(os.path.dirname(door.path))
    with socket.socket(socket.AF_UNIX) as other, socket.socket(socket.AF_UNIX) as waiting:
        other.bind(door.path)
        other.listen(0)
        waiting.connect(door.path)  # its backlog is full now
        await door.socket.open()
        assert "another program listens there" in door.told[0]
        assert os.path.exists(door.path)


async def test_a_file_that_is_no_socket_is_left_alone(door: Door) -> None:
    path = Path(door.path)
    path.parent.mkdir(parents=True)
    path.write_text("mine")
    await door.socket.open()
    assert "no socket" in door.told[0]
    await door.socket.close()
    assert path.read_text() == "mine"


@pytest.mark.parametrize("replaced", [False, True])
async def test_a_socket_that_somebody_removes_is_made_again(
    replaced: bool, door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listening, "LOOK_SECONDS", 0.02)
    await door.socket.open()
    os.unlink(door.path)
    if replaced:
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(door.path)
    await until(lambda: len(door.told) > 1)
    await door.knock()


async def test_a_path_that_is_too_long_is_told(tmp_path: Path) -> None:
    door = Door(tmp_path / ("x" * 120))
    await door.socket.open()
    assert "at most 107 bytes" in door.told[0]
    await door.socket.close()


async def test_one_that_was_replaced_is_not_removed_at_the_end(door: Door) -> None:
    await door.socket.open()
    os.unlink(door.path)
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(door.path)
    await door.socket.close()
    assert os.path.exists(door.path)


async def test_without_descriptors_it_accepts_later(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listening, "PAUSE_SECONDS", 0.02)
    await door.socket.open()
    limits = 3

    class Poor(socket.socket):
        def accept(self) -> tuple[socket.socket, object]:
            nonlocal limits
            if limits:
                limits -= 1
                raise OSError(24, "Too many open files")
            return super().accept()

    listener = door.socket._listener
    assert listener is not None
    asyncio.get_running_loop().remove_reader(listener.fileno())
    door.socket._listener = Poor(fileno=listener.detach())
    door.socket._listener.setblocking(False)
    door.socket._resume()
    await door.knock()
    assert limits == 0
