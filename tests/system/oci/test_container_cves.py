"""Every kind of hole that others had in running containers, as a test: id, class, and what proves it.

Where a test is in another file, that file is named. Of a few ids crib has no such part yet: the streaming
server (CVE-2022-23471, CVE-2025-64329), checkpoints (CVE-2024-8676 and those of 2026), rootless
(CVE-2023-25809) and krun (CVE-2025-24965). CVE-2016-9962 and CVE-2021-43784 are of the runtime's own making
and mended in each version that crib takes.

    GHSA-7ww5-4wqc-m92c  the power meters can be read
                         test_masked_and_readonly_paths_hold
    CVE-2016-3697, CVE-2024-40635, CVE-2026-46680
                         a number as user that is none
                         unit/backends/test_image_cves.py::
                         test_cve_2024_40635_a_number_that_is_no_uid_is_never_root
    CVE-2018-1000400     ambient capabilities for non-root
                         test_a_user_who_is_not_root_has_no_capability_in_force
    CVE-2022-24769, CVE-2022-27650, CVE-2022-27652, CVE-2022-29162
                         inheritable capabilities
                         test_no_capability_is_inheritable_by_run_and_by_exec
    CVE-2022-2995, CVE-2022-36109, CVE-2023-25173
                         supplementary groups
                         test_groups_are_exactly_those_that_are_reported
    CVE-2026-30892       exec runs as another user
                         test_exec_runs_as_the_containers_user
    CVE-2019-14891       the monitor in the pod's cgroup
                         test_the_monitor_is_outside_of_the_pods_cgroup
    CVE-2025-47291       a container outside of its cgroup
                         test_a_container_is_inside_of_the_pods_cgroup,
                         test_a_container_with_a_user_namespace_is_inside_of_the_pods_cgroup_too
    CVE-2020-15257       an API on an abstract socket
                         test_no_program_of_ours_listens_on_an_abstract_socket
    CVE-2021-41103, CVE-2024-25621
                         directories open to everybody
                         test_directories_of_containers_are_closed_to_others
    CVE-2024-21626       leaked descriptor and working directory
                         test_a_working_directory_below_proc_self_fd_leads_nowhere,
                         test_a_container_holds_no_descriptor_of_the_host
    CVE-2019-5736        the runtime's program is overwritten
                         unit/host/test_sealed.py::
                         test_a_sealed_program_runs_from_a_copy_that_nobody_can_change
    CVE-2021-30465, CVE-2024-45310, CVE-2019-18837
                         a mount's place is a link out
                         system/stories/test_volumes.py::
                         test_cve_2021_30465_a_link_in_a_shared_volume_does_not_lead_a_mount_out
                         test_a_place_of_a_mount_that_leads_out_makes_nothing_there
    CVE-2024-5154, CVE-2026-55686
                         a file of /etc or the working directory is a link out
                         test_links_in_etc_and_to_the_working_directory_stay_inside
    CVE-2019-16884       a volume, or a file of the pod, takes the place of /proc
                         system/stories/test_volumes.py::
                         test_cve_2019_16884_no_volume_takes_the_place_of_proc
                         test_cve_2019_16884_a_file_of_the_pod_does_not_follow_a_link_into_proc,
                         test_cve_2019_16884_a_link_in_a_volume_leads_no_mount_into_proc,
                         test_cve_2023_27561_a_link_swapped_in_during_a_create_leads_no_mount_away
    CVE-2019-19921, CVE-2023-27561, CVE-2023-28642, CVE-2025-52881
                         /proc is a link
                         test_an_image_whose_proc_is_a_link_gets_no_other_proc
    CVE-2026-41579, CVE-2026-47766, CVE-2026-88264, CVE-2026-88265, CVE-2025-52565
                         /dev is a link
                         test_an_image_whose_dev_is_a_link_writes_nothing_outside
    CVE-2025-31133       /dev/null of the image, or of a volume, for masking
                         test_masked_paths_do_not_use_the_images_dev_null,
                         test_cve_2025_31133_no_volume_is_mounted_at_dev
    GHSA-g54h-m393-cpwq  devices denied one by one
                         test_devices_that_were_not_given_cannot_be_opened
    CVE-2022-0532, CVE-2022-0811, GHSA-w2j5-3rcx-vx7x
                         sysctls of the host
                         test_sysctls_of_the_host_cannot_be_had
    CVE-2023-6476, CVE-2024-3154
                         annotations that the runtime obeys
                         test_no_annotation_of_a_user_reaches_the_runtime
    CVE-2026-53488       an image's LABEL is trusted
                         unit/backends/test_image_cves.py::
                         test_cve_2026_53488_an_images_labels_are_nobodys_orders
    CVE-2022-4318, CVE-2026-15809
                         a line break in HOME
                         test_a_line_break_in_home_adds_no_line_to_passwd
    CVE-2024-9676        a linked /etc/passwd
                         unit/backends/test_image_cves.py::
                         test_cve_2024_9676_a_passwd_that_is_a_link_out_is_read_inside_the_root
    CVE-2025-4437        a huge /etc/passwd
                         unit/backends/test_image_cves.py::
                         test_cve_2025_4437_a_huge_passwd_or_group_file_is_refused
    CVE-2026-47262       an endless /etc/group
                         unit/backends/test_image_cves.py::
                         test_cve_2026_47262_a_long_group_line_costs_a_bounded_time
    CVE-2021-21334       another container's environment
                         unit/backends/test_image_cves.py::
                         test_cve_2021_21334_containers_of_one_image_share_no_environment
    CVE-2022-23648       a VOLUME that leads out
                         unit/backends/test_image_cves.py::
                         test_cve_2022_23648_a_volume_or_directory_of_the_image_is_made_inside_its_root
                         system/stories/test_volumes.py::
                         test_cve_2022_23648_a_declared_volume_copies_nothing_from_the_host
    CVE-2025-0750        a log path that leads out
                         system/stories/test_refusals.py::
                         test_a_log_path_may_not_leave_its_directory
    CVE-2022-1708, CVE-2022-31030
                         ExecSync keeps all output
                         system/stories/test_exec_load.py::
                         test_a_flood_of_output_costs_no_memory_beyond_what_is_kept
    CVE-2026-53495, GHSA-7jxh-36q5-gcqv
                         ExecSync waits for a held pipe
                         system/oci/test_handler.py::
                         test_exec_does_not_wait_for_a_child_that_holds_the_pipe
    CVE-2021-43816       relabelling the system
                         unit/backends/bundle/test_labels.py::
                         test_the_systems_own_is_never_relabelled
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from crib.engine.containers.execute import run_command
from crib.host.cgroups import detect_layout
from crib.host.inotify import DirectoryWatcher
from crib.model.container import (
    Capabilities,
    ContainerConfig,
    ContainerRecord,
    ContainerSecurity,
    ExecCommand,
    Mount,
)
from crib.model.errors import CribError, InvalidRequest, WrongState
from crib.model.sandbox import (
    IdMapping,
    NamespaceMode,
    NamespaceOptions,
    ProfileType,
    SandboxRecord,
    SecurityProfile,
    UserNamespace,
)
from crib.model.settings import HandlerSettings
from tests.system.labs.oci_setup import BOUND, STAGE, OciLab, oci_lab

pytestmark = [pytest.mark.root, pytest.mark.system]

FOREVER = ("sh", "-c", "echo ready; exec sleep 1000")
MODIFY = 0x2  # IN_MODIFY
OWN = ContainerSecurity(namespaces=NamespaceOptions(pid=NamespaceMode.CONTAINER))


@pytest.fixture(params=["crun", "runc"])
async def lab(request: pytest.FixtureRequest) -> AsyncIterator[OciLab]:
    async with oci_lab(request.param) as made:
        yield made


def config(*command: str, **fields: object) -> ContainerConfig:
    """A container with pids of its own; `fields` of its security context or of its config."""
    security = {name: fields.pop(name) for name in list(fields) if hasattr(OWN, name)}
    return ContainerConfig(
        name="main",
        image="busybox",
        command=command or FOREVER,
        security=replace(OWN, **security),  # type: ignore[arg-type]
        **fields,  # type: ignore[arg-type]
    )


@contextlib.asynccontextmanager
async def pod(lab: OciLab, **fields: object) -> AsyncIterator[SandboxRecord]:
    record = lab.sandbox(**fields)  # type: ignore[arg-type]
    try:
        yield await lab.begin(record)
    finally:
        await lab.handler.pods.remove(record)


@contextlib.asynccontextmanager
async def running(
    lab: OciLab, wanted: ContainerConfig, sandbox: SandboxRecord | None = None
) -> AsyncIterator[ContainerRecord]:
    """A container that runs, in a pod of its own unless one is given."""
    async with contextlib.AsyncExitStack() as stack:
        place = sandbox if sandbox is not None else await stack.enter_async_context(pod(lab))
        record = lab.container(place, wanted)
        try:
            record = await lab.create(record, place)
            await lab.handler.containers.start(record)
            await until_ready(record)
            yield record
        finally:
            await lab.handler.containers.delete(record)


async def until_ready(record: ContainerRecord) -> None:
    """A start returns when the program runs; what it says first comes a little later."""
    log = Path(record.log_path)
    with DirectoryWatcher([str(log.parent)], MODIFY) as watcher:
        async with asyncio.timeout(BOUND):
            while "ready" not in log.read_text():
                await watcher.next_events()


async def said(lab: OciLab, record: ContainerRecord, script: str) -> str:
    result = await run_command(lab.handler.streams, record, ExecCommand(("sh", "-c", script), timeout=BOUND))
    return result.stdout.decode()


def image(lab: OciLab) -> Path:
    """The image's root, to be made hostile before a container is."""
    return Path(lab.logs).parent / "lower"


