"""The process that reads one checkpoint: root without rights beyond one directory.

It gets the checkpoint and a directory by descriptor only, makes the directory its root, keeps the few
capabilities that making foreign files needs, does one thing, and says how it went on its output.
"""

from __future__ import annotations

import errno
import os
import sys

import msgspec

from crib.backends.oci.checkpoint_changes import apply_changes
from crib.backends.oci.checkpoint_source import CheckpointParts, Unsound, open_source
from crib.host import confinement, privileges, seccomp
from crib.wire import checkpoint_archive as wire
from crib.wire.oci_runtime import decode_process

MAX_ANSWER = 16 << 20
"""Bytes of the answer at most."""
INSPECT, PROCESS, IMAGES, CHANGES = "inspect", "process", "images", "changes"
_READING = ("DAC_READ_SEARCH",)
_WRITING = ("CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "SETFCAP")
_DESCRIPTORS = 512
_MEMORY = 512 << 20
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_LONGEST = 4000


class CheckpointAnswer(msgspec.Struct, frozen=True):
    """How it went: an `error`, or what the checkpoint says of itself."""

    error: str = ""
    unsound: bool = False
    """Whether the checkpoint is to blame."""
    full: bool = False
    """Whether the disk is full."""
    name: str = ""
    image: str = ""
    image_ref: str = ""
    image_name: str = ""
    process: wire.SavedProcess | None = None


def inspect(source: CheckpointParts) -> CheckpointAnswer:
    """What it is of."""
    part = source.part(wire.CONFIG)
    if part is None:
        raise Unsound(f"it has no {wire.CONFIG}: it is no checkpoint of a container")
    try:
        config = wire.decode_config(part.read(wire.MAX_DOCUMENT, wire.CONFIG))
    except msgspec.MsgspecError as error:
        raise Unsound(f"{wire.CONFIG}: {error}") from error
    texts = (config.name, config.image, config.image_ref, config.image_name)
    if max(map(len, texts)) > _LONGEST:
        raise Unsound(f"{wire.CONFIG} has a name of more than {_LONGEST} characters")
    return CheckpointAnswer("", False, False, *texts)


def read_process(source: CheckpointParts) -> CheckpointAnswer:
    """What it was."""
    if (part := source.part(wire.SPEC)) is None:
        raise Unsound(f"it has no {wire.SPEC}")
    try:
        process = wire.saved_process(decode_process(part.read(wire.MAX_DOCUMENT, wire.SPEC)))
    except msgspec.MsgspecError as error:
        raise Unsound(f"{wire.SPEC}: {error}") from error
    return CheckpointAnswer(process=process)


def write_images(source: CheckpointParts, root: int) -> None:
    """CRIU's images into an empty directory."""
    found = False
    for name, part in source.images():
        found = found or name == "inventory.img"
        fd = os.open(name, _NEW, 0o600, dir_fd=root)
        try:
            for piece in part.pieces():
                left = memoryview(piece)
                while left:
                    left = left[os.write(fd, left) :]
        finally:
            os.close(fd)
    if not found:
        raise Unsound("it has no images of CRIU's")


def _answer(what: str, source_fd: int, root_fd: int) -> CheckpointAnswer:
    try:
        source = open_source(source_fd)
        if what == INSPECT:
            return inspect(source)
        if what == PROCESS:
            return read_process(source)
        if what == IMAGES:
            write_images(source, root_fd)
        elif (diff := source.part(wire.DIFF)) is not None:
            apply_changes(diff, source.part(wire.DELETED), root_fd)
        return CheckpointAnswer()
    except (ValueError, OSError, MemoryError) as error:
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        return CheckpointAnswer(
            f"{error or type(error).__name__}"[:_LONGEST], isinstance(error, ValueError), full
        )


def main(arguments: list[str]) -> None:
    """Arguments: what to do; descriptors of the checkpoint and of the directory; our parent."""
    what, source_fd, root_fd, parent = arguments[0], *map(int, arguments[1:])
    os.umask(0)
    # Once, to load what coding needs: nothing can be loaded after the root has changed.
    msgspec.msgpack.encode(CheckpointAnswer())
    wire.decode_config(b'{"id":"","name":""}')
    wire.decode_deleted(b"[]")
    wire.saved_process(decode_process(b'{"process": {"user": {"uid": 0, "gid": 0}, "args": [], "cwd": "/"}}'))
    privileges.limit(_DESCRIPTORS, _MEMORY)
    confinement.confine(root_fd, _READING if what in (INSPECT, PROCESS) else _WRITING, parent)
    seccomp.confine(seccomp.TREES.values(), sockets=False)
    answer = _answer(what, source_fd, root_fd)
    sys.stdout.buffer.write(msgspec.msgpack.encode(answer))
    sys.stdout.buffer.flush()
