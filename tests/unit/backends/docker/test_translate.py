"""A spec in the Engine's words: each field is carried over, is the Engine's anyway, or is refused by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from crib.backends.docker.mounts import flagged_binds, needs_privileges
from crib.backends.docker.translate import (
    EngineDevice,
    EnginePlan,
    engine_container,
    permissions_of,
    plain_limits,
)
from crib.model.errors import InvalidRequest
from crib.wire import oci_runtime as oci

POD = "/run/crib/sandboxes"
NET, IPC = "/ns/net", "/ns/ipc"


def spec(**linux: Any) -> oci.Spec:
    return oci.Spec(
        oci_version="1.0.2",
        process=oci.Process(
            user=oci.User(7, 8, (9, 10)), args=("/bin/app", "-x", "y"), cwd="/work", env=("A=b",)
        ),
        root=oci.Root("/root"),
        linux=oci.Linux(**linux),
    )


def plan(made: oci.Spec, **more: Any) -> EnginePlan:
    values: dict[str, Any] = {
        "image": "sha256:1",
        "joined": {NET: "container:crib-p", IPC: "container:crib-p"},
        "cgroup_parent": "/crib/p/c",
        "labels": {"io.crib.owner": "o"},
        "api": (1, 41),
        "log": {"Type": "none"},
        "pod_files": POD,
    }
    return EnginePlan(spec=made, **{**values, **more})


def host(made: oci.Spec, **more: Any) -> dict[str, Any]:
    found = engine_container(plan(made, **more))["HostConfig"]
    assert isinstance(found, dict)
    return found


def with_process(**changes: Any) -> oci.Spec:
    made = spec()
    return msgspec.structs.replace(made, process=msgspec.structs.replace(made.process, **changes))


SECCOMP = oci.Seccomp("SCMP_ACT_ERRNO", syscalls=(oci.SeccompRule(("read",), "SCMP_ACT_ALLOW"),))

CARRIED: dict[str, tuple[oci.Spec, Callable[[dict[str, Any]], object], object]] = {
    "Process.args": (spec(), lambda body: (body["Entrypoint"], body["Cmd"]), (["/bin/app"], ["-x", "y"])),
    "Process.cwd": (spec(), lambda body: body["WorkingDir"], "/work"),
    "Process.env": (spec(), lambda body: body["Env"], ["A=b"]),
    "Process.terminal": (with_process(terminal=True), lambda body: body["Tty"], True),
    "User.uid": (spec(), lambda body: body["User"], "7:8"),
    "User.gid": (spec(), lambda body: body["User"], "7:8"),
    "User.additional_gids": (spec(), lambda body: body["HostConfig"]["GroupAdd"], ["9", "10"]),
    "Process.capabilities": (
        with_process(capabilities=oci.Capabilities(bounding=("CAP_KILL",))),
        lambda body: (body["HostConfig"]["CapDrop"], body["HostConfig"]["CapAdd"]),
        (["ALL"], ["KILL"]),
    ),
    "Process.rlimits": (
        with_process(rlimits=(oci.Rlimit("RLIMIT_NOFILE", hard=(1 << 64) - 1, soft=10),)),
        lambda body: body["HostConfig"]["Ulimits"],
        [{"Name": "nofile", "Soft": 10, "Hard": -1}],
    ),
    "Process.no_new_privileges": (
        with_process(no_new_privileges=True),
        lambda body: body["HostConfig"]["SecurityOpt"],
        ["no-new-privileges:true", "seccomp=unconfined"],
    ),
    "Process.oom_score_adj": (
        with_process(oom_score_adj=-5),
        lambda body: body["HostConfig"]["OomScoreAdj"],
        -5,
    ),
    "Process.apparmor_profile": (
        with_process(apparmor_profile="crib-default"),
        lambda body: body["HostConfig"]["SecurityOpt"],
        ["seccomp=unconfined", "apparmor=crib-default"],
    ),
    "Process.selinux_label": (
        with_process(selinux_label="system_u:system_r:container_t:s0:c1,c2"),
        lambda body: body["HostConfig"]["SecurityOpt"][1:],
        ["label=user:system_u", "label=role:system_r", "label=type:container_t", "label=level:s0:c1,c2"],
    ),
    "Root.readonly": (
        msgspec.structs.replace(spec(), root=oci.Root("/root", readonly=True)),
        lambda body: body["HostConfig"]["ReadonlyRootfs"],
        True,
    ),
    "Linux.seccomp": (
        spec(seccomp=SECCOMP),
        lambda body: json.loads(body["HostConfig"]["SecurityOpt"][0].removeprefix("seccomp=")),
        json.loads(oci.encode(SECCOMP)),
    ),
    "Linux.masked_paths": (
        spec(masked_paths=("/a",)),
        lambda body: body["HostConfig"]["MaskedPaths"],
        ["/a"],
    ),
    "Linux.readonly_paths": (
        spec(readonly_paths=("/a",)),
        lambda body: body["HostConfig"]["ReadonlyPaths"],
        ["/a"],
    ),
    "Linux.sysctl": (spec(sysctl={"a.b": "1"}), lambda body: body["HostConfig"]["Sysctls"], {"a.b": "1"}),
    "Linux.cgroups_path": (spec(), lambda body: body["HostConfig"]["CgroupParent"], "/crib/p/c"),
    "Linux.namespaces": (
        spec(
            namespaces=(
                oci.Namespace("mount"),
                oci.Namespace("network", NET),
                oci.Namespace("uts", "/ns/uts"),
                oci.Namespace("ipc", IPC),
                oci.Namespace("pid"),
                oci.Namespace("cgroup"),
            )
        ),
        lambda body: [
            body["HostConfig"][f"{kind}Mode"] for kind in ("Network", "Ipc", "Pid", "UTS", "Cgroupns")
        ],
        ["container:crib-p", "container:crib-p", "", "", "private"],
    ),
    "Resources.devices": (
        spec(
            resources=oci.Resources(
                devices=(
                    oci.DeviceRule(allow=False),
                    oci.DeviceRule(allow=True, type="c", major=1, minor=3, access="rw"),
                    oci.DeviceRule(allow=True, type="b", access="m"),
                )
            )
        ),
        lambda body: body["HostConfig"]["DeviceCgroupRules"],
        ["c 1:3 rw", "b *:* m"],
    ),
    "Spec.mounts": (
        msgspec.structs.replace(
            spec(),
            mounts=(
                oci.Mount("/proc", "proc", "proc"),
                oci.Mount("/data", "bind", "/host", ("rbind", "rslave", "ro")),
                oci.Mount("/run", "tmpfs", "tmpfs", ("nosuid", "size=1k")),
            ),
        ),
        lambda body: (
            [
                (one["Source"], one["Target"], one["ReadOnly"], one["BindOptions"])
                for one in body["HostConfig"]["Mounts"]
            ],
            body["HostConfig"]["Tmpfs"],
        ),
        ([("/host", "/data", True, {"Propagation": "rslave"})], {"/run": "nosuid,size=1k"}),
    ),
}
"""Field of the spec, a spec with it, where it is in the body, and what is there."""

REFUSED: dict[str, tuple[oci.Spec, str]] = {
    "Capabilities.ambient": (
        with_process(capabilities=oci.Capabilities(("CAP_KILL",), ambient=("CAP_KILL",))),
        "linux.security_context.capabilities.add_ambient_capabilities",
    ),
    "User.umask": (with_process(user=oci.User(0, 0, umask=0o77)), "annotations"),
    "Seccomp.listener_path": (
        spec(seccomp=msgspec.structs.replace(SECCOMP, listener_path="/x")),
        "linux.security_context.seccomp",
    ),
    "Spec.hooks": (msgspec.structs.replace(spec(), hooks=oci.Hooks(poststop=(oci.Hook("/x"),))), ""),
    "Resources.block_io": (spec(resources=oci.Resources(block_io=oci.BlockIo(weight=5))), "annotations"),
    "Linux.intel_rdt": (spec(intel_rdt=oci.IntelRdt("a")), ""),
    "Linux.net_devices": (spec(net_devices={"eth9": oci.NetDevice("x")}), ""),
    "Linux.memory_policy": (spec(memory_policy=oci.MemoryPolicy("MPOL_BIND")), ""),
    "Process.scheduler": (with_process(scheduler=oci.Scheduler("SCHED_FIFO")), ""),
    "Process.io_priority": (with_process(io_priority=oci.IoPriority("IOPRIO_CLASS_RT")), ""),
    "Linux.uid_mappings": (
        spec(uid_mappings=(oci.IdMapping(0, 1, 1),)),
        "linux.security_context.namespace_options.userns_options",
    ),
    "Linux.gid_mappings": (
        spec(gid_mappings=(oci.IdMapping(0, 1, 1),)),
        "linux.security_context.namespace_options.userns_options",
    ),
}
"""Field of the spec, a spec with it, and the field of the CRI that is blamed."""

ITS_OWN = {
    "Spec.oci_version": "the Engine writes the spec",
    "Spec.process": "its fields are in this table",
    "Spec.root": "its fields are in this table",
    "Spec.linux": "its fields are in this table",
    "Spec.hostname": "the pod's own container has it, and who joins its network gets it",
    "Process.user": "its fields are in this table",
    "Root.path": "the Engine mounts a root of the same layers",
    "Capabilities.bounding": "in Process.capabilities",
    "Capabilities.effective": "as bounding; the Engine takes from who is not root what the kernel would",
    "Capabilities.permitted": "as bounding, likewise",
    "Capabilities.inheritable": "empty unless there are ambient ones",
    "Linux.rootfs_propagation": "the Engine makes it by the propagation of the mounts",
    "Linux.mount_label": "the Engine makes it by the level of the process's label",
    "Linux.resources": "files of the cgroup, written before the start (`plain_limits`), but for devices",
    "Linux.devices": "nodes of ours that the Engine copies (`EngineDevice`)",
    "Resources.memory": "a file of the cgroup",
    "Resources.cpu": "a file of the cgroup",
    "Resources.pids": "a file of the cgroup",
    "Resources.hugepage_limits": "a file of the cgroup",
    "Resources.unified": "files of the cgroup",
    "Spec.annotations": "from API 1.43 on; the Engine's runtime gets none before",
}
SHAPES = (oci.Spec, oci.Process, oci.User, oci.Capabilities, oci.Root, oci.Linux, oci.Resources)


def test_every_field_of_a_spec_is_accounted_for() -> None:
    known = {*CARRIED, *REFUSED, *ITS_OWN, "Seccomp.listener_path"}
    every = {f"{shape.__name__}.{name}" for shape in SHAPES for name in shape.__struct_fields__}
    assert every - known == set()
    assert {name for name in known if not name.startswith("Seccomp.")} - every == set()


@pytest.mark.parametrize("field", CARRIED)
def test_a_field_is_carried_over(field: str) -> None:
    made, read, expected = CARRIED[field]
    assert read(engine_container(plan(made))) == expected


@pytest.mark.parametrize("field", REFUSED)
def test_a_field_that_the_engine_does_not_have_is_refused_by_name(field: str) -> None:
    made, blamed = REFUSED[field]
    with pytest.raises(InvalidRequest, match="Docker's Engine cannot do this") as caught:
        engine_container(plan(made))
    assert caught.value.field == blamed


def test_limits_are_for_the_cgroup_and_devices_are_not() -> None:
    limits = oci.Resources(
        devices=(oci.DeviceRule(allow=False),),
        memory=oci.Memory(limit=5),
        hugepage_limits=(oci.HugepageLimit("2MB", 0),),
    )
    made = spec(resources=limits)
    assert plain_limits(made) == msgspec.structs.replace(limits, devices=())
    assert not any(name.startswith(("Memory", "Cpu", "Pids")) for name in host(made))


def test_nodes_of_ours_stand_for_devices_with_what_the_rules_allow() -> None:
    device = oci.Device("/dev/fuse", "c", 10, 229)
    rules = (
        oci.DeviceRule(allow=False),
        oci.DeviceRule(allow=True, type="c", access="m"),
        oci.DeviceRule(allow=True, type="c", major=10, minor=229, access="r"),
        oci.DeviceRule(allow=True, type="b", major=10, minor=229, access="w"),
    )
    made = spec(resources=oci.Resources(devices=rules))
    assert permissions_of(made, device) == "rm"
    found = host(made, devices=[EngineDevice("/b/0", "/dev/fuse", "rm")])
    assert found["Devices"] == [
        {"PathOnHost": "/b/0", "PathInContainer": "/dev/fuse", "CgroupPermissions": "rm"}
    ]


def test_a_privileged_container_is_the_engine_s_own() -> None:
    found = host(spec(resources=oci.Resources(devices=(oci.DeviceRule(allow=True),))), privileged=True)
    assert found["Privileged"]
    assert not {"CapAdd", "CapDrop", "MaskedPaths", "DeviceCgroupRules"} & found.keys()
    assert found["SecurityOpt"] == []


def test_an_old_engine_gets_all_capabilities_that_it_knows_and_no_others_by_name() -> None:
    held = ("CAP_BPF", "CAP_KILL", "CAP_PERFMON")
    made = with_process(capabilities=oci.Capabilities(bounding=held))
    assert host(made, capabilities=("ALL",))["CapAdd"] == ["KILL"]
    assert host(made, capabilities=("BPF",), api=(1, 42))["CapAdd"] == ["BPF", "KILL", "PERFMON"]
    with pytest.raises(InvalidRequest, match="does not know BPF") as caught:
        host(made, capabilities=("KILL", "cap_bpf"))
    assert caught.value.field == "linux.security_context.capabilities.add_capabilities"


def test_namespaces_that_are_not_named_are_the_host_s() -> None:
    found = host(spec())
    modes = [found[f"{kind}Mode"] for kind in ("Network", "Ipc", "Pid", "UTS", "Cgroupns")]
    assert modes == ["host"] * 5


def test_flags_without_a_word_are_on_mounts_of_ours_or_refused() -> None:
    mounts = (
        oci.Mount("/etc/hosts", "bind", f"{POD}/p/hosts", ("rbind", "rw", "nosuid", "noexec")),
        oci.Mount("/a", "bind", "/host/a", ("rbind", "rprivate", "ro", "rro")),
        oci.Mount("/b", "bind", "/host/b", ("rbind", "ro", "nosuid", "nodev")),
        oci.Mount("/c", "bind", "/host/c", ("rbind", "ro")),
        oci.Mount("/dev/shm", "bind", "/dev/shm", ("rbind", "rw", "noexec")),
    )
    found = list(flagged_binds(mounts, POD))
    assert [(one.destination, one.recursive_read_only, one.no_suid_dev) for one in found] == [
        ("/a", True, False),
        ("/b", False, True),
    ]
    made = msgspec.structs.replace(spec(), mounts=mounts)
    bound = {one["Target"]: one for one in host(made, binds={"/a": "/ours/0", "/b": "/ours/1"})["Mounts"]}
    assert bound["/a"]["Source"] == "/ours/0"
    assert not bound["/a"]["ReadOnly"], "the mount of ours is, and a remount would drop its other flags"
    assert bound["/c"]["ReadOnly"]
    assert "/dev/shm" not in bound, "it goes with the host's IPC"
    with pytest.raises(InvalidRequest, match="noexec of the mount at /d"):
        list(flagged_binds((oci.Mount("/d", "bind", "/host/d", ("rbind", "noexec")),), POD))


def test_a_newer_engine_is_told_that_read_only_is_not_recursive_and_gets_annotations() -> None:
    made = msgspec.structs.replace(
        spec(), mounts=(oci.Mount("/c", "bind", "/c", ("rbind", "ro")),), annotations={"a": "b"}
    )
    found = host(made, api=(1, 44))
    assert found["Mounts"][0]["BindOptions"]["ReadOnlyNonRecursive"]
    assert found["Annotations"] == {"a": "b"}
    assert "Annotations" not in host(made)


def test_cgroups_that_may_be_written_to_need_a_privileged_container() -> None:
    sys = oci.Mount("/sys", "sysfs", "sysfs", ("ro",))
    cgroups = oci.Mount("/sys/fs/cgroup", "cgroup", "cgroup", ("nosuid",))
    assert needs_privileges((sys, cgroups))
    with pytest.raises(InvalidRequest, match="systemd") as caught:
        host(msgspec.structs.replace(spec(), mounts=(sys, cgroups)))
    assert caught.value.field == "linux.security_context.privileged"
