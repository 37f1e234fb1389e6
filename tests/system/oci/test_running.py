"""How containers run, on real programs: stops that are hard, commands that leave things behind, ends."""

# ruff: noqa: ASYNC110  # bounded

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from crib.backends import programs
from crib.backends.known_processes import is_alive
from crib.backends.oci.handler import OciHandler
from crib.client import logs
from crib.engine.containers.execute import run_command
from crib.host import executions
from crib.host.mounts import Bind, Tmpfs, perform, unmount
from crib.model.container import ContainerRecord, ContainerSecurity, ExecCommand
from crib.model.errors import Broken, InvalidRequest, TimedOut, WrongState
from crib.model.sandbox import NamespaceMode, NamespaceOptions, Resources, SandboxRecord
from tests.system.labs.oci_pods import FOREVER, cgroup_of, config, frozen, output, pod, run_to_end, running
from tests.system.labs.oci_setup import BOUND, STAGE, OciLab, PlainLayers, oci_lab

pytestmark = [pytest.mark.root, pytest.mark.system]

SHARED_PIDS = ContainerSecurity(namespaces=NamespaceOptions(pid=NamespaceMode.POD))
FORKING = "f() { while true; do sleep 0.01 & done; }; f & f & f & exec sleep 1000"
"""Forks all the time, some 500 a second; the pids limit keeps it from the rest of the machine."""


@pytest.fixture(params=["crun", "runc"])
async def lab(request: pytest.FixtureRequest) -> AsyncIterator[OciLab]:
    async with oci_lab(request.param) as made:
        yield made


async def ended(record: ContainerRecord, lab: OciLab) -> int:
    async with asyncio.timeout(BOUND):
        async for found in lab.handler.containers.exits():
            if found.id == record.id:
                return found.code
    raise AssertionError("no exit")


@pytest.mark.parametrize(("signum", "everyone"), [(signal.SIGKILL, True), (signal.SIGTERM, False)])
async def test_a_frozen_container_obeys_a_signal(lab: OciLab, signum: int, everyone: bool) -> None:
    script = "trap 'exit 7' TERM; echo ready; while true; do sleep 0.02; done"
    async with pod(lab) as sandbox, running(lab, sandbox, config("sh", "-c", script)) as record:
        await until(lambda: "ready" in Path(record.log_path).read_text())
        with frozen(lab, record):
            await lab.handler.containers.signal(record, signum, everyone=everyone)
            assert await ended(record, lab) == (137 if everyone else 7)


async def test_a_frozen_container_can_be_deleted(lab: OciLab) -> None:
    async with pod(lab) as sandbox, running(lab, sandbox, config(*FOREVER)) as record:
        with frozen(lab, record) as path:
            async with asyncio.timeout(BOUND):
                await lab.handler.containers.delete(record)
            assert not lab.environment.cgroups.exists(path)


async def test_a_command_in_a_frozen_container_is_refused_and_makes_nothing(lab: OciLab) -> None:
    async with pod(lab) as sandbox, running(lab, sandbox, config(*FOREVER)) as record:
        with frozen(lab, record) as path:
            async with asyncio.timeout(BOUND):
                for timeout in (0, 5):
                    with pytest.raises(WrongState, match="paused"):
                        await run_command(
                            lab.handler.streams, record, ExecCommand(("true",), timeout=timeout)
                        )
            assert exec_cgroups(lab, path) == []
        assert await output(lab, record, "echo", "on") == "on\n"


async def test_what_forks_all_the_time_is_killed_whole(lab: OciLab) -> None:
    async with pod(lab, pid=NamespaceMode.POD) as sandbox:
        wanted = config("sh", "-c", FORKING, security=SHARED_PIDS)
        async with running(lab, sandbox, wanted) as record:
            path = cgroup_of(lab, record)
            lab.environment.cgroups.write(path, "pids.max", "300")
            seen: set[int] = set()

            def has_forked() -> bool:
                """How many there are at a time is a matter of the machine."""
                seen.update(lab.environment.cgroups.pids(path))
                return len(seen) > 50

            await until(has_forked)
            await lab.handler.containers.signal(record, signal.SIGKILL, everyone=True)
            assert lab.environment.cgroups.pids(path) == []
            assert await ended(record, lab) == 137


