"""What the writer writes, our reader and Python's own read back; GNU tar too, where it is installed."""

from __future__ import annotations

import io
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crib.wire.tar import TarReader
from crib.wire.tar_member import Kind, Member
from crib.wire.tar_records import Extent
from crib.wire.tar_writer import END, member_header, padding, sparse_header

names = st.binary(min_size=1, max_size=300).filter(lambda name: b"\0" not in name and name[-1:] != b"/")
keys = st.sampled_from([b"user.a", b"user.long.name", b"security.capability"])
xattrs = st.dictionaries(keys, st.binary(max_size=200), min_size=1)
kinds = st.sampled_from([kind for kind in Kind if kind is not Kind.BLOCK])


def member(name: bytes, kind: Kind = Kind.FILE, **fields: object) -> Member:
    plain = Member(name, kind, 0o644, 0, 0, 0, 0, 0, 0, 0)
    return plain._replace(**fields)  # type: ignore[arg-type]  # the test names real fields


def archive(*members: tuple[Member, bytes]) -> bytes:
    parts = []
    for one, data in members:
        parts += [member_header(one._replace(size=len(data))), data, bytes(padding(len(data)))]
    return b"".join((*parts, END))


def read(data: bytes) -> list[Member]:
    reader = TarReader()
    members = reader.receive_data(data)
    reader.end()
    return members


@given(
    st.builds(
        Member,
        name=names,
        kind=kinds,
        mode=st.integers(0, 0o7777),
        uid=st.integers(0, 2**32 - 1),
        gid=st.integers(0, 2**32 - 1),
        mtime=st.integers(-(2**40), 2**40),
        mtime_nsec=st.integers(0, 999_999_999),
        size=st.just(0),
        offset=st.just(0),
        stored=st.just(0),
        link=names,
        device=st.tuples(st.integers(0, 0xFFF), st.integers(0, 0xFFFFF)),
        xattrs=st.none() | xattrs,
        sparse=st.none(),
    )
)
def test_any_member_comes_back_as_it_was(written: Member) -> None:
    links = written.kind in (Kind.SYMLINK, Kind.HARD_LINK)
    device = written.device if written.kind is Kind.CHARACTER else (0, 0)
    written = written._replace(link=written.link if links else b"", device=device)
    header = member_header(written)
    (found,) = read(header + END)
    assert len(header) % 512 == 0
    assert found._replace(offset=0, xattrs=found.xattrs or None) == written


@pytest.mark.parametrize("size", [0o77777777777, 0o77777777777 + 1, 1 << 40])
def test_a_large_files_size_comes_back(size: int) -> None:
    (found,) = TarReader().receive_data(member_header(member(b"large", size=size)))
    assert (found.size, found.stored) == (size, size)


def test_the_same_member_gives_the_same_bytes_whatever_the_order_of_its_attributes() -> None:
    one = member(b"a", xattrs={b"user.a": b"1", b"user.b": b"2"})
    other = member(b"a", xattrs={b"user.b": b"2", b"user.a": b"1"})
    assert member_header(one) == member_header(other)


def test_pythons_own_reader_agrees() -> None:
    long = "d\N{LATIN SMALL LETTER A WITH DIAERESIS}/" + "x" * 120
    data = archive(
        (member(b"dir/", Kind.DIRECTORY, mode=0o1777), b""),
        (member(long.encode(), uid=4_000_000_000, mtime=-2, mtime_nsec=500_000_000), b"content"),
        (member(b"link", Kind.SYMLINK, link=b"dir"), b""),
        (member(b"sda", Kind.BLOCK, device=(8, 0)), b""),
    )
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        directory, file, link, disk = tar.getmembers()
        content = tar.extractfile(file)
        assert content is not None
        assert content.read() == b"content"
    assert (directory.name, directory.mode, directory.isdir()) == ("dir", 0o1777, True)
    assert (file.name, file.uid, file.mtime) == (long, 4_000_000_000, -1.5)
    assert (link.linkname, disk.devmajor, disk.devminor) == ("dir", 8, 0)


@pytest.mark.skipif(shutil.which("tar") is None, reason="GNU tar is not installed")
def test_gnu_tar_lists_it(tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    path.write_bytes(
        archive((member(b"one", xattrs={b"user.a": b"\xff\n="}), b"1"), (member(b"y" * 150), b""))
    )
    done = subprocess.run(["tar", "tf", path], capture_output=True, check=True)
    assert done.stdout.split() == [b"one", b"y" * 150]
    assert done.stderr == b""


def test_a_device_number_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="too large"):
        member_header(member(b"x", Kind.CHARACTER, device=(1 << 24, 0)))


@pytest.mark.parametrize(
    "extents",
    [(), (Extent(0, 5),), (Extent(512, 700), Extent(4096, 1)), (Extent(8191, 1),)],
    ids=["a hole", "data first", "two pieces", "data last"],
)
def test_a_file_with_holes_is_read_as_it_was_written(extents: tuple[Extent, ...]) -> None:
    name = b"d" * 120 + b"/file"
    member = Member(name, Kind.FILE, 0o640, 1, 2, 3, 4, 8192, 0, 0, xattrs={b"user.a": b"b"}, sparse=extents)
    stored = sum(extent.length for extent in extents)
    reader = TarReader()
    (found,) = reader.receive_data(sparse_header(member) + bytes(stored + padding(stored)) + END)
    reader.end()
    assert found == member._replace(offset=found.offset, stored=stored)
