"""Labels of processes and files, with SELinux enforcing: what is kept apart.

    script/guest selinux runcon -l s0 python -m pytest tests/system/oci/test_selinux.py
    script/guest --suite "system oci" selinux

At level s0, as systemd starts services: a container may not use the pipes of one that has all categories, as
root's shell has.
"""

from __future__ import annotations

import os
import re
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from crib.backends.bundle.labels import Labels
from crib.host import selinux
from crib.model.container import ContainerConfig, ContainerRecord, ContainerSecurity, ImageVolume, Mount
from crib.model.errors import Broken, InvalidRequest
from crib.model.image import ImageConfig
from crib.model.sandbox import (
    IdMapping,
    NamespaceMode,
    NamespaceOptions,
    SandboxRecord,
    SelinuxOption,
    UserNamespace,
)
from crib.ports.containers import CreateRequest
from tests.system.labs import oci_setup
from tests.system.labs.oci_setup import LAYER, STAGE, OciLab, oci_lab

pytestmark = [
    pytest.mark.root,
    pytest.mark.system,
    pytest.mark.skipif(not selinux.is_enabled(), reason="the kernel has no SELinux, or no policy is loaded"),
]

OPTIONS = r"linux\.security_context\.selinux_options"
PRIVILEGED = "system_u:object_r:container_file_t:s0:c1022,c1023"
"""Label of a privileged container's files."""
OWN_LEVEL = re.compile(r"system_u:system_r:container_t:(s0:c\d+,c\d+)")


@pytest.fixture(params=["crun", "runc"])
async def lab(request: pytest.FixtureRequest) -> AsyncIterator[OciLab]:
    async with oci_lab(request.param) as made:
        yield made


@pytest.fixture
async def crun() -> AsyncIterator[OciLab]:
    async with oci_lab("crun") as made:
        yield made


def config(
    *mounts: Mount,
    options: SelinuxOption | None = None,
    pid: NamespaceMode = NamespaceMode.CONTAINER,
    **more: bool,
) -> ContainerConfig:
    spaces = NamespaceOptions(pid=pid)
    security = ContainerSecurity(namespaces=spaces, selinux=options, **more)  # type: ignore[arg-type]
    return ContainerConfig(
        name="main", image="busybox", command=("sleep", "1000"), security=security, mounts=mounts
    )


def secured(record: SandboxRecord, **changes: object) -> SandboxRecord:
    security = replace(record.config.security, **changes)  # type: ignore[arg-type]
    return replace(record, config=replace(record.config, security=security))


def volume(path: Path, *, relabel: bool = False) -> Mount:
    return Mount(container_path="/volume", host_path=str(path), selinux_relabel=relabel)


def of_process(record: ContainerRecord | SandboxRecord) -> str:
    process = record.infra if isinstance(record, SandboxRecord) else record.process
    assert process is not None
    return Path(f"/proc/{process.pid}/attr/current").read_text().strip("\0\n")


def of_file(path: Path | str) -> str:
    return os.getxattr(path, "security.selinux", follow_symlinks=False).decode().strip("\0")


def inside(record: ContainerRecord, path: str) -> str:
    """The label of a file as the container has it."""
    assert record.process is not None
    return of_file(f"/proc/{record.process.pid}/root{path}")


async def output(lab: OciLab, record: ContainerRecord, script: str) -> str:
    result = await lab.execute(record, "sh", "-c", script)
    assert result.exit_code == 0, result
    return result.stdout.decode().strip("\0\n ")


async def is_denied(lab: OciLab, record: ContainerRecord, script: str) -> None:
    result = await lab.execute(record, "sh", "-c", script)
    assert result.exit_code != 0
    assert b"Permission denied" in result.stderr, result


def test_the_kernel_enforces_and_we_have_the_level_of_a_service() -> None:
    assert Path("/proc/self/attr/current").read_text().strip("\0\n").split(":", 3)[3] == "s0"
    assert Path(selinux.FILE_SYSTEM, "enforce").read_text() == "1"


async def test_processes_and_files_of_a_pod_have_one_level_that_is_its_own(lab: OciLab) -> None:
    async with lab.pod(lab.sandbox(pid=NamespaceMode.POD)) as sandbox:
        shared = config(pid=NamespaceMode.POD)
        async with lab.running(sandbox, shared) as first, lab.running(sandbox, shared) as second:
            label = of_process(first)
            found = OWN_LEVEL.fullmatch(label)
            assert found
            assert label == of_process(second) == of_process(sandbox)
            assert await output(lab, first, "cat /proc/self/attr/current") == label
            await output(lab, first, "echo x > /tmp/new; echo x > /dev/shm/new; mkdir /etc/new")
            own = f"system_u:object_r:container_file_t:{found[1]}"
            for path in (
                *("/", "/bin/busybox", "/etc/passwd", "/etc/hosts", "/etc/hostname", "/etc/resolv.conf"),
                *("/dev", "/dev/shm", "/tmp/new", "/dev/shm/new", "/etc/new"),
            ):
                assert inside(first, path) == own, path
            assert await output(lab, second, "cat /dev/shm/new") == "x"


