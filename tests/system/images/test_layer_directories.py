"""Layers as directories: whole or not there, kept apart from all else, checked, gone under containers."""

from __future__ import annotations

import asyncio
import io
import os
import stat
import tarfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from crib.backends import confined_programs
from crib.backends.images.mounts import LayerMounts
from crib.backends.images.probe import probe_mounting
from crib.backends.images.unpacked import tree_writer
from crib.backends.images.unpacked.directories import DirectoryLayers, check_directory, unpack_file
from crib.backends.images.unpacked.tree_digest import digest_directory
from crib.backends.images.unpacked.unpack_main import unpack
from crib.backends.images.worker.layers import LayerClaims, LayerError, LayerOptions, write_layer
from crib.host import mounts
from crib.host.files import disk_usage
from crib.host.mounts import Overlay, Tmpfs, mounts_below, perform, unmount, unmount_tree
from crib.model.errors import Broken, Exhausted, NotFound
from crib.model.facts import LayerMounting
from crib.model.ids import Digest
from crib.model.image_settings import StoreSettings
from crib.model.paths import Paths
from tests.images import Entry, busybox_image, directory, layer_tar, write_oci_archive
from tests.system.labs.daemon import until
from tests.system.labs.image_lab import image_lab

pytestmark = [
    pytest.mark.root,
    pytest.mark.system,
    pytest.mark.skipif(os.geteuid() != 0, reason="making files of other owners needs root"),
]

DIRECTORY = LayerMounting("directory", 512, False)
LAYER = Digest("sha256:" + "ab" * 32)
OTHER = Digest("sha256:" + "cd" * 32)


@pytest.fixture
def paths(tmp_path: Path) -> Iterator[Paths]:
    made = Paths(str(tmp_path / "data"), str(tmp_path / "state"))
    for path in (made.layers, made.containers):
        os.makedirs(path)
    yield made
    unmount_tree(str(tmp_path))
    assert mounts_below(str(tmp_path)) == []


def put(paths: Paths, layer: Digest, *entries: Entry) -> None:
    """A layer's EROFS file as it is after adoption."""
    write_layer([layer_tar(entries)], paths.layer_file(layer), LayerClaims(), LayerOptions())


def names(paths: Paths) -> list[str]:
    return sorted(os.listdir(paths.layers))


def short(layer: Digest, suffix: str) -> str:
    return layer.removeprefix("sha256:") + suffix


async def test_a_layer_is_unpacked_once_for_all_who_want_it(paths: Paths) -> None:
    put(paths, LAYER, Entry("a/file", b"x" * 10_000, 0o4755, uid=5, gid=6))
    layers = DirectoryLayers(paths)
    sizes = await asyncio.gather(*(layers.unpack(LAYER) for _ in range(4)))
    assert len(set(sizes)) == 1
    assert sizes[0] == layers.size(LAYER)
    assert (sizes[0] or 0) > 10_000
    assert names(paths) == [short(LAYER, ".dir"), short(LAYER, ".tree")]
    assert layers.listed() == [LAYER]
    usage = layers.usage()
    assert (usage.bytes, usage.inodes) == (sizes[0], 3)
    measured = disk_usage(paths.layer_directory(LAYER))
    assert (measured.bytes, measured.inodes) == (usage.bytes, usage.inodes)
    made = os.stat(f"{paths.layer_directory(LAYER)}/a/file")
    assert (stat.S_IMODE(made.st_mode), made.st_uid, made.st_gid) == (0o4755, 5, 6)
    assert await layers.check(LAYER) == ""


async def test_a_layer_that_is_nowhere_is_not_found(paths: Paths) -> None:
    layers = DirectoryLayers(paths)
    with pytest.raises(NotFound, match="not on disk"):
        await layers.unpack(LAYER)
    with pytest.raises(Broken, match="not the digest"):
        await layers.unpack(Digest("../../x"))
    assert layers.size(LAYER) is None
    assert "missing" in await layers.check(LAYER)


async def test_a_file_that_is_no_layer_leaves_no_directory(paths: Paths) -> None:
    Path(paths.layer_file(LAYER)).write_bytes(bytes(1 << 14))
    with pytest.raises(Broken, match="no EROFS file"):
        await DirectoryLayers(paths).unpack(LAYER)
    assert names(paths) == [short(LAYER, ".erofs")]