def first(record: ContainerRecord) -> int:
    assert record.process is not None
    return record.process.pid


def status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


CAPS = "grep ^Cap /proc/self/status"


def sets(text: str) -> dict[str, int]:
    return {name: int(value, 16) for name, value in re.findall(r"(Cap\w+):\s+([0-9a-f]+)", text)}


async def test_no_capability_is_inheritable_by_run_and_by_exec(lab: OciLab) -> None:
    async with running(lab, config(capabilities=Capabilities(add=("NET_ADMIN",)))) as record:
        ran, executed = status(first(record)), sets(await said(lab, record, CAPS))
        for found in ({name: int(ran[name], 16) for name in executed}, executed):
            assert found["CapInh"] == found["CapAmb"] == 0
            assert found["CapPrm"] == found["CapEff"] == found["CapBnd"] != 0


async def test_a_user_who_is_not_root_has_no_capability_in_force(lab: OciLab) -> None:
    async with running(lab, config(run_as_user=1000)) as record:
        for found in (
            sets(await said(lab, record, CAPS)),
            sets(Path(f"/proc/{first(record)}/status").read_text()),
        ):
            assert found["CapEff"] == found["CapPrm"] == found["CapAmb"] == found["CapInh"] == 0


async def test_groups_are_exactly_those_that_are_reported(lab: OciLab) -> None:
    wanted = config(run_as_user=1000, supplemental_groups=(77,), supplemental_groups_policy=0)
    async with running(lab, wanted) as record:
        assert record.user is not None
        reported = sorted(record.user.supplemental_groups)
        assert (record.user.uid, record.user.gid, reported) == (1000, 1001, [10, 77, 1001])
        assert sorted(map(int, status(first(record))["Groups"].split())) == reported
        assert set(map(int, (await said(lab, record, "id -G")).split())) == set(reported)
    strict = config(run_as_user=1000, supplemental_groups=(77,), supplemental_groups_policy=1)
    async with running(lab, strict) as record:
        assert record.user is not None
        assert sorted(map(int, status(first(record))["Groups"].split())) == [77, 1001]
        assert sorted(record.user.supplemental_groups) == [77, 1001]


