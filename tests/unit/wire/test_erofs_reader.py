"""The EROFS reader: what our writer made is read back, and nothing else is believed."""

from __future__ import annotations

import random
import stat
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crib.wire.erofs import SUPERBLOCK_OFFSET, metadata
from crib.wire.erofs_reader import MAX_DEPTH, Entry, ErofsError, ErofsImage
from crib.wire.erofs_tree import Inode, LayerTree
from crib.wire.tar_member import Kind, Member
from tests.fuzz import fuzz_erofs

OWNER = (70000, 4_000_000_000)


def member(name: bytes, kind: Kind = Kind.FILE, **fields: Any) -> Member:
    return Member(name, kind, 0o750, *OWNER, -5, 999, 0, 0, 0)._replace(**fields)


def build(tree: LayerTree, block: int = 512, data: bytes = b"") -> bytearray:
    offset = 4096 + len(data) + -len(data) % 4096
    layout = metadata(tree.root, offset, block)
    image = bytearray(layout.file_size)
    image[4096 : 4096 + len(data)] = data
    image[SUPERBLOCK_OFFSET : SUPERBLOCK_OFFSET + len(layout.superblock)] = layout.superblock
    image[offset:] = layout.body
    return image


def opened(image: bytes | bytearray) -> ErofsImage:
    whole = bytes(image)
    return ErofsImage(lambda offset, size: whole[offset : offset + size], len(whole))


def walked(image: bytes | bytearray) -> dict[bytes, Entry]:
    entries = list(opened(image).walk())
    found = {entry.path: entry for entry in entries}
    assert len(found) == len(entries)
    return found


def expected(root: Inode) -> dict[bytes, tuple[object, ...]]:
    """What the writer's own tree says of each path."""
    found: dict[bytes, tuple[object, ...]] = {}
    first: dict[int, bytes] = {}

    def visit(path: bytes, node: Inode) -> None:
        xattrs = dict(node.xattrs or {})
        if node.opaque:
            xattrs[b"trusted.overlay.opaque"] = b"y"
        link = first.get(id(node))
        if node.children is None:
            first.setdefault(id(node), path)
        found[path] = (
            *(node.mode, node.uid, node.gid, node.mtime, node.mtime_nsec),
            *(node.device, node.target, xattrs, link),
            node.size if stat.S_ISREG(node.mode) else None,
            node.offset if stat.S_ISREG(node.mode) and node.size else None,
        )
        for name in sorted(node.children or {}):
            assert node.children is not None
            visit(path + b"/" + name if path else name, node.children[name])

    visit(b"", root)
    return found


def seen(entries: dict[bytes, Entry]) -> dict[bytes, tuple[object, ...]]:
    return {
        path: (
            *(inode.mode, inode.uid, inode.gid, inode.mtime, inode.mtime_nsec),
            *(inode.device, inode.target, dict(inode.xattrs), link),
            inode.size if stat.S_ISREG(inode.mode) else None,
            inode.offset if stat.S_ISREG(inode.mode) and inode.size else None,
        )
        for path, _, _, inode, link in entries.values()
    }


_part = st.binary(min_size=1, max_size=255).map(
    lambda raw: bytes(byte or 1 for byte in raw).replace(b"/", b"_")
)
_part = _part.filter(lambda raw: raw not in (b".", b"..") and b".wh." not in raw)
_few = st.sampled_from([b"a", b"b", b"c", b"d"])
_path = st.lists(st.one_of(_few, _part), min_size=1, max_size=4).map(b"/".join)
_kinds = st.sampled_from(list(Kind))
_xattrs = st.one_of(
    st.none(),
    st.dictionaries(
        st.binary(min_size=1, max_size=200).map(lambda raw: b"user." + bytes(byte or 1 for byte in raw)),
        st.binary(max_size=700),
        max_size=4,
    ),
)


