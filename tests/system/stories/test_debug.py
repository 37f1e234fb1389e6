"""What an administrator can see of a running cribd: who changed what, what it is at, and more of its log."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from subprocess import PIPE, Popen
from typing import Any

import pytest

from crib.client import node
from crib.client.errors import InvalidRequest, NotFound
from crib.stubs.node.v1.node_pb2 import SetLogLevelRequest
from crib.stubs.runtime.v1 import api_pb2 as pb
from tests.system.labs.daemon import Cri, Cribd, running_cribd, until

pytestmark = [pytest.mark.root, pytest.mark.system]

SECRET = "swordfish-in-the-environment"
BYSTANDER = """
import socket, sys
client = socket.socket(socket.AF_UNIX)
client.connect(sys.argv[1])
print("connected", flush=True)
sys.stdin.read()
"""


@pytest.fixture(scope="module")
def cribd() -> Iterator[Cribd]:
    with running_cribd(extra="[audit]\nenabled = true\n") as daemon:
        yield daemon


@contextmanager
def bystander(cribd: Cribd) -> Iterator[int]:
    """Another process that is connected; its pid."""
    command = [sys.executable, "-c", BYSTANDER, str(cribd.socket)]
    with Popen(command, stdin=PIPE, stdout=PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "connected\n"
        yield process.pid


def audit_of(cribd: Cribd, call: str, object: str) -> list[dict[str, Any]]:
    """The entries of one kind of call on one object, as far as they are written."""
    path = cribd.data / "audit.jsonl"
    entries = [json.loads(line) for line in path.read_text().splitlines()]
    return [one for one in entries if one["call"] == call and object in one.get("object", {}).values()]


async def audited(cribd: Cribd, call: str, object: str) -> dict[str, Any]:
    found = await until(lambda: audit_of(cribd, call, object))
    assert isinstance(found, list)
    return dict(found[-1])


async def test_the_audit_names_the_process_that_asked(cribd: Cribd) -> None:
    async with cribd.story() as cri:
        pod = await cri.run_pod("audited", annotations={"token": SECRET})
        box = await cri.run_container(
            pod, "sleep", "1000", envs=[pb.KeyValue(key="PASSWORD", value=SECRET.encode())]
        )
        await cri.stop_container(box)
        entry = await audited(cribd, "StopContainer", box)
        own = {"pid": os.getpid(), "uid": 0, "executable": os.path.realpath(sys.executable)}
        assert entry["caller"]["peer"] == own
        assert entry["caller"]["agent"].startswith("crib/")
        assert entry["object"] == {
            "pod": "stories/audited",
            "sandbox": pod.id,
            "container": box,
            "name": "box",
        }
        assert (entry["code"], entry["duration_ms"] > 0) == ("OK", True)
        with pytest.raises(NotFound):
            await cri.start("0000nothing")
        assert (await audited(cribd, "StartContainer", "0000nothing"))["code"] == "NOT_FOUND"
    path = cribd.data / "audit.jsonl"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert {"RunPodSandbox", "CreateContainer", "StartContainer"} <= {
        json.loads(line)["call"] for line in path.read_text().splitlines()
    }
    assert SECRET not in path.read_text()


async def test_with_several_clients_the_audit_says_one_of_them(cribd: Cribd) -> None:
    async with cribd.story() as cri:
        pod = await cri.run_pod("crowded")
        with bystander(cribd) as other:
            await cri.stop_pod(pod)
        caller = (await audited(cribd, "StopPodSandbox", pod.id))["caller"]
        assert "peer" not in caller
        assert {one["pid"] for one in caller["one_of"]} == {os.getpid(), other}

        async def is_alone() -> bool:
            await cri.stop_pod(pod)
            caller = audit_of(cribd, "StopPodSandbox", pod.id)[-1]["caller"]
            return bool(caller.get("peer", {}).get("pid") == os.getpid())

        await until(is_alone)  # cribd hears of an end some time after it


async def test_a_dump_shows_the_verb_that_is_under_way_where_it_waits_and_no_secret(cribd: Cribd) -> None:
    async with cribd.story() as cri:
        pod = await cri.run_pod("busy", annotations={"token": SECRET})
        box = await cri.run_container(
            pod, "sleep", "1000", envs=[pb.KeyValue(key="PASSWORD", value=SECRET.encode())]
        )
        command = cri.execute(box, "sh", "-c", "until test -e /end; do sleep 0.1; done")
        async with asyncio.TaskGroup() as group:
            execution = group.create_task(command)
            await until(lambda: work_of(cri, box))
            sections = await node.inspect_daemon(cri.connection)
            os.kill(cribd.pid, signal.SIGUSR1)
            written = await until(lambda: list((cribd.state / "dumps").iterdir()))
            assert isinstance(written, list)
            await until(lambda: f"SIGUSR1: what the daemon is at is in {written[0]}" in cribd.log())
            assert (await cri.execute(box, "touch", "/end")).code == 0
        assert execution.result().code == 0
        dumped, mode = written[0].read_text(), stat.S_IMODE(written[0].stat().st_mode)
        written[0].unlink()
    assert mode == 0o600
    names = ("daemon", "verbs", "locks", "node plugins", "tasks", "threads", "descriptors", "memory", "log")
    assert tuple(one.name for one in sections) == names
    answered = "\n".join(line for one in sections for line in (f"== {one.name}", *one.lines))
    for text in (answered, dumped):
        assert all(f"\n== {name}" in f"\n{text}" for name in names)
        assert any(f" {box} stories/busy/box: " in line for line in text.splitlines())
        assert "MainThread (" in text
        assert SECRET not in text
        assert "cannot be told" not in text


async def work_of(cri: Cri, box: str) -> list[str]:
    return [one.name for one in await node.under_way(cri.connection) if one.id == box]


async def test_a_pods_lines_are_logged_at_debug_for_a_while(cribd: Cribd) -> None:
    async with cribd.story() as cri:
        loud, quiet = await cri.run_pod("loud"), await cri.run_pod("quiet")
        begun = len(cribd.log())
        order = SetLogLevelRequest(level="debug", pod="stories/loud")
        assert [one.pod for one in await node.set_log_level(cri.connection, order)] == ["stories/loud"]
        assert [one.pod for one in await node.log_rules(cri.connection)] == ["stories/loud"]
        boxes = [await cri.run_container(pod, "true") for pod in (loud, quiet)]
        about = [line for line in cribd.log()[begun:].splitlines() if " DEBUG " in line]
        assert any("CreateContainer done in" in line for line in about)
        assert any(boxes[0] in line for line in about)
        assert not any(boxes[1] in line or quiet.id in line for line in about)
        assert await node.set_log_level(cri.connection, SetLogLevelRequest(reset=True)) == []
        begun = len(cribd.log())
        await cri.run_container(loud, "true", name="later")
        assert " DEBUG " not in cribd.log()[begun:]
        order.duration_ns = 25 * 3600 * 10**9
        with pytest.raises(InvalidRequest, match="duration_ns"):
            await node.set_log_level(cri.connection, order)
