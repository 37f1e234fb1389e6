"""Copies to and from a container whose tar may be anybody's.

CVE-2018-1002100                 kubectl cp: `..` in a member's name         test_…another_name…
CVE-2019-1002101, -11251         links that lead out, and what goes through  test_…leads_out…
CVE-2019-11246, -11249           a link first, then a file through it        test_…leads_out…
"""

from __future__ import annotations

import asyncio
import errno
import io
import os
import stat
import sys
import tarfile
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from crib.client import Connection, copying
from crib.client.errors import Exhausted, RuntimeFailure
from crib.client.packing import pack
from crib.client.streams import StreamOptions
from crib.client.unpacking import Naming, Problems, Unpacker
from crib.host.files import remove_tree
from crib.model.errors import Broken
from tests.hostile_layers import CANARY, LEADS_OUT, hard_link, looks, symlink
from tests.images import Entry, directory, layer_tar
from tests.unit.client.tar_scripts import Unpacking, members, tar_that
from tests.unit.streaming.lab import BOUND, Lab

TREE = Naming((b"t",), (b"t",))
CONTENT = Naming((), ())


def unpack(root: Path, entries: Sequence[Entry] | bytes, naming: Naming = TREE, step: int = 700) -> Problems:
    archive = entries if isinstance(entries, bytes) else layer_tar(entries)
    unpacker = Unpacker(str(root), naming)
    try:
        for start in range(0, len(archive), step):
            unpacker.receive(archive[start : start + step])
        unpacker.finish()
    finally:
        unpacker.close()
    return unpacker.problems


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "root").mkdir()
    return tmp_path / "root"


@pytest.mark.parametrize("step", [1, 512, 700, 1 << 20])
def test_a_tree_comes_with_modes_times_and_its_own_links(root: Path, step: int) -> None:
    entries = [
        directory("./t", 0o750),
        Entry("./t/empty"),
        Entry("./t/file", os.urandom(3000), 0o4755),
        directory("t/deep/er", 0o500),
        Entry("t/deep/er/file", b"2"),
        symlink("t/deep/er/up", "../../file"),
        symlink("t/name", "deep/./er"),
        hard_link("t/same", "./t/file"),
        Entry("t/" + "l" * 200, b"long"),
    ]
    assert unpack(root, entries, step=step).lines == []
    tree = root / "t"
    assert stat.S_IMODE(tree.stat().st_mode) == 0o750
    assert stat.S_IMODE((tree / "deep/er").stat().st_mode) == 0o500
    assert stat.S_IMODE((tree / "file").stat().st_mode) == 0o755
    assert (tree / "file").read_bytes() == entries[2].data
    assert (tree / "same").stat().st_ino == (tree / "file").stat().st_ino
    assert (tree / "deep/er/up").read_bytes() == entries[2].data
    assert (tree / "name/file").read_bytes() == b"2"
    assert (tree / ("l" * 200)).read_bytes() == b"long"
    info = members(layer_tar(entries))[0]
    assert {path.lstat().st_mtime for path in (tree, tree / "file", tree / "name")} == {info.mtime}
    assert not list(root.rglob(".crib-cp-*"))


def test_a_sparse_file_has_its_holes(root: Path) -> None:
    # GNU format 1.0: the map is in the data
    header = tarfile.TarInfo("t")
    content = b"2\n5\n3\n100000\n4\n".ljust(512, b"\0") + b"abcdefg"
    header.size = len(content)
    header.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "200000"}
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        tar.addfile(header, io.BytesIO(content))
    unpack(root, buffer.getvalue())
    data = (root / "t").read_bytes()
    assert (len(data), data[5:8], data[100000:100004]) == (200000, b"abc", b"defg")
    assert data.count(0) == 200000 - 7


@pytest.mark.parametrize("name", LEADS_OUT)
def test_an_archive_that_leads_out_changes_nothing_outside(root: Path, name: str) -> None:
    outside = root.parent / "outside"
    outside.mkdir()
    (outside / "secret").write_bytes(CANARY)
    before = looks(outside), looks(outside / "secret")
    try:
        problems = unpack(root, LEADS_OUT[name], CONTENT)
    except RuntimeFailure:
        pass
    else:
        assert problems.count
    assert (looks(outside), looks(outside / "secret")) == before
    assert os.listdir(outside) == ["secret"]
    assert (outside / "secret").read_bytes() == CANARY
    for path in root.rglob("*"):
        assert path.resolve().is_relative_to(root), path