@st.composite
def _trees(draw: st.DrawFn) -> LayerTree:
    tree = LayerTree(absolute=True)
    offset = 4096
    for _ in range(draw(st.integers(0, 25))):
        kind = draw(_kinds)
        name = draw(_path)
        if draw(st.integers(0, 9)) == 0:
            head, _, base = name.rpartition(b"/")
            base = draw(st.sampled_from([b".wh." + base[:200], b".wh..wh..opq"]))
            name = head + b"/" + base if head else base
        size = draw(st.integers(0, 2000)) if kind is Kind.FILE else 0
        each = member(
            name,
            kind,
            mode=draw(st.integers(0, 0o7777)),
            mtime=draw(st.integers(-(1 << 62), 1 << 62)),
            size=size,
            link=draw(_path),
            xattrs=draw(_xattrs),
        )
        if kind in (Kind.CHARACTER, Kind.BLOCK):
            each = each._replace(device=(draw(st.integers(0, 4095)), draw(st.integers(0, (1 << 20) - 1))))
        try:
            tree.add(each, offset)
        except ValueError:
            continue
        offset += size + -size % 4096
    return tree


@settings(max_examples=120, deadline=None)
@given(_trees(), st.sampled_from([512, 4096]))
def test_what_the_writer_makes_is_read_back_equal(tree: LayerTree, block: int) -> None:
    image = build(tree, block, bytes(25 * 4096))
    entries = walked(image)
    assert seen(entries) == expected(tree.root)
    assert opened(image).inodes == sum(entry.link is None for entry in entries.values())


@settings(max_examples=60, deadline=None)
@given(_trees(), st.data())
def test_any_flipped_bytes_end_in_entries_or_in_one_error(tree: LayerTree, data: st.DataObject) -> None:
    image = build(tree, 512, bytes(4096))
    start = len(image) - len(image) // 3 if len(image) > 3 * 4096 else 1024
    for _ in range(data.draw(st.integers(1, 6))):
        place = data.draw(st.one_of(st.integers(1024, 1151), st.integers(start, len(image) - 1)))
        image[place] ^= data.draw(st.integers(1, 255))
    try:
        count = sum(1 for _ in opened(image).walk())
    except ErofsError:
        return
    assert count < 10_000


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=16))
def test_a_layer_with_odd_bytes_is_refused_or_stays_inside_its_file(edits: bytes) -> None:
    fuzz_erofs.one_input(edits)


def test_every_single_byte_of_the_metadata_may_be_wrong() -> None:
    tree = LayerTree()
    tree.add(member(b"d/file", size=700, xattrs={b"user.a": b"1"}), 4096)
    tree.add(member(b"d/link", Kind.HARD_LINK, link=b"d/file"), 0)
    tree.add(member(b"s", Kind.SYMLINK, link=b"t" * 600), 0)
    tree.add(member(b"d/.wh..wh..opq"), 0)
    tree.add(member(b"e/f/g", Kind.FIFO), 0)
    good = build(tree, 512, bytes(4096))
    dice = random.Random(3)
    places = [*range(1024, 1152), *range(2 * 4096, len(good))]
    for place in places:
        if place > 1151 and not good[place] and dice.random() < 0.8:
            continue
        image = bytearray(good)
        image[place] ^= dice.randrange(1, 256)
        try:
            paths = {entry.path for entry in opened(image).walk()}
        except ErofsError:
            continue
        assert len(paths) == 8
        assert all(b".." not in path.split(b"/") for path in paths)


@pytest.mark.parametrize("block", [512, 4096])
def test_a_file_says_where_its_data_is_and_a_link_what_it_links_to(block: int) -> None:
    tree = LayerTree()
    tree.add(member(b"dir/first", size=5), 4096)
    tree.add(member(b"second", Kind.HARD_LINK, link=b"dir/first"), 0)
    tree.add(member(b"gone", Kind.CHARACTER), 0)
    image = build(tree, block, b"hello")
    entries = walked(image)
    inode = entries[b"dir/first"].inode
    assert image[inode.offset : inode.offset + inode.size] == b"hello"
    assert (entries[b"second"].link, entries[b"dir/first"].link) == (b"dir/first", None)
    assert (entries[b"dir/first"].name, entries[b"dir/first"].depth) == (b"first", 2)
    assert entries[b"gone"].inode.is_whiteout
    assert list(entries) == [b"", b"dir", b"dir/first", b"gone", b"second"]


def find_dirent(image: bytearray, name: bytes, nid: int) -> int:
    """Where the 12 bytes of a directory entry are: they begin with the inode's number."""
    block = image.index(name, 8192) // 512 * 512
    for place in range(block, block + 512, 12):
        if int.from_bytes(image[place : place + 8], "little") == nid:
            return place
    raise AssertionError(name)


