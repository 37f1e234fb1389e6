"""Messages to values and back: what is taken, what is refused with which path, what is shown."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from crib.api.translate import checks, containers, images, sandboxes, security, stats, streams
from crib.api.translate.info import of_container
from crib.model.container import ContainerState, ExecResult, Mount
from crib.model.errors import InvalidRequest
from crib.model.sandbox import NamespaceMode, ProfileType, SandboxConfig, SandboxState
from crib.model.stats import (
    CgroupUsage,
    ContainerUsage,
    CpuUsage,
    IoUsage,
    MemoryUsage,
    PodUsage,
    Pressure,
    Stall,
    SwapUsage,
)
from crib.stubs.node.v1 import node_pb2
from crib.stubs.runtime.v1 import api_pb2 as pb
from tests.unit.api.fake_node import USAGE, container, image, sandbox

LINUX = "config.linux"
CONTEXT = "config.linux.security_context"


def pod(**changes: Any) -> pb.RunPodSandboxRequest:
    fields: dict[str, Any] = {"metadata": {"name": "p", "uid": "u", "namespace": "n"}}
    return pb.RunPodSandboxRequest(config=pb.PodSandboxConfig(**(fields | changes)))


def ctr(**changes: Any) -> pb.CreateContainerRequest:
    fields: dict[str, Any] = {"metadata": {"name": "c"}, "image": {"image": "busybox"}}
    config = pb.ContainerConfig(**(fields | changes))
    return pb.CreateContainerRequest(pod_sandbox_id="abcd", config=config)


def secured(**context: Any) -> pb.CreateContainerRequest:
    return ctr(linux={"security_context": context})


def mount(**changes: Any) -> pb.CreateContainerRequest:
    return ctr(mounts=[{"container_path": "/in", "host_path": "/h", **changes}])


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (pb.RunPodSandboxRequest(), "config"),
        (pb.RunPodSandboxRequest(config=pb.PodSandboxConfig()), "config.metadata"),
        (pod(metadata={"name": ""}), "config.metadata.name"),
        (pod(metadata={"name": "a/b"}), "config.metadata.name"),
        (pod(metadata={"name": ".."}), "config.metadata.name"),
        (pod(metadata={"name": "a\0"}), "config.metadata.name"),
        (pod(metadata={"name": "a" * 254}), "config.metadata.name"),
        (pod(metadata={"name": "a", "uid": "../x"}), "config.metadata.uid"),
        (pod(metadata={"name": "a", "namespace": "x/y"}), "config.metadata.namespace"),
        (pod(hostname="a" * 65), "config.hostname"),
        (pod(hostname="a_b"), "config.hostname"),
        (pod(hostname="-a"), "config.hostname"),
        (pod(hostname="."), "config.hostname"),
        (pod(hostname="a.."), "config.hostname"),
        (pod(hostname="a." + "b" * 62 + "."), "config.hostname"),
        (pod(log_directory="relative"), "config.log_directory"),
        (pod(log_directory="/var/../etc"), "config.log_directory"),
        (pod(log_directory="/a\0"), "config.log_directory"),
        (pod(log_directory="/" + "a" * 4096), "config.log_directory"),
        (pod(dns_config={"servers": ["1.1.1.1\nnameserver 6.6.6.6"]}), "config.dns_config.servers"),
        (pod(dns_config={"searches": ["a b"]}), "config.dns_config.searches"),
        (pod(dns_config={"options": [""]}), "config.dns_config.options"),
        (pod(port_mappings=[{"container_port": 0}]), "config.port_mappings[0].container_port"),
        (pod(port_mappings=[{"container_port": 65536}]), "config.port_mappings[0].container_port"),
        (pod(port_mappings=[{"container_port": 1, "host_port": -1}]), "config.port_mappings[0].host_port"),
        (pod(port_mappings=[{"container_port": 1, "protocol": 9}]), "config.port_mappings[0].protocol"),
        (pod(port_mappings=[{"container_port": 1, "host_ip": "1.2.3"}]), "config.port_mappings[0].host_ip"),
        (pod(port_mappings=[{"container_port": 1, "host_port": 5}] * 2), "config.port_mappings"),
        (pod(labels={"": "x"}), "config.labels"),
        (pod(labels={"a": "x" * (1 << 19)}, annotations={"b": "x" * (1 << 19)}), "config.labels"),
        (pod(linux={"cgroup_parent": "/a/../b"}), f"{LINUX}.cgroup_parent"),
        (pod(linux={"cgroup_parent": "/a\nb"}), f"{LINUX}.cgroup_parent"),
        (pod(linux={"cgroup_parent": "/a/tasks"}), f"{LINUX}.cgroup_parent"),
        (pod(linux={"cgroup_parent": "/memory.max/a"}), f"{LINUX}.cgroup_parent"),
        (pod(linux={"sysctls": {"../x": "1"}}), f"{LINUX}.sysctls['../x']"),
        (pod(linux={"sysctls": {"net/../../x": "1"}}), f"{LINUX}.sysctls['net/../../x']"),
        (pod(linux={"sysctls": {"/etc": "1"}}), f"{LINUX}.sysctls['/etc']"),
        (pod(linux={"sysctls": {"a b": "1"}}), f"{LINUX}.sysctls['a b']"),
        (pod(linux={"sysctls": {"kernel.x": "1\n2"}}), f"{LINUX}.sysctls['kernel.x']"),
        (pod(linux={"overhead": {"cpu_shares": -1}}), f"{LINUX}.overhead.cpu_shares"),
        (pod(linux={"resources": {"oom_score_adj": 1001}}), f"{LINUX}.resources.oom_score_adj"),
        (
            pod(linux={"security_context": {"namespace_options": {"network": 1}}}),
            f"{CONTEXT}.namespace_options.network",
        ),
        (
            pod(linux={"security_context": {"namespace_options": {"pid": 3}}}),
            f"{CONTEXT}.namespace_options.pid",
        ),
        (
            pod(linux={"security_context": {"namespace_options": {"ipc": 9}}}),
            f"{CONTEXT}.namespace_options.ipc",
        ),
        (pod(linux={"security_context": {"run_as_group": {"value": 1}}}), f"{CONTEXT}.run_as_group"),
    ],
)
def test_a_wrong_pod_is_refused_with_its_field(request_: pb.RunPodSandboxRequest, field: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        sandboxes.decode_run(request_)
    assert caught.value.field == field
    assert str(caught.value).startswith(f"{field}: ")


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (pb.CreateContainerRequest(), "pod_sandbox_id"),
        (pb.CreateContainerRequest(pod_sandbox_id="a" * 129), "pod_sandbox_id"),
        (pb.CreateContainerRequest(pod_sandbox_id="abcd"), "config"),
        (ctr(metadata=None), "config.metadata"),
        (ctr(metadata={"name": ""}), "config.metadata.name"),
        (ctr(metadata={"name": "../etc"}), "config.metadata.name"),
        (ctr(image=None), "config.image.image"),
        (ctr(command=["a\0b"]), "config.command"),
        (ctr(args=["\0"]), "config.args"),
        (ctr(working_dir="a/../b"), "config.working_dir"),
        (ctr(envs=[{"key": "", "value": b"x"}]), "config.envs[0].key"),
        (ctr(envs=[{"key": "a=b"}]), "config.envs[0].key"),
        (ctr(envs=[{"key": "a\0"}]), "config.envs[0].key"),
        (ctr(envs=[{"key": "a", "value": b"x\0y"}]), "config.envs[0].value"),
        (ctr(log_path="/abs.log"), "config.log_path"),
        (ctr(log_path="../x.log"), "config.log_path"),
        (ctr(log_path="a/../../x.log"), "config.log_path"),
        (ctr(log_path="."), "config.log_path"),
        (mount(container_path=""), "config.mounts[0].container_path"),
        (mount(container_path="/"), "config.mounts[0].container_path"),
        (mount(container_path="/../.."), "config.mounts[0].container_path"),
        (mount(host_path=""), "config.mounts[0].host_path"),
        (mount(host_path="rel"), "config.mounts[0].host_path"),
        (mount(host_path="/a/../b"), "config.mounts[0].host_path"),
        (mount(image={"image": "x"}), "config.mounts[0].host_path"),
        (mount(image_sub_path="x"), "config.mounts[0].image_sub_path"),
        (
            mount(host_path="", image={"image": "x"}, image_sub_path="../x", readonly=True),
            "config.mounts[0].image_sub_path",
        ),
        (mount(host_path="", image={"image": "x"}), "config.mounts[0].readonly"),
        (
            mount(host_path="", image={"image": "x"}, readonly=True, propagation=1),
            "config.mounts[0].propagation",
        ),
        (mount(propagation=7), "config.mounts[0].propagation"),
        (mount(recursive_read_only=True), "config.mounts[0].recursive_read_only"),
        (
            mount(recursive_read_only=True, readonly=True, propagation=1),
            "config.mounts[0].recursive_read_only",
        ),
        (mount(uidMappings=[{"length": 0}]), "config.mounts[0].uidMappings[0]"),
        (
            mount(gidMappings=[{"host_id": 4294967295, "length": 2}]),
            "config.mounts[0].gidMappings[0]",
        ),
        (
            ctr(
                mounts=[
                    {"container_path": "/a", "host_path": "/x"},
                    {"container_path": "a/", "host_path": "/y"},
                ]
            ),
            "config.mounts",
        ),
        (ctr(devices=[{"container_path": "a", "host_path": "/b"}]), "config.devices[0].container_path"),
        (ctr(devices=[{"container_path": "/a", "host_path": ""}]), "config.devices[0].host_path"),
        (
            ctr(devices=[{"container_path": "/a", "host_path": "/b", "permissions": "x"}]),
            "config.devices[0].permissions",
        ),
        (ctr(devices=[{"container_path": "/a", "host_path": "/b"}] * 2), "config.devices"),
        (ctr(CDI_devices=[{"name": "nonsense"}]), "config.CDI_devices[0].name"),
        (ctr(stop_signal=66), "config.stop_signal"),
        (secured(run_as_user={"value": -1}), f"{CONTEXT}.run_as_user"),
        (secured(run_as_user={"value": 1 << 32}), f"{CONTEXT}.run_as_user"),
        (secured(run_as_group={"value": 1}), f"{CONTEXT}.run_as_group"),
        (secured(run_as_user={"value": 1}, run_as_username="x"), f"{CONTEXT}.run_as_username"),
        (secured(supplemental_groups=[-1]), f"{CONTEXT}.supplemental_groups"),
        (secured(supplemental_groups_policy=2), f"{CONTEXT}.supplemental_groups_policy"),
        (
            secured(capabilities={"add_capabilities": ["SYS ADMIN"]}),
            f"{CONTEXT}.capabilities.add_capabilities",
        ),
        (secured(masked_paths=["proc"]), f"{CONTEXT}.masked_paths"),
        (secured(namespace_options={"pid": 3}), f"{CONTEXT}.namespace_options.target_id"),
        (secured(namespace_options={"target_id": "abcd"}), f"{CONTEXT}.namespace_options.target_id"),
        (secured(seccomp={"profile_type": 2}), f"{CONTEXT}.seccomp.localhost_ref"),
        (secured(seccomp={"profile_type": 2, "localhost_ref": "p"}), f"{CONTEXT}.seccomp.localhost_ref"),
        (secured(seccomp={"profile_type": 0, "localhost_ref": "/p"}), f"{CONTEXT}.seccomp.localhost_ref"),
        (secured(seccomp={"profile_type": 5}), f"{CONTEXT}.seccomp.profile_type"),
        (secured(seccomp_profile_path="nonsense"), f"{CONTEXT}.seccomp_profile_path"),
        (secured(seccomp_profile_path="localhost/../x"), f"{CONTEXT}.seccomp_profile_path"),
        (secured(apparmor_profile="localhost/"), f"{CONTEXT}.apparmor_profile"),
        (secured(selinux_options={"level": "s0 s1"}), f"{CONTEXT}.selinux_options"),
        (
            secured(namespace_options={"userns_options": {"mode": 1}}),
            f"{CONTEXT}.namespace_options.userns_options.mode",
        ),
        (
            secured(namespace_options={"userns_options": {"mode": 0}}),
            f"{CONTEXT}.namespace_options.userns_options.uids",
        ),
        (
            secured(namespace_options={"userns_options": {"mode": 0, "uids": [{"length": 1}] * 2}}),
            f"{CONTEXT}.namespace_options.userns_options.uids",
        ),
        (
            secured(
                namespace_options={
                    "userns_options": {"mode": 0, "uids": [{"container_id": 1, "length": 65536}]}
                }
            ),
            f"{CONTEXT}.namespace_options.userns_options.uids[0].container_id",
        ),
        (
            secured(
                namespace_options={
                    "userns_options": {
                        "mode": 0,
                        "uids": [{"host_id": 1000, "length": 65536}],
                        "gids": [{"host_id": 1000, "length": 65535}],
                    }
                }
            ),
            f"{CONTEXT}.namespace_options.userns_options.gids[0].length",
        ),
        (
            secured(namespace_options={"userns_options": {"mode": 0, "uids": [{"length": 65536}]}}),
            f"{CONTEXT}.namespace_options.userns_options.uids[0].host_id",
        ),
        (
            secured(
                namespace_options={
                    "userns_options": {
                        "mode": 0,
                        "uids": [{"host_id": 1000, "length": 65536}],
                        "gids": [{"host_id": 999, "length": 65536}],
                    }
                }
            ),
            f"{CONTEXT}.namespace_options.userns_options.gids[0].host_id",
        ),
        (
            secured(namespace_options={"userns_options": {"mode": 2, "gids": [{"length": 1}]}}),
            f"{CONTEXT}.namespace_options.userns_options.gids",
        ),
        (ctr(linux={"resources": {"cpu_period": -1}}), f"{LINUX}.resources.cpu_period"),
        (ctr(linux={"resources": {"cpuset_cpus": "0;1"}}), f"{LINUX}.resources.cpuset_cpus"),
        (
            ctr(linux={"resources": {"hugepage_limits": [{"page_size": "../x"}]}}),
            f"{LINUX}.resources.hugepage_limits[0].page_size",
        ),
        (
            ctr(linux={"resources": {"unified": {"../cgroup.procs": "1"}}}),
            f"{LINUX}.resources.unified['../cgroup.procs']",
        ),
    ],
)
def test_a_wrong_container_is_refused_with_its_field(request_: pb.CreateContainerRequest, field: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        containers.decode_create(request_)
    assert caught.value.field == field


@pytest.mark.parametrize(
    "target",
    [
        *("", "80", "tcp:", "tcp:0", "udp:65536", "sctp:1", "tcp:+1", "tcp:\u0661"),
        *("unix:/x", "unix:box:x", "unix::/x", "unix:box:/x\0", "unix:a/b:/x", "unix:box:/" + "x" * 5000),
    ],
)
def test_targets_of_connections_are_a_port_or_a_path(target: str) -> None:
    with pytest.raises(InvalidRequest, match=r"^targets\[1\]: "):
        streams.decode_forward(node_pb2.ForwardRequest(pod_sandbox_id="a", targets=["tcp:1", target]))


def exec_as(**fields: Any) -> node_pb2.ExecAsRequest:
    return node_pb2.ExecAsRequest(exec=pb.ExecRequest(container_id="abcd", cmd=["ls"]), **fields)


@pytest.mark.parametrize(
    ("decode", "request_", "field"),
    [
        (containers.decode_stop, pb.StopContainerRequest(container_id="a", timeout=-1), "timeout"),
        (containers.decode_exec_sync, pb.ExecSyncRequest(container_id="a"), "cmd"),
        (containers.decode_exec_sync, pb.ExecSyncRequest(container_id="a", cmd=[""]), "cmd"),
        (containers.decode_exec_sync, pb.ExecSyncRequest(container_id="a", cmd=["x"], timeout=-1), "timeout"),
        (streams.decode_exec, pb.ExecRequest(container_id="a"), "cmd"),
        (streams.decode_exec, pb.ExecRequest(container_id="a", cmd=["x\0"]), "cmd"),
        (streams.decode_exec, pb.ExecRequest(cmd=["x"]), "container_id"),
        (streams.decode_attach, pb.AttachRequest(), "container_id"),
        (streams.decode_port_forward, pb.PortForwardRequest(port=[1]), "pod_sandbox_id"),
        (streams.decode_port_forward, pb.PortForwardRequest(pod_sandbox_id="a", port=[1, 0]), "port[1]"),
        (streams.decode_port_forward, pb.PortForwardRequest(pod_sandbox_id="a", port=[65536]), "port[0]"),
        (streams.decode_port_forward, pb.PortForwardRequest(pod_sandbox_id="a", port=[1] * 1001), "port"),
        (streams.decode_exec_as, node_pb2.ExecAsRequest(), "exec.container_id"),
        (streams.decode_exec_as, exec_as(user="a\0b"), "user"),
        (streams.decode_exec_as, exec_as(working_dir="tmp"), "working_dir"),
        (streams.decode_exec_as, exec_as(envs=[pb.KeyValue(key="a=b")]), "envs[0].key"),
        (streams.decode_forward, node_pb2.ForwardRequest(targets=["tcp:1"]), "pod_sandbox_id"),
        (streams.decode_forward, node_pb2.ForwardRequest(pod_sandbox_id="a"), "targets"),
        (containers.decode_id, pb.StartContainerRequest(), "container_id"),
        (sandboxes.decode_id, pb.StopPodSandboxRequest(), "pod_sandbox_id"),
        (images.decode_pull, pb.PullImageRequest(), "image.image"),
        (images.decode_pull, pb.PullImageRequest(image=pb.ImageSpec(image="x" * 5000)), "image.image"),
        (
            sandboxes.decode_run,
            pb.RunPodSandboxRequest(config=pod().config, runtime_handler="../x"),
            "runtime_handler",
        ),
    ],
)
def test_other_wrong_requests_are_refused_with_their_field(decode: Any, request_: Any, field: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        decode(request_)
    assert caught.value.field == field


def test_the_smallest_pod_and_container_get_the_defaults() -> None:
    assert sandboxes.decode_run(pod()).config == SandboxConfig(sandboxes.decode_run(pod()).config.metadata)
    config = containers.decode_create(ctr()).config
    assert (config.name, config.image, config.mounts, config.security.seccomp) == ("c", "busybox", (), None)


def test_paths_are_made_clean() -> None:
    config = containers.decode_create(
        ctr(
            log_path="a//./b.log",
            working_dir="/w//x/",
            mounts=[{"container_path": "data/../in/", "host_path": "//h//x/"}],
        )
    ).config
    assert (config.log_path, config.working_dir) == ("a/b.log", "/w/x")
    assert config.mounts == (Mount(container_path="/in", host_path="/h/x"),)
    assert sandboxes.decode_run(pod(log_directory="/var//log/")).config.log_directory == "/var/log"


def test_a_relative_working_directory_counts_from_the_root() -> None:
    assert containers.decode_create(ctr(working_dir="w/x")).config.working_dir == "/w/x"


TERMINATION = {"io.kubernetes.container.terminationMessagePath": "/dev/termination-log"}


def mounts_at(*places: str) -> list[dict[str, str]]:
    return [{"container_path": place, "host_path": f"/h{n}"} for n, place in enumerate(places)]


def test_the_kubelets_file_for_the_termination_message_covers_a_volume_at_its_place() -> None:
    asked = mounts_at("/a", "/dev/termination-log", "/b", "/dev/termination-log")
    config = containers.decode_create(ctr(mounts=asked, annotations=TERMINATION)).config
    assert [(mount.container_path, mount.host_path) for mount in config.mounts] == [
        *(("/a", "/h0"), ("/b", "/h2"), ("/dev/termination-log", "/h3")),
    ]


@pytest.mark.parametrize(
    ("places", "annotations"),
    [
        (("/dev/termination-log", "/dev/termination-log"), {}),
        (("/dev/termination-log", "/dev/termination-log", "/b"), TERMINATION),
        (("/dev/termination-log",) * 3, TERMINATION),
        (("/a", "/a", "/dev/termination-log"), TERMINATION),
    ],
)
def test_other_mounts_at_one_place_stay_refused(places: tuple[str, ...], annotations: dict[str, str]) -> None:
    with pytest.raises(InvalidRequest, match=r"config\.mounts: container_path .* appears twice"):
        containers.decode_create(ctr(mounts=mounts_at(*places), annotations=annotations))


def test_the_last_of_two_variables_with_one_name_counts() -> None:
    envs = [{"key": "A", "value": b"1"}, {"key": "B", "value": b"\xff"}, {"key": "A", "value": b"2"}]
    assert containers.decode_create(ctr(envs=envs)).config.envs == (("A", b"2"), ("B", b"\xff"))


def test_capabilities_lose_prefix_and_case() -> None:
    capabilities = security.capabilities(
        pb.Capability(add_capabilities=["cap_net_raw", "ALL"], drop_capabilities=["Chown"]), "c"
    )
    assert (capabilities.add, capabilities.drop) == (("NET_RAW", "ALL"), ("CHOWN",))


@pytest.mark.parametrize(
    ("text", "kind", "reference"),
    [
        ("runtime/default", ProfileType.RUNTIME_DEFAULT, ""),
        ("docker/default", ProfileType.RUNTIME_DEFAULT, ""),
        ("unconfined", ProfileType.UNCONFINED, ""),
        ("localhost//p.json", ProfileType.LOCALHOST, "/p.json"),
    ],
)
def test_the_deprecated_seccomp_path_is_read_where_the_newer_field_is_unset(
    text: str, kind: ProfileType, reference: str
) -> None:
    old = pb.LinuxContainerSecurityContext(seccomp_profile_path=text)
    found = security.seccomp(old, "c")
    assert found is not None
    assert (found.kind, found.localhost_ref) == (kind, reference)
    old.seccomp.profile_type = pb.SecurityProfile.Unconfined
    newer = security.seccomp(old, "c")
    assert newer is not None
    assert newer.kind == ProfileType.UNCONFINED


@pytest.mark.parametrize(
    ("text", "kind", "reference"),
    [
        ("runtime/default", ProfileType.RUNTIME_DEFAULT, ""),
        ("unconfined", ProfileType.UNCONFINED, ""),
        ("localhost/mine", ProfileType.LOCALHOST, "mine"),
    ],
)
def test_the_deprecated_apparmor_name_is_read_where_the_newer_field_is_unset(
    text: str, kind: ProfileType, reference: str
) -> None:
    old = pb.LinuxContainerSecurityContext(apparmor_profile=text)
    found = security.apparmor(old, "c")
    assert found is not None
    assert (found.kind, found.localhost_ref) == (kind, reference)
    old.apparmor.profile_type = pb.SecurityProfile.Localhost
    old.apparmor.localhost_ref = "localhost/newer"
    newer = security.apparmor(old, "c")
    assert newer is not None
    assert (newer.kind, newer.localhost_ref) == (ProfileType.LOCALHOST, "localhost/newer")


def test_a_port_may_come_twice_when_it_is_not_published() -> None:
    ports = [{"container_port": 80}, {"container_port": 80}, {"container_port": 81, "host_port": 8080}]
    assert len(sandboxes.decode_run(pod(port_mappings=ports)).config.port_mappings) == 3


def test_what_is_decoded_is_shown_again() -> None:
    options = {
        "network": 2,
        "pid": 1,
        "userns_options": {
            "mode": 0,
            "uids": [{"host_id": 65536, "length": 65536}],
            "gids": [{"host_id": 65536, "length": 65536}],
        },
    }
    config = sandboxes.decode_run(pod(linux={"security_context": {"namespace_options": options}})).config
    status = sandboxes.encode_status(sandbox(config=config))
    assert status.linux.namespaces.options == pb.NamespaceOption(**options)  # type: ignore[arg-type]  # protobuf takes dicts
    mounts = [
        {"container_path": "/a", "host_path": "/h", "readonly": True, "recursive_read_only": True},
        {
            "container_path": "/b",
            "image": {"image": "i", "user_specified_image": "name:1"},
            "image_sub_path": "s",
            "readonly": True,
            "mount_options": ["noexec"],
        },
        {"container_path": "/c", "host_path": "/h", "propagation": 2, "uidMappings": [{"length": 1}]},
    ]
    resources = {
        "cpu_quota": -1,
        "hugepage_limits": [{"page_size": "2MB", "limit": 5}],
        "unified": {"a.b": "1"},
    }
    made = containers.decode_create(ctr(mounts=mounts, linux={"resources": resources}, stop_signal=15)).config
    shown = containers.encode_status(container(config=made, resources=made.resources))
    assert list(shown.mounts) == [pb.Mount(**m) for m in mounts]  # type: ignore[arg-type]  # protobuf takes dicts
    assert shown.resources.linux == pb.LinuxContainerResources(**resources)  # type: ignore[arg-type]  # protobuf takes dicts
    assert shown.stop_signal == 15


def test_one_dot_may_end_a_host_name_and_is_kept() -> None:
    assert sandboxes.decode_run(pod(hostname="web.default.svc.")).config.hostname == "web.default.svc."


def test_output_is_cut_so_that_a_kubelet_can_receive_it_and_neither_stream_crowds_out_the_other() -> None:
    mib = 1 << 20
    for out, err, kept_out, kept_err in (
        (16 * mib, 16 * mib, 8, 8),
        (16 * mib, 3 * mib, 13, 3),
        (1 * mib, 16 * mib, 1, 15),
        (7 * mib, 7 * mib, 7, 7),
    ):
        answer = containers.encode_exec_sync(ExecResult(3, b"o" * out, b"e" * err))
        assert answer.ByteSize() <= 16 * mib, "a kubelet takes no message that is longer"
        assert [round(len(part) / mib) for part in (answer.stdout, answer.stderr)] == [kept_out, kept_err]
        assert answer.exit_code == 3


def test_a_cdi_device_may_come_twice_as_a_kubelet_sends_it() -> None:
    named = [{"name": "v/c=d"}, {"name": "v/c=e"}, {"name": "v/c=d"}]
    assert set(containers.decode_create(ctr(CDI_devices=named)).config.cdi_devices) == {"v/c=d", "v/c=e"}


def test_a_limit_below_minus_one_is_none_as_a_kubelet_sends_it_for_a_pod_with_overhead() -> None:
    odd = {
        "cpu_quota": -10_001,
        "memory_limit_in_bytes": -(64 << 20) - 1,
        "memory_swap_limit_in_bytes": -2,
        "cpu_period": 100_000,
    }
    of_pod = pb.UpdatePodSandboxResourcesRequest(pod_sandbox_id="a", resources=odd)  # type: ignore[arg-type]  # protobuf takes dicts
    of_container = pb.UpdateContainerResourcesRequest(container_id="a", linux=odd)  # type: ignore[arg-type]  # protobuf takes dicts
    for found in (
        sandboxes.decode_update(of_pod).resources,
        containers.decode_update(of_container).change,
        containers.decode_create(ctr(linux={"resources": odd})).config.resources,
    ):
        assert found is not None
        assert (found.cpu_quota, found.memory_limit_in_bytes, found.memory_swap_limit_in_bytes) == (
            -1,
            -1,
            -1,
        )


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"exit_code": 0}, "Completed"),
        ({"exit_code": 1}, "Error"),
        ({"exit_code": 137, "reason": "OOMKilled"}, "OOMKilled"),
        ({"state": ContainerState.RUNNING}, ""),
    ],
)
def test_an_exited_container_always_says_why(changes: dict[str, Any], reason: str) -> None:
    record = container(**({"state": ContainerState.EXITED} | changes))
    assert containers.encode_status(record).reason == reason


def test_a_container_shows_names_signal_and_user() -> None:
    status = containers.encode_status(container())
    assert (status.image.image, status.image_ref) == ("busybox", container().image_ref)
    assert status.image_id == container().image_id
    assert status.stop_signal == pb.Signal.SIGNAL_SIGTERM
    assert (status.user.linux.uid, list(status.user.linux.supplemental_groups)) == (1000, [1000])
    assert not containers.encode_status(container(user=None)).HasField("user")


@pytest.mark.parametrize("state", list(ContainerState))
def test_every_state_of_a_container_has_a_word(state: ContainerState) -> None:
    expected = {"created": 0, "running": 1, "exited": 2}.get(state.value, 3)
    assert containers.encode(container(state=state)).state == expected


@pytest.mark.parametrize("state", list(SandboxState))
def test_every_state_of_a_sandbox_has_a_word(state: SandboxState) -> None:
    assert sandboxes.encode(sandbox(state=state)).state == (0 if state == SandboxState.READY else 1)


def test_a_pod_on_the_hosts_network_shows_no_address() -> None:
    config = sandboxes.decode_run(
        pod(linux={"security_context": {"namespace_options": {"network": NamespaceMode.NODE}}})
    ).config
    assert not sandboxes.encode_status(sandbox(config=config)).network.ip


@pytest.mark.parametrize(
    ("text", "uid", "name"),
    [
        ("", None, ""),
        ("0", 0, ""),
        ("1000:1000", 1000, ""),
        ("nobody", None, "nobody"),
        ("nobody:nogroup", None, "nobody"),
        ("4294967294", 4294967294, ""),
        ("4294967295", None, "4294967295"),
        ("4294967296", None, "4294967296"),
        ("-1", None, "-1"),
        ("9" * 5000, None, "9" * 5000),
        ("١", None, "١"),
        (":5", None, ""),
    ],
)
def test_an_images_user_is_a_uid_of_32_bits_or_a_name(text: str, uid: int | None, name: str) -> None:
    assert images.user(text) == (uid, name)


def test_an_image_without_user_shows_none() -> None:
    shown = images.encode(image(config=image().config.__class__()))
    assert not shown.HasField("uid")
    assert shown.size == 4096


def test_info_is_json_even_with_binary_variables() -> None:
    made = containers.decode_create(ctr(envs=[{"key": "A", "value": b"\xff"}])).config
    assert '"A", "�"' in of_container(container(config=made), b"")["info"]


def test_figures_of_a_container_carry_their_time() -> None:
    shown = stats.encode_container(USAGE, None)
    assert (shown.cpu.timestamp, shown.memory.timestamp, shown.writable_layer.timestamp) == (7, 7, 7)


def test_swap_pressure_and_io_are_shown_and_absent_when_they_are_not_known() -> None:
    waited = Pressure(Stall(1.5, 0.25, 0.01, 12_000), Stall(0.5, 0.0, 0.0, 7_000))
    cgroup = CgroupUsage(
        CpuUsage(7, 100, Pressure(waited.some)),
        MemoryUsage(7, 50, 40, 30, 2, 1, pressure=waited),
        swap=SwapUsage(7, 3, 9),
        io=IoUsage(7, waited),
    )
    some = pb.PsiData(Total=12_000, Avg10=1.5, Avg60=0.25, Avg300=0.01)
    both = pb.PsiStats(Some=some, Full=pb.PsiData(Total=7_000, Avg10=0.5))
    swap = pb.SwapUsage(timestamp=7)
    swap.swap_available_bytes.value, swap.swap_usage_bytes.value = 9, 3
    shown = stats.encode_container(ContainerUsage(cgroup), 5)
    assert (shown.cpu.psi, shown.memory.psi) == (pb.PsiStats(Some=some), both)
    assert (shown.swap, shown.io) == (swap, pb.IoUsage(timestamp=7, psi=both))
    of_pod = stats.encode_pod(sandbox(), PodUsage(cgroup), 5)
    assert (of_pod.cpu.psi, of_pod.memory.psi, of_pod.io) == (shown.cpu.psi, shown.memory.psi, shown.io)
    bare = stats.encode_container(USAGE, None)
    absent: tuple[tuple[Any, str], ...] = (
        (bare, "swap"),
        (bare, "io"),
        (bare.cpu, "psi"),
        (bare.memory, "psi"),
    )
    for part, field in absent:
        assert not part.HasField(field)
    assert not stats.encode_pod(sandbox(), PodUsage(USAGE.cgroup), None).HasField("io")


@given(st.text(max_size=50))
def test_a_clean_inside_path_never_leads_out(text: str) -> None:
    try:
        clean = checks.inside(text, "f")
    except InvalidRequest:
        return
    assert not clean.startswith("/")
    assert ".." not in clean.split("/")
    assert "\0" not in clean


@given(st.text(alphabet="./a\0", max_size=20))
def test_absolute_and_in_container_paths_are_absolute_and_clean(text: str) -> None:
    for check in (checks.absolute, checks.in_container):
        try:
            clean = check(text, "f")
        except InvalidRequest:
            continue
        assert clean.startswith("/")
        assert not {"..", "."} & set(clean.split("/"))
        assert "//" not in clean


@given(st.binary(max_size=400))
def test_random_bytes_are_decoded_or_refused_and_nothing_else(data: bytes) -> None:
    decoders: list[tuple[Any, Any]] = [
        (pb.RunPodSandboxRequest, sandboxes.decode_run),
        (pb.CreateContainerRequest, containers.decode_create),
    ]
    for kind, decode in decoders:
        try:
            message = kind.FromString(data)
        except DecodeError:
            continue
        with suppress(InvalidRequest):
            decode(message)
