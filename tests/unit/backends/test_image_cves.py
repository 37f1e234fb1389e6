"""Every kind of hole that others had with images, layers, manifests, configs and archives, as a test.

What needs a registry that answers is in tests/system/images/test_registry_cves.py. A few differ from what the
name says because crib has no such part: the test is then of the part that has the same work.

    CVE-2020-15157       credentials for the URLs of a foreign layer            test_…foreign_layer, system
    CVE-2021-41190       a document that is manifest and index at once          test_…two_ways
    GHSA-5j5w-g665-5m35  the same in containerd                                 test_…two_ways
    CVE-2022-24778       only the first entry of an index is looked at          test_…not_the_first
    CVE-2024-3727        a digest that is no digest becomes a path              test_…no_digest…
    CVE-2019-10214       credentials over plain http                            system
    CVE-2021-32760       unpacking changes modes outside the root               test_…layer_that_leads_out
    CVE-2025-47290       a directory becomes a link while unpacking             test_…layer_that_leads_out
    CVE-2021-29136       the root itself is a link                              test_…layer_without_a_root
    CVE-2024-12718, CVE-2025-4138, CVE-2025-4330, CVE-2025-4435, CVE-2025-4517, cpython#151558
                         Python's tar filters are got round                     test_…layer_that_leads_out
    CVE-2021-20291       a bad layer makes everybody wait for ever              test_…bad_layer
    GHSA-rp3h-jf77-q9p4  whiteouts that cost time without bound                 test_…opaque…, …_links_cost
    CVE-2021-33633 … 33638  a bad image stops the daemon                        test_…bombs
    CVE-2023-25153       a member of any size is read into memory               test_…huge…
    CVE-2025-4437        a huge /etc/passwd is read into memory                 test_…passwd
    CVE-2026-47262       a huge /etc/group is read without bound                test_…passwd
    CVE-2024-9676        /etc/passwd is a link to the host's, or a pipe         test_…passwd_that_is…
    CVE-2024-40635, CVE-2026-46680, CVE-2016-3697
                         a number as user that is none                          test_…user…
    CVE-2022-23648       a VOLUME of the image leads to the host's files        test_…volume…
    CVE-2026-55686, CVE-2024-5154, CVE-2024-9341
                         links of the image are followed on the host            test_…volume…
    CVE-2026-53488       an image's label becomes the runtime's order           test_…labels
    CVE-2022-4318, CVE-2026-15809
                         a line break in HOME adds a line to /etc/passwd        test_…line_break
    CVE-2021-21334       one container gets another's environment               test_…environment
    CVE-2026-24054       an image without a layer                               test_…no_layers
    CVE-2026-50195, CVE-2024-8676, CVE-2026-53489, CVE-2026-53492
                         checkpoint archives: crib takes none                   test_…checkpoint
"""

from __future__ import annotations

import gzip
import io
import json
import os
import struct
import tarfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from crib.api.translate.images import user as shown_user
from crib.backends.bundle.rootfs import make_directories, read_facts
from crib.backends.images.worker.archive import ArchiveError, open_archive, read_images
from crib.backends.images.worker.layers import LayerClaims, LayerError, LayerOptions, write_layer
from crib.model.container import ContainerSecurity
from crib.model.errors import InvalidRequest
from crib.model.facts import RootfsFacts
from crib.model.image import ImageConfig, Platform, parse_reference
from crib.model.image_settings import TransferSettings
from crib.ocispec.container import container_spec
from crib.ocispec.user import container_user
from crib.wire import oci_image
from crib.wire.erofs_reader import ErofsImage
from crib.wire.oci_image import ImageFormatError
from tests.hostile_layers import CANARY, LEADS_OUT, hard_link, looks, symlink
from tests.images import (
    BuiltImage,
    BuiltLayer,
    Entry,
    descriptor,
    digest_of,
    directory,
    layer_tar,
    layout_files,
    saved_files,
    write_tar,
)
from tests.unit.ocispec.inputs_for_tests import inputs, with_config

SECONDS = 10.0
"""Of processor time that a hostile layer of a few megabytes may cost, coverage measured. What else the
machine has to do does not count."""
LIMITS = TransferSettings(min_free=0)
SYMLINK, HARD_LINK, FIFO = tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE


def written(tmp_path: Path, tar: bytes, **options: Any) -> Path:
    """The file of a layer; nothing else may come into being beside it."""
    place = tmp_path / "store"
    place.mkdir()
    try:
        write_layer([tar], str(place / "layer"), LayerClaims(), LayerOptions(**options))
    finally:
        assert set(os.listdir(place)) <= {"layer"}
        assert set(os.listdir(tmp_path)) <= {"store", "outside"}
    return place / "layer"