async def test_a_command_has_a_terminal_and_a_container_new_privileges_or_not(lab: OciLab) -> None:
    async with lab.pod(lab.sandbox()) as sandbox:
        wanted = replace(
            config(no_new_privs=True), tty=True, command=("sh", "-c", "echo tty; exec sleep 1000")
        )
        async with lab.running(sandbox, wanted) as record:
            assert OWN_LEVEL.fullmatch(of_process(record))
            assert await output(lab, record, "cat /proc/self/attr/current") == of_process(record)
            await output(lab, record, "echo x > /dev/pts/0 && echo x > /dev/null")


async def test_a_relabelled_volume_is_its_pods_alone(crun: OciLab, private_root: Path) -> None:
    (private_root / "below").mkdir()
    (private_root / "below" / "secret").write_text("secret")
    read, mine, others = "cat /volume/below/secret", volume(private_root, relabel=True), volume(private_root)
    async with (
        crun.pod(crun.sandbox()) as one,
        crun.pod(crun.sandbox()) as two,
        crun.running(one, config(mine)) as owner,
        crun.running(two, config(others)) as stranger,
    ):
        assert of_process(owner) != of_process(stranger)
        assert await output(crun, owner, f"{read} && echo new > /volume/new") == "secret"
        assert of_file(private_root / "below" / "secret") == inside(owner, "/")
        await is_denied(crun, stranger, read)
        await is_denied(crun, stranger, "cat /volume/new")
        await is_denied(crun, stranger, "echo x > /volume/x")
        os.setxattr(private_root / "new", "security.selinux", PRIVILEGED.encode())
        await is_denied(crun, owner, "cat /volume/new")
        same = SelinuxOption(level=of_process(owner).split(":", 3)[3])
        async with crun.running(two, config(others, options=same)) as friend:
            assert await output(crun, friend, read) == "secret"


async def test_a_pod_with_users_of_its_own_is_kept_apart_as_others_are(
    lab: OciLab, private_root: Path
) -> None:
    if not lab.environment.facts.user_namespaces:
        pytest.skip("this handler has no user namespaces here")
    ids = (IdMapping(host_id=300_000, container_id=0, length=65_536),)
    spaces = NamespaceOptions(
        pid=NamespaceMode.POD, userns=UserNamespace(NamespaceMode.POD, uids=ids, gids=ids)
    )
    for name in ("mine", "others"):
        (private_root / name).mkdir()
        os.chown(private_root / name, 300_000, 300_000)
    mine = volume(private_root / "mine", relabel=True)
    shifted = replace(config(mine), security=ContainerSecurity(namespaces=spaces))
    async with (
        lab.pod(secured(lab.sandbox(), namespaces=spaces)) as sandbox,
        lab.pod(lab.sandbox()) as plain,
        lab.running(sandbox, shifted) as record,
        lab.running(plain, config(volume(private_root / "mine"))) as stranger,
    ):
        label = of_process(record)
        assert OWN_LEVEL.fullmatch(label)
        assert label == of_process(sandbox)
        assert await output(lab, record, "cat /proc/self/attr/current") == label
        await output(lab, record, "echo x > /volume/new && echo x > /tmp/new && echo x > /dev/shm/new")
        files = {inside(record, path) for path in ("/", "/etc/passwd", "/etc/hosts", "/dev/shm/new")}
        assert files == {of_file(private_root / "mine" / "new")}
        assert os.stat(private_root / "mine" / "new").st_uid == 300_000
        await is_denied(lab, stranger, "cat /volume/new")
        other = replace(shifted, mounts=(volume(private_root / "others"),))
        async with lab.running(sandbox, other) as denied:
            await is_denied(lab, denied, "echo x > /volume/new")


