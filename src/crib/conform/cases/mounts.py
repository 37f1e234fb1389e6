"""Mounts: directories and files of the node, image volumes, propagation, options."""

from __future__ import annotations

import os
import secrets

from crib.client.errors import ClientError
from crib.conform.case import Level, case
from crib.conform.expect import NotApplicable, equal, refused, true
from crib.conform.trial import Box, Trial, read, write
from crib.stubs.runtime.v1 import api_pb2 as pb


async def _mounted(trial: Trial, **fields: object) -> Box:
    config = trial.config()
    config.mounts.add(**fields)
    return await trial.box(config)


@case(
    "CreateContainer",
    Level.MUST,
    "CRI: Mount",
    "ContainerConfig.mounts",
    "Mount.container_path,host_path",
)
async def a_directory_is_shared_both_ways(trial: Trial) -> None:
    """Files of a mounted directory are seen on both sides, and a mount point that is missing is made."""
    path = trial.directory()
    box = await _mounted(trial, container_path="/some/where/new", host_path=path)
    write(os.path.join(path, "outside"), "from outside")
    equal("a file from outside", await box.sh("cat /some/where/new/outside"), "from outside")
    await box.sh("echo from inside >/some/where/new/inside")
    equal("a file from inside", read(os.path.join(path, "inside")), b"from inside\n")


@case(
    "CreateContainer",
    Level.MUST,
    "kubelet: /etc/hosts and the termination log are files",
    "Mount.container_path,host_path",
)
async def a_file_can_be_mounted(trial: Trial) -> None:
    """A file can be mounted over a path that the image lacks, and over one that it has."""
    path = os.path.join(trial.directory(), "file")
    write(path, "mounted")
    config = trial.config()
    for where in ("/etc/passwd", "/dev/termination-log"):
        config.mounts.add(container_path=where, host_path=path)
    box = await trial.box(config)
    equal("the files", await box.sh("cat /etc/passwd /dev/termination-log"), "mountedmounted")


@case("CreateContainer", Level.MUST, "CRI: Mount.readonly", "Mount.readonly")
async def a_readonly_mount_cannot_be_written(trial: Trial) -> None:
    """Nothing can be written to a read-only mount; it can be to another mount of the same directory."""
    path = trial.directory()
    config = trial.config()
    config.mounts.add(container_path="/ro", host_path=path, readonly=True)
    config.mounts.add(container_path="/rw", host_path=path)
    box = await trial.box(config)
    true("a write to the read-only mount", not await box.can("touch /ro/x"), "it fails", "it succeeds")
    true("a write to the other", await box.can("touch /rw/x && test -e /ro/x"), "it succeeds", "it fails")


@case("CreateContainer", Level.MUST, "kubelet: volumes may lie in each other", "Mount.container_path")
async def a_mount_may_lie_in_another(trial: Trial) -> None:
    """Mounts in each other are made from the outer to the inner, whatever their order in the request."""
    outer, inner = trial.directory(), trial.directory()
    os.mkdir(os.path.join(outer, "sub"))
    for path, name in ((outer, "outer"), (inner, "inner")):
        write(os.path.join(path, name))
    config = trial.config()
    config.mounts.add(container_path="/mnt/sub", host_path=inner)
    config.mounts.add(container_path="/mnt", host_path=outer)
    box = await trial.box(config)
    equal("entries of both", await box.sh("ls /mnt /mnt/sub | grep er$ | sort"), "inner\nouter")


@case("CreateContainer", Level.SHOULD, "kubelet: volumes with symbolic links", "Mount.host_path")
async def a_link_as_host_path_is_followed(trial: Trial) -> None:
    """A host_path that is a symbolic link stands for what it leads to."""
    path = trial.directory()
    os.mkdir(os.path.join(path, "target"))
    os.symlink("target", os.path.join(path, "link"))
    box = await _mounted(trial, container_path="/mnt", host_path=os.path.join(path, "link"))
    await box.sh("touch /mnt/x")
    equal("entries of the target", os.listdir(os.path.join(path, "target")), ["x"])


