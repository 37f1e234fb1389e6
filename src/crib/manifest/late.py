"""What a manifest leaves open: the pod's own addresses, where the runtime has its volumes, and its user ids.

A plan has a mark where such a text will be. A mark holds a zero byte, which no manifest can hold, so that no
text of a person is taken for one. `crib.client.workloads` fills them in: paths of volumes and ranges of ids
before it makes the sandbox, addresses before it creates a container.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from crib.stubs.runtime.v1.api_pb2 import POD, IDMapping, ImageSpec, PodSandboxConfig, UserNamespace

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from crib.manifest.plan import ContainerPlan, PodPlan

POD_IP = "\0pod-ip\0"
POD_IPS = "\0pod-ips\0"
SHOWN = ("<pod-ip>",)
"""Stands for the addresses where a plan is shown that is not carried out."""
IDS = 65536
"""Users and groups of a pod with a user namespace: as many as a kubelet gives to one."""
FIRST_IDS, LAST_IDS = 0x24000000, 0x6FFF0000
"""First ids of the node of the ranges that pods get. Above those that useradd(8) gives to people as
subordinate ids (SUB_UID_MAX), within those that systemd leaves to containers (systemd.io, UIDs and GIDs)."""


def volume_mark(name: str) -> str:
    """Stands for the path of the pod's volume of this name."""
    return f"\0volume:{name}\0"


def _with_containers(plan: PodPlan, change: Callable[[ContainerPlan], ContainerPlan]) -> PodPlan:
    return replace(
        plan,
        init_containers=tuple(map(change, plan.init_containers)),
        containers=tuple(map(change, plan.containers)),
    )


def placed(
    plan: PodPlan, paths: Mapping[str, str], read_only: Collection[str] = (), labelled: Collection[str] = ()
) -> PodPlan:
    """The pod with the paths of its volumes of the runtime, by their names in the pod.

    `read_only` are those that nobody may write, whatever the manifest says; `labelled` those whose files have
    their label of SELinux, and can get no other.
    """
    marks = {volume_mark(name): path for name, path in paths.items()}
    sealed = {volume_mark(name) for name in read_only}
    fixed = {volume_mark(name) for name in labelled}

    def container(one: ContainerPlan) -> ContainerPlan:
        config = type(one.config)()
        config.CopyFrom(one.config)
        parts = {part.mount: part.volume for part in one.sub_paths}
        for place, mount in enumerate(config.mounts):
            mark = parts.get(place, mount.host_path)
            mount.readonly |= mark in sealed
            mount.selinux_relabel &= mark not in fixed
            mount.host_path = marks.get(mount.host_path, mount.host_path)
        for device in config.devices:
            device.permissions = "r" if device.host_path in sealed else device.permissions
            device.host_path = marks.get(device.host_path, device.host_path)
        moved = tuple(replace(part, volume=marks.get(part.volume, part.volume)) for part in one.sub_paths)
        return replace(one, config=config, sub_paths=moved)

    if not marks:
        return plan
    volumes = tuple(replace(one, path=marks.get(one.path, one.path)) for one in plan.volumes)
    return replace(_with_containers(plan, container), volumes=volumes)


def with_images(plan: PodPlan, images: Mapping[str, str]) -> PodPlan:
    """The pod with volumes of the runtime that are images (ids, by their names in the pod) as image mounts.

    An overlay, which is how the runtime shows such a volume, cannot be id-mapped; the layers of an image can.
    """
    found = {volume_mark(name): image for name, image in images.items()}

    def container(one: ContainerPlan) -> ContainerPlan:
        config = type(one.config)()
        config.CopyFrom(one.config)
        parts = {part.mount: part for part in one.sub_paths}
        for place, mount in enumerate(config.mounts):
            part = parts.get(place)
            image = found.get(mount.host_path if part is None else part.volume)
            if image is not None:
                mount.ClearField("host_path")
                mount.image.CopyFrom(ImageSpec(image=image, user_specified_image=image))
                mount.image_sub_path = "" if part is None else part.inside
                mount.readonly, mount.selinux_relabel = True, False
        left = tuple(part for part in one.sub_paths if part.volume not in found)
        return replace(one, config=config, sub_paths=left)

    return _with_containers(plan, container) if found else plan


def has_own_users(config: PodSandboxConfig) -> bool:
    """Whether the pod has a user namespace (`hostUsers: false`)."""
    options = config.linux.security_context.namespace_options
    return options.HasField("userns_options") and options.userns_options.mode == POD


def with_ids(plan: PodPlan, users: UserNamespace) -> PodPlan:
    """The pod with these ranges of ids, and its volumes shifted by them, so that files keep their owners."""
    sandbox = PodSandboxConfig()
    sandbox.CopyFrom(plan.sandbox)
    sandbox.linux.security_context.namespace_options.userns_options.CopyFrom(users)

    def container(one: ContainerPlan) -> ContainerPlan:
        config = type(one.config)()
        config.CopyFrom(one.config)
        config.linux.security_context.namespace_options.userns_options.CopyFrom(users)
        for mount in config.mounts:
            if mount.host_path:
                mount.uidMappings.extend(users.uids)
                mount.gidMappings.extend(users.gids)
        return replace(one, config=config)

    return replace(_with_containers(plan, container), sandbox=sandbox)


def ids_from(first: int) -> UserNamespace:
    """A pod's users and groups, of which `first` on the node is its root."""
    ids = [IDMapping(host_id=first, container_id=0, length=IDS)]
    return UserNamespace(mode=POD, uids=ids, gids=ids)


def shown_paths(plan: PodPlan) -> dict[str, str]:
    """Stand for the paths of volumes."""
    return {one.name: f"/<volume>/{one.claim.label}" for one in plan.volumes if one.claim is not None}


def shown(plan: PodPlan) -> PodPlan:
    """The plan for one who looks at it: names stand for what is known only when it is carried out."""
    found = placed(plan, shown_paths(plan))
    if has_own_users(plan.sandbox):
        found = with_ids(found, ids_from(FIRST_IDS))
    return _with_containers(found, lambda one: filled(one, SHOWN))


def filled_text(text: str, addresses: Sequence[str]) -> str:
    """The text with the pod's addresses, its first one first."""
    return text.replace(POD_IPS, ",".join(addresses)).replace(POD_IP, addresses[0] if addresses else "")


def waits_for_address(plan: ContainerPlan) -> bool:
    """Whether a container cannot be created before the pod's addresses are known."""
    config = plan.config
    inside = (*(part.inside for part in plan.sub_paths), *(mount.image_sub_path for mount in config.mounts))
    texts = (*config.command, *config.args, *inside)
    return any("\0" in text for text in texts) or any(b"\0" in env.value for env in config.envs)


def filled(plan: ContainerPlan, addresses: Sequence[str]) -> ContainerPlan:
    """The container with the pod's addresses; itself when it needs none."""
    if not waits_for_address(plan):
        return plan
    config = type(plan.config)()
    config.CopyFrom(plan.config)
    for words in (config.command, config.args):
        words[:] = [filled_text(word, addresses) for word in words]
    for env in config.envs:
        text = env.value.decode("utf-8", "surrogateescape")
        env.value = filled_text(text, addresses).encode("utf-8", "surrogateescape")
    for mount in config.mounts:
        mount.image_sub_path = filled_text(mount.image_sub_path, addresses)
    parts = tuple(replace(part, inside=filled_text(part.inside, addresses)) for part in plan.sub_paths)
    return replace(plan, config=config, sub_paths=parts)
