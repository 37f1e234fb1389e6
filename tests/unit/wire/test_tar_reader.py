"""The tar reader: whatever the cuts, the same members; what tarfile and GNU tar write is read as meant."""

from __future__ import annotations

import io
import shutil
import subprocess
import tarfile
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crib.wire.tar import MAX_EXTENDED, TarError, TarReader
from crib.wire.tar_member import Kind, Member

_TYPES = {
    Kind.FILE: tarfile.REGTYPE,
    Kind.DIRECTORY: tarfile.DIRTYPE,
    Kind.SYMLINK: tarfile.SYMTYPE,
    Kind.HARD_LINK: tarfile.LNKTYPE,
    Kind.CHARACTER: tarfile.CHRTYPE,
    Kind.BLOCK: tarfile.BLKTYPE,
    Kind.FIFO: tarfile.FIFOTYPE,
}


def read(archive: bytes, cuts: list[int] | None = None, **options: int) -> list[Member]:
    reader = TarReader(**options)
    members = []
    places = sorted({0, len(archive), *(cut % (len(archive) + 1) for cut in cuts or [])})
    for start, stop in pairwise(places):
        members += reader.receive_data(archive[start:stop])
    reader.end()
    return members


def pack(*infos: tarfile.TarInfo, form: int = tarfile.PAX_FORMAT, data: bytes = b"") -> bytes:
    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode="w", format=form) as archive:
        for info in infos:
            archive.addfile(info, io.BytesIO(data.ljust(info.size, b"x")))
    return output.getvalue()


def info(name: str, kind: Kind = Kind.FILE, **fields: object) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type = _TYPES[kind]
    for key, value in fields.items():
        setattr(entry, key, value)
    return entry


_text = st.text(st.characters(exclude_characters="\0/", exclude_categories=["Cs"]), min_size=1, max_size=60)
_names = st.lists(_text, min_size=1, max_size=5).map("/".join)


@st.composite
def _infos(draw: st.DrawFn, wide: bool = True) -> tarfile.TarInfo:
    kind = draw(st.sampled_from(list(Kind)))
    bound = 0xFFFFFFFF if wide else 0o7777777
    entry = info(
        draw(_names),
        kind,
        mode=draw(st.integers(0, 0o7777)),
        uid=draw(st.integers(0, bound)),
        gid=draw(st.integers(0, bound)),
        mtime=draw(st.integers(-(1 << 34) if wide else 0, 1 << 34)),
    )
    if kind is Kind.FILE:
        entry.size = draw(st.integers(0, 1600))
    if kind in (Kind.SYMLINK, Kind.HARD_LINK):
        entry.linkname = draw(_names)
    if kind in (Kind.CHARACTER, Kind.BLOCK):
        entry.devmajor, entry.devminor = draw(st.integers(0, 4095)), draw(st.integers(0, 0o7777777))
    return entry


@settings(max_examples=150, deadline=None)
@given(
    st.lists(_infos(), max_size=6),
    st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT]),
    st.lists(st.integers(0, 1 << 20), max_size=12),
)
def test_any_cuts_give_the_same_members_and_they_are_what_was_written(
    infos: list[tarfile.TarInfo], form: int, cuts: list[int]
) -> None:
    archive = pack(*infos, form=form)
    members = read(archive)
    assert read(archive, cuts) == members
    assert len(members) == len(infos)
    for member, entry in zip(members, infos, strict=True):
        assert member.name.rstrip(b"/") == entry.name.encode().rstrip(b"/")
        assert _TYPES[member.kind] == entry.type
        assert (member.mode, member.uid, member.gid) == (entry.mode, entry.uid, entry.gid)
        assert member.mtime == entry.mtime
        assert member.size == member.stored == entry.size
        if entry.linkname:
            assert member.link == entry.linkname.encode()
        if member.kind in (Kind.CHARACTER, Kind.BLOCK):
            assert member.device == (entry.devmajor, entry.devminor)
        assert archive[member.offset : member.offset + member.stored] == b"x" * entry.size


def test_every_single_cut_of_a_small_archive_gives_the_same_members() -> None:
    archive = pack(
        info("a" * 150, size=3),
        info("d/", Kind.DIRECTORY),
        info("é" * 90, Kind.SYMLINK, linkname="b" * 140),
        info("s", size=600, pax_headers={"SCHILY.xattr.user.k": "v"}),
    )
    whole = read(archive)
    for cut in range(len(archive)):
        assert read(archive, [cut]) == whole