@case(
    "ContainerStatus",
    Level.MUST,
    "CRI: ContainerStatus.mounts",
    "ContainerStatus.mounts",
    "Mount.container_path,host_path,readonly",
)
async def tells_its_mounts(trial: Trial) -> None:
    """The status has each mount of the request with its two paths and whether it is read-only."""
    path = trial.directory()
    config = trial.config()
    config.mounts.add(container_path="/ro", host_path=path, readonly=True)
    config.mounts.add(container_path="/rw", host_path=path)
    mounts = (await trial.status(await trial.create(config))).mounts
    found = {(one.container_path, one.host_path, one.readonly) for one in mounts}
    expected = {("/ro", path, True), ("/rw", path, False)}
    true("ContainerStatus: mounts", expected <= found, str(expected), found)


@case("CreateContainer", Level.SHOULD, "kubelet: paths are absolute", "Mount.container_path")
async def the_root_cannot_be_mounted_over(trial: Trial) -> None:
    """A mount over the container's root is an error."""
    call = _mounted(trial, container_path="/", host_path=trial.directory())
    await refused("CreateContainer and StartContainer with it", call)


@case(
    "CreateContainer",
    Level.MUST,
    "CRI: Mount.propagation; Kubernetes: mount propagation",
    "Mount.propagation",
)
async def mounts_travel_as_asked(trial: Trial) -> None:
    """A mount made in a BIDIRECTIONAL mount reaches the node and HOST_TO_CONTAINER mounts, no PRIVATE one."""
    path = trial.directory()
    if not _is_shared(path):
        raise NotApplicable(f"{path} is not on a shared mount")
    os.mkdir(os.path.join(path, "sub"))
    pod_config = trial.pod_config()
    pod_config.linux.security_context.privileged = True
    pod = await trial.pod(pod_config)
    maker_config = trial.config()
    maker_config.linux.security_context.privileged = True
    maker_config.mounts.add(container_path="/mnt", host_path=path, propagation=pb.PROPAGATION_BIDIRECTIONAL)
    maker = await trial.box(maker_config, pod)
    receiver_config = trial.config()
    for where, kind in (("/slave", pb.PROPAGATION_HOST_TO_CONTAINER), ("/private", pb.PROPAGATION_PRIVATE)):
        receiver_config.mounts.add(container_path=where, host_path=path, propagation=kind)
    receiver = await trial.box(receiver_config, pod)
    await maker.sh("mount -t tmpfs conform /mnt/sub && touch /mnt/sub/x")
    try:
        true(
            "the mount on the node",
            os.path.exists(os.path.join(path, "sub", "x")),
            "it is there",
            "it is not",
        )
        true(
            "the mount in HOST_TO_CONTAINER",
            await receiver.can("test -e /slave/sub/x"),
            "it is there",
            "it is not",
        )
        true(
            "the mount in PRIVATE",
            not await receiver.can("test -e /private/sub/x"),
            "it is not there",
            "it is",
        )
    finally:
        await maker.sh("umount /mnt/sub || busybox umount /mnt/sub")
    equal("the mount on the node after its end", os.path.ismount(os.path.join(path, "sub")), False)


def _is_shared(path: str) -> bool:
    """Whether the mount below which `path` lies is of a peer group (proc(5), mountinfo)."""
    best, shared = "", False
    with open("/proc/self/mountinfo", encoding="utf-8") as file:
        for line in file:
            words = line.split()
            point = words[4]
            if (path == point or path.startswith(point.rstrip("/") + "/")) and len(point) >= len(best):
                best, shared = point, any(word.startswith("shared:") for word in words[6:])
    return shared


