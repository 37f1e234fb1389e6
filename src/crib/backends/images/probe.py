"""How layers can be mounted here, found out by mounting a tiny one: kernel versions are no reliable sign.

The image lies in the data root itself, because what works depends on the file system below it: on
overlayfs or tmpfs a file cannot be mounted without a loop device even where the kernel could. Whether layers
can be shown with shifted ids, for pods with user namespaces, is found out in the same way.
"""

from __future__ import annotations

import logging
import mmap
import os
import stat
import tempfile

from crib.backends.failures import why
from crib.backends.images.mounts import mount_layer, prepare_root
from crib.host import files, mounts, selinux
from crib.host.threads import OURS
from crib.host.user_namespaces import IdMaps, IdRange, open_user_namespace
from crib.model.errors import Broken
from crib.model.facts import LayerMounting
from crib.model.image_settings import StoreSettings
from crib.model.paths import Paths
from crib.wire import erofs
from crib.wire.erofs_inode import OPAQUE
from crib.wire.erofs_tree import LayerTree
from crib.wire.tar_member import Kind, Member

_log = logging.getLogger(__name__)
_METHODS = ("file", "loop")
_TRY = "probe-"
_CONTENT = bytes(range(256)) * 20
_RANGES = (IdRange(inside=0, outside=65536, length=65536),)


def probe_mounting(paths: Paths, settings: StoreSettings) -> LayerMounting:
    """The first way that works: file before loop, 512-byte blocks before 4096, direct I/O where it reads
    well; and where no EROFS file can be mounted, directories.

    Settings may force the method and the block size. Takes some 10 ms and blocks. Broken when nothing
    works; its message says what was tried and what to do.
    """
    os.makedirs(paths.layers, mode=0o700, exist_ok=True)
    prepare_root(paths)
    _clear_away(paths)
    methods = _METHODS if settings.mount_method == "auto" else (settings.mount_method,)
    blocks = erofs.BLOCK_SIZES if settings.block_size == 0 else (settings.block_size,)
    label = selinux.label_of_shared_files()
    problems: list[str] = []
    for block_size in blocks:
        for method in methods:
            if method == "directory":
                continue
            for direct_io in (True, False):
                problem = _try(paths, LayerMounting(method, block_size, direct_io))
                if problem is None:
                    detail = "; ".join(problems)
                    return LayerMounting(method, block_size, direct_io, detail, label)
                problems.append(f"{method}, {block_size} bytes{', direct' if direct_io else ''}: {problem}")
    if settings.mount_method in ("auto", "directory"):
        # The block size is that of the EROFS files that are unpacked: the smaller, the less is written.
        problem = _try_directories(paths)
        if problem is None:
            return LayerMounting("directory", blocks[0], False, "; ".join(problems))
        problems.append(f"directory: {problem}")
    raise Broken(
        f"no way to mount layers in {paths.data} works: {'; '.join(problems)}; load the module "
        "(modprobe erofs) and, for loop devices, the module loop, or use a kernel built with CONFIG_EROFS_FS"
    )


def _clear_away(paths: Paths) -> None:
    """Tries of a daemon that was killed in the middle of one."""
    for name in os.listdir(paths.layer_mounts):
        if name.startswith(_TRY):
            mounts.unmount_tree(f"{paths.layer_mounts}/{name}")
            files.remove_tree(f"{paths.layer_mounts}/{name}")
    for name in os.listdir(paths.layers):
        if name.startswith(f".{_TRY}"):
            files.remove_tree(f"{paths.layers}/{name}")


def _try(paths: Paths, mounting: LayerMounting) -> str | None:
    """None when a file with content at an odd block is read back right, or what went wrong."""
    target = tempfile.mkdtemp(prefix=_TRY, dir=paths.layer_mounts)
    try:
        mount_layer(kept_image(paths, mounting.block_size), target, mounting)
        return _read_back(f"{target}/probe")
    except OSError as error:
        return why(error, target)
    finally:
        mounts.unmount(target, lazy=True)
        os.rmdir(target)


def kept_image(paths: Paths, block_size: int) -> str:
    """The file with a `probe_image`: written once, as a start on a disk that is full must not write."""
    path, image = paths.probe(block_size), probe_image(block_size)
    try:
        with open(path, "rb") as file:
            if file.read(len(image) + 1) == image:
                return path
    except FileNotFoundError:
        pass
    files.atomic_write(path, image, 0o600)
    return path


def _try_directories(paths: Paths) -> str | None:
    """None when an overlay of directories in the data root hides what it should, or what is wrong."""
    target = tempfile.mkdtemp(prefix=_TRY, dir=paths.layer_mounts)
    sources = [f"{paths.layers}/.{os.path.basename(target)}-{name}" for name in ("low", "high")]
    mounting = LayerMounting("directory", 0, False)
    places = [f"{target}/{name}" for name in ("low", "high", "root")]
    try:
        _make_directories(*sources)
        for place in places:
            os.mkdir(place)
        for source, place in zip(sources, places[:2], strict=True):
            mount_layer(source, place, mounting)
        mounts.perform(mounts.Overlay(places[2], (places[1], places[0]), read_only=True))
        shown = sorted(os.listdir(places[2])), os.listdir(f"{places[2]}/opaque")
        if shown != (["opaque", "probe"], ["new"]):
            return "overlayfs does not understand whiteouts and opaque directories there"
        return _read_back(f"{places[2]}/probe")
    except OSError as error:
        return why(error, target)
    finally:
        mounts.unmount_tree(target)
        for path in (target, *sources):
            files.remove_tree(path)


def _make_directories(low: str, high: str) -> None:
    for path in (low, f"{low}/opaque", high, f"{high}/opaque"):
        os.mkdir(path)
    for path in (f"{low}/gone", f"{low}/opaque/old", f"{high}/opaque/new"):
        files.atomic_write(path, b"")
    files.atomic_write(f"{low}/probe", _CONTENT)
    os.mknod(f"{high}/gone", stat.S_IFCHR, os.makedev(0, 0))
    os.setxattr(f"{high}/opaque", OPAQUE, b"y")


def _read_back(path: str) -> str | None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if os.pread(fd, len(_CONTENT) + 1, 0) != _CONTENT:
            return "the content read back differs"
        # Programs are mapped, which reads pages another way.
        with mmap.mmap(fd, 0, prot=mmap.PROT_READ) as mapped:
            return None if mapped[:] == _CONTENT else "the content mapped differs"
    finally:
        os.close(fd)


def probe_image(block_size: int) -> bytes:
    """An image of one file; its data begins at a multiple of the block size and of nothing larger."""
    start = erofs.DATA_OFFSET + block_size
    tree = LayerTree()
    tree.add(Member(b"probe", Kind.FILE, 0o444, 0, 0, 0, 0, len(_CONTENT), start, len(_CONTENT)), start)
    end = start + len(_CONTENT)
    offset = end + (-end % erofs.DATA_OFFSET)
    metadata = erofs.metadata(tree.root, offset, block_size)
    image = bytearray(offset)
    image[start:end] = _CONTENT
    image += metadata.body
    image[erofs.SUPERBLOCK_OFFSET : erofs.SUPERBLOCK_OFFSET + len(metadata.superblock)] = metadata.superblock
    return bytes(image)


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
    target = tempfile.mkdtemp(prefix=_TRY, dir=paths.layer_mounts)
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
