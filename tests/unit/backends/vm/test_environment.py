"""What machines are made of is found, or what is missing is told; and what a shim is given of a pod."""

from __future__ import annotations

import json
import os
import sys
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from crib.backends.environment import HandlerOpening, SharedLayers
from crib.backends.handler_notes import noted_handlers, write_handler_note
from crib.backends.handlers import check_kinds, closed_handlers
from crib.backends.vm.environment import VmEnvironment, closed_environment, open_environment
from crib.backends.vm.machine import MachineParts, find_machine, read_guest
from crib.backends.vm.sizes import MachineSize
from crib.host.mounts import unmount_tree
from crib.host.processes import ToolMissing
from crib.model.errors import Broken
from crib.model.ids import HandlerName, SandboxId
from crib.model.paths import Paths
from crib.model.sandbox import (
    NamespaceMode,
    NamespaceOptions,
    PodMetadata,
    PodSecurity,
    Resources,
    SandboxConfig,
)
from crib.model.settings import ContainerDefaults, HandlerSettings, Settings
from crib.model.vm_settings import MIB, VmSettings
from crib.ocispec.infra import InfraInputs, PodConfinement
from crib.stubs.shim.runtime_options_pb2 import Options
from crib.vm.acceleration import Acceleration
from crib.vm.shim.options import read_options, read_pod
from crib.wire import oci_runtime as oci
from tests.unit.ocispec.inputs_for_tests import HOST

NO_LAYERS = cast(SharedLayers, None)


def make_guest(directory: Path, **manifest: object) -> Path:
    """As `crib vm build` leaves it."""
    directory.mkdir()
    sizes = {}
    for name in ("kernel", "initrd", "guest.erofs"):
        (directory / name).write_text(name)
        sizes[name] = {"bytes": len(name)}
    document = {"format": 2, "kernel": "6.1.0-9-cloud-amd64", "files": sizes, **manifest}
    (directory / "manifest.json").write_text(json.dumps(document))
    return directory


def make_program(path: Path, says: str) -> str:
    path.write_text(f"#!/bin/sh\necho '{says}'\n")
    path.chmod(0o755)
    return str(path)


@pytest.fixture
def settings(tmp_path: Path) -> VmSettings:
    return VmSettings(
        guest=str(make_guest(tmp_path / "guest")),
        qemu=make_program(tmp_path / "qemu", "QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7)"),
        virtiofsd=make_program(tmp_path / "virtiofsd", "virtiofsd 1.13.2"),
        acceleration="tcg",
    )


def opening(tmp_path: Path, vm: VmSettings, **more: object) -> HandlerOpening:
    paths = Paths(f"{tmp_path}/data", f"{tmp_path}/state")
    handler = HandlerSettings(
        kind="vm", vm=vm, containers=ContainerDefaults(sysctls={"net.core.somaxconn": "7"})
    )
    made = Settings(data=paths.data, state=paths.state, handlers={"vm": handler}, default_handler="vm")
    return HandlerOpening(HandlerName("vm"), made, paths, HOST, NO_LAYERS, **more)  # type: ignore[arg-type]


def pod(**parts: object) -> InfraInputs:
    config = SandboxConfig(PodMetadata("web", "uid", "default"), hostname="web", **parts)  # type: ignore[arg-type]
    return InfraInputs(
        sandbox="pod",
        config=config,
        host=HOST,
        oci_version="1.0.2",
        root="/infra",
        program="catatonit",
        cgroups_path="/pods/pod",
        namespaces={"network": "/ns/net"},
        confinement=PodConfinement(None, "", "", ""),
        holds_containers=True,
    )


async def test_what_machines_are_made_of_is_found(tmp_path: Path, settings: VmSettings) -> None:
    found = await find_machine(settings, Paths("/d", "/s"), "amd64")
    assert (found.qemu_version, found.virtiofsd_version) == ("7.2.22", "1.13.2")
    assert found.words("microvm") == "QEMU 7.2.22 microvm, tcg; Linux 6.1.0-9-cloud-amd64"
    why = replace(found, acceleration=Acceleration("tcg", "there is no /dev/kvm"))
    assert "tcg (there is no /dev/kvm); Linux" in why.words("microvm")


async def test_an_architecture_without_machines_is_told(settings: VmSettings) -> None:
    with pytest.raises(Broken, match="machines of arm64 are not built yet"):
        await find_machine(settings, Paths("/d", "/s"), "arm64")


async def test_a_program_that_is_missing_is_told_with_its_package(settings: VmSettings) -> None:
    paths = Paths("/d", "/s")
    with pytest.raises(ToolMissing) as missing:
        await find_machine(replace(settings, qemu="/nosuch/qemu-system-x86_64"), paths, "amd64")
    assert missing.value.hint == "install the package qemu-system-x86"
    with pytest.raises(ToolMissing) as missing:
        await find_machine(replace(settings, virtiofsd="/nosuch/virtiofsd"), paths, "amd64")
    assert "the package virtiofsd" in missing.value.hint


