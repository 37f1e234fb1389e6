"""The ImageService: ListImages, ImageStatus, PullImage, RemoveImage, ImageFsInfo."""

from __future__ import annotations

import os
import time

from crib.conform.case import Level, case
from crib.conform.expect import NotApplicable, equal, refused, true
from crib.conform.trial import Trial
from crib.stubs.runtime.v1 import api_pb2 as pb

_MISSING = "localhost/crib-conform/missing:1"
_GC = "kubelet: image garbage collection"
_RECENT = 300 * 10**9


async def _status(trial: Trial, name: str) -> pb.ImageStatusResponse:
    request = pb.ImageStatusRequest(image=pb.ImageSpec(image=name))
    return await trial.call(trial.images.ImageStatus, request)


async def _listed(trial: Trial, name: str) -> list[pb.Image]:
    wanted = pb.ImageFilter(image=pb.ImageSpec(image=name))
    return list((await trial.call(trial.images.ListImages, pb.ListImagesRequest(filter=wanted))).images)


@case(
    "ImageStatus",
    Level.MUST,
    "CRI: ImageStatus",
    "ImageStatusRequest.image",
    "ImageSpec.image",
    "ImageStatusResponse.image",
    "Image.id,repo_tags,repo_digests,size,spec,pinned",
)
async def of_a_present_image_has_id_names_and_size(trial: Trial) -> None:
    """The status of an image on the node has its id, its names and a size."""
    found = await _status(trial, trial.subject.image)
    true("ImageStatus: image", found.HasField("image"), "it is set", found)
    true("ImageStatus: id", found.image.id, "an id", found.image)
    true("ImageStatus: size", found.image.size > 0, "more than 0", found.image.size)
    names = [*found.image.repo_tags, *found.image.repo_digests]
    true("ImageStatus: repo_tags and repo_digests", names, "at least one name", names)


@case(
    "ImageStatus",
    Level.MUST,
    "CRI: if the image is not present, the response has a nil image and no error",
    "ImageStatusRequest.image",
)
async def of_an_absent_image_is_empty(trial: Trial) -> None:
    """The status of an image that is not on the node is empty, and no error."""
    found = await _status(trial, _MISSING)
    equal("ImageStatus of an absent image: image is set", found.HasField("image"), False)


@case("ImageStatus", Level.MUST, "kubelet asks by the id in ContainerStatus", "ImageStatusRequest.image")
async def takes_an_id(trial: Trial) -> None:
    """An image is found by its id as well."""
    image = (await _status(trial, trial.subject.image)).image
    equal("ImageStatus by id: id", (await _status(trial, image.id)).image.id, image.id)


@case(
    "ImageStatus",
    Level.SHOULD,
    "CRI: ImageStatusRequest.verbose",
    "ImageStatusRequest.verbose",
    "ImageStatusResponse.info",
)
async def has_info_if_asked(trial: Trial) -> None:
    """The status has info when verbose is set, and none otherwise."""
    for verbose in (False, True):
        request = pb.ImageStatusRequest(image=pb.ImageSpec(image=trial.subject.image), verbose=verbose)
        info = (await trial.call(trial.images.ImageStatus, request)).info
        equal(f"ImageStatus: info with verbose={verbose}", bool(info), verbose)


@case("ImageStatus", Level.SHOULD, "kubelet: runAsNonRoot reads the image's user", "Image.uid,username")
async def the_user_is_a_number_or_a_name(trial: Trial) -> None:
    """An image has a uid or a user name, not both."""
    image = (await _status(trial, trial.subject.image)).image
    true(
        "ImageStatus: uid and username",
        not (image.HasField("uid") and image.username),
        "one of them at most",
        image,
    )


@case("ImageStatus", Level.SHOULD, "CRI: ImageStatusRequest.image", "ImageStatusRequest.image")
async def of_no_image_is_refused(trial: Trial) -> None:
    """A request without a name is an error."""
    await refused("ImageStatus without a name", _status(trial, ""))