async def test_metadata_that_is_damaged_ends_the_unpacking_and_leaves_no_directory(paths: Paths) -> None:
    """A bad layer must neither hang nor stay (containers/storage CVE-2021-20291)."""
    put(paths, LAYER, *(Entry(f"d/{number}", b"x") for number in range(50)))
    image = Path(paths.layer_file(LAYER))
    data = bytearray(image.read_bytes())
    data[-8000:-7000] = b"\xff" * 1000
    image.write_bytes(data)
    with pytest.raises(Broken, match="could not be unpacked"):
        await DirectoryLayers(paths).unpack(LAYER)
    assert names(paths) == [short(LAYER, ".erofs")]


async def test_opaque_directories_cost_no_more_than_others(paths: Paths) -> None:
    """Neither their number nor their depth makes them dear (GHSA-rp3h-jf77-q9p4)."""
    deep = "/".join(["d"] * 400)
    put(
        paths,
        LAYER,
        *(Entry(f"w{number}/.wh..wh..opq") for number in range(2000)),
        *(Entry(f"{deep[: 2 * number + 1]}/.wh..wh..opq") for number in range(400)),
    )
    layers = DirectoryLayers(paths)
    async with asyncio.timeout(120):
        await layers.unpack(LAYER)
    root = paths.layer_directory(LAYER)
    assert os.getxattr(f"{root}/w1999", "trusted.overlay.opaque") == b"y"
    assert os.getxattr(f"{root}/{deep}", "trusted.overlay.opaque") == b"y"
    assert await layers.check(LAYER) == ""


