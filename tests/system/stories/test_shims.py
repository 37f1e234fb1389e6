"""cribd with a handler by shims: pods live, shims and daemons are killed, all is wiped."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import AsyncIterator, Iterator

import pytest

from crib.backends.known_processes import is_alive
from crib.backends.shim.shim_notes import ShimNote, read_note
from crib.client import pods
from crib.client.errors import ClientError
from crib.client.pods import Pod
from crib.model.sandbox import ProcessIdentity
from crib.stubs.runtime.v1 import api_pb2 as pb
from tests.system.labs.daemon import Cri, Cribd, default_shim, log_contents, running_cribd, until

pytestmark = [
    pytest.mark.root,
    pytest.mark.system,
    pytest.mark.skipif(shutil.which("containerd-shim-runc-v2") is None, reason="there is no shim"),
]


@pytest.fixture
def cribd() -> Iterator[Cribd]:
    """Each story has its own: what is started anew is a new process, and it would count as left behind."""
    with running_cribd(extra=default_shim()) as daemon:
        yield daemon


@pytest.fixture
async def cri(cribd: Cribd) -> AsyncIterator[Cri]:
    async with cribd.story() as connection:
        yield connection


def note_of(cri: Cri, pod: Pod) -> ShimNote:
    note = read_note(str(cri.cribd.state / "containers" / pod.id))
    assert note is not None
    return note


def shim_of(cri: Cri, pod: Pod) -> ProcessIdentity:
    process = note_of(cri, pod).process
    assert process is not None
    return process


async def test_a_pod_lives_by_a_shim(cri: Cri) -> None:
    pod = await cri.run_pod("pod")
    box = await cri.run_container(pod, "sh", "-c", "echo hello; sleep 1000")
    assert await cri.sh(box, "echo inside") == "inside"
    assert (await cri.execute(box, "sh", "-c", "exit 7")).code == 7
    status = await cri.status(box)
    assert status.state == pb.CONTAINER_RUNNING
    await cri.stop_container(box)
    assert (await cri.status(box)).exit_code == 137
    assert log_contents(status.log_path)["stdout"] == b"hello\n"
    await cri.remove_pod(pod)


async def test_a_killed_shim_is_told_and_its_pod_goes_on(cri: Cri) -> None:
    pod = await cri.run_pod("pod")
    box = await cri.run_container(pod, "sleep", "1000")
    os.kill(shim_of(cri, pod).pid, signal.SIGKILL)
    ended = await cri.exited(box)
    assert (ended.exit_code, ended.reason) == (137, "Unknown")
    assert "its shim died" in ended.message
    again = await cri.run_container(pod, "true", name="again")
    assert (await cri.exited(again)).exit_code == 0
    await cri.remove_pod(pod)


async def test_an_exit_while_there_is_no_daemon_is_told(cri: Cri, cribd: Cribd) -> None:
    pod = await cri.run_pod("pod")
    box = await cri.run_container(pod, "sh", "-c", "until [ -e /go ]; do sleep 0.02; done; exit 5")
    verbose = pb.ContainerStatusRequest(container_id=box, verbose=True)
    info = json.loads((await cri.call(cri.runtime.ContainerStatus, verbose)).info["info"])
    cribd.kill()
    with open(f"/proc/{info['pid']}/root/go", "w"):  # noqa: ASYNC230  # it is in memory
        pass
    cribd.start()
    async with cribd.connect() as after:
        assert (await after.exited(box)).exit_code == 5
        await after.remove_pod(pod)


async def test_memory_that_runs_out_is_told(cri: Cri) -> None:
    pod = await cri.run_pod("pod")
    config = cri.container_config("tail", "/dev/zero")
    config.linux.resources.memory_limit_in_bytes = 16 << 20
    box = await pods.create_container(cri.connection, pod, config)
    await cri.start(box)
    ended = await cri.exited(box)
    assert ended.reason == "OOMKilled"
    await cri.remove_pod(pod)


async def test_a_handler_that_is_taken_out_looks_after_what_it_has_made(cri: Cri, cribd: Cribd) -> None:
    pod = await cri.run_pod("pod")
    box = await cri.run_container(
        pod, "sh", "-c", "trap 'exit 9' TERM; echo ready; while :; do sleep 0.05; done"
    )
    await until(lambda: log_contents(cribd.logs / "pod" / "box.log")["stdout"])
    shim, socket = shim_of(cri, pod), note_of(cri, pod).address.path
    cribd.stop()
    before = cribd.config.read_text()
    cribd.config.write_text(before.replace(default_shim(), ""))
    cribd.start()
    async with cribd.connect() as after:
        assert await after.sh(box, "echo inside") == "inside"
        with pytest.raises(ClientError, match="no handler 'shim'"):
            await after.create(pod, "true", name="more")
        told = await after.call(after.runtime.Status, pb.StatusRequest())
        assert "shim" not in {one.name for one in told.runtime_handlers}
        await after.stop_container(box, 30)
        assert (await after.exited(box)).exit_code == 9
        await after.remove_pod(pod)
    assert not is_alive(shim)
    assert not os.path.exists(socket)
    cribd.stop()
    cribd.start()  # and it is forgotten
    await until(lambda: not (cribd.state / "shims" / "shim.json").exists())
    cribd.stop()
    cribd.config.write_text(before)
    cribd.start()
    for left in (
        cribd.state / "runtime" / "crun",
        cribd.state / "runtime" / "crun.json",
    ):  # of the default one
        left.rmdir() if left.is_dir() else left.unlink()


async def test_a_wipe_ends_shims_of_a_handler_that_is_taken_out(cribd: Cribd) -> None:
    async with cribd.connect() as cri:
        pod = await cri.run_pod("pod")
        await cri.run_container(pod, "sleep", "1000")
        shim, socket = shim_of(cri, pod), note_of(cri, pod).address.path
    cribd.kill()
    cribd.config.write_text(cribd.config.read_text().replace(default_shim(), ""))
    cribd.wipe()
    assert not is_alive(shim)
    assert not os.path.exists(socket)
    cribd.settle_empty()
    cribd.start()


async def test_a_wipe_ends_shims(cribd: Cribd) -> None:
    async with cribd.connect() as cri:
        pod = await cri.run_pod("pod")
        await cri.run_container(pod, "sleep", "1000")
        shim = shim_of(cri, pod)
    cribd.kill()
    cribd.wipe()
    assert not is_alive(shim)
    cribd.settle_empty()
    cribd.start()
