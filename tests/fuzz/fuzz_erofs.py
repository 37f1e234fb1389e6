"""Any bytes over a layer's file: it is refused by one error, or it is a tree that stays inside the file.

One of the targets of `targets.py`; the suite also runs it with edits from hypothesis
(tests/unit/wire/test_erofs_reader.py), and mounts what passes (tests/system/images/test_erofs_mount.py).
"""

from __future__ import annotations

import stat
from struct import Struct
from typing import Any

from crib.wire.erofs import DATA_OFFSET, SUPERBLOCK_OFFSET, metadata
from crib.wire.erofs_reader import ErofsError, ErofsImage
from crib.wire.erofs_tree import LayerTree
from crib.wire.tar_member import Kind, Member

_EDIT = Struct("<BHB")
_DATA = bytes(range(1, 251)) * 80


def layer_file(block: int = 512) -> bytes:
    """A small layer with one of everything that a layer can hold."""
    tree = LayerTree()

    def add(name: str, kind: Kind = Kind.FILE, **fields: Any) -> None:
        tree.add(Member(name.encode(), kind, 0o750, 7, 8, 9, 10, 0, 0, 0)._replace(**fields), DATA_OFFSET)

    add("d", Kind.DIRECTORY, xattrs={b"user.a": b"1", b"user.b": b"2" * 40})
    add("d/file", size=9000, xattrs={b"user.c": b"3" * 20})
    add("d/link", Kind.HARD_LINK, link=b"d/file")
    add("d/.wh..wh..opq")
    add("d/.wh.gone")
    add("e/f/g/fifo", Kind.FIFO)
    add("e/null", Kind.CHARACTER, device=(1, 3))
    add("e/disk", Kind.BLOCK, device=(300, 70_000))
    add("short", Kind.SYMLINK, link=b"d/file")
    add("long", Kind.SYMLINK, link=b"t" * 600)
    for number in range(60):
        add(f"wide/{number:02d}{'n' * number}", size=number)
    end = DATA_OFFSET + len(_DATA)
    layout = metadata(tree.root, end + -end % DATA_OFFSET, block)
    image = bytearray(layout.file_size)
    image[DATA_OFFSET:end] = _DATA
    image[SUPERBLOCK_OFFSET : SUPERBLOCK_OFFSET + len(layout.superblock)] = layout.superblock
    image[layout.offset :] = layout.body
    return bytes(image)


def edited(image: bytes, edits: bytes) -> bytes:
    """The file with some bytes of its superblock and metadata changed: kind, place and value of each edit."""
    changed = bytearray(image)
    meta = ErofsImage(lambda offset, size: image[offset : offset + size], len(image)).data_end
    for kind, place, value in _EDIT.iter_unpack(edits[: len(edits) // _EDIT.size * _EDIT.size]):
        if kind % 8 == 0:
            changed[SUPERBLOCK_OFFSET + place % 128] = value
        elif kind % 8 < 6:
            changed[meta + place % (len(image) - meta)] = value
        else:
            # What is right in one place stands in another: a slot of an inode, or a directory's entry.
            size = 32 if kind % 8 == 6 else 12
            source, target = meta + size * value, meta + place % (len(image) - meta - size)
            changed[target : target + size] = image[source : source + size]
    return bytes(changed)


IMAGE = layer_file()


def one_input(data: bytes) -> None:
    """The bytes are edits of a layer's file; the caller behaves as the daemon would."""
    image = edited(IMAGE, data)
    opened = None
    try:
        opened = ErofsImage(lambda offset, size: image[offset : offset + size], len(image))
        opened.check()
    except ErofsError:
        return
    entries = list(opened.walk())
    assert len({entry.path for entry in entries}) == len(entries)
    for entry in entries:
        inode = entry.inode
        assert b".." not in entry.path.split(b"/")
        assert all(name.startswith((b"user.", b"security.", b"trusted.overlay.o")) for name in inode.xattrs)
        if stat.S_ISREG(inode.mode) and inode.size:
            assert DATA_OFFSET <= inode.offset <= inode.offset + inode.size <= opened.data_end
