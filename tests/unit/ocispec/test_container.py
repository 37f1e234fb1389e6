from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from crib.model.container import ContainerSecurity, Device, Mount, MountPropagation
from crib.model.errors import RRO_UNSUPPORTED, Broken, InvalidRequest
from crib.model.sandbox import NamespaceMode, NamespaceOptions, Resources
from crib.ocispec.container import container_spec
from crib.ocispec.devices import device_nodes, device_rules
from crib.ocispec.inputs import HostDevice
from crib.ocispec.mounts import mounts, rootfs_propagation
from crib.ocispec.namespaces import namespaces
from crib.ocispec.resources import resources
from crib.wire.oci_runtime import decode_process, encode
from tests.unit.ocispec.inputs_for_tests import HANDLER, HOST, inputs, sandbox, with_config, with_security

GOLDEN = Path(__file__).parents[2] / "golden" / "ocispec"


def test_plain_container_is_as_written_down() -> None:
    made = json.loads(encode(container_spec(inputs())))
    assert made == json.loads((GOLDEN / "plain.json").read_text())


def test_process_can_be_read_back() -> None:
    spec = container_spec(inputs())
    assert decode_process(encode(spec)) == spec.process


def test_users_annotations_do_not_reach_the_runtime() -> None:
    spec = container_spec(with_config(annotations={"run.oci.keep_original_groups": "1"}))
    assert not [key for key in spec.annotations if key.startswith("run.oci")]


def spaces(shared: NamespaceOptions, container: NamespaceOptions, **changes: Any) -> dict[str, str]:
    made = replace(
        with_config(security=ContainerSecurity(namespaces=container)), sandbox=sandbox(shared), **changes
    )
    return {space.type: space.path for space in namespaces(made)}


def test_namespaces_follow_pod_and_container() -> None:
    own = NamespaceOptions(pid=NamespaceMode.CONTAINER)
    assert spaces(own, own) == {
        "mount": "",
        "network": "/run/crib/sandboxes/5/ns/net",
        "uts": "/run/crib/sandboxes/5/ns/uts",
        "ipc": "/run/crib/sandboxes/5/ns/ipc",
        "pid": "",
    }
    node = NamespaceOptions(NamespaceMode.NODE, NamespaceMode.NODE, NamespaceMode.NODE)
    assert spaces(node, node) == {"mount": ""}
    shared = NamespaceOptions()
    infra = replace(inputs().pod, pid_namespace="/proc/7/ns/pid")
    assert spaces(shared, shared, pod=infra)["pid"] == "/proc/7/ns/pid"
    assert spaces(own, shared)["pid"] == ""
    with pytest.raises(Broken, match="infra"):
        spaces(shared, shared)


def test_target_must_run() -> None:
    target = NamespaceOptions(pid=NamespaceMode.TARGET, target_id="t")
    own = NamespaceOptions(pid=NamespaceMode.CONTAINER)
    assert spaces(own, target, target_pid=9)["pid"] == "/proc/9/ns/pid"
    with pytest.raises(InvalidRequest, match="target_id"):
        spaces(own, target)


def test_on_a_kernel_of_the_pods_own_containers_share_pids_by_equal_paths() -> None:
    inside = replace(HANDLER, own_kernel=True)
    own, shared = NamespaceOptions(pid=NamespaceMode.CONTAINER), NamespaceOptions()
    target = NamespaceOptions(pid=NamespaceMode.TARGET, target_id=inputs().id)
    assert spaces(own, own, handler=inside)["pid"] == spaces(own, target, handler=inside)["pid"] != ""
    assert "pid" not in spaces(shared, shared, handler=inside)
    assert "pid" not in spaces(shared, target, handler=inside)


def test_cgroup_namespace_is_private_on_v2_only() -> None:
    v2 = replace(HOST, cgroup_layout="v2")
    assert "cgroup" in [space.type for space in namespaces(inputs(host=v2))]
    privileged = replace(with_security(privileged=True), host=v2)
    assert "cgroup" not in [space.type for space in namespaces(privileged)]


def test_mounts_are_sorted_so_that_none_hides_another() -> None:
    asked = (Mount("/data/a/b", "/x"), Mount("/data", "/y"), Mount("relative/../etc/hosts", "/h"))
    made = mounts(with_config(mounts=asked))
    order = [mount.destination for mount in made]
    assert order.index("/data") < order.index("/data/a/b")
    assert order.index("/proc") < order.index("/dev/shm") < order.index("/sys/fs/cgroup")
    assert order.count("/etc/hosts") == 1
    (hosts,) = [mount for mount in made if mount.destination == "/etc/hosts"]
    assert hosts.source == "/h"