async def test_what_ignores_its_stop_signal_dies_of_the_kill(lab: OciLab) -> None:
    script = "trap '' TERM INT HUP QUIT; echo ready; while true; do sleep 0.02; done"
    async with pod(lab) as sandbox, running(lab, sandbox, config("sh", "-c", script)) as record:
        await until(lambda: "ready" in Path(record.log_path).read_text())
        await lab.handler.containers.signal(record, signal.SIGTERM)
        assert is_alive(record.process)
        await lab.handler.containers.signal(record, signal.SIGKILL, everyone=True)
        assert await ended(record, lab) == 137


async def test_what_a_command_leaves_in_the_background_costs_no_cgroup(lab: OciLab) -> None:
    async with pod(lab) as sandbox, running(lab, sandbox, config(*FOREVER)) as record:
        path = cgroup_of(lab, record)
        for number in range(3):
            script = f"setsid sleep 60{number} & echo started"
            result = await run_command(
                lab.handler.streams, record, ExecCommand(("sh", "-c", script), timeout=BOUND)
            )
            assert (result.exit_code, result.stdout) == (0, b"started\n")
        assert exec_cgroups(lab, path) == []
        async with asyncio.timeout(BOUND):
            # one that just becomes its own program has no words for ps
            while (await output(lab, record, "ps")).count("sleep 60") != 3:
                pass


async def test_a_command_that_forks_all_the_time_ends_at_its_time_limit(lab: OciLab) -> None:
    async with pod(lab) as sandbox, running(lab, sandbox, config(*FOREVER)) as record:
        path = cgroup_of(lab, record)
        lab.environment.cgroups.write(path, "pids.max", "300")
        # whose message would go on with what does not die
        with pytest.raises(TimedOut, match=r"took longer than 0\.5 s$"):
            await run_command(lab.handler.streams, record, ExecCommand(("sh", "-c", FORKING), timeout=0.5))
        assert exec_cgroups(lab, path) == []
        assert len(lab.environment.cgroups.pids(path)) == 1
        assert is_alive(record.process)


async def test_output_that_comes_in_tiny_pieces_is_cut_as_well(lab: OciLab) -> None:
    script = "while true; do printf xy; done | head -c 20000; exit 5"
    async with pod(lab) as sandbox, running(lab, sandbox, config(*FOREVER)) as record:
        command = ExecCommand(("sh", "-c", script), timeout=BOUND, output_limit=9999)
        result = await run_command(lab.handler.streams, record, command)
        assert (result.exit_code, result.stdout) == (5, b"xy" * 4999 + b"x")


async def test_a_child_that_memory_killed_is_told_though_the_container_ended_well(lab: OciLab) -> None:
    script = "(x=$(yes aaaaaaaa)); wait; echo on; exit 0"
    async with pod(lab) as sandbox:
        wanted = config("sh", "-c", script, resources=Resources(memory_limit_in_bytes=16 << 20))
        found, log = await run_to_end(lab, sandbox, wanted)
        assert (found.code, found.oom_killed) == (0, True)
        assert "on" in log


@pytest.mark.parametrize("number", [1, 2, 6, 9, 10, 12, 15, 34, 64])
async def test_an_end_by_a_signal_is_128_and_its_number(lab: OciLab, number: int) -> None:
    async with pod(lab, pid=NamespaceMode.POD) as sandbox:
        # not the first of its pid namespace, which the kernel spares
        wanted = config("sh", "-c", f"kill -{number} $$; exec sleep 1000", security=SHARED_PIDS)
        found, _log = await run_to_end(lab, sandbox, wanted)
        assert found.code == 128 + number


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\x7fELF of another kind", "Exec format error"),
        (b"#!/no/interpreter\n", "No such file or directory"),
        (b"echo no shebang\n", "Exec format error"),
    ],
)
async def test_a_program_that_the_kernel_refuses_is_told_in_the_runtimes_words(
    lab: OciLab, content: bytes, words: str
) -> None:
    program = Path(lab.paths.data).parent / "lower/bin/refused"
    program.write_bytes(content)
    program.chmod(0o755)
    async with pod(lab) as sandbox:
        found, _log = await run_to_end(lab, sandbox, config("/bin/refused"))
        assert found.code != 0
        assert "/bin/refused" in found.never_ran
        assert words.lower() in found.never_ran.lower()
        found, _log = await run_to_end(lab, sandbox, config("sh", "-c", "/bin/refused; exit 1"))
        assert found.never_ran == ""


