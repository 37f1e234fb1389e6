"""The guest's agent as a shim: containers by a real crun, their streams, their ends, and what goes wrong."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from google.protobuf import any_pb2, empty_pb2

from crib.stubs.shim import task_pb2
from crib.stubs.shim.task_types_pb2 import Status
from crib.stubs.vm import guest_pb2
from crib.wire.rpc_codes import Code
from tests.system.labs.vm_agent import WANTED, AgentCalls, refused
from tests.system.labs.vm_host_agent import HostAgent, host_agent

pytestmark = [pytest.mark.root, pytest.mark.system]

FOR_EVER = "while true; do sleep 1000; done"


@pytest.fixture
async def lab() -> AsyncIterator[HostAgent]:
    async with host_agent() as agent:
        yield agent


@pytest.fixture
def calls(lab: HostAgent) -> AgentCalls:
    return lab.calls


async def test_a_container_runs_from_its_creation_to_its_removal(lab: HostAgent, calls: AgentCalls) -> None:
    bundle = lab.bundle("one", "echo hello; echo oh >&2; cat; exit 7")
    pid = await calls.create("one", bundle, stdin=WANTED)
    created = await calls.state("one")
    assert (created.pid, created.status, created.bundle) == (pid, Status.CREATED, bundle)
    await calls.start("one")
    assert (await calls.state("one")).status == Status.RUNNING
    waiting = asyncio.ensure_future(calls.wait("one"))
    assert await calls.read_until(b"hello\n", id="one") == b"hello\n"
    await calls.write_all(b"typed", id="one")
    await calls.task("CloseIO", task_pb2.CloseIORequest(id="one", stdin=True), empty_pb2.Empty)
    ended = await waiting
    assert ended.exit_status == 7
    assert ended.exited_at.seconds > 1_600_000_000
    assert await calls.read_all(id="one") == b"hello\ntyped"
    assert await calls.read_all(id="one", stream=2) == b"oh\n"
    deleted = await calls.delete("one")
    assert (deleted.pid, deleted.exit_status, deleted.exited_at) == (pid, 7, ended.exited_at)
    await refused(calls.state("one"), Code.NOT_FOUND, "one")
    assert not list(Path(lab.directory, "state", "roots").iterdir())


async def test_a_name_is_free_again_after_the_removal(lab: HostAgent, calls: AgentCalls) -> None:
    bundle = lab.bundle("again", "exit 3")
    for _ in range(3):
        await calls.create("again", bundle)
        await refused(calls.create("again", bundle), Code.ALREADY_EXISTS, "again")
        await calls.start("again")
        assert (await calls.wait("again")).exit_status == 3
        await calls.delete("again")


async def test_a_command_in_a_container_has_streams_and_an_end_of_its_own(
    lab: HostAgent, calls: AgentCalls
) -> None:
    await lab.running("one", FOR_EVER)
    await calls.execute("one", "first", ["sh", "-c", "cat; echo done >&2; exit 4"], stdin=WANTED)
    await calls.execute("one", "second", ["sh", "-c", "kill -9 $$"])
    assert (await calls.wait("one", "second")).exit_status == 128 + signal.SIGKILL
    await calls.write_all(b"input", id="one", exec_id="first")
    request = task_pb2.CloseIORequest(id="one", exec_id="first", stdin=True)
    await calls.task("CloseIO", request, empty_pb2.Empty)
    assert (await calls.wait("one", "first")).exit_status == 4
    assert await calls.read_all(id="one", exec_id="first") == b"input"
    assert await calls.read_all(id="one", exec_id="first", stream=2) == b"done\n"
    for name in ("first", "second"):
        await calls.delete("one", name)
        await refused(calls.state("one", name), Code.NOT_FOUND, name)
    assert (await calls.state("one")).status == Status.RUNNING


async def test_a_commands_terminal_hangs_up_when_its_input_ends(lab: HostAgent, calls: AgentCalls) -> None:
    await lab.running("one", "exec sleep 1000")
    await calls.execute("one", "tty", ["sleep", "1000"], terminal=True, stdin=WANTED)
    request = task_pb2.CloseIORequest(id="one", exec_id="tty", stdin=True)
    await calls.task("CloseIO", request, empty_pb2.Empty)
    assert (await calls.wait("one", "tty")).exit_status == 129
    await calls.task("CloseIO", request, empty_pb2.Empty)  # too late, and no error


async def test_a_terminal_has_a_size_and_both_directions(lab: HostAgent, calls: AgentCalls) -> None:
    await lab.running("tty", "echo ready; read line; stty size; echo got $line", terminal=True, stdin=WANTED)
    await calls.read_until(b"ready\r\n", id="tty")
    resize = task_pb2.ResizePtyRequest(id="tty", width=132, height=43)
    await calls.task("ResizePty", resize, empty_pb2.Empty)
    await calls.write_all(b"words\n", id="tty")
    assert (await calls.wait("tty")).exit_status == 0
    said = await calls.read_all(id="tty")
    assert said.endswith(b"43 132\r\ngot words\r\n")
    await refused(calls.read(id="tty", stream=2), Code.NOT_FOUND, "stream")
    await calls.task("ResizePty", resize, empty_pb2.Empty)  # too late, and no error


async def test_output_that_nobody_reads_stops_its_writer_and_is_all_there_later(
    lab: HostAgent, calls: AgentCalls
) -> None:
    size = 3 << 20
    await lab.running("loud", f"yes 0123456789abcde | head -c {size}; echo; echo at the end >&2")
    await lab.running("quiet", "echo heard")
    assert await calls.read_all(id="quiet") == b"heard\n"  # the other one holds up nobody
    assert (await calls.state("loud")).status == Status.RUNNING
    said = await calls.read_all(id="loud")
    assert said == (b"0123456789abcde\n" * (size // 16)) + b"\n"
    assert await calls.read_all(id="loud", stream=2) == b"at the end\n"
    assert (await calls.wait("loud")).exit_status == 0


async def test_what_was_read_can_be_read_again_until_more_is_asked_for(
    lab: HostAgent, calls: AgentCalls
) -> None:
    await lab.running("one", f"echo hello; {FOR_EVER}")
    for _ in range(2):
        assert (await calls.read(id="one", stream=1)).data == b"hello\n"
    assert (await calls.read(id="one", stream=1, offset=2, max=3)).data == b"llo"
    await refused(calls.read(id="one", stream=1, offset=0), Code.OUT_OF_RANGE, "offset")
    await refused(calls.read(id="one", stream=1, offset=7), Code.OUT_OF_RANGE, "offset")
    nothing = await calls.read(id="one", stream=1, offset=6, wait=10)
    assert (nothing.data, nothing.eof) == (b"", False)


async def test_input_that_nobody_reads_waits_and_fails_when_its_reader_ends(
    lab: HostAgent, calls: AgentCalls
) -> None:
    await lab.running("deaf", FOR_EVER, stdin=WANTED)
    writing = asyncio.ensure_future(calls.write_all(bytes(4 << 20), id="deaf"))
    other = asyncio.ensure_future(calls.write_all(b"later", id="deaf"))
    assert (await calls.state("deaf")).status == Status.RUNNING
    assert not writing.done()
    await calls.kill("deaf", signal.SIGKILL)
    for one in (writing, other):
        await refused(one, Code.FAILED_PRECONDITION, "data")


async def test_all_processes_of_a_container_end_with_its_first(lab: HostAgent, calls: AgentCalls) -> None:
    await lab.running("one", f"({FOR_EVER}) & ({FOR_EVER}) & echo there; {FOR_EVER}")
    await calls.read_until(b"there\n", id="one")
    await calls.execute("one", "more", ["sh", "-c", FOR_EVER])
    pids = await calls.task("Pids", task_pb2.PidsRequest(id="one"), task_pb2.PidsResponse)
    assert len(pids.processes) >= 4
    await calls.kill("one", signal.SIGKILL)
    for exec_id in ("", "more"):
        assert (await calls.wait("one", exec_id)).exit_status == 128 + signal.SIGKILL
    assert await calls.read_all(id="one", exec_id="more") == b""
    await refused(calls.execute("one", "late", ["true"]), Code.FAILED_PRECONDITION, "not running")
    await refused(calls.kill("one", signal.SIGTERM), Code.NOT_FOUND, "ended")
    await calls.delete("one")


async def test_a_container_that_was_never_started_can_be_killed_and_removed(
    lab: HostAgent, calls: AgentCalls
) -> None:
    await calls.create("idle", lab.bundle("idle", "true"))
    await calls.kill("idle", signal.SIGKILL)
    assert (await calls.wait("idle")).exit_status == 128 + signal.SIGKILL
    await calls.delete("idle")
    await calls.create("idle", str(lab.directory / "idle"))
    assert (await calls.delete("idle")).exit_status == 128 + signal.SIGKILL


async def test_what_crun_refuses_is_told_in_its_words_and_leaves_nothing(
    lab: HostAgent, calls: AgentCalls
) -> None:
    bundle = lab.bundle("bad", "true", args=["/no/such/program"])
    await refused(calls.create("bad", bundle), Code.UNKNOWN, "no/such/program")
    await refused(calls.state("bad"), Code.NOT_FOUND, "bad")
    (Path(bundle) / "config.json").write_text("{")
    await refused(calls.create("bad", bundle), Code.UNKNOWN, "crun create")
    await refused(calls.create("bad", "/no/such/bundle"), Code.INVALID_ARGUMENT, "bundle:")
    for name in ("crun-logs", "pids", "consoles", "specs"):
        assert not list(Path(lab.directory, "state", name).iterdir())


async def test_a_command_that_cannot_run_says_why(lab: HostAgent, calls: AgentCalls) -> None:
    await lab.running("one", FOR_EVER)
    await refused(calls.execute("one", "bad", ["/no/such/program"]), Code.UNKNOWN, "no/such/program")
    assert (await calls.state("one", "bad")).status == Status.STOPPED
    await calls.delete("one", "bad")
    await refused(calls.start("one", "bad"), Code.NOT_FOUND, "bad")


async def test_bad_requests_are_refused_by_the_name_of_their_field(lab: HostAgent, calls: AgentCalls) -> None:
    await lab.running("one", FOR_EVER)
    for name in ("", "../up", ".hidden", "a/b", "x" * 129, "naïve"):
        await refused(calls.create(name, "/bundle"), Code.INVALID_ARGUMENT, "id:")
    await refused(calls.create("two", "relative"), Code.INVALID_ARGUMENT, "bundle:")
    for number in (0, 65, 4_000_000_000):
        await refused(calls.kill("one", number), Code.INVALID_ARGUMENT, "signal:")
    await refused(calls.read(id="one", stream=3), Code.INVALID_ARGUMENT, "stream:")
    await refused(calls.read(id="none", stream=1), Code.NOT_FOUND, "id:")
    empty = task_pb2.ExecProcessRequest(id="one", exec_id="x")
    await refused(calls.task("Exec", empty, empty_pb2.Empty), Code.INVALID_ARGUMENT, "spec:")
    await refused(calls.write_all(b"x", id="one"), Code.FAILED_PRECONDITION, "stdin")
    await refused(calls.start("one"), Code.FAILED_PRECONDITION, "started already")
    await refused(calls.delete("one"), Code.FAILED_PRECONDITION, "running")
    await refused(
        calls.task("Checkpoint", task_pb2.CheckpointTaskRequest(id="one"), empty_pb2.Empty),
        Code.UNIMPLEMENTED,
        "Checkpoint",
    )
    dial = guest_pb2.DialRequest(network="udp", port=1)
    await refused(calls.guest("Dial", dial, guest_pb2.DialResponse), Code.INVALID_ARGUMENT, "network:")
    assert (await calls.state("one")).status == Status.RUNNING


async def test_a_paused_container_stands_still_and_goes_on(lab: HostAgent, calls: AgentCalls) -> None:
    await lab.running("one", "read line; echo $line", stdin=WANTED)
    await calls.task("Pause", task_pb2.PauseRequest(id="one"), empty_pb2.Empty)
    assert (await calls.state("one")).status == Status.PAUSED
    await calls.write_all(b"words\n", id="one")
    assert (await calls.read(id="one", stream=1, wait=100)).data == b""
    await refused(calls.execute("one", "x", ["true"]), Code.FAILED_PRECONDITION, "not running")
    await refused(
        calls.task("Pause", task_pb2.PauseRequest(id="one"), empty_pb2.Empty),
        Code.FAILED_PRECONDITION,
        "not running",
    )
    await calls.task("Resume", task_pb2.ResumeRequest(id="one"), empty_pb2.Empty)
    assert (await calls.wait("one")).exit_status == 0
    assert await calls.read_all(id="one") == b"words\n"


async def test_a_paused_container_can_be_killed(lab: HostAgent, calls: AgentCalls) -> None:
    await lab.running("one", FOR_EVER)
    await calls.task("Pause", task_pb2.PauseRequest(id="one"), empty_pb2.Empty)
    await calls.kill("one", signal.SIGKILL, all=True)
    assert (await calls.wait("one")).exit_status == 128 + signal.SIGKILL


async def test_many_containers_and_commands_at_a_time(lab: HostAgent, calls: AgentCalls) -> None:
    names = [f"c{number}" for number in range(8)]
    await asyncio.gather(*(lab.running(name, FOR_EVER) for name in names))
    wanted = [(name, f"e{number}") for name in names for number in range(4)]

    async def one(name: str, exec_id: str) -> bytes:
        await calls.execute(name, exec_id, ["sh", "-c", f"echo {name} {exec_id}; exit 5"])
        assert (await calls.wait(name, exec_id)).exit_status == 5
        return await calls.read_all(id=name, exec_id=exec_id)

    said = await asyncio.gather(*(one(*pair) for pair in wanted))
    assert said == [f"{name} {exec_id}\n".encode() for name, exec_id in wanted]
    await asyncio.gather(*(calls.kill(name, signal.SIGKILL) for name in names))
    await asyncio.gather(*(calls.wait(name) for name in names))
    await asyncio.gather(*(calls.delete(name) for name in names))


async def test_orphans_of_a_container_are_reaped(lab: HostAgent, calls: AgentCalls) -> None:
    await lab.running("one", FOR_EVER)
    for number in range(3):
        await calls.execute("one", f"e{number}", ["sh", "-c", "(sleep 0.01 &) ; exit 0"])
        assert (await calls.wait("one", f"e{number}")).exit_status == 0
        await calls.delete("one", f"e{number}")
    await calls.kill("one", signal.SIGKILL)
    await calls.wait("one")
    await calls.delete("one")
    zombies = [
        path.parent.name
        for path in Path("/proc").glob("[0-9]*/stat")
        if _parent_and_state(path) == (_agent_pid(lab), "Z")
    ]
    assert zombies == []


async def test_a_port_and_a_socket_of_the_pod_can_be_dialled(lab: HostAgent, calls: AgentCalls) -> None:
    path = lab.directory / "server.sock"

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        data = await reader.read()  # to the end of what is sent
        writer.write(b"got " + data)
        await writer.drain()
        writer.close()

    tcp = await asyncio.start_server(serve, "127.0.0.1", 0)
    unix = await asyncio.start_unix_server(serve, path)
    port = tcp.sockets[0].getsockname()[1]
    try:
        for request in (
            guest_pb2.DialRequest(network="tcp", port=port),
            guest_pb2.DialRequest(network="unix", path=str(path)),
        ):
            number = (await calls.guest("Dial", request, guest_pb2.DialResponse)).connection
            data = b"0123456789" * 50_000
            await calls.write_all(data, connection=number)
            close = guest_pb2.CloseStreamRequest(connection=number, sending=True)
            await calls.guest("CloseStream", close, guest_pb2.CloseStreamResponse)
            assert await calls.read_all(connection=number) == b"got " + data
            close = guest_pb2.CloseStreamRequest(connection=number)
            await calls.guest("CloseStream", close, guest_pb2.CloseStreamResponse)
            await refused(calls.read(connection=number), Code.NOT_FOUND, "connection:")
    finally:
        tcp.close()
        unix.close()
    gone = guest_pb2.DialRequest(network="tcp", port=port)
    await refused(calls.guest("Dial", gone, guest_pb2.DialResponse), Code.FAILED_PRECONDITION, "refused")


async def test_stats_are_those_of_the_containers_cgroup(lab: HostAgent, calls: AgentCalls) -> None:
    await lab.running("one", f"seq 100000 >/dev/null; echo there; {FOR_EVER}")
    await calls.read_until(b"there\n", id="one")
    metrics = await calls.metrics("one")
    assert metrics.cpu.usage_usec > 0
    assert metrics.cpu.usage_usec >= metrics.cpu.user_usec


async def test_info_tells_who_the_guest_is(calls: AgentCalls) -> None:
    info = await calls.guest("Info", guest_pb2.InfoRequest(), guest_pb2.InfoResponse)
    assert info.crun_version[0].isdigit()
    assert info.generation == calls.greeting.generation == 1
    assert 0 < info.ready_at < info.uptime
    memory = await calls.guest("Memory", guest_pb2.MemoryRequest(), guest_pb2.MemoryResponse)
    assert 0 < memory.agent < memory.total
    cpus = await calls.guest("Cpus", guest_pb2.CpusRequest(), guest_pb2.CpusResponse)
    assert 0 < cpus.online <= cpus.present


@pytest.mark.parametrize(
    "root",
    [
        '{"layers": [], "disk": 0}',
        '{"layers": [0]}',
        '{"layers": ["../root"], "disk": 1}',
        '{"layers": [-1], "disk": 1}',
        f'{{"layers": {[1] * 501}, "disk": 2}}',
        "no JSON",
    ],
)
async def test_a_root_of_no_disks_is_refused(lab: HostAgent, calls: AgentCalls, root: str) -> None:
    bundle = Path(lab.bundle("layered", "true"))
    spec = json.loads((bundle / "config.json").read_text())
    spec["annotations"]["crib.vm/root"] = root
    (bundle / "config.json").write_text(json.dumps(spec))
    await refused(calls.create("layered", str(bundle)), Code.INVALID_ARGUMENT, "crib.vm/root")


async def test_a_root_of_the_hosts_has_no_disk(lab: HostAgent, calls: AgentCalls) -> None:
    await lab.running("one", FOR_EVER)
    for method, asked, answer in (
        ("Written", guest_pb2.WrittenRequest(id="one"), guest_pb2.WrittenResponse),
        ("Users", guest_pb2.UsersRequest(id="one"), guest_pb2.UsersResponse),
    ):
        await refused(calls.guest(method, asked, answer), Code.FAILED_PRECONDITION, "the root")


async def test_limits_that_crun_refuses_are_told(lab: HostAgent, calls: AgentCalls) -> None:
    await lab.running("one", FOR_EVER)
    nothing = task_pb2.UpdateTaskRequest(id="one")
    await refused(calls.task("Update", nothing, empty_pb2.Empty), Code.INVALID_ARGUMENT, "resources:")
    bad = task_pb2.UpdateTaskRequest(id="one", resources=any_pb2.Any(value=b"no json"))
    await refused(calls.task("Update", bad, empty_pb2.Empty), Code.UNKNOWN, "crun update")


def _agent_pid(lab: HostAgent) -> int:
    (child,) = Path(f"/proc/{lab.process.pid}/task/{lab.process.pid}/children").read_text().split()
    return int(child)


def _parent_and_state(path: Path) -> tuple[int, str]:
    try:
        fields = path.read_text().rpartition(")")[2].split()
    except OSError:
        return 0, ""
    return int(fields[1]), fields[0]