def names_in(layer: Path) -> dict[str, str]:
    """Names of a layer, and what the links among them point at."""
    data = layer.read_bytes()
    image = ErofsImage(lambda offset, size: data[offset : offset + size], len(data))
    return {entry.path.decode(): entry.inode.target.decode() for entry in image.walk()}


def refused_layer(tmp_path: Path, tar: bytes, words: str) -> None:
    with pytest.raises(LayerError, match=words):
        written(tmp_path, tar)
    assert os.listdir(tmp_path / "store") == []


def manifest(**changes: Any) -> bytes:
    image = BuiltImage((BuiltLayer(layer_tar([Entry("a")])),))
    return json.dumps({**image.manifest, **changes}).encode()


# Manifests and configs.


def test_cve_2020_15157_a_foreign_layer_is_refused_before_its_urls_are_looked_at() -> None:
    layer = descriptor(b"x", "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip")
    urls = ["https://attacker.example/layer"]
    for one in (layer, {**layer, "urls": urls}):
        with pytest.raises(ImageFormatError, match="foreign layer"):
            oci_image.parse_manifest(manifest(layers=[one]), "", "manifest")
    plain = {**descriptor(b"x", "application/vnd.oci.image.layer.v1.tar+gzip"), "urls": urls}
    with pytest.raises(ImageFormatError, match="foreign layer"):
        oci_image.parse_manifest(manifest(layers=[plain]), "", "manifest")


@pytest.mark.parametrize(
    ("change", "media_type"),
    [
        ({"manifests": []}, ""),
        ({"manifests": [], "config": None, "layers": []}, ""),
        ({"mediaType": oci_image.OCI_INDEX}, ""),
        ({"mediaType": oci_image.OCI_INDEX}, oci_image.OCI_MANIFEST),
        ({}, oci_image.OCI_INDEX),
        ({}, oci_image.DOCKER_LIST),
        ({"mediaType": "text/plain"}, oci_image.OCI_MANIFEST),
    ],
)
def test_cve_2021_41190_a_document_that_can_be_read_two_ways_is_refused(
    change: dict[str, Any], media_type: str
) -> None:
    with pytest.raises(ImageFormatError):
        oci_image.parse_manifest(manifest(**change), media_type, "manifest")


def test_cve_2022_24778_the_entry_for_this_machine_is_judged_and_not_the_first() -> None:
    entries = [
        {
            **descriptor(name.encode(), oci_image.OCI_MANIFEST),
            "platform": {"os": "linux", "architecture": name},
        }
        for name in ("riscv64", "amd64")
    ]
    data = json.dumps({"schemaVersion": 2, "manifests": entries}).encode()
    index = oci_image.parse_manifest(data, oci_image.OCI_INDEX, "index")
    assert isinstance(index, oci_image.Index)
    chosen = oci_image.choose_manifest(index, oci_image.Platform("amd64", "linux"), "index")
    assert chosen.digest == digest_of(b"amd64")


NO_DIGESTS = (
    "",
    "sha256:",
    "sha256:../../../etc/passwd",
    "sha256:" + "/" * 64,
    "sha256:" + "A" * 64,
    "sha256:" + "a" * 63,
    "sha256:" + "a" * 65,
    "sha256:" + "a" * 64 + "\n",
    "sha256:" + "a" * 63 + "\0",
    "md5:" + "a" * 32,
    "../" + "a" * 64,
    "sha256:" + "\u0663" * 64,
)