async def test_a_line_that_was_written_in_pieces_is_read_as_one(lab: OciLab) -> None:
    """conmon makes an entry of what it finds at a time."""
    script = "trap 'printf two; echo three; exit' USR1; printf one; while true; do sleep 0.02; done"
    async with pod(lab) as sandbox, running(lab, sandbox, config("sh", "-c", script)) as record:
        await until(lambda: b" P one\n" in Path(record.log_path).read_bytes())
        await lab.handler.containers.signal(record, signal.SIGUSR1)
        assert await ended(record, lab) == 0
        (line,) = logs.read(record.log_path)
        assert (line.content, line.partial) == (b"onetwothree", False)


async def test_a_missing_working_directory_is_made_for_root_within_the_root(lab: OciLab) -> None:
    async with pod(lab) as sandbox:
        wanted = config("sh", "-c", "pwd; stat -c '%u %g %a' .", working_dir="/new/one")
        found, log = await run_to_end(lab, sandbox, wanted)
        assert (found.code, log) == (0, "/new/one\n0 0 755\n")
        assert not os.path.exists("/new/one")


def exec_cgroups(lab: OciLab, path: str) -> list[str]:
    found = []
    for directory in lab.environment.cgroups.directories(path):
        if os.path.isdir(directory):
            found += [entry.path for entry in os.scandir(directory) if entry.is_dir()]
    return found


async def until(question: object) -> None:
    async with asyncio.timeout(BOUND):
        while not question():  # type: ignore[operator]
            await asyncio.sleep(0.01)  # /proc changes without notice


def runs_busybox(record: ContainerRecord) -> bool:
    assert record.process is not None
    return os.path.basename(os.readlink(f"/proc/{record.process.pid}/exe")) == "busybox"


async def test_the_end_of_an_infra_process_is_told_as_the_loss_of_its_pod(lab: OciLab) -> None:
    async with pod(lab, pid=NamespaceMode.POD) as shared:
        losses = lab.handler.pods.losses(lambda: [shared])
        assert shared.infra is not None
        wanted = config(*FOREVER, security=SHARED_PIDS)
        async with running(lab, shared, wanted) as record, asyncio.timeout(BOUND):
            asyncio.get_running_loop().call_later(0.1, os.kill, shared.infra.pid, signal.SIGKILL)
            assert await anext(losses) == shared.id
            assert await ended(record, lab) == 137  # the kernel sees to that: its pid namespace is gone
        await losses.aclose()  # type: ignore[attr-defined]  # it is a generator


def replace_namespace(lab: OciLab, sandbox: SandboxRecord) -> None:
    unmount(lab.paths.namespace(sandbox.id, "ipc"))
    perform(Bind("/proc/self/ns/ipc", lab.paths.namespace(sandbox.id, "ipc")))


def cover_namespace(lab: OciLab, sandbox: SandboxRecord) -> None:
    perform(Bind("/proc/self/ns/ipc", lab.paths.namespace(sandbox.id, "ipc")))


def take_shm(lab: OciLab, sandbox: SandboxRecord) -> None:
    unmount(lab.paths.shm(sandbox.id))


def cover_shm(lab: OciLab, sandbox: SandboxRecord) -> None:
    perform(Tmpfs(lab.paths.shm(sandbox.id), 1 << 20))


@pytest.mark.parametrize("tear", [replace_namespace, cover_namespace, take_shm, cover_shm])
async def test_another_namespace_or_shm_over_a_pods_or_a_lost_shm_is_a_loss_for_a_later_daemon_too(
    tear: Callable[[OciLab, SandboxRecord], None], lab: OciLab
) -> None:
    whole, torn = lab.sandbox(), lab.sandbox()
    try:
        for record in (whole, torn):
            await lab.handler.pods.prepare(record, STAGE)
        tear(lab, torn)
        later = OciHandler(lab.environment, PlainLayers({}))
        losses = later.pods.losses(lambda: [whole, torn])
        async with asyncio.timeout(BOUND):
            assert await anext(losses) == torn.id
        await losses.aclose()  # type: ignore[attr-defined]  # it is a generator
        assert [await later.pods.alive(record) for record in (whole, torn)] == [True, False]
    finally:
        for record in (whole, torn):
            await lab.handler.pods.remove(record)


