"""kill -9 of CNI plugins in the middle of their work, or of cribd at that moment: nothing of it is left.

The plugins are the reference ones. Each is run by one that waits before or after it, and is killed there.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass

import grpc
import pytest

from crib.client.errors import ClientError
from crib.client.pods import Pod
from crib.stubs.runtime.v1 import api_pb2 as pb
from tests.system.labs.daemon import Cri, until
from tests.system.labs.network_lab import CniLab, LabCribd, cni_lab, cribd_on, failing_bridge

pytestmark = [pytest.mark.root, pytest.mark.system]

PORT = 18080


@dataclass(frozen=True)
class Moment:
    """What is done, and what is not, when a plugin waits: `plugin` does at `command` as `how` says."""

    plugin: str
    command: str
    how: str
    done: Callable[[CniLab], bool]

    def __str__(self) -> str:
        return f"{self.command}-{self.plugin}-{self.how}"


def links(lab: CniLab) -> bool:
    """Whether a pod's link is on the bridge."""
    return any(name.startswith("veth") for name in lab.host.interfaces())


def address(lab: CniLab) -> bool:
    return bool(lab.held_addresses())


def ports(lab: CniLab) -> bool:
    return any(str(PORT) in rule for rule in lab.host.ruleset())


# The bridge plugin makes the link, then has an address taken. At DEL the order is its own.
VETH_MADE = Moment("addresses", "ADD", "gate", lambda lab: links(lab) and not address(lab))
ADDRESS_TAKEN = Moment("addresses", "ADD", "late", lambda lab: links(lab) and address(lab))
BRIDGE_DONE = Moment("first", "ADD", "late", lambda lab: address(lab) and not ports(lab))
PORTS_LED = Moment("second", "ADD", "late", lambda lab: address(lab) and ports(lab))
PORTS_GONE = Moment("second", "DEL", "late", lambda lab: address(lab) and not ports(lab))
ADDRESS_HELD = Moment("addresses", "DEL", "gate", address)
ADDRESS_BACK = Moment("addresses", "DEL", "late", lambda lab: not address(lab))
LINK_GONE = Moment("first", "DEL", "late", lambda lab: not links(lab) and not address(lab))
IN_ADD = (VETH_MADE, ADDRESS_TAKEN, BRIDGE_DONE, PORTS_LED)
IN_DEL = (PORTS_GONE, ADDRESS_HELD, ADDRESS_BACK, LINK_GONE)
SOME = {(VETH_MADE, "plugin"), (PORTS_LED, "cribd"), (ADDRESS_TAKEN, "cribd"), (ADDRESS_BACK, "plugin")}
"""What the ordinary suite tries."""


def tries(moments: tuple[Moment, ...]) -> list[object]:
    return [
        pytest.param(
            moment,
            killed,
            id=f"{moment}-{killed}",
            marks=() if (moment, killed) in SOME else pytest.mark.nightly,
        )
        for moment in moments
        for killed in ("plugin", "cribd")
    ]


@pytest.fixture
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CniLab]:
    with cni_lab(tmp_path_factory.mktemp("kills")) as made:
        bridge, *_ = failing_bridge(made)
        mapping = {"delegate": "portmap", "snat": True, "capabilities": {"portMappings": True}}
        made.write(bridge, {"type": "second", **mapping})
        yield made


@pytest.fixture
async def cribd(lab: CniLab) -> AsyncIterator[LabCribd]:
    with cribd_on(lab.host, lab.settings(), warm=False) as daemon:
        async with daemon.connect() as cri:  # what plugins share between pods is there from now on
            await cri.remove_pod(await cri.run_pod("first", port_mappings=mapped()))
        lab.forget_calls()
        try:
            yield daemon
        finally:
            lab.no_failpoints()


def mapped() -> list[pb.PortMapping]:
    return [pb.PortMapping(container_port=8080, host_port=PORT)]


@contextlib.asynccontextmanager
async def at(moment: Moment, lab: CniLab) -> AsyncIterator[None]:
    """While a plugin waits at that moment; it goes on afterwards, if it is there."""
    gate = lab.fail(moment.plugin, moment.command, f"1*{moment.how}")
    try:
        await lab.hangs(moment.plugin, moment.command)
        assert moment.done(lab), f"{moment}: {lab.held_addresses()}, {sorted(lab.host.interfaces())}"
        yield
    finally:
        gate.unlink()


def kill_plugin(lab: CniLab) -> None:
    """With what runs it and what it runs: as the kernel does where memory is short for all of a cgroup."""
    (waiting,) = lab.processes()
    os.killpg(os.getpgid(waiting), signal.SIGKILL)


async def outcome(call: asyncio.Future[object]) -> str:
    """What a call was answered: empty when it succeeded."""
    try:
        await call
    except (ClientError, grpc.RpcError) as error:
        return str(error) or type(error).__name__
    return ""


async def killed_at(moment: Moment, killed: str, lab: CniLab, cribd: LabCribd, call: object) -> None:
    """Kill it there; the call must fail, and say at which plugin where it can."""
    asked = asyncio.ensure_future(call)  # type: ignore[call-overload]  # any awaitable
    async with at(moment, lab):
        if killed == "cribd":
            cribd.kill()
        else:
            kill_plugin(lab)
        told = await outcome(asked)
        if killed == "plugin":
            place = "first" if moment.plugin == "addresses" else moment.plugin
            assert f"cni plugin {place} {moment.command}" in told, told
            assert "SIGKILL" in told, told
        else:
            assert told
            cribd.start()  # the plugin waits still: what it is at must not go on after this
            await until(lambda: lab.processes() == [])


@pytest.mark.parametrize(("moment", "killed"), tries(IN_ADD))
async def test_of_an_add_that_a_kill_cuts_off_nothing_is_left_and_the_retry_succeeds(
    lab: CniLab, cribd: LabCribd, moment: Moment, killed: str
) -> None:
    before = lab.traces(cribd)
    async with cribd.connect() as cri:
        config = cri.pod_config("cut", port_mappings=mapped())
        await killed_at(moment, killed, lab, cribd, run(cri, config))
    await lab.as_before(cribd, before)
    async with cribd.connect() as cri:
        assert await cri.sandboxes() == {}
        pod = await run(cri, config)
        assert lab.held_addresses() == [(await cri.pod_status(pod)).network.ip]
        await cri.remove_pod(pod)
    await lab.as_before(cribd, before)


@pytest.mark.parametrize(("moment", "killed"), tries(IN_DEL))
async def test_a_del_that_a_kill_cuts_off_is_done_by_the_next_removal(
    lab: CniLab, cribd: LabCribd, moment: Moment, killed: str
) -> None:
    before = lab.traces(cribd)
    async with cribd.connect() as cri:
        pod = await cri.run_pod("cut", port_mappings=mapped())
        await killed_at(moment, killed, lab, cribd, cri.stop_pod(pod))
    async with cribd.connect() as cri:
        await cri.remove_pod(pod)
        assert await cri.sandboxes() == {}
    await lab.as_before(cribd, before)


async def run(cri: Cri, config: pb.PodSandboxConfig) -> Pod:
    request = pb.RunPodSandboxRequest(config=config)
    return Pod((await cri.call(cri.runtime.RunPodSandbox, request)).pod_sandbox_id, config)
