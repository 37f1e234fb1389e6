"""What the golden specs are made from, one for each larger feature, and how they are written anew:

python -m tests.unit.ocispec.golden_inputs
"""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

from crib.model.container import Capabilities, ContainerSecurity, Device, Mount, MountPropagation
from crib.model.edits import (
    AddedDevice,
    AddedDeviceRule,
    AddedHook,
    AddedMount,
    ContainerEdits,
    RdtChange,
    Removals,
    SetIoPriority,
    SetMemoryPolicy,
    SetNamespace,
    SetRlimit,
    SetScheduler,
)
from crib.model.image import ImageConfig
from crib.model.resource_change import ResourceChange
from crib.model.sandbox import (
    IdMapping,
    NamespaceMode,
    NamespaceOptions,
    ProfileType,
    Resources,
    SecurityProfile,
    SelinuxOption,
    UserNamespace,
)
from crib.model.settings import ContainerDefaults, HandlerSettings, NodeMount
from crib.ocispec.defaults import node_mounts
from crib.ocispec.inputs import ContainerInputs, DeclaredVolume, HookRule, HostDevice
from crib.ocispec.origins import origins, whole_document
from crib.wire import oci_runtime as oci
from tests.unit.ocispec.inputs_for_tests import HOST, inputs, sandbox, with_config, with_security

GOLDEN = Path(__file__).parents[2] / "golden" / "ocispec"
OWN = NamespaceOptions(pid=NamespaceMode.CONTAINER)


def process() -> ContainerInputs:
    """Arguments, environment, terminal, a user by name with the image's groups."""
    asked = with_config(
        command=("sh", "-c"),
        args=("exec sleep 1",),
        working_dir="/work/./here",
        envs=(("A", "grün".encode()), ("EMPTY", b"")),
        tty=True,
        resources=Resources(oom_score_adj=985),
        security=ContainerSecurity(
            namespaces=OWN, run_as_username="alice", supplemental_groups=(2000,), no_new_privs=True
        ),
    )
    return replace(asked, image=replace(asked.image, env=("PATH=/opt/bin:/bin", "A=image", "B=2")))


def confined() -> ContainerInputs:
    """Capabilities, profiles, labels, a read-only root, hidden and read-only paths."""
    asked = with_security(
        namespaces=OWN,
        capabilities=Capabilities(add=("NET_ADMIN",), drop=("MKNOD", "NET_RAW"), add_ambient=("CHOWN",)),
        readonly_rootfs=True,
        masked_paths=("/proc/kcore", "/proc/keys"),
        readonly_paths=("/proc/sys",),
        seccomp=SecurityProfile(ProfileType.RUNTIME_DEFAULT),
        apparmor=SecurityProfile(ProfileType.LOCALHOST, "mine"),
        selinux=SelinuxOption(level="s0:c1,c2"),
    )
    host = replace(HOST, apparmor=True, selinux=True)
    return replace(asked, host=host, profiles=frozenset({"mine"}), selinux_level="s0:c1,c2")


def privileged() -> ContainerInputs:
    """All devices, nothing hidden, no profile."""
    asked = with_security(
        namespaces=OWN, privileged=True, seccomp=SecurityProfile(ProfileType.RUNTIME_DEFAULT)
    )
    devices = (
        HostDevice("/dev/kvm", "c", 10, 232, 0o660, 0, 36),
        HostDevice("/dev/sda", "b", 8, 0, 0o660, 0, 6),
    )
    return replace(asked, devices=devices)


def mounts() -> ContainerInputs:
    """Every kind of mount, in an order that has to be mended."""
    asked = with_config(
        mounts=(
            Mount("/data/deep/er", "/host/c"),
            Mount("/data", "/host/a", readonly=True),
            Mount("/data/deep", "/host/b", propagation=MountPropagation.HOST_TO_CONTAINER),
            Mount("/strict", "/host/d", readonly=True, recursive_read_only=True),
            Mount("/both", "/host/e", propagation=MountPropagation.BIDIRECTIONAL),
            Mount("/etc/hosts", "/host/hosts"),
            Mount("/plain", "/host/f", mount_options=("noexec", "nodev")),
            Mount("/model", image="registry.example/model:1", image_sub_path="weights", readonly=True),
        ),
        security=ContainerSecurity(namespaces=OWN, privileged=True),
    )
    sources = tuple(f"/real{mount.host_path}" if mount.host_path else "" for mount in asked.config.mounts)
    volume = "/run/crib/containers/c/volumes/0/weights"
    return replace(
        asked,
        mount_sources=(*sources[:-1], volume),
        image=replace(asked.image, volumes=("/var/cache",)),
        declared_volumes=(DeclaredVolume("/var/cache", "/var/lib/crib/containers/c/volumes/0"),),
    )