async def test_a_full_disk_is_said_before_and_while_writing(paths: Paths, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    perform(Tmpfs(str(small), 3 << 20))
    full = Paths(str(small), paths.state)
    os.mkdir(full.layers)
    put(full, LAYER, *(Entry(f"f{number}", b"x") for number in range(700)))
    with pytest.raises(Exhausted, match="are needed"):
        await DirectoryLayers(full, min_free=1 << 30).unpack(LAYER)
    with pytest.raises(Exhausted, match="No space left"):
        await DirectoryLayers(full).unpack(LAYER)
    assert names(full) == [short(LAYER, ".erofs")]


async def test_a_cancelled_caller_leaves_nothing_half_made(
    paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(paths, LAYER, *(Entry(f"f{number}", b"x" * 5000) for number in range(300)))
    layers = DirectoryLayers(paths)
    with monkeypatch.context() as halfway:
        # As the helper in the middle of its work, however fast the machine is: it sleeps until it is killed.
        script = "import os, sys, time; os.mkdir('half', dir_fd=int(sys.argv[3])); time.sleep(600)"
        halfway.setattr(confined_programs, "_START", script)
        work = asyncio.ensure_future(layers.unpack(LAYER))
        half = Path(paths.layers, f".{short(LAYER, '.unpacking')}", "half")
        # What happens in between is seen in the directory only.
        await until(half.exists)
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work
    assert names(paths) == [short(LAYER, ".erofs")]
    assert await layers.unpack(LAYER) > 300 * 4096


@pytest.mark.parametrize(
    "changed", ["content", "mode", "owner", "xattr", "name", "link", "device", "missing"]
)
async def test_a_check_finds_whatever_was_changed(paths: Paths, changed: str) -> None:
    put(
        paths,
        LAYER,
        *(directory("d"), Entry("d/file", b"x" * 100_000), Entry("link", kind=tarfile.SYMTYPE, link="d")),
        *(Entry("fifo", kind=tarfile.FIFOTYPE), Entry("d/.wh.gone")),
    )
    layers = DirectoryLayers(paths)
    await layers.unpack(LAYER)
    root = Path(paths.layer_directory(LAYER))
    file = root / "d/file"
    times = file.stat()
    match changed:
        case "content":
            with file.open("r+b") as opened:
                opened.seek(70_000)
                opened.write(b"y")
            os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
        case "mode":
            (root / "d").chmod(0o777)
        case "owner":
            os.chown(root / "fifo", 1, 0)
        case "xattr":
            os.setxattr(root, "trusted.overlay.opaque", b"y")
        case "name":
            file.rename(root / "d/fila")
        case "link":
            os.link(file, root / "d/other")
        case "device":
            os.unlink(root / "d/gone")
            os.mknod(root / "d/gone", stat.S_IFCHR, os.makedev(0, 1))
        case "missing":
            file.unlink()
    assert "its tree has the digest" in await layers.check(LAYER)


async def test_holes_and_stored_zeros_are_the_same_to_a_check(tmp_path: Path) -> None:
    for name in ("hole", "zeros"):
        (tmp_path / name).mkdir()
    with (tmp_path / "hole/f").open("wb") as file:
        file.truncate(300_000)
    (tmp_path / "zeros/f").write_bytes(bytes(300_000))
    found = {await check_directory(str(tmp_path / name)) for name in ("hole", "zeros")}
    assert len(found) == 1
    with pytest.raises(Broken, match="could not be checked"):
        await check_directory(str(tmp_path / "nothing"))


async def test_what_a_crash_left_goes_and_the_rest_stays(paths: Paths) -> None:
    put(paths, LAYER, Entry("a"))
    layers = DirectoryLayers(paths)
    await layers.unpack(LAYER)
    put(paths, LAYER, Entry("a"))  # the daemon died before it removed the file
    put(paths, OTHER, Entry("b"))
    half = f"{paths.layers}/.{short(OTHER, '.unpacking')}"
    os.makedirs(f"{half}/x/y")
    os.makedirs(f"{paths.layers}/.{short(OTHER, '.1-1.removed')}/x")
    for name in (short(OTHER, ".tree"), "unrelated", ".unrelated"):
        Path(f"{paths.layers}/{name}").write_bytes(b"")
    await layers.tidy()
    assert names(paths) == sorted(
        [short(LAYER, ".dir"), short(LAYER, ".tree"), short(OTHER, ".erofs"), "unrelated", ".unrelated"]
    )
    assert await layers.unpack(OTHER) > 0


async def test_a_layer_without_its_digest_runs_and_fails_its_check(paths: Paths) -> None:
    put(paths, LAYER, Entry("a", b"x" * 5000))
    layers = DirectoryLayers(paths)
    size = await layers.unpack(LAYER)
    Path(f"{paths.layers}/{short(LAYER, '.tree')}").write_bytes(b"torn")
    assert layers.size(LAYER) == size == await layers.unpack(LAYER)
    assert "missing" in await layers.check(LAYER)


async def test_layers_are_mounted_shared_recovered_and_unmounted(paths: Paths) -> None:
    put(paths, LAYER, Entry("suid", b"#!", 0o4755))
    layers = DirectoryLayers(paths)
    mounts = LayerMounts(paths, DIRECTORY, layers)
    # Not unpacked yet: a file from a time when EROFS could be mounted.
    both = await asyncio.gather(mounts.acquire([LAYER]), mounts.acquire([LAYER]))
    assert both[0] == both[1] == [paths.layer_mount(LAYER)]
    flags = os.statvfs(both[0][0]).f_flag
    assert flags & os.ST_RDONLY
    assert flags & os.ST_NOSUID
    assert flags & os.ST_NODEV
    before = len(mounts_below(paths.layer_mounts))
    again = LayerMounts(paths, DIRECTORY, layers)
    assert await again.acquire([LAYER]) == both[0]
    assert len(mounts_below(paths.layer_mounts)) == before == 2
    # A directory is taken as one where files can be mounted, too.
    assert await LayerMounts(paths, LayerMounting("file", 512, False)).acquire([LAYER]) == both[0]
    assert await again.unmount([LAYER]) == [LAYER]
    assert not os.path.exists(both[0][0])
    with pytest.raises(NotFound, match="not on disk"):
        await again.acquire([OTHER])


async def test_a_layer_goes_while_a_container_still_runs_on_it(paths: Paths) -> None:
    put(paths, LAYER, Entry("file", b"content"))
    layers = DirectoryLayers(paths)
    mounts = LayerMounts(paths, DIRECTORY, layers)
    (lower,) = await mounts.acquire([LAYER])
    root = Path(paths.containers) / "c"
    for name in ("root", "up", "work"):
        (root / name).mkdir(parents=True)
    perform(Overlay(str(root / "root"), (lower,), str(root / "up"), str(root / "work")))
    assert await mounts.unmount([LAYER]) == [LAYER]
    await layers.remove([LAYER])
    await layers.tidy()
    assert layers.listed() == []
    assert (root / "root/file").read_bytes() == b"content"
    assert len(names(paths)) == 1
    # The same layer may come again meanwhile.
    put(paths, LAYER, Entry("file", b"content"))
    await layers.unpack(LAYER)
    await layers.tidy()
    assert (root / "root/file").read_bytes() == b"content"
    unmount(str(root / "root"))
    await layers.tidy()
    assert names(paths) == [short(LAYER, ".dir"), short(LAYER, ".tree")]
    await layers.remove([LAYER, OTHER])
    assert layers.listed() == []
    await asyncio.gather(layers.tidy(), layers.tidy())
    assert names(paths) == []


@pytest.mark.parametrize("method", ["file", "loop", "directory"])
async def test_an_opaque_root_hides_all_layers_below(paths: Paths, method: str) -> None:
    try:
        mounting = probe_mounting(paths, StoreSettings(mount_method=method, block_size=512))
    except Broken as error:
        pytest.skip(f"this host mounts no layer so: {error}")
    third = Digest("sha256:" + "ef" * 32)
    put(paths, LAYER, Entry("low"))
    put(paths, OTHER, Entry(".wh..wh..opq"), Entry("middle"))
    put(paths, third, Entry("high"))
    mounts = LayerMounts(paths, mounting)
    assert await mounts.acquire([LAYER, OTHER, third]) == [
        paths.layer_mount(OTHER),
        paths.layer_mount(third),
    ]
    assert await mounts.acquire([OTHER]) == [paths.layer_mount(OTHER)]
    assert await mounts.acquire([LAYER, third]) == [paths.layer_mount(LAYER), paths.layer_mount(third)]


def test_the_probe_takes_directories_where_they_are_asked_for(paths: Paths) -> None:
    found = probe_mounting(paths, StoreSettings(mount_method="directory"))
    assert (found.method, found.block_size) == ("directory", 512)
    assert names(paths) == []
    assert [entry.path for entry in mounts_below(paths.layer_mounts)] == [
        os.path.realpath(paths.layer_mounts)
    ]
    assert os.listdir(paths.layer_mounts) == []


def test_the_probe_takes_directories_where_no_erofs_can_be_mounted(
    paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:

    def refused(mount: object) -> None:
        if type(mount).__name__ == "Erofs":
            raise OSError(19, "No such device")
        perform(mount)  # type: ignore[arg-type]  # whatever came

    monkeypatch.setattr(mounts, "perform", refused)
    found = probe_mounting(paths, StoreSettings())
    assert found.method == "directory"
    assert "file, 512 bytes: No such device" in found.detail
    assert "loop, 512 bytes: No such device" in found.detail


async def test_the_helper_can_neither_leave_its_directory_nor_do_more_than_it_must(
    paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asked from inside: the root, the capabilities and the bounding set of the process that unpacks, before
    its system calls are filtered (test_worker_confinement)."""
    script = (
        "import sys; sys.path.insert(0, sys.argv.pop(1))\n"
        "import os, sys, msgspec\n"
        "from {0} import UnpackAnswer\n"
        "import {0} as module\n"
        "def look(source_fd, root_fd):\n"
        "    here = sorted(os.listdir('/')), sorted(os.listdir('/../..'))\n"
        "    try:\n"
        "        os.mkdir('/made'); os.chroot('/made'); jail = 'left'\n"
        "    except PermissionError:\n"
        "        jail = 'kept'\n"
        "    return UnpackAnswer(digest=repr((here, jail, caps)))\n"
        "import ctypes\n"
        "libc = ctypes.CDLL(None)\n"
        "confine = module.confinement.confine\n"
        "def confined(root_fd, keep, parent):\n"
        "    global caps\n"
        "    status = os.open('/proc/self/status', os.O_RDONLY)\n"
        "    confine(root_fd, keep, parent)\n"
        "    text = os.pread(status, 8000, 0).decode()\n"
        "    caps = [line.split()[1] for line in text.splitlines()\n"
        "            if line.startswith(('CapPrm', 'CapEff', 'CapBnd', 'CapAmb', 'NoNewPrivs'))]\n"
        "module.confinement.confine = confined\n"
        # It has no chroot at all then; here it is to fail for want of the right.
        "module.seccomp.confine = lambda *groups, sockets: None\n"
        "module._answer = look\n"
        "module.main(sys.argv[1:])\n"
    )
    monkeypatch.setattr(confined_programs, "_START", script)
    put(paths, LAYER, Entry("a"))
    target = f"{paths.layers}/target"
    os.mkdir(target)
    fds = os.open(paths.layer_file(LAYER), os.O_RDONLY), os.open(target, os.O_RDONLY)
    try:
        answer = await unpack_file(*fds, "looking")
    finally:
        for fd in fds:
            os.close(fd)
    numbers = sum(1 << number for number in (0, 1, 3, 4, 27, 31))
    wanted = f"{numbers:016x}"
    assert answer.digest == repr((([], []), "kept", [wanted, wanted, wanted, f"{0:016x}", "1"]))


async def test_a_helper_that_dies_is_an_error_and_leaves_nothing(
    paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = "import os, sys; os.mkdir('x', dir_fd=int(sys.argv[3])); os.kill(os.getpid(), 9)"
    monkeypatch.setattr(confined_programs, "_START", script)
    put(paths, LAYER, Entry("a"))
    with pytest.raises(Broken, match="exit code -9"):
        await DirectoryLayers(paths).unpack(LAYER)
    assert names(paths) == [short(LAYER, ".erofs")]


async def test_what_is_pulled_goes_through_the_store_into_directories_and_away(tmp_path: Path) -> None:
    image = busybox_image([Entry("suid", b"#!", 0o4755), Entry("bin/.wh.vi"), Entry("home/.wh..wh..opq")])
    archive = str(write_oci_archive(tmp_path / "x", [image]))
    async with image_lab(tmp_path, mount_method="directory") as lab:
        assert lab.store.mounting.method == "directory"
        (fetched,) = await lab.store.import_archive(archive, lambda progress: None)
        digests = [layer.diff_id for layer in fetched.layers]
        assert lab.layers() == sorted(short(digest, end) for digest in digests for end in (".dir", ".tree"))
        (again,) = await lab.store.import_archive(archive, lambda progress: None)
        assert [layer.size for layer in again.layers] == [layer.size for layer in fetched.layers]
        assert [await lab.store.check(layer) for layer in fetched.layers] == ["", ""]
        lowest_first = await lab.store.mounts.acquire(digests)
        for name in ("upper", "work", "root"):
            (tmp_path / name).mkdir()
        root = tmp_path / "root"
        perform(
            Overlay(str(root), tuple(reversed(lowest_first)), str(tmp_path / "upper"), str(tmp_path / "work"))
        )
        try:
            assert (root / "suid").stat().st_mode & stat.S_ISUID
            assert not os.statvfs(root).f_flag & (os.ST_NOSUID | os.ST_NODEV)
            assert "vi" not in os.listdir(root / "bin")
            assert "sh" in os.listdir(root / "bin")
        finally:
            unmount(str(root))
        assert sorted(await lab.store.sweep([])) == sorted(digests)
        assert lab.layers() == []


def erofs(tmp_path: Path, *entries: Entry) -> int:
    path = tmp_path / "layer.erofs"
    write_layer([layer_tar(entries)], str(path), LayerClaims(), LayerOptions())
    return os.open(path, os.O_RDONLY)


def unpack_unconfined(source_fd: int, root: Path) -> tree_writer.Written:
    """Without the walls of the process: the code alone must not leave the directory."""
    root_fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        written = unpack(source_fd, root_fd)
        assert written.opaque or digest_directory(root_fd) == written.digest
        return written
    finally:
        os.close(root_fd)
        os.close(source_fd)


def test_unpacking_into_a_directory_that_is_not_empty_overwrites_and_follows_nothing(tmp_path: Path) -> None:
    """A link that waits in the directory, as after a race (CVE-2025-47290): nothing is written through it."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("mine")
    for number, (name, target) in enumerate([("d", outside), ("f", outside / "file"), ("s", outside)]):
        root = tmp_path / f"root{number}"
        root.mkdir()
        os.symlink(target, root / name)
        source = erofs(
            tmp_path,
            *(directory("d"), Entry("d/file", b"theirs"), Entry("f", b"theirs", 0o777, uid=1)),
            Entry("s", kind=tarfile.SYMTYPE, link="x"),
        )
        (tmp_path / "layer.erofs").rename(tmp_path / f"layer{number}")
        with pytest.raises(tree_writer.TreeError, match="File exists"):
            unpack_unconfined(source, root)
        assert (outside / "file").read_text() == "mine"
        assert os.listdir(outside) == ["file"]
        assert (outside / "file").stat().st_uid == 0


LINK, HARD = tarfile.SYMTYPE, tarfile.LNKTYPE
ESCAPE = f"/tmp/crib{os.getpid()}-escape"
"""Of this process alone: others may run the same tests."""
OUTSIDE = f"../../../../../../../../../..{ESCAPE}"
ESCAPES: dict[str, tuple[Entry, ...]] = {
    "file_through_a_link (symlink class)": (
        Entry("way", kind=LINK, link=OUTSIDE),
        Entry("way/file", b"out"),
    ),
    "file_through_an_absolute_link (CVE-2021-32760)": (
        Entry("way", kind=LINK, link=ESCAPE),
        Entry("way/file", b"out", 0o777),
    ),
    "link_through_a_link (CVE-2025-4517)": (
        Entry("a", kind=LINK, link="b/.."),
        Entry("b", kind=LINK, link=OUTSIDE),
        Entry("a/x", kind=LINK, link=OUTSIDE),
        Entry("a/x/file", b"out"),
    ),
    "unpack_over_the_root (umoci CVE-2021-29136)": (
        Entry(".", kind=LINK, link="/tmp"),
        Entry(f"{ESCAPE.removeprefix('/tmp/')}/file", b"out"),
    ),
    "link_replaced_by_the_root (umoci CVE-2021-29136)": (
        Entry("./", kind=LINK, link=OUTSIDE),
        Entry("file", b"out"),
    ),
    "dots": (Entry(OUTSIDE + "/file", b"out"),),
    "dots_inside": (directory("a"), Entry("a/../" + OUTSIDE + "/file", b"out")),
    "hard_link_to_outside (CVE-2021-32760)": (Entry("file", kind=HARD, link=OUTSIDE + "/victim"),),
    "hard_link_through_a_link (cpython#151558)": (
        Entry("way", kind=LINK, link=OUTSIDE),
        Entry("file", kind=HARD, link="way/victim"),
    ),
    "whiteout_of_the_parent": (Entry(".wh...", b""),),
    "whiteout_through_a_link": (
        Entry("way", kind=LINK, link=ESCAPE),
        Entry("way/.wh.victim"),
    ),
    "opaque_through_a_link": (
        Entry("way", kind=LINK, link=ESCAPE),
        Entry("way/.wh..wh..opq"),
    ),
    "a_file_as_a_directory": (Entry("f", b"x"), Entry("f/file", b"out")),
    "an_endless_link (CVE-2021-20291 class: work without end)": (
        Entry("a", kind=LINK, link="b"),
        Entry("b", kind=LINK, link="a"),
        Entry("a/file", b"out"),
    ),
    "absolute_name": (Entry(f"{ESCAPE}/file", b"out"),),
}


@pytest.mark.parametrize("confined", [True, False], ids=["confined", "alone"])
@pytest.mark.parametrize("name", list(ESCAPES))
async def test_no_layer_reaches_anything_outside(tmp_path: Path, name: str, confined: bool) -> None:
    """The layer is refused, or what it meant lies inside of its own root; the victim outside is as it was."""
    outside = Path(ESCAPE)
    outside.mkdir()
    try:
        (outside / "victim").write_text("mine")
        os.chmod(outside / "victim", 0o600)
        root = tmp_path / "root"
        root.mkdir()
        try:
            source = _escape_layer(tmp_path, ESCAPES[name])
        except LayerError:
            assert not (tmp_path / "layer.erofs").exists()
        else:
            await _unpack_either_way(source, root, confined=confined)
            links = [path for path in root.rglob("*") if path.is_symlink()]
            assert all(os.lstat(path).st_dev == os.lstat(root).st_dev for path in links)
        assert os.listdir(outside) == ["victim"]
        status = (outside / "victim").stat()
        assert (stat.S_IMODE(status.st_mode), status.st_nlink, status.st_size) == (0o600, 1, 4)
    finally:
        for path in outside.iterdir():
            path.unlink()
        outside.rmdir()


def _escape_layer(tmp_path: Path, entries: tuple[Entry, ...]) -> int:
    path = tmp_path / "layer.erofs"
    options = LayerOptions(absolute_names=True)
    write_layer([layer_tar(entries)], str(path), LayerClaims(), options)
    return os.open(path, os.O_RDONLY)


async def _unpack_either_way(source: int, root: Path, *, confined: bool) -> None:
    if not confined:
        unpack_unconfined(source, root)
        return
    target = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        await unpack_file(source, target, "unpack")
    finally:
        os.close(target)
        os.close(source)


def test_device_nodes_of_a_layer_are_inert_outside_of_containers(paths: Paths) -> None:
    """A block device of the host in a layer (device node class): nobody can open it through the layer."""
    buffer = io.BytesIO()
    with closing(tarfile.open(fileobj=buffer, mode="w")) as archive:
        info = tarfile.TarInfo("null")
        info.type, info.devmajor, info.devminor, info.mode = tarfile.CHRTYPE, 1, 3, 0o666
        archive.addfile(info)
    write_layer([buffer.getvalue()], paths.layer_file(LAYER), LayerClaims(), LayerOptions())
    (place,) = asyncio.run(LayerMounts(paths, DIRECTORY).acquire([LAYER]))
    assert os.stat(f"{place}/null").st_rdev == os.makedev(1, 3)
    with pytest.raises(PermissionError):
        os.open(f"{place}/null", os.O_RDONLY)


@pytest.mark.parametrize("method", ["file", "loop", "directory"])
@pytest.mark.parametrize("loss", ["unmounted", "covered", "all unmounted"])
async def test_a_layer_that_somebody_unmounts_or_covers_is_mounted_again(
    paths: Paths, method: str, loss: str, caplog: pytest.LogCaptureFixture
) -> None:
    try:
        mounting = probe_mounting(paths, StoreSettings(mount_method=method, block_size=512))
    except Broken as error:
        pytest.skip(f"not possible here: {error}")
    put(paths, LAYER, Entry("a", b"a"))
    put(paths, OTHER, Entry("b", b"b"))
    mounts = LayerMounts(paths, mounting)
    lower, upper = await mounts.acquire([LAYER, OTHER])
    for again in (mounts, LayerMounts(paths, mounting)):
        match loss:
            case "unmounted":
                unmount(upper, lazy=True)
            case "covered":
                perform(Tmpfs(upper, 1 << 20))
            case "all unmounted":
                unmount_tree(paths.layer_mounts)
        found = await asyncio.gather(*(again.acquire([LAYER, OTHER]) for _ in range(3)))
        assert found == [[lower, upper]] * 3
        assert (Path(lower, "a").read_bytes(), Path(upper, "b").read_bytes()) == (b"a", b"b")
        assert len(mounts_below(paths.layer_mounts)) == 3, "each once, in a mount of their own"
    assert "somebody has unmounted the layer" in caplog.text
    assert sorted(await mounts.unmount([LAYER, OTHER])) == sorted([LAYER, OTHER])


async def test_a_probe_that_was_killed_leaves_nothing_for_the_next(paths: Paths) -> None:
    probe_mounting(paths, StoreSettings())
    tried = f"{paths.layer_mounts}/probe-killed"
    os.makedirs(f"{tried}/low")
    perform(Tmpfs(tried, 1 << 20))
    os.makedirs(f"{paths.layers}/.probe-killed-low")
    probe_mounting(paths, StoreSettings())
    left = [*os.listdir(paths.layer_mounts), *os.listdir(paths.layers)]
    assert not [name for name in left if "probe" in name]
