"""Node plugins with the real daemon: who is there, who dies, and what is left of it."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from crib.client import node
from crib.client.errors import WrongState
from crib.stubs.nri.v1alpha1 import api_pb2 as pb
from crib.stubs.runtime.v1 import api_pb2 as cri_pb
from tests.plugin_lab import INSTALLED, LabPlugin
from tests.system.labs.daemon import Cri, Cribd, crib, running_cribd, until
from tests.system.labs.node_plugins import join, listed

pytestmark = [pytest.mark.root, pytest.mark.system]


@pytest.fixture(scope="module")
def cribd() -> Iterator[Cribd]:
    with running_cribd() as daemon:
        yield daemon


@pytest.fixture
async def cri(cribd: Cribd) -> AsyncIterator[Cri]:
    async with cribd.story() as connection:
        yield connection


@pytest.fixture
async def plugin(cribd: Cribd) -> AsyncIterator[LabPlugin]:
    """Not connected yet."""
    made = LabPlugin()
    yield made
    await made.close()


class CribdWithPlugin(Cribd):
    """One plugin is installed before its first start."""

    def __init__(self, *, network: str = "", extra: str = "", systemd: bool = False) -> None:
        super().__init__(network=network, extra=extra, systemd=systemd)
        self.plugins.mkdir()
        program = self.plugins / "20-installed"
        program.write_text(INSTALLED.format(python=sys.executable))
        program.chmod(0o755)


async def runtime_message(cri: Cri) -> str:
    status = (await cri.call(cri.runtime.Status, cri_pb.StatusRequest())).status
    return next(one for one in status.conditions if one.type == "RuntimeReady").message


async def test_a_plugin_is_seen_by_people_metrics_and_dumps(
    cri: Cri, cribd: Cribd, plugin: LabPlugin
) -> None:
    pod = await cri.run_pod("before")
    await join(cri, plugin)
    request = await plugin.until_heard("Synchronize")
    assert [one.id for one in request.pods] == [pod.id]
    container = await cri.run_container(pod, "sleep", "600")
    assert plugin.calls == [
        "CreateContainer",
        "ValidateContainerAdjustment",
        "PostCreateContainer",
        "StartContainer",
        "PostStartContainer",
    ]
    assert (await plugin.until_heard("StartContainer")).container.id == container
    (found,) = await listed(cri)
    assert (found.name, found.pid, found.installed, found.failures) == ("10-lab", os.getpid(), False, 0)
    assert found.calls == 7
    assert found.duration > 0
    shown = crib(cribd, cribd.root / "pods", "nri", "plugins")
    assert shown.returncode == 0, shown.stderr
    title, row = shown.stdout.splitlines()
    assert title.split()[:4] == ["PLUGIN", "STATE", "FOR", "PID"]
    assert row.split()[:2] == ["10-lab", "ready"]
    info = crib(cribd, cribd.root / "pods", "info")
    assert "10-lab (ready)" in info.stdout
    lines = {one.name: one.lines for one in await node.inspect_daemon(cri.connection)}
    assert lines["node plugins"][0].startswith(f"10-lab (pid {os.getpid()}): ready")


def alive(pid: int) -> bool:
    """A process that nobody has reaped yet is not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


async def test_a_plugin_that_breaks_the_protocol_is_told_in_status_and_pods_go_on(
    cri: Cri, cribd: Cribd, plugin: LabPlugin
) -> None:
    plugin.raw["RunPodSandbox"] = b"\xff\xff"
    await join(cri, plugin)
    await cri.run_pod("web")
    await plugin.gone()
    text = "NRI plugin 10-lab: it was dropped, and has not come back: RunPodSandbox of"

    async def is_told() -> bool:
        return text in await runtime_message(cri)

    await until(is_told)
    again = LabPlugin()
    await join(cri, again)
    assert "NRI plugin" not in await runtime_message(cri)
    await again.close()


async def test_a_refused_pod_leaves_nothing_and_may_be_tried_again(
    cri: Cri, cribd: Cribd, plugin: LabPlugin
) -> None:
    async def refuse(request: object) -> pb.Empty:
        from crib.ttrpc.errors import CallFailed

        raise CallFailed(2, "no room here")

    plugin.answers["RunPodSandbox"] = refuse
    await join(cri, plugin)
    with pytest.raises(WrongState, match=r"plugin 10-lab failed in RunPodSandbox of .*: no room here"):
        await cri.run_pod("web")
    assert not await cri.sandboxes()
    del plugin.answers["RunPodSandbox"]
    await cri.run_pod("web")


async def test_after_kills_of_plugin_and_daemon_all_is_there_again_and_after_a_stop_nothing(
    plugin: LabPlugin,
) -> None:
    with running_cribd(built=(), kind=CribdWithPlugin) as cribd:
        async with cribd.connect() as cri:
            (first,) = await listed(cri)
            assert (first.name, first.installed, first.starts) == ("20-installed", True, 1)
            os.kill(first.pid, signal.SIGKILL)

            async def is_back() -> bool:
                return any(one.starts == 2 for one in await listed(cri))

            await until(is_back)
            (second,) = await listed(cri)
            await join(cri, plugin, 2)
        assert "NRI plugin 20-installed: it ended (signal 9); it is started again" in cribd.log()
        cribd.kill()
        await plugin.gone()
        await until(lambda: not alive(second.pid))
        assert cribd.plugin_socket.exists()
        cribd.start()
        again = LabPlugin()
        async with cribd.connect() as cri:
            await join(cri, again, 2)
            await cri.remove_pod(await cri.run_pod("after"))
            (_, third) = await listed(cri)
            assert third.calls == 5  # Configure, Synchronize, and the pod's three
        assert again.calls == ["RunPodSandbox", "StopPodSandbox", "RemovePodSandbox"]
        cribd.stop()
        assert not alive(third.pid)
        await again.close()
        assert not cribd.plugin_socket.exists()
