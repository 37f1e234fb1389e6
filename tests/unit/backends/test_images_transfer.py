"""Layers are written once for all who want them, and nothing stays of one that failed."""

from __future__ import annotations

import asyncio
import dataclasses
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from crib.backends.images.messages import LayerTerms, blob_name, staged_name
from crib.backends.images.worker.connections import HostFailure
from crib.backends.images.worker.documents import FoundLayer
from crib.backends.images.worker.layers import LayerError
from crib.backends.images.worker.shares import MAX_WRITERS
from crib.backends.images.worker.transfer import FileOrigin, LayerOrigin, LayerTransfers, RegistryOrigin
from crib.model.errors import Exhausted, Unavailable
from crib.model.ids import Digest
from crib.model.image import Layer, Progress
from crib.tasks.groups import Group
from tests.images import GZIP, BuiltLayer, Entry, digest_of, layer_tar
from tests.unit.backends.blob_lab import LIMITS, TERMS, FakeClient, FakeHost

BUILT = BuiltLayer(layer_tar([Entry("file", os.urandom(300_000))]), GZIP)
FOUND = FoundLayer(Digest(BUILT.diff_id), Digest(digest_of(BUILT.blob)), len(BUILT.blob), "x")
STAGED = staged_name(FOUND.diff_id)
SPOOL = blob_name(digest_of(BUILT.blob))
WRONG = BUILT.blob[:-5] + bytes([BUILT.blob[-5] ^ 1]) + BUILT.blob[-4:]


