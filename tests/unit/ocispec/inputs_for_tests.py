"""Inputs of the recipe for tests: a plain container, and ways to change one thing of it."""

from __future__ import annotations

from dataclasses import replace

from crib.model.container import ContainerConfig, ContainerSecurity
from crib.model.facts import HandlerFacts, HostFacts, RootfsFacts
from crib.model.ids import ContainerId, HandlerName, SandboxId
from crib.model.image import ImageConfig
from crib.model.sandbox import (
    NamespaceMode,
    NamespaceOptions,
    PodMetadata,
    PodSecurity,
    SandboxConfig,
    SandboxRecord,
    SandboxState,
)
from crib.ocispec.inputs import ContainerInputs, PodPaths
from crib.ocispec.security import KNOWN_CAPABILITIES

HOST = HostFacts(
    kernel="6.1.0",
    boot_id="boot",
    architecture="amd64",
    cgroup_layout="v1",
    cgroup_controllers=("cpu", "memory", "hugetlb"),
    capabilities=tuple(f"CAP_{name}" for name in KNOWN_CAPABILITIES),
    oom_score_adj=0,
    may_lower_oom=True,
    apparmor=False,
    selinux=False,
    seccomp=True,
    idmapped_mounts=True,
    open_files=(1024, 4096),
    memory_bytes=1 << 34,
    swap_accounting=True,
)
HANDLER = HandlerFacts(
    name="crun",
    program="/usr/bin/crun",
    version="1.8.1",
    oci_version="1.0.2",
    recursive_read_only=True,
    user_namespaces=False,
    idmapped_mounts=False,
)
PASSWD = "root:x:0:0::/root:/bin/sh\nbroken\nalice:x:1000:1001::/:/bin/sh\nbig:x:4294967296:1::/:\n"
GROUP = "root:x:0:\nalice:x:1001:\nwheel:x:10:alice,bob\naudio:x:29:alice\n"


def sandbox(namespaces: NamespaceOptions | None = None) -> SandboxRecord:
    options = namespaces or NamespaceOptions(pid=NamespaceMode.CONTAINER)
    return SandboxRecord(
        id=SandboxId("5" * 64),
        config=SandboxConfig(
            metadata=PodMetadata("web", "uid-1", "shop"),
            hostname="web-0",
            security=PodSecurity(namespaces=options),
        ),
        handler=HandlerName("crun"),
        state=SandboxState.READY,
        created_at=0,
        boot_id="boot",
    )


def inputs(**changes: object) -> ContainerInputs:
    """Inputs for `nginx -g x` in a pod of its own; `changes` are fields of ContainerInputs."""
    plain = ContainerInputs(
        id=ContainerId("c" * 64),
        config=ContainerConfig(
            name="nginx",
            image="nginx",
            security=ContainerSecurity(namespaces=NamespaceOptions(pid=NamespaceMode.CONTAINER)),
        ),
        sandbox=sandbox(),
        image=ImageConfig(
            entrypoint=("nginx",), cmd=("-g", "x"), env=("A=image", "PATH=/bin"), working_dir="/srv"
        ),
        host=HOST,
        handler=HANDLER,
        rootfs=RootfsFacts(PASSWD, GROUP),
        pod=PodPaths(
            hosts="/run/crib/sandboxes/5/hosts",
            hostname="/run/crib/sandboxes/5/hostname",
            resolv_conf="/run/crib/sandboxes/5/resolv.conf",
            shm="/run/crib/sandboxes/5/shm",
            net_namespace="/run/crib/sandboxes/5/ns/net",
            ipc_namespace="/run/crib/sandboxes/5/ns/ipc",
            uts_namespace="/run/crib/sandboxes/5/ns/uts",
        ),
        root="/run/crib/containers/c/rootfs",
        cgroups_path="/kubepods/pod1/c",
        default_hostname="node-1",
    )
    return replace(plain, **changes)  # type: ignore[arg-type]


def with_config(**fields: object) -> ContainerInputs:
    """Inputs with other fields of the ContainerConfig."""
    plain = inputs()
    return replace(plain, config=replace(plain.config, **fields))  # type: ignore[arg-type]


def with_security(**fields: object) -> ContainerInputs:
    """Inputs with other fields of the security context."""
    return with_config(security=replace(inputs().config.security, **fields))  # type: ignore[arg-type]
