"""What an administrator can see of a running cribd: who changed what, what it is at, and more of its log."""

from __future__ import annotations

import json
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from subprocess import PIPE, Popen
from typing import Any

import pytest

from crib.client.errors import NotFound
from crib.stubs.runtime.v1 import api_pb2 as pb
from tests.system.labs.daemon import Cribd, running_cribd, until

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
