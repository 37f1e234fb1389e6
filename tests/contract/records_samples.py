"""Records with every field set, so that nothing is lost unseen on the way to disk and back."""

from __future__ import annotations

from crib.model.container import (
    Capabilities,
    ContainerConfig,
    ContainerRecord,
    ContainerSecurity,
    ContainerState,
    ContainerUser,
    Device,
    Mount,
    MountPropagation,
)
from crib.model.ids import Digest, HandlerName, ImageId, new_container_id, new_sandbox_id
from crib.model.image import ImageConfig, ImageDocuments, ImageRecord, Layer, Signature
from crib.model.sandbox import (
    DnsConfig,
    IdMapping,
    NamespaceMode,
    NamespaceOptions,
    NetworkAttachment,
    PodMetadata,
    PodSecurity,
    PortMapping,
    ProcessIdentity,
    ProfileType,
    Protocol,
    Resources,
    SandboxConfig,
    SandboxRecord,
    SandboxState,
    SecurityProfile,
    SelinuxOption,
    UserNamespace,
)
from crib.model.volumes import (
    AccessMode,
    PodOfUse,
    Reclaim,
    SnapshotRecord,
    SnapshotState,
    StageState,
    UseState,
    VolumeName,
    VolumeRecord,
    VolumeSpec,
    VolumeState,
    VolumeUse,
    new_snapshot_id,
    new_volume_id,
)

MAPPINGS = (IdMapping(100_000, 0, 65_536), IdMapping(1000, 65_536, 1))
RESOURCES = Resources(
    cpu_period=100_000,
    cpu_quota=-1,
    cpu_shares=1024,
    memory_limit_in_bytes=1 << 40,
    oom_score_adj=-998,
    cpuset_cpus="0-1",
    cpuset_mems="0",
    hugepage_limits={"2MB": 1 << 63},
    unified={"memory.high": "max"},
    memory_swap_limit_in_bytes=1 << 41,
)
SECCOMP = SecurityProfile(ProfileType.LOCALHOST, "/profiles/a.json")
SELINUX = SelinuxOption("u", "r", "t", "s0:c1,c2")
NAMESPACES = NamespaceOptions(
    NamespaceMode.NODE,
    NamespaceMode.TARGET,
    NamespaceMode.POD,
    "abc",
    UserNamespace(NamespaceMode.POD, MAPPINGS),
)


def full_sandbox() -> SandboxRecord:
    return SandboxRecord(
        id=new_sandbox_id(),
        config=SandboxConfig(
            metadata=PodMetadata("näme", "uid", "ns", 3),
            hostname="host",
            log_directory="/var/log/pods/x",
            dns=DnsConfig(("1.1.1.1",), ("a.b",), ("ndots:5",)),
            port_mappings=(PortMapping(80, 8080, Protocol.SCTP, "::1"),),
            labels={"a": "b", "": ""},
            annotations={"k": "v\n\0"},
            cgroup_parent="/kubepods/pod1",
            security=PodSecurity(NAMESPACES, SELINUX, 0, 1000, True, (1, 2), 1, True, SECCOMP, SECCOMP),
            sysctls={"net.core.somaxconn": "1"},
            overhead=RESOURCES,
            resources=Resources(),
        ),
        handler=HandlerName("crun"),
        state=SandboxState.NOT_READY,
        created_at=1_700_000_000_123_456_789,
        boot_id="boot",
        reason="why",
        network=NetworkAttachment(("10.0.0.2", "fd00::2"), "eth0", {"mac": "aa"}),
        infra=ProcessIdentity(42, 1 << 62),
        released=True,
    )


