"""Who is connected to our socket, with real sockets and processes."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from crib.host import peers
from crib.host.peers import AcceptedConnections, ConnectedProcess

CLIENT = """
import socket, sys
client = socket.socket(socket.AF_UNIX)
client.connect(sys.argv[1])
print("connected", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        listener.listen()
        yield listener


def client(path: str) -> subprocess.Popen[str]:
    """A process that is connected until its standard input ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", CLIENT, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "connected\n"
    return process


def test_each_connection_is_of_the_process_that_made_it(listener: socket.socket) -> None:
    path = listener.getsockname()
    connections = AcceptedConnections(path)
    assert connections.look() == []
    with client(path) as first, client(path) as second:
        accepted = [listener.accept()[0] for _ in range(2)]
        found = connections.look()
        assert sorted(one.pid for one in found) == sorted((first.pid, second.pid))
        executable = os.path.realpath(sys.executable)
        assert {(one.uid, one.executable) for one in found} == {(os.getuid(), executable)}
        assert connections.look() == found
    for end in accepted:
        end.close()
    assert connections.look() == []


def test_other_sockets_of_ours_are_nobodys(listener: socket.socket, tmp_path: Path) -> None:
    """Another listener's end, our own end of a connection elsewhere, a pair, and one of the network."""
    with (
        socket.socket(socket.AF_UNIX) as other,
        socket.socket(socket.AF_UNIX) as to_other,
        socket.socket(),
    ):
        other.bind(str(tmp_path / "other"))
        other.listen()
        to_other.connect(str(tmp_path / "other"))
        pair = socket.socketpair()
        with other.accept()[0], pair[0], pair[1]:
            assert AcceptedConnections(listener.getsockname()).look() == []


@pytest.mark.parametrize("option", [peers._SO_PEERPIDFD, 9999])
def test_the_executable_of_a_process_that_has_ended_is_not_guessed(
    listener: socket.socket, monkeypatch: pytest.MonkeyPatch, option: int
) -> None:
    """With a kernel that gives a pidfd of the peer, and with one that does not know that."""
    monkeypatch.setattr(peers, "_SO_PEERPIDFD", option)
    monkeypatch.setattr(peers, "_link", lambda pid: "/somebody/elses")
    with client(listener.getsockname()) as process:
        pass
    with listener.accept()[0]:
        assert AcceptedConnections(listener.getsockname()).look() == [
            ConnectedProcess(process.pid, os.getuid(), "")
        ]


def test_without_pidfds_of_peers_the_executable_is_read_while_the_connection_lasts(
    listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peers, "_SO_PEERPIDFD", 9999)
    with client(listener.getsockname()), listener.accept()[0]:
        found = AcceptedConnections(listener.getsockname()).look()
        assert [one.executable for one in found] == [os.path.realpath(sys.executable)]