def test_single_bytes_are_enough() -> None:
    archive = pack(info("x" * 200, size=513), info("y", size=0), form=tarfile.GNU_FORMAT)
    assert read(archive, list(range(len(archive)))) == read(archive)


def test_pax_records_override_the_header_and_keep_fractions_and_xattrs() -> None:
    headers = {
        "mtime": "1700000000.25",
        "uid": "4000000000",
        "path": "other/name",
        "SCHILY.xattr.user.colour": "blue",
        "SCHILY.xattr.user.empty": "",
        "comment": "nothing",
    }
    (member,) = read(pack(info("plain", size=1, pax_headers=headers)))
    assert member.name == b"other/name"
    assert (member.mtime, member.mtime_nsec, member.uid) == (1700000000, 250_000_000, 4_000_000_000)
    assert member.xattrs == {b"user.colour": b"blue", b"user.empty": b""}


def test_a_time_before_the_epoch_is_rounded_down() -> None:
    (member,) = read(pack(info("f", pax_headers={"mtime": "-1.5"})))
    assert (member.mtime, member.mtime_nsec) == (-2, 500_000_000)


def test_global_headers_are_passed_over_as_other_runtimes_do() -> None:
    output = io.BytesIO()
    headers = {"SCHILY.xattr.user.all": "1", "uid": "7", "path": "elsewhere"}
    with tarfile.open(fileobj=output, mode="w", format=tarfile.PAX_FORMAT, pax_headers=headers) as archive:
        archive.addfile(info("a"))
        archive.addfile(info("b", pax_headers={"uid": "8"}))
    first, second = read(output.getvalue())
    assert (first.name, first.uid, second.name, second.uid) == (b"a", 0, b"b", 8)
    assert first.xattrs is second.xattrs is None


def test_a_long_name_is_for_one_member_only() -> None:
    archive = pack(info("n" * 300), info("short"), form=tarfile.GNU_FORMAT)
    assert [len(member.name) for member in read(archive)] == [300, 5]


def test_ustar_prefixes_are_joined() -> None:
    name = "p" * 90 + "/" + "q" * 90
    assert read(pack(info(name), form=tarfile.USTAR_FORMAT))[0].name == name.encode()


def test_large_sizes_come_as_base_256() -> None:
    entry = info("big", size=9 << 33)
    header = entry.tobuf(tarfile.GNU_FORMAT)
    reader = TarReader()
    (member,) = reader.receive_data(header)
    assert member.size == 9 << 33
    with pytest.raises(TarError, match="the archive ends inside it"):
        reader.end()


def test_a_file_with_a_trailing_slash_in_an_old_header_is_a_directory() -> None:
    entry = info("olddir/")
    entry.type = tarfile.AREGTYPE
    archive = bytearray(entry.tobuf(tarfile.USTAR_FORMAT))
    archive[0:8] = b"olddir/\0"
    archive[148:156] = b" " * 8
    archive[148:156] = b"%06o\0 " % sum(archive)
    assert read(bytes(archive))[0].kind is Kind.DIRECTORY


def test_end_without_zero_blocks_is_taken_and_bytes_behind_the_end_are_ignored() -> None:
    header = info("f", size=0).tobuf(tarfile.GNU_FORMAT)
    assert len(read(header)) == 1
    assert len(read(header + bytes(512))) == 1
    assert len(read(header + bytes(1024) + b"anything")) == 1
    assert read(b"") == []


