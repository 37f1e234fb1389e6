"""Layers that cost much more to read than to send: what grows is counted, not timed."""

from __future__ import annotations

import asyncio
import gc
import gzip
import io
import os
import sys
import tarfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from crib.backends.images.worker import inflate, layers
from crib.backends.images.worker.documents import FoundLayer
from crib.backends.images.worker.inflate import Inflater
from crib.backends.images.worker.layers import LayerClaims, LayerError, LayerOptions, write_layer
from crib.backends.images.worker.shares import Crowded, Memory
from crib.backends.images.worker.transfer import FileOrigin, LayerTransfers
from crib.model.ids import Digest
from crib.tasks.groups import Group
from crib.wire import erofs_tree
from crib.wire.erofs_tree import Inode, LayerTree, LayoutError
from crib.wire.tar import TarError, TarReader
from crib.wire.tar_member import MAX_XATTR_BYTES, MAX_XATTRS, Kind, Member
from tests.images import GZIP, BuiltLayer, Entry, digest_of, directory, layer_tar
from tests.unit.backends.blob_lab import TERMS

DEPTH = 500
DEEP = b"/".join(b"d%d" % number for number in range(DEPTH))


def member(name: bytes, kind: Kind = Kind.FILE, link: bytes = b"") -> Member:
    return Member(name, kind, 0o755, 0, 0, 0, 0, 0, 0, 0, link)


