"""Writing a layer: digests, compression, claims, limits, and that a failure leaves no file."""

from __future__ import annotations

import errno
import gzip
import hashlib
import io
import os
import struct
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from backports import zstd  # the tests run on 3.11, as the project's floor
from hypothesis import given, settings
from hypothesis import strategies as st

from crib.backends.images.worker import layers
from crib.backends.images.worker.layers import LayerClaims, LayerError, LayerFacts, LayerOptions, write_layer
from crib.host import libc
from crib.model.errors import Exhausted
from tests.images import rest_digest_of

CONTENT = {"a": b"alpha", "d/b": bytes(range(256)) * 40, "d/empty": b"", "z": b"z" * 4096}


def archive(content: dict[str, bytes] | None = None) -> bytes:
    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode="w") as tar:
        for name, data in (CONTENT if content is None else content).items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return output.getvalue()


def digest(data: bytes, algorithm: str = "sha256") -> str:
    return f"{algorithm}:{hashlib.new(algorithm, data).hexdigest()}"


def pieces(data: bytes, size: int = 1000) -> Iterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


def _bzip2(data: bytes) -> bytes:
    return b"BZh9" + data


ENCODINGS: dict[str, Callable[[bytes], bytes]] = {
    "tar": lambda tar: tar,
    "gzip": gzip.compress,
    "gzip-members": lambda tar: b"".join(gzip.compress(part) for part in pieces(tar, 3000)) + bytes(20),
    "gzip-many-members": lambda tar: b"".join(gzip.compress(part) for part in pieces(tar, 300)),
    "zstd": zstd.compress,
    "zstd-frames": lambda tar: (
        struct.pack("<II", 0x184D2A50, 3) + b"any" + zstd.compress(tar[:700]) + zstd.compress(tar[700:])
    ),
}


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("size", [1, 999, 1 << 20])
@pytest.mark.parametrize("block", [512, 4096])
def test_every_encoding_gives_the_same_file_and_the_right_digests(
    tmp_path: Path, encoding: str, size: int, block: int
) -> None:
    tar = archive()
    blob = ENCODINGS[encoding](tar)
    path = tmp_path / "layer"
    claims = LayerClaims(digest(blob), len(blob), digest(tar))
    facts = write_layer(pieces(blob, size), str(path), claims, LayerOptions(block_size=block, sync=True))
    written = path.read_bytes()
    end = 4096 + (len(tar) if block == 512 else 4096 + 12288 + 4096)
    assert facts == LayerFacts(
        blob_digest=digest(blob),
        diff_id=digest(tar),
        blob_size=len(blob),
        tar_size=len(tar),
        file_size=len(written),
        inodes=6,
        data_size=end - 4096,
        data_digest=digest(written[4096:end]),
        rest_digest=rest_digest_of(written, end),
    )
    assert (facts.data_digest == facts.diff_id) == (block == 512)
    reference = tmp_path / "reference"
    write_layer([tar], str(reference), LayerClaims(), LayerOptions(block_size=block))
    assert written == reference.read_bytes()


def test_with_small_blocks_the_tar_is_in_the_file_byte_for_byte(tmp_path: Path) -> None:
    tar = archive()
    write_layer([tar], str(tmp_path / "layer"), LayerClaims())
    assert (tmp_path / "layer").read_bytes()[4096 : 4096 + len(tar)] == tar


def test_with_large_blocks_every_files_data_begins_at_a_block(tmp_path: Path) -> None:
    write_layer(pieces(archive(), 100), str(tmp_path / "layer"), LayerClaims(), LayerOptions(block_size=4096))
    written = (tmp_path / "layer").read_bytes()
    assert written[4096:8192] == b"alpha".ljust(4096, b"\0")
    assert written[8192 : 8192 + 12288] == CONTENT["d/b"].ljust(12288, b"\0")
    assert written[20480:24576] == CONTENT["z"]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 5000), min_size=1, max_size=30), st.sampled_from([512, 4096]))
def test_any_cuts_of_the_blob_give_the_same_file(
    tmp_path_factory: pytest.TempPathFactory, cuts: list[int], block: int
) -> None:
    directory = tmp_path_factory.mktemp("cuts")
    blob = gzip.compress(archive())

    def source() -> Iterator[bytes]:
        start = 0
        for cut in cuts:
            yield blob[start : start + cut]
            start += cut
        yield blob[start:]

    options = LayerOptions(block_size=block)
    write_layer(source(), str(directory / "cut"), LayerClaims(), options)
    write_layer([blob], str(directory / "whole"), LayerClaims(), options)
    assert (directory / "cut").read_bytes() == (directory / "whole").read_bytes()


def test_other_digest_algorithms_are_computed_as_they_are_claimed(tmp_path: Path) -> None:
    tar = archive()
    facts = write_layer(
        pieces(tar), str(tmp_path / "layer"), LayerClaims(digest(tar, "sha512"), None, digest(tar))
    )
    assert (facts.blob_digest, facts.diff_id) == (digest(tar, "sha512"), digest(tar))