@pytest.mark.parametrize(
    ("archive", "reason"),
    [
        (info("f", size=5).tobuf(tarfile.GNU_FORMAT), "ends inside it"),
        (info("f").tobuf(tarfile.GNU_FORMAT)[:300], "ends inside it"),
        (b"hello, this is no tar archive" * 40, "not a"),
        (
            info("f").tobuf(tarfile.GNU_FORMAT) + bytes(512) + info("g").tobuf(tarfile.GNU_FORMAT),
            "zero block",
        ),
        (pack(info("n" * 5000), form=tarfile.GNU_FORMAT), "longer than 4096"),
        (pack(info("f", pax_headers={"comment": "c" * MAX_EXTENDED})), "extended header of"),
        (pack(info("f", pax_headers={"path": "a\0b"})), "NUL"),
        (pack(info("f", pax_headers={"size": "-1"})), "not a decimal"),
        (pack(info("f", pax_headers={"uid": "99999999999"})), "owner 99999999999"),
        (pack(info("f", uid=-2), form=tarfile.GNU_FORMAT), "out of range"),
        (
            pack(info("f", pax_headers={"GNU.sparse.major": "1", "GNU.sparse.minor": "0"})),
            "without GNU.sparse",
        ),
        (
            pack(info("f", size=4, pax_headers={"GNU.sparse.map": "0,9", "GNU.sparse.size": "20"})),
            "does not match the stored size",
        ),
        (
            pack(info("f", size=4, pax_headers={"GNU.sparse.map": "9,2,0,2", "GNU.sparse.size": "20"})),
            "overlaps",
        ),
        (
            pack(info("f", size=4, pax_headers={"GNU.sparse.map": "18,4", "GNU.sparse.size": "20"})),
            "passes the size",
        ),
    ],
)
def test_a_bad_archive_is_refused_with_the_reason(archive: bytes, reason: str) -> None:
    with pytest.raises(TarError, match=reason) as caught:
        read(archive)
    assert "at offset" in str(caught.value)
    with pytest.raises(TarError):
        read(archive, list(range(0, len(archive), 100)))


def test_an_unknown_type_is_refused() -> None:
    entry = info("f")
    entry.type = b"M"
    with pytest.raises(TarError, match="type b'M' is not supported"):
        read(entry.tobuf(tarfile.GNU_FORMAT))


def test_a_wrong_checksum_is_refused_and_a_signed_one_taken() -> None:
    header = bytearray(info("\xff\xfe").tobuf(tarfile.GNU_FORMAT, encoding="latin-1"))
    signed = sum(byte - 256 if byte > 127 else byte for byte in header[:148] + header[156:]) + 256
    header[148:156] = b"%06o\0 " % signed
    assert len(read(bytes(header))) == 1
    header[148:156] = b"%06o\0 " % (signed + 1)
    with pytest.raises(TarError, match="checksum"):
        read(bytes(header))


def test_the_number_of_members_is_bounded() -> None:
    archive = pack(*(info(str(number)) for number in range(5)))
    assert len(read(archive, max_members=5)) == 5
    with pytest.raises(TarError, match="more than 4 members"):
        read(archive, max_members=4)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_damaged_archives_raise_tar_errors_and_nothing_else(data: st.DataObject) -> None:
    archive = bytearray(
        pack(info("a" * 120, size=700, pax_headers={"SCHILY.xattr.user.k": "v"}), info("b", Kind.FIFO))
    )
    for _ in range(data.draw(st.integers(1, 4))):
        archive[data.draw(st.integers(0, len(archive) - 1))] = data.draw(st.integers(0, 255))
    try:
        read(bytes(archive))
    except TarError:
        pass


@pytest.mark.skipif(shutil.which("tar") is None, reason="GNU tar makes the sparse archives")
@pytest.mark.parametrize("style", ["gnu", "0.0", "0.1", "1.0"])
@pytest.mark.parametrize("extents", [1, 3, 30, 200])
def test_sparse_members_of_every_kind_are_read(tmp_path: Path, style: str, extents: int) -> None:
    content = bytearray(extents * 16384 + 9000)
    with (tmp_path / "sparse").open("wb") as file:
        for number in range(extents):
            content[number * 16384 : number * 16384 + 4096] = bytes([number % 255 + 1]) * 4096
            file.seek(number * 16384)
            file.write(content[number * 16384 : number * 16384 + 4096])
        file.truncate(len(content))
    (tmp_path / "after").write_bytes(b"after")
    form = ["--format=gnu"] if style == "gnu" else ["--format=posix", f"--sparse-version={style}"]
    argv = ["tar", "-C", str(tmp_path), "--hole-detection=raw", "-S", *form, "-cf", "-", "sparse", "after"]
    archive = subprocess.run(argv, check=True, stdout=subprocess.PIPE, timeout=20).stdout
    sparse, after = read(archive)
    assert read(archive, list(range(0, len(archive), 333))) == [sparse, after]
    assert sparse.name == b"sparse"
    assert (sparse.size, sparse.stored < sparse.size) == (len(content), True)
    expanded = bytearray(sparse.size)
    at = sparse.offset
    for extent in sparse.sparse or ():
        expanded[extent.offset : extent.offset + extent.length] = archive[at : at + extent.length]
        at += extent.length
    assert expanded == content
    assert archive[after.offset : after.offset + after.stored] == b"after"