def full_container() -> ContainerRecord:
    return ContainerRecord(
        id=new_container_id(),
        sandbox_id=new_sandbox_id(),
        config=ContainerConfig(
            name="app",
            image="busybox",
            attempt=7,
            user_specified_image="busybox:1",
            command=("/bin/sh",),
            args=("-c", ""),
            working_dir="/",
            envs=(("RAW", b"\xff\x00"), ("EMPTY", b"")),
            mounts=(
                Mount(
                    "/data",
                    "/host",
                    True,
                    True,
                    MountPropagation.BIDIRECTIONAL,
                    MAPPINGS,
                    MAPPINGS,
                    True,
                    "image:1",
                    "sub",
                    ("nosuid",),
                ),
            ),
            devices=(Device("/dev/a", "/dev/b", "rm"),),
            labels={"a": "b"},
            annotations={"c": "d"},
            log_path="app/0.log",
            stdin=True,
            stdin_once=True,
            tty=True,
            resources=RESOURCES,
            security=ContainerSecurity(
                Capabilities(("ALL",), ("KILL",), ("CHOWN",)),
                True,
                NAMESPACES,
                SELINUX,
                0,
                0,
                "root",
                True,
                (5,),
                1,
                True,
                ("/proc/kcore",),
                ("/proc/sys",),
                SECCOMP,
                None,
            ),
            cdi_devices=("v/c=d",),
            stop_signal=65,
        ),
        state=ContainerState.EXITED,
        created_at=1,
        image_id=ImageId("sha256:" + "a" * 64),
        image_ref="busybox@sha256:" + "b" * 64,
        layers=(Digest("sha256:" + "c" * 64),),
        log_path="/var/log/x",
        stop_signal=37,
        resources=RESOURCES,
        user=ContainerUser(0, 1, (2, 3)),
        process=ProcessIdentity(1, 2),
        monitor=ProcessIdentity(3, 4),
        started_at=2,
        finished_at=3,
        exit_code=137,
        reason="OOMKilled",
        message="m",
    )


def full_image(name: str = "a") -> ImageRecord:
    return ImageRecord(
        id=ImageId(f"sha256:{name * 64}"),
        config=ImageConfig(
            ("/e",), ("c",), ("PATH=/bin",), "1:2", "/w", "SIGINT", ("/v",), {"l": "1"}, "arm64", "linux"
        ),
        layers=(
            Layer(
                Digest("sha256:" + "d" * 64),
                Digest("sha256:" + "e" * 64),
                1 << 35,
                (1 << 34) + 1,
                "sha256:" + "1" * 64,
                "sha256:" + "2" * 64,
            ),
        ),
        tags=("docker.io/library/a:1",),
        digests=("docker.io/library/a@sha256:" + "f" * 64,),
        created_at=9,
        pinned=True,
        signatures=(Signature(b'{"critical": \xff\0}', "c2lnbmVk"),),
        used_at=10,
    )


def full_volume() -> VolumeRecord:
    pod = PodOfUse("uid-1", "default", "web", "/pods/uid-1", "builder")
    return VolumeRecord(
        id=new_volume_id(),
        name=VolumeName("default", "data"),
        spec=full_volume_spec(),
        state=VolumeState.READY,
        created_at=1,
        handle="volume-1",
        context={"server": "10.0.0.1"},
        capacity=1 << 30,
        stage=StageState.STAGED,
        attachment={"device": "/dev/sdb"},
        uses=(VolumeUse(pod, "data", True, UseState.PUBLISHED, 2, "/published", "is odd"),),
        image_id=ImageId("sha256:" + "1" * 64),
        layers=(Digest("sha256:" + "2" * 64),),
        boot_id="boot-1",
        problem="is slow",
    )


def full_volume_spec() -> VolumeSpec:
    return VolumeSpec(
        kind="csi",
        storage_class="fast",
        driver="csi.example.com",
        parameters={"pool": "ssd"},
        source="volume-0",
        snapshot="0" * 32,
        clone_of="1" * 32,
        capacity=1 << 30,
        access_modes=(AccessMode.READ_WRITE_ONCE_POD, AccessMode.READ_ONLY_MANY),
        block=True,
        fs_type="ext4",
        mount_options=("noatime",),
        labels={"app": "db"},
        secrets={"password": "/secret"},
        owner="uid-1",
        inline=True,
        reclaim=Reclaim.RETAIN,
    )


def full_snapshot() -> SnapshotRecord:
    return SnapshotRecord(
        id=new_snapshot_id(),
        name=VolumeName("default", "monday"),
        volume=new_volume_id(),
        volume_name="data",
        spec=full_volume_spec(),
        state=SnapshotState.READY,
        created_at=1,
        handle="snapshot-1",
        size=5,
        usable=True,
        problem="is old",
    )


def full_documents(name: str = "a") -> ImageDocuments:
    return ImageDocuments(f'{{"{name}": "\xff\0"}}'.encode("latin-1"), b"manifest\0" + name.encode())