@pytest.mark.parametrize(
    "name", ["../t", "t/../../x", "/t", "/etc/passwd", "other", "tt/x", "..", "t/a/../b", "./../t"]
)
def test_another_name_than_was_asked_for_ends_the_copy(root: Path, name: str) -> None:
    with pytest.raises(RuntimeFailure, match="which was not asked for: it is not trusted"):
        unpack(root, [Entry(name, b"x")])
    assert os.listdir(root) == []
    assert os.listdir(root.parent) == ["root"]


@pytest.mark.parametrize(
    ("target", "depth", "inside"),
    [
        ("x", 1, True),
        ("../x", 2, True),
        ("../../x", 2, False),
        ("../x", 1, False),
        ("a/../x", 3, False),
        ("./.././x", 2, True),
        ("..", 2, True),
        ("..", 1, False),
        ("/x", 3, False),
        ("", 3, False),
        ("x", 0, True),
    ],
)
def test_links_lead_to_what_is_in_the_copy_or_are_left_out(target: str, depth: int, *, inside: bool) -> None:
    link = (b"here", *(b"d" for _ in range(depth - 1)), b"link") if depth else (b"here",)
    naming = Naming((b"t",), (b"here",))
    assert naming.is_inside(link, target.encode()) is (inside and depth > 0)


def test_what_is_left_out_is_told(root: Path) -> None:
    entries = [
        directory("t"),
        Entry("t/fifo", kind=tarfile.FIFOTYPE),
        Entry("t/null", kind=tarfile.CHRTYPE),
        symlink("t/passwd", "/etc/passwd"),
        hard_link("t/gone", "t/nothing"),
        symlink("t/a", "b"),
        hard_link("t/b", "t/a"),
        hard_link("t/c", "t"),
        Entry("t/" + "n" * 300, b"x"),
        Entry("t/good", b"x"),
    ]
    problems = unpack(root, entries)
    assert [line.partition(": ")[2].partition(",")[0] for line in problems.lines[:-1]] == [
        "a fifo",
        "a character device",
        "a link that leads out of the copy",
        "a hard link to 't/nothing'",
        "a hard link to 't/a'",
        "a hard link to 't'",
    ]
    assert "File name too long" in problems.lines[-1]
    assert sorted(os.listdir(root / "t")) == ["a", "good"]


def test_a_link_that_was_there_before_is_replaced_or_in_the_way_but_never_followed(root: Path) -> None:
    outside = root.parent / "outside"
    outside.mkdir()
    (outside / "file").write_bytes(CANARY)
    (root / "t").mkdir()
    (root / "t/file").symlink_to(outside / "file")
    (root / "t/d").symlink_to(outside)
    (root / "t/l").symlink_to(outside / "file")
    (root / "t/isdir").mkdir()
    entries = [
        Entry("t/file", b"x"),
        Entry("t/d/new", b"x"),
        directory("t/d"),
        symlink("t/l", "file"),
        Entry("t/isdir", b""),
    ]
    problems = unpack(root, entries)
    assert [line.partition(":")[0] for line in problems.lines] == ["'t/d/new'", "'t/d/'", "'t/isdir'"]
    assert (root / "t/file").read_bytes() == b"x"
    assert not (root / "t/file").is_symlink()
    assert os.readlink(root / "t/l") == "file"
    assert os.listdir(outside) == ["file"]
    assert (outside / "file").read_bytes() == CANARY


def test_an_archive_that_ends_early_leaves_no_half_file(root: Path) -> None:
    (root / "t").write_bytes(b"old")
    archive = layer_tar([Entry("t", bytes(5000))])
    with pytest.raises(RuntimeFailure, match="not complete"):
        unpack(root, archive[:3000])
    assert os.listdir(root) == ["t"]
    assert (root / "t").read_bytes() == b"old"
    with pytest.raises(RuntimeFailure, match="no archive"):
        unpack(root, b"x" * 1024)


def test_there_can_be_a_bound(root: Path) -> None:
    unpacker = Unpacker(str(root), TREE, 1000)
    with pytest.raises(Exhausted, match="more to copy than 1000 bytes"):
        unpacker.receive(layer_tar([directory("t"), Entry("t/a", bytes(600)), Entry("t/b", bytes(600))]))
    unpacker.close()
    assert os.listdir(root / "t") == ["a"]