@pytest.fixture(autouse=True)
def staging(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
async def group() -> AsyncIterator[Group]:
    async with Group() as made:
        yield made


class Lab:
    """Transfers, and what they told."""

    def __init__(self, group: Group) -> None:
        self.transfers = LayerTransfers(group)
        self.told: list[Progress] = []

    async def pull(self, *hosts: FakeHost, terms: LayerTerms = TERMS) -> Layer:
        origin = RegistryOrigin(FakeClient(*hosts))
        return await self.transfers.obtain(FOUND, origin, terms, self.told.append)

    def begin(self, *hosts: FakeHost) -> asyncio.Task[Layer]:
        return asyncio.ensure_future(self.pull(*hosts))


@pytest.fixture
async def lab(group: Group) -> AsyncIterator[Lab]:
    made = Lab(group)
    yield made
    made.transfers.close()


async def test_two_requests_share_one_transfer(lab: Lab) -> None:
    host = FakeHost(BUILT.blob, gate=asyncio.Event())
    wanted = [lab.begin(host) for _ in range(2)]
    await host.begun.wait()
    assert host.gate is not None
    host.gate.set()
    first, second = await asyncio.gather(*wanted)
    assert len(host.asked) == 1
    assert first == second
    assert first.blob_digest == FOUND.blob_digest
    assert os.listdir() == [STAGED]
    lab.transfers.release(1, [FOUND.diff_id], handed_over=False)
    assert os.listdir() == [STAGED]
    lab.transfers.release(2, [FOUND.diff_id], handed_over=False)
    assert os.listdir() == []


async def test_a_layer_that_another_request_has_finished_is_shared_too(lab: Lab) -> None:
    host = FakeHost(BUILT.blob)
    await lab.pull(host)
    await lab.pull(host)
    lab.transfers.release(1, [FOUND.diff_id], handed_over=True)
    await lab.pull(host)
    assert len(host.asked) == 1
    lab.transfers.release(2, [FOUND.diff_id], handed_over=False)
    lab.transfers.release(3, [FOUND.diff_id], handed_over=False)
    assert os.listdir() == [STAGED]


async def test_what_was_taken_over_is_told_once_and_left_alone(lab: Lab) -> None:
    layer = await lab.pull(FakeHost(BUILT.blob))
    lab.transfers.release(1, [FOUND.diff_id], handed_over=True)
    assert lab.transfers.taken(1, adopted=True) == [layer]
    assert os.listdir() == [STAGED]
    assert lab.transfers.taken(1, adopted=True) == []
    assert not lab.transfers.holds(FOUND.diff_id)


async def test_what_nobody_took_over_goes(lab: Lab) -> None:
    await lab.pull(FakeHost(BUILT.blob))
    lab.transfers.release(1, [FOUND.diff_id], handed_over=True)
    assert lab.transfers.taken(1, adopted=False) == []
    assert os.listdir() == []


async def test_what_the_daemon_refused_is_not_counted_on_by_others(lab: Lab) -> None:
    await lab.pull(FakeHost(BUILT.blob))
    await lab.pull()
    lab.transfers.release(1, [FOUND.diff_id], handed_over=True)
    os.unlink(STAGED)
    lab.transfers.taken(1, adopted=False)
    assert not lab.transfers.holds(FOUND.diff_id)
    await lab.pull(FakeHost(BUILT.blob))
    lab.transfers.release(2, [FOUND.diff_id], handed_over=False)
    assert os.listdir() == []


async def test_a_caller_that_goes_leaves_the_other_its_layer(lab: Lab) -> None:
    host = FakeHost(BUILT.blob, gate=asyncio.Event())
    gone, stays = lab.begin(host), lab.begin(host)
    await host.begun.wait()
    gone.cancel()
    assert host.gate is not None
    host.gate.set()
    assert (await stays).diff_id == FOUND.diff_id


async def test_the_last_caller_that_goes_ends_the_transfer_and_its_bytes_stay(lab: Lab) -> None:
    blob = BUILT.blob
    host = FakeHost(blob, cuts=[200_000])
    slow = FakeHost(blob, gate=asyncio.Event())
    task = lab.begin(host, slow)
    await slow.begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert os.listdir() == [SPOOL]
    again = FakeHost(blob)
    await lab.pull(again)
    ((start, _),) = again.asked
    assert 100_000 < start <= 200_000
    assert os.listdir() == [STAGED]


async def test_hosts_that_fail_leave_what_they_brought(lab: Lab) -> None:
    host = FakeHost(BUILT.blob, cuts=[200_000, 5, 5])
    with pytest.raises(Unavailable, match=r"h0: reset"):
        await lab.pull(host)
    assert os.listdir() == [SPOOL]


async def test_resumed_bytes_that_are_wrong_are_fetched_once_more(lab: Lab) -> None:
    Path(SPOOL).write_bytes(bytes(200_000))
    host = FakeHost(BUILT.blob)
    assert (await lab.pull(host)).diff_id == FOUND.diff_id
    assert [start for start, _ in host.asked] == [196_608, 0]
    assert os.listdir() == [STAGED]


async def test_wrong_bytes_are_fetched_from_the_next_host(lab: Lab) -> None:
    liar, honest = FakeHost(WRONG), FakeHost(BUILT.blob)
    assert (await lab.pull(liar, honest)).diff_id == FOUND.diff_id
    assert (len(liar.asked), len(honest.asked)) == (1, 1)


async def test_wrong_bytes_from_all_hosts_name_them_and_leave_nothing(lab: Lab) -> None:
    with pytest.raises(LayerError, match=r"h0: .*h1: "):
        await lab.pull(FakeHost(WRONG), FakeHost(WRONG))
    assert os.listdir() == []


async def test_a_liar_is_named_when_the_others_are_away(lab: Lab) -> None:
    with pytest.raises(LayerError, match=r"h0: layer.*h1: lost"):
        await lab.pull(FakeHost(WRONG), FakeHost(b"", failure=HostFailure(404, "lost")))


async def test_who_of_several_hosts_lied_is_found_out_one_by_one(lab: Lab) -> None:
    liar = FakeHost(WRONG, cuts=[100_000])
    assert (await lab.pull(liar, FakeHost(WRONG), FakeHost(BUILT.blob))).diff_id == FOUND.diff_id
    assert os.listdir() == [STAGED]


async def test_a_layer_that_is_wrong_itself_is_fetched_from_one_host_only(lab: Lab) -> None:
    lie = FoundLayer(Digest("sha256:" + "0" * 64), FOUND.blob_digest, FOUND.size, "x")
    hosts = FakeHost(BUILT.blob), FakeHost(BUILT.blob)
    origin = RegistryOrigin(FakeClient(*hosts))
    with pytest.raises(LayerError, match="it unpacks to"):
        await lab.transfers.obtain(lie, origin, TERMS, lab.told.append)
    assert [len(host.asked) for host in hosts] == [1, 0]
    assert os.listdir() == []


async def test_a_writer_that_gives_up_ends_a_download_that_hangs(lab: Lab) -> None:
    nonsense = b"\x1f\x8b" + b"\xff" * (len(BUILT.blob) - 2)
    hangs = FakeHost(nonsense, gate=asyncio.Event())
    terms = LayerTerms(dataclasses.replace(LIMITS, stall_timeout=0.3), TERMS.mounting)
    with pytest.raises(LayerError):
        await lab.pull(FakeHost(nonsense, cuts=[len(nonsense) - 10]), hangs, terms=terms)
    assert os.listdir() == []


async def test_a_full_disk_is_told_and_nothing_stays(lab: Lab) -> None:
    terms = LayerTerms(dataclasses.replace(LIMITS, min_free=1 << 60), TERMS.mounting)
    with pytest.raises(Exhausted, match=r"images\.min_free"):
        await lab.pull(FakeHost(BUILT.blob), terms=terms)
    with pytest.raises(Exhausted, match=r"images\.min_free"):
        await lab.transfers.obtain(FOUND, FileOrigin(lambda: iter([BUILT.blob])), terms, lab.told.append)
    assert os.listdir() == []


async def test_a_blob_that_is_larger_than_any_layer_may_be_is_not_asked_for(lab: Lab) -> None:
    host = FakeHost(BUILT.blob)
    terms = LayerTerms(dataclasses.replace(LIMITS, max_layer_bytes=len(BUILT.blob) - 1), TERMS.mounting)
    with pytest.raises(LayerError, match=r"images\.max_layer_bytes"):
        await lab.pull(host, terms=terms)
    assert host.asked == []
    assert os.listdir() == []


async def test_who_joined_a_failing_transfer_tries_once_more_alone(lab: Lab) -> None:
    gate = asyncio.Event()
    failing = FakeHost(BUILT.blob, gate=gate, cuts=[1, 1, 1])
    first = lab.begin(failing)
    await failing.begun.wait()
    joined = lab.begin(FakeHost(BUILT.blob))
    gate.set()
    with pytest.raises(Unavailable):
        await first
    assert (await joined).diff_id == FOUND.diff_id


async def test_two_layers_that_claim_one_blob_do_not_mix(lab: Lab) -> None:
    lie = FoundLayer(Digest("sha256:" + "0" * 64), FOUND.blob_digest, FOUND.size, "x")
    host = FakeHost(BUILT.blob, gate=asyncio.Event())
    wanted = lab.begin(host)
    await host.begun.wait()
    with pytest.raises(LayerError, match="it unpacks to"):
        await lab.transfers.obtain(
            lie, RegistryOrigin(FakeClient(FakeHost(BUILT.blob))), TERMS, lab.told.append
        )
    assert host.gate is not None
    host.gate.set()
    assert (await wanted).diff_id == FOUND.diff_id
    assert os.listdir() == [STAGED]


async def test_a_pull_tells_its_stages_and_the_host(lab: Lab) -> None:
    await lab.pull(FakeHost(BUILT.blob))
    stages = list(dict.fromkeys(step.stage for step in lab.told))
    assert stages == ["waiting", "downloading", "writing"]
    assert lab.told[-1] == Progress("writing", FOUND.diff_id, FOUND.size, FOUND.size, "h0")


def other_layer(number: int) -> tuple[FoundLayer, bytes]:
    """A layer unlike the others."""
    built = BuiltLayer(layer_tar([Entry(f"file{number}", os.urandom(300_000))]), GZIP)
    blob = built.blob
    return FoundLayer(Digest(built.diff_id), Digest(digest_of(blob)), len(blob), "x"), blob


async def test_writers_that_wait_for_slow_registries_make_room_for_a_layer_that_is_here(lab: Lab) -> None:
    gate = asyncio.Event()
    terms = LayerTerms(dataclasses.replace(LIMITS, stall_timeout=120.0), TERMS.mounting)
    held = []
    for number in range(MAX_WRITERS):
        layer, blob = other_layer(number)
        # Its first half comes, the rest when the gate opens.
        client = FakeClient(FakeHost(blob, cuts=[150_000]), FakeHost(blob, gate=gate))
        client.registry = f"slow{number}"
        origin = RegistryOrigin(client)
        work = lab.transfers.obtain(layer, origin, terms, lab.told.append)
        held.append(asyncio.ensure_future(work))
        await client.hosts["h1"].begun.wait()
    async with asyncio.timeout(60):
        await lab.pull(FakeHost(BUILT.blob))
    assert not any(task.done() for task in held)
    gate.set()
    layers = await asyncio.gather(*held)
    assert len({layer.diff_id for layer in layers}) == MAX_WRITERS
    assert len(os.listdir()) == MAX_WRITERS + 1


async def test_a_layer_of_a_file_is_written(lab: Lab) -> None:
    layer = await lab.transfers.obtain(FOUND, FileOrigin(lambda: iter([BUILT.blob])), TERMS, lab.told.append)
    assert layer.data_digest == layer.diff_id
    assert layer.data_size == len(BUILT.tar)
    assert os.listdir() == [STAGED]
    await asyncio.sleep(0)  # the thread's news
    assert lab.told[-1].stage == "importing"


@pytest.mark.parametrize(
    "origin",
    [FileOrigin(lambda: iter([BUILT.blob])), RegistryOrigin(FakeClient(FakeHost(BUILT.blob)))],
    ids=["import", "pull"],
)
async def test_a_layer_that_finds_the_memory_taken_is_written_when_it_is_free(
    group: Group, origin: LayerOrigin, monkeypatch: pytest.MonkeyPatch
) -> None:
    transfers = LayerTransfers(group, memory=1 << 16)
    writers, memory = transfers._writers, transfers._writers.memory
    room, asked = writers.room, asyncio.Event()

    async def noted() -> None:
        asked.set()
        await room()

    monkeypatch.setattr(writers, "room", noted)
    await writers.take()
    memory.change(0, memory.most)
    wanted = asyncio.ensure_future(transfers.obtain(FOUND, origin, TERMS, lambda _: None))
    await asyncio.wait_for(asked.wait(), 30)
    memory.change(memory.most, 0)
    writers.give()
    assert (await wanted).diff_id == FOUND.diff_id
    assert os.listdir() == [STAGED]
    transfers.close()


async def test_an_import_that_is_cancelled_leaves_nothing(lab: Lab) -> None:
    begun = asyncio.Event()
    loop = asyncio.get_running_loop()

    def chunks():  # type: ignore[no-untyped-def]
        while True:
            yield BUILT.blob[:1]
            loop.call_soon_threadsafe(begun.set)

    found = FoundLayer(FOUND.diff_id, None, 1 << 40, "x")
    task = asyncio.ensure_future(lab.transfers.obtain(found, FileOrigin(chunks), TERMS, lab.told.append))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert os.listdir() == []
