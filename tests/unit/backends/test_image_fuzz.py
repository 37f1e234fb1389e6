"""Whatever comes from outside is taken, or refused with the error that says so; nothing else, and soon."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import gzip
import json
import os
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crib.backends.images.worker.archive import ArchiveError, open_archive, read_images
from crib.backends.images.worker.documents import image_of
from crib.backends.images.worker.layers import LayerClaims, LayerError, write_layer
from crib.model.errors import InvalidRequest
from crib.model.ids import digest_of
from crib.model.image import ImageDocuments, Platform, parse_reference
from crib.model.image_settings import TransferSettings
from crib.model.registry import canonical_registry
from crib.wire import oci_image
from crib.wire.erofs_reader import ErofsImage
from crib.wire.oci_image import ImageFormatError
from tests.images import (
    BuiltImage,
    BuiltLayer,
    Entry,
    descriptor,
    directory,
    docker_layout_files,
    layer_tar,
    layout_files,
    saved_files,
)
from tests.unit.backends.blob_lab import open_below

HERE = Platform("amd64", "linux")
LIMITS = TransferSettings(min_free=0)
SECONDS = 5.0
"""Of processor time that one example may take, coverage measured. What else the machine has to do does not
count."""

leaves = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(1 << 70), 1 << 70),
    st.floats(),
    st.text(max_size=12),
    st.sampled_from(["linux", "amd64", "sha256:" + "a" * 64, "../x", "/etc/passwd", *oci_image.ACCEPTED]),
)
values = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
)


@contextlib.contextmanager
def bounded() -> Iterator[None]:
    began = time.process_time()
    yield
    assert time.process_time() - began < SECONDS


def places(document: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of every value of a JSON document."""
    found = [path]
    if isinstance(document, dict):
        for key, value in document.items():
            found += places(value, (*path, key))
    elif isinstance(document, list):
        for number, value in enumerate(document):
            found += places(value, (*path, number))
    return found


@st.composite
def mangled(draw: st.DrawFn, document: Any) -> bytes:
    """The document with up to three of its values replaced, left out, or said twice; or cut off."""
    changed = copy.deepcopy(document)
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from(places(changed)))
        if not path:
            continue
        parent = changed
        for step in path[:-1]:
            parent = parent[step]
        match draw(st.sampled_from(["replace", "remove", "extend"])):
            case "remove":
                del parent[path[-1]]
            case "extend" if isinstance(parent, list):
                parent.extend([parent[path[-1]]] * draw(st.integers(1, 600)))
            case _:
                parent[path[-1]] = draw(values)
    data = json.dumps(changed).encode()
    return data[: draw(st.integers(0, len(data)))] if draw(st.integers(0, 9)) == 0 else data


IMAGE = BuiltImage(
    (BuiltLayer(layer_tar([Entry("a", b"1")])), BuiltLayer(layer_tar([Entry("b", b"2")]))),
    {"Cmd": ["/a"], "Env": ["A=1"], "Labels": {"x": "y"}, "Volumes": {"/v": {}}, "User": "1:2"},
    ("registry.example/a/b:1",),
)
INDEX = {
    "schemaVersion": 2,
    "mediaType": oci_image.OCI_INDEX,
    "manifests": [
        {
            **descriptor(name.encode(), oci_image.OCI_MANIFEST),
            "platform": {"os": "linux", "architecture": name, "variant": "v8"},
            "annotations": {"org.opencontainers.image.ref.name": name},
        }
        for name in ("arm64", "amd64")
    ],
}
CONFIG = json.loads(IMAGE.config_blob)


@given(
    st.one_of(mangled(IMAGE.manifest), mangled(INDEX)), st.sampled_from(["", "text/x", *oci_image.ACCEPTED])
)
def test_a_mangled_manifest_or_index_is_read_or_refused(data: bytes, media_type: str) -> None:
    with bounded(), contextlib.suppress(ImageFormatError):
        document = oci_image.parse_manifest(data, media_type, "document")
        if isinstance(document, oci_image.Index):
            entry = oci_image.choose_manifest(document, oci_image.Platform("amd64", "linux"), "document")
            assert oci_image.is_digest(entry.digest)
        else:
            image_of(document, ImageDocuments(IMAGE.config_blob, data), digest_of(data), HERE)


@given(mangled(CONFIG))
def test_a_mangled_config_is_read_or_refused(data: bytes) -> None:
    manifest = oci_image.parse_manifest(IMAGE.manifest_blob, "", "manifest")
    assert isinstance(manifest, oci_image.Manifest)
    with bounded(), contextlib.suppress(ImageFormatError):
        found = image_of(manifest, ImageDocuments(data, IMAGE.manifest_blob), digest_of(b""), HERE)
        assert len(found.layers) == len(manifest.layers)
        assert all(oci_image.is_digest(layer.diff_id) for layer in found.layers)


@given(mangled(json.loads(saved_files([IMAGE])["manifest.json"])))
def test_a_mangled_list_of_docker_save_is_read_or_refused(data: bytes) -> None:
    with bounded(), contextlib.suppress(ImageFormatError):
        oci_image.parse_saved_images(data, "manifest.json")


KINDS: dict[str, Callable[[list[BuiltImage]], dict[str, bytes]]] = {
    "index.json": layout_files,
    "manifest.json": saved_files,
    "docker 25": docker_layout_files,
}


