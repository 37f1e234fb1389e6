"""Mounts of a container: order, what stays away, options, images and VOLUMEs."""

from __future__ import annotations

from dataclasses import replace

import pytest

from crib.model.container import Mount, MountPropagation
from crib.model.errors import IMAGE_VOLUME_MOUNT_FAILED, Broken, InvalidRequest
from crib.model.sandbox import IdMapping
from crib.ocispec.inputs import ContainerInputs, DeclaredVolume
from crib.ocispec.mounts import MOUNT_OPTIONS, mounts
from crib.wire import oci_runtime as oci
from tests.unit.ocispec.inputs_for_tests import with_config

IMAGE = Mount("/v", image="data:1", readonly=True)
BOTH_WAYS = MountPropagation.BIDIRECTIONAL


def with_mounts(*asked: Mount, **changes: object) -> ContainerInputs:
    return replace(with_config(mounts=asked), **changes)  # type: ignore[arg-type]  # any field


def made_at(inputs: ContainerInputs, place: str) -> list[oci.Mount]:
    return [mount for mount in mounts(inputs) if mount.destination == place]


def test_an_image_volume_is_bound_read_only_from_where_it_is_mounted() -> None:
    (made,) = made_at(with_mounts(IMAGE, mount_sources=("/b/volumes/0/sub",)), "/v")
    assert (made.type, made.source) == ("bind", "/b/volumes/0/sub")
    assert made.options == ("rbind", "rprivate", "ro", "nosuid", "nodev")


def test_an_image_volume_that_is_writable_or_not_mounted_is_refused_in_the_cris_words() -> None:
    with pytest.raises(InvalidRequest, match=r"mounts\[0\]\.readonly") as caught:
        mounts(with_mounts(replace(IMAGE, readonly=False), mount_sources=("/b",)))
    assert caught.value.reason == IMAGE_VOLUME_MOUNT_FAILED
    with pytest.raises(Broken, match="not mounted"):
        mounts(with_mounts(IMAGE))


def test_what_is_mounted_is_the_real_path_of_a_host_path() -> None:
    (made,) = made_at(with_mounts(Mount("/m", "/link"), mount_sources=("/real",)), "/m")
    assert made.source == "/real"


@pytest.mark.parametrize("option", MOUNT_OPTIONS)
def test_restrictions_are_passed_on_once(option: str) -> None:
    (made,) = made_at(with_mounts(Mount("/m", "/x", readonly=True, mount_options=(option, option))), "/m")
    assert made.options.count(option) == 1
    assert "rw" not in made.options


def test_ro_as_an_option_makes_a_mount_read_only() -> None:
    (made,) = made_at(with_mounts(Mount("/m", "/x", mount_options=("ro",))), "/m")
    assert made.options == ("rbind", "rprivate", "ro")


@pytest.mark.parametrize("option", ["rw", "exec", "suid", "bind", "rshared", "remount", "idmap", "tmpcopyup"])
def test_other_options_are_refused_by_their_field(option: str) -> None:
    with pytest.raises(InvalidRequest, match=r"mounts\[0\]\.mount_options.*noexec"):
        mounts(with_mounts(Mount("/m", "/x", mount_options=(option,))))


def test_ids_are_only_shifted_as_the_pods_are() -> None:
    ids = (IdMapping(1000, 0, 10),)
    with pytest.raises(InvalidRequest, match=r"mounts\[0\]"):
        mounts(with_mounts(Mount("/m", "/x", uid_mappings=ids, gid_mappings=ids)))


def test_declared_volumes_are_written_to_and_lie_between_ours_and_the_pods() -> None:
    declared = (DeclaredVolume("/data", "/d/0"), DeclaredVolume("/data/a", "/d/1"))
    made = mounts(with_mounts(Mount("/data/b", "/x"), declared_volumes=declared))
    below = [mount for mount in made if mount.destination.startswith("/data")]
    assert [mount.destination for mount in below] == ["/data", "/data/a", "/data/b"]
    assert below[0].options == ("rbind", "rprivate", "rw")


def test_the_pods_own_dev_keeps_its_device_file_systems_but_gets_the_pods_shm() -> None:
    made = mounts(with_mounts(Mount("/dev", "/dev")))
    assert [mount.destination for mount in made if mount.destination.startswith("/dev")] == [
        "/dev",
        "/dev/shm",
    ]


def test_nothing_of_ours_goes_below_a_mount_that_is_shared_with_the_node() -> None:
    shared = [Mount(path, path, propagation=BOTH_WAYS) for path in ("/dev", "/etc", "/sys")]
    places = [mount.destination for mount in mounts(with_mounts(*shared))]
    assert places == ["/proc", "/dev", "/etc", "/sys"]


def test_a_private_mount_over_etc_still_gets_the_pods_files() -> None:
    places = [mount.destination for mount in mounts(with_mounts(Mount("/etc", "/x")))]
    assert places.index("/etc") < places.index("/etc/resolv.conf")
