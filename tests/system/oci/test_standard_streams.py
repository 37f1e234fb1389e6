"""What containers and commands have as standard streams: nothing that is the host's (docs/adr/0038)."""

from __future__ import annotations

import os
import stat
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from crib.host.null_device import keep_null_device
from crib.model.container import ContainerSecurity
from crib.model.sandbox import IdMapping, NamespaceMode, NamespaceOptions, SandboxRecord, UserNamespace
from crib.model.streams import ExecProcess
from tests.system.labs.oci_pods import config, pod, run_to_end
from tests.system.labs.oci_setup import OciLab, oci_lab
from tests.system.labs.oci_streams import Box, box, comes_true, finish

pytestmark = [pytest.mark.root, pytest.mark.system]

SHIFTED = (IdMapping(host_id=300_000, container_id=0, length=65_536),)
CLOSE_IT = (
    "busybox chmod 600 /proc/self/fd/0; busybox chmod 600 /proc/self/fd/1; busybox chmod 600 /dev/null; true"
)
NAMES = "for n in 0 1 2; do busybox readlink /proc/self/fd/$n; done >/tmp/names; true"


@pytest.fixture(params=["crun", "runc"])
async def lab(request: pytest.FixtureRequest) -> AsyncIterator[OciLab]:
    async with oci_lab(request.param) as made:
        yield made


@pytest.fixture
async def null_device() -> AsyncIterator[None]:
    """The host's /dev/null is everybody's afterwards; a test that fails must not break the machine."""
    yield
    try:
        await is_untouched()
    finally:
        keep_null_device()


async def is_untouched() -> None:
    """What another test's create does to /dev/null at the same time lasts some milliseconds."""
    await comes_true(lambda: null_status() == (0, 0, 0o666))


def null_status() -> tuple[int, int, int]:
    found = os.stat("/dev/null")
    return found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)


def user_namespaced(lab: OciLab, pid: NamespaceMode) -> tuple[SandboxRecord, ContainerSecurity]:
    spaces = NamespaceOptions(
        NamespaceMode.POD, pid, NamespaceMode.POD, userns=UserNamespace(NamespaceMode.POD, SHIFTED, SHIFTED)
    )
    record = lab.sandbox()
    security = replace(record.config.security, namespaces=spaces)
    record = replace(record, config=replace(record.config, security=security))
    return record, ContainerSecurity(namespaces=spaces)


@pytest.mark.usefixtures("null_device")
@pytest.mark.parametrize("tty", [False, True])
@pytest.mark.parametrize("user", [0, 1000])
async def test_a_command_has_no_file_of_the_host_and_cannot_close_dev_null_to_others(
    lab: OciLab, user: int, tty: bool
) -> None:
    security = ContainerSecurity(run_as_user=user, namespaces=NamespaceOptions(pid=NamespaceMode.CONTAINER))
    async with box(lab, security=security) as made:
        for script in (NAMES, CLOSE_IT):
            wanted = ExecProcess(("sh", "-c", script), tty=tty)
            code, _out, _err = await finish(await made.handler.streams.exec(made.record, wanted))
            assert code == 0
        names = (await made.run("cat", "/tmp/names")).splitlines()
        assert len(names) == 3
        kind = "/dev/pts/" if tty else "pipe:"
        # the second is the file that they were written to
        assert [name.startswith(kind) for name in (names[0], names[2])] == [True, True]
        wanted = ExecProcess(("sh", "-c", CLOSE_IT), stdout=True, tty=tty)
        await finish(await made.handler.streams.exec(made.record, wanted))


@pytest.mark.usefixtures("null_device")
@pytest.mark.parametrize("tty", [False, True])
@pytest.mark.parametrize("user", [0, 1000])
async def test_nor_has_a_container(lab: OciLab, user: int, tty: bool) -> None:
    security = ContainerSecurity(run_as_user=user, namespaces=NamespaceOptions(pid=NamespaceMode.CONTAINER))
    async with pod(lab) as sandbox:
        wanted = config("sh", "-c", f"{CLOSE_IT}; exit 0", security=security, tty=tty)
        found, _log = await run_to_end(lab, sandbox, wanted)
        assert found.code == 0


@pytest.mark.usefixtures("null_device")
@pytest.mark.parametrize("tty", [False, True])
@pytest.mark.parametrize("pid", [NamespaceMode.CONTAINER, NamespaceMode.POD])
async def test_root_of_a_user_namespace_is_not_given_the_host_s_dev_null(
    lab: OciLab, pid: NamespaceMode, tty: bool
) -> None:
    if not lab.environment.facts.user_namespaces:
        pytest.skip("this handler has no user namespaces here")
    sandbox, security = user_namespaced(lab, pid)
    try:
        sandbox = await lab.begin(sandbox)
        await is_untouched()
        wanted = config("sh", "-c", f"{CLOSE_IT}; echo tried; exec sleep 100", security=security, tty=tty)
        record = lab.container(sandbox, wanted)
        record = await lab.create(record, sandbox)
        await is_untouched()
        try:
            await lab.handler.containers.start(record)
            made = Box(lab, sandbox, record)
            for command_tty in (False, True):
                code, _out, _err = await finish(await made.exec("sh", "-c", CLOSE_IT, tty=command_tty))
                assert code == 0
                await is_untouched()
        finally:
            await lab.handler.containers.delete(record)
    finally:
        await lab.handler.pods.remove(sandbox)


def test_only_the_null_device_is_put_back(private_root: Path) -> None:
    other, null = private_root / "zero", private_root / "null"
    os.mknod(other, 0o600 | stat.S_IFCHR, os.makedev(1, 5))
    os.mknod(null, 0o600 | stat.S_IFCHR, os.makedev(1, 3))
    os.chown(null, 1000, 1000)
    assert not keep_null_device(str(other))
    assert keep_null_device(str(null))
    assert not keep_null_device(str(null))
    found = os.stat(null)
    assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (0, 0, 0o666)
    assert stat.S_IMODE(os.stat(other).st_mode) == 0o600
