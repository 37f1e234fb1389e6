"""The EROFS metadata, read back by a small reader of the format that shares no code with the writer."""

from __future__ import annotations

import stat
import struct
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crib.wire.erofs import SUPERBLOCK_OFFSET, metadata
from crib.wire.erofs_tree import LayerTree, LayoutError
from crib.wire.tar_member import Kind, Member


@dataclass
class Inode:
    nid: int
    mode: int
    size: int
    links: int
    owner: tuple[int, int]
    time: tuple[int, int]
    union: int
    xattrs: dict[bytes, bytes] = field(default_factory=dict)
    data: bytes = b""


class Image:
    def __init__(self, image: bytes) -> None:
        self.image = image
        magic, _, _, bits, _, self.root, self.inos = struct.unpack_from("<IIIBBHQ", image, SUPERBLOCK_OFFSET)
        blocks, self.meta = struct.unpack_from("<II", image, SUPERBLOCK_OFFSET + 36)
        assert magic == 0xE0F5E1E2
        self.block = 1 << bits
        assert blocks * self.block == len(image)
        assert not any(image[SUPERBLOCK_OFFSET + 80 : SUPERBLOCK_OFFSET + 84])

    def inode(self, nid: int) -> Inode:
        at = self.meta * self.block + nid * 32
        form, count, mode, _, size, union, _, uid, gid, sec, nsec, links = struct.unpack_from(
            "<HHHHQIIIIqII", self.image, at
        )
        assert form & 1
        assert mode
        inode = Inode(nid, mode, size, links, (uid, gid), (sec, nsec), union)
        end = at + 64
        if count:
            end += 12 + 4 * (count - 1)
            position = at + 64 + 12
            while position < end:
                length, index, value = struct.unpack_from("<BBH", self.image, position)
                prefix = {1: b"user.", 4: b"trusted.", 6: b"security."}[index]
                name = self.image[position + 4 : position + 4 + length]
                start = position + 4 + length
                inode.xattrs[prefix + name] = self.image[start : start + value]
                position = start + value + -(4 + length + value) % 4
            assert position == end
        if form >> 1 == 2:
            assert end // self.block == (end + size - 1) // self.block
            inode.data = self.image[end : end + size]
        elif stat.S_IFMT(mode) in (stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK):
            inode.data = self.image[union * self.block : union * self.block + size]
            assert len(inode.data) == size
        return inode

    def entries(self, directory: Inode) -> dict[bytes, tuple[int, int]]:
        found: list[tuple[bytes, tuple[int, int]]] = []
        for start in range(0, directory.size, self.block):
            block = directory.data[start : start + self.block]
            count = struct.unpack_from("<QH", block)[1] // 12
            heads = [struct.unpack_from("<QHB", block, 12 * number) for number in range(count)]
            ends = [offset for _, offset, _ in heads[1:]] + [len(block)]
            for (nid, offset, kind), end in zip(heads, ends, strict=True):
                found.append((block[offset:end].rstrip(b"\0"), (nid, kind)))
        assert [name for name, _ in found] == sorted(name for name, _ in found)
        return dict(found)


def build(tree: LayerTree, block: int, data: bytes = b"") -> Image:
    offset = 4096 + len(data) + -len(data) % 4096
    layout = metadata(tree.root, offset, block)
    image = bytearray(layout.file_size)
    image[4096 : 4096 + len(data)] = data
    image[SUPERBLOCK_OFFSET : SUPERBLOCK_OFFSET + len(layout.superblock)] = layout.superblock
    image[offset:] = layout.body
    opened = Image(bytes(image))
    assert opened.inos == layout.inodes
    return opened


def member(name: bytes, kind: Kind = Kind.FILE, **fields: object) -> Member:
    plain = Member(name, kind, 0o750, 70000, 80000, -5, 999, 0, 0, 0)
    return plain._replace(**fields)  # type: ignore[arg-type]  # fields are named by the tests


_name = st.binary(min_size=1, max_size=255).map(
    lambda raw: bytes(byte or 1 for byte in raw).replace(b"/", b"_")
)
_name = _name.filter(lambda raw: raw not in (b".", b"..") and b".wh." not in raw)


