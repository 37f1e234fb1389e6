"""gVisor's runsc as a handler: the containers of a pod run together on a kernel of their own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import socket
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from crib.backends.known_processes import is_alive
from crib.backends.network.interfaces import bring_loopback_up
from crib.backends.oci import exec as exec_module
from crib.engine.containers.execute import run_command
from crib.host.pidfds import signal_process
from crib.model.container import (
    ContainerRecord,
    ContainerSecurity,
    ExecCommand,
    Exit,
    Mount,
    MountPropagation,
)
from crib.model.ends import OomLevel
from crib.model.errors import Broken, InvalidRequest, TimedOut, Unavailable
from crib.model.sandbox import NamespaceMode, NamespaceOptions, Resources
from crib.model.settings import HandlerSettings
from crib.model.streams import ExecProcess, PodAddress
from crib.ports.networks import PodNetwork
from tests.contract.handler_lab import line, rest
from tests.system.labs.oci_pods import (
    FOREVER,
    OWN_PIDS,
    cgroup_of,
    config,
    output,
    pod,
    run_to_end,
    running,
    until_logged,
)
from tests.system.labs.oci_setup import BOUND, OciLab, oci_lab

pytestmark = [
    pytest.mark.root,
    pytest.mark.system,
    pytest.mark.skipif(shutil.which("runsc") is None, reason="gVisor's runsc is not installed"),
]
UNTIL_TERMINATED = ("sh", "-c", "trap 'exit 3' TERM; echo waits; while :; do sleep 0.05; done")


@pytest.fixture
async def lab() -> AsyncIterator[OciLab]:
    async with oci_lab("runsc", HandlerSettings(args=("--network=host",))) as made:
        yield made


@contextlib.asynccontextmanager
async def told(lab: OciLab) -> AsyncIterator[dict[str, asyncio.Future[Exit]]]:
    """The exits that are told in the block, by container."""
    found: dict[str, asyncio.Future[Exit]] = {}

    async def collect() -> None:
        async for exit_ in lab.handler.containers.exits():
            future = found.setdefault(exit_.id, asyncio.get_running_loop().create_future())
            if not future.done():
                future.set_result(exit_)

    collecting = asyncio.ensure_future(collect())
    try:
        yield found
    finally:
        collecting.cancel()
        await asyncio.wait([collecting])


async def exit_of(found: dict[str, asyncio.Future[Exit]], record: ContainerRecord) -> Exit:
    future = found.setdefault(record.id, asyncio.get_running_loop().create_future())
    async with asyncio.timeout(BOUND):
        return await future


async def test_a_container_runs_on_the_pods_kernel_and_its_output_and_code_come_back(lab: OciLab) -> None:
    script = "dmesg 2>/dev/null || cat /proc/version; hostname; exit 7"
    async with pod(lab) as sandbox:
        exit_, text = await run_to_end(lab, sandbox, config("sh", "-c", script))
        assert exit_.code == 7
        assert os.uname().release not in text
        assert text.endswith("pod-host\n")


async def test_a_signal_ends_one_container_and_no_other_of_its_pod(lab: OciLab) -> None:
    async with (
        pod(lab) as sandbox,
        told(lab) as exits,
        running(lab, sandbox, config(*UNTIL_TERMINATED)) as first,
        running(lab, sandbox, config(*FOREVER)) as second,
    ):
        await until_logged(first, "waits")
        await lab.handler.containers.signal(first, signal.SIGTERM)
        assert (await exit_of(exits, first)).code == 3
        assert await output(lab, second, "echo", "lives") == "lives\n"
        await lab.handler.containers.signal(second, signal.SIGKILL, everyone=True)
        assert (await exit_of(exits, second)).code == 137
        assert is_alive(sandbox.infra)


async def test_containers_see_each_others_processes_only_where_the_pod_shares_them(lab: OciLab) -> None:
    together = ContainerSecurity(namespaces=NamespaceOptions(pid=NamespaceMode.POD))
    async with (
        pod(lab, pid=NamespaceMode.POD) as sandbox,
        running(lab, sandbox, config("sleep", "1111", security=together)) as first,
        running(lab, sandbox, config(*FOREVER, security=together)) as second,
    ):
        assert "sleep 1111" in await output(lab, second, "ps")
        assert "catatonit" in await output(lab, first, "ps")
    async with (
        pod(lab) as sandbox,
        running(lab, sandbox, config("sleep", "1111")) as first,
        running(lab, sandbox, config(*FOREVER)) as second,
    ):
        assert "sleep 1111" not in await output(lab, second, "ps")
        options = replace(OWN_PIDS, pid=NamespaceMode.TARGET, target_id=first.id)
        beside = config(*FOREVER, security=ContainerSecurity(namespaces=options))
        async with running(lab, sandbox, beside) as third:
            assert "sleep 1111" in await output(lab, third, "ps")


async def test_an_exec_that_takes_too_long_is_ended_with_all_that_it_started(lab: OciLab) -> None:
    async with pod(lab) as sandbox, running(lab, sandbox, config(*FOREVER)) as record:
        script = "setsid sleep 2222 & setsid sleep 3333 & echo; wait"
        with pytest.raises(TimedOut):
            await run_command(lab.handler.streams, record, ExecCommand(("sh", "-c", script), timeout=1))
        seen = await output(lab, record, "ps")
        assert "2222" not in seen
        assert "3333" not in seen


async def test_a_command_has_a_terminal_that_changes_its_size(lab: OciLab) -> None:
    async with pod(lab) as sandbox, running(lab, sandbox, config(*FOREVER)) as record:
        argv = ("sh", "-c", "test -t 0 && echo terminal; read word; echo got $word; exit 4")
        process = ExecProcess(argv, tty=True, stdin=True, stdout=True)
        async with asyncio.timeout(BOUND):
            session = await lab.handler.streams.exec(record, process)
            assert b"terminal" in await line(session.stdout)
            assert session.stdin is not None
            await session.stdin.write(b"a-word\n")
            assert b"got a-word" in await rest(session.stdout)
            assert await session.wait() == 4
            await session.close()


async def test_a_program_that_is_not_there_is_told_and_leaves_nothing(lab: OciLab) -> None:
    async with pod(lab) as sandbox:
        record = lab.container(sandbox, config("/nosuch"))
        try:
            record = await lab.create(record, sandbox)
            with pytest.raises(Broken, match="nosuch"):
                await lab.handler.containers.start(record)
        finally:
            await lab.handler.containers.delete(record)


async def test_the_end_of_a_sandbox_ends_its_containers_and_is_told(lab: OciLab) -> None:
    async with pod(lab) as sandbox, told(lab) as exits, running(lab, sandbox, config(*FOREVER)) as record:
        losses = lab.handler.pods.losses(lambda: [sandbox])
        lost = asyncio.ensure_future(anext(losses))
        assert sandbox.infra is not None
        signal_process(sandbox.infra.pid, signal.SIGKILL, sandbox.infra.start_time)
        async with asyncio.timeout(BOUND):
            assert await lost == sandbox.id
        assert (await exit_of(exits, record)).code == 137
        assert not await lab.handler.pods.alive(sandbox)
        await losses.aclose()  # type: ignore[attr-defined]  # it is a generator


async def test_what_the_pods_kernel_cannot_give_is_refused_by_name(lab: OciLab) -> None:
    for field, options in (("pid", {"pid": NamespaceMode.NODE}), ("ipc", {"ipc": NamespaceMode.NODE})):
        with pytest.raises(InvalidRequest, match=f"no {field} namespace of the node") as caught:
            async with pod(lab, **options):
                pass
        assert caught.value.field == f"linux.security_context.namespace_options.{field}"
    async with pod(lab) as sandbox, running(lab, sandbox, config(*FOREVER)) as record:
        with pytest.raises(InvalidRequest, match="reached by TCP only"):
            await lab.handler.streams.dial(sandbox, [record], PodAddress("unix", 0, "main", "/etc/passwd"))


async def test_a_pod_on_the_nodes_network_is_there_too_where_others_have_theirs_inside() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        script = f"busybox nc 127.0.0.1 {server.getsockname()[1]} </dev/null"
        async with (
            oci_lab("runsc") as lab,
            pod(lab, network=NamespaceMode.NODE) as sandbox,
            running(lab, sandbox, config("sh", "-c", script)),
        ):
            assert lab.handler.facts.network_inside
            server.settimeout(BOUND)
            connected, _ = await asyncio.to_thread(server.accept)
            connected.close()


async def test_a_server_in_a_pod_is_dialled(lab: OciLab) -> None:
    async with pod(lab) as sandbox:
        network = PodNetwork(sandbox.id, sandbox.config.metadata, lab.handler.pods.netns_path(sandbox))
        await bring_loopback_up(network)
        server = config("busybox", "nc", "-ll", "-p", "7777", "-e", "echo", "hello")
        async with running(lab, sandbox, server) as record, asyncio.timeout(BOUND):
            while True:
                try:
                    stream = await lab.handler.streams.dial(sandbox, [record], PodAddress("tcp", 7777))
                    break
                except Unavailable:  # it does not listen yet, which gives no notice
                    await asyncio.sleep(0.05)
            assert await stream.read() == b"hello\n"
            stream.abort()


async def test_a_privileged_container_runs_with_all_rights_that_its_kernel_knows(lab: OciLab) -> None:
    powers = ContainerSecurity(privileged=True, namespaces=OWN_PIDS)
    async with pod(lab) as plain:
        security = replace(plain.config.security, privileged=True)
        sandbox = replace(plain, config=replace(plain.config, security=security))
        script = "grep CapEff /proc/self/status"
        exit_, text = await run_to_end(lab, sandbox, config("sh", "-c", script, security=powers))
        assert exit_.code == 0, text
        assert int(text.split()[1], 16) >> 21 & 1, "CAP_SYS_ADMIN"


async def test_a_volume_that_should_propagate_to_the_host_is_refused(lab: OciLab) -> None:
    back = Mount("/tmp", "/volume", propagation=MountPropagation.BIDIRECTIONAL)
    async with pod(lab) as sandbox:
        record = lab.container(sandbox, config(*FOREVER, mounts=(back,)))
        try:
            with pytest.raises(InvalidRequest, match="no mount comes back") as caught:
                await lab.create(record, sandbox)
            assert caught.value.field == "mounts[0].propagation"
        finally:
            await lab.handler.containers.delete(record)


async def test_a_pod_that_runs_out_of_memory_says_so_for_its_containers(lab: OciLab) -> None:
    limits = Resources(memory_limit_in_bytes=128 << 20)
    async with pod(lab, resources=limits) as sandbox, told(lab) as exits:
        hungry = config("dd", "if=/dev/zero", "of=/dev/null", "bs=400M", "count=1")
        async with running(lab, sandbox, hungry) as record:
            found = await exit_of(exits, record)
            assert (found.code, found.oom_killed) == (137, True)
            assert found.oom is not None
            assert found.oom.level is OomLevel.POD


async def test_contained_commands_of_an_earlier_daemon_are_ended_on_the_pods_kernel_too(
    lab: OciLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with pod(lab) as sandbox, running(lab, sandbox, config(*FOREVER)) as record:
        with monkeypatch.context() as patch:
            patch.setattr(exec_module, "new_name", lambda: "exec-abc-0")
            process = ExecProcess(("sleep", "4444"), stdout=True, contained=True)
            session = await lab.handler.streams.exec(record, process)
        assert "4444" in await output(lab, record, "ps")
        await lab.handler.sweep(lambda: {sandbox.id, record.id})
        assert await session.wait() == 137
        await session.close()
        assert "4444" not in await output(lab, record, "ps")


async def test_what_a_container_leaves_behind_in_shared_pids_ends_with_it(lab: OciLab) -> None:
    together = ContainerSecurity(namespaces=NamespaceOptions(pid=NamespaceMode.POD))
    async with (
        pod(lab, pid=NamespaceMode.POD) as sandbox,
        told(lab) as exits,
        running(lab, sandbox, config(*FOREVER, security=together)) as watching,
    ):
        script = config("sh", "-c", "sleep 5555 & exit 4", security=together)
        async with running(lab, sandbox, script) as record:
            assert (await exit_of(exits, record)).code == 4
            assert "5555" not in await output(lab, watching, "ps")


async def test_a_containers_limits_do_not_reach_what_stands_in_for_it(lab: OciLab) -> None:
    least = Resources(memory_limit_in_bytes=1 << 20, cpu_quota=1000, cpu_period=100_000)
    async with pod(lab) as sandbox, running(lab, sandbox, config(*FOREVER, resources=least)) as record:
        await lab.handler.containers.update(record, replace(least, memory_limit_in_bytes=2 << 30))
        v2 = lab.environment.host.cgroup_layout == "v2"
        file, unlimited = ("memory.max", "max") if v2 else ("memory.limit_in_bytes", "9223372036854771712")
        assert lab.environment.cgroups.read(cgroup_of(lab, record), file).strip() == unlimited
        assert await output(lab, record, "echo", "lives") == "lives\n"
