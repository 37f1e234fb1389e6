"""Archives become mounted layers, through a worker without rights; nothing stays of those that are bad."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import stat
import tarfile
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from crib.backends.images.mounts import LayerMounts
from crib.backends.images.probe import probe_mounting
from crib.backends.images.store import LayerStore
from crib.host import files
from crib.host.mounts import Overlay, mounts_below, perform, unmount
from crib.model.errors import Broken, CribError, Exhausted, InvalidRequest, NotFound, Unavailable
from crib.model.facts import LayerMounting
from crib.model.ids import Digest
from crib.model.image import ExportedImage, ImageRecord, Progress
from tests.fakes.settings import image_settings
from tests.images import (
    GZIP,
    PLAIN,
    ZSTD,
    BuiltImage,
    BuiltLayer,
    Entry,
    busybox_image,
    digest_of,
    docker_layout_files,
    layer_tar,
    layout_files,
    machine_architecture,
    saved_files,
    write_layout,
    write_oci_archive,
    write_saved_archive,
    write_tar,
)
from tests.system.labs.image_lab import ImageLab, image_lab

pytestmark = [
    pytest.mark.root,
    pytest.mark.system,
    pytest.mark.skipif(os.geteuid() != 0, reason="mounts need root"),
]


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[ImageLab]:
    async with image_lab(tmp_path) as made:
        yield made


def ignore(progress: Progress) -> None:
    assert progress.stage


def write_docker_layout(path: Path, images: list[BuiltImage]) -> Path:
    return write_tar(path, docker_layout_files(images))


@pytest.mark.parametrize("write", [write_layout, write_oci_archive, write_saved_archive, write_docker_layout])
async def test_every_kind_of_archive_becomes_the_same_layers(
    write: Any, lab: ImageLab, tmp_path: Path
) -> None:
    image = busybox_image([Entry("hello", b"hi")])
    path = write(tmp_path / "image", [image])
    (fetched,) = await lab.store.import_archive(str(path), lab.told.append)
    assert fetched.id == image.id
    assert fetched.names == image.names
    assert [layer.diff_id for layer in fetched.layers] == [layer.diff_id for layer in image.layers]
    assert all(os.stat(lab.paths.layer_file(layer.diff_id)).st_size == layer.size for layer in fetched.layers)
    assert lab.staged() == []
    assert {progress.stage for progress in lab.told} >= {"resolving", "importing"}
    lower, upper = await lab.store.mounts.acquire([layer.diff_id for layer in fetched.layers])
    assert os.readlink(f"{lower}/bin/sh") == "busybox"
    assert Path(upper, "hello").read_bytes() == b"hi"
    (again,) = await lab.store.import_archive(str(path), ignore)
    assert [layer.size for layer in again.layers] == [layer.size for layer in fetched.layers]


async def test_an_image_with_sha512_digests_is_imported_mounted_and_known_after_a_restart(
    lab: ImageLab, tmp_path: Path
) -> None:
    layers = [BuiltLayer(layer_tar([Entry(name, name.encode())]), algorithm="sha512") for name in ("a", "b")]
    image = BuiltImage(tuple(layers), names=("a/b:1",), algorithm="sha512")
    image = replace(image, architecture=machine_architecture())
    path = write_layout(tmp_path / "image", [image])
    (fetched,) = await lab.store.import_archive(str(path), ignore)
    assert fetched.id == image.id  # the id is of one algorithm, whatever the manifest uses
    assert fetched.manifest_digest == digest_of(image.manifest_blob, "sha512")
    diff_ids = [layer.diff_id for layer in fetched.layers]
    assert diff_ids == [layer.diff_id for layer in layers]
    assert lab.layers() == sorted(f"{digest.removeprefix('sha512:')}.erofs" for digest in diff_ids)
    (below, above) = await lab.store.mounts.acquire(diff_ids)
    assert (Path(below, "a").read_bytes(), Path(above, "b").read_bytes()) == (b"a", b"b")
    assert [await lab.store.check(layer) for layer in fetched.layers] == ["", ""]
    record = ImageRecord(fetched.id, fetched.config, fetched.layers)
    exported = ExportedImage(record, fetched.documents, ("a/b:1",))
    await lab.store.export(str(tmp_path / "exported"), [exported], "oci")
    (same,) = await lab.store.import_archive(str(tmp_path / "exported"), ignore)
    assert (same.id, [layer.diff_id for layer in same.layers]) == (fetched.id, diff_ids)
    again = LayerMounts(lab.paths, lab.store.mounting)
    assert await again.acquire(diff_ids) == [below, above]
    assert sorted(await lab.store.sweep([])) == sorted(diff_ids)


async def test_a_layer_whose_sha512_is_another_is_refused(lab: ImageLab, tmp_path: Path) -> None:
    layer = BuiltLayer(layer_tar([Entry("a", b"a")]), PLAIN, "sha512")
    image = BuiltImage((layer,), names=("a/b:1",), architecture=machine_architecture(), algorithm="sha512")
    files = layout_files([image])
    name = f"blobs/{digest_of(layer.blob, 'sha512').replace(':', '/')}"
    files[name] = layer_tar([Entry("a", b"b")])
    path = write_tar(tmp_path / "image", files)
    with pytest.raises(InvalidRequest, match="digest is sha512:"):
        await lab.store.import_archive(str(path), ignore)
    assert lab.layers() == []


@pytest.mark.parametrize("compression", [PLAIN, GZIP, ZSTD])
async def test_every_compression_gives_the_same_layers(
    compression: str, lab: ImageLab, tmp_path: Path
) -> None:
    image = busybox_image(compression=compression)
    (fetched,) = await lab.store.import_archive(str(write_oci_archive(tmp_path / "x", [image])), ignore)
    assert fetched.layers[0].diff_id == image.layers[0].diff_id


async def test_a_layout_that_only_root_may_read_is_imported(lab: ImageLab, tmp_path: Path) -> None:
    path = write_layout(tmp_path / "secret" / "layout", [busybox_image()])
    for place in [path.parent, *path.parent.rglob("*")]:
        place.chmod(0o700 if place.is_dir() else 0o600)
    assert len(await lab.store.import_archive(str(path), ignore)) == 1


async def test_a_layout_whose_blob_is_a_link_outside_is_refused(lab: ImageLab, tmp_path: Path) -> None:
    image = busybox_image()
    path = write_layout(tmp_path / "layout", [image])
    blob = path / "blobs/sha256" / image.id.removeprefix("sha256:")
    blob.unlink()
    blob.symlink_to("/etc/passwd")
    with pytest.raises(InvalidRequest, match="lacks blobs/sha256"):
        await lab.store.import_archive(str(path), ignore)


async def test_several_imports_at_once_share_their_layers(lab: ImageLab, tmp_path: Path) -> None:
    images = [busybox_image([Entry("n", str(n).encode())], name=f"docker.io/x/y:{n}") for n in range(4)]
    paths = [write_oci_archive(tmp_path / str(n), [image]) for n, image in enumerate(images)]
    results = await asyncio.gather(*(lab.store.import_archive(str(path), ignore) for path in paths))
    assert [result[0].id for result in results] == [image.id for image in images]
    assert len(lab.layers()) == 5
    assert lab.staged() == []


def _lie(image: BuiltImage) -> dict[str, bytes]:
    files = layout_files([image])
    name = max(files, key=lambda name: len(files[name]))
    return {**files, name: files[name][:-100] + bytes(100)}


def _other_layer(image: BuiltImage) -> dict[str, bytes]:
    files = saved_files([image])
    name = next(name for name in files if name.endswith("layer.tar"))
    return {**files, name: layer_tar([Entry("other")])}


def _bad_member(image: BuiltImage) -> dict[str, bytes]:
    entry = Entry("../escape", b"x")
    return layout_files([busybox_image([entry])])


def _device_as_directory(image: BuiltImage) -> dict[str, bytes]:
    return layout_files([busybox_image([Entry("dev0", kind=tarfile.FIFOTYPE), Entry("dev0/file", b"x")])])


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (_lie, "damaged|digest|ends inside"),
        (_other_layer, "unpacks to"),
        (_bad_member, r"\.\."),
        (_device_as_directory, "used as a directory"),
        (lambda _: {"x": b""}, "neither oci-layout"),
    ],
)
async def test_a_lying_archive_is_refused_and_leaves_nothing(
    files: Any, words: str, lab: ImageLab, tmp_path: Path
) -> None:
    path = write_tar(tmp_path / "x", files(busybox_image()))
    with pytest.raises(InvalidRequest, match=words):
        await lab.store.import_archive(str(path), ignore)
    assert lab.staged() == []
    assert lab.layers() == []


async def test_what_is_no_archive_is_named(lab: ImageLab, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="cannot be opened"):
        await lab.store.import_archive(str(tmp_path / "missing"), ignore)
    with pytest.raises(InvalidRequest, match="neither a file nor a directory"):
        await lab.store.import_archive("/dev/null", ignore)


async def test_the_worker_has_no_rights(lab: ImageLab, tmp_path: Path) -> None:
    await lab.store.import_archive(str(write_oci_archive(tmp_path / "x", [busybox_image()])), ignore)
    status = dict(
        line.split(":\t", 1)
        for line in Path(f"/proc/{lab.store.worker_pid}/status").read_text().splitlines()
        if ":\t" in line
    )
    assert status["Uid"].split() == ["65534"] * 4
    assert status["Groups"].split() == []
    assert status["NoNewPrivs"] == "1"
    for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(status[name], 16) == 0, name


async def test_a_worker_that_dies_fails_its_request_and_is_replaced(lab: ImageLab, tmp_path: Path) -> None:
    # A directory: the worker asks us for each of its files, so it cannot be done before we have heard of it.
    path = write_layout(tmp_path / "x", [busybox_image([Entry("big", os.urandom(1 << 20))])])
    killed: list[int] = []

    def kill(progress: Progress) -> None:
        if not killed and lab.store.worker_pid is not None:
            killed.append(lab.store.worker_pid)
            os.kill(killed[0], signal.SIGKILL)

    with pytest.raises(Unavailable, match=r"image worker .* went away"):
        await lab.store.import_archive(str(path), kill)
    assert len(await lab.store.import_archive(str(path), ignore)) == 1
    assert lab.store.worker_pid not in (None, *killed)
    assert lab.staged() == []
    figures = lab.store.worker
    assert (figures.pid, figures.requests) == (lab.store.worker_pid, 0)
    assert (figures.starts, figures.deaths) == (2, 1)


async def test_layers_that_eat_memory_are_refused_and_stop_no_import_beside_or_after_them(
    tmp_path: Path,
) -> None:
    records = {f"SCHILY.xattr.user.a{number}": "x" * 1000 for number in range(10)}
    hostile = [[Entry(f"{layer}f{number}", pax=records) for number in range(1200)] for layer in range(3)]
    bomb = write_oci_archive(tmp_path / "bomb", [busybox_image(*hostile)])
    plain = [
        write_oci_archive(tmp_path / name, [busybox_image([Entry(f"d/{n}{name}") for n in range(500)])])
        for name in "abc"
    ]
    async with image_lab(tmp_path, worker_memory=64 << 20) as lab:
        await lab.store.import_archive(str(plain[0]), ignore)
        pid = lab.store.worker_pid
        refused, beside = await asyncio.gather(
            lab.store.import_archive(str(bomb), ignore),
            lab.store.import_archive(str(plain[1]), ignore),
            return_exceptions=True,
        )
        assert isinstance(refused, InvalidRequest)
        assert "bytes of memory that one layer may have" in str(refused)
        assert not isinstance(beside, BaseException)
        # What it took comes back for certain: nothing is under way any more.
        assert lab.store.worker_pid is None
        await lab.store.import_archive(str(plain[2]), ignore)
        assert lab.store.worker_pid not in (None, pid)


async def test_a_worker_that_ran_out_of_memory_is_replaced(tmp_path: Path) -> None:
    path = str(write_oci_archive(tmp_path / "x", [busybox_image()]))
    pids: set[int | None] = set()
    async with image_lab(tmp_path, worker_memory=3 << 20) as lab:
        for _ in range(2):
            with pytest.raises(Exhausted, match="out of memory"):
                await lab.store.import_archive(path, lambda _: pids.add(lab.store.worker_pid))
            assert lab.store.worker_pid is None
    assert len(pids) == 2


async def test_a_cancelled_import_leaves_nothing(lab: ImageLab, tmp_path: Path) -> None:
    # A directory, as above.
    path = write_layout(
        tmp_path / "x", [busybox_image([Entry("big", os.urandom(20 << 20))], compression=PLAIN)]
    )
    begun = asyncio.Event()
    request = asyncio.ensure_future(lab.store.import_archive(str(path), lambda _: begun.set()))
    await begun.wait()
    request.cancel()
    with pytest.raises(asyncio.CancelledError):
        await request
    other = write_oci_archive(tmp_path / "y", [busybox_image([Entry("z", b"1")], name="docker.io/x/z:1")])
    await lab.store.import_archive(str(other), ignore)
    await lab.store.sweep([])
    assert lab.layers() == []


async def test_a_sweep_keeps_what_it_is_told_to(lab: ImageLab, tmp_path: Path) -> None:
    image = busybox_image([Entry("a", b"1")])
    (fetched,) = await lab.store.import_archive(str(write_oci_archive(tmp_path / "x", [image])), ignore)
    base, top = (layer.diff_id for layer in fetched.layers)
    await lab.store.mounts.acquire([base, top])
    assert (await lab.store.usage()).used_bytes > 1 << 20
    assert await lab.store.sweep([base]) == [top]
    assert lab.layers() == [os.path.basename(lab.paths.layer_file(base))]
    assert not os.path.exists(lab.paths.layer_mount(top))
    assert os.path.exists(f"{lab.paths.layer_mount(base)}/bin/busybox")
    with pytest.raises(NotFound, match="not on disk"):
        await lab.store.mounts.acquire([top])


@pytest.mark.parametrize("mounting", [("file", 512), ("loop", 512), ("file", 4096), ("loop", 4096)])
async def test_each_way_of_mounting_survives_a_restart(mounting: tuple[str, int], tmp_path: Path) -> None:
    method, block_size = mounting
    try:
        async with image_lab(tmp_path, mount_method=method, block_size=block_size) as lab:
            assert (lab.store.mounting.method, lab.store.mounting.block_size) == mounting
            image = busybox_image()
            path = write_oci_archive(tmp_path / "x", [image])
            (fetched,) = await lab.store.import_archive(str(path), ignore)
            layer = fetched.layers[0].diff_id
            both = await asyncio.gather(lab.store.mounts.acquire([layer]), lab.store.mounts.acquire([layer]))
            assert both[0] == both[1] == [lab.paths.layer_mount(layer)]
            before = len(mounts_below(lab.paths.layer_mounts))
            after_restart = LayerMounts(lab.paths, lab.store.mounting)
            assert await after_restart.acquire([layer]) == both[0]
            assert len(mounts_below(lab.paths.layer_mounts)) == before == 2
    except Broken as error:
        pytest.skip(f"not possible here: {error}")


@pytest.mark.parametrize("mounting", [("file", 512), ("loop", 4096), ("directory", 512)])
async def test_a_layer_that_is_gone_is_not_found_until_it_is_brought_again(
    mounting: tuple[str, int], tmp_path: Path
) -> None:
    method, block_size = mounting
    try:
        async with image_lab(tmp_path, mount_method=method, block_size=block_size) as lab:
            image = busybox_image()
            path = str(write_oci_archive(tmp_path / "x", [image]))
            (fetched,) = await lab.store.import_archive(path, ignore)
            layer = fetched.layers[0].diff_id
            assert list(await lab.store.present()) == [layer]
            for place in (lab.paths.layer_file(layer), lab.paths.layer_directory(layer)):
                files.remove_tree(place)
            assert list(await lab.store.present()) == []
            with pytest.raises(NotFound, match=f"layer {layer} is not on disk"):
                await lab.store.mounts.acquire([layer])
            await lab.store.import_archive(path, ignore)
            assert list(await lab.store.present()) == [layer]
            (mounted,) = await lab.store.mounts.acquire([layer])
            assert os.readlink(f"{mounted}/bin/sh") == "busybox"
    except Broken as error:
        pytest.skip(f"not possible here: {error}")


async def test_set_uid_programs_and_whiteouts_work_through_the_overlay(lab: ImageLab, tmp_path: Path) -> None:
    image = busybox_image(
        [Entry("suid", b"#!", 0o4755), Entry("bin/.wh.vi"), Entry("null", kind=tarfile.CHRTYPE)]
    )
    (fetched,) = await lab.store.import_archive(str(write_oci_archive(tmp_path / "x", [image])), ignore)
    lowest_first = await lab.store.mounts.acquire([layer.diff_id for layer in fetched.layers])
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


async def test_layers_that_would_share_a_mount_point_are_refused(lab: ImageLab, tmp_path: Path) -> None:
    (fetched,) = await lab.store.import_archive(
        str(write_oci_archive(tmp_path / "x", [busybox_image()])), ignore
    )
    layer = fetched.layers[0].diff_id
    await lab.store.mounts.acquire([layer])
    twin = Digest(layer[:-4] + ("0000" if layer[-4:] != "0000" else "1111"))
    with pytest.raises(Broken, match="share the mount point"):
        await lab.store.mounts.acquire([twin])


async def test_a_file_that_is_no_layer_is_not_mounted(lab: ImageLab) -> None:
    layer = Digest("sha256:" + "ab" * 32)
    Path(lab.paths.layer_file(layer)).write_bytes(bytes(1 << 16))
    with pytest.raises(Broken, match="mount of layer"):
        await lab.store.mounts.acquire([layer])
    assert len(mounts_below(lab.paths.layer_mounts)) == 1


async def test_a_store_that_is_closed_says_so(lab: ImageLab, tmp_path: Path) -> None:
    path = write_oci_archive(tmp_path / "x", [busybox_image()])
    await lab.store.import_archive(str(path), ignore)
    await lab.store.close()
    assert lab.store.worker_pid is None
    with pytest.raises(Unavailable, match="closed"):
        await lab.store.import_archive(str(path), ignore)


async def test_a_root_that_cannot_mount_files_takes_loop_devices(tmp_path: Path) -> None:
    from crib.host.mounts import Tmpfs
    from crib.model.image_settings import StoreSettings
    from crib.model.paths import Paths

    data = tmp_path / "tmpfs"
    data.mkdir()
    perform(Tmpfs(str(data), 16 << 20))
    paths = Paths(str(data), str(tmp_path / "state"))
    try:
        found = probe_mounting(paths, StoreSettings())
        assert found.method == "loop"
        assert "file, 512 bytes" in found.detail
        with pytest.raises(Broken, match="modprobe erofs"):
            probe_mounting(paths, StoreSettings(mount_method="file"))
    finally:
        unmount(paths.layer_mounts)
        unmount(str(data))


async def test_a_user_that_does_not_exist_is_named(tmp_path: Path) -> None:
    from crib.model.paths import Paths

    paths = Paths(str(tmp_path / "d"), str(tmp_path / "s"))
    try:
        with pytest.raises(CribError, match="no user 'nobody-at-all'"):
            LayerStore(paths, image_settings(worker_user="nobody-at-all"), LayerMounting("file", 512, False))
    finally:
        unmount(paths.layer_mounts)


async def test_directories_that_somebody_removes_are_made_again_and_the_layers_missed(lab: ImageLab) -> None:
    archive = write_saved_archive(Path(lab.paths.data).parent / "x.tar", [busybox_image()])
    (image,) = await lab.store.import_archive(str(archive), ignore)
    owner = os.stat(lab.paths.staging).st_uid
    for look in (lab.store.present, lab.store.space, lab.store.usage, lambda: lab.store.sweep(())):
        shutil.rmtree(lab.paths.layers)
        await look()
    assert await lab.store.present() == []
    for directory in (lab.paths.layers, lab.paths.staging):
        shutil.rmtree(directory)
    (again,) = await lab.store.import_archive(str(archive), ignore)
    assert set(await lab.store.present()) == {layer.diff_id for layer in image.layers}
    assert again.id == image.id
    for directory, uid in ((lab.paths.layers, os.geteuid()), (lab.paths.staging, owner)):
        found = os.stat(directory)
        assert (stat.S_IMODE(found.st_mode), found.st_uid) == (0o700, uid)
    assert await lab.store.mounts.acquire([layer.diff_id for layer in again.layers])


async def test_a_layers_directory_that_is_removed_under_a_transfer_is_made_again(lab: ImageLab) -> None:
    archive = write_saved_archive(Path(lab.paths.data).parent / "x.tar", [busybox_image()])

    def remove(progress: Progress) -> None:
        shutil.rmtree(lab.paths.layers, ignore_errors=True)

    (image,) = await lab.store.import_archive(str(archive), remove)
    assert set(await lab.store.present()) == {layer.diff_id for layer in image.layers}
