"""An export is an archive that our importer, tar and Python read, with the same images in it."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from crib.backends.images import export
from crib.backends.images.export import export_images
from crib.backends.images.layer_tars import RemadeTar, StoredTars, erofs_entries
from crib.backends.images.worker import archive
from crib.backends.images.worker.documents import FoundImage
from crib.backends.images.worker.layers import LayerClaims, LayerOptions, write_layer
from crib.model.errors import Broken, Exhausted, InvalidRequest, WrongState
from crib.model.ids import Digest, ImageId
from crib.model.image import ExportedImage, ImageConfig, ImageDocuments, ImageRecord, Layer, Platform
from crib.model.image_settings import TransferSettings
from tests.images import PLAIN, BuiltImage, BuiltLayer, Entry, digest_of, directory, layer_tar, rest_digest_of
from tests.unit.backends.blob_lab import open_below

BASE = layer_tar([directory("bin"), Entry("bin/sh", bytes(range(16)) * 200_000, 0o755)])
ONE = layer_tar([Entry("one", b"1")])
TWO = layer_tar([Entry("two", b"2"), Entry("bin/.wh.sh")])
LIMITS = TransferSettings(min_free=0)
NAME, OTHER = "docker.io/library/hello:1", "registry.test:5000/other/hello:v2"


class Store:
    """Layer files as the store keeps them, and records of the images that they are for."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, diff_id: Digest) -> str:
        return str(self.root / f"{diff_id[7:]}.erofs")

    @property
    def tars(self) -> StoredTars:
        return StoredTars(self.path)

    def layer(self, tar: bytes, block_size: int = 512) -> Layer:
        diff_id = Digest(digest_of(tar))
        path = Path(self.path(diff_id))
        if not path.exists():
            write_layer([tar], str(path), LayerClaims(), LayerOptions(block_size=block_size))
        content = path.read_bytes()
        if block_size != 512:
            return Layer(diff_id, diff_id, len(content), 0, "", rest_digest_of(content, 4096))
        end = 4096 + len(tar)
        rest = rest_digest_of(content, end)
        return Layer(diff_id, diff_id, len(content), len(tar), diff_id, rest)

    def image(self, *tars: bytes, tags: Sequence[str] = (NAME,), block_size: int = 512) -> ExportedImage:
        built = BuiltImage(tuple(BuiltLayer(tar, PLAIN) for tar in tars), {"Cmd": ["/bin/sh"]}, tuple(tags))
        layers = tuple(self.layer(tar, block_size) for tar in tars)
        record = ImageRecord(ImageId(built.id), ImageConfig(), layers, tuple(tags))
        return ExportedImage(record, ImageDocuments(built.config_blob, built.manifest_blob), tuple(tags))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    (tmp_path / "layers").mkdir()
    return Store(tmp_path / "layers")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out" / "images.tar"


def names(path: Path) -> list[str]:
    with tarfile.open(path) as tar:
        return tar.getnames()


def content(path: Path, name: str) -> bytes:
    with tarfile.open(path) as tar:
        file = tar.extractfile(name)
        assert file is not None
        return file.read()


async def read(path: Path) -> tuple[list[FoundImage], dict[str, bytes]]:
    """What our importer finds in it: the images, and the bytes of their layers by diff id."""
    source = await archive.open_archive(os.open(path, os.O_RDONLY), LIMITS)
    try:
        images = await archive.read_images(source, Platform("amd64", "linux"))
        blobs: dict[str, bytes] = {}
        for image in images:
            for layer in image.layers:
                extent = await source.find(layer.place)
                assert extent is not None
                blobs[layer.diff_id] = b"".join(extent.chunks())
        return images, blobs
    finally:
        source.close()


@pytest.mark.parametrize("archive_format", ["oci", "docker"])
async def test_our_importer_finds_the_same_images_in_it(
    store: Store, path: Path, archive_format: str
) -> None:
    exported = [store.image(BASE, ONE, tags=(NAME,)), store.image(BASE, TWO, tags=(OTHER, "a.b/c:3"))]
    size = export_images(str(path), exported, archive_format, store.tars)
    assert size == path.stat().st_size
    found, blobs = await read(path)
    assert [image.id for image in found] == [image.record.id for image in exported]
    assert [image.names for image in found] == [image.tags for image in exported]
    assert blobs == {digest_of(tar): tar for tar in (BASE, ONE, TWO)}


