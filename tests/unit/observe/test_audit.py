"""Entries of the audit on their way to the disk, and who is said to have asked."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from crib.model.caller import AuditEntry, Caller, CallObject, Peer
from crib.model.errors import Broken
from crib.model.settings import AuditSettings
from crib.observe import audit as module
from crib.observe.audit import Audit, encode
from crib.observe.rotated_file import RotatedFile

BOUND = 30.0
KUBELET = Peer(812, 0, "/usr/bin/kubelet")
CLIENT = """
import socket, sys
clients = [socket.socket(socket.AF_UNIX) for _ in range(2)]
for client in clients:
    client.connect(sys.argv[1])
sys.stdin.read()
"""


def entry(number: int = 1, peers: tuple[Peer, ...] = (KUBELET,), error: str = "") -> AuditEntry:
    return AuditEntry(
        verb="StopContainer",
        caller=Caller("grpc-go/1.78.0", f"{number:x}", peers),
        trace="",
        object=CallObject(pod="default/web", container="c1", name="server"),
        at=1_700_000_000_000_000_000,
        duration=12_345_678,
        code="NOT_FOUND" if error else "OK",
        error=error,
    )


@asynccontextmanager
async def auditing(path: Path, socket: str = "/none") -> AsyncIterator[Audit]:
    audit = Audit(AuditSettings(enabled=True), str(path), socket)
    try:
        yield audit
    finally:
        await audit.close()


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_an_entry_is_one_line_with_all_that_is_known() -> None:
    line = encode(entry(0x1F, error="there is no container\n'c1'"))
    assert line.count(b"\n") == 1
    assert json.loads(line) == {
        "time": "2023-11-14T22:13:20.000000Z",
        "duration_ms": 12.346,
        "request": "1f",
        "call": "StopContainer",
        "caller": {
            "agent": "grpc-go/1.78.0",
            "peer": {"pid": 812, "uid": 0, "executable": "/usr/bin/kubelet"},
        },
        "object": {"pod": "default/web", "container": "c1", "name": "server"},
        "code": "NOT_FOUND",
        "error": "there is no container\n'c1'",
    }


def test_of_several_peers_none_is_said_to_be_the_caller() -> None:
    caller = json.loads(encode(entry(peers=(KUBELET, Peer(5, 1000)))))["caller"]
    assert "peer" not in caller
    assert [one["pid"] for one in caller["one_of"]] == [812, 5]
    assert caller["peers"] == 2
    many = json.loads(encode(entry(peers=tuple(Peer(pid, 0) for pid in range(100)))))["caller"]
    assert (len(many["one_of"]), many["peers"]) == (module.PEERS_LIMIT, 100)
    assert "peer" not in json.loads(encode(entry(peers=())))["caller"]


async def test_what_is_put_is_in_the_file_when_the_daemon_has_ended(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    async with auditing(path) as audit:
        for number in range(1, 4):
            audit.put(entry(number))
    assert [one["request"] for one in read(path)] == ["1", "2", "3"]


async def test_a_disk_that_hangs_holds_up_nobody_and_the_file_says_how_many_were_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path, hangs, answers = tmp_path / "audit.jsonl", threading.Event(), threading.Event()
    append = RotatedFile.append

    def hang(self: RotatedFile, lines: list[bytes]) -> None:
        if lines:
            hangs.set()
        assert answers.wait(BOUND)
        append(self, lines)

    monkeypatch.setattr(RotatedFile, "append", hang)
    monkeypatch.setattr(module, "QUEUE_LIMIT", 5)
    async with auditing(path) as audit:
        audit.put(entry(1))
        assert await asyncio.to_thread(hangs.wait, BOUND)
        for number in range(2, 14):
            audit.put(entry(number))  # five of these twelve find room
        answers.set()
    told = read(path)
    assert [one.get("request") for one in told] == ["1", None, *"23456"]
    assert told[1]["dropped"] == 7
    assert f"audit: {path}: 7 entries were dropped" in caplog.text


async def test_what_a_disk_refuses_is_counted_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path, failed = tmp_path / "audit.jsonl", threading.Event()
    append, is_full = RotatedFile.append, True

    def fill(self: RotatedFile, lines: list[bytes]) -> None:
        if is_full and lines:
            self.written = 0
            failed.set()
            raise OSError(28, "no space left on device")
        append(self, lines)

    monkeypatch.setattr(RotatedFile, "append", fill)
    async with auditing(path) as audit:
        audit.put(entry(1))
        assert await asyncio.to_thread(failed.wait, BOUND)
        is_full = False
        audit.put(entry(2))
    told = read(path)
    assert [one.get("dropped") for one in told] == [1, None]
    assert told[1]["request"] == "2"
    assert "no space left on device" in caplog.text


async def test_a_file_that_cannot_be_written_keeps_the_daemon_from_starting(tmp_path: Path) -> None:
    with pytest.raises(Broken, match=r"audit\.file: .*/none/audit\.jsonl: No such file"):
        Audit(AuditSettings(enabled=True), str(tmp_path / "none" / "audit.jsonl"), "/none")


def client(path: str) -> subprocess.Popen[bytes]:
    """A process with two connections, until its standard input ends."""
    return subprocess.Popen([sys.executable, "-c", CLIENT, path], stdin=subprocess.PIPE)


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        listener.listen()
        yield listener


async def test_a_process_with_several_connections_is_one_peer_and_the_daemon_is_none(
    tmp_path: Path, listener: socket.socket
) -> None:
    path = listener.getsockname()
    process = client(path)
    own = socket.socket(socket.AF_UNIX)
    own.connect(path)
    ends = [listener.accept()[0] for _ in range(3)]
    try:
        async with auditing(tmp_path / "audit.jsonl", path) as audit:
            found = await audit.peers()
    finally:
        for end in (*ends, own):
            end.close()
        process.communicate(timeout=BOUND)
    assert found == (Peer(process.pid, os.getuid(), os.path.realpath(sys.executable)),)


async def test_a_look_serves_those_who_asked_before_it_began_and_no_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[threading.Event] = []
    begun = asyncio.Queue[int]()
    loop = asyncio.get_running_loop()

    def look(self: object) -> tuple[Peer, ...]:
        looks.append(threading.Event())
        number = len(looks)
        loop.call_soon_threadsafe(begun.put_nowait, number)
        assert looks[-1].wait(BOUND)
        return (Peer(number, 0),)

    monkeypatch.setattr(Audit, "_look", look)
    monkeypatch.setattr(module, "LOOK_SECONDS", BOUND)
    async with (
        auditing(tmp_path / "audit.jsonl") as audit,
        asyncio.TaskGroup() as group,
        asyncio.timeout(BOUND),
    ):
        first = group.create_task(audit.peers())
        assert await begun.get() == 1
        others = [group.create_task(audit.peers()) for _ in range(20)]
        await asyncio.sleep(0)
        looks[0].set()
        assert await begun.get() == 2
        last = group.create_task(audit.peers())
        await asyncio.sleep(0)
        looks[1].set()
        assert await begun.get() == 3
        looks[2].set()
    assert (await first, {await other for other in others}, await last) == (
        (Peer(1, 0),),
        {(Peer(2, 0),)},
        (Peer(3, 0),),
    )


async def test_a_look_that_takes_too_long_leaves_the_caller_unknown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    ends = threading.Event()
    monkeypatch.setattr(Audit, "_look", lambda self: ends.wait(BOUND))
    monkeypatch.setattr(module, "LOOK_SECONDS", 0.01)
    async with auditing(tmp_path / "audit.jsonl") as audit:
        try:
            assert await audit.peers() == ()
        finally:
            ends.set()
    assert "audit: looking who is connected: " in caplog.text