async def _read(path: Path) -> int:
    archive = await open_archive(os.open(path, os.O_RDONLY), LIMITS)
    try:
        return len(await read_images(archive, HERE))
    finally:
        archive.close()


def read_archive(path: Path, data: bytes) -> None:
    """Read or refused; no descriptor stays open."""
    path.write_bytes(data)
    with bounded(), contextlib.suppress(ArchiveError, ImageFormatError):
        assert asyncio.run(_read(path)) >= 1
    assert open_below(path.parent) == []


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=40)
@given(data=st.data())
def test_an_archive_with_a_mangled_document_is_read_or_refused(
    kind: str, data: st.DataObject, place: Path
) -> None:
    files = KINDS[kind]([IMAGE])
    documents = [name for name, content in files.items() if content[:1] in (b"{", b"[")]
    name = data.draw(st.sampled_from(documents))
    files[name] = data.draw(mangled(json.loads(files[name])))
    read_archive(place / "x.tar", layer_tar([Entry(key, content) for key, content in files.items()]))


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=40)
@given(data=st.data())
def test_an_archive_with_flipped_bytes_is_read_or_refused(
    kind: str, data: st.DataObject, place: Path
) -> None:
    files = KINDS[kind]([IMAGE])
    whole = bytearray(layer_tar([Entry(key, content) for key, content in files.items()]))
    for _ in range(data.draw(st.integers(1, 5))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    stop = data.draw(st.integers(0, len(whole))) if data.draw(st.booleans()) else len(whole)
    read_archive(place / "x.tar", bytes(whole[:stop]))


WHITEOUTS = ("d/.wh.x", ".wh.a", "d/.wh..wh..opq")
_NAMES = st.sampled_from(
    ["a", "d", "d/x", "./d//y", "d/.wh.x", ".wh.a", "d/.wh..wh..opq", "l", "l/z", "e/f/g"]
)
_TARGETS = st.sampled_from(["a", "d", ".", "..", "/", "l", "d/x", "/d", "../../..", "no/such", ""])


@st.composite
def hostile_entries(draw: st.DrawFn) -> list[Entry]:
    """Members that are as odd as tarfile lets one write them."""
    entries = [directory("d"), Entry("d/x", b"x" * 700)]
    for _ in range(draw(st.integers(1, 12))):
        kinds = [*(tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE), tarfile.FIFOTYPE]
        kind = draw(st.sampled_from([*kinds, tarfile.CHRTYPE]))
        content = draw(st.binary(max_size=40)) if kind == tarfile.REGTYPE else b""
        link = draw(_TARGETS) if kind in (tarfile.SYMTYPE, tarfile.LNKTYPE) else ""
        entries.append(Entry(draw(_NAMES), content, draw(st.integers(0, 0o7777)), kind, link))
    return entries


@settings(max_examples=80)
@given(entries=hostile_entries(), packed=st.booleans(), data=st.data())
def test_a_hostile_layer_becomes_a_sound_tree_or_nothing(
    entries: list[Entry], packed: bool, data: st.DataObject, place: Path
) -> None:
    tar = bytearray(layer_tar(entries))
    if data.draw(st.booleans()):
        for _ in range(data.draw(st.integers(1, 3))):
            tar[data.draw(st.integers(0, len(tar) - 1))] ^= data.draw(st.integers(1, 255))
    blob = gzip.compress(bytes(tar), 1) if packed else bytes(tar)
    path = place / "layer"
    path.unlink(missing_ok=True)
    with bounded():
        try:
            write_layer([blob], str(path), LayerClaims())
        except LayerError:
            assert not path.exists()
            return
        whole = path.read_bytes()
        tree = list(ErofsImage(lambda offset, size: whole[offset : offset + size], len(whole)).walk())
    assert tree[0].path == b""
    for entry in tree[1:]:
        assert entry.name not in (b"", b".", b"..")
        assert b"/" not in entry.name
        assert not entry.name.startswith(b".wh.")


_part = st.from_regex(r"[a-z0-9]+([._-][a-z0-9]+){0,2}", fullmatch=True)
_host = st.one_of(
    st.from_regex(r"[a-z0-9]{1,8}\.[a-z]{2,3}(:[1-9][0-9]{0,3})?", fullmatch=True),
    st.sampled_from(["localhost", "localhost:5000", "127.0.0.1:5000", "[::1]:5000"]),
)


@given(
    _host,
    st.lists(_part, min_size=1, max_size=4),
    st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,20}", fullmatch=True) | st.just(""),
    st.booleans(),
)
def test_a_reference_made_of_good_parts_reads_as_these_parts(
    host: str, parts: list[str], tag: str, with_digest: bool
) -> None:
    digest = "sha256:" + "0a" * 32 if with_digest else ""
    text = f"{host}/{'/'.join(parts)}{':' + tag if tag else ''}{'@' + digest if digest else ''}"
    reference = parse_reference(text)
    assert (reference.registry, reference.repository) == (canonical_registry(host), "/".join(parts))
    assert (reference.tag, reference.digest) == (tag or ("" if digest else "latest"), digest)
    assert parse_reference(str(reference)) == reference


@given(st.text(alphabet="aA0.:/@-_[]\n\0 \u00e9", max_size=600))
def test_any_reference_is_read_or_refused_soon(text: str) -> None:
    with bounded(), contextlib.suppress(InvalidRequest):
        reference = parse_reference(text)
        assert parse_reference(str(reference)) == reference