def calls(work: Callable[[], object]) -> int:
    """How many functions of Python and C are called by it."""
    count = 0

    def note(frame: object, event: str, argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        work()
    finally:
        sys.setprofile(before)
    return count


def test_global_headers_with_thousands_of_records_cost_no_member_anything() -> None:
    def archive(**headers: str) -> bytes:
        output = io.BytesIO()
        with tarfile.open(fileobj=output, mode="w", format=tarfile.PAX_FORMAT, pax_headers=headers) as tar:
            for number in range(100):
                tar.addfile(tarfile.TarInfo(f"f{number}"))
        return output.getvalue()

    plain, loaded = archive(), archive(**{f"k{number}": "v" for number in range(9_999)})
    cost = calls(lambda: TarReader().receive_data(plain))
    assert calls(lambda: TarReader().receive_data(loaded)) < cost + 100


@pytest.mark.parametrize("kind", [Kind.SYMLINK, Kind.DIRECTORY])
def test_replacing_a_name_deep_down_does_not_walk_the_whole_way_again(kind: Kind) -> None:
    tree = LayerTree()
    tree.add(member(DEEP + b"/first"), 0)
    before = tree.walked
    for _ in range(1000):
        tree.add(member(DEEP + b"/x", kind, b"target"), 0)
        tree.add(member(DEEP + b"/x"), 0)
    assert tree.walked == before


def test_a_replaced_directory_or_link_that_led_somewhere_is_followed_no_more() -> None:
    tree = LayerTree()
    for name in (b"a/f", b"b/f"):
        tree.add(member(name), 0)
    tree.add(member(b"l", Kind.SYMLINK, b"a"), 0)
    tree.add(member(b"l/one"), 0)
    tree.add(member(b"l", Kind.SYMLINK, b"b"), 0)
    tree.add(member(b"l/two"), 0)
    tree.add(member(b"a", Kind.SYMLINK, b"b"), 0)
    tree.add(member(b"a/three"), 0)
    found = tree.root.children or {}
    assert set(found[b"b"].children or {}) == {b"f", b"two", b"three"}


def test_hard_links_into_a_known_directory_walk_no_way() -> None:
    tree = LayerTree()
    tree.add(member(DEEP + b"/first"), 0)
    before = tree.walked
    for number in range(1000):
        tree.add(member(b"%s/l%d" % (DEEP, number), Kind.HARD_LINK, DEEP + b"/first"), 0)
    assert tree.walked == before


def test_ways_through_one_layer_have_a_bound_in_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(erofs_tree, "MAX_WALKED", 10_000)
    tree = LayerTree()
    for number in range(10_000 // DEPTH - 1):
        tree.add(member(b"n%d/%s/x" % (number, DEEP)), 0)
    with pytest.raises(LayoutError, match="lead over more than 10000 names"):
        tree.add(member(b"last/%s/x" % DEEP), 0)


def test_one_directory_by_many_spellings_is_not_remembered_without_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(erofs_tree, "_MAX_KNOWN", 100_000)
    tree = LayerTree()
    for number in range(1000):
        tree.add(member(b"a/" + b"./" * number + b"b/f"), 0)
        assert sum(map(len, tree._directories)) <= 100_000


def test_a_blob_of_many_tiny_gzip_members_is_not_copied_for_each(monkeypatch: pytest.MonkeyPatch) -> None:
    fed = 0
    real = inflate._Gzip

    class Counting(real):  # type: ignore[misc, valid-type]  # the class is a value here
        def feed(self, data: bytes) -> bytes:
            nonlocal fed
            fed += len(data)
            return bytes(super().feed(data))

    monkeypatch.setattr(inflate, "_Gzip", Counting)
    blob = gzip.compress(b"") * 20_000
    inflater = Inflater()
    for start in range(0, len(blob), 1 << 17):
        assert list(inflater.feed(blob[start : start + (1 << 17)])) == []
    # Two dozen bytes each, of which some more are looked at than belong to it.
    assert fed < 60 * len(blob)


def bomb(count: int) -> BuiltLayer:
    """A small blob with many members."""
    return BuiltLayer(layer_tar([Entry(f"f{number}") for number in range(count)]), GZIP)


def write(tmp_path: Path, blob: bytes, check: Callable[[], None] = lambda: None, **options: Any) -> None:
    write_layer([blob], str(tmp_path / "layer"), LayerClaims(), LayerOptions(**options), check)


def attributed(members: int, attributes: int, value: bytes = b"x") -> bytes:
    """A layer of empty files with so many extended attributes each."""
    records = {f"SCHILY.xattr.user.a{number}": value.decode() for number in range(attributes)}
    return layer_tar([Entry(f"f{number}", pax=records) for number in range(members)])


def test_a_file_with_more_extended_attributes_than_any_image_has_is_refused() -> None:
    assert TarReader().receive_data(attributed(1, MAX_XATTRS))
    with pytest.raises(TarError, match=f"{MAX_XATTRS + 1} extended attributes"):
        TarReader().receive_data(attributed(1, MAX_XATTRS + 1))
    with pytest.raises(TarError, match=f"at most {MAX_XATTR_BYTES} are taken"):
        TarReader().receive_data(attributed(1, 3, b"x" * (MAX_XATTR_BYTES // 3)))


def test_a_layer_that_takes_more_memory_than_its_bytes_tell_is_refused(tmp_path: Path) -> None:
    memory = Memory(16 << 20)
    blob = gzip.compress(attributed(1000, MAX_XATTRS))
    with pytest.raises(LayerError, match=rf"{memory.most} bytes of memory that one layer may have"):
        write(tmp_path, blob, memory=memory)
    assert not memory.is_shared
    assert os.listdir(tmp_path) == []
    write(tmp_path, attributed(1000, 3), memory=memory)
    assert not memory.is_shared


def test_the_map_of_a_sparse_file_counts_as_memory(tmp_path: Path) -> None:
    runs = 50_000
    numbers = {"GNU.sparse.map": ",".join(f"{2 * n},1" for n in range(runs)), "GNU.sparse.size": "100000"}
    with pytest.raises(LayerError, match="of memory that one layer may have"):
        write(tmp_path, layer_tar([Entry("s", bytes(runs), pax=numbers)]), memory=Memory(8 << 20))


def test_a_layer_that_finds_the_memory_taken_is_not_to_blame(tmp_path: Path) -> None:
    memory = Memory(16 << 20)
    memory.change(0, memory.most)
    with pytest.raises(Crowded):
        write(tmp_path, attributed(200, MAX_XATTRS), memory=memory)
    assert os.listdir(tmp_path) == []


def test_an_error_of_a_layer_does_not_keep_its_tree(tmp_path: Path) -> None:
    with pytest.raises(LayerError) as caught:
        write(tmp_path, layer_tar([Entry("a"), Entry("b"), Entry("../escape")]))
    assert caught.value.__cause__ is not None
    assert [each for each in gc.get_objects() if isinstance(each, Inode)] == []


def test_a_layer_that_takes_too_much_time_to_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LayerError, match="more than -1 s of CPU time"):
        write(tmp_path, bomb(10).blob, max_cpu_seconds=-1)
    assert os.listdir(tmp_path) == []


def test_whether_to_go_on_is_asked_all_the_time_within_one_piece(tmp_path: Path) -> None:
    asked = 0

    def check() -> None:
        nonlocal asked
        asked += 1

    write(tmp_path, bomb(8 * layers._LOOK_EVERY).blob, check)
    assert asked > 8


def test_sparse_files_have_so_many_extents_at_most(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layers, "MAX_SPARSE_EXTENTS", 9)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for number in range(5):
            one = tarfile.TarInfo(f"sparse{number}")
            one.pax_headers = {
                "GNU.sparse.major": "0",
                "GNU.sparse.minor": "1",
                "GNU.sparse.map": "0,1,4096,1",
                "GNU.sparse.size": "8192",
            }
            one.size = 2
            tar.addfile(one, io.BytesIO(b"xy"))
    with pytest.raises(LayerError, match="more than 9 extents"):
        write(tmp_path, buffer.getvalue())


async def test_an_import_that_nobody_wants_any_more_ends_within_its_piece(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    built = bomb(10 * layers._LOOK_EVERY)
    begun, go = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()
    added = 0
    real = LayerTree.add

    def add(self: LayerTree, one: Member, offset: int) -> object:
        nonlocal added
        added += 1
        loop.call_soon_threadsafe(begun.set)
        assert go.wait(60)
        return real(self, one, offset)

    monkeypatch.setattr(LayerTree, "add", add)
    found = FoundLayer(Digest(built.diff_id), Digest(digest_of(built.blob)), len(built.blob), "x")

    def chunks() -> Iterator[bytes]:
        yield built.blob

    async with Group() as group:
        transfers = LayerTransfers(group)
        wanted = transfers.obtain(found, FileOrigin(chunks), TERMS, lambda _: None)
        task = asyncio.ensure_future(wanted)
        await begun.wait()
        task.cancel()
        # It is told to stop before anything else of the loop comes.
        for _ in range(10):
            await asyncio.sleep(0)
        go.set()
        await asyncio.wait([task])
        transfers.close()
    assert task.cancelled()
    assert added <= layers._LOOK_EVERY
    assert os.listdir() == []


def test_a_directory_in_many_pieces_is_still_one() -> None:
    """What is passed over quickly is read all the same."""
    tar = layer_tar([directory("d"), *(Entry(f"d/f{number}") for number in range(1000))])
    tree = LayerTree()
    reader = TarReader()
    for start in range(0, len(tar), 700):
        for one in reader.receive_data(tar[start : start + 700]):
            tree.add(one, one.offset)
    (node,) = (tree.root.children or {}).values()
    assert len(node.children or {}) == 1000
