"""The OCI handler with real crun and conmon: pods and containers from the first file to the last."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import errno
import json
import os
import shutil
import signal
import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import pytest

from crib.backends import known_processes
from crib.backends.bundle.host_resources import make_log_directory
from crib.backends.known_processes import is_alive
from crib.backends.oci import containers
from crib.backends.oci.containers import Containers
from crib.backends.pods import namespaces, pods
from crib.backends.pods.losses import PodLosses
from crib.engine.containers.execute import run_command
from crib.host.cgroups import detect_layout
from crib.host.mount_table import is_mountpoint
from crib.host.pidfds import wait_pidfd
from crib.host.threads import Job, Threads
from crib.model.container import (
    Capabilities,
    ContainerConfig,
    ContainerSecurity,
    Device,
    ExecCommand,
    Mount,
)
from crib.model.errors import Broken, CribError, Exhausted, InvalidRequest, TimedOut, WrongState
from crib.model.ids import new_container_id, new_sandbox_id
from crib.model.image import ImageConfig
from crib.model.sandbox import (
    DnsConfig,
    NamespaceMode,
    NamespaceOptions,
    NetworkAttachment,
    ProfileType,
    Resources,
    SecurityProfile,
)
from crib.ports.containers import CreateRequest
from crib.wire.crilog import LineJoiner
from tests.system.labs.oci_pods import (
    FOREVER,
    OWN_PIDS,
    assert_nothing_left,
    config,
    logged,
    output,
    pod,
    run_to_end,
    running,
    until_logged,
)
from tests.system.labs.oci_setup import BOUND, STAGE, OciLab, oci_lab

pytestmark = [pytest.mark.root, pytest.mark.system]


@pytest.fixture(params=["crun", "runc"])
async def lab(request: pytest.FixtureRequest) -> AsyncIterator[OciLab]:
    async with oci_lab(request.param) as made:
        yield made


async def test_container_is_created_started_signalled_and_deleted(lab: OciLab) -> None:
    script = "echo out; echo err >&2; trap 'exit 7' TERM; echo ready; while true; do sleep 0.02; done"
    async with pod(lab) as sandbox:
        exits = lab.handler.containers.exits()
        async with running(lab, sandbox, config("sh", "-c", script)) as record:
            assert (await lab.handler.containers.observe(record)).status == "running"
            assert record.user is not None
            assert record.user.uid == 0
            await until_logged(record, "ready")
            await lab.handler.containers.signal(record, signal.SIGTERM)
            async with asyncio.timeout(BOUND):
                found = await anext(exits)
            assert (found.id, found.code, found.oom_killed) == (record.id, 7, False)
            lines = [line.rstrip("\n").split(" ", 1)[1] for line in logged(record)]
            assert sorted(lines) == ["stderr F err", "stdout F out", "stdout F ready"]
            observed = await lab.handler.containers.observe(record)
            assert observed.status == "stopped"
            assert observed.exit == found
        assert (await lab.handler.containers.observe(record)).status == "gone"
        await lab.handler.containers.delete(record)


async def test_exits_on_file_are_told_first(lab: OciLab) -> None:
    async with pod(lab) as sandbox, running(lab, sandbox, config("true")) as record:
        assert record.monitor is not None
        with contextlib.suppress(ProcessLookupError):  # it may have ended already
            pidfd = os.pidfd_open(record.monitor.pid)
            assert await wait_pidfd(pidfd, BOUND)
            os.close(pidfd)
        async with asyncio.timeout(BOUND):
            assert (await anext(lab.handler.containers.exits())).id == record.id


@pytest.mark.parametrize(
    ("command", "words"),
    [(("nosuch",), "nosuch"), (("/etc",), "/etc"), (("/etc/passwd",), "/etc/passwd")],
)
async def test_failed_create_says_the_runtimes_words_and_leaves_nothing(
    lab: OciLab, command: tuple[str, ...], words: str
) -> None:
    async with pod(lab) as sandbox:
        record = lab.container(sandbox, config(*command))
        with pytest.raises(InvalidRequest, match=rf"^command: create of container .*{words}"):
            await lab.create(record, sandbox)
        await lab.handler.containers.delete(record)
        assert not os.path.exists(record.log_path)


async def test_an_empty_log_goes_with_its_container_only_if_that_was_never_made(lab: OciLab) -> None:
    """A kubelet that finds no container counts its logs as restarts."""
    async with pod(lab) as sandbox:
        silent = lab.container(sandbox, config(*FOREVER))
        silent = await lab.create(silent, sandbox)
        failing = replace(lab.container(sandbox, config("nosuch")), log_path=silent.log_path)
        with pytest.raises(InvalidRequest, match="nosuch"):
            await lab.create(failing, sandbox)
        await lab.handler.containers.delete(failing)
        assert os.path.getsize(silent.log_path) == 0, "it is another's"
        await lab.handler.containers.delete(silent)
        assert os.path.getsize(silent.log_path) == 0


@pytest.mark.parametrize(
    ("field", "wanted"),
    [
        ("mounts[0].host_path", config("true", mounts=(Mount("/x", "/nonexistent-parent/proc/x\0"),))),
        ("mounts[0].container_path", config("true", mounts=(Mount("/", "/tmp"),))),
        ("mounts[0].host_path", config("true", mounts=(Mount("/x", "/etc/hostname/below"),))),
        (
            "mounts[0].recursive_read_only",
            config("true", mounts=(Mount("/x", "/tmp", recursive_read_only=True),)),
        ),
        ("devices[0].host_path", config("true", devices=(Device("/dev/x", "/dev/nosuch"),))),
        ("working_dir", config("true", working_dir="/etc/passwd")),
        (
            "linux.security_context.run_as_username",
            config("true", security=ContainerSecurity(run_as_username="nobody-here")),
        ),
        ("linux.security_context.run_as_group", config("true", security=ContainerSecurity(run_as_group=5))),
        (
            "linux.security_context.seccomp.localhost_ref",
            config(
                "true",
                security=ContainerSecurity(seccomp=SecurityProfile(ProfileType.LOCALHOST, "/nosuch.json")),
            ),
        ),
        pytest.param(
            "linux.resources.unified",
            config("true", resources=Resources(unified={"memory.high": "1"})),
            marks=pytest.mark.skipif(detect_layout().mode == "v2", reason="cgroup v2 has this file"),
        ),
        ("command", config()),
    ],
)
async def test_bad_requests_name_the_field_and_leave_nothing(
    lab: OciLab, field: str, wanted: ContainerConfig
) -> None:
    async with pod(lab) as sandbox:
        record = lab.container(sandbox, wanted)
        with pytest.raises(InvalidRequest) as caught:
            await lab.create(record, sandbox)
        assert caught.value.field == field
        await lab.handler.containers.delete(record)


async def test_deleting_a_container_that_was_never_made_is_fine(lab: OciLab) -> None:
    async with pod(lab) as sandbox:
        await lab.handler.containers.delete(lab.container(sandbox, config("true")))
    await lab.handler.pods.remove(sandbox)
    await lab.handler.pods.stop(sandbox)


async def test_two_deletes_of_a_container_follow_each_other(
    lab: OciLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of them may be asked for by a thread of its create that came too late."""
    steps: list[str] = []
    for step in ("_left_to_do", "_erase"):
        monkeypatch.setattr(Containers, step, _noted(steps, getattr(Containers, step)))
    async with pod(lab) as sandbox:
        record = lab.container(sandbox, config("sleep", "60"))
        record = await lab.create(record, sandbox)
        await asyncio.gather(*(lab.handler.containers.delete(record) for _ in range(2)))
    assert steps == ["_left_to_do", "_erase"] * 2