@case(
    "CreateContainer",
    Level.OPTIONAL,
    "KEP-3857: recursive read-only mounts",
    "Mount.recursive_read_only",
    "RuntimeHandlerFeatures.recursive_read_only_mounts",
)
async def recursive_readonly_holds_for_mounts_below(trial: Trial) -> None:
    """recursive_read_only holds for what is mounted below the mount as well, and the status tells it."""
    trial.needs("recursive_read_only_mounts")
    if not os.path.ismount("/dev/shm"):  # noqa: S108  # of the node
        raise NotApplicable("the node's /dev/shm is no mount of its own")
    name = f"shm/crib-conform-{secrets.token_hex(4)}"
    box = await _mounted(
        trial, container_path="/mnt", host_path="/dev", readonly=True, recursive_read_only=True
    )
    mounts = {one.container_path: one for one in (await box.status()).mounts}
    true("ContainerStatus: recursive_read_only", mounts["/mnt"].recursive_read_only, "true", mounts["/mnt"])
    true("a write to a mount below", not await box.can(f"touch /mnt/{name}"), "it fails", "it succeeds")


@case(
    "CreateContainer",
    Level.OPTIONAL,
    "KEP-3857: it needs readonly, and no propagation",
    "Mount.recursive_read_only",
)
async def recursive_readonly_without_readonly_is_refused(trial: Trial) -> None:
    """recursive_read_only of a writable mount, or of one with propagation, is an error."""
    trial.needs("recursive_read_only_mounts")
    path = trial.directory()
    call = _mounted(trial, container_path="/mnt", host_path=path, recursive_read_only=True)
    await refused("CreateContainer of a writable one", call)
    slave = pb.PROPAGATION_HOST_TO_CONTAINER
    fields = {"container_path": "/mnt", "host_path": path, "readonly": True, "recursive_read_only": True}
    await refused("CreateContainer with propagation", _mounted(trial, **fields, propagation=slave))


async def _image_volume(trial: Trial, sub_path: str = "") -> Box:
    """NotApplicable from a runtime that wants a host_path in every mount."""
    image = pb.ImageSpec(image=trial.subject.image)
    try:
        return await _mounted(
            trial, container_path="/image", image=image, readonly=True, image_sub_path=sub_path
        )
    except ClientError as error:
        raise NotApplicable(f"image volumes are refused: {error.message[:200]}") from error


@case(
    "CreateContainer",
    Level.OPTIONAL,
    "KEP-4639: OCI volume source",
    "Mount.image",
    "ImageSpec.image",
)
async def an_image_can_be_mounted(trial: Trial) -> None:
    """A mount of an image has the image's files, and cannot be written."""
    box = await _image_volume(trial)
    true("/image/bin/busybox", await box.can("test -e /image/bin"), "it is there", "it is not")
    true("a write to it", not await box.can("touch /image/x"), "it fails", "it succeeds")


@case("CreateContainer", Level.OPTIONAL, "KEP-4639: subPath of an image volume", "Mount.image_sub_path")
async def a_part_of_an_image_can_be_mounted(trial: Trial) -> None:
    """A sub path of an image is mounted by itself; one that the image lacks is an error."""
    box = await _image_volume(trial, "etc")
    true("/image/passwd", await box.can("test -e /image/passwd"), "it is there", await box.sh("ls /image"))
    image = pb.ImageSpec(image=trial.subject.image)
    call = _mounted(trial, container_path="/image", image=image, readonly=True, image_sub_path="no/such")
    await refused("CreateContainer and StartContainer of a missing one", call)


@case(
    "CreateContainer",
    Level.OPTIONAL,
    "CRI: Mount.mount_options, with RuntimeFeatures.mount_options",
    "Mount.mount_options",
    "RuntimeFeatures.mount_options",
)
async def mount_options_reach_the_kernel(trial: Trial) -> None:
    """Options of a mount are those in /proc/mounts; an unknown one is an error."""
    trial.needs("mount_options")
    options = ["noexec", "nosuid", "nodev"]
    box = await _mounted(trial, container_path="/mnt", host_path=trial.directory(), mount_options=options)
    found = await box.sh("grep ' /mnt ' /proc/mounts")
    true("options of /mnt", set(options) <= set(found.split()[3].split(",")), ", ".join(options), found)
    call = _mounted(
        trial, container_path="/mnt", host_path=trial.directory(), mount_options=["no-such-option"]
    )
    await refused("CreateContainer and StartContainer with an unknown one", call)
