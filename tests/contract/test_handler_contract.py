"""The port `Handler`: in memory, and crun with conmon in roots and a cgroup of its own."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import signal
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace

import pytest

from crib.backends.network.interfaces import bring_loopback_up
from crib.backends.oci import exec as exec_module
from crib.ends import ByteSource, Session
from crib.engine.containers.execute import run_command
from crib.host.mounts import unmount
from crib.host.namespaces import run_in_namespace
from crib.model.container import ContainerConfig, ContainerRecord, ContainerState, ExecCommand, Exit
from crib.model.errors import Broken, CribError, InvalidRequest, TimedOut, Unavailable, WrongState
from crib.model.ids import HandlerName, ImageId, new_container_id, new_sandbox_id
from crib.model.image import ImageConfig
from crib.model.sandbox import (
    NamespaceMode,
    NamespaceOptions,
    PodMetadata,
    PodSecurity,
    Resources,
    SandboxConfig,
    SandboxRecord,
    SandboxState,
)
from crib.model.streams import AttachRequest, ExecProcess, PodAddress, TerminalSize
from crib.ports.handler import Handler
from crib.ports.networks import PodNetwork
from tests.fakes.clock import ManualClock
from tests.fakes.handler import FakeHandler
from tests.fakes.world import bounded
from tests.system.labs.oci_setup import LAYER, oci_lab
from tests.system.labs.pod_namespaces import no_stage

FOREVER = ("/bin/sleep", "600")
LOOSE = ExecProcess(FOREVER, stdout=True)
SLEEP = replace(LOOSE, contained=True)


@dataclass
class HandlerLab:
    """A handler, records for it, and its exits."""

    handler: Handler
    logs: str

    def __post_init__(self) -> None:
        self._exits = self.handler.exits()

    async def pod(self, **sysctls: str) -> SandboxRecord:
        namespaces = NamespaceOptions(NamespaceMode.POD, NamespaceMode.CONTAINER, NamespaceMode.POD)
        record = SandboxRecord(
            id=new_sandbox_id(),
            config=SandboxConfig(
                metadata=PodMetadata("pod", "uid", "default"),
                hostname="pod-host",
                log_directory=self.logs,
                security=PodSecurity(namespaces=namespaces),
                sysctls={name.replace("__", "."): value for name, value in sysctls.items()},
            ),
            handler=HandlerName("crun"),
            state=SandboxState.CREATING,
            created_at=1,
            boot_id="",
        )
        async with bounded():
            infra = await self.handler.prepare_pod(record, no_stage)
        return replace(record, state=SandboxState.READY, infra=infra)

    def container(self, sandbox: SandboxRecord, *argv: str, **fields: bool) -> ContainerRecord:
        container = new_container_id()
        return ContainerRecord(
            id=container,
            sandbox_id=sandbox.id,
            config=replace(ContainerConfig("app", "busybox", command=argv or FOREVER), **fields),
            state=ContainerState.CREATING,
            created_at=1,
            image_id=ImageId("sha256:" + "a" * 64),
            image_ref="busybox",
            layers=(LAYER,),
            log_path=f"{self.logs}/{container}.log",
        )

    async def created(self, sandbox: SandboxRecord, *argv: str, **fields: bool) -> ContainerRecord:
        record = self.container(sandbox, *argv, **fields)
        async with bounded():
            made = await self.handler.create(record, sandbox, ImageConfig(env=("PATH=/bin",)), no_stage)
        return replace(
            record,
            state=ContainerState.CREATED,
            process=made.process,
            monitor=made.monitor,
            user=made.user,
        )

    async def running(self, sandbox: SandboxRecord, *argv: str, **fields: bool) -> ContainerRecord:
        record = await self.created(sandbox, *argv, **fields)
        async with bounded():
            await self.handler.start(record)
        return replace(record, state=ContainerState.RUNNING)

    async def exit_of(self, record: ContainerRecord) -> Exit:
        async with bounded():
            async for told in self._exits:
                if told.id == record.id:
                    return told
        raise AssertionError("exits ended")

    async def gone(self, record: ContainerRecord) -> None:
        """Kill it and wait until it is told, so that nothing outlives the test."""
        await self.handler.signal(record, signal.SIGKILL, everyone=True)
        await self.exit_of(record)
        await self.handler.delete(record)

    @contextlib.asynccontextmanager
    async def echoing(self, sandbox: SandboxRecord) -> AsyncIterator[PodAddress]:
        """Somebody listens on a port of the pod and sends back what comes."""
        if isinstance(self.handler, FakeHandler):
            address = PodAddress("tcp", 7)
            self.handler.pods[sandbox.id].echoes.add(address)
            yield address
            return
        netns = self.handler.netns_path(sandbox)
        await bring_loopback_up(PodNetwork(sandbox.id, sandbox.config.metadata, netns))
        listening = run_in_namespace(netns, "net", lambda: socket.create_server(("127.0.0.1", 0)))
        server = await asyncio.start_server(_echo, sock=listening)
        async with server:
            yield PodAddress("tcp", listening.getsockname()[1])

    def lose(self, sandbox: SandboxRecord) -> None:
        """Somebody takes a namespace of the pod away."""
        if isinstance(self.handler, FakeHandler):
            self.handler.lose(sandbox.id)
        else:
            unmount(self.handler.netns_path(sandbox))

    async def close(self) -> None:
        close = getattr(self._exits, "aclose", None)
        if close is not None:
            await close()


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(1000):
        writer.write(data)
    writer.close()


async def rest(source: ByteSource | None) -> bytes:
    """All that still comes."""
    received = b""
    while source is not None and (data := await source.read()):
        received += data
    return received


async def line(source: ByteSource | None) -> bytes:
    """What comes until a line has ended."""
    assert source is not None
    received = b""
    while not received.endswith(b"\n"):
        data = await source.read()
        assert data, f"it ended with {received!r}"
        received += data
    return received


async def finish(session: Session) -> tuple[int, bytes, bytes]:
    """Code and outputs."""
    out, err = await asyncio.gather(rest(session.stdout), rest(session.stderr))
    code = await session.wait()
    await session.close()
    return code, out, err


@pytest.fixture(params=["fake", pytest.param("oci", marks=[pytest.mark.root, pytest.mark.system])])
async def lab(request: pytest.FixtureRequest) -> AsyncIterator[HandlerLab]:
    async with contextlib.AsyncExitStack() as stack:
        if request.param == "fake":
            made = HandlerLab(FakeHandler(ManualClock()), "/logs")
        else:
            real = await stack.enter_async_context(oci_lab())
            made = HandlerLab(real.handler, real.logs)
        stack.push_async_callback(made.close)
        yield made


async def test_a_handler_whose_programs_are_there_is_ready(lab: HandlerLab) -> None:
    readiness = await lab.handler.readiness()
    assert readiness.ready == (not lab.handler.facts.problem), readiness


async def test_a_prepared_pod_is_alive_until_it_is_stopped(lab: HandlerLab) -> None:
    pod = await lab.pod()
    async with bounded():
        assert await lab.handler.pod_alive(pod)
        assert pod.id in lab.handler.netns_path(pod)
        await lab.handler.stop_pod(pod)
        assert not await lab.handler.pod_alive(pod)
        await lab.handler.remove_pod(pod)


async def test_a_pod_that_loses_a_namespace_is_told_and_no_other(lab: HandlerLab) -> None:
    pods = {pod.id: pod for pod in [await lab.pod() for _ in range(3)]}
    whole, early, late = pods.values()
    lab.lose(early)
    losses = lab.handler.lost_pods(pods.values)
    async with bounded():
        assert await anext(losses) == early.id
        del pods[early.id]
        lab.lose(late)
        assert await anext(losses) == late.id
        await losses.aclose()  # type: ignore[attr-defined]  # both are generators
        for pod in (whole, early, late):
            await lab.handler.remove_pod(pod)


async def test_stopping_and_removing_a_pod_twice_or_unmade_is_fine(lab: HandlerLab) -> None:
    pod = await lab.pod()
    async with bounded():
        for _ in range(2):
            await lab.handler.stop_pod(pod)
        for _ in range(2):
            await lab.handler.remove_pod(pod)
        await lab.handler.remove_pod(replace(pod, id=new_sandbox_id()))


async def test_a_sysctl_of_the_host_is_refused(lab: HandlerLab) -> None:
    with pytest.raises(InvalidRequest, match="swappiness"):
        await lab.pod(vm__swappiness="1")


async def test_an_explanation_is_the_spec_with_origins_and_makes_nothing(lab: HandlerLab) -> None:
    pod = await lab.pod()
    record = lab.container(pod, "/bin/sleep", "5")
    image = ImageConfig(entrypoint=("/bin/never",))
    async with bounded():
        told = await lab.handler.explain(record, pod, image)
        assert json.loads(told.spec)["process"]["args"] == ["/bin/sleep", "5"]
        assert told.origins["/process/args"] == "container command"
        assert (await lab.handler.observe(record)).status == "gone"
        bare = replace(record, config=replace(record.config, command=()))
        told = await lab.handler.explain(bare, pod, image)
        assert told.origins["/process/args"] == "image ENTRYPOINT"
        with pytest.raises(InvalidRequest, match="command"):
            await lab.handler.explain(bare, pod, ImageConfig())
        await lab.handler.remove_pod(pod)


async def test_the_specs_of_what_was_made_are_told_until_it_is_gone(lab: HandlerLab) -> None:
    pod = await lab.pod()
    record = await lab.created(pod, "/bin/sleep", "5")
    assert json.loads(lab.handler.made_spec(record))["process"]["args"] == ["/bin/sleep", "5"]
    network = {"type": "network", "path": lab.handler.netns_path(pod)}
    assert network in json.loads(lab.handler.made_spec(pod))["linux"]["namespaces"]
    await lab.gone(record)
    assert lab.handler.made_spec(record) == b""
    lab.lose(pod)
    assert network not in json.loads(lab.handler.made_spec(pod))["linux"]["namespaces"]
    async with bounded():
        await lab.handler.remove_pod(pod)
    assert json.loads(lab.handler.made_spec(pod))["linux"]["namespaces"] == []


async def test_a_container_lives_from_created_to_gone(lab: HandlerLab) -> None:
    pod = await lab.pod()
    record = await lab.created(pod)
    async with bounded():
        seen = await lab.handler.observe(record)
        assert (seen.status, seen.exit, seen.monitor_alive) == ("created", None, True)
        await lab.handler.start(record)
        seen = await lab.handler.observe(record)
        assert (seen.status, seen.exit, seen.monitor_alive) == ("running", None, True)
        await lab.handler.signal(record, signal.SIGKILL, everyone=True)
        told = await lab.exit_of(record)
        assert (told.code, told.oom_killed, told.lost) == (137, False, False)
        seen = await lab.handler.observe(record)
        assert seen.status in ("stopped", "gone")
        assert seen.exit is not None
        assert seen.exit.code == 137
        await lab.handler.delete(record)
        await lab.handler.delete(record)
        seen = await lab.handler.observe(record)
        assert (seen.status, seen.exit) == ("gone", None)
        await lab.handler.remove_pod(pod)


@pytest.mark.parametrize(
    ("argv", "code"),
    [(("/bin/true",), 0), (("/bin/false",), 1), (("/bin/sh", "-c", "exit 143"), 143)],
)
async def test_an_exit_is_told_with_its_code(lab: HandlerLab, argv: tuple[str, ...], code: int) -> None:
    pod = await lab.pod()
    record = await lab.running(pod, *argv)
    told = await lab.exit_of(record)
    assert told.code == code
    assert told.at > 0
    async with bounded():
        await lab.handler.delete(record)
        await lab.handler.remove_pod(pod)


async def test_a_created_container_that_is_killed_is_told_too(lab: HandlerLab) -> None:
    pod = await lab.pod()
    record = await lab.created(pod)
    async with bounded():
        await lab.gone(record)
        await lab.handler.remove_pod(pod)


async def test_exits_on_file_are_told_to_who_asks_later(lab: HandlerLab) -> None:
    pod = await lab.pod()
    record = await lab.running(pod, "/bin/sh", "-c", "exit 4")
    first = await lab.exit_of(record)
    await lab.close()
    again = HandlerLab(lab.handler, lab.logs)
    assert (await again.exit_of(record)).code == first.code == 4
    await again.close()
    async with bounded():
        await lab.handler.delete(record)
        await lab.handler.remove_pod(pod)


async def test_a_program_that_is_not_there_fails_with_words(lab: HandlerLab) -> None:
    pod = await lab.pod()
    with pytest.raises(CribError, match=r"no-such-program|not found|No such file|no such file"):  # noqa: PT012  # at create or at start
        record = await lab.created(pod, "/no-such-program")
        await lab.handler.start(record)
    async with bounded():
        await lab.handler.sweep(lambda: {pod.id})
        await lab.handler.remove_pod(pod)


async def test_signalling_or_deleting_what_is_gone_is_fine(lab: HandlerLab) -> None:
    pod = await lab.pod()
    record = lab.container(pod)
    async with bounded():
        await lab.handler.signal(record, signal.SIGTERM)
        await lab.handler.signal(record, signal.SIGKILL, everyone=True)
        await lab.handler.delete(record)
        await lab.handler.remove_pod(pod)


async def test_a_command_in_a_container_gives_code_and_output(lab: HandlerLab) -> None:
    pod = await lab.pod()
    record = await lab.running(pod)
    async with bounded():
        result = await run_command(lab.handler, record, ExecCommand(("/bin/sh", "-c", "echo hi; exit 3")))
        assert (result.exit_code, result.stdout, result.stderr) == (3, b"hi\n", b"")
        await lab.gone(record)
        await lab.handler.remove_pod(pod)


async def test_a_command_that_takes_too_long_is_timed_out(lab: HandlerLab) -> None:
    pod = await lab.pod()
    record = await lab.running(pod)
    async with bounded():
        with pytest.raises(TimedOut):
            await run_command(lab.handler, record, ExecCommand(("/bin/sleep", "600"), timeout=0.3))
        await lab.gone(record)
        await lab.handler.remove_pod(pod)


async def test_a_command_has_the_streams_that_were_asked_for_and_ends_after_them(lab: HandlerLab) -> None:
    pod = await lab.pod()
    record = await lab.running(pod)
    script = ("/bin/sh", "-c", "echo hi; exit 3")
    async with bounded():
        both = await lab.handler.exec(record, ExecProcess(script, stdout=True, stderr=True))
        assert both.stdin is None
        assert await finish(both) == (3, b"hi\n", b"")
        none = await lab.handler.exec(record, ExecProcess(script, stdin=True))
        assert none.stdin is not None
        assert (none.stdout, none.stderr) == (None, None)
        assert (await finish(none))[0] == 3
        tty = await lab.handler.exec(record, ExecProcess(script, tty=True, stdout=True))
        tty.resize(TerminalSize(80, 24))
        assert tty.stderr is None
        assert await finish(tty) == (3, b"hi\r\n", b"")
        await lab.gone(record)
        await lab.handler.remove_pod(pod)


async def test_a_command_reads_what_is_written_and_then_an_end(lab: HandlerLab) -> None:
    pod = await lab.pod()
    record = await lab.running(pod)
    async with bounded():
        session = await lab.handler.exec(record, ExecProcess(("/bin/cat",), stdin=True, stdout=True))
        assert session.stdin is not None
        await session.stdin.write(b"one\n")
        assert await line(session.stdout) == b"one\n"
        await session.stdin.write(b"two\n")
        await session.stdin.close()
        await session.stdin.close()
        assert await finish(session) == (0, b"two\n", b"")
        with pytest.raises(ConnectionError):
            await session.stdin.write(b"late")
        await lab.gone(record)
        await lab.handler.remove_pod(pod)


async def test_a_command_can_be_ended_and_a_terminal_hung_up(lab: HandlerLab) -> None:
    pod = await lab.pod()
    record = await lab.running(pod)
    async with bounded():
        for contained in (False, True):
            process = ExecProcess(("/bin/sleep", "600"), stdout=True, contained=contained)
            session = await lab.handler.exec(record, process)
            await session.kill()
            assert await finish(session) == (137, b"", b"")
            await session.close()
            await session.kill()
        hung_up = await lab.handler.exec(record, ExecProcess(("/bin/sleep", "600"), tty=True, stdout=True))
        await hung_up.close()
        assert await hung_up.wait() == 129
        assert await rest(hung_up.stdout) == b""
        await lab.gone(record)
        await lab.handler.remove_pod(pod)


async def test_what_a_command_leaves_in_the_background_is_not_waited_for(lab: HandlerLab) -> None:
    pod = await lab.pod()
    record = await lab.running(pod)
    script = ("/bin/sh", "-c", "sleep 600 & echo started")
    async with bounded():
        session = await lab.handler.exec(record, ExecProcess(script, stdout=True))
        assert await finish(session) == (0, b"started\n", b"")
        await lab.gone(record)
        await lab.handler.remove_pod(pod)


async def test_a_command_that_cannot_be_run_is_told_as_what_it_is(lab: HandlerLab) -> None:
    pod = await lab.pod()
    record = await lab.running(pod)
    async with bounded():
        for tty in (False, True):
            with pytest.raises(Broken, match="nosuch"):
                await finish(
                    await lab.handler.exec(record, ExecProcess(("/bin/nosuch",), tty=tty, stdout=True))
                )
        await lab.handler.signal(record, signal.SIGKILL, everyone=True)
        await lab.exit_of(record)
        with pytest.raises(WrongState):
            await lab.handler.exec(record, ExecProcess(("/bin/true",), stdout=True))
        with pytest.raises(WrongState):
            await lab.handler.attach(record, AttachRequest(record.id, stdout=True))
        await lab.handler.delete(record)
        await lab.handler.remove_pod(pod)


async def test_all_who_are_attached_see_the_output_and_the_end(lab: HandlerLab) -> None:
    pod = await lab.pod()
    record = await lab.running(pod, "/bin/cat", stdin=True)
    async with bounded():
        watcher = await lab.handler.attach(record, AttachRequest(record.id, stdout=True))
        assert watcher.stdin is None
        assert watcher.stderr is None
        for text in (b"one\n", b"two\n"):
            writer = await lab.handler.attach(record, AttachRequest(record.id, stdin=True, stdout=True))
            assert writer.stdin is not None
            await writer.stdin.write(text)
            assert await line(writer.stdout) == text
            assert await line(watcher.stdout) == text
            await writer.kill()
            await writer.stdin.close()
            await writer.close()
            await writer.close()
            assert await rest(writer.stdout) == b""
        await lab.handler.signal(record, signal.SIGKILL, everyone=True)
        assert await finish(watcher) == (137, b"", b"")
        await lab.exit_of(record)
        await lab.handler.delete(record)
        await lab.handler.remove_pod(pod)


async def test_with_stdin_once_a_session_s_end_is_the_input_s_and_a_watcher_s_is_not(lab: HandlerLab) -> None:
    pod = await lab.pod()
    record = await lab.running(pod, "/bin/cat", stdin=True, stdin_once=True)
    async with bounded():
        await (await lab.handler.attach(record, AttachRequest(record.id, stdout=True))).close()
        watcher = await lab.handler.attach(record, AttachRequest(record.id, stdout=True))
        writer = await lab.handler.attach(record, AttachRequest(record.id, stdin=True))
        assert writer.stdin is not None
        await writer.stdin.write(b"last\n")
        await writer.stdin.close()
        assert await finish(watcher) == (0, b"last\n", b"")
        assert await finish(writer) == (0, b"", b"")
        await lab.exit_of(record)
        await lab.handler.delete(record)
        await lab.handler.remove_pod(pod)


async def test_a_port_of_the_pod_is_reached_and_others_refuse(lab: HandlerLab) -> None:
    pod = await lab.pod()
    async with bounded(), lab.echoing(pod) as address:
        stream = await lab.handler.dial(pod, [], address)
        await stream.write(b"hello\n")
        assert await line(stream) == b"hello\n"
        await stream.write(b"bye\n")
        await stream.close()
        assert await rest(stream) == b"bye\n"
        with pytest.raises(ConnectionError):
            await stream.write(b"late")
        stream.abort()
        stream.abort()
        with pytest.raises(Unavailable, match="refused"):
            await lab.handler.dial(pod, [], PodAddress("tcp", 1))
        with pytest.raises(InvalidRequest, match="port"):
            await lab.handler.dial(pod, [], PodAddress("udp", 0))
    async with bounded():
        await lab.handler.remove_pod(pod)


async def test_the_log_can_be_opened_anew(lab: HandlerLab) -> None:
    pod = await lab.pod()
    record = await lab.running(pod)
    async with bounded():
        await lab.handler.reopen_log(record)
        await lab.gone(record)
        await lab.handler.remove_pod(pod)


async def test_limits_of_created_and_running_containers_can_be_changed(lab: HandlerLab) -> None:
    pod = await lab.pod()
    wanted = Resources(cpu_shares=512, memory_limit_in_bytes=64 << 20, oom_score_adj=500)
    for record in (await lab.created(pod), await lab.running(pod)):
        async with bounded():
            await lab.handler.update(record, wanted)
            await lab.handler.update(replace(record, resources=wanted), replace(wanted, cpu_shares=256))
            with pytest.raises(InvalidRequest, match=r"linux\.cpuset_cpus"):
                await lab.handler.update(record, Resources(cpuset_cpus="x"))
            await lab.gone(record)
            with pytest.raises(WrongState):
                await lab.handler.update(record, wanted)
    async with bounded():
        await lab.handler.remove_pod(pod)


async def test_limits_of_a_pod_can_be_changed(lab: HandlerLab) -> None:
    pod = await lab.pod()
    limited = replace(
        pod, resources=Resources(cpu_shares=512), overhead=Resources(memory_limit_in_bytes=64 << 20)
    )
    async with bounded():
        await lab.handler.update_pod(limited)
        await lab.handler.update_pod(replace(limited, resources=Resources(cpu_shares=100)))
        await lab.handler.remove_pod(pod)
        with pytest.raises(CribError):
            await lab.handler.update_pod(limited)


async def test_a_log_is_rotated_only_if_it_is_longer_than_that(lab: HandlerLab) -> None:
    pod = await lab.pod()
    record = await lab.running(pod)
    async with bounded():
        assert not await lab.handler.rotate_log(record, 1 << 20, 3)
        assert await lab.handler.rotate_log(record, -1, 3)
        await lab.gone(record)
        await lab.handler.remove_pod(pod)


async def test_usage_of_a_running_container_and_its_pod_can_be_read(lab: HandlerLab) -> None:
    pod = await lab.pod()
    record = await lab.running(pod)
    async with bounded():
        usage = await lab.handler.container_usage(record, pod)
        pod_usage = await lab.handler.pod_usage(pod)
        assert usage.cgroup.cpu is not None
        assert usage.cgroup.cpu.at > 0
        assert usage.writable_layer is not None
        assert pod_usage.cgroup.cpu is not None
        await lab.gone(record)
        await lab.handler.remove_pod(pod)


async def test_a_sweep_takes_what_is_not_known_and_leaves_the_rest(lab: HandlerLab) -> None:
    kept, lost = await lab.pod(), await lab.pod()
    stays, goes = await lab.running(kept), await lab.running(lost)
    async with bounded():
        told = await lab.handler.sweep(lambda: {kept.id, stays.id})
        assert any(goes.id in line for line in told)
        assert any(lost.id in line for line in told)
        assert not any(kept.id in line or stays.id in line for line in told)
        assert (await lab.handler.observe(stays)).status == "running"
        assert (await lab.handler.observe(goes)).status == "gone"
        assert not await lab.handler.pod_alive(lost)
        await lab.gone(stays)
        await lab.handler.remove_pod(kept)


async def test_a_sweep_ends_contained_commands_of_an_earlier_daemon_and_no_others(
    lab: HandlerLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    pod = await lab.pod()
    record = await lab.running(pod)
    async with bounded():
        with monkeypatch.context() as patch:
            names = itertools.count()
            patch.setattr(exec_module, "new_name", lambda: f"exec-abc-{next(names)}")
            contained, other = [await lab.handler.exec(record, SLEEP), await lab.handler.exec(record, LOOSE)]
        again = lab.handler.restarted() if isinstance(lab.handler, FakeHandler) else lab.handler
        now = await again.exec(record, SLEEP)
        await again.sweep(lambda: {pod.id, record.id})
        assert (await finish(contained))[0] == 137
        for session in (now, other):
            _, waiting = await asyncio.wait([asyncio.ensure_future(session.wait())], timeout=0.05)
            assert waiting
            await session.kill()
            await finish(session)
        await lab.gone(record)
        await lab.handler.remove_pod(pod)


async def test_a_handler_without_pods_can_be_dismantled(lab: HandlerLab) -> None:
    pod = await lab.pod()
    async with bounded():
        await lab.handler.remove_pod(pod)
        await lab.handler.dismantle()


async def test_facts_say_what_the_program_is(lab: HandlerLab) -> None:
    assert lab.handler.facts.name == "crun"
    assert lab.handler.facts.oci_version.startswith("1.")