def _noted(steps: list[str], step: Callable[..., object]) -> Callable[..., object]:
    def call(*args: object) -> object:
        steps.append(step.__name__)
        return step(*args)

    return call


async def test_a_pod_is_let_go_of_in_one_thread_job_and_not_once_more_at_its_removal(
    lab: OciLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each way to a thread and back costs as much as several of the steps."""
    jobs: list[str] = []
    run = Threads.run

    async def counted(threads: Threads, job: Job | str, *args: object) -> object:
        jobs.append(job if isinstance(job, str) else job.what)
        return await run(threads, job, *args)  # type: ignore[arg-type]  # as it comes

    async with pod(lab) as sandbox:
        monkeypatch.setattr(Threads, "run", counted)
        await lab.handler.pods.stop(sandbox)
        assert jobs == [f"the files of sandbox {sandbox.id}"]
        await lab.handler.pods.remove(replace(sandbox, released=True))
        assert jobs == [f"the files of sandbox {sandbox.id}"] * 2
        monkeypatch.undo()


async def test_running_container_is_deleted_with_its_monitor(lab: OciLab) -> None:
    async with pod(lab) as sandbox:
        async with running(lab, sandbox, config(*FOREVER)) as record:
            pass
        assert not is_alive(record.process)
        assert not is_alive(record.monitor)


async def test_what_a_monitor_was_killed_over_goes_with_its_container(lab: OciLab) -> None:
    async with pod(lab) as sandbox, running(lab, sandbox, config(*FOREVER)) as record:
        exits = Path(lab.paths.exits)
        assert record.monitor is not None
        os.kill(record.monitor.pid, signal.SIGKILL)
        drafts = [exits / f"{name}.VH18Y3" for name in (record.id, new_container_id())]  # as GLib names them
        for draft in drafts:
            draft.write_text("")
        await lab.handler.containers.delete(record)
        assert list(exits.glob("*.VH18Y3")) == drafts[1:]
        await lab.handler.sweep(lambda: {sandbox.id})
        assert not list(exits.glob("*.VH18Y3"))


async def test_exec_gives_code_and_both_outputs(lab: OciLab) -> None:
    async with pod(lab) as sandbox, running(lab, sandbox, config(*FOREVER)) as record:
        command = ExecCommand(("sh", "-c", "echo out; echo err >&2; exit 3"))
        result = await run_command(lab.handler.streams, record, command)
        assert (result.exit_code, result.stdout, result.stderr) == (3, b"out\n", b"err\n")
        result = await run_command(lab.handler.streams, record, ExecCommand(("sh", "-c", "kill -9 $$")))
        assert result.exit_code == 137
        with pytest.raises(Broken, match="nosuch"):
            await run_command(lab.handler.streams, record, ExecCommand(("nosuch",)))


async def test_exec_output_is_bounded(lab: OciLab) -> None:
    async with pod(lab) as sandbox, running(lab, sandbox, config(*FOREVER)) as record:
        command = ExecCommand(("dd", "if=/dev/zero", "bs=1M", "count=3"), output_limit=1 << 20)
        result = await run_command(lab.handler.streams, record, command)
        assert (result.exit_code, len(result.stdout)) == (0, 1 << 20)


async def test_exec_time_limit_kills_children_that_left_the_session(lab: OciLab) -> None:
    async with pod(lab) as sandbox, running(lab, sandbox, config(*FOREVER)) as record:
        script = "setsid sleep 777 & setsid sleep 777 & sleep 777"
        with pytest.raises(TimedOut):
            await run_command(lab.handler.streams, record, ExecCommand(("sh", "-c", script), timeout=0.3))
        assert "777" not in await output(lab, record, "ps")
        assert is_alive(record.process)


async def test_exec_does_not_wait_for_a_child_that_holds_the_pipe(lab: OciLab) -> None:
    async with pod(lab) as sandbox, running(lab, sandbox, config(*FOREVER)) as record, asyncio.timeout(BOUND):
        command = ExecCommand(("sh", "-c", "sleep 300 & echo done"), timeout=2 * BOUND)
        assert (await run_command(lab.handler.streams, record, command)).stdout == b"done\n"


async def test_exec_in_a_container_that_ended_is_the_wrong_state(lab: OciLab) -> None:
    async with pod(lab) as sandbox, running(lab, sandbox, config("true")) as record:
        async with asyncio.timeout(BOUND):
            await anext(lab.handler.containers.exits())
        with pytest.raises(WrongState):
            await run_command(lab.handler.streams, record, ExecCommand(("true",)))


async def test_memory_kill_is_told_as_such(lab: OciLab) -> None:
    async with pod(lab) as sandbox:
        wanted = config("sh", "-c", "x=$(yes aaaaaaaa)", resources=Resources(memory_limit_in_bytes=16 << 20))
        found, _log = await run_to_end(lab, sandbox, wanted)
        assert found.oom_killed
        assert found.code != 0


async def test_log_is_reopened(lab: OciLab) -> None:
    script = "trap 'echo second' USR1; echo first; while true; do sleep 0.02; done"
    async with pod(lab) as sandbox, running(lab, sandbox, config("sh", "-c", script)) as record:
        await until_logged(record, "first")
        os.rename(record.log_path, f"{record.log_path}.1")
        await lab.handler.logs.reopen(record)
        assert os.path.getsize(record.log_path) == 0
        await lab.handler.containers.signal(record, signal.SIGUSR1)
        await until_logged(record, "second")


async def test_shared_pids_have_an_infra_process_and_the_rest_dies_with_the_first(lab: OciLab) -> None:
    async with pod(lab, pid=NamespaceMode.POD) as sandbox:
        assert is_alive(sandbox.infra)
        assert await lab.handler.pods.alive(sandbox)
        shared = ContainerSecurity(namespaces=NamespaceOptions(pid=NamespaceMode.POD))
        async with running(lab, sandbox, config(*FOREVER, security=shared)) as one:
            async with asyncio.timeout(BOUND):  # its start too is over before it is there
                while "catatonit" not in await output(lab, one, "ps"):
                    pass
            script = (
                "setsid sh -c 'touch /tmp/on; exec sleep 555' & until test -e /tmp/on; do sleep 0.02; done"
            )
            await run_to_end(lab, sandbox, config("sh", "-c", script, security=shared))
            assert "555" not in await output(lab, one, "ps")
        await lab.handler.pods.stop(sandbox)
        assert not await lab.handler.pods.alive(sandbox)
        assert not is_alive(sandbox.infra)


async def test_a_look_at_a_pod_for_which_there_is_no_descriptor_left_is_an_error_that_is_tried_again(
    lab: OciLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    def used_up(*_: object) -> NoReturn:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    async with pod(lab, pid=NamespaceMode.POD) as sandbox:
        with monkeypatch.context() as patch:
            patch.setattr(namespaces, "is_mountpoint", used_up)
            with pytest.raises(Exhausted, match=sandbox.id):
                await lab.handler.pods.alive(sandbox)
        watch = PodLosses(lab.paths).stream(lambda: [sandbox])
        with monkeypatch.context() as patch:
            patch.setattr(known_processes, "open_pidfd", used_up)
            with pytest.raises(Exhausted, match=sandbox.id):
                await anext(watch)


async def test_the_loop_goes_on_while_a_pods_log_directory_is_made(
    lab: OciLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop, goes_on = asyncio.get_running_loop(), threading.Event()

    def slow(path: str, field: str) -> None:
        loop.call_soon_threadsafe(goes_on.set)
        assert goes_on.wait(BOUND)
        make_log_directory(path, field)

    monkeypatch.setattr(pods, "make_log_directory", slow)
    async with pod(lab) as sandbox:
        assert sandbox.config.log_directory
        assert goes_on.is_set()


async def test_target_namespace_sees_the_other_container(lab: OciLab) -> None:
    async with pod(lab) as sandbox, running(lab, sandbox, config("sleep", "1234")) as target:
        namespaces = NamespaceOptions(pid=NamespaceMode.TARGET, target_id=target.id)
        found, log = await run_to_end(
            lab, sandbox, config("ps", security=ContainerSecurity(namespaces=namespaces))
        )
        assert found.code == 0
        assert "sleep 1234" in log


async def test_cve_2020_8557_what_containers_write_to_the_pods_files_is_bounded(lab: OciLab) -> None:
    async with pod(lab) as sandbox:
        script = "; ".join(
            f"dd if=/dev/zero bs=1M count=64 >>/etc/{name} 2>/dev/null && echo whole"
            for name in ("hosts", "hostname", "resolv.conf")
        )
        async with running(lab, sandbox, config("sleep", "1000")) as first:
            result = await run_command(
                lab.handler.streams, first, ExecCommand(("sh", "-c", script), timeout=BOUND)
            )
            assert result.stdout == b""
            directory = lab.paths.sandbox(sandbox.id)
            assert sum(entry.stat().st_size for entry in os.scandir(directory)) < 8 << 20
            # the files are the pod's own: others of it see the same, and can still be made
            async with running(lab, sandbox, config("sleep", "1000")) as second:
                assert int(await output(lab, second, "stat", "-c", "%s", "/etc/hosts")) > 1 << 20


async def test_a_pod_whose_files_lie_on_no_mount_of_their_own_serves_on_and_is_removed(
    lab: OciLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = lab.sandbox()
    directory = lab.paths.sandbox(record.id)
    with monkeypatch.context() as patch:
        patch.setattr(pods, "is_mountpoint", lambda path: path == directory or is_mountpoint(path))
        await lab.handler.pods.prepare(record, STAGE)
    assert not is_mountpoint(directory)
    assert await lab.handler.pods.alive(record)
    found, log = await run_to_end(lab, record, config("cat", "/etc/hostname"))
    assert (found.code, log) == (0, "pod-host\n")
    await lab.handler.pods.remove(record)
    assert_nothing_left(lab)


async def test_a_declared_volume_of_zeros_fills_no_disk_and_what_does_is_refused(lab: OciLab) -> None:
    data = Path(lab.logs).parent / "lower" / "data"  # on a file system of 512 MiB
    data.mkdir()
    image = ImageConfig(volumes=("/data",))
    async with pod(lab) as sandbox:
        for fits in (True, False):
            (data / "zeros").write_bytes(bytes(32 << 20))
            if not fits:  # 256 MiB must stay
                ballast = os.open(data.parent.parent / "ballast", os.O_WRONLY | os.O_CREAT)
                os.posix_fallocate(ballast, 0, 230 << 20)
                os.close(ballast)
                (data / "some").write_bytes(b"x")
            free = shutil.disk_usage(lab.logs).free
            record = lab.container(sandbox, config("true"))
            try:
                await lab.handler.containers.create(CreateRequest(record, sandbox, image), STAGE)
                assert fits
                assert free - shutil.disk_usage(lab.logs).free < 8 << 20
            except Exhausted as error:
                assert not fits
                assert "volume /data of the image cannot be copied" in str(error)  # noqa: PT017
            await lab.handler.containers.delete(record)
            assert free - shutil.disk_usage(lab.logs).free < 1 << 20


async def test_pod_files_hostname_and_shm_are_there(lab: OciLab) -> None:
    dns = DnsConfig(("10.0.0.10",), ("svc.local", "local"), ("ndots:5",))
    async with pod(lab, dns=dns) as made:
        sandbox = replace(made, network=NetworkAttachment(("10.1.2.3",)))
        script = (
            "hostname; cat /etc/hostname /etc/resolv.conf /etc/hosts; echo $HOSTNAME; stat -c %a /dev/shm;"
            "grep ' /dev/shm ' /proc/mounts"
        )
        found, log = await run_to_end(lab, sandbox, config("sh", "-c", script))
        assert found.code == 0
        lines = log.splitlines()
        assert lines[:5] == [
            "pod-host",
            "pod-host",
            "nameserver 10.0.0.10",
            "search svc.local local",
            "options ndots:5",
        ]
        assert "10.1.2.3\tpod-host" in lines
        assert "1777" in lines
        assert "noexec" in lines[-1]


async def test_sysctls_of_the_pod_are_set_and_others_refused(lab: OciLab) -> None:
    good = {"net.ipv4.ip_unprivileged_port_start": "81", "kernel.shm_rmid_forced": "1"}
    async with pod(lab, sysctls=good) as sandbox:
        script = "cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/kernel/shm_rmid_forced"
        _exit, log = await run_to_end(lab, sandbox, config("sh", "-c", script))
        assert log.split() == ["81", "1"]
    for bad in (
        {"vm.swappiness": "1"},
        {"net.ipv4.nosuch": "1"},
        {"net.ipv4.ip_forward": "x\ny"},
        {"../x": "1"},
    ):
        with pytest.raises(InvalidRequest, match=r"linux\.sysctls"):
            async with pod(lab, sysctls=bad):
                pass


async def test_host_namespaces_make_no_pins(lab: OciLab) -> None:
    node = NamespaceMode.NODE
    async with pod(lab, network=node, ipc=node, pid=node) as sandbox:
        assert os.listdir(f"{lab.paths.sandbox(sandbox.id)}/ns") == []
        assert lab.handler.pods.netns_path(sandbox) == ""
        security = ContainerSecurity(namespaces=NamespaceOptions(node, node, node))
        _exit, log = await run_to_end(lab, sandbox, config("hostname", security=security))
        assert log.strip() == os.uname().nodename


async def test_identity_environment_and_directory_are_as_asked(lab: OciLab) -> None:
    security = ContainerSecurity(
        namespaces=OWN_PIDS, run_as_username="alice", supplemental_groups=(4242,), readonly_rootfs=True
    )
    wanted = config(
        *("sh", "-c", "id; pwd; env; touch /x || echo refused"),
        working_dir="/made/here",
        envs=(("NAME", "value ü".encode()),),
        security=security,
    )
    async with pod(lab) as sandbox:
        found, log = await run_to_end(lab, sandbox, wanted)
        assert found.code == 0
        assert "uid=1000(alice) gid=1001(alice)" in log
        for text in ("4242", "wheel", "/made/here", "NAME=value ü", "refused"):
            assert text in log


async def test_privileged_container_gets_what_the_host_can_give(lab: OciLab) -> None:
    privileged = ContainerSecurity(namespaces=OWN_PIDS, privileged=True)
    script = (
        "mkdir /m && mount -t tmpfs t /m && test -e /dev/loop-control && touch /sys/fs/cgroup/x 2>&1; echo $?"
    )
    async with pod(lab) as sandbox:
        _exit, log = await run_to_end(lab, sandbox, config("sh", "-c", script, security=privileged))
        assert log.strip().endswith(("0", "1"))
        assert "Read-only" not in log
        every = ContainerSecurity(namespaces=OWN_PIDS, capabilities=Capabilities(add=("ALL",)))
        found, _log = await run_to_end(lab, sandbox, config("true", security=every))
        assert found.code == 0


async def test_dropping_all_capabilities_leaves_none(lab: OciLab) -> None:
    bare = ContainerSecurity(namespaces=OWN_PIDS, capabilities=Capabilities(drop=("ALL",)), no_new_privs=True)
    async with pod(lab) as sandbox, running(lab, sandbox, config(*FOREVER, security=bare)) as record:
        status = await output(lab, record, "cat", "/proc/1/status", "/proc/self/status")
        assert {line for line in status.splitlines() if line.startswith(("Cap", "NoNewPrivs"))} == {
            *(f"{name}:\t{0:016x}" for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")),
            "NoNewPrivs:\t1",
        }


async def test_default_seccomp_lets_programs_run_and_refuses_namespaces(lab: OciLab) -> None:
    default = SecurityProfile(ProfileType.RUNTIME_DEFAULT)
    caps = Capabilities(add=("SYS_ADMIN",))
    async with pod(lab) as sandbox:
        for capabilities, expected in ((Capabilities(), "Operation not permitted"), (caps, "")):
            security = ContainerSecurity(namespaces=OWN_PIDS, seccomp=default, capabilities=capabilities)
            found, log = await run_to_end(
                lab, sandbox, config("sh", "-c", "hostname other && hostname", security=security)
            )
            assert expected in log
            assert (found.code == 0) is (expected == "")


async def test_a_filter_that_crun_compiled_is_used_for_the_next_container_of_that_profile(
    lab: OciLab,
) -> None:
    if not lab.environment.is_crun:
        pytest.skip("runc keeps no filters")
    security = ContainerSecurity(namespaces=OWN_PIDS, seccomp=SecurityProfile(ProfileType.RUNTIME_DEFAULT))
    async with pod(lab) as sandbox:
        filters, annotations = [], []
        for _ in range(2):
            async with running(lab, sandbox, config(*FOREVER, security=security)) as record:
                bundle = json.loads(Path(lab.paths.container(record.id), "config.json").read_bytes())
                annotations.append(bundle["annotations"].get("run.oci.seccomp_bpf_data", ""))
                state = Path(lab.environment.runtime.root, record.id)
                filters.append((state / "seccomp.bpf").read_bytes())
                inside = await run_command(
                    lab.handler.streams, record, ExecCommand(("busybox", "unshare", "-U", "true"))
                )
                assert inside.exit_code != 0
                assert b"Operation not permitted" in inside.stderr
                seen = await run_command(
                    lab.handler.streams, record, ExecCommand(("grep", "Seccomp:", "/proc/1/status"))
                )
                assert seen.stdout.split() == [b"Seccomp:", b"2"]
        assert annotations == ["", base64.b64encode(filters[0]).decode()]
        assert filters[0] == filters[1]
        other = ContainerSecurity(
            namespaces=OWN_PIDS,
            seccomp=SecurityProfile(ProfileType.RUNTIME_DEFAULT),
            capabilities=Capabilities(add=("SYS_ADMIN",)),
        )
        found, _ = await run_to_end(lab, sandbox, config("busybox", "unshare", "-u", "true", security=other))
        assert found.code == 0, "another profile has another filter"


async def test_mounts_are_made_safely(lab: OciLab) -> None:
    shared = f"{lab.logs}/volume"
    os.makedirs(f"{shared}/inner")
    mounts = (
        Mount("/vol/inner/deep", f"{shared}/made-by-us"),
        Mount("/vol", shared),
        Mount("/ro", shared, readonly=True, recursive_read_only=True),
        Mount("/etc/hosts", f"{lab.paths.data}/hosts"),
    )
    Path(lab.paths.data, "hosts").write_text("mine\n")
    script = "echo x > /vol/inner/deep/file; cat /etc/hosts; touch /ro/y || echo refused"
    async with pod(lab) as sandbox:
        found, log = await run_to_end(lab, sandbox, config("sh", "-c", script, mounts=mounts))
        assert found.code == 0
        assert log.startswith("mine\n")
        assert "refused" in log
        assert os.path.exists(f"{shared}/made-by-us/file")


async def test_terminal_and_stdin_are_set_up(lab: OciLab) -> None:
    async with pod(lab) as sandbox:
        script = "test -t 1 && echo terminal $TERM"
        _exit, log = await run_to_end(lab, sandbox, config("sh", "-c", script, tty=True, stdin=True))
        assert log.strip() == "terminal xterm"


async def test_image_links_do_not_lead_out(lab: OciLab) -> None:
    """CVE-2021-30465 and its kin: what an image links to is resolved inside of it."""
    (layer,) = await lab.handler._parts.layers.acquire(("sha256:" + "b" * 64,))  # type: ignore[arg-type]
    escape = f"{lab.logs}/escape"
    os.symlink(escape, f"{layer}/link")
    os.rename(f"{layer}/etc/passwd", f"{layer}/etc/real")
    os.symlink("/etc/real", f"{layer}/etc/passwd")
    async with pod(lab) as sandbox:
        wanted = config(
            "id",
            "-un",
            working_dir="/tmp",
            security=ContainerSecurity(run_as_username="alice", namespaces=OWN_PIDS),
        )
        found, log = await run_to_end(lab, sandbox, wanted)
        assert (found.code, log.strip()) == (0, "alice")
        record = lab.container(sandbox, config("true", working_dir="/link/inner"))
        with contextlib.suppress(CribError):
            await lab.create(record, sandbox)
        await lab.handler.containers.delete(record)
    assert not os.path.exists(escape)


async def test_sweep_removes_strays_and_keeps_what_is_known(lab: OciLab) -> None:
    async with pod(lab) as kept, running(lab, kept, config(*FOREVER)) as known:
        stray_pod = await lab.begin(lab.sandbox(pid=NamespaceMode.POD))
        stray = await lab.create(lab.container(stray_pod, config(*FOREVER)), stray_pod)
        Path(lab.paths.exit_file(new_container_id())).touch()
        os.makedirs(lab.paths.sandbox(new_sandbox_id()))
        removed = await lab.handler.sweep(lambda: {kept.id, known.id})
        assert len(removed) == 4
        assert f"container {stray.id}" in removed
        assert not is_alive(stray.process)
        assert not is_alive(stray_pod.infra)
        assert (await lab.handler.containers.observe(known)).status == "running"
        assert list(await lab.handler.sweep(lambda: {kept.id, known.id})) == []


async def test_usage_is_read(lab: OciLab) -> None:
    async with pod(lab) as sandbox, running(lab, sandbox, config(*FOREVER)) as record:
        await output(lab, record, "dd", "if=/dev/zero", "of=/file", "bs=1M", "count=2")
        (usage,) = await lab.handler.statistics.containers([(record, sandbox)])
        assert usage.cgroup.cpu is not None
        assert usage.cgroup.cpu.usage > 0
        assert usage.cgroup.memory is not None
        assert usage.cgroup.memory.usage > 0
        assert usage.writable_layer is not None
        assert usage.writable_layer.used_bytes >= 2 << 20
        (of_pod,) = await lab.handler.statistics.pods([sandbox])
        assert of_pod.memory is not None


async def test_runc_is_a_handler_too() -> None:
    async with oci_lab("runc") as lab, pod(lab) as sandbox:
        found, log = await run_to_end(lab, sandbox, config("echo", "hello"))
        assert (found.code, log) == (0, "hello\n")
        async with running(lab, sandbox, config(*FOREVER)) as record:
            assert await output(lab, record, "echo", "exec") == "exec\n"


class CutShort:
    """A stage timer that ends the caller some time after `create` began, as a dying daemon would."""

    def __init__(self, delay: float) -> None:
        self._delay = delay
        self._timer: asyncio.TimerHandle | None = None

    def __call__(self, name: str, subject: str) -> CutShort:
        if name == "create":
            task = asyncio.current_task()
            assert task is not None
            self._timer = asyncio.get_running_loop().call_later(self._delay, task.cancel)
        return self

    def __enter__(self) -> None:
        return None

    def __exit__(self, *exc: object) -> None:
        if self._timer is not None:
            self._timer.cancel()  # the stage was quicker than the delay


@pytest.mark.parametrize("milliseconds", [0, 1, 2, 3, 4, 5, 6, 8, 10])
async def test_create_that_is_cut_short_anywhere_is_torn_down(lab: OciLab, milliseconds: int) -> None:
    async with pod(lab) as sandbox:
        record = lab.container(sandbox, config(*FOREVER))
        with contextlib.suppress(asyncio.CancelledError):
            request = CreateRequest(record, sandbox, ImageConfig())
            await lab.handler.containers.create(request, CutShort(milliseconds / 1000))  # type: ignore[arg-type]  # as it comes
        await lab.handler.containers.delete(record)


async def test_a_monitor_that_is_on_no_note_yet_ends_with_its_create(
    lab: OciLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monitors: list[int] = []

    def fail(pid: int) -> NoReturn:
        monitors.append(pid)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    async with pod(lab) as sandbox:
        record = lab.container(sandbox, config(*FOREVER))
        with monkeypatch.context() as patched:
            patched.setattr(containers, "identity", fail)
            with pytest.raises(Broken, match="Input/output error"):
                await lab.handler.containers.create(CreateRequest(record, sandbox, ImageConfig()), STAGE)
        (monitor,) = monitors
        assert not Path(f"/proc/{monitor}").exists()
        await lab.handler.containers.delete(record)


async def test_client_named_cgroup_parent_is_used_and_stays(lab: OciLab) -> None:
    parent = f"{lab.environment.settings.cgroup_root}/kubepods/pod-1"
    cgroups = lab.environment.cgroups
    cgroups.create(parent)
    sandbox = await lab.begin(lab.sandbox(pid=NamespaceMode.POD, cgroup_parent=parent))
    async with running(lab, sandbox, config(*FOREVER)) as record:
        assert record.process is not None
        assert record.process.pid in cgroups.pids(f"{parent}/{record.id}")
    await lab.handler.pods.remove(sandbox)
    assert cgroups.exists(parent)
    assert cgroups.pids(parent) == []


async def test_bad_cgroup_parent_is_refused_and_torn_down(lab: OciLab) -> None:
    for parent in ("/", "/a/../../b", "/a//b"):
        with pytest.raises(InvalidRequest, match="cgroup_parent"):
            async with pod(lab, cgroup_parent=parent):
                pass


async def test_long_lines_are_cut_by_the_monitor_and_joined_by_us(lab: OciLab) -> None:
    async with pod(lab) as sandbox:
        exits = lab.handler.containers.exits()
        script = "head -c 20000 /dev/zero | tr '\\0' x; echo; echo end"
        async with (
            running(lab, sandbox, config("busybox", "sh", "-c", script)) as record,
            asyncio.timeout(BOUND),
        ):
            await anext(exits)
            data = Path(record.log_path).read_bytes()
        assert b" stdout P " in data
        assert [len(line.content) for line in LineJoiner().receive(data)] == [20000, 3]
