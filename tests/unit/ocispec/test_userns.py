"""User namespaces in the spec: what a container gets, and what is refused with the field's name."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from crib.model.container import ContainerSecurity, Mount, MountPropagation
from crib.model.errors import InvalidRequest
from crib.model.sandbox import IdMapping, NamespaceMode, NamespaceOptions, SandboxConfig, UserNamespace
from crib.ocispec.container import container_spec
from crib.ocispec.inputs import ContainerInputs
from crib.ocispec.mounts import mounts
from crib.ocispec.namespaces import (
    check_mount_maps,
    check_pod_namespaces,
    groups_outside,
    host_id,
    namespaces,
)
from crib.wire import oci_runtime as oci
from tests.unit.ocispec.inputs_for_tests import inputs as plain_inputs
from tests.unit.ocispec.inputs_for_tests import sandbox

UIDS = (IdMapping(100000, 0, 65536),)
GIDS = (IdMapping(200000, 0, 65536),)
USERNS = UserNamespace(NamespaceMode.POD, UIDS, GIDS)
OWN = NamespaceMode.CONTAINER


def pod_options(**more: object) -> NamespaceOptions:
    return NamespaceOptions(pid=OWN, userns=USERNS, **more)  # type: ignore[arg-type]


def inputs(
    options: NamespaceOptions | None = None, pod: NamespaceOptions | None = None, **security: object
) -> ContainerInputs:
    """Of a container in a pod with a user namespace."""
    made = plain_inputs(sandbox=sandbox(pod or pod_options()))
    config = replace(
        made.config,
        security=ContainerSecurity(namespaces=options or pod_options(), **security),  # type: ignore[arg-type]
    )
    return replace(made, config=config, pod=replace(made.pod, user_namespace="/run/crib/ns/user"))


def test_a_container_joins_its_pods_user_namespace_and_names_the_maps() -> None:
    spec = container_spec(inputs())
    assert oci.Namespace(type="user", path="/run/crib/ns/user") in spec.linux.namespaces
    assert spec.linux.uid_mappings == (oci.IdMapping(0, 100000, 65536),)
    assert spec.linux.gid_mappings == (oci.IdMapping(0, 200000, 65536),)
    document = oci.encode(spec)
    assert b'"uidMappings":[{"containerID":0,"hostID":100000,"size":65536}]' in document


def test_a_container_that_says_nothing_has_the_pods_user_namespace() -> None:
    assert oci.Namespace(type="user", path="/run/crib/ns/user") in namespaces(
        inputs(NamespaceOptions(pid=OWN))
    )


def test_without_a_user_namespace_the_spec_has_no_maps() -> None:
    linux = container_spec(plain_inputs()).linux
    assert (linux.uid_mappings, linux.gid_mappings) == ((), ())
    assert "user" not in {namespace.type for namespace in linux.namespaces}


@pytest.mark.parametrize(
    "userns",
    [
        UserNamespace(NamespaceMode.NODE),
        UserNamespace(NamespaceMode.POD, (IdMapping(300000, 0, 65536),), GIDS),
        UserNamespace(NamespaceMode.POD, UIDS, (IdMapping(200000, 0, 131072),)),
    ],
)
def test_a_container_with_another_user_namespace_than_its_pods_is_refused(userns: UserNamespace) -> None:
    with pytest.raises(InvalidRequest, match="userns_options: it differs"):
        namespaces(inputs(NamespaceOptions(pid=OWN, userns=userns)))


def test_a_container_with_a_user_namespace_in_a_pod_without_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="userns_options: it differs"):
        namespaces(inputs(pod=NamespaceOptions(pid=OWN)))


@pytest.mark.parametrize("name", ["pid", "ipc"])
def test_a_pod_with_a_user_namespace_cannot_use_the_nodes(name: str) -> None:
    changes: dict[str, Any] = {name: NamespaceMode.NODE}
    options = replace(pod_options(), **changes)
    config = replace(sandbox().config, security=replace(sandbox().config.security, namespaces=options))
    with pytest.raises(InvalidRequest, match=f"namespace_options.{name}: .*{name} namespace"):
        check_pod_namespaces(config)


def test_a_container_of_such_a_pod_cannot_use_the_nodes_pids() -> None:
    with pytest.raises(InvalidRequest, match=r"namespace_options\.pid"):
        namespaces(inputs(NamespaceOptions(pid=NamespaceMode.NODE, userns=USERNS)))


@pytest.mark.parametrize(
    ("field", "security"),
    [
        ("run_as_user", {"run_as_user": 65536}),
        ("run_as_group", {"run_as_user": 0, "run_as_group": 70000}),
        ("supplemental_groups", {"supplemental_groups": (99999,)}),
    ],
)
def test_an_id_beyond_the_pods_is_refused_with_its_field(field: str, security: dict[str, Any]) -> None:
    with pytest.raises(
        InvalidRequest, match=f"security_context.{field}: .* is not in the pod's user namespace"
    ):
        container_spec(inputs(**security))


def test_the_last_id_of_the_pod_is_taken() -> None:
    assert container_spec(inputs(run_as_user=65535)).process.user.uid == 65535


def test_sys_is_the_nodes_only_where_the_network_is() -> None:
    own = {mount.destination: mount for mount in mounts(inputs())}["/sys"]
    assert own.type == "sysfs"
    host = pod_options(network=NamespaceMode.NODE)
    shared = {mount.destination: mount for mount in mounts(inputs(host, host))}["/sys"]
    assert (shared.type, shared.source) == ("bind", "/sys")
    assert {"ro", "rro", "nosuid", "nodev", "noexec"} <= set(shared.options)


def test_flags_that_a_user_namespace_cannot_take_away_are_kept() -> None:
    made = inputs()
    config = replace(made.config, mounts=(Mount("/data", "/srv/data", readonly=True),))
    made = replace(made, config=config, locked_options=(("nosuid", "nodev"),))
    found = {mount.destination: mount for mount in mounts(made)}["/data"]
    assert {"ro", "nosuid", "nodev"} <= set(found.options)


def test_what_a_runtime_leaves_out_of_a_volume_is_mounted_after_it() -> None:
    made = inputs()
    asked = (
        Mount("/data", "/srv/data", readonly=True),
        Mount("/all", "/srv/all", readonly=True, recursive_read_only=True),
        Mount("/both", "/srv/both", propagation=MountPropagation.BIDIRECTIONAL),
    )
    config = replace(made.config, mounts=asked)
    made = replace(made, config=config, submounts=(("in", "in/ner"), ("in",), ("in",)))
    found = mounts(made)
    order = [mount.destination for mount in found]
    assert order.index("/data") < order.index("/data/in") < order.index("/data/in/ner")
    by_place = {mount.destination: mount for mount in found}
    assert by_place["/data/in"].source == "/srv/data/in"
    assert "ro" not in by_place["/data/in"].options
    assert {"ro", "rro"} <= set(by_place["/all/in"].options)
    assert "/both/in" not in by_place  # it would appear on the node once more


def test_mounts_are_shifted_by_the_pods_maps_alone() -> None:
    def config(userns: UserNamespace | None) -> SandboxConfig:
        made = sandbox().config
        return replace(made, security=replace(made.security, namespaces=NamespaceOptions(userns=userns)))

    asked = Mount("/data", "/srv", uid_mappings=UIDS, gid_mappings=GIDS)
    check_mount_maps(config(USERNS), asked, "mounts[0]")
    check_mount_maps(config(None), Mount("/data", "/srv"), "mounts[0]")
    with pytest.raises(InvalidRequest, match=r"mounts\[0\].uidMappings: they need a user namespace"):
        check_mount_maps(config(None), asked, "mounts[0]")
    with pytest.raises(InvalidRequest, match=r"mounts\[0\].gidMappings: they differ"):
        check_mount_maps(config(USERNS), replace(asked, gid_mappings=UIDS), "mounts[0]")


def test_ids_are_found_within_their_ranges_only() -> None:
    assert [host_id(UIDS, number) for number in (0, 65535, 65536)] == [100000, 165535, None]


@pytest.mark.parametrize(
    ("said", "written"),
    [
        ("0 2147483647", "200000 265535"),
        ("5\t10", "200005 200010"),
        ("1 0", "1 0"),
        ("70000 80000", "70000 80000"),
        ("all", "all"),
        ("0", "0"),
    ],
)
def test_groups_of_the_pod_are_numbered_as_the_node_does(said: str, written: str) -> None:
    assert groups_outside(USERNS, said) == written