def test_an_empty_layer_has_a_root(tmp_path: Path) -> None:
    assert write_layer([], str(tmp_path / "none"), LayerClaims()).inodes == 1
    assert write_layer([bytes(1024)], str(tmp_path / "end"), LayerClaims()).inodes == 1


TAR = archive()
GZIP = gzip.compress(TAR)
ZSTD = zstd.compress(TAR)


@pytest.mark.parametrize(
    ("blob", "claims", "options", "reason"),
    [
        (GZIP, LayerClaims(digest(b"other")), LayerOptions(), "the blob's digest is sha256:"),
        (TAR, LayerClaims(digest(b"other")), LayerOptions(), "the blob's digest is sha256:"),
        (GZIP, LayerClaims(diff_id=digest(b"other")), LayerOptions(), "claimed is sha256:"),
        (GZIP, LayerClaims(size=len(GZIP) + 1), LayerOptions(), f"has {len(GZIP)} bytes"),
        (GZIP, LayerClaims(size=len(GZIP) - 1), LayerOptions(), "more than the"),
        (GZIP, LayerClaims("md5:00"), LayerOptions(), "digest algorithm 'md5'"),
        (GZIP[:-20], LayerClaims(), LayerOptions(), "ends inside its gzip data"),
        (ZSTD[:-3], LayerClaims(), LayerOptions(), "ends inside its zstd data"),
        (GZIP[:50] + b"\xff" * 40 + GZIP[90:], LayerClaims(), LayerOptions(), "gzip data is damaged"),
        (GZIP[:-6] + b"xx" + GZIP[-4:], LayerClaims(), LayerOptions(), "gzip data is damaged"),
        (GZIP + b"garbage" * 9, LayerClaims(), LayerOptions(), "gzip data is damaged"),
        (ZSTD[:4] + b"\xff" * 30 + ZSTD[34:], LayerClaims(), LayerOptions(), "zstd data is damaged"),
        (_bzip2(TAR), LayerClaims(), LayerOptions(), "compressed with bzip2"),
        (TAR[:700], LayerClaims(), LayerOptions(), "ends inside it"),
        (b"<html>not found</html>" * 40, LayerClaims(), LayerOptions(), "tar member"),
        (archive({"../x": b"1"}), LayerClaims(), LayerOptions(), "'..'"),
        (archive({"/x": b"1"}), LayerClaims(), LayerOptions(absolute_names=False), "absolute"),
        (archive({"a": b"1", "a/b": b"2"}), LayerClaims(), LayerOptions(), "used as a directory"),
        (GZIP, LayerClaims(), LayerOptions(max_bytes=len(TAR) - 1), "unpacks to more than"),
        (GZIP, LayerClaims(), LayerOptions(max_members=3), "more than 3 members"),
    ],
)
@pytest.mark.parametrize("block", [512, 4096])
def test_a_bad_layer_is_refused_and_leaves_nothing(
    tmp_path: Path, blob: bytes, claims: LayerClaims, options: LayerOptions, reason: str, block: int
) -> None:
    given_options = replace(options, block_size=block)
    with pytest.raises(LayerError, match=reason):
        write_layer(pieces(blob), str(tmp_path / "layer"), claims, given_options)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("compress", [gzip.compress, zstd.compress])
def test_a_bomb_is_stopped_at_the_ratio(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compress: Callable[[bytes], bytes]
) -> None:
    monkeypatch.setattr(layers, "RATIO_GRACE", 1 << 20)
    blob = compress(archive({"zeros": bytes(8 << 20)}))
    with pytest.raises(LayerError, match="the ratio 100 is the limit"):
        write_layer(pieces(blob), str(tmp_path / "layer"), LayerClaims(size=len(blob)))
    assert os.listdir(tmp_path) == []
    write_layer(pieces(blob), str(tmp_path / "layer"), LayerClaims(), LayerOptions(max_ratio=100_000))


def test_a_source_that_fails_leaves_nothing_and_its_error_is_the_callers(tmp_path: Path) -> None:
    def source() -> Iterator[bytes]:
        yield GZIP[:100]
        raise ConnectionResetError(104, "peer went away")

    with pytest.raises(ConnectionResetError) as caught:
        write_layer(source(), str(tmp_path / "layer"), LayerClaims())
    assert caught.value.filename is None
    assert os.listdir(tmp_path) == []


def test_a_file_that_is_there_is_neither_overwritten_nor_removed(tmp_path: Path) -> None:
    (tmp_path / "layer").write_bytes(b"mine")
    with pytest.raises(FileExistsError):
        write_layer([TAR], str(tmp_path / "layer"), LayerClaims())
    assert (tmp_path / "layer").read_bytes() == b"mine"