@case("ListImages", Level.MUST, _GC, "ListImagesResponse.images")
async def images_are_listed_once(trial: Trial) -> None:
    """The list has the image, once."""
    image = (await _status(trial, trial.subject.image)).image
    everything = (await trial.call(trial.images.ListImages, pb.ListImagesRequest())).images
    equal("ListImages: entries with its id", [one.id for one in everything if one.id == image.id], [image.id])


@case("ListImages", Level.SHOULD, "CRI: ImageFilter.image", "ListImagesRequest.filter", "ImageFilter.image")
async def a_filter_picks_one_image(trial: Trial) -> None:
    """A filter by an image's name has it alone, one by an absent name nothing."""
    image = (await _status(trial, trial.subject.image)).image
    equal("ListImages by name", [one.id for one in await _listed(trial, trial.subject.image)], [image.id])
    equal("ListImages by an absent name", await _listed(trial, _MISSING), [])


@case("ListImages", Level.MUST, _GC, "Image.id,repo_tags,repo_digests,size")
async def entries_are_those_of_the_status(trial: Trial) -> None:
    """A list entry has the id, names and size of the status."""
    image = (await _status(trial, trial.subject.image)).image
    everything = (await trial.call(trial.images.ListImages, pb.ListImagesRequest())).images
    item = next(one for one in everything if one.id == image.id)
    for name in ("id", "size"):
        equal(f"ListImages: {name}", getattr(item, name), getattr(image, name))
    for name in ("repo_tags", "repo_digests"):
        equal(f"ListImages: {name}", sorted(getattr(item, name)), sorted(getattr(image, name)))


@case(
    "RemoveImage",
    Level.MUST,
    "CRI: RemoveImage is idempotent and must not fail for what was removed",
    "RemoveImageRequest.image",
)
async def of_an_absent_image_succeeds(trial: Trial) -> None:
    """The removal of an image that is not on the node succeeds."""
    await _remove(trial, _MISSING)


@case("PullImage", Level.MUST, "CRI: PullImage", "PullImageRequest.image")
async def of_nothing_is_refused(trial: Trial) -> None:
    """A pull without a name, or of a name that is none, is an error."""
    for name in ("", "UPPER CASE/:::"):
        call = trial.call(trial.images.PullImage, pb.PullImageRequest(image=pb.ImageSpec(image=name)))
        await refused(f"PullImage of {name!r}", call)


def _pulled_name(trial: Trial) -> str:
    if not trial.subject.pull_image:
        raise NotApplicable("no image to pull and to remove is named (--pull-image)")
    return trial.subject.pull_image


@case(
    "PullImage",
    Level.MUST,
    "CRI: PullImage; kubelet's image manager",
    "PullImageRequest.image,sandbox_config",
    "ImageSpec.annotations,user_specified_image,runtime_handler",
    "PullImageResponse.image_ref",
    "RemoveImageRequest.image",
)
async def an_image_comes_and_goes(trial: Trial) -> None:
    """A pulled image is in status and list by name, id and digest, and is gone after its removal."""
    async with trial.subject.pulling:
        await _come_and_go(trial, _pulled_name(trial))


async def _come_and_go(trial: Trial, name: str) -> None:
    spec = pb.ImageSpec(image=name, user_specified_image=name, annotations={"conform": "pull"})
    request = pb.PullImageRequest(image=spec, sandbox_config=trial.pod_config())
    pulled = await trial.call(trial.images.PullImage, request)
    true("PullImage: image_ref", pulled.image_ref, "a reference", pulled)
    image = (await _status(trial, name)).image
    if image.id == (await _status(trial, trial.subject.image)).image.id:
        # RemoveImage takes all names of one content along, and the other cases need theirs
        raise NotApplicable(f"{name} has the content of {trial.subject.image}")
    true("ImageStatus: repo_tags", name in image.repo_tags, f"{name} is one", list(image.repo_tags))
    true("ImageStatus: repo_digests", image.repo_digests, "a name with a digest", image)
    for how, known in (("image_ref", pulled.image_ref), ("digest", image.repo_digests[0])):
        equal(f"ImageStatus by {how}: id", (await _status(trial, known)).image.id, image.id)
    again = await trial.call(trial.images.PullImage, request)
    equal("PullImage again: image_ref", again.image_ref, pulled.image_ref)
    await _remove(trial, name)
    after = await _status(trial, name)
    equal("ImageStatus after the removal: image is set", after.HasField("image"), False)


