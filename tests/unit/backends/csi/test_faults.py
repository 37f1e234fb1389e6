"""A driver that fails: what is repeated, what ends the work, what is undone, and what nobody may read."""

from __future__ import annotations

import asyncio
import base64
import logging
import os
import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from crib.backends.volumes.csi import controller, driver
from crib.host.mount_table import mounts_below
from crib.host.mounts import unmount
from crib.model.errors import (
    AlreadyExists,
    Broken,
    CribError,
    Exhausted,
    InvalidRequest,
    NotBuilt,
    Unavailable,
    WrongState,
)
from crib.tasks.groups import Beside
from tests.csi_driver import NAME, serving
from tests.csi_lab import CsiLab
from tests.fakes.world import bounded
from tests.unit.backends.csi.steps import STEPS, USE, step, up_to

pytestmark = pytest.mark.root


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between repeated calls; how long a driver may be away is what a test says."""
    monkeypatch.setattr(driver, "FIRST_PAUSE", 0.001)
    monkeypatch.setattr(driver, "LONGEST_PAUSE", 0.01)


def nothing_left(lab: CsiLab) -> None:
    assert lab.driver.books.data == {"volumes": {}, "snapshots": {}}
    assert mounts_below(str(lab.root)) == []


@pytest.mark.parametrize("call", STEPS)
@pytest.mark.parametrize("code", ["ABORTED", "UNAVAILABLE", "DEADLINE_EXCEEDED", "CANCELLED"])
@pytest.mark.parametrize("kind", ["refuse", "deaf"])
async def test_what_leaves_open_whether_it_was_done_is_done_again(
    lab: CsiLab, call: str, code: str, kind: str
) -> None:
    life = lab.life()
    await up_to(life, call)
    lab.fault(call, kind, code=code, times=2)
    await step(call)(life)
    assert lab.calls.count(call) == 3
    await life.tear_down()
    nothing_left(lab)


@pytest.mark.parametrize("call", STEPS)
@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("INVALID_ARGUMENT", InvalidRequest),
        ("ALREADY_EXISTS", AlreadyExists),
        ("FAILED_PRECONDITION", WrongState),
        ("RESOURCE_EXHAUSTED", Exhausted),
        ("UNIMPLEMENTED", NotBuilt),
        ("INTERNAL", Broken),
        ("UNKNOWN", Broken),
    ],
)
async def test_any_other_status_ends_the_work_and_names_driver_call_and_volume(
    lab: CsiLab, call: str, code: str, kind: type[CribError]
) -> None:
    life = lab.life()
    await up_to(life, call)
    lab.fault(call, "refuse", code=code, text="no disk is free")
    with pytest.raises(kind) as caught:
        await step(call)(life)
    about = life.record.handle or f"crib-{life.record.id}"
    assert str(caught.value) == f"driver {NAME}: {call} of {about}: no disk is free ({code})"
    assert lab.calls.count(call) == 1
    await life.tear_down()
    nothing_left(lab)


@pytest.mark.parametrize("call", STEPS)
async def test_a_driver_that_hangs_holds_up_its_volume_only(lab: CsiLab, call: str) -> None:
    life, other = lab.life(), lab.life()
    await lab.kind.facts(life.record.spec)
    await up_to(life, call)
    is_second = call in {"NodeStageVolume", "ControllerUnpublishVolume"}
    lab.timeout = 2.0 if is_second else 0.5  # the call before it must have its answer by then
    lab.fault(call, "hang")
    async with bounded(), Beside() as beside:
        hung = beside.start("hung", step(call)(life))
        reached = beside.start("reached", lab.driver.reached.wait())
        await asyncio.wait({hung, reached}, return_when=asyncio.FIRST_COMPLETED)
        lab.timeout = 30.0
        await other.create()
        await other.stage()
        await other.publish(USE)
        await other.tear_down()
        with pytest.raises(Unavailable, match=rf"{call} of .*: no answer within (2|0\.5) s"):
            await hung
    await life.tear_down()
    nothing_left(lab)


@pytest.mark.parametrize("call", STEPS)
async def test_an_answer_that_is_none_is_told_and_what_was_done_is_undone(lab: CsiLab, call: str) -> None:
    life = lab.life()
    await up_to(life, call)
    lab.fault(call, "garbage")
    with pytest.raises(Broken, match=f"{call} of .*: its answer is no "):
        await step(call)(life)
    await life.tear_down()
    nothing_left(lab)


async def test_what_was_made_while_the_answer_got_lost_is_found_and_removed(lab: CsiLab) -> None:
    life = lab.life(capacity=2 << 20)
    lab.fault("CreateVolume", "deaf", code="INTERNAL")
    with pytest.raises(Broken):
        await life.create()
    assert (life.record.handle, len(lab.driver.books.volumes)) == ("", 1)
    # Another capability would be another request, which the driver refuses as another volume.
    lab.options.node = (*lab.options.node, "SINGLE_NODE_MULTI_WRITER")
    lab.kind = lab.begin()
    assert (await lab.kind.create(life.record, None)).handle in lab.driver.books.volumes
    await life.delete()
    assert lab.calls == ["CreateVolume", "CreateVolume", "CreateVolume", "DeleteVolume"]
    nothing_left(lab)


async def test_a_driver_that_made_nothing_is_not_asked_to_delete(lab: CsiLab) -> None:
    life = lab.life()
    lab.fault("CreateVolume", "refuse", code="RESOURCE_EXHAUSTED", times=2)
    with pytest.raises(Exhausted):
        await life.create()
    await life.delete()
    assert lab.calls == ["CreateVolume", "CreateVolume"]
    assert not os.listdir(lab.paths.volumes)
    never = lab.life()
    await never.delete()
    assert len(lab.calls) == 2


@pytest.mark.parametrize("code", ["ALREADY_EXISTS", "UNAUTHENTICATED"])
async def test_what_may_still_be_there_is_not_taken_as_deleted(lab: CsiLab, code: str) -> None:
    life = lab.life()
    lab.fault("CreateVolume", "deaf", code="INTERNAL")
    with suppress(CribError):
        await life.create()
    lab.fault("CreateVolume", "refuse", code=code)
    with pytest.raises(CribError, match=code):
        await life.delete()
    await life.delete()
    nothing_left(lab)


async def test_a_snapshot_that_was_cut_while_the_answer_got_lost_is_found_and_removed(lab: CsiLab) -> None:
    life = lab.life()
    await life.create()
    snapshot = lab.snapshot_of(life.record)
    lab.fault("CreateSnapshot", "deaf", code="INTERNAL")
    with pytest.raises(Broken):
        await lab.kind.snapshot(life.record, snapshot)
    assert len(lab.driver.books.snapshots) == 1
    await lab.kind.delete_snapshot(snapshot)
    await life.delete()
    nothing_left(lab)


async def test_a_snapshot_that_takes_longer_than_its_time_is_told_as_not_usable(
    lab: CsiLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    life = lab.life()
    await life.create()
    lab.driver._not_yet = 1
    monkeypatch.setattr(controller, "LEAST_SECONDS", lab.timeout)
    made = await lab.kind.snapshot(life.record, snapshot := lab.snapshot_of(life.record))
    assert (made.usable, made.handle) == (False, next(iter(lab.driver.books.snapshots)))
    await lab.kind.delete_snapshot(replace(snapshot, handle=made.handle))
    await life.delete()


WRONG: dict[str, tuple[str, Callable[[Any], None], str]] = {
    "no id": ("CreateVolume", lambda answer: answer.volume.ClearField("volume_id"), "volume_id is empty"),
    "an id too long": (
        "CreateVolume",
        lambda answer: setattr(answer.volume, "volume_id", "x" * 5000),
        "volume_id is empty or too long",
    ),
    "a context too long": (
        "CreateVolume",
        lambda answer: answer.volume.volume_context.update({"k": "x" * 100_000}),
        "volume_context is too long",
    ),
    "less than asked for": (
        "CreateVolume",
        lambda answer: setattr(answer.volume, "capacity_bytes", 1),
        "the volume has 1 bytes, of 2097152",
    ),
    "elsewhere": (
        "CreateVolume",
        lambda answer: answer.volume.accessible_topology.add().segments.update({"zone": "b"}),
        "cannot be had on this node",
    ),
    "an attachment too long": (
        "ControllerPublishVolume",
        lambda answer: answer.publish_context.update({"k": "x" * 100_000}),
        "publish_context is too long",
    ),
}


@pytest.mark.parametrize("case", WRONG)
async def test_an_answer_that_says_what_it_must_not_is_refused(lab: CsiLab, case: str) -> None:
    call, change, said = WRONG[case]
    life = lab.life(capacity=2 << 20)
    await up_to(life, call)
    lab.fault(call, "wrong")
    lab.driver.wrong = change
    with pytest.raises(Broken, match=said):
        await step(call)(life)
    await life.tear_down()
    nothing_left(lab)


async def test_a_volume_that_is_not_made_from_its_snapshot_is_refused(lab: CsiLab) -> None:
    life = lab.life()
    await life.create()
    snapshot = lab.snapshot_of(life.record)
    made = await lab.kind.snapshot(life.record, snapshot)
    snapshot = replace(snapshot, handle=made.handle)
    restored = lab.life(snapshot=snapshot.id)
    lab.fault("CreateVolume", "wrong")
    lab.driver.wrong = lambda answer: answer.volume.ClearField("content_source")
    with pytest.raises(Broken, match="does not say that the volume was made from the snapshot or volume"):
        await restored.create(snapshot)
    await restored.delete()
    await lab.kind.delete_snapshot(snapshot)
    await life.delete()
    nothing_left(lab)


async def test_a_target_without_a_mount_is_no_volume(lab: CsiLab) -> None:
    """What a pod writes to it would be on the host, in memory."""
    life = lab.life()
    await up_to(life, "NodePublishVolume")
    lab.fault("NodePublishVolume", "idle")
    with pytest.raises(Broken, match=r"there is nothing at .*must propagate to crib's mount namespace"):
        await life.publish(USE)
    await life.tear_down()
    nothing_left(lab)


@pytest.mark.parametrize("call", ["NodeStageVolume", "NodePublishVolume"])
async def test_a_driver_that_mounts_twice_is_asked_until_nothing_is_mounted(lab: CsiLab, call: str) -> None:
    life = lab.life()
    await up_to(life, call)
    lab.fault(call, "twice")
    await step(call)(life)
    await life.tear_down()
    nothing_left(lab)


@pytest.mark.parametrize("call", ["NodeUnpublishVolume", "NodeUnstageVolume"])
async def test_a_driver_that_says_it_unmounted_and_did_not_is_not_believed(lab: CsiLab, call: str) -> None:
    life = lab.life()
    await up_to(life, call)
    (lab.root / "driver" / "data" / life.record.handle / "row").write_text("kept")
    lab.fault(call, "idle", times=100)
    with pytest.raises(Broken, match=f"{call} of .*: something is still mounted at"):
        await step(call)(life)
    lab.options.faults.clear()
    assert (lab.root / "driver" / "data" / life.record.handle / "row").read_text() == "kept"
    await life.tear_down()
    nothing_left(lab)


async def test_files_that_are_under_no_mount_are_not_removed(lab: CsiLab) -> None:
    life = lab.life()
    await up_to(life, "NodeUnpublishVolume")
    target = Path(life.record.uses[0].path)
    lab.fault("NodeUnpublishVolume", "idle")
    unmount(str(target))  # as an administrator may
    (target / "row").write_text("written after that")
    with pytest.raises(Broken, match="there are files in"):
        await life.unpublish(USE)
    (target / "row").unlink()
    await life.tear_down()
    nothing_left(lab)


async def test_what_the_driver_does_not_know_any_more_counts_as_undone(lab: CsiLab) -> None:
    life = lab.life()
    await life.create()
    lab.driver.books.volumes.clear()
    lab.fault("DeleteVolume", "refuse", code="NOT_FOUND")
    await life.delete()
    life = lab.life()
    await up_to(life, "NodeUnpublishVolume")
    found = await lab.kind.check(life.record)
    assert found == []
    unmount(life.record.uses[0].path)
    books = dict(lab.driver.books.volumes)
    lab.driver.books.volumes.clear()
    problems = [one.problem for one in await lab.kind.check(life.record)]
    assert "nothing is mounted at" in problems[0]
    assert "its driver does not have it" in problems[1]
    await life.unpublish(USE)
    lab.driver.books.volumes.update(books)
    lab.driver.books.volumes[life.record.handle]["published"] = {}
    await life.tear_down()


async def test_a_driver_that_is_restarted_in_between_is_found_again(
    private_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver, "ABSENT_SECONDS", 60.0)
    lab = CsiLab(private_root, timeout=120.0)
    life = lab.life()
    async with lab.serving():
        await life.create()
        await life.stage()
    async with Beside() as beside:
        publishing = beside.start("publishing", life.publish(USE))
        failed = (NAME, "NodePublishVolume", "UNAVAILABLE")
        async with bounded():
            while failed not in lab.kind.figures.answers.counts:  # noqa: ASYNC110  nothing tells of it
                await asyncio.sleep(0.01)
        async with serving(lab.restarted(), lab.socket):
            await publishing
            await life.tear_down()
    assert lab.breaches == []
    nothing_left(lab)


async def test_a_driver_that_stays_away_is_told_by_its_socket(
    private_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver, "ABSENT_SECONDS", 0.05)
    lab = CsiLab(private_root)
    with pytest.raises(Unavailable, match=r"GetPluginInfo of .*csi\.sock.*UNAVAILABLE"):
        await lab.life().create()
    readiness = await lab.kind.readiness(NAME)
    assert (readiness.ready, readiness.reason) == (False, "DriverNotReady")
    assert (await lab.kind.drivers())[0].problem in readiness.message


async def test_a_socket_that_nobody_serves_holds_up_its_callers_for_their_time(
    private_root: Path,
) -> None:
    lab = CsiLab(private_root, timeout=0.3)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(lab.socket)
        listener.listen()
        async with bounded():
            with pytest.raises(Unavailable, match=r"GetPluginInfo.*no answer within 0\.3 s"):
                await lab.life().create()


async def test_a_path_too_long_for_a_socket_is_told_as_that(lab: CsiLab) -> None:
    lab.socket = f"/{'x' * 108}"
    with pytest.raises(WrongState, match="more than 107 bytes"):
        await lab.life().create()


async def test_another_driver_behind_the_socket_is_not_taken_for_ours(lab: CsiLab) -> None:
    lab.options.name = "other.csi"
    with pytest.raises(Broken, match=f"driver {NAME}: who listens on its socket calls itself 'other.csi'"):
        await lab.life().create()
    assert lab.calls == []


async def test_a_driver_that_gets_ready_is_not_used_yet(lab: CsiLab) -> None:
    lab.fault("Probe", "wrong")
    lab.driver.wrong = lambda answer: setattr(answer.ready, "value", False)
    with pytest.raises(Unavailable, match="it is not ready yet"):
        await lab.life().create()
    assert (await lab.kind.readiness(NAME)).ready


async def test_a_driver_that_attaches_must_say_which_node_this_is(lab: CsiLab) -> None:
    lab.fault("NodeGetInfo", "wrong")
    lab.driver.wrong = lambda answer: answer.ClearField("node_id")
    with pytest.raises(Broken, match="its node_id is empty"):
        await lab.life().create()


async def test_an_answer_that_is_larger_than_any_may_be_is_cut_off(
    lab: CsiLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab.fault("CreateVolume", "wrong", times=1)
    lab.driver.wrong = lambda answer: answer.volume.volume_context.update({"k": "x" * (5 << 20)})
    life = lab.life()
    with pytest.raises(Exhausted, match="RESOURCE_EXHAUSTED"):
        await life.create()
    await life.delete()
    nothing_left(lab)


async def test_what_a_driver_can_is_asked_again_after_a_while(
    lab: CsiLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = lab.life().record.spec
    assert (await lab.kind.facts(spec)).snapshots
    lab.options.controller = ("CREATE_DELETE_VOLUME",)
    assert (await lab.kind.facts(spec)).snapshots
    monkeypatch.setattr(driver, "FACTS_SECONDS", 0.0)
    assert not (await lab.kind.facts(spec)).snapshots


SECRET = "p4ss word/ü+=with $igns"


def secret_files(lab: CsiLab) -> dict[str, str]:
    (lab.root / "password").write_text(f"{SECRET}\n")
    (lab.root / "key").write_text("first line of a key\nsecond line of a key\n")
    lab.options.secrets = {"password": SECRET, "key": "first line of a key\nsecond line of a key"}
    return {"password": str(lab.root / "password"), "key": str(lab.root / "key")}


async def test_secrets_are_read_for_each_call_and_noted_nowhere(lab: CsiLab) -> None:
    life = lab.life(secrets=secret_files(lab))
    await life.create()
    (lab.root / "password").write_text("changed")
    lab.options.secrets = {**lab.options.secrets, "password": "changed"}
    await life.stage()
    await life.publish(USE)
    await life.tear_down()
    asked = {name for name, one in lab.driver.requests if getattr(one, "secrets", None)}
    assert asked == {
        "CreateVolume",
        "ControllerPublishVolume",
        "NodeStageVolume",
        "NodePublishVolume",
        "ControllerUnpublishVolume",
        "DeleteVolume",
    }


async def test_no_secret_is_in_an_error_a_note_or_a_log_line(
    lab: CsiLab, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    life = lab.life(secrets=secret_files(lab))
    encoded = base64.b64encode(SECRET.encode()).decode()
    quoted = "p4ss%20word%2F%C3%BC%2B%3Dwith%20%24igns"
    echo = f"login with {SECRET!r} at //u:{quoted}@h, {encoded}, first line of a key"
    lab.fault("CreateVolume", "deaf", text=echo, code="INTERNAL")
    with pytest.raises(Broken) as caught:
        await life.create()
    await up_to(life, "NodeUnpublishVolume")
    lab.fault("NodeUnpublishVolume", "refuse", text=echo)
    (lab.root / "key").unlink()
    with pytest.raises(Broken) as second:
        await life.unpublish(USE)
    (lab.root / "key").write_text("first line of a key\nsecond line of a key\n")
    notes = b"".join(one.read_bytes() for one in Path(lab.paths.data).rglob("*") if one.is_file())
    said = [str(caught.value), caplog.text, notes.decode(errors="replace")]
    chain = caught.value.__cause__ or (not caught.value.__suppress_context__ and caught.value.__context__)
    assert not chain
    for text in said:
        assert not any(form in text for form in (SECRET, "p4ss", encoded.rstrip("="), "first line"))
    assert "login with" in said[0]
    assert "login with" in str(second.value)
    await life.tear_down()


@pytest.mark.parametrize("content", [None, b"\xff\xfe binary"])
async def test_a_secret_that_cannot_be_read_stops_the_call_and_not_what_undoes_it(
    lab: CsiLab, content: bytes | None
) -> None:
    life = lab.life(secrets=secret_files(lab))
    await up_to(life, "NodePublishVolume")
    if content is None:
        (lab.root / "password").unlink()
    else:
        (lab.root / "password").write_bytes(content)
    with pytest.raises(InvalidRequest) as caught:
        await life.publish(USE)
    assert caught.value.field == "secrets.password"
    assert "binary" not in str(caught.value)
    await lab.kind.unpublish(life.record, USE)
    secret_files(lab)
    await life.tear_down()


async def test_what_drivers_are_asked_is_counted(lab: CsiLab) -> None:
    life = lab.life()
    lab.fault("CreateVolume", "refuse", code="ABORTED")
    await life.create()
    await life.delete()
    figures = lab.kind.figures
    assert figures.answers.counts[NAME, "CreateVolume", "ABORTED"] == 1
    assert figures.answers.counts[NAME, "CreateVolume", "OK"] == 1
    assert figures.calls.failures.counts[NAME, "CreateVolume"] == 1
    assert sum(figures.calls.durations.series[NAME, "CreateVolume"].buckets) == 2
