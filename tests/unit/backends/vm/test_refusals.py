"""What no machine gives is refused by its field."""

from __future__ import annotations

import stat
from dataclasses import replace

import pytest

from crib.backends.vm.refusals import check_container, check_device, check_limits, check_pod, check_resize
from crib.backends.vm.sizes import MachineSize
from crib.model.container import ContainerConfig, ContainerSecurity
from crib.model.errors import InvalidRequest
from crib.model.sandbox import (
    IdMapping,
    NamespaceMode,
    NamespaceOptions,
    PodMetadata,
    PodSecurity,
    ProfileType,
    Resources,
    SandboxConfig,
    SecurityProfile,
    UserNamespace,
)
from crib.model.vm_settings import MIB, VmSettings

SIZE = MachineSize(352 * MIB, 2)
PLAIN = SandboxConfig(PodMetadata("pod", "uid", "default"))
LOCALHOST = SecurityProfile(ProfileType.LOCALHOST, "mine")
USERS = UserNamespace(NamespaceMode.POD, (IdMapping(0, 100000, 65536),), (IdMapping(0, 100000, 65536),))


def pod(**security: object) -> SandboxConfig:
    return replace(PLAIN, security=PodSecurity(**security))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("config", "field"),
    [
        (
            pod(namespaces=NamespaceOptions(network=NamespaceMode.NODE)),
            "linux.security_context.namespace_options.network",
        ),
        (
            pod(namespaces=NamespaceOptions(userns=USERS)),
            "linux.security_context.namespace_options.userns_options",
        ),
        (pod(apparmor=LOCALHOST), "linux.security_context.apparmor"),
        (replace(PLAIN, resources=Resources(cpuset_cpus="1")), "linux.resources.cpuset_cpus"),
    ],
)
def test_a_pod_is_refused(config: SandboxConfig, field: str) -> None:
    with pytest.raises(InvalidRequest, match="the pod is a machine") as refused:
        check_pod(config)
    assert refused.value.field == field


def test_what_a_machine_gives_is_not_refused() -> None:
    check_pod(pod(privileged=True, apparmor=SecurityProfile(ProfileType.RUNTIME_DEFAULT)))
    check_container(
        ContainerConfig("box", "image", resources=Resources(memory_limit_in_bytes=256 * MIB, cpu_quota=1)),
        SIZE,
        VmSettings(),
    )
    check_limits(Resources(memory_limit_in_bytes=-1, hugepage_limits={"2MB": 0}), SIZE, VmSettings())
    check_resize(Resources(memory_limit_in_bytes=MIB, cpu_quota=200_000), SIZE, VmSettings())


@pytest.mark.parametrize(
    ("parts", "field"),
    [
        ({"cdi_devices": ("vendor.example/gpu=0",)}, "CDI_devices[0]"),
        ({"security": ContainerSecurity(apparmor=LOCALHOST)}, "linux.security_context.apparmor"),
        ({"resources": Resources(cpuset_mems="0")}, "linux.resources.cpuset_mems"),
        ({"resources": Resources(hugepage_limits={"2MB": 1})}, "linux.resources.hugepage_limits"),
        ({"resources": Resources(memory_limit_in_bytes=257 * MIB)}, "linux.resources.memory_limit_in_bytes"),
    ],
)
def test_a_container_is_refused(parts: dict[str, object], field: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        check_container(ContainerConfig("box", "image", **parts), SIZE, VmSettings())  # type: ignore[arg-type]
    assert refused.value.field == field


def test_of_devices_only_block_devices_can_be_disks() -> None:
    check_device(0, "/dev/loop0", stat.S_IFBLK | 0o660)
    for mode in (stat.S_IFCHR, stat.S_IFDIR, stat.S_IFREG):
        with pytest.raises(InvalidRequest, match="no /dev/x of the host") as refused:
            check_device(3, "/dev/x", mode | 0o660)
        assert refused.value.field == "devices[3].host_path"


def test_a_machine_keeps_its_size() -> None:
    with pytest.raises(InvalidRequest, match="a machine with 2 CPUs, and keeps that size"):
        check_resize(Resources(cpu_quota=200_001), SIZE, VmSettings())
    with pytest.raises(InvalidRequest, match="256 MiB for its containers, and keeps that size"):
        check_resize(Resources(memory_limit_in_bytes=300 * MIB), SIZE, VmSettings())