def small() -> bytearray:
    tree = LayerTree()
    tree.add(member(b"dir/inner/file"), 0)
    tree.add(member(b"dir/other", Kind.DIRECTORY), 0)
    tree.add(member(b"dir/zzz", Kind.SYMLINK, link=b"x"), 0)
    return build(tree, 512, bytes(4096))


def test_a_directory_that_contains_itself_is_refused() -> None:
    image = small()
    entries = walked(image)
    place = find_dirent(image, b"innerother", entries[b"dir/inner"].inode.nid)
    image[place : place + 8] = entries[b"dir"].inode.nid.to_bytes(8, "little")
    with pytest.raises(ErofsError, match="reached before"):
        walked(image)


def test_a_directory_in_two_places_is_refused() -> None:
    image = small()
    entries = walked(image)
    place = find_dirent(image, b"innerother", entries[b"dir/other"].inode.nid)
    image[place : place + 8] = entries[b"dir/inner"].inode.nid.to_bytes(8, "little")
    with pytest.raises(ErofsError, match="reached before"):
        walked(image)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"innerother", b"inne/other"),
        (b"innerother", b"inne\0other"),
        (b"innerother", b"otherother"),
        (b"innerother", b"zzzzzother"),
        (b"otherzzz", b"otherabc"),
    ],
)
def test_names_that_lead_elsewhere_or_come_twice_are_refused(old: bytes, new: bytes) -> None:
    image = small()
    place = image.index(old, 8192)
    image[place : place + len(new)] = new
    with pytest.raises(ErofsError, match=r"out of place|leads to|without"):
        walked(image)


def test_a_directory_without_its_dots_is_refused() -> None:
    image = small()
    place = image.index(b"...", 8192)
    image[place : place + 3] = b"..x"
    with pytest.raises(ErofsError, match="reached before"):
        walked(image)


def test_a_name_of_dots_that_leads_to_another_directory_is_refused() -> None:
    image = small()
    entries = walked(image)
    # In `dir`, the root is only reached as "..".
    block = image.index(b"innerother", 8192) // 512 * 512
    root = entries[b""].inode.nid
    place = next(
        place
        for place in range(block, block + 100, 12)
        if int.from_bytes(image[place : place + 8], "little") == root
    )
    image[place : place + 8] = entries[b"dir/other"].inode.nid.to_bytes(8, "little")
    with pytest.raises(ErofsError, match=r"'\.\.' leads to inode"):
        walked(image)


def test_files_that_share_their_data_to_look_larger_are_refused() -> None:
    tree = LayerTree()
    for name in (b"a", b"b"):
        tree.add(member(name, size=3000), 4096)
    with pytest.raises(ErofsError, match="more data in all"):
        walked(build(tree, 512, bytes(3000)))


def test_data_outside_of_the_data_is_refused() -> None:
    tree = LayerTree()
    tree.add(member(b"a", size=3000), 4096)
    with pytest.raises(ErofsError, match="they must lie in"):
        walked(build(tree))


def test_a_tree_that_is_too_deep_is_refused() -> None:
    tree = LayerTree()
    node = tree.root
    for _ in range(MAX_DEPTH + 1):
        child = Inode(stat.S_IFDIR | 0o755)
        assert node.children is not None
        node.children[b"d"] = child
        node = child
    with pytest.raises(ErofsError, match="directories deep"):
        walked(build(tree))


@pytest.mark.parametrize("size", [0, 1023, 1100, 1151, 4096, 8192])
def test_a_file_that_is_cut_short_is_refused(size: int) -> None:
    image = small()[:size]
    with pytest.raises(ErofsError):
        walked(image)


def test_too_many_inodes_are_refused_before_any_is_read() -> None:
    image = bytes(small())
    with pytest.raises(ErofsError, match="at most 3 are read"):
        ErofsImage(lambda offset, size: image[offset : offset + size], len(image), max_inodes=3)


def test_a_reader_that_gives_less_than_asked_is_noticed() -> None:
    image = bytes(small())
    with pytest.raises(ErofsError, match="ends before"):
        list(ErofsImage(lambda offset, size: image[offset : offset + min(size, 2000)], len(image)).walk())