async def test_exec_runs_as_the_containers_user(lab: OciLab) -> None:
    async with running(lab, config(run_as_username="alice")) as record:
        assert await said(lab, record, "id -u; id -g") == "1000\n1001\n"


def cgroups(pid: int) -> list[str]:
    return [line.split(":", 2)[2] for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines()]


async def test_the_monitor_is_outside_of_the_pods_cgroup(lab: OciLab) -> None:
    async with pod(lab) as sandbox, running(lab, config(), sandbox) as record:
        assert record.monitor is not None
        assert not [path for path in cgroups(record.monitor.pid) if sandbox.id in path]


async def test_a_container_is_inside_of_the_pods_cgroup(lab: OciLab) -> None:
    async with pod(lab) as sandbox, running(lab, config(), sandbox) as record:
        inside = [path for path in cgroups(first(record)) if f"{sandbox.id}/{record.id}" in path]
        assert inside
        executed = [
            line.split(":", 2)[2] for line in (await said(lab, record, "cat /proc/self/cgroup")).split()
        ]
        if detect_layout().mode == "v2":  # a cgroup namespace of its own shows paths below the container's
            assert [path for path in executed if not path.startswith("/..")] == executed
        else:
            assert len([path for path in executed if f"{sandbox.id}/{record.id}" in path]) == len(inside)