@settings(max_examples=80, deadline=None)
@given(
    st.dictionaries(
        _name, st.sampled_from([Kind.FILE, Kind.DIRECTORY, Kind.SYMLINK, Kind.FIFO]), max_size=40
    ),
    st.integers(1, 4095),
    st.sampled_from([512, 4096]),
)
def test_every_name_of_a_directory_is_found_with_its_inode(
    kinds: dict[bytes, Kind], target: int, block: int
) -> None:
    tree = LayerTree()
    for name, kind in kinds.items():
        tree.add(member(b"d/" + name, kind, link=b"t" * target), 0)
    image = build(tree, block)
    root = image.inode(image.root)
    assert image.root != 0
    here = image.entries(root)
    assert here[b"."][0] == here[b".."][0] == image.root
    if not kinds:
        return
    directory = image.inode(here[b"d"][0])
    entries = image.entries(directory)
    assert set(entries) == {*kinds, b".", b".."}
    assert entries[b".."][0] == image.root
    assert directory.links == 2 + sum(kind is Kind.DIRECTORY for kind in kinds.values())
    types = {Kind.FILE: 1, Kind.DIRECTORY: 2, Kind.FIFO: 5, Kind.SYMLINK: 7}
    for name, kind in kinds.items():
        nid, file_type = entries[name]
        assert file_type == types[kind]
        inode = image.inode(nid)
        assert (inode.mode & 0o7777, inode.owner, inode.time) == (0o750, (70000, 80000), (-5, 999))
        if kind is Kind.SYMLINK:
            assert inode.data == b"t" * target


@pytest.mark.parametrize("block", [512, 4096])
def test_files_point_at_their_data_and_links_share_the_inode(block: int) -> None:
    tree = LayerTree()
    tree.add(member(b"a", size=5), 4096)
    tree.add(member(b"b", Kind.HARD_LINK, link=b"a"), 0)
    tree.add(member(b"empty"), 123)
    tree.add(member(b"null", Kind.CHARACTER, device=(259, 70001)), 0)
    image = build(tree, block, b"hello")
    entries = image.entries(image.inode(image.root))
    first = image.inode(entries[b"a"][0])
    assert (first.data, first.links, first.nid) == (b"hello", 2, entries[b"b"][0])
    assert image.inode(entries[b"empty"][0]).size == 0
    device = image.inode(entries[b"null"][0]).union
    assert ((device & 0xFFF00) >> 8, (device & 0xFF) | ((device >> 12) & 0xFFF00)) == (259, 70001)
    assert image.inos == 4


@pytest.mark.parametrize("block", [512, 4096])
def test_xattrs_are_stored_inline_with_the_opaque_mark(block: int) -> None:
    tree = LayerTree()
    xattrs = {b"user.long": b"v" * 700, b"user.a": b"", b"security.capability": bytes(range(20))}
    tree.add(member(b"d", Kind.DIRECTORY, xattrs=xattrs), 0)
    tree.add(member(b"d/.wh..wh..opq"), 0)
    tree.add(member(b"d/after"), 0)
    image = build(tree, block)
    directory = image.inode(image.entries(image.inode(image.root))[b"d"][0])
    assert directory.xattrs == {**xattrs, b"trusted.overlay.opaque": b"y"}
    assert image.inode(image.entries(directory)[b"after"][0]).mode == stat.S_IFREG | 0o750


def test_the_same_tree_gives_the_same_bytes_again() -> None:
    tree = LayerTree()
    other = LayerTree()
    for name in (b"x/1", b"x/2", b"y"):
        tree.add(member(name), 0)
    for name in (b"y", b"x/2", b"x/1"):
        other.add(member(name), 0)
    first = metadata(tree.root, 4096, 512)
    assert first == metadata(tree.root, 4096, 512)
    assert first == metadata(other.root, 4096, 512)


def test_a_file_larger_than_4_gib_keeps_its_size() -> None:
    tree = LayerTree()
    tree.add(member(b"big", size=5 << 32), 4096)
    image = metadata(tree.root, 4096 + (5 << 32), 512)
    position = image.body.index(struct.pack("<H", stat.S_IFREG | 0o750)) - 4
    assert struct.unpack_from("<Q", image.body, position + 8)[0] == 5 << 32


@pytest.mark.parametrize(
    ("xattrs", "reason"),
    [
        ({b"user.": b""}, "cannot be stored"),
        ({b"user." + b"n" * 251: b""}, "cannot be stored"),
        ({b"user.v": bytes(65536)}, "cannot be stored"),
        ({b"user.%d" % number: bytes(65000) for number in range(5)}, "xattrs of one file"),
    ],
)
def test_xattrs_that_cannot_be_held_are_refused(xattrs: dict[bytes, bytes], reason: str) -> None:
    tree = LayerTree()
    tree.add(member(b"f", xattrs=xattrs), 0)
    with pytest.raises(LayoutError, match=reason):
        metadata(tree.root, 4096, 512)


def test_an_image_of_too_many_blocks_is_refused() -> None:
    with pytest.raises(LayoutError, match="at most"):
        metadata(LayerTree().root, 1 << 41, 512)


def test_other_block_sizes_and_offsets_are_refused() -> None:
    with pytest.raises(ValueError, match="block size 1024"):
        metadata(LayerTree().root, 4096, 1024)
    with pytest.raises(ValueError, match="metadata at 512"):
        metadata(LayerTree().root, 512, 512)
