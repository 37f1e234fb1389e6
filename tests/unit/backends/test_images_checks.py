"""A layer's file is what was written, or the check says what is wrong with it."""

from __future__ import annotations

import errno
import hashlib
import mmap
import os
from dataclasses import replace
from pathlib import Path

import pytest

from crib.backends.images.checks import check_layer
from crib.backends.images.worker.layers import LayerClaims, LayerOptions, write_layer
from crib.model.ids import Digest
from crib.model.image import Layer
from tests.images import Entry, digest_of, directory, layer_tar, rest_digest_of

ENTRIES = [directory("etc"), Entry("etc/one", b"one"), Entry("large", bytes(range(256)) * 12_000)]


def written(path: Path, block_size: int = 512) -> Layer:
    """A layer's file, and the record of it, digests by a way of the test's own."""
    tar = layer_tar(ENTRIES)
    write_layer([tar], str(path), LayerClaims(), LayerOptions(block_size=block_size))
    content = path.read_bytes()
    size = len(tar) if block_size == 512 else 4096 + 256 * 12_000  # each file's data begins at a block
    return Layer(
        Digest(digest_of(tar)),
        Digest(digest_of(tar)),
        len(content),
        size,
        digest_of(content[4096 : 4096 + size]),
        rest_digest_of(content, 4096 + size),
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "layer.erofs"


@pytest.mark.parametrize("block_size", [512, 4096])
def test_a_layer_as_it_was_written_is_right(path: Path, block_size: int) -> None:
    layer = written(path, block_size)
    assert check_layer(str(path), layer) == ""


def test_with_512_byte_blocks_the_data_is_the_tar(path: Path) -> None:
    layer = written(path)
    assert layer.data_digest == layer.diff_id


@pytest.mark.parametrize(
    ("place", "words"),
    [
        (0, "its metadata has digest"),
        (1024, "has no EROFS superblock"),
        (1030, "its metadata has digest"),
        (4095, "its metadata has digest"),
        (4096, "its data has digest"),
        (2_000_000, "its data has digest"),
        (-1, "its metadata has digest"),
    ],
)
def test_one_changed_bit_anywhere_is_found(path: Path, place: int, words: str) -> None:
    layer = written(path)
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    assert words in check_layer(str(path), layer)


def test_the_last_byte_of_the_data_and_the_first_behind_it_are_told_apart(path: Path) -> None:
    layer = written(path)
    good = path.read_bytes()
    for place, words in ((4095 + layer.data_size, "data"), (4096 + layer.data_size, "metadata")):
        content = bytearray(good)
        content[place] ^= 0x80
        path.write_bytes(content)
        assert f"its {words} has digest" in check_layer(str(path), layer)


def test_what_is_no_file_of_the_right_size_is_told(path: Path, tmp_path: Path) -> None:
    layer = written(path)
    assert check_layer(str(tmp_path / "other"), layer) == f"{tmp_path}/other is missing"
    (tmp_path / "link").symlink_to(path)
    assert "symbolic link" in check_layer(str(tmp_path / "link"), layer)
    assert "not a regular file" in check_layer(str(tmp_path), layer)
    os.mkfifo(tmp_path / "fifo")
    assert "not a regular file" in check_layer(str(tmp_path / "fifo"), layer)
    os.truncate(path, layer.size - 4096)
    assert f"has {layer.size - 4096} bytes, {layer.size} were written" in check_layer(str(path), layer)
    path.write_bytes(b"")
    assert "has 0 bytes" in check_layer(str(path), layer)


def test_a_record_without_digests_has_size_and_superblock_looked_at(path: Path) -> None:
    layer = replace(written(path), data_size=0, data_digest="", rest_digest="")
    assert check_layer(str(path), layer) == ""
    content = bytearray(path.read_bytes())
    content[1024] ^= 1
    path.write_bytes(content)
    assert "no EROFS superblock" in check_layer(str(path), layer)


def test_a_record_whose_data_does_not_fit_into_the_file_is_told(path: Path) -> None:
    layer = written(path)
    assert "too few" in check_layer(str(path), replace(layer, data_size=layer.size))


def test_a_file_without_direct_reads_is_read_through_the_page_cache(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = written(path)
    flags: list[int] = []
    real = os.open

    def refusing(name: str, flag: int, mode: int = 0o777) -> int:
        flags.append(flag & os.O_DIRECT)
        if flag & os.O_DIRECT:
            raise OSError(errno.EINVAL, "no direct reads here", name)
        return real(name, flag, mode)

    monkeypatch.setattr(os, "open", refusing)
    assert check_layer(str(path), layer) == ""
    assert flags == [os.O_DIRECT, 0]


def test_a_disk_error_is_a_finding(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = written(path)

    def failing(fd: int, buffers: object, offset: int) -> int:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "preadv", failing)
    assert check_layer(str(path), layer) == f"{path} cannot be read: Input/output error"


def test_a_check_leaves_the_page_cache_as_it_was(path: Path) -> None:
    layer = written(path)
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        # What is read ahead would come when it comes.
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
        os.pread(fd, 4096, 0)
        before = cached(fd, layer.size)
        assert check_layer(str(path), layer) == ""
        assert cached(fd, layer.size) == before
    finally:
        os.close(fd)


def cached(fd: int, size: int) -> int:
    """Pages of the file that are in memory (mincore(2))."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    pages = -(-size // mmap.PAGESIZE)
    vector = (ctypes.c_ubyte * pages)()
    # Private, so that ctypes may take the address of the mapping.
    with mmap.mmap(fd, size, mmap.MAP_PRIVATE) as mapping:
        first = ctypes.c_char.from_buffer(mapping)
        result = libc.mincore(ctypes.c_void_p(ctypes.addressof(first)), ctypes.c_size_t(size), vector)
        del first
    assert result == 0
    return sum(page & 1 for page in vector)


def test_the_digests_are_those_of_sha256sum(path: Path) -> None:
    layer = written(path)
    with path.open("rb") as file:
        file.seek(4096)
        assert layer.data_digest == "sha256:" + hashlib.sha256(file.read(layer.data_size)).hexdigest()
