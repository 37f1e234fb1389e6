"""A blob's bytes on disk: whatever the order in which they come, they are read in theirs."""

from __future__ import annotations

import hashlib
import itertools
import os
import random
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crib.backends.images.worker.spool import Spool, SpoolClosed
from crib.model.errors import Exhausted

BLOB = random.Random(1).randbytes(3 << 20)
DIGEST = f"sha256:{hashlib.sha256(BLOB).hexdigest()}"
NAME = f"{DIGEST.removeprefix('sha256:')}.blob"


@pytest.fixture(autouse=True)
def staging(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def spool() -> Iterator[Spool]:
    made = Spool(DIGEST, len(BLOB), 0)
    yield made
    made.close(keep=False)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 99_999), max_size=8, unique=True), st.randoms(use_true_random=False))
def test_parts_in_any_order_are_read_in_the_blobs_order(cuts: list[int], order: random.Random) -> None:
    blob = BLOB[:100_000]
    edges = [0, *sorted(cuts), len(blob)]
    parts = list(itertools.pairwise(edges))
    order.shuffle(parts)
    spool = Spool(DIGEST, len(blob), 0)
    for start, end in parts:
        spool.write(start, blob[start:end])
    assert spool.edge == spool.received == len(blob)
    assert b"".join(spool.chunks()) == blob
    spool.close(keep=False)


def test_the_reader_waits_for_the_edge_and_not_for_what_lies_ahead(spool: Spool) -> None:
    got: list[bytes] = []
    first = threading.Event()

    def read() -> None:
        for chunk in spool.chunks():
            got.append(chunk)
            first.set()

    thread = threading.Thread(target=read)
    thread.start()
    spool.write(2 << 20, BLOB[2 << 20 :])
    assert spool.edge == 0
    spool.write(0, BLOB[: 1 << 20])
    assert first.wait(10)
    spool.write(1 << 20, BLOB[1 << 20 : 2 << 20])
    thread.join(10)
    assert b"".join(got) == BLOB


def test_a_reader_that_waits_can_be_stopped(spool: Spool) -> None:
    spool.write(0, BLOB[:1000])
    threading.Timer(0.01, spool.stop).start()
    with pytest.raises(SpoolClosed):
        list(spool.chunks())


def test_nothing_is_written_for_a_reader_that_left(spool: Spool) -> None:
    spool.leave()
    with pytest.raises(SpoolClosed):
        spool.write(0, b"x")


def test_what_was_kept_is_there_again_and_the_hole_behind_it_is_not() -> None:
    spool = Spool(DIGEST, len(BLOB), 0)
    spool.write(0, BLOB[:1_000_000])
    spool.write(2_000_000, BLOB[2_000_000:])
    spool.close(keep=True)
    again = Spool(DIGEST, len(BLOB), 0)
    assert 1_000_000 - (1 << 16) <= again.resumed <= 1_000_000
    again.write(again.edge, BLOB[again.edge :])
    assert b"".join(again.chunks()) == BLOB
    assert again.is_right()
    again.close(keep=False)
    assert os.listdir() == []


def test_after_a_kill_only_what_lies_before_the_first_hole_counts() -> None:
    with open(NAME, "wb") as file:
        file.write(BLOB[:500_000])
        file.seek(2_000_000)
        file.write(BLOB[2_000_000:])
    spool = Spool(DIGEST, len(BLOB), 0)
    assert 400_000 < spool.resumed <= 500_000
    assert os.path.getsize(NAME) == spool.resumed
    spool.close(keep=False)


def test_a_spool_that_is_longer_than_its_blob_is_cut() -> None:
    Path(NAME).write_bytes(BLOB + bytes(100))
    spool = Spool(DIGEST, len(BLOB), 0)
    assert spool.resumed < len(BLOB)
    spool.close(keep=False)


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    os.symlink("/etc/passwd", NAME)
    with pytest.raises(OSError, match="symbolic links"):
        Spool(DIGEST, len(BLOB), 0)


def test_wrong_bytes_are_told(spool: Spool) -> None:
    assert not spool.is_right()
    spool.write(0, bytes(len(BLOB)))
    assert not spool.is_right()
    spool.reset(empty=True)
    spool.write(0, BLOB)
    assert spool.is_right()


def test_a_disk_that_is_nearly_full_is_named() -> None:
    spool = Spool(DIGEST, 20 << 20, 1 << 60)
    with pytest.raises(Exhausted, match=r"images\.min_free"):
        spool.write(0, bytes(9 << 20))
    spool.close(keep=False)


def test_an_empty_blob_has_no_chunks() -> None:
    spool = Spool(DIGEST, 0, 0)
    assert list(spool.chunks()) == []
    spool.close(keep=False)
