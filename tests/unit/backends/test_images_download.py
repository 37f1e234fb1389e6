"""Ranges of a blob: from whom, in which order, and what happens when a host fails."""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from crib.backends.images.worker import download
from crib.backends.images.worker.connections import DamagedFailure, HostFailure
from crib.backends.images.worker.download import BlobDownload, SharedRate, TransferTerms
from crib.backends.images.worker.spool import Spool
from crib.model.errors import Unavailable
from crib.model.image_settings import TransferSettings
from tests.fakes.clock import without_waiting
from tests.unit.backends.blob_lab import LIMITS, FakeClient, FakeHost

BLOB = random.Random(2).randbytes(1_000_000)
DIGEST = f"sha256:{hashlib.sha256(BLOB).hexdigest()}"
RANGED = dataclasses.replace(LIMITS, parallel_ranges=3)
IMPATIENT = dataclasses.replace(LIMITS, stall_timeout=0.1)


@pytest.fixture(autouse=True)
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(download, "LARGE", 500_000)
    monkeypatch.setattr(download, "RANGE", 100_000)
    monkeypatch.setattr(download, "_FIRST_PAUSE", 0.01)


@pytest.fixture
def spool() -> Iterator[Spool]:
    made = Spool(DIGEST, len(BLOB), 0)
    yield made
    made.close(keep=False)


def fetching(
    spool: Spool, client: FakeClient, limits: TransferSettings = LIMITS, told: list[str] | None = None
) -> BlobDownload:
    terms = TransferTerms(limits, SharedRate(), (told if told is not None else []).append)
    return BlobDownload(client, spool, terms, client.blob_hosts())


async def test_a_small_blob_comes_by_one_request_without_a_range(spool: Spool) -> None:
    host = FakeHost(BLOB)
    told: list[str] = []
    await fetching(spool, FakeClient(host), told=told).run()
    assert host.asked == [(0, None)]
    assert spool.is_right()
    assert set(told) == {"h0"}


async def test_a_large_blob_comes_in_ranges_over_several_connections(spool: Spool) -> None:
    host = FakeHost(BLOB)
    await fetching(spool, FakeClient(host), RANGED).run()
    assert [start for start, _ in host.asked] == list(range(0, 1_000_000, 100_000))
    assert spool.is_right()


async def test_a_host_that_serves_no_ranges_gives_all_over_one_connection(spool: Spool) -> None:
    host = FakeHost(BLOB, ranges=False)
    await fetching(spool, FakeClient(host), RANGED).run()
    assert len(host.asked) == 1
    assert spool.is_right()


async def test_a_broken_range_goes_on_at_the_next_host_where_it_was(spool: Spool) -> None:
    first, second = FakeHost(BLOB, cuts=[10**9, 70_000]), FakeHost(BLOB)
    client = FakeClient(first, second)
    await fetching(spool, client, RANGED).run()
    assert (170_000, 200_000) in second.asked
    assert spool.is_right()
    assert all(body.closed for body in client.bodies)


async def test_a_connection_that_breaks_often_but_brings_something_is_taken_up_again(spool: Spool) -> None:
    host = FakeHost(BLOB, cuts=[200_000] * 4)
    await fetching(spool, FakeClient(host)).run()
    assert [start for start, _ in host.asked] == [0, 200_000, 400_000, 600_000, 800_000]
    assert spool.is_right()


async def test_a_host_without_ranges_after_a_break_sends_the_beginning_in_vain(spool: Spool) -> None:
    first, second = FakeHost(BLOB, cuts=[300_000]), FakeHost(BLOB, ranges=False)
    await fetching(spool, FakeClient(first, second)).run()
    assert second.asked == [(300_000, None)]
    assert spool.is_right()


async def test_a_host_that_breaks_without_bringing_anything_is_asked_twice(spool: Spool) -> None:
    host = FakeHost(BLOB, cuts=[10, 10, 10])
    with pytest.raises(Unavailable, match="h0: reset"):
        await fetching(spool, FakeClient(host)).run()
    assert len(host.asked) == 2


@pytest.mark.parametrize("status", [404, 403, 429, 503])
async def test_a_host_that_refuses_is_asked_once(status: int, spool: Spool) -> None:
    first, second = FakeHost(BLOB, failure=HostFailure(status, "no")), FakeHost(BLOB)
    await fetching(spool, FakeClient(first, second)).run()
    assert len(first.asked) == 1
    assert spool.is_right()


async def test_a_host_with_an_error_of_its_own_is_asked_again(spool: Spool) -> None:
    host = FakeHost(BLOB, failure=HostFailure(500, "oops"))
    with pytest.raises(Unavailable, match="oops"):
        await fetching(spool, FakeClient(host)).run()
    assert len(host.asked) == 2


@pytest.mark.parametrize("blob", [BLOB + b"more", BLOB[:-1]])
@pytest.mark.parametrize("total", [True, False])
async def test_another_size_than_the_manifests_is_refused(blob: bytes, total: bool, spool: Spool) -> None:
    client = FakeClient(FakeHost(blob, total=total))
    with pytest.raises(Unavailable, match=r"more than the|less than the|closed the connection"):
        await fetching(spool, client).run()


