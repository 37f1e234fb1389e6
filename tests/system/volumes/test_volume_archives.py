"""Archives of volumes, by the confined process and GNU tar."""

from __future__ import annotations

import contextlib
import gzip
import io
import os
import stat
import subprocess
import sys
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

from crib.backends.volumes.archives import VolumeArchiver
from crib.host.loop_devices import attach_loop, detach_loop
from crib.model.errors import AlreadyExists, Exhausted, InvalidRequest
from crib.model.volumes import AccessMode, VolumeDescription
from crib.wire import volume_archive
from crib.wire.tar_writer import comment_header
from tests.disks import mounted_disk

pytestmark = pytest.mark.root

ARCHIVER = VolumeArchiver("/")
ABOUT = VolumeDescription(
    "shop/data",
    "local",
    "fast",
    capacity=1 << 30,
    access_modes=(AccessMode.READ_WRITE_MANY,),
    labels={"app": "shop", "ü": "\n=x"},
    parameters={"mode": "0750"},
)


def tree(place: Path) -> Path:
    """Of everything that a volume may hold."""
    top = place / "volume"
    (top / "deep" / "er").mkdir(parents=True)
    (top / "deep" / "file").write_bytes(os.urandom(70_000))
    os.chown(top / "deep" / "file", 1000, 2_000_000)
    (top / "deep" / "file").chmod(0o6751)
    os.link(top / "deep" / "file", top / "same")
    (top / "link").symlink_to("/etc/passwd")
    (top / "dangling").symlink_to("x" * 200)
    os.mkfifo(top / "pipe", 0o622)
    (top / ("ü" * 60)).write_bytes(b"")
    (top / "empty").touch()
    with (top / "sparse").open("wb") as file:
        file.write(b"begin")
        file.seek(5 << 20)
        file.write(b"middle")
        file.truncate(11 << 20)
    with (top / "hole").open("wb") as file:
        file.truncate(3 << 20)
    os.setxattr(top / "deep", "user.note", b"\0\xff=\n")
    os.setxattr(top / "empty", "security.capability", CAPABILITY)
    os.utime(top / "deep" / "file", ns=(1_000, 2_000_000_001))
    os.utime(top / "deep", ns=(3_000, 4_500_000_000))
    (top / "deep").chmod(0o1711)
    return top


CAPABILITY = bytes.fromhex("0100000200040000000000000000000000000000")
"""cap_net_bind_service=ep, as setcap(8) writes it."""


def described(top: Path) -> dict[str, object]:
    """All that is to be the same again."""
    found: dict[str, object] = {}
    inodes: dict[int, str] = {}
    for path in [top, *sorted(top.rglob("*"))]:
        status = path.lstat()
        name = str(path.relative_to(top))
        content: object = None
        if stat.S_ISREG(status.st_mode):
            content = path.read_bytes()
        elif stat.S_ISLNK(status.st_mode):
            content = os.readlink(path)
        xattrs = {
            key: os.getxattr(path, key, follow_symlinks=False)
            for key in os.listxattr(path, follow_symlinks=False)
        }
        owner = status.st_uid, status.st_gid
        first = inodes.setdefault(status.st_ino, name)
        found[name] = (status.st_mode, owner, status.st_mtime_ns, content, xattrs, first)
    return found


@pytest.mark.parametrize("name", ["volume.tar", "volume.tar.zst"])
async def test_what_is_exported_is_imported_as_it_was(tmp_path: Path, name: str) -> None:
    top, archive, again = tree(tmp_path), tmp_path / name, tmp_path / "again"
    size = await ARCHIVER.write(str(top), str(archive), ABOUT)
    assert size == archive.stat().st_size
    assert size < 1 << 20
    assert stat.S_IMODE(archive.stat().st_mode) == 0o600
    again.mkdir()
    await ARCHIVER.read(str(archive), str(again))
    assert described(again) == described(top)
    for sparse in ("sparse", "hole"):
        assert (again / sparse).stat().st_blocks * 512 < 1 << 20
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["again", name, "volume"])