async def test_a_container_with_a_user_namespace_is_inside_of_the_pods_cgroup_too(lab: OciLab) -> None:
    if not lab.environment.facts.user_namespaces:
        pytest.skip("this handler has no user namespaces here")
    shifted = (IdMapping(host_id=300_000, container_id=0, length=65_536),)
    userns = UserNamespace(NamespaceMode.POD, shifted, shifted)
    plain = lab.sandbox()
    spaces = replace(plain.config.security.namespaces, userns=userns)
    record = replace(
        plain, config=replace(plain.config, security=replace(plain.config.security, namespaces=spaces))
    )
    try:
        await lab.handler.pods.prepare(record, STAGE)
        async with running(lab, config(namespaces=replace(OWN.namespaces, userns=userns)), record) as made:
            assert status(first(made))["Uid"].split()[0] == "300000"
            assert [path for path in cgroups(first(made)) if f"{record.id}/{made.id}" in path]
    finally:
        await lab.handler.pods.remove(record)


async def test_no_program_of_ours_listens_on_an_abstract_socket(lab: OciLab) -> None:
    async with pod(lab, network=NamespaceMode.NODE) as sandbox, running(lab, config(), sandbox) as record:
        assert record.monitor is not None
        abstract = {
            fields[6]
            for fields in (line.split() for line in Path("/proc/net/unix").read_text().splitlines()[1:])
            if len(fields) > 7 and fields[7].startswith("@")
        }
        for pid in (os.getpid(), record.monitor.pid):
            links = [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in held(pid)]
            assert not [link for link in links if link.removeprefix("socket:[").rstrip("]") in abstract]


def held(pid: int) -> list[int]:
    """Descriptors of a process that are still open."""
    return [int(name) for name in os.listdir(f"/proc/{pid}/fd") if os.path.islink(f"/proc/{pid}/fd/{name}")]


async def test_directories_of_containers_are_closed_to_others(lab: OciLab) -> None:
    async with pod(lab) as sandbox, running(lab, config(), sandbox) as record:
        paths = lab.paths
        listed = [paths.containers, paths.sandboxes, paths.exits, paths.monitor_sockets]
        for path in (*listed, paths.writable_layers, lab.environment.runtime.root):
            assert os.stat(path).st_mode & 0o066 == 0, path
        for path in (paths.container(record.id), paths.writable_layer(record.id)):
            assert os.stat(path).st_mode & 0o077 == 0, path