@pytest.mark.parametrize("part", ["runtime", "monitor"])
async def test_a_handler_whose_program_is_taken_away_is_not_ready_until_it_is_back(
    lab: OciLab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    monkeypatch.setattr(programs, "FRESH", 0.0)
    program = tmp_path / part
    shutil.copy(getattr(lab.environment, part).program, program)
    changed = {part: replace(getattr(lab.environment, part), program=str(program))}
    handler = OciHandler(replace(lab.environment, **changed), PlainLayers({}))
    usual = lab.environment.facts.problem  # of a hybrid cgroup tree, for one
    assert (await handler.readiness()).message == usual
    program.rename(f"{program}.away")
    readiness = await handler.readiness()
    assert not readiness.ready
    assert readiness.message == f"{program} does not exist, or cannot be executed"
    Path(f"{program}.away").rename(program)
    assert (await handler.readiness()).message == usual


async def test_a_create_that_fails_among_shared_pids_tells_its_cause_and_nothing_before_it(
    lab: OciLab,
) -> None:
    """runc warns of a freezer first."""
    async with pod(lab, pid=NamespaceMode.POD) as sandbox:
        record = lab.container(sandbox, config("nosuch", security=SHARED_PIDS))
        cause = r"^command: create of container \S+ \('nosuch'\): .*nosuch.* not found.*$"
        with pytest.raises(InvalidRequest, match=cause):
            await lab.create(record, sandbox)
        await lab.handler.containers.delete(record)


@pytest.mark.parametrize(
    ("limits", "field"),
    [
        (Resources(cpuset_cpus="99"), "cpuset_cpus"),
        (Resources(memory_limit_in_bytes=64 << 10), "memory_limit_in_bytes"),
    ],
)
async def test_a_limit_that_the_kernel_refuses_among_shared_pids_is_told_alone_and_named(
    limits: Resources, field: str, lab: OciLab
) -> None:
    """runc warns of the count of its kills first."""
    async with pod(lab, pid=NamespaceMode.POD) as sandbox:
        record = lab.container(sandbox, config(*FOREVER, security=SHARED_PIDS, resources=limits))
        with pytest.raises(InvalidRequest) as caught:
            await lab.create(record, sandbox)
        assert caught.value.field == f"linux.resources.{field}"
        assert "oom kill count" not in str(caught.value)
        await lab.handler.containers.delete(record)


async def test_the_spec_of_a_pod_with_an_infra_process_is_that_ones(lab: OciLab) -> None:
    async with pod(lab, pid=NamespaceMode.POD) as sandbox:
        spec = json.loads(lab.handler.pods.made_spec(sandbox))
        assert spec["process"]["args"] == ["/catatonit", "-P"]
        types = {place["type"] for place in spec["linux"]["namespaces"]}
        assert types == {"pid", "mount", "network", "uts", "ipc"}


@pytest.mark.parametrize("tty", [False, True])
async def test_a_start_is_answered_when_the_program_runs(
    lab: OciLab, tty: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise a signal that is sent at once meets the runtime's own process, and is lost or kills it."""
    monkeypatch.setattr(executions, "_LOOK_AGAIN", BOUND)  # it is the kernel that wakes us
    async with pod(lab) as sandbox:
        for _attempt in range(10):
            record = await lab.create(lab.container(sandbox, config(*FOREVER, tty=tty)), sandbox)
            try:
                assert not runs_busybox(record)
                await lab.handler.containers.start(record)
                assert runs_busybox(record)
            finally:
                await lab.handler.containers.delete(record)


async def test_a_start_does_not_wait_for_ever_for_a_program_that_never_runs(lab: OciLab) -> None:
    """A frozen first process takes what crun tells it, and goes no further; runc looks first."""
    async with pod(lab) as sandbox:
        record = await lab.create(lab.container(sandbox, config(*FOREVER)), sandbox)
        impatient = replace(lab.environment, settings=replace(lab.environment.settings, verb_timeout=0.5))
        handler = OciHandler(impatient, PlainLayers({}))
        try:
            with frozen(lab, record), pytest.raises(Broken, match=r"did not run within|paused"):
                await handler.containers.start(record)
        finally:
            await handler.close()
            await lab.handler.containers.delete(record)