async def test_another_range_than_asked_for_is_refused(spool: Spool) -> None:
    class Shifted(FakeClient):
        async def open_blob(self, host, digest, start, end):  # type: ignore[no-untyped-def]
            return await super().open_blob(host, digest, start + 5, end)

    with pytest.raises(Unavailable, match="asked was 0"):
        await fetching(spool, Shifted(FakeHost(BLOB))).run()


def test_a_stall_goes_to_the_next_host_and_marks_the_first_as_dead(spool: Spool) -> None:
    first, second = FakeHost(BLOB, stalls=True), FakeHost(BLOB)
    client = FakeClient(first, second)
    without_waiting(fetching(spool, client, IMPATIENT).run())
    assert client.dead == ["h0"]
    assert spool.is_right()


def test_a_byte_now_and_then_is_no_progress(spool: Spool) -> None:
    client = FakeClient(FakeHost(BLOB, drips=0.01))
    with pytest.raises(Unavailable, match=r"stalled: fewer than 1000 bytes came in 0\.1 s"):
        without_waiting(fetching(spool, client, IMPATIENT).run())
    assert client.dead


def test_a_stall_that_the_client_notices_first_is_a_stall_too(spool: Spool) -> None:
    class Noticing(FakeClient):
        async def open_blob(self, host, digest, start, end):  # type: ignore[no-untyped-def]
            body: Any = await super().open_blob(host, digest, start, end)

            async def chunks():  # type: ignore[no-untyped-def]
                await asyncio.sleep(0.095)  # a slow server is what is tested
                raise HostFailure(0, "sent too little")
                yield b""

            body.chunks = chunks
            return body

    client = Noticing(FakeHost(BLOB))
    with pytest.raises(Unavailable, match="stalled"):
        without_waiting(fetching(spool, client, IMPATIENT).run())
    assert client.dead


def test_a_host_that_drips_for_longer_than_its_grace_is_left_for_the_next(spool: Spool) -> None:
    limits = dataclasses.replace(LIMITS, stall_timeout=60.0, stall_bytes=1, min_rate=1000)
    first, second = FakeHost(BLOB, drips=0.01), FakeHost(BLOB)
    client = FakeClient(first, second)
    without_waiting(fetching(spool, client, limits).run())
    assert spool.is_right()
    assert client.dead == ["h0"]
    assert (len(first.asked), len(second.asked)) == (1, 1)


def test_a_pull_that_only_drips_fails_with_its_rate_and_host(spool: Spool) -> None:
    limits = dataclasses.replace(LIMITS, stall_timeout=60.0, stall_bytes=1, min_rate=8192)
    client = FakeClient(FakeHost(BLOB, drips=0.01))
    with pytest.raises(
        Unavailable, match=r"h0: too slow: 100 bytes a second for 60 s, images\.min_rate is 8192"
    ):
        without_waiting(fetching(spool, client, limits).run())


def test_a_host_that_our_own_bandwidth_limit_slows_down_is_not_to_blame(spool: Spool) -> None:
    limits = dataclasses.replace(LIMITS, stall_timeout=20.0, min_rate=8192)
    bandwidth = SharedRate()
    bandwidth.rate = 4096
    client = FakeClient(FakeHost(BLOB))
    terms = TransferTerms(limits, bandwidth, list[str]().append)
    without_waiting(BlobDownload(client, spool, terms, client.blob_hosts()).run())
    assert spool.is_right()


async def test_when_all_hosts_fail_the_error_names_each(spool: Spool) -> None:
    hosts = (
        FakeHost(BLOB, failure=HostFailure(404, "lost")),
        FakeHost(BLOB, failure=DamagedFailure(200, "bad")),
    )
    with pytest.raises(Unavailable, match=f"layer {DIGEST} \\(h0: lost; h1: bad\\)"):
        await fetching(spool, FakeClient(*hosts), RANGED).run()


async def test_only_what_is_missing_is_asked_for() -> None:
    kept = Spool(DIGEST, len(BLOB), 0)
    kept.write(0, BLOB[:700_000])
    kept.close(keep=True)
    spool = Spool(DIGEST, len(BLOB), 0)
    host = FakeHost(BLOB)
    await fetching(spool, FakeClient(host)).run()
    assert host.asked == [(spool.resumed, None)]
    assert spool.is_right()
    spool.close(keep=False)


def test_the_bandwidth_is_shared_and_kept_to(monkeypatch: pytest.MonkeyPatch) -> None:
    bandwidth = SharedRate()
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    async def take() -> None:
        assert await bandwidth.take(10**9) == 0.0
        bandwidth.rate = 1000
        for _ in range(3):
            await bandwidth.take(500)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    without_waiting(take())
    assert slept == [pytest.approx(0.5), pytest.approx(1.0)]


async def test_no_host_at_all_is_an_error(spool: Spool) -> None:
    with pytest.raises(Unavailable):
        await fetching(spool, FakeClient()).run()


async def test_a_host_that_may_be_asked_later_is_waited_for(spool: Spool) -> None:
    host = FakeHost(BLOB, cuts=[10])
    await fetching(spool, FakeClient(host)).run()
    assert [start for start, _ in host.asked] == [0, 10]
    assert spool.is_right()
