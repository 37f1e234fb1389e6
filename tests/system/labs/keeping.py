"""Pods that are kept up: a cribd with short pauses between restarts, and short ways to look at its pods."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path

from crib.client import kept
from crib.stubs.node.v1.node_pb2 import KeptPod
from tests.system.labs.daemon import Cri, Cribd, DaemonProcess, crib, until

SLEEPS = "trap exit TERM; while :; do sleep 0.1; done"


class KeepingCribd(Cribd):
    """With short pauses between restarts."""

    def _spawn(self, **environment: str) -> DaemonProcess:
        return super()._spawn(CRIB_TEST_PAUSES="0.1:1", **environment)


@contextlib.asynccontextmanager
async def keeping_story(cribd: Cribd) -> AsyncIterator[Cri]:
    """A story after which nothing is kept up, and nobody is there to do it."""
    async with cribd.story() as connection:
        yield connection
        if cribd.running:
            async with cribd.connect() as cri:  # anew: the daemon may have been started again since
                for pod in (await kept.everything(cri.connection)).pods:
                    await kept.forget(cri.connection, pod)
    await until(lambda: supervisor_of(cribd) is None)


def manifest(directory: Path, script: str = SLEEPS, policy: str = "Always", **fields: object) -> str:
    """A pod whose one container runs a shell script; `fields` are more of the container's."""
    container = {
        "name": "app",
        "image": "busybox:test",
        "imagePullPolicy": "Never",
        "command": ["sh", "-c", script],
        **fields,
    }
    spec = {"restartPolicy": policy, "terminationGracePeriodSeconds": 5, "containers": [container]}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web"}, "spec": spec}
    path = directory / "web.yaml"
    path.write_text(json.dumps(pod))
    return str(path)


def run(cribd: Cribd, directory: Path, *arguments: str) -> str:
    """What `crib` says; it must succeed."""
    done = crib(cribd, directory / "pods", *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def supervisor_of(cribd: Cribd) -> int | None:
    """The pid of the daemon's child."""
    for line in Path(f"/proc/{cribd.pid}/task/{cribd.pid}/children").read_text().split():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
            if b"crib.supervisor" in Path(f"/proc/{line}/cmdline").read_bytes():
                return int(line)
    return None


async def the_pod(cri: Cri) -> KeptPod:
    pods = (await kept.everything(cri.connection)).pods
    assert len(pods) == 1
    return pods[0]


async def running(cri: Cri, restarts: int = 0, name: str = "app") -> str:
    """Wait until the container runs, and was started again at least so often; its id."""
    found = ""

    async def is_up() -> bool:
        nonlocal found
        for one in (await the_pod(cri)).containers:
            if one.name == name and one.state == "Running" and one.restarts >= restarts:
                found = one.id
        return bool(found)

    await until(is_up)
    return found