@pytest.mark.parametrize(
    ("mount", "options"),
    [
        (Mount("/m", "/x"), ("rbind", "rprivate", "rw")),
        (Mount("/m", "/x", readonly=True), ("rbind", "rprivate", "ro")),
        (Mount("/m", "/x", propagation=MountPropagation.HOST_TO_CONTAINER), ("rbind", "rslave", "rw")),
        (Mount("/m", "/x", propagation=MountPropagation.BIDIRECTIONAL), ("rbind", "rshared", "rw")),
        (Mount("/m", "/x", readonly=True, recursive_read_only=True), ("rbind", "rprivate", "ro", "rro")),
    ],
)
def test_mount_options(mount: Mount, options: tuple[str, ...]) -> None:
    (made,) = [found for found in mounts(with_config(mounts=(mount,))) if found.destination == "/m"]
    assert made.options == options


def test_propagation_of_the_root_lets_mounts_travel() -> None:
    asked = (
        Mount("/a", "/x", propagation=MountPropagation.HOST_TO_CONTAINER),
        Mount("/b", "/x", propagation=MountPropagation.BIDIRECTIONAL),
    )
    assert rootfs_propagation(inputs()) == ""
    assert rootfs_propagation(with_config(mounts=asked[:1])) == "rslave"
    assert rootfs_propagation(with_config(mounts=asked)) == "rshared"


@pytest.mark.parametrize(
    "mount",
    [
        Mount("/", "/x"),
        Mount("", "/x"),
        Mount("/m", "x"),
        Mount("/m", ""),
        Mount("/m", "/x", recursive_read_only=True),
        Mount(*("/m", "/x", True), recursive_read_only=True, propagation=MountPropagation.HOST_TO_CONTAINER),
    ],
)
def test_bad_mounts_are_refused_by_place(mount: Mount) -> None:
    with pytest.raises(InvalidRequest, match=r"mounts\[0\]"):
        mounts(with_config(mounts=(mount,)))


def test_recursive_read_only_needs_a_handler_that_can() -> None:
    asked = with_config(mounts=(Mount("/m", "/x", readonly=True, recursive_read_only=True),))
    with pytest.raises(InvalidRequest) as caught:
        mounts(replace(asked, handler=replace(HANDLER, recursive_read_only=False)))
    assert caught.value.reason == RRO_UNSUPPORTED


def test_privileged_can_write_to_sys() -> None:
    def options(privileged: bool) -> tuple[str, ...]:
        made = mounts(with_security(privileged=privileged))
        return next(mount.options for mount in made if mount.destination == "/sys")

    assert "ro" in options(False)
    assert "ro" not in options(True)


def test_devices_are_denied_but_for_those_asked_for() -> None:
    fuse = HostDevice("/dev/fuse", "c", 10, 229, 0o666, 0, 0, "rw")
    asked = replace(with_config(devices=(Device("/dev/fuse", "/dev/fuse", "rw"),)), devices=(fuse,))
    rules = device_rules(asked)
    assert not rules[0].allow
    assert (rules[-1].major, rules[-1].minor, rules[-1].access) == (10, 229, "rw")
    assert device_nodes(asked)[0].path == "/dev/fuse"
    assert [rule.allow for rule in device_rules(with_security(privileged=True))] == [True]
    with pytest.raises(InvalidRequest, match="permissions"):
        device_rules(replace(asked, devices=(replace(fuse, permissions="x"),)))


def test_limits_are_passed_on() -> None:
    wanted = Resources(
        cpu_period=100000,
        cpu_quota=50000,
        cpu_shares=512,
        memory_limit_in_bytes=1 << 30,
        cpuset_cpus="0-1",
        hugepage_limits={"2MB": 0},
    )
    made = resources(with_config(resources=wanted))
    assert made.cpu is not None
    assert made.memory is not None
    assert (made.cpu.shares, made.cpu.quota, made.cpu.period, made.cpu.cpus) == (512, 50000, 100000, "0-1")
    assert (made.memory.limit, made.memory.swap) == (1 << 30, 1 << 30)
    assert made.hugepage_limits[0].page_size == "2MB"


def test_nothing_asked_for_is_nothing_set() -> None:
    made = resources(inputs())
    assert (made.cpu, made.memory, made.hugepage_limits, made.unified) == (None, None, (), {})


@pytest.mark.parametrize(
    "wanted",
    [
        Resources(memory_limit_in_bytes=-2),
        Resources(memory_limit_in_bytes=-1, memory_swap_limit_in_bytes=5),
        Resources(memory_limit_in_bytes=10, memory_swap_limit_in_bytes=5),
        Resources(cpuset_cpus="a"),
        Resources(cpu_shares=-1),
        Resources(hugepage_limits={"2M/../x": 1}),
        Resources(unified={"memory.high": "1"}),
    ],
)
def test_bad_limits_are_refused_by_field(wanted: Resources) -> None:
    with pytest.raises(InvalidRequest) as caught:
        resources(with_config(resources=wanted))
    assert caught.value.field.startswith("linux.resources.")


def test_unified_goes_to_v2_only_and_names_a_file() -> None:
    v2 = replace(HOST, cgroup_layout="v2")
    good = replace(with_config(resources=Resources(unified={"memory.high": "1"})), host=v2)
    assert resources(good).unified == {"memory.high": "1"}
    with pytest.raises(InvalidRequest):
        resources(replace(with_config(resources=Resources(unified={"../x.y": "1"})), host=v2))
