"""Mounts of a container: a path of the host, or an image's content."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from crib.api.translate import checks, images, limits, security
from crib.model.container import ContainerRecord, Mount, MountPropagation, termination_message_path
from crib.model.errors import IMAGE_VOLUME_MOUNT_FAILED, InvalidRequest
from crib.model.sandbox import IdMapping
from crib.stubs.runtime.v1 import api_pb2 as pb


def decode_all(messages: Sequence[pb.Mount], field: str, annotations: Mapping[str, str]) -> tuple[Mount, ...]:
    """CRI Mount; two mounts cannot have the same place.

    But a kubelet puts the file for the termination message last, whatever else the pod has at that place:
    then that file is mounted and the other left out.
    """
    checks.at_most(messages, limits.MAX_MOUNTS, field)
    found = tuple(_decode(message, f"{field}[{index}]") for index, message in enumerate(messages))
    found = _without_covered(found, termination_message_path(annotations))
    checks.distinct((mount.container_path for mount in found), field, "container_path")
    return found


def _without_covered(found: tuple[Mount, ...], place: str) -> tuple[Mount, ...]:
    """At `place` the termination message goes. Only the last mount is a kubelet's, and it covers one."""
    places = [mount.container_path for mount in found]
    if places.count(place) < 2 or places[-1] != place:
        return found
    covered = places.index(place)
    return found[:covered] + found[covered + 1 :]


def _decode(message: pb.Mount, field: str) -> Mount:
    image, sub_path, host_path = message.image.image, message.image_sub_path, message.host_path
    if image and host_path:
        checks.refuse(f"{field}.host_path", "is set together with image")
    if not image and not host_path:
        checks.refuse(f"{field}.host_path", "is empty, and there is no image either")
    if sub_path and not image:
        checks.refuse(f"{field}.image_sub_path", "is set without image")
    if image and not message.readonly:
        problem = "must be true while mounting an image: an image volume is read-only"
        raise InvalidRequest(problem, field=f"{field}.readonly", reason=IMAGE_VOLUME_MOUNT_FAILED)
    propagation = checks.choice(MountPropagation, message.propagation, f"{field}.propagation")
    if image and propagation != MountPropagation.PRIVATE:
        checks.refuse(f"{field}.propagation", "is set together with image, in which nothing is ever mounted")
    if message.recursive_read_only and not message.readonly:
        checks.refuse(f"{field}.recursive_read_only", "needs readonly")
    if message.recursive_read_only and propagation != MountPropagation.PRIVATE:
        checks.refuse(f"{field}.recursive_read_only", "needs propagation PROPAGATION_PRIVATE")
    return Mount(
        container_path=checks.in_container(message.container_path, f"{field}.container_path"),
        host_path=host_path and checks.absolute(host_path, f"{field}.host_path"),
        readonly=message.readonly,
        selinux_relabel=message.selinux_relabel,
        propagation=propagation,
        uid_mappings=security.id_mappings(message.uidMappings, f"{field}.uidMappings"),
        gid_mappings=security.id_mappings(message.gidMappings, f"{field}.gidMappings"),
        recursive_read_only=message.recursive_read_only,
        image=images.name(image, f"{field}.image.image"),
        image_sub_path=sub_path and checks.inside(sub_path, f"{field}.image_sub_path"),
        mount_options=tuple(
            checks.line(option, f"{field}.mount_options")
            for option in checks.at_most(
                message.mount_options, limits.MAX_MOUNT_OPTIONS, f"{field}.mount_options"
            )
        ),
        user_specified_image=images.name(
            message.image.user_specified_image, f"{field}.image.user_specified_image"
        ),
    )


def encode_all(record: ContainerRecord) -> list[pb.Mount]:
    """Mounts as ContainerStatus shows them.

    An image volume's `image_ref` is the image's id: the digest of its config, which names its content
    wherever it came from, and is what PullImage answered (KEP-5365).
    """
    images = {volume.mount: volume.image_id for volume in record.image_volumes}
    return [encode(mount, images.get(position, "")) for position, mount in enumerate(record.config.mounts)]


def encode(mount: Mount, image_ref: str = "") -> pb.Mount:
    """One mount; `image_ref` names its image."""
    image = pb.ImageSpec(
        image=mount.image, user_specified_image=mount.user_specified_image, image_ref=image_ref
    )
    return pb.Mount(
        container_path=mount.container_path,
        host_path=mount.host_path,
        readonly=mount.readonly,
        selinux_relabel=mount.selinux_relabel,
        propagation=pb.MountPropagation.ValueType(mount.propagation),
        uidMappings=_mappings(mount.uid_mappings),
        gidMappings=_mappings(mount.gid_mappings),
        recursive_read_only=mount.recursive_read_only,
        image=image if mount.image else None,
        image_sub_path=mount.image_sub_path,
        mount_options=mount.mount_options,
    )


def _mappings(ranges: Iterable[IdMapping]) -> list[pb.IDMapping]:
    return [pb.IDMapping(host_id=m.host_id, container_id=m.container_id, length=m.length) for m in ranges]