def devices() -> ContainerInputs:
    """A device of the host, and what a CDI device brings."""
    asked = with_config(
        devices=(Device("/dev/mine", "/dev/null", "r"),), cdi_devices=("vendor.example/gpu=0",)
    )
    edits = ContainerEdits(
        "CDI vendor.example/gpu=0",
        env=(("GPU", "0"),),
        devices=(AddedDevice("/dev/gpu0", "c", 195, 0, "rw"),),
        mounts=(AddedMount("/usr/lib/gpu", "/lib/gpu", options=("ro", "bind")),),
        hooks=(AddedHook("createContainer", "/usr/bin/gpu-hook", ("gpu-hook", "link")),),
        groups=(44,),
    )
    return replace(asked, devices=(HostDevice("/dev/mine", "c", 1, 3, 0o666, 0, 0, "r"),), cdi=(edits,))


def edits() -> ContainerInputs:
    """What two plugins change, one of them over the other."""
    asked = with_config(
        mounts=(Mount("/data", "/host/data"),), envs=(("A", b"container"), ("B", b"container"))
    )
    first = ContainerEdits("plugin 10-first", env=(("A", "first"), ("C", "first")), groups=(44,))
    second = ContainerEdits(
        "plugin 20-second",
        env=(("C", "second"),),
        mounts=(AddedMount("/data", "/other", options=("rbind", "ro")),),
    )
    return replace(asked, mount_sources=("/host/data",), edits=(first, second))


def plugins() -> ContainerInputs:
    """Everything that node plugins can change, the second partly over the first."""
    asked = with_config(
        resources=Resources(cpu_shares=512, memory_limit_in_bytes=64 << 20),
        envs=(("A", b"container"), ("B", b"container")),
        annotations={"example.com/a": "container"},
    )
    first = ContainerEdits(
        "NRI 10-first",
        env=(("A", "first"), ("C", "first")),
        annotations=(("example.com/first", "1"),),
        args=("/bin/first", "x"),
        rlimits=(SetRlimit("RLIMIT_CORE", 5, 4),),
        devices=(AddedDevice("/dev/first", "c", 1, 3, "rw", uid=0, gid=0),),
        device_rules=(AddedDeviceRule(True, "b", 8, None, "r"),),
        hooks=(AddedHook("poststart", "/bin/first"),),
        cdi_devices=("vendor.example/gpu=0",),
        injected=(ContainerEdits("CDI vendor.example/gpu=0", env=(("GPU", "0"),)),),
        oom_score_adj=77,
        io_priority=SetIoPriority("IOPRIO_CLASS_BE", 3),
        sysctls=(("net.core.somaxconn", "1024"),),
        net_devices=(("eth7", "net0"),),
        rdt=RdtChange("gold", ("MB:0=50",), enable_monitoring=True),
    )
    second = ContainerEdits(
        "NRI 20-second",
        removed=Removals(
            env=("C",), mounts=("/dev/mqueue",), args=True, namespaces=("uts",), annotations=("x",)
        ),
        env=(("C", "second"),),
        args=("/bin/second",),
        mounts=(AddedMount("/data", "/other", options=("rbind", "ro", "rslave")),),
        hooks=(AddedHook("poststart", "/bin/second"),),
        resources=ResourceChange(
            memory_limit=32 << 20,
            memory_reservation=16 << 20,
            cpu_quota=20_000,
            cpuset_cpus="0-1",
            pids_limit=50,
            hugepage_limits={"2MB": 4 << 20},
            blockio_class="slow",
        ),
        cgroups_path="/kubepods/pod1/c/inner",
        scheduler=SetScheduler("SCHED_BATCH", nice=5),
        namespaces=(SetNamespace("ipc"),),
        memory_policy=SetMemoryPolicy("MPOL_BIND", "0", ("MPOL_F_STATIC_NODES",)),
        seccomp=b'{"defaultAction": "SCMP_ACT_ALLOW"}',
    )
    return replace(asked, edits=(first, second), blockio_classes={"slow": oci.BlockIo(weight=50)})


def limits() -> ContainerInputs:
    """Every limit that a host with cgroup v1 has."""
    return replace(
        with_config(
            resources=Resources(
                cpu_period=100_000,
                cpu_quota=50_000,
                cpu_shares=512,
                memory_limit_in_bytes=64 << 20,
                memory_swap_limit_in_bytes=128 << 20,
                oom_score_adj=999,
                cpuset_cpus="0-1",
                cpuset_mems="0",
                hugepage_limits={"2MB": 4 << 20},
            )
        ),
        pids_limit=1024,
    )


def limits_v2() -> ContainerInputs:
    """And what only cgroup v2 has."""
    v2 = replace(HOST, cgroup_layout="v2")
    unified = {"memory.high": "50331648", "memory.oom.group": "1"}
    return replace(with_config(resources=Resources(cpu_shares=512, unified=unified)), host=v2)