@pytest.mark.parametrize("name", ["volume.tar", "volume.tar.zst"])
async def test_an_archive_says_of_which_volume_it_is_and_tar_says_nothing_of_that(
    tmp_path: Path, name: str
) -> None:
    top, archive = tree(tmp_path), tmp_path / name
    await ARCHIVER.write(str(top), str(archive), ABOUT)
    assert await ARCHIVER.describe(str(archive)) == ABOUT
    assert await ARCHIVER.describe(str(top)) is None
    if name.endswith(".tar"):
        listed = _run("tar", "-tf", str(archive))
        assert listed.stderr == ""
        assert listed.stdout.splitlines()[0] == "."


@pytest.mark.parametrize("compress", [False, True])
async def test_an_archive_of_somebody_else_says_nothing(tmp_path: Path, compress: bool) -> None:
    path = tmp_path / "a.tar"
    data = io.BytesIO()
    with tarfile.open(
        fileobj=data, mode="w", format=tarfile.PAX_FORMAT, pax_headers={"comment": "hi"}
    ) as tar:
        tar.addfile(tarfile.TarInfo("x"))
    for content in (data.getvalue(), b"x" * 5000, b"", b"g" * 512, data.getvalue()[:600]):
        path.write_bytes(gzip.compress(content) if compress else content)
        assert await ARCHIVER.describe(str(path)) is None


LONG = "x" * (volume_archive.MAX_DESCRIPTION + 1)
MANY = ", ".join(f'"k{number}": ""' for number in range(300))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{", "malformed"),
        ("[]", "malformed"),
        ('{"capacity": "much"}', "malformed"),
        ('{"capacity": -1}', "a capacity of -1"),
        ('{"capacity": 99999999999999999999}', "malformed|a capacity of"),
        ('{"labels": {"": "x"}}', "an empty key in labels"),
        ('{"labels": {"a": 1}}', "malformed"),
        (f'{{"labels": {{"a": "{LONG[:5000]}"}}}}', "a text of more than 4096 characters"),
        ('{"name": "a\\u0000b"}', "or a NUL"),
        (f'{{"parameters": {{{MANY}}}}}', "more than 256 parameters"),
        ('{"access_modes": ["ReadWriteTwice"]}', "the access mode 'ReadWriteTwice', and there is"),
        (f'{{"name": "{LONG}"}}', "over 65536 bytes"),
    ],
    ids=map(str, range(12)),
)
async def test_a_description_that_cannot_be_is_refused(tmp_path: Path, text: str, problem: str) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(comment_header(volume_archive.PREFIX + text.encode()) + bytes(1024))
    with pytest.raises(InvalidRequest, match=problem) as refused:
        await ARCHIVER.describe(str(path))
    assert refused.value.field == "path"
    assert len(str(refused.value)) < 500


async def test_a_description_that_would_be_too_long_is_written_without_labels_and_parameters(
    tmp_path: Path,
) -> None:
    top, archive = tmp_path / "volume", tmp_path / "a.tar"
    top.mkdir()
    labels = {f"k{number}": "x" * 4000 for number in range(20)}
    await ARCHIVER.write(str(top), str(archive), replace(ABOUT, labels=labels))
    assert await ARCHIVER.describe(str(archive)) == replace(ABOUT, labels={}, parameters={})


async def test_the_same_tree_gives_the_same_bytes(tmp_path: Path) -> None:
    top = tree(tmp_path)
    for name in ("a.tar", "b.tar"):
        await ARCHIVER.write(str(top), str(tmp_path / name), ABOUT)
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()


async def test_tar_unpacks_what_is_exported_and_its_archives_are_imported(tmp_path: Path) -> None:
    top, archive, theirs, ours = tree(tmp_path), tmp_path / "a.tar", tmp_path / "theirs", tmp_path / "ours"
    await ARCHIVER.write(str(top), str(archive), ABOUT)
    theirs.mkdir()
    options = ("--xattrs", "--xattrs-include=*", "-p", "--numeric-owner")
    _run("tar", "-C", str(theirs), *options, "-xf", str(archive))
    assert described(theirs) == described(top)
    for flags in (("--format=posix", *options), ("--format=gnu",)):
        archive.unlink()
        _run("tar", "-C", str(top), "--sparse", *flags, "-cf", str(archive), ".")
        ours.mkdir()
        await ARCHIVER.read(str(archive), str(ours))
        assert described(ours).keys() == described(top).keys()
        if "--format=posix" in flags:
            assert described(ours) == described(top)
        _run("rm", "-r", str(ours))


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done