async def test_kvm_that_is_asked_for_and_does_not_work_is_an_error(
    settings: VmSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def found(_wanted: str) -> Acceleration:
        return Acceleration("tcg", "/dev/kvm hangs")

    monkeypatch.setattr("crib.backends.vm.machine.find_acceleration", found)
    with pytest.raises(Broken, match='acceleration is "kvm", but /dev/kvm hangs'):
        await find_machine(replace(settings, acceleration="kvm"), Paths("/d", "/s"), "amd64")
    machine = await find_machine(replace(settings, acceleration="auto"), Paths("/d", "/s"), "amd64")
    assert machine.acceleration.name == "tcg"


def test_a_guest_that_is_not_there_or_not_whole_is_told(tmp_path: Path) -> None:
    with pytest.raises(Broken, match=r"no guest in .*/none \(kernel is missing\): `crib vm build` makes one"):
        read_guest(f"{tmp_path}/none")
    with pytest.raises(Broken, match="has format 3, not 2; run `crib vm build` again"):
        read_guest(str(make_guest(tmp_path / "newer", format=3)))
    with pytest.raises(Broken, match=r"manifest\.json is not understood"):
        read_guest(str(make_guest(tmp_path / "odd", files={})))
    torn = make_guest(tmp_path / "torn")
    (torn / "initrd").write_text("in")
    with pytest.raises(Broken, match="torn/initrd is not the file that was built"):
        read_guest(str(torn))


def closed(tmp_path: Path, settings: VmSettings) -> VmEnvironment:
    return closed_environment(opening(tmp_path, settings), "a test")


async def machine_of(settings: VmSettings) -> MachineParts:
    return await find_machine(settings, Paths("/d", "/s"), "amd64")


async def test_facts_say_what_pods_of_machines_can_have(tmp_path: Path, settings: VmSettings) -> None:
    made = closed(tmp_path, settings)
    assert (made.facts.kind, made.facts.problem, made.facts.version) == ("vm", "a test", "")
    assert (made.facts.own_kernel, made.facts.sandbox_container, made.facts.statistics) == (
        True,
        True,
        "runtime",
    )
    assert made.facts.abilities == ("exec", "attach", "a sandbox container", "a kernel of their own")
    assert made.sandbox_service == "always"
    inner = made.inner_host
    assert (inner.cgroup_layout, inner.apparmor, inner.selinux) == ("v2", False, False)


async def test_a_shim_is_started_with_options_that_it_understands(
    tmp_path: Path, settings: VmSettings
) -> None:
    if os.geteuid() != 0:
        pytest.skip("opening makes a mount")
    made = await open_environment(opening(tmp_path, settings))
    try:
        assert made.program.start("pod")[:3] == (sys.executable, "-I", "-m")
        assert made.program.options is not None
        document = Options.FromString(made.program.options.value).config_body
        assert tomllib.loads(document.decode())["boot_time"] == 60.0
        options = read_options(document)
        assert (options.image, options.memory, options.acceleration) == (settings.guest, 352, "tcg")
        assert options.virtiofsd == settings.virtiofsd
        assert made.facts.machine == "QEMU 7.2.22 microvm, tcg; Linux 6.1.0-9-cloud-amd64"
        noted = noted_handlers(made.paths)["vm"]
        assert noted.kind == "vm"
        assert made.programs[:3] == (sys.executable, settings.qemu, settings.virtiofsd)
        assert os.path.basename(made.programs[3]) == "mke2fs"
    finally:
        unmount_tree(made.paths.containers)


def test_a_pods_bundle_says_what_its_machine_is(tmp_path: Path, settings: VmSettings) -> None:
    made = closed(tmp_path, settings)
    resources = Resources(memory_limit_in_bytes=64 * MIB, cpu_quota=100_000)
    own = PodSecurity(namespaces=NamespaceOptions(pid=NamespaceMode.CONTAINER))
    spec = made.pod_spec(pod(resources=resources, sysctls={"net.ipv4.ip_forward": "1"}, security=own))
    plan = read_pod(oci.encode(spec))
    assert (plan.memory, plan.cpus, plan.shared_pid) == (160 * MIB, 1, False)
    assert (plan.network, plan.cgroup, plan.hostname) == ("/ns/net", "/pods/pod", "web")
    assert plan.shm == made.paths.shm(SandboxId("pod"))
    assert plan.sysctls["net.core.somaxconn"] == "7"
    assert plan.sysctls["net.ipv4.ip_forward"] == "1"
    shared = pod(security=PodSecurity(namespaces=NamespaceOptions(pid=NamespaceMode.POD)))
    assert read_pod(oci.encode(made.pod_spec(shared))).shared_pid


def test_annotations_of_a_pod_choose_no_size(tmp_path: Path, settings: VmSettings) -> None:
    made = closed(tmp_path, settings)
    spec = made.pod_spec(pod(annotations={"crib.vm/memory": "1", "crib.vm/shm": "/etc"}))
    assert spec.annotations["crib.vm/memory"] == str(352 * MIB)
    assert spec.annotations["crib.vm/shm"] == made.paths.shm(SandboxId("pod"))


def test_the_size_that_a_machine_was_made_with_is_found_again(tmp_path: Path, settings: VmSettings) -> None:
    made = closed(tmp_path, settings)
    with pytest.raises(Broken, match="the size of the machine of sandbox pod is not known"):
        made.made_size(SandboxId("pod"))
    bundle = Path(made.paths.infra(SandboxId("pod")))
    bundle.mkdir(parents=True)
    notes = {"annotations": {"crib.vm/memory": str(200 * MIB), "crib.vm/cpus": "3"}}
    (bundle / "config.json").write_text(json.dumps(notes))
    assert made.made_size(SandboxId("pod")) == MachineSize(200 * MIB, 3)


def test_a_handler_of_machines_that_was_taken_out_is_opened_by_its_note(tmp_path: Path) -> None:
    paths = Paths(f"{tmp_path}/data", f"{tmp_path}/state")
    os.makedirs(paths.shims)
    write_handler_note(paths, "gone", HandlerSettings(kind="vm"))
    settings = Settings(data=paths.data, state=paths.state)
    check_kinds(settings)
    facts = closed_handlers(settings, paths, HOST, NO_LAYERS)[HandlerName("gone")].facts
    assert (facts.kind, facts.own_kernel, facts.sandbox_container) == ("vm", True, True)