@pytest.mark.parametrize("number", [3, 4, 5, 6, 7, 8, 9, 10, 11])
async def test_a_working_directory_below_proc_self_fd_leads_nowhere(lab: OciLab, number: int) -> None:
    with contextlib.suppress(CribError):
        async with running(lab, config(working_dir=f"/proc/self/fd/{number}")) as record:
            inside = os.stat(f"/proc/{first(record)}/root")
            here = os.readlink(f"/proc/{first(record)}/cwd")
            assert (
                os.stat(f"/proc/{first(record)}/root{here}").st_dev
                == os.stat(f"/proc/{first(record)}/cwd").st_dev
            )
            assert inside.st_ino != os.stat("/").st_ino or inside.st_dev != os.stat("/").st_dev
            assert not (await said(lab, record, "ls ../../../../../../etc/machine-id; true")).strip()


async def test_a_container_holds_no_descriptor_of_the_host(lab: OciLab) -> None:
    async with running(lab, config()) as record:
        assert sorted(held(first(record))) == [0, 1, 2]
        listed = (await said(lab, record, "ls -l /proc/self/fd")).splitlines()
        targets = [line.rpartition(" -> ")[2] for line in listed if " -> " in line]
        assert len(targets) <= 4
        assert not [to for to in targets if not re.match(r"pipe:|/dev/null|/proc/", to)]


async def test_a_place_of_a_mount_that_leads_out_makes_nothing_there(lab: OciLab) -> None:
    shared, outside = Path(lab.logs).parent / "shared", Path(lab.logs).parent / "outside"
    for directory in (shared, outside, image(lab) / "vol"):
        directory.mkdir()
    (shared / "link").symlink_to(outside)
    (shared / "up").symlink_to("../../../../../../" + str(outside))
    (image(lab) / "away").symlink_to(outside)
    mounts = [Mount("/vol", str(shared))]
    mounts += [Mount(place, lab.logs) for place in ("/vol/link/x", "/vol/up/y", "/away/z")]
    for chosen in (mounts[:2], [mounts[0], mounts[2]], [mounts[3]]):
        with contextlib.suppress(CribError):
            async with running(lab, config(mounts=tuple(chosen))):
                pass
        assert os.listdir(outside) == []


async def test_links_in_etc_and_to_the_working_directory_stay_inside(lab: OciLab) -> None:
    outside = Path(lab.logs).parent / "outside"
    outside.mkdir()
    for name in ("hosts", "hostname", "resolv.conf", "mtab"):
        (image(lab) / "etc" / name).symlink_to(outside / name)
    (image(lab) / "work").symlink_to(outside / "work")
    with contextlib.suppress(CribError):
        async with running(lab, config(working_dir="/work/deep")) as record:
            assert (await said(lab, record, "pwd")).strip().endswith("/work/deep")
    assert os.listdir(outside) == []


async def test_cve_2019_16884_a_file_of_the_pod_does_not_follow_a_link_into_proc(lab: OciLab) -> None:
    (image(lab) / "etc" / "hostname").symlink_to("/proc/thread-self/attr/exec")
    with pytest.raises(InvalidRequest, match=r"image: /etc/hostname leads to /proc/thread-self"):
        async with running(lab, config()):
            pass


async def test_cve_2019_16884_a_link_in_a_volume_leads_no_mount_into_proc(lab: OciLab) -> None:
    shared = Path(lab.logs).parent / "shared"
    shared.mkdir()
    (shared / "x").symlink_to("/proc")
    mounts = (Mount("/vol", str(shared)), Mount("/vol/x", lab.logs))
    with pytest.raises(InvalidRequest, match=r"mounts\[1\]\.container_path: /vol/x leads to /proc"):
        async with running(lab, config(mounts=mounts)):
            pass