def handler() -> ContainerInputs:
    """Annotations that are let through, hooks and a base spec of the handler."""
    asked = with_config(annotations={"example.com/a": "container", "run.oci.x": "1", "other": "1"})
    notes = (
        AddedHook(stage, "/usr/bin/note", ("note",), timeout=5) for stage in ("createRuntime", "poststop")
    )
    never = ContainerEdits(
        "hook file /etc/hooks/never.json", hooks=(AddedHook("prestart", "/usr/bin/never"),)
    )
    rules = (
        HookRule(ContainerEdits("hook file /etc/hooks/note.json", hooks=tuple(notes)), always=True),
        HookRule(never, commands=(re.compile("^other$"),)),
    )
    base = {
        "process": {"rlimits": [{"type": "RLIMIT_CORE", "soft": 0, "hard": 0}], "env": ["BASE=1", "A=base"]},
        "mounts": [{"destination": "/opt/tools", "type": "bind", "source": "/opt/tools", "options": ["ro"]}],
        "annotations": {"base": "yes"},
    }
    pod = asked.sandbox
    return replace(
        asked,
        sandbox=replace(pod, config=replace(pod.config, annotations={"example.com/b": "pod"})),
        options=HandlerSettings(annotations=("example.com/*",)),
        hook_rules=rules,
        base_spec=base,
    )


def node_defaults() -> ContainerInputs:
    """What the node gives: over it what the image, the container and an annotation say."""
    containers = ContainerDefaults(
        capabilities=("CHOWN", "NET_RAW"),
        devices=("/dev/fuse",),
        env={"A": "node", "PROXY": "http://proxy.example:3128"},
        mounts=(
            NodeMount("/etc/ssl/certs", "/etc/ssl/certs"),
            NodeMount("/opt/cache", "/cache", read_only=False),
        ),
        timezone="Europe/Berlin",
        ulimits={"nofile": "65536:131072", "core": "0", "memlock": "unlimited"},
        umask="027",
    )
    asked = with_config(
        mounts=(Mount("/cache", "/host/cache"),),
        security=ContainerSecurity(
            namespaces=OWN,
            capabilities=Capabilities(add=("KILL",), drop=("NET_RAW",)),
            seccomp=SecurityProfile(ProfileType.RUNTIME_DEFAULT),
        ),
    )
    pod = asked.sandbox
    annotations = {"io.kubernetes.cri-o.umask": "077", "io.crib.shm-size": "1Gi"}
    return replace(
        asked,
        sandbox=replace(pod, config=replace(pod.config, annotations=annotations)),
        node_mounts=node_mounts(containers),
        node_devices=(HostDevice("/dev/fuse", "c", 10, 229, 0o666, 0, 0),),
        default_seccomp=b'{"defaultAction": "SCMP_ACT_ALLOW"}',
        options=HandlerSettings(annotations=("io.kubernetes.cri-o.umask",), containers=containers),
    )


def host_namespaces() -> ContainerInputs:
    """A pod on the node's network and IPC whose containers share one pid namespace."""
    shared = NamespaceOptions(network=NamespaceMode.NODE, ipc=NamespaceMode.NODE)
    made = replace(with_security(namespaces=shared), sandbox=sandbox(shared))
    pod = replace(made.pod, net_namespace="", uts_namespace="", ipc_namespace="", shm="")
    return replace(made, pod=replace(pod, pid_namespace="/proc/7/ns/pid"))


def user_namespace() -> ContainerInputs:
    """A pod with a user namespace of its own."""
    ids = (IdMapping(host_id=65536, container_id=0, length=65536),)
    options = replace(OWN, userns=UserNamespace(NamespaceMode.POD, ids, ids))
    made = with_config(
        mounts=(Mount("/data", "/host/a", uid_mappings=ids, gid_mappings=ids),),
        security=ContainerSecurity(namespaces=options),
    )
    return replace(
        made,
        sandbox=sandbox(options),
        pod=replace(made.pod, user_namespace="/run/crib/sandboxes/5/ns/user"),
        mount_sources=("/run/crib/containers/c/images/shifted/0",),
        locked_options=(("nosuid",),),
        submounts=(("inner",),),
    )


def bare_image() -> ContainerInputs:
    """An image that says nothing: what is ours alone."""
    return replace(with_config(command=("/app",)), image=ImageConfig())


CASES = {
    "plain": inputs,
    "bare-image": bare_image,
    "process": process,
    "confined": confined,
    "privileged": privileged,
    "mounts": mounts,
    "devices": devices,
    "edits": edits,
    "plugins": plugins,
    "limits": limits,
    "limits-v2": limits_v2,
    "handler": handler,
    "node-defaults": node_defaults,
    "host-namespaces": host_namespaces,
    "user-namespace": user_namespace,
}


def text(document: object) -> str:
    """As the golden files are written: one line for each field."""
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


def main() -> None:
    """Write every golden file anew."""
    for name, case in CASES.items():
        made = case()
        (GOLDEN / f"{name}.json").write_text(text(json.loads(whole_document(made))))
        (GOLDEN / f"{name}.origins.json").write_text(text(origins(made)))


if __name__ == "__main__":
    main()
