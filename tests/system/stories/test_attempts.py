"""`crib start`, `restart`, `update`, `wait` and `kill` against a real daemon."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Iterator
from pathlib import Path

import pytest

from crib.cli.session import CliSession
from crib.client import lookup
from crib.stubs.runtime.v1 import api_pb2 as pb
from tests.system.labs.daemon import IMAGE, Cri, Cribd, running_cribd, until
from tests.unit.cli.stream_pod import crib

pytestmark = [pytest.mark.root, pytest.mark.system]

POD = f"""
apiVersion: v1
kind: Pod
metadata: {{name: web}}
spec:
  terminationGracePeriodSeconds: 0
  initContainers:
  - name: page
    image: {IMAGE}
    command: [sh, -c, "echo made >> /www/page"]
    volumeMounts: [{{name: www, mountPath: /www}}]
  containers:
  - name: server
    image: {IMAGE}
    command: [sh, -c, "echo began $MODE; cat /www/page; exec sleep 1000"]
    env: [{{name: MODE, value: plain}}]
    resources: {{limits: {{memory: 64Mi}}}}
    volumeMounts: [{{name: www, mountPath: /www}}]
  volumes: [{{name: www, emptyDir: {{}}}}]
"""


@pytest.fixture(scope="module")
def cribd() -> Iterator[Cribd]:
    with running_cribd() as daemon:
        yield daemon


@pytest.fixture
async def cri(cribd: Cribd) -> AsyncIterator[Cri]:
    async with cribd.story() as connected:
        yield connected


async def _equals(output: Awaitable[str], text: str) -> bool:
    return await output == text


async def test_a_pod_is_restarted_stopped_and_started_with_its_volumes_and_limits(
    cri: Cri, cribd: Cribd, tmp_path: Path
) -> None:
    session = CliSession(f"unix://{cribd.socket}", f"{tmp_path}/pods")

    async def run(*words: str, stdin: bytes = b"") -> str:
        done = await crib(session, "--pods-dir", session.pods_dir, *words, stdin=stdin)
        assert (done.returncode, done.stderr) == (0, b""), (words, done)
        return done.stdout.decode()

    async def logged(text: str) -> None:
        await until(lambda: _equals(run("logs", "web"), text))  # the container may just begin

    await run("run", "-", stdin=POD.encode())
    await run("update", "web", "--memory", "128Mi", "--pids-limit", "50", "--cpus", "500m")
    await run("restart", "web")
    await logged("began plain\nmade\n")
    pod = await lookup.find_pod(cri.connection, "web")
    own = await lookup.containers(cri.connection, pod.id)
    assert [(one.metadata.name, one.metadata.attempt) for one in own] == [
        ("page", 0),
        ("server", 0),
        ("server", 1),
    ]
    resources = (await cri.status(own[2].id)).resources.linux
    assert (resources.memory_limit_in_bytes, resources.cpu_quota) == (128 << 20, 50_000)
    assert resources.unified["pids.max"] == "50"

    await run("kill", "web")
    assert await run("wait", "web") == "137\n"
    await run("start", "web")
    await run("stop", "web")
    await run("start", "web")
    again = await lookup.find_pod(cri.connection, "web")
    assert (again.state, again.metadata.attempt) == (pb.SANDBOX_READY, 1)
    await logged("began plain\nmade\nmade\n")
    assert len(await lookup.pods(cri.connection)) == 1
    await run("rm", "-f", "web")
    assert list(Path(session.pods_dir).iterdir()) == []