@pytest.mark.parametrize("digest", NO_DIGESTS)
def test_cve_2024_3727_what_is_no_digest_is_taken_nowhere(digest: str) -> None:
    bad = {**descriptor(b"x", "application/vnd.oci.image.layer.v1.tar"), "digest": digest}
    bad_config = {**descriptor(b"x", oci_image.OCI_CONFIG), "digest": digest}
    bad_entry = {**descriptor(b"x", oci_image.OCI_MANIFEST), "digest": digest}
    index = json.dumps({"schemaVersion": 2, "manifests": [bad_entry]}).encode()
    for document in (manifest(layers=[bad]), manifest(config=bad_config), index):
        with pytest.raises(ImageFormatError, match="digest"):
            oci_image.parse_manifest(document, "", "document")
    config = {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": [digest]}}
    with pytest.raises(ImageFormatError, match="diff id"):
        oci_image.parse_config(json.dumps(config).encode(), "config")
    with pytest.raises(InvalidRequest):
        parse_reference(f"registry.example/a/b@{digest}")


def config(**fields: Any) -> bytes:
    image = BuiltImage((), fields)
    return image.config_blob


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"Env": ["A=1"] * 10_001}, "10001 variables, more than 10000"),
        ({"Entrypoint": ["a"] * 10_001}, "10001 words of its entrypoint"),
        ({"Cmd": ["a"] * 10_001}, "10001 words of its command"),
        ({"Labels": {f"l{number}": "" for number in range(10_001)}}, "10001 labels"),
        ({"Volumes": {f"/v{number}": {} for number in range(1001)}}, "1001 volumes, more than 1000"),
    ],
)
def test_lists_of_a_config_have_a_length(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ImageFormatError, match=words):
        oci_image.parse_config(config(**fields), "config")


def test_a_history_is_not_read_however_long_it_is() -> None:
    document = json.loads(config(Env=["A=1"]))
    document["history"] = [{"created_by": "x"}] * 100_000
    found = oci_image.parse_config(json.dumps(document).encode(), "config")
    assert found.config is not None
    assert found.config.env == ("A=1",)


def test_lists_of_an_index_or_an_archive_have_a_length() -> None:
    entry = descriptor(b"x", oci_image.OCI_MANIFEST)
    index = json.dumps({"schemaVersion": 2, "manifests": [entry] * 1001}).encode()
    with pytest.raises(ImageFormatError, match="1001 manifests, more than 1000"):
        oci_image.parse_manifest(index, oci_image.OCI_INDEX, "index")
    one = {"Config": "c", "Layers": []}
    for images, words in (
        ([one] * 1001, "1001 images"),
        ([{**one, "RepoTags": ["a:1"] * 1001}], "1001 names"),
        ([{**one, "Layers": ["l"] * 501}], "501 layers"),
    ):
        with pytest.raises(ImageFormatError, match=words):
            oci_image.parse_saved_images(json.dumps(images).encode(), "manifest.json")


@pytest.mark.parametrize("size", [(1 << 40) + 1, (1 << 63) - 1])
def test_no_blob_claims_more_than_a_disk(size: int) -> None:
    layer = {**descriptor(b"x", "application/vnd.oci.image.layer.v1.tar"), "size": size}
    with pytest.raises(ImageFormatError, match="bytes, more than 1099511627776"):
        oci_image.parse_manifest(manifest(layers=[layer]), "", "manifest")


# Layers.


@pytest.mark.parametrize("case", LEADS_OUT)
@pytest.mark.parametrize("block_size", [512, 4096])
def test_a_layer_that_leads_out_of_its_root_changes_nothing_outside(
    case: str, block_size: int, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_bytes(CANARY)
    (outside / "secret").chmod(0o600)
    before = looks(outside), looks(outside / "secret")
    try:
        layer = written(tmp_path, layer_tar(LEADS_OUT[case]), block_size=block_size)
        assert CANARY not in layer.read_bytes()
    except LayerError:
        pass
    assert os.listdir(outside) == ["secret"]
    assert (outside / "secret").read_bytes() == CANARY
    assert (looks(outside), looks(outside / "secret")) == before


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ([Entry("../x")], r"'\.\.'"),
        ([Entry("a/../../x")], r"'\.\.'"),
        ([hard_link("x", "../outside/secret")], r"'\.\.'"),
        ([hard_link("x", "/etc/passwd")], "hard link"),
        ([hard_link("x", "not/there")], "hard link"),
        ([symlink("l", "../outside"), hard_link("x", "l/secret")], "hard link"),
        ([symlink("l", "/etc"), hard_link("x", "l/passwd")], "hard link"),
        ([directory("d"), hard_link("x", "d")], "directory"),
    ],
)
def test_cve_2025_4330_names_and_hard_links_that_lead_out_are_refused(
    entries: list[Entry], words: str, tmp_path: Path
) -> None:
    refused_layer(tmp_path, layer_tar(entries), words)


def test_an_absolute_name_is_one_in_the_layer(tmp_path: Path) -> None:
    assert names_in(written(tmp_path, layer_tar([Entry("/etc/passwd")]))) == {
        "": "",
        "etc": "",
        "etc/passwd": "",
    }