def test_a_tree_of_this_machine_is_packed_and_comes_back(root: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "d").mkdir(parents=True)
    (source / "d/file").write_bytes(os.urandom(1 << 20))
    (source / "d/file").chmod(0o640)
    os.utime(source / "d/file", ns=(0, 1_234_567_891_123_456_789))
    (source / "link").symlink_to("d/file")
    os.mkfifo(source / "fifo")
    (source / ("ü" * 60)).write_text("long")
    problems = Problems()
    archive = b"".join(pack(str(source), "t", problems))
    assert problems.lines == ["'t/fifo': neither a file, a directory nor a link"]
    assert {info.uid for info in members(archive)} == {0}
    assert unpack(root, archive).lines == []
    assert (root / "t/d/file").read_bytes() == (source / "d/file").read_bytes()
    assert (root / "t/d/file").stat().st_mtime_ns == 1_234_567_891_123_456_789
    assert stat.S_IMODE((root / "t/d/file").stat().st_mode) == 0o640
    assert os.readlink(root / "t/link") == "d/file"
    content = b"".join(pack(str(source), ".", Problems()))
    assert "./d/file" in [info.name for info in members(content)]


def test_a_tree_that_is_deeper_than_calls_can_be_is_packed(tmp_path: Path) -> None:
    depth = sys.getrecursionlimit() + 100
    problems = Problems()
    place = os.open(tmp_path, os.O_RDONLY)
    try:
        for _ in range(depth):
            os.mkdir("d", dir_fd=place)
            below = os.open("d", os.O_RDONLY, dir_fd=place)
            os.close(place)
            place = below
        archive = b"".join(pack(f"{tmp_path}/d", "t", problems))
    finally:
        os.close(place)
        remove_tree(f"{tmp_path}/d")  # pytest cannot
    assert problems.lines == []
    assert [info.name.count("/") for info in members(archive)] == list(range(depth))


@pytest.mark.parametrize(("name", "naming"), [("t", TREE), (".", CONTENT)])
def test_a_file_with_several_names_is_packed_once(
    root: Path, tmp_path: Path, name: str, naming: Naming
) -> None:
    source = tmp_path / "source"
    (source / "d").mkdir(parents=True)
    (source / "a").write_bytes(b"1" * 5000)
    (source / "d/b").hardlink_to(source / "a")
    (source / "c").write_bytes(b"2" * 5000)
    (tmp_path / "outside").hardlink_to(source / "c")
    (source / "e").write_bytes(b"1" * 5000)
    archive = b"".join(pack(str(source), name, Problems()))
    assert sum(info.isreg() for info in members(archive)) == 3
    assert unpack(root, archive, naming).lines == []
    copy = root / "t" if name == "t" else root
    assert (copy / "d/b").samefile(copy / "a")
    assert [(copy / file).stat().st_nlink for file in ("a", "c", "e")] == [2, 1, 1]
    assert [(copy / file).read_bytes()[:1] for file in ("d/b", "c", "e")] == [b"1", b"2", b"1"]


def test_a_name_of_a_file_that_could_not_be_packed_is_none_to_link_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").write_bytes(b"x")
    (tmp_path / "b").hardlink_to(tmp_path / "a")
    real_open = os.open

    def refuses_a(path: bytes, flags: int) -> int:
        if path.endswith(b"/a"):
            raise PermissionError(errno.EACCES, "no")
        return real_open(path, flags)

    monkeypatch.setattr("crib.client.packing.os.open", refuses_a)
    problems = Problems()
    archive = b"".join(pack(str(tmp_path), ".", problems))
    assert problems.lines == ["'./a': no"]
    assert [(info.name, info.isreg()) for info in members(archive)] == [("./b", True)]


def box(lab: Lab, connection: Connection) -> copying.Container:
    return copying.Container(connection, lab.box.id, StreamOptions())


async def test_a_download_goes_into_a_directory_or_gets_a_name(
    lab: Lab, connection: Connection, tmp_path: Path
) -> None:
    lab.script = tar_that(layer_tar([directory("./t"), Entry("./t/a", b"x")]))
    await copying.download(box(lab, connection), "/some/t", str(tmp_path))
    assert (tmp_path / "t/a").read_bytes() == b"x"
    await copying.download(box(lab, connection), "/some/t/", f"{tmp_path}/new/")
    assert (tmp_path / "new/a").read_bytes() == b"x"
    assert lab.commands[1].wanted.argv == ("tar", "cf", "-", "-C", "/some", "./t")  # type: ignore[union-attr]
    lab.script = tar_that(layer_tar([directory("./"), Entry("./a", b"x")]))
    await copying.download(box(lab, connection), "/some/t/.", f"{tmp_path}/content")
    assert (tmp_path / "content/a").read_bytes() == b"x"
    with pytest.raises(FileNotFoundError):
        await copying.download(box(lab, connection), "/t", f"{tmp_path}/no/such")


