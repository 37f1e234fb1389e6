"""A create that takes longer than a kubelet waits: its next try, which it makes anew, gets the container."""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from crib.client import pods
from crib.client.errors import AlreadyExists, TimedOut
from crib.client.pods import Pod
from crib.stubs.runtime.v1 import api_pb2 as pb
from tests.system.labs.daemon import Cri, Cribd, running_cribd, until
from tests.system.labs.hanging_programs import Gate

pytestmark = [pytest.mark.root, pytest.mark.system]

GIVES_UP = 0.2
"""Seconds that the first try waits. However long it is, the create takes longer: the test holds it up."""


@dataclass(frozen=True)
class Slow:
    """A daemon whose creates can be held up."""

    cribd: Cribd
    before_log: Gate
    after_log: Gate


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slow]:
    directory = tmp_path_factory.mktemp("slow")
    monitor, runtime = Gate(directory, "conmon"), Gate(directory, "crun", " create ")
    handler = f'default_handler = "slow"\n[handlers.slow]\npath = "{runtime.program}"\n'
    with running_cribd(extra=f'conmon = "{monitor.program}"\n{handler}') as cribd:
        yield Slow(cribd, before_log=monitor, after_log=runtime)
    monitor.end()
    runtime.end()


@pytest.fixture
async def cri(slow: Slow) -> AsyncIterator[Cri]:
    async with slow.cribd.story() as connection:
        yield connection
        slow.before_log.open()
        slow.after_log.open()


class Kubelet:
    """Makes a container's config as a kubelet does: anew for each try (kuberuntime_container.go)."""

    def __init__(self, cri: Cri, pod: Pod, root: Path) -> None:
        self._cri = cri
        self._pod = pod
        self._directory = root / "pods" / pod.config.metadata.uid / "containers" / "box"
        self._directory.mkdir(parents=True)
        self._tries = 0

    def request(self, script: str, attempt: int = 0) -> pb.CreateContainerRequest:
        self._tries += 1
        message = self._directory / secrets.token_hex(4)
        message.touch(0o666)
        variables = [("A", b"1"), ("B", b"2"), ("C", b"3")]
        config = self._cri.container_config(
            "sh",
            "-c",
            script,
            log_path=f"box/{attempt}.log",
            envs=[pb.KeyValue(key=k, value=v) for k, v in variables[:: -1 if self._tries % 2 else 1]],
            mounts=[pb.Mount(container_path="/dev/termination-log", host_path=str(message))],
            annotations={"io.kubernetes.container.terminationMessagePath": "/dev/termination-log"},
        )
        config.metadata.attempt = attempt
        return pb.CreateContainerRequest(
            pod_sandbox_id=self._pod.id, config=config, sandbox_config=self._pod.config
        )


async def test_a_kubelets_next_try_gets_the_container_and_reads_its_termination_message(
    cri: Cri, slow: Slow, tmp_path: Path
) -> None:
    pod = await cri.run_pod("patient")
    kubelet = Kubelet(cri, pod, tmp_path)
    script = "echo last words > /dev/termination-log"
    first, other = kubelet.request(script), kubelet.request("true")
    slow.before_log.close()
    with pytest.raises(TimedOut):
        await cri.call(cri.runtime.CreateContainer, first, GIVES_UP)
    await until(slow.before_log.reached.exists)
    with pytest.raises(AlreadyExists, match=r"with a different command$"):
        await cri.call(cri.runtime.CreateContainer, other)
    second = asyncio.ensure_future(cri.call(cri.runtime.CreateContainer, kubelet.request(script)))
    slow.before_log.open()
    box = (await second).container_id
    assert set(await cri.containers()) == {box}
    late = await cri.call(cri.runtime.CreateContainer, kubelet.request(script))
    assert late.container_id == box
    await pods.start_container(cri.connection, box)
    status = await cri.exited(box)
    (mount,) = status.mounts
    assert mount.host_path == first.config.mounts[0].host_path
    assert Path(mount.host_path).read_text() == "last words\n"


async def test_where_the_log_is_there_a_kubelets_next_try_is_the_next_attempt_and_the_first_leaves_nothing(
    cri: Cri, slow: Slow, tmp_path: Path
) -> None:
    pod = await cri.run_pod("patient")
    kubelet = Kubelet(cri, pod, tmp_path)
    slow.after_log.close()
    with pytest.raises(TimedOut):
        await cri.call(cri.runtime.CreateContainer, kubelet.request("true"), GIVES_UP)
    await until(slow.after_log.reached.exists)
    assert (Path(pod.config.log_directory) / "box" / "0.log").exists()
    slow.after_log.forget()
    box = (await cri.call(cri.runtime.CreateContainer, kubelet.request("true", attempt=1))).container_id
    await until(lambda: os.listdir(cri.cribd.data / "containers") == [box])
    assert set(await cri.containers()) == {box}