SWAPPING = """#!/bin/sh
# Changes a directory of a volume for a link, as another container could in the middle of a create.
case " $* " in
*" create "*) mv {vol}/x {vol}/aside && mv {vol}/link {vol}/x ;;
esac
exec {program} "$@"
"""


@pytest.mark.parametrize(("program", "target"), [("crun", "/proc"), ("crun", "/dev"), ("runc", "/dev")])
async def test_cve_2023_27561_a_link_swapped_in_during_a_create_leads_no_mount_away(
    tmp_path: Path, program: str, target: str
) -> None:
    shared, inner, script = tmp_path / "shared", tmp_path / "inner", tmp_path / program
    for directory in (shared, inner, shared / "x"):
        directory.mkdir()
    (shared / "link").symlink_to(target)
    script.write_text(SWAPPING.format(vol=shared, program=shutil.which(program)))
    script.chmod(0o755)
    async with oci_lab(program, HandlerSettings(path=str(script))) as lab, pod(lab) as sandbox:
        wanted = config(mounts=(Mount("/vol", str(shared)), Mount("/vol/x", str(inner))))
        record = lab.container(sandbox, wanted)
        try:
            with pytest.raises(
                WrongState, match=r"^mounts\[1\]\.container_path: /vol/x is not mounted at /vol/x"
            ):
                await lab.create(record, sandbox)
        finally:
            await lab.handler.containers.delete(record)
        assert (shared / "x").is_symlink()
        assert not os.path.exists(lab.paths.container(record.id))
        assert not [path for path in Path("/proc").glob("[0-9]*/cgroup") if record.id in said_by(path)]


def said_by(path: Path) -> str:
    """Empty when the process has ended."""
    with contextlib.suppress(OSError):
        return path.read_text()
    return ""


async def test_mounts_inside_of_volumes_are_made_as_ever(lab: OciLab) -> None:
    shared, inner = Path(lab.logs).parent / "shared", Path(lab.logs).parent / "inner"
    for directory in (shared, inner, shared / "deep"):
        directory.mkdir()
    (inner / "file").write_text("found")
    (shared / "link").symlink_to("deep")
    places = ("/vol", "/vol/new place", "/vol/link", "/dev/shm/x", "/vol/deep/in")
    mounts = (Mount(places[0], str(shared)), *(Mount(place, str(inner)) for place in places[1:]))
    mounts += (Mount("/vol/one", str(inner / "file"), readonly=True), Mount("/node", "/"))
    mounts += (Mount("/node/sys", "/sys", readonly=True), Mount("/node/sys/kernel", "/sys/kernel"))
    async with running(lab, config(mounts=mounts)) as record:
        script = "cat '/vol/new place/file' /vol/deep/file /dev/shm/x/file /vol/one"
        assert await said(lab, record, script) == "found" * 4


async def test_an_image_whose_proc_is_a_link_gets_no_other_proc(lab: OciLab) -> None:
    outside = Path(lab.logs).parent / "outside"
    outside.mkdir()
    (image(lab) / "proc").rmdir()
    (image(lab) / "proc").symlink_to("/tmp")
    with pytest.raises(InvalidRequest, match="/proc of the image is not a directory"):
        async with running(lab, config()):
            pass
    assert os.listdir(outside) == []


async def test_an_image_whose_dev_is_a_link_writes_nothing_outside(lab: OciLab) -> None:
    outside = Path(lab.logs).parent / "outside"
    for link in (str(outside), "../../../../../../../.." + str(outside)):
        outside.mkdir(exist_ok=True)
        path = image(lab) / "dev"
        path.unlink() if path.is_symlink() else path.rmdir()
        path.symlink_to(link)
        with pytest.raises(InvalidRequest, match="/dev of the image is not a directory"):
            async with running(lab, config(tty=True)):
                pass
        assert os.listdir(outside) == []