async def _remove(trial: Trial, name: str) -> None:
    await trial.call(trial.images.RemoveImage, pb.RemoveImageRequest(image=pb.ImageSpec(image=name)))


@case("PullImage", Level.MUST, "kubelet: ErrImagePull", "PullImageRequest.image")
async def a_tag_that_is_missing_is_an_error(trial: Trial) -> None:
    """A tag that the registry does not have is an error, and nothing is listed."""
    name = f"{_pulled_name(trial).rpartition(':')[0]}:no-such-tag"
    call = trial.call(trial.images.PullImage, pb.PullImageRequest(image=pb.ImageSpec(image=name)))
    await refused("PullImage of a missing tag", call)
    equal("ImageStatus of it: image is set", (await _status(trial, name)).HasField("image"), False)


@case(
    "PullImage",
    Level.SHOULD,
    "CRI: PullImageRequest.auth",
    "PullImageRequest.auth",
    "AuthConfig.username,password,auth,server_address,identity_token,registry_token",
)
async def credentials_that_nobody_asks_for_do_no_harm(trial: Trial) -> None:
    """A registry that asks for no credentials gives the image to one who has some, in each of their forms."""
    name, secret = _pulled_name(trial), "conform"
    forms = (
        pb.AuthConfig(username=secret, password=secret),
        pb.AuthConfig(auth="Y29uZm9ybTpjb25mb3Jt", server_address=name.partition("/")[0]),
        pb.AuthConfig(identity_token=secret),
        pb.AuthConfig(registry_token=secret),
    )
    async with trial.subject.pulling:
        for auth in forms:
            request = pb.PullImageRequest(image=pb.ImageSpec(image=name), auth=auth)
            pulled = await trial.call(trial.images.PullImage, request)
            true("PullImage: image_ref", pulled.image_ref, "a reference", pulled)
        if (await _status(trial, name)).image.id != (await _status(trial, trial.subject.image)).image.id:
            await _remove(trial, name)


@case(
    "ImageFsInfo",
    Level.MUST,
    "kubelet: disk eviction",
    "ImageFsInfoResponse.image_filesystems,container_filesystems",
    "FilesystemUsage.timestamp,fs_id,used_bytes,inodes_used",
    "FilesystemIdentifier.mountpoint",
)
async def tells_what_images_take(trial: Trial) -> None:
    """ImageFsInfo has a file system with a path that exists, used space and inodes, and the time."""
    reply = await trial.call(trial.images.ImageFsInfo, pb.ImageFsInfoRequest())
    true("ImageFsInfo: image_filesystems", reply.image_filesystems, "at least one", reply)
    for one in (*reply.image_filesystems, *reply.container_filesystems):
        true(
            "ImageFsInfo: mountpoint",
            os.path.isdir(one.fs_id.mountpoint),
            "a directory",
            one.fs_id.mountpoint,
        )
        true("ImageFsInfo: inodes_used", one.HasField("inodes_used"), "it is set", one)
        true(
            "ImageFsInfo: timestamp",
            abs(time.time_ns() - one.timestamp) < _RECENT,
            "just now, in nanoseconds",
            one.timestamp,
        )
    used = sum(one.used_bytes.value for one in reply.image_filesystems)
    true("ImageFsInfo: used_bytes", used > 0, "more than 0", used)