def test_a_full_disk_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(descriptor: int, data: bytes, offset: int) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", refuse)
    path = str(tmp_path / "layer")
    with pytest.raises(OSError, match="No space left") as caught:
        write_layer([TAR], path, LayerClaims())
    assert caught.value.filename == path
    assert os.listdir(tmp_path) == []


def test_sparse_files_are_expanded_within_the_limit(tmp_path: Path) -> None:
    entry = tarfile.TarInfo("sparse")
    entry.size = 6
    entry.pax_headers = {"GNU.sparse.map": "1000,6", "GNU.sparse.size": "1000000", "GNU.sparse.name": "s"}
    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode="w", format=tarfile.PAX_FORMAT) as tar:
        tar.addfile(entry, io.BytesIO(b"middle"))
    for block in (512, 4096):
        path = tmp_path / str(block)
        facts = write_layer([output.getvalue()], str(path), LayerClaims(), LayerOptions(block_size=block))
        written = path.read_bytes()
        assert facts.file_size == len(written) > 1_000_000
        # Once where it was stored, once in its place.
        assert written.count(b"middle") == 2
        assert (written.rindex(b"middle") - 1000) % 4096 == 0
    options = LayerOptions(max_bytes=len(output.getvalue()))
    with pytest.raises(LayerError, match="sparse files expand to more"):
        write_layer([output.getvalue()], str(tmp_path / "no"), LayerClaims(), options)


def test_the_digests_of_data_and_rest_cover_the_whole_file_with_sparse_members_too(tmp_path: Path) -> None:
    entry = tarfile.TarInfo("sparse")
    entry.size = 6
    entry.pax_headers = {"GNU.sparse.map": "1000,6", "GNU.sparse.size": "1000000", "GNU.sparse.name": "s"}
    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode="w", format=tarfile.PAX_FORMAT) as tar:
        tar.addfile(entry, io.BytesIO(b"middle"))
    facts = write_layer([output.getvalue()], str(tmp_path / "layer"), LayerClaims())
    written = (tmp_path / "layer").read_bytes()
    end = 4096 + facts.data_size
    assert facts.data_digest == digest(written[4096:end]) == facts.diff_id
    assert facts.rest_digest == rest_digest_of(written, end)


def test_a_tar_that_the_file_holds_is_hashed_once_whatever_the_diff_ids_algorithm_is(tmp_path: Path) -> None:
    tar = archive()
    claims = LayerClaims(diff_id=digest(tar, "sha512"))
    facts = write_layer([tar], str(tmp_path / "layer"), claims)
    assert facts.data_digest == digest(tar, "sha512") == facts.diff_id
    facts = write_layer([tar], str(tmp_path / "padded"), claims, LayerOptions(block_size=4096))
    written = (tmp_path / "padded").read_bytes()
    assert facts.data_digest == digest(written[4096 : 4096 + facts.data_size])


def test_absolute_names_as_kaniko_ko_and_paketo_write_them_are_taken_from_the_root(tmp_path: Path) -> None:
    write_layer([archive({"/x": b"1", "//d/y": b"2"})], str(tmp_path / "slash"), LayerClaims())
    plain = write_layer([archive({"x": b"1", "d/y": b"2"})], str(tmp_path / "plain"), LayerClaims())
    assert plain.inodes == 4
    metadata = [(tmp_path / name).read_bytes()[4096 + plain.data_size :] for name in ("slash", "plain")]
    assert metadata[0] == metadata[1]


def test_a_disk_that_is_nearly_full_is_told_before_it_is_full(tmp_path: Path) -> None:
    options = LayerOptions(min_free=1 << 60)
    with pytest.raises(Exhausted, match=r"images\.min_free"):
        write_layer([archive({"x": bytes(9 << 20)})], str(tmp_path / "layer"), LayerClaims(), options)
    assert os.listdir(tmp_path) == []


def test_a_file_system_without_early_writing_is_written_to_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def refuse(descriptor: int) -> None:
        asked.append(descriptor)
        raise OSError(errno.ESPIPE, "illegal seek")

    monkeypatch.setattr(libc, "start_writeback", refuse)
    tar = archive({"x": bytes(40 << 20)})
    write_layer(pieces(tar, 1 << 20), str(tmp_path / "layer"), LayerClaims(), LayerOptions(sync=True))
    assert len(asked) == 1


def test_a_torn_file_has_no_superblock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, int]] = []
    real = os.pwrite

    def record(descriptor: int, data: bytes, offset: int) -> int:
        seen.append((offset, len(data)))
        return real(descriptor, data, offset)

    monkeypatch.setattr(os, "pwrite", record)
    write_layer(pieces(TAR), str(tmp_path / "layer"), LayerClaims())
    assert [entry for entry in seen if entry[0] < 4096] == [seen[-1]] == [(1024, 128)]