def test_cpython_151558_a_hard_link_to_a_link_is_the_link_and_not_what_it_points_at(tmp_path: Path) -> None:
    layer = written(tmp_path, layer_tar([symlink("l", "/etc/passwd"), hard_link("same", "l")]))
    assert names_in(layer) == {"": "", "l": "/etc/passwd", "same": "/etc/passwd"}


@pytest.mark.parametrize("kind", [SYMLINK, HARD_LINK, FIFO, tarfile.REGTYPE, tarfile.CHRTYPE])
@pytest.mark.parametrize("name", [".", "./", "./."])
def test_cve_2021_29136_a_layer_without_a_root_directory_is_refused(
    name: str, kind: bytes, tmp_path: Path
) -> None:
    link = "/tmp" if kind in (SYMLINK, HARD_LINK) else ""
    refused_layer(tmp_path, layer_tar([Entry(name, kind=kind, link=link), Entry("x", b"1")]), "root")


BAD_LAYERS: dict[str, Callable[[bytes], bytes]] = {
    "an xz layer that is none": lambda tar: b"\xfd7zXZ\0" + tar,
    "a gzip layer cut off": lambda tar: gzip.compress(tar)[:-9],
    "a gzip head and nothing else": lambda tar: gzip.compress(tar)[:10],
    "a zstd head and nothing else": lambda tar: b"\x28\xb5\x2f\xfd",
    "a tar that stops in a member": lambda tar: tar[:700],
    "noise": lambda tar: b"\x13\x37" * 5000,
    "a header that is all ones": lambda tar: b"1" * 512,
}


@pytest.mark.parametrize("case", BAD_LAYERS)
def test_cve_2021_20291_a_bad_layer_is_refused_at_once_and_nobody_waits(case: str, tmp_path: Path) -> None:
    began = time.process_time()
    blob = BAD_LAYERS[case](layer_tar([Entry("a", b"x" * 5000)]))
    refused_layer(tmp_path, blob, "layer")
    assert time.process_time() - began < SECONDS


def test_ghsa_rp3h_opaque_whiteouts_cost_no_more_than_any_other_member(tmp_path: Path) -> None:
    wide = [Entry(f"d/{number}") for number in range(4000)]
    hidden = [Entry("d/.wh..wh..opq") for _ in range(4000)]
    deep = "/".join("d" * 500)
    nested = [Entry(f"{deep}/.wh..wh..opq") for _ in range(500)]
    began = time.process_time()
    written(tmp_path, layer_tar([*wide, *hidden, *nested, *hidden]))
    assert time.process_time() - began < SECONDS