async def test_the_config_is_the_one_that_came_and_the_manifest_names_what_is_in_the_archive(
    store: Store, path: Path
) -> None:
    image = store.image(BASE, ONE)
    export_images(str(path), [image], "oci", store.tars)
    index = json.loads(content(path, "index.json"))
    (entry,) = index["manifests"]
    assert entry["annotations"] == {
        "io.containerd.image.name": NAME,
        "org.opencontainers.image.ref.name": "1",
    }
    assert entry["platform"] == {"os": "linux", "architecture": "amd64"}
    manifest = json.loads(content(path, f"blobs/sha256/{entry['digest'][7:]}"))
    assert content(path, f"blobs/sha256/{manifest['config']['digest'][7:]}") == image.documents.config
    for descriptor in (entry, manifest["config"], *manifest["layers"]):
        blob = content(path, f"blobs/sha256/{descriptor['digest'][7:]}")
        assert (digest_of(blob), len(blob)) == (descriptor["digest"], descriptor["size"])
    assert {layer["mediaType"] for layer in manifest["layers"]} == {"application/vnd.oci.image.layer.v1.tar"}


@pytest.mark.parametrize("archive_format", ["oci", "docker"])
async def test_layers_that_images_share_are_there_once(store: Store, path: Path, archive_format: str) -> None:
    shared = store.image(BASE, ONE, ONE)
    export_images(str(path), [shared, store.image(BASE, TWO, tags=(OTHER,))], archive_format, store.tars)
    listed = names(path)
    assert len(listed) == len(set(listed))
    assert sum(digest_of(BASE)[7:] in name for name in listed) == 1
    found, _ = await read(path)
    assert [len(image.layers) for image in found] == [3, 2]


@pytest.mark.skipif(shutil.which("tar") is None, reason="GNU tar is not installed")
def test_gnu_tar_lists_it_without_a_word_of_complaint(store: Store, path: Path) -> None:
    export_images(str(path), [store.image(BASE, ONE)], "oci", store.tars)
    done = subprocess.run(["tar", "tf", path], capture_output=True, text=True, check=True)
    assert done.stdout.split() == names(path)
    assert done.stderr == ""
    assert done.stdout.split()[:2] == ["oci-layout", "index.json"]


def test_the_same_images_give_the_same_bytes(store: Store, path: Path) -> None:
    image = store.image(BASE, ONE)
    other = path.with_name("again.tar")
    for target in (path, other):
        export_images(str(target), [image], "oci", store.tars)
    assert path.read_bytes() == other.read_bytes()


def test_the_file_is_for_its_owner_alone(store: Store, path: Path) -> None:
    export_images(str(path), [store.image(ONE)], "docker", store.tars)
    assert path.stat().st_mode & 0o777 == 0o600
    assert os.listdir(path.parent) == [path.name]


async def test_an_image_without_a_tag_is_exported_without_a_name(store: Store, path: Path) -> None:
    for archive_format in export.FORMATS:
        target = path.with_name(archive_format)
        export_images(str(target), [store.image(ONE, tags=())], archive_format, store.tars)
        ((found,), _) = await read(target)
        assert (found.id, found.names) == (store.image(ONE).record.id, ())


