"""Containers that run systemd, and those that may write to their cgroup tree."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from crib.model.errors import InvalidRequest
from crib.model.facts import RootfsFacts
from crib.model.sandbox import NamespaceMode, NamespaceOptions
from crib.model.settings import ContainerDefaults, HandlerSettings
from crib.ocispec.container import container_spec
from crib.ocispec.inputs import ContainerInputs, DeclaredVolume
from crib.wire import oci_runtime as oci
from tests.unit.ocispec.inputs_for_tests import HOST, PASSWD, inputs

V2 = replace(HOST, cgroup_layout="v2", cgroup_delegation=True)
SYSTEMD = RootfsFacts(PASSWD, "", init="systemd")
KEY = "io.crib.writable-cgroups"


def made(choice: str = "systemd", annotation: str = "", **changes: Any) -> ContainerInputs:
    fields: dict[str, Any] = {"host": V2, "rootfs": SYSTEMD, **changes}
    found = replace(inputs(), **fields)
    options = HandlerSettings(annotations=(KEY,), containers=ContainerDefaults(writable_cgroups=choice))
    config = replace(found.config, annotations={KEY: annotation} if annotation else {})
    return replace(found, options=options, config=config)


def mount_of(spec: oci.Spec, destination: str) -> oci.Mount | None:
    return next((mount for mount in spec.mounts if mount.destination == destination), None)


def is_writable(found: ContainerInputs) -> bool:
    mount = mount_of(container_spec(found), "/sys/fs/cgroup")
    assert mount is not None
    return "ro" not in mount.options


def test_systemd_finds_what_it_needs() -> None:
    spec = container_spec(made())
    assert is_writable(made())
    run, lock, tmp = (mount_of(spec, place) for place in ("/run", "/run/lock", "/tmp"))
    assert run is not None
    assert lock is not None
    assert tmp is not None
    assert {run.type, lock.type, tmp.type} == {"tmpfs"}
    assert "mode=755" in run.options
    assert "mode=1777" in tmp.options
    assert "container=crib" in spec.process.env
    assert spec.annotations["org.opencontainers.image.stopSignal"] == "SIGRTMIN+3"
    assert oci.Namespace(type="cgroup") in spec.linux.namespaces


def test_it_runs_as_the_selinux_type_that_the_policy_has_for_it() -> None:
    """container-selinux: container_init_t may mount and remount the cgroups, as systemd does."""
    on = replace(V2, selinux=True, selinux_init="system_u:system_r:container_init_t:s0")
    level = "s0:c1,c2"

    def label(**changes: Any) -> str:
        return container_spec(made(selinux_level=level, **changes)).process.selinux_label

    assert label(host=on) == f"system_u:system_r:container_init_t:{level}"
    assert label(host=replace(on, selinux_init="")) == f"system_u:system_r:container_t:{level}"
    plain = RootfsFacts(PASSWD, "")
    assert label(host=on, rootfs=plain) == f"system_u:system_r:container_t:{level}"


def test_its_images_volumes_do_not_hide_that() -> None:
    volumes = tuple(DeclaredVolume(place, f"/v{place}") for place in ("/run", "/sys/fs/cgroup", "/srv"))
    spec = container_spec(made(declared_volumes=volumes))
    assert [mount.destination for mount in spec.mounts if mount.source.startswith("/v/")] == ["/srv"]
    other = container_spec(made(declared_volumes=volumes, rootfs=RootfsFacts(PASSWD, "")))
    assert len([mount for mount in other.mounts if mount.source.startswith("/v/")]) == 3


@pytest.mark.parametrize(
    "others",
    [
        {"rootfs": RootfsFacts(PASSWD, "", init="busybox")},
        {"host": replace(V2, cgroup_delegation=False)},
        {"choice": "never"},
        {"annotation": "false"},
    ],
)
def test_whoever_is_no_systemd_or_may_not_write_gets_none_of_it(others: dict[str, object]) -> None:
    found = made(**others)  # type: ignore[arg-type]  # one of its parameters each
    spec = container_spec(found)
    assert not is_writable(found)
    assert mount_of(spec, "/run") is None
    assert "container=crib" not in spec.process.env
    assert "org.opencontainers.image.stopSignal" not in spec.annotations


def test_only_a_first_process_is_systemd() -> None:
    found = made()
    options = NamespaceOptions(pid=NamespaceMode.NODE)
    config = replace(found.config, security=replace(found.config.security, namespaces=options))
    assert mount_of(container_spec(replace(found, config=config)), "/run") is None


def test_a_stop_signal_that_is_named_stays() -> None:
    found = made()
    image = replace(found, image=replace(found.image, stop_signal="SIGINT"))
    own = replace(found, config=replace(found.config, stop_signal=3))
    for named in (image, own):
        assert "org.opencontainers.image.stopSignal" not in container_spec(named).annotations


@pytest.mark.parametrize(
    ("choice", "annotation", "writable"),
    [
        ("systemd", "", False),
        ("systemd", "true", True),
        ("never", "true", True),
        ("always", "", True),
        ("always", "false", False),
    ],
)
def test_others_may_write_by_choice(choice: str, annotation: str, writable: bool) -> None:
    plain = RootfsFacts(PASSWD, "")
    assert is_writable(made(choice, annotation, rootfs=plain)) is writable
    assert not is_writable(made(choice, annotation, rootfs=plain, host=HOST))
    assert not is_writable(made(choice, annotation, rootfs=plain, host=replace(V2, cgroup_delegation=False)))


def test_an_annotation_says_one_or_the_other() -> None:
    with pytest.raises(InvalidRequest, match=r"^annotations\[io\.crib\.writable-cgroups\]: 'yes' is"):
        container_spec(made(annotation="yes"))