async def test_masked_paths_do_not_use_the_images_dev_null(lab: OciLab) -> None:
    (image(lab) / "dev" / "null").symlink_to("/etc/passwd")
    (image(lab) / "secret").write_text("secret")
    async with running(lab, config(masked_paths=("/secret", "/proc/kcore"))) as record:
        assert await said(lab, record, "cat /secret") == ""
        assert (await said(lab, record, "stat -c %F /secret")).strip() == "character special file"


async def test_cve_2025_31133_no_volume_is_mounted_at_dev(lab: OciLab) -> None:
    volume = Path(lab.logs).parent / "dev"
    volume.mkdir()
    (volume / "null").symlink_to("/proc/sys/kernel/domainname")
    wanted = config(masked_paths=("/proc/kcore",), mounts=(Mount("/dev", str(volume)),))
    with pytest.raises(InvalidRequest, match=r"mounts\[0\]\.container_path: a volume at /dev"):
        async with running(lab, wanted):
            pass


async def test_masked_and_readonly_paths_hold(lab: OciLab) -> None:
    wanted = config(
        masked_paths=("/proc/kcore", "/sys/firmware"), readonly_paths=("/proc/sys", "/proc/sysrq-trigger")
    )
    async with running(lab, wanted) as record:
        assert await said(lab, record, "dd if=/proc/kcore bs=1 count=1 2>/dev/null | wc -c") == "0\n"
        assert (
            await said(
                lab, record, "ls /sys/firmware /sys/devices/virtual/powercap 2>/dev/null | grep -v : | wc -w"
            )
            == "0\n"
        )
        for path in ("/proc/sys/kernel/domainname", "/proc/sysrq-trigger"):
            assert await said(lab, record, f"echo x > {path} 2>/dev/null || echo no") == "no\n"


async def test_devices_that_were_not_given_cannot_be_opened(lab: OciLab) -> None:
    script = (
        "/bin/busybox mknod /tmp/mem c 1 1; /bin/busybox mknod /tmp/kmsg c 1 11; cat /tmp/mem /tmp/kmsg 2>&1"
    )
    async with running(lab, config()) as record:
        assert (await said(lab, record, script)).count("Operation not permitted") == 2


@pytest.mark.parametrize(
    ("sysctls", "spaces"),
    [
        ({"kernel.core_pattern": "|/bin/evil"}, {}),
        ({"kernel.shm_rmid_forced": "1+kernel.core_pattern=|/bin/evil"}, {}),
        ({"net.ipv4.ip_forward/../../../kernel/core_pattern": "x"}, {}),
        ({"net.ipv4.ip_forward": "1\nx"}, {}),
        ({"net.ipv4.ip_default_ttl": "63"}, {"network": NamespaceMode.NODE}),
        ({"kernel.shmmax": "1"}, {"ipc": NamespaceMode.NODE}),
    ],
)
async def test_sysctls_of_the_host_cannot_be_had(
    lab: OciLab, sysctls: dict[str, str], spaces: dict[str, NamespaceMode]
) -> None:
    # not ip_forward: the daemons of other tests turn it on
    watched = ("kernel/core_pattern", "net/ipv4/ip_default_ttl", "kernel/shmmax")
    before = [Path(f"/proc/sys/{name}").read_text() for name in watched]
    with pytest.raises(InvalidRequest, match="sysctls"):
        async with pod(lab, sysctls=sysctls, **spaces):
            pass
    assert [Path(f"/proc/sys/{name}").read_text() for name in watched] == before


async def test_no_annotation_of_a_user_reaches_the_runtime(lab: OciLab) -> None:
    hostile = {
        "run.oci.keep_original_groups": "1",
        "run.oci.delegate-cgroup": "../../..",
        "org.systemd.property.ExecStart": "['/bin/evil']",
        "io.kubernetes.cri-o.UnifiedCgroup": "memory.max=max",
    }
    async with running(lab, config(annotations=hostile)) as record:
        written = Path(lab.paths.container(record.id), "config.json").read_text()
        assert not [name for name in hostile if name in written]