def damaged(store: Store, tar: bytes) -> None:
    with open(store.path(Digest(digest_of(tar))), "r+b") as file:
        file.seek(4096 + len(tar) // 2)
        file.write(b"X")


def missing(store: Store, tar: bytes) -> None:
    os.unlink(store.path(Digest(digest_of(tar))))


def shortened(store: Store, tar: bytes) -> None:
    os.truncate(store.path(Digest(digest_of(tar))), 8192)


@pytest.mark.parametrize("archive_format", ["oci", "docker"])
@pytest.mark.parametrize("harm", [damaged, missing, shortened])
def test_a_damaged_layer_fails_the_export_by_name_and_leaves_nothing(
    store: Store, path: Path, harm: Callable[[Store, bytes], None], archive_format: str
) -> None:
    image = store.image(ONE, BASE)
    harm(store, BASE)
    with pytest.raises(Broken, match=f"layer {digest_of(BASE)} cannot be"):
        export_images(str(path), [image], archive_format, store.tars)
    assert os.listdir(path.parent) == []


def test_a_damaged_config_fails_the_export(store: Store, path: Path) -> None:
    image = store.image(ONE)
    wrong = replace(image, documents=ImageDocuments(image.documents.config + b" "))
    with pytest.raises(Broken, match="its config has digest"):
        export_images(str(path), [wrong], "oci", store.tars)


def test_an_image_from_before_documents_were_kept_says_what_to_do(store: Store, path: Path) -> None:
    image = replace(store.image(ONE), documents=ImageDocuments())
    with pytest.raises(WrongState, match="pull it again"):
        export_images(str(path), [image], "oci", store.tars)
    assert os.listdir(path.parent) == []


@pytest.mark.parametrize(
    "wrong", ["relative.tar", "", "/", "/tmp/", "/tmp/..", "/nowhere/at/all/x.tar", "/x\0"]
)
def test_a_path_that_cannot_be_is_refused(store: Store, wrong: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        export_images(wrong, [store.image(ONE)], "oci", store.tars)
    assert caught.value.field == "path"


@pytest.mark.parametrize("kind", ["file", "directory", "dangling link"])
def test_what_is_there_is_never_overwritten(store: Store, path: Path, kind: str) -> None:
    match kind:
        case "file":
            path.write_text("mine")
        case "directory":
            path.mkdir()
        case _:
            path.symlink_to("nowhere")
    with pytest.raises(InvalidRequest, match="exists") as caught:
        export_images(str(path), [store.image(ONE)], "oci", store.tars)
    assert caught.value.field == "path"
    assert os.listdir(path.parent) == [path.name]
    assert kind != "file" or path.read_text() == "mine"


def test_a_file_made_while_the_export_was_written_stays(store: Store, path: Path) -> None:
    class Slow(StoredTars):
        def tar_of(self, layer: Layer) -> Any:
            path.write_text("mine")
            return super().tar_of(layer)

    with pytest.raises(InvalidRequest, match="meanwhile"):
        export_images(str(path), [store.image(ONE)], "oci", Slow(store.path))
    assert path.read_text() == "mine"
    assert os.listdir(path.parent) == [path.name]


def test_where_there_are_no_hard_links_the_file_is_renamed(
    store: Store, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_links(*_: object, **__: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    export_images(str(path), [store.image(ONE)], "oci", store.tars)
    assert os.listdir(path.parent) == [path.name]


def test_a_partial_file_of_another_export_is_left_alone(store: Store, path: Path) -> None:
    partial = path.with_name("images.tar.partial")
    partial.write_text("theirs")
    with pytest.raises(InvalidRequest, match=r"images\.tar\.partial exists"):
        export_images(str(path), [store.image(ONE)], "oci", store.tars)
    assert partial.read_text() == "theirs"


def test_a_format_that_is_not_known_is_refused_and_so_is_nothing(store: Store, path: Path) -> None:
    with pytest.raises(InvalidRequest, match="'zip' is not one of oci, docker"):
        export_images(str(path), [store.image(ONE)], "zip", store.tars)
    with pytest.raises(InvalidRequest, match="no image"):
        export_images(str(path), [], "oci", store.tars)


def test_too_little_room_is_seen_before_anything_is_written(
    store: Store, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fields = list(os.statvfs(path.parent))
    fields[4] = 1  # f_bavail
    monkeypatch.setattr(os, "fstatvfs", lambda _: os.statvfs_result(fields))
    with pytest.raises(Exhausted, match=r"takes \d+ bytes, its file system has \d+ left"):
        export_images(str(path), [store.image(BASE)], "oci", store.tars)
    assert os.listdir(path.parent) == []


def test_a_disk_that_fills_up_is_exhausted_and_leaves_nothing(
    store: Store, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.write
    written = 0

    def full(fd: int, data: bytes) -> int:
        nonlocal written
        written += len(data)
        if written > 1_000_000:
            raise OSError(28, "No space left on device")
        return real(fd, data)

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(Exhausted, match="No space left"):
        export_images(str(path), [store.image(BASE)], "oci", store.tars)
    assert os.listdir(path.parent) == []


ODD = layer_tar(
    [
        directory("d", 0o1777),
        Entry("d/file", b"x" * 5000, 0o4755, uid=4_000_000, gid=3),
        Entry("d/empty"),
        Entry("d/again", kind=tarfile.LNKTYPE, link="d/file"),
        Entry("d/link", kind=tarfile.SYMTYPE, link="../d/file", mode=0o777),
        Entry("d/pipe", kind=tarfile.FIFOTYPE),
        Entry("d/.wh..wh..opq"),
        directory("e"),
        Entry("e/.wh.gone"),
        Entry("long/" + "n" * 200, b"deep"),
    ]
)


def members_of(tar: bytes) -> dict[str, tuple[Any, ...]]:
    found = {}
    with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
        for member in archive:
            file = archive.extractfile(member) if member.isreg() else None
            kept = (member.type, member.linkname, member.uid, member.gid, member.mtime)
            # What a whiteout's own mode is says nothing.
            mode = 0 if ".wh." in member.name or member.islnk() else member.mode
            found[member.name] = (*kept, mode, file.read() if file else b"")
    return found


@pytest.mark.parametrize("archive_format", ["oci", "docker"])
async def test_layers_with_large_blocks_are_exported_as_new_tars_of_the_same_tree(
    store: Store, path: Path, archive_format: str
) -> None:
    image = store.image(ODD, BASE, block_size=4096)
    size = export_images(str(path), [image], archive_format, store.tars)
    assert size == path.stat().st_size
    ((found,), blobs) = await read(path)
    assert found.names == image.tags
    assert found.id != image.record.id
    assert [digest_of(blob) for blob in blobs.values()] == [layer.diff_id for layer in found.layers]
    (odd, base) = blobs.values()
    before, after = members_of(ODD), members_of(odd)
    implied = set(after) - set(before)
    assert implied == {".", "long"}
    same = {name for name in before if ".wh." not in name and name not in ("d/again", "d/file")}
    assert {name: after[name] for name in same} == {name: before[name] for name in same}
    # The name that comes first in the tree holds the data, the other is the link to it.
    assert {after[name][:2] for name in ("d/again", "d/file")} == {(b"0", ""), (b"1", "d/again")}
    assert after["d/again"][-1] == b"x" * 5000
    assert {"d/.wh..wh..opq", "e/.wh.gone"} <= set(after)
    assert members_of(base)["bin/sh"] == members_of(BASE)["bin/sh"]


def test_a_tar_made_anew_gives_the_same_layer_again(store: Store, tmp_path: Path) -> None:
    layer = store.layer(ODD, 4096)
    remade = RemadeTar(store.path(layer.diff_id), layer, erofs_entries)
    tar = b"".join(remade.pieces())
    assert (len(tar), digest_of(tar)) == (remade.size, remade.diff_id)
    again = tmp_path / "again.erofs"
    write_layer([tar], str(again), LayerClaims(diff_id=remade.diff_id), LayerOptions(block_size=512))
    whole = again.read_bytes()
    second = Layer(remade.diff_id, remade.diff_id, len(whole), 0, "", "")
    assert RemadeTar(str(again), second, erofs_entries).diff_id == remade.diff_id


def test_a_damaged_layer_with_large_blocks_is_found_before_anything_is_written(
    store: Store, path: Path
) -> None:
    image = store.image(BASE, block_size=4096)
    with open(store.path(Digest(digest_of(BASE))), "r+b") as file:
        file.seek(100_000)
        file.write(b"X")
    with pytest.raises(Broken, match=f"layer {digest_of(BASE)} cannot be exported: .* is damaged"):
        export_images(str(path), [image], "oci", store.tars)
    assert os.listdir(path.parent) == []


def test_what_is_no_layer_of_ours_cannot_be_exported(store: Store, path: Path) -> None:
    image = store.image(BASE, block_size=4096)
    (layer,) = image.record.layers
    file = Path(store.path(layer.diff_id))
    file.write_bytes(bytes(layer.size))
    bare = replace(layer, rest_digest="sha256:" + hashlib.sha256(bytes(layer.size)).hexdigest())
    image = replace(image, record=replace(image.record, layers=(bare,)))
    with pytest.raises(Broken, match="no EROFS superblock"):
        export_images(str(path), [image], "oci", store.tars)


async def test_a_layer_kept_as_a_directory_gives_the_tar_that_its_file_gives(
    store: Store, path: Path, tmp_path: Path
) -> None:
    tree = layer_tar(
        [
            directory("d", 0o1777),
            Entry("d/a", b"x" * 5000, 0o4755),
            Entry("d/empty"),
            Entry("d/b", mode=0o4755, kind=tarfile.LNKTYPE, link="d/a"),
            Entry("d/link", kind=tarfile.SYMTYPE, link="../d/a", mode=0o777),
            Entry("d/pipe", kind=tarfile.FIFOTYPE),
        ]
    )
    image = store.image(tree, block_size=4096)
    (layer,) = image.record.layers
    unpacked = tmp_path / "unpacked"
    unpacked.mkdir()
    with tarfile.open(fileobj=io.BytesIO(tree)) as archive:
        # As an attribute: Python 3.11 before 3.11.4 knows no such parameter.
        archive.extraction_filter = lambda member, _: member
        archive.extractall(unpacked)
    unpacked.chmod(0o755)
    os.utime(unpacked, (0, 0))
    for name in ("d/link", "d"):
        os.utime(unpacked / name, (1_700_000_000, 1_700_000_000), follow_symlinks=False)
    from_file = b"".join(store.tars.tar_of(layer).pieces())
    os.unlink(store.path(layer.diff_id))
    tars = StoredTars(store.path, lambda _: str(unpacked))
    assert members_of(b"".join(tars.tar_of(layer).pieces())) == members_of(from_file)
    export_images(str(path), [image], "oci", tars)
    ((found,), _) = await read(path)
    assert found.names == image.tags
    (unpacked / "d" / "a").chmod(0)
    (unpacked / "d" / "empty").unlink()
    list(tars.tar_of(layer).pieces())
    assert open_below(tmp_path) == []


def test_a_layer_that_is_kept_in_no_way_is_named(store: Store, path: Path, tmp_path: Path) -> None:
    image = store.image(ONE)
    os.unlink(store.path(image.record.layers[0].diff_id))
    with pytest.raises(Broken, match=f"layer {digest_of(ONE)} cannot be read from .*nowhere"):
        export_images(str(path), [image], "oci", StoredTars(store.path, lambda _: f"{tmp_path}/nowhere"))