async def test_a_volume_that_is_not_relabelled_is_for_those_alone_who_are_not_kept_apart(
    crun: OciLab, private_root: Path
) -> None:
    (private_root / "file").write_text("data")
    before = of_file(private_root / "file")
    read, mount = "cat /volume/file", volume(private_root)
    asked = volume(private_root, relabel=True)
    async with crun.pod(secured(crun.sandbox(), privileged=True)) as sandbox:
        async with crun.running(sandbox, config(mount)) as record:
            await is_denied(crun, record, read)
        async with crun.running(sandbox, config(asked, options=SelinuxOption(type="spc_t"))) as record:
            assert of_process(record).startswith("system_u:system_r:spc_t:s0:c")
            assert await output(crun, record, read) == "data"
        async with crun.running(sandbox, config(asked, privileged=True)) as record:
            assert of_process(record) == Path("/proc/self/attr/current").read_text().strip("\0\n")
            assert inside(record, "/") == PRIVILEGED
            assert await output(crun, record, read) == "data"
    assert of_file(private_root / "file") == before


async def test_an_image_volume_has_the_label_of_the_containers_files(crun: OciLab) -> None:
    async with crun.pod(crun.sandbox()) as sandbox:
        record = crun.container(
            sandbox, config(Mount(container_path="/image", image="busybox", readonly=True))
        )
        mounted = ImageVolume(mount=0, image_id=record.image_id, layers=(LAYER,))
        record = replace(record, image_volumes=(mounted,))
        try:
            record = await crun.create(record, sandbox)
            await crun.handler.containers.start(record)
            assert inside(record, "/image/etc/passwd") == inside(record, "/")
            assert (await output(crun, record, "cat /image/etc/passwd")).startswith("root:")
        finally:
            await crun.handler.containers.delete(record)


async def test_what_an_image_declares_as_volume_has_the_label_of_the_containers_files(crun: OciLab) -> None:
    async with crun.pod(crun.sandbox()) as sandbox:
        record = crun.container(sandbox, config())
        try:
            made = await crun.handler.containers.create(
                CreateRequest(record, sandbox, ImageConfig(volumes=("/etc",))), STAGE
            )
            record = replace(record, process=made.process, monitor=made.monitor, user=made.user)
            await crun.handler.containers.start(record)
            assert inside(record, "/etc/passwd") == inside(record, "/")
            await output(crun, record, "cat /etc/passwd && echo x > /etc/new")
        finally:
            await crun.handler.containers.delete(record)


async def test_options_of_the_container_come_before_the_pods_part_by_part(crun: OciLab) -> None:
    pods = SelinuxOption(type="spc_t", level="s0:c3,c4")
    async with crun.pod(secured(crun.sandbox(), selinux=pods)) as sandbox:
        for options, expected in (
            (None, "system_u:system_r:spc_t:s0:c3,c4"),
            (SelinuxOption(type="container_t"), "system_u:system_r:container_t:s0:c3,c4"),
            (SelinuxOption(level="s0:c5"), "system_u:system_r:spc_t:s0:c5"),
        ):
            async with crun.running(sandbox, config(options=options)) as record:
                assert of_process(record) == expected
                level = expected.split(":", 3)[3]
                assert inside(record, "/") == f"system_u:object_r:container_file_t:{level}"


@pytest.mark.parametrize(
    "options",
    [
        SelinuxOption(type="crib_none_t"),
        SelinuxOption(role="crib_none_r"),
        SelinuxOption(user="crib_none_u"),
        SelinuxOption(level="s0:c4000"),
    ],
    ids=str,
)
async def test_what_the_policy_does_not_know_is_refused_by_its_field(
    crun: OciLab, options: SelinuxOption
) -> None:
    async with crun.pod(crun.sandbox()) as sandbox:
        with pytest.raises(
            InvalidRequest, match=rf"{OPTIONS}.*policy of this host does not know .*(none|c4000)"
        ):
            async with crun.running(sandbox, config(options=options)):
                pass
    with pytest.raises(InvalidRequest, match=OPTIONS):
        async with crun.pod(secured(crun.sandbox(), selinux=options)):
            pass


async def test_a_level_is_kept_by_the_next_daemon_and_given_back_with_the_pod(crun: OciLab) -> None:
    record = crun.sandbox()
    async with crun.pod(record) as sandbox, crun.running(sandbox, config()) as container:
        level = of_process(container).split(":", 3)[3]
        later = Labels(crun.paths, crun.environment.host)
        assert later.level(record.id) == later.take_level(sandbox) == level
    assert later.level(record.id) == ""
    assert os.listdir(crun.paths.sandboxes) == []


async def test_a_policy_without_types_for_containers_is_the_nodes_fault(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lacking = replace(oci_setup.host_facts(), selinux_process="system_u:system_r:crib_none_t:s0")
    monkeypatch.setattr(oci_setup, "host_facts", lambda: lacking)
    with pytest.raises(Broken, match="does not know system_u:system_r:crib_none_t:s0: install"):
        async with oci_setup.oci_lab("crun"):
            pass