async def test_sockets_and_devices_stay_behind(tmp_path: Path) -> None:
    top, again = tmp_path / "volume", tmp_path / "again"
    top.mkdir()
    again.mkdir()
    os.mknod(top / "disk", stat.S_IFBLK | 0o600, os.makedev(7, 0))
    os.mknod(top / "socket", stat.S_IFSOCK | 0o600)
    (top / "file").touch()
    await ARCHIVER.write(str(top), str(tmp_path / "a.tar"), ABOUT)
    await ARCHIVER.read(str(tmp_path / "a.tar"), str(again))
    assert [path.name for path in again.iterdir()] == ["file"]


def tar_of(*members: tarfile.TarInfo, content: bytes = b"content") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for member in members:
            if member.type == tarfile.REGTYPE:
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
            else:
                tar.addfile(member)
    return buffer.getvalue()


def info(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, link
    return member


LINK, HARD, DIRECTORY = tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE
HOSTILE = {
    "absolute": (tar_of(info("/etc/x")), "absolute"),
    "upwards": (tar_of(info("a/../../x")), "leads upwards"),
    "upwards by a hard link": (tar_of(info("a", HARD, "../outside")), "leads upwards"),
    "through a link": (tar_of(info("a", LINK, "/"), info("a/x")), "Not a directory"),
    "through a link of a directory": (
        tar_of(info("a", LINK, ".."), info("a/x", DIRECTORY)),
        "symbolic links",
    ),
    "a hard link through a link": (
        tar_of(info("a", LINK, ".."), info("b", HARD, "a/outside")),
        "Not a directory",
    ),
    "over a link": (tar_of(info("a", LINK, "../outside"), info("a")), "File exists"),
    "a file twice": (tar_of(info("a"), info("a")), "File exists"),
    "below a file": (tar_of(info("a"), info("a/b")), "Not a directory"),
    "a device": (tar_of(info("disk", tarfile.BLKTYPE)), "block device"),
    "the directory itself": (tar_of(info("./", LINK, "/nowhere")), "names nothing"),
    "no tar": (b"x" * 2048, "not an octal number"),
    "cut": (tar_of(info("a"), content=b"x" * 4096)[:2048], "ends inside"),
    "empty": (b"", "empty"),
    "damaged gzip": (gzip.compress(bytes(4096))[:-9] + b"x", "gzip"),
}


@pytest.mark.parametrize("case", HOSTILE)
async def test_a_hostile_archive_is_refused_and_reaches_nothing(tmp_path: Path, case: str) -> None:
    data, words = HOSTILE[case]
    (tmp_path / "outside").write_text("untouched")
    archive, target = tmp_path / "a.tar", tmp_path / "target"
    archive.write_bytes(data)
    target.mkdir()
    with pytest.raises(InvalidRequest, match=words) as caught:
        await ARCHIVER.read(str(archive), str(target))
    assert caught.value.field == "path"
    assert (tmp_path / "outside").read_text() == "untouched"
    assert not (tmp_path / "x").exists()


async def test_an_archive_without_the_directories_of_its_files_is_taken(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(tar_of(info("./a/b/c"), info("a/d")))
    (tmp_path / "t").mkdir()
    assert await ARCHIVER.read(str(tmp_path / "a.tar"), str(tmp_path / "t")) == 14
    assert (tmp_path / "t" / "a" / "b" / "c").read_bytes() == b"content"
    assert stat.S_IMODE((tmp_path / "t" / "a" / "b").stat().st_mode) == 0o755


async def test_a_full_disk_is_told(private_root: Path) -> None:
    with mounted_disk(private_root, "ext4") as disk:
        (private_root / "a.tar").write_bytes(tar_of(info("a"), content=os.urandom(8 << 20)))
        _run("fallocate", "-l", "24M", str(disk / "filler"))
        bomb = gzip.compress(tar_of(info("a"), content=b"x" * (9 << 20)), 1)
        (private_root / "bomb.tar.gz").write_bytes(bomb)
        for name in ("a.tar", "bomb.tar.gz"):
            target = disk / f"volume of {name}"
            target.mkdir()
            with pytest.raises(Exhausted, match="'a'"):
                await ARCHIVER.read(str(private_root / name), str(target))
        (private_root / "volume").mkdir()
        (private_root / "volume" / "a").write_bytes(os.urandom(8 << 20))
        with pytest.raises(Exhausted):
            await ARCHIVER.write(str(private_root / "volume"), str(disk / "a.tar"), ABOUT)
        assert not list(disk.glob("a.tar*"))


async def test_the_daemons_disk_keeps_what_it_needs_and_other_disks_fill_up(private_root: Path) -> None:
    with mounted_disk(private_root, "ext4") as disk:
        (private_root / "a.tar").write_bytes(tar_of(info("a")))
        for data, fits in ((private_root, True), (disk, False)):
            target = disk / f"volume {fits}"
            target.mkdir()
            archiver = VolumeArchiver(str(data), min_free=1 << 30)
            with contextlib.nullcontext() if fits else pytest.raises(Exhausted, match="must stay"):
                assert await archiver.read(str(private_root / "a.tar"), str(target)) == 7


async def test_zeros_fill_no_disk(tmp_path: Path) -> None:
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(tar_of(info("a"), content=bytes(64 << 20) + b"x"), 1))
    (tmp_path / "t").mkdir()
    assert await ARCHIVER.read(str(tmp_path / "a.tar.gz"), str(tmp_path / "t")) <= 256 << 10
    status = (tmp_path / "t" / "a").stat()
    assert (status.st_size, status.st_blocks * 512 < 1 << 20) == ((64 << 20) + 1, True)


async def test_an_archive_never_replaces_a_file(tmp_path: Path) -> None:
    (tmp_path / "volume").mkdir()
    (tmp_path / "a.tar").write_text("mine")
    with pytest.raises(AlreadyExists, match="exists") as caught:
        await ARCHIVER.write(str(tmp_path / "volume"), str(tmp_path / "a.tar"), ABOUT)
    assert caught.value.field == "path"
    with pytest.raises(InvalidRequest, match="not the absolute path"):
        await ARCHIVER.write(str(tmp_path / "volume"), "a.tar", ABOUT)
    assert (tmp_path / "a.tar").read_text() == "mine"


async def test_a_directory_is_imported_too(tmp_path: Path) -> None:
    top, again = tree(tmp_path), tmp_path / "again"
    again.mkdir()
    await ARCHIVER.read(str(top), str(again))
    assert described(again) == described(top)


async def test_a_raw_device_is_a_plain_image(private_root: Path) -> None:
    paths = [private_root / name for name in ("first", "second", "small")]
    for path, size in zip(paths, (8 << 20, 9 << 20, 1 << 20), strict=True):
        path.touch()
        os.truncate(path, size)
    content = os.urandom(1 << 20)
    with paths[0].open("r+b") as file:
        file.seek(4 << 20)
        file.write(content)
    devices = [attach_loop(str(path)).path for path in paths]
    image = private_root / "image"
    try:
        assert await ARCHIVER.write(devices[0], str(image), ABOUT) == 8 << 20
        assert image.stat().st_blocks * 512 < 2 << 20
        assert await ARCHIVER.read(str(image), devices[1]) == 8 << 20
        with pytest.raises(InvalidRequest, match="the device 1048576"):
            await ARCHIVER.read(str(image), devices[2])
        with pytest.raises(InvalidRequest, match="a device"):
            await ARCHIVER.read(str(private_root), devices[1])
    finally:
        for device in devices:
            detach_loop(device)
    assert paths[1].read_bytes()[: 8 << 20] == paths[0].read_bytes()


def test_the_process_that_reads_an_archive_sees_nothing_but_the_volume(tmp_path: Path) -> None:
    """What it may do is asked of the process itself, after it has given up all that it does not need."""
    (tmp_path / "volume").mkdir()
    asked = """
import os, socket, sys
sys.path.insert(0, sys.argv[1])
from crib.backends.volumes import archive_main as a
from crib.host import confinement, seccomp, privileges
fd = os.open(sys.argv[2], os.O_RDONLY)
confinement.confine(fd, a._WRITING, os.getppid())
seccomp.confine(seccomp.TREES.values(), sockets=False)
seen = [os.listdir("/")]
device = lambda: os.mknod("disk", 0o60600, os.makedev(7, 0))
for attempt in (device, lambda: os.chroot("."), socket.socket, os.fork):
    try:
        attempt()
    except OSError:
        continue
    seen.append("could")
print(seen)
"""
    root = str(Path(__file__).parents[3] / "src")
    command = [sys.executable, "-I", "-c", asked, root, str(tmp_path / "volume")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout == "[[]]\n", done.stderr