@pytest.mark.parametrize("there_is", ["nothing", "a file"])
async def test_a_name_with_a_slash_at_its_end_is_of_no_file(
    lab: Lab, connection: Connection, tmp_path: Path, there_is: str
) -> None:
    here = tmp_path / "here"
    if there_is == "a file":
        here.write_bytes(b"old")
    lab.script = tar_that(layer_tar([Entry("./a", b"x")]))
    with pytest.raises(RuntimeFailure, match="there is no directory 'here' to copy into"):
        await copying.download(box(lab, connection), "/some/a", f"{here}/")
    assert here.read_bytes() == b"old" if there_is == "a file" else not here.exists()


async def test_an_interrupted_download_lets_go_when_its_thread_has_ended(
    lab: Lab, connection: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    began, may_go_on, closed = threading.Event(), threading.Event(), threading.Event()

    class Slow(Unpacker):
        def receive(self, data: bytes) -> None:
            began.set()
            may_go_on.wait(BOUND)
            super().receive(data)
            done.append("received")

        def close(self) -> None:
            done.append("closed")
            super().close()
            closed.set()

    monkeypatch.setattr(copying, "Unpacker", Slow)
    lab.script = tar_that(layer_tar([Entry("./a", b"x")]))
    downloading = asyncio.ensure_future(copying.download(box(lab, connection), "/a", str(tmp_path)))
    assert await asyncio.to_thread(began.wait, BOUND)
    downloading.cancel()
    # nothing is to come of it yet, so there is a bound and no event
    assert not await asyncio.to_thread(closed.wait, 0.2)
    may_go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await downloading
    assert done == ["received", "closed"]


@pytest.mark.parametrize(
    ("code", "words", "message"),
    [
        (1, b"tar: no such file", "tar in the container ended with 1: tar: no such file"),
        (2, b"", "ended with 2: it does not say why"),
        (127, b"", "copying needs tar in the container: running it gave 127"),
        (1, b"executable file `tar` not found in $PATH", "copying needs tar in the container: executable"),
        (0, b"", "the container's tar wrote nothing"),
    ],
)
async def test_a_tar_that_fails_is_told(
    lab: Lab, connection: Connection, tmp_path: Path, code: int, words: bytes, message: str
) -> None:
    lab.script = tar_that(b"", code, words)
    with pytest.raises(RuntimeFailure, match=message):
        await copying.download(box(lab, connection), "/t", str(tmp_path))


async def test_a_container_without_tar_is_told(lab: Lab, connection: Connection, tmp_path: Path) -> None:
    lab.failure = Broken('exec: "tar": executable file not found in $PATH')
    with pytest.raises(RuntimeFailure, match=r"copying needs tar in the container: .*not found"):
        await copying.download(box(lab, connection), "/t", str(tmp_path))
    (tmp_path / "a").write_bytes(b"x" * 1000)
    with pytest.raises(RuntimeFailure, match=r"copying needs tar in the container: .*not found"):
        await copying.upload(box(lab, connection), f"{tmp_path}/a", "/t/")


@pytest.mark.parametrize(
    ("source", "destination", "names"),
    [
        ("source", "/dir", ["/dir", "source", "source/a"]),
        ("source", "/dir/", ["/dir/", "source", "source/a"]),
        ("source", "/dir/new", ["/dir", "new", "new/a"]),
        ("source", "new", [".", "new", "new/a"]),
        ("source/a", "/dir/b", ["/dir", "b"]),
        ("source/.", "/else", ["/else", "./a"]),
    ],
)
async def test_an_upload_goes_into_a_directory_or_gets_a_name(
    lab: Lab, connection: Connection, tmp_path: Path, source: str, destination: str, names: list[str]
) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source/a").write_bytes(b"x")
    lab.script = unpacking = Unpacking("/dir")
    problems = await copying.upload(box(lab, connection), f"{tmp_path}/{source}", destination)
    assert problems.count == 0
    assert unpacking.names() == names


@pytest.mark.parametrize(
    ("path", "parts"),
    [
        ("/a/b", ("/a", "b")),
        ("/a/b/", ("/a", "b")),
        ("a", (".", "a")),
        ("/a", ("/", "a")),
        ("/", ("/", ".")),
        (".", (".", ".")),
        ("..", ("..", ".")),
        ("a/..", ("a/..", ".")),
        ("a/.", ("a", ".")),
        ("-a", (".", "-a")),
    ],
)
def test_a_path_is_split_so_that_its_name_can_be_asked_for(path: str, parts: tuple[str, str]) -> None:
    assert copying.split(path) == parts