@pytest.mark.parametrize("steps", ["a/../", "./"])
def test_ghsa_rp3h_links_that_lead_round_and_round_cost_a_bounded_time(steps: str, tmp_path: Path) -> None:
    around = steps * (4000 // len(steps))
    links = [symlink(f"l{number}", f"{around}l{number + 1}") for number in range(38)]
    entries = [directory("a"), *links, directory("l38")]
    for number in range(3000):
        # Replacing a link makes every path that was known so far unknown again.
        entries += [symlink("again", "a"), symlink("again", "b"), Entry(f"l0/f{number}")]
    began = time.process_time()
    try:
        written(tmp_path, layer_tar(entries))
    except LayerError:
        pass
    assert time.process_time() - began < SECONDS


def test_bombs_are_refused_by_their_ratio_and_by_their_size(tmp_path: Path) -> None:
    bomb = gzip.compress(layer_tar([Entry("zeros", bytes(80 << 20))]), 9)
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    with pytest.raises(LayerError, match="ratio"):
        write_layer(
            [bomb], str(tmp_path / "a/layer"), LayerClaims(size=len(bomb)), LayerOptions(max_ratio=10)
        )
    with pytest.raises(LayerError, match="unpacks to more than"):
        write_layer([bomb], str(tmp_path / "b/layer"), LayerClaims(), LayerOptions(max_bytes=1 << 20))
    assert list(tmp_path.glob("*/*")) == []


def test_bombs_of_sparse_files_and_of_numbers_are_refused(tmp_path: Path) -> None:
    big = tarfile.TarInfo("sparse")
    big.pax_headers = {
        "GNU.sparse.major": "0",
        "GNU.sparse.minor": "1",
        "GNU.sparse.map": "0,0",
        "GNU.sparse.size": str(1 << 50),
    }
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        tar.addfile(big)
    refused_layer(tmp_path, buffer.getvalue(), "expand to more than")


# Archives.


async def read_archive(path: Path) -> int:
    archive = await open_archive(os.open(path, os.O_RDONLY), LIMITS)
    try:
        return len(await read_images(archive, Platform("amd64", "linux")))
    finally:
        archive.close()


def an_image() -> BuiltImage:
    return BuiltImage((BuiltLayer(layer_tar([Entry("a", b"1")])),), {}, ("registry.example/a/b:1",))


@pytest.mark.parametrize("name", ["index.json", "oci-layout", "manifest.json"])
@pytest.mark.parametrize("size", [(8 << 20) + 1, 1 << 40])
async def test_cve_2023_25153_a_huge_document_of_an_archive_is_refused_unread(
    name: str, size: int, tmp_path: Path
) -> None:
    """The archive is a sparse file that really has the bytes, so nothing but a bound can refuse it."""
    files = saved_files([an_image()]) if name == "manifest.json" else layout_files([an_image()])
    path = write_tar(tmp_path / "x.tar", {key: data for key, data in files.items() if key != name})
    head = tarfile.TarInfo(name)
    head.size = size
    with path.open("r+b") as file:
        file.write(head.tobuf(tarfile.GNU_FORMAT))
        file.truncate(512 + size + 1024)
    began = time.process_time()
    with pytest.raises(ArchiveError, match=rf"{size} bytes|lacks|neither"):
        await read_archive(path)
    assert time.process_time() - began < SECONDS


@pytest.mark.parametrize("digest", [text for text in NO_DIGESTS if "\0" not in text])
async def test_cve_2024_3727_what_is_no_digest_leads_nowhere_in_an_archive(
    digest: str, tmp_path: Path
) -> None:
    files = layout_files([an_image()])
    index = json.loads(files["index.json"])
    index["manifests"][0]["digest"] = digest
    files["index.json"] = json.dumps(index).encode()
    with pytest.raises(ImageFormatError, match="digest"):
        await read_archive(write_tar(tmp_path / "x.tar", files))


@pytest.mark.parametrize("place", ["../../../etc/passwd", "/etc/passwd", "a/../../etc/passwd", "link"])
async def test_an_archive_that_names_the_hosts_files_gets_none(place: str, tmp_path: Path) -> None:
    image = an_image()
    files = saved_files([image])
    entry = json.loads(files["manifest.json"])[0]
    for field, value in (("Config", place), ("Layers", [place])):
        changed = {**files, "manifest.json": json.dumps([{**entry, field: value}]).encode()}
        members = [Entry(name, data) for name, data in changed.items()]
        path = tmp_path / f"{field}.tar"
        path.write_bytes(layer_tar([*members, symlink("link", "/etc/passwd")]))
        with pytest.raises(ArchiveError, match="lacks"):
            await read_archive(path)


async def test_cve_2026_50195_a_checkpoint_archive_is_no_image(tmp_path: Path) -> None:
    files = {"config.dump": b"{}", "spec.dump": b"{}", "checkpoint/pages-1.img": b"x", "container.log": b""}
    with pytest.raises(ArchiveError, match="neither oci-layout"):
        await read_archive(write_tar(tmp_path / "x.tar", files))


async def test_cve_2026_24054_an_image_with_no_layers_is_read_as_one_without_any(tmp_path: Path) -> None:
    image = BuiltImage((), {}, ("registry.example/empty:1",))
    try:
        assert await read_archive(write_tar(tmp_path / "x.tar", layout_files([image]))) == 1
    except (ArchiveError, ImageFormatError) as refusal:
        assert "layer" in str(refusal)  # noqa: PT017  # either is safe: taken as it is, or refused


# What is in an image when a container is made of it.


@pytest.mark.parametrize("name", ["etc/passwd", "etc/group"])
def test_cve_2025_4437_a_huge_passwd_or_group_file_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    with (tmp_path / name).open("wb") as file:
        file.truncate(1 << 40)
    began = time.process_time()
    with pytest.raises(InvalidRequest, match=name):
        read_facts(str(tmp_path))
    assert time.process_time() - began < SECONDS


def test_cve_2026_47262_a_long_group_line_costs_a_bounded_time() -> None:
    group = "wheel:x:10:" + ",".join(["a"] * (1 << 19))
    began = time.process_time()
    facts = RootfsFacts(passwd="a:x:1:1::/:\n" * 50_000, group=group)
    found = container_user(ContainerSecurity(), ImageConfig(user="a"), facts)
    assert found.additional_gids == (1, 10)
    assert time.process_time() - began < SECONDS


def test_cve_2024_9676_a_passwd_that_is_a_link_out_is_read_inside_the_root(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    (root / "etc").mkdir(parents=True)
    outside.write_text("alice:x:7:7::/:\n")
    for target in (str(outside), "../../outside", "../" * 50 + str(outside)):
        (root / "etc/passwd").unlink(missing_ok=True)
        (root / "etc/passwd").symlink_to(target)
        assert read_facts(str(root)) == RootfsFacts("", "")


def test_cve_2024_9676_a_passwd_that_is_no_file_is_refused_and_nobody_waits(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    os.mkfifo(tmp_path / "etc/passwd")
    began = time.process_time()
    with pytest.raises(InvalidRequest, match="passwd"):
        read_facts(str(tmp_path))
    assert time.process_time() - began < SECONDS


@pytest.mark.parametrize(
    "user",
    ["4294967296", "2147483648", "-1", "99999999999999999999", "+0", "-0", "0x0", "0" * 11, "0 ", "\u0660"],
)
def test_cve_2024_40635_a_number_that_is_no_uid_is_never_root(user: str) -> None:
    facts = RootfsFacts(f"{user}:x:0:0::/:\nroot:x:0:0::/:\n", "")
    shown, name = shown_user(user)
    assert shown is None or (shown == 1 << 31 and user == str(shown))
    assert name == ("" if shown else user)
    plain = user.lstrip("+-").isascii() and user.lstrip("+-").isdigit()
    if plain:
        # CVE-2016-3697: a number is no name either, whatever /etc/passwd has.
        with pytest.raises(InvalidRequest, match="is not an id"):
            container_user(ContainerSecurity(), ImageConfig(user=user), facts)


def test_cve_2026_46680_a_group_that_is_out_of_range_is_refused() -> None:
    for user in ("1:4294967296", "1:-1", "1:99999999999"):
        with pytest.raises(InvalidRequest, match="is not an id"):
            container_user(ContainerSecurity(), ImageConfig(user=user), RootfsFacts("", ""))


@pytest.mark.parametrize(
    "path", ["/../../../outside/new", "/link/new", "/absolute/new", "/a/../../outside/new", "/deep/../new"]
)
def test_cve_2022_23648_a_volume_or_directory_of_the_image_is_made_inside_its_root(
    path: str, tmp_path: Path
) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    root.mkdir()
    outside.mkdir()
    (root / "link").symlink_to("../outside")
    (root / "absolute").symlink_to(outside)
    for working_dir, volumes in ((path, ()), ("/", (path,))):
        try:
            make_directories(str(root), working_dir, volumes)
        except (InvalidRequest, OSError) as refusal:
            assert "/" in str(refusal)  # noqa: PT017  # it may be refused, naming the path
        assert os.listdir(outside) == []
        assert os.listdir(tmp_path) == ["root", "outside"] or set(os.listdir(tmp_path)) == {"root", "outside"}


def test_cve_2026_53488_an_images_labels_are_nobodys_orders() -> None:
    hostile = {"containerd.io/restart.loguri": "binary:///bin/sh", "io.kubernetes.cri-o.x": "y"}
    plain = inputs()
    changed = replace(plain, image=replace(plain.image, labels=hostile))
    assert container_spec(changed) == container_spec(plain)


def test_cve_2022_4318_a_line_break_in_home_stays_one_variable() -> None:
    value = "HOME=/root\nevil:x:0:0::/:/bin/sh"
    plain = inputs()
    spec = container_spec(replace(plain, image=replace(plain.image, env=(value,))))
    assert [one for one in spec.process.env if one.startswith("HOME=")] == [value]
    assert all("passwd" not in mount.destination for mount in spec.mounts)


def test_cve_2021_21334_containers_of_one_image_share_no_environment() -> None:
    one = with_config(envs=(("SECRET", b"1"),))
    other = replace(with_config(envs=(("OTHER", b"2"),)), image=one.image)
    first, second = container_spec(one).process.env, container_spec(other).process.env
    assert "SECRET=1" in first
    assert "SECRET=1" not in second
    assert one.image.env == ("A=image", "PATH=/bin")


def test_a_number_in_a_header_cannot_be_more_than_a_file_may_have(tmp_path: Path) -> None:
    head = bytearray(tarfile.TarInfo("x").tobuf(tarfile.GNU_FORMAT))
    head[124:136] = b"\x80" + struct.pack(">3xQ", (1 << 64) - 1)
    head[148:156] = b" " * 8
    head[148:156] = b"%06o\0 " % sum(head)
    refused_layer(tmp_path, bytes(head) + bytes(1024), "out of range")