async def test_a_line_break_in_home_adds_no_line_to_passwd(lab: OciLab) -> None:
    evil = b"/root\nevil:x:0:0::/:/bin/sh"
    async with running(lab, config(run_as_user=4321, envs=(("HOME", evil),))) as record:
        assert "evil" not in await said(lab, record, "cat /etc/passwd")
        assert await said(lab, record, 'echo "$HOME"') == evil.decode() + "\n"


async def test_the_default_filter_refuses_the_kernels_ciphers_and_the_hypervisor(lab: OciLab) -> None:
    program = (
        "import socket\n"
        "for family in (38, 40, 2, 1, 16):\n"
        "    kind = socket.SOCK_SEQPACKET if family == 38 else socket.SOCK_DGRAM\n"
        "    try: socket.socket(family, kind); print('yes')\n"
        "    except OSError as error: print(error.errno)\n"
    )
    places = [path for path in ("/usr", "/lib", "/lib64") if os.path.exists(path)]
    mounts = tuple(Mount(path, os.path.realpath(path), readonly=True) for path in places)
    wanted = config(mounts=mounts, seccomp=SecurityProfile(ProfileType.RUNTIME_DEFAULT))
    async with running(lab, wanted) as record:
        command = ExecCommand(("/usr/bin/python3", "-c", program), timeout=BOUND)
        result = await run_command(lab.handler.streams, record, command)
        assert result.stdout.split() == [b"1", b"1", b"yes", b"yes", b"yes"], result


async def test_a_pods_own_filter_holds_for_its_infra_process(lab: OciLab) -> None:
    plain = lab.sandbox(pid=NamespaceMode.POD)
    security = replace(plain.config.security, seccomp=SecurityProfile(ProfileType.RUNTIME_DEFAULT))
    record = replace(plain, config=replace(plain.config, security=security))
    for _ in range(2):  # the second one gets what crun compiled for the first
        try:
            infra = (await lab.begin(record)).infra
            assert infra is not None
            async with asyncio.timeout(BOUND):
                while "catatonit" not in os.readlink(f"/proc/{infra.pid}/exe"):  # noqa: ASYNC110 - no event
                    await asyncio.sleep(0)
            assert status(infra.pid)["Seccomp"] == "2"
        finally:
            await lab.handler.pods.remove(record)
    missing = replace(security, seccomp=SecurityProfile(ProfileType.LOCALHOST, "/nosuch.json"))
    refused = replace(lab.sandbox(), config=replace(plain.config, security=missing))
    try:
        with pytest.raises(InvalidRequest, match="nosuch"):
            await lab.handler.pods.prepare(refused, STAGE)
    finally:
        await lab.handler.pods.remove(refused)


async def test_no_new_privileges_is_set_when_asked_for(lab: OciLab) -> None:
    async with running(lab, config(no_new_privs=True)) as record:
        assert status(first(record))["NoNewPrivs"] == "1"
        assert "1" in await said(lab, record, "grep NoNewPrivs /proc/self/status")


async def test_ambient_capabilities_reach_a_user_who_is_not_root(lab: OciLab) -> None:
    wanted = config(run_as_user=1000, capabilities=Capabilities(add_ambient=("NET_BIND_SERVICE",)))
    async with running(lab, wanted) as record:
        found = sets(Path(f"/proc/{first(record)}/status").read_text())
        assert found["CapAmb"] == found["CapEff"] == found["CapInh"] == 1 << 10
        assert sets(await said(lab, record, CAPS))["CapEff"] == 1 << 10


def test_every_test_of_the_table_exists() -> None:
    tests = Path(__file__).parents[2]
    assert __doc__ is not None
    named = re.findall(r"(?:((?:unit|system)/[\w/]+\.py)::\s*)?(test_\w+)(?!\w*\.py)\b", __doc__)
    assert len(named) > 30
    for file, name in named:
        text = (tests / file if file else Path(__file__)).read_text()
        assert f"def {name}(" in text, name
