"""Whether layers can be shown with shifted ids, for pods with user namespaces: found out by doing it."""

from __future__ import annotations

import logging
import os
import tempfile

from crib.backends.images.mounts import mount_layer
from crib.backends.images.probe import kept_image
from crib.host import files, mounts
from crib.host.threads import OURS
from crib.host.user_namespaces import IdMaps, IdRange, open_user_namespace
from crib.model.facts import LayerMounting
from crib.model.paths import Paths

_log = logging.getLogger(__name__)
_RANGES = (IdRange(inside=0, outside=65536, length=65536),)


async def probe_id_maps(paths: Paths, mounting: LayerMounting) -> bool:
    """Whether a user namespace can be made, and an overlay over a layer that is id-mapped shows its ids.

    Takes some 5 ms. Why not is logged.
    """
    try:
        async with open_user_namespace(IdMaps(_RANGES, _RANGES)) as userns_fd:
            owner = await OURS.run(
                f"probing id maps below {paths.layer_mounts}", _owner_shown, paths, mounting, userns_fd
            )
    except (OSError, TimeoutError) as error:
        _log.info("pods cannot have user namespaces here: %s", error)
        return False
    if owner != _RANGES[0].outside:
        _log.info("pods cannot have user namespaces here: id-mapped layers show the owner %d", owner)
    return owner == _RANGES[0].outside


def _owner_shown(paths: Paths, mounting: LayerMounting, userns_fd: int) -> int:
    """Who owns root's file of a layer, looked at through an id-mapped mount and an overlay."""
    target = tempfile.mkdtemp(prefix="probe-", dir=paths.layer_mounts)
    source = made = f"{paths.layers}/.{os.path.basename(target)}"
    layer, mapped, empty, root = (f"{target}/{name}" for name in ("layer", "mapped", "empty", "root"))
    try:
        for place in (layer, mapped, empty, root):
            os.mkdir(place)
        if mounting.method == "directory":
            os.mkdir(source)
            files.atomic_write(f"{source}/probe", b"")
        else:
            source = kept_image(paths, mounting.block_size)
        mount_layer(source, layer, mounting)
        mounts.perform(mounts.Bind(layer, mapped, recursive=False, idmap_fd=userns_fd))
        mounts.perform(mounts.Overlay(root, (mapped, empty), read_only=True))
        return os.stat(f"{root}/probe").st_uid
    finally:
        mounts.unmount_tree(target)
        for path in (target, made):
            files.remove_tree(path)
