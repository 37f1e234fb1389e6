"""Kept pods: the files of units, and what only remembers them, behave alike."""

from __future__ import annotations

from pathlib import Path

import pytest

from crib.backends.keeping.kept_pods import SupervisedPods
from crib.model.errors import NotFound, WrongState
from crib.model.kept import KeepOrder, WantOrder
from crib.ports.kept import KeptPods
from tests.fakes.kept import FakeKeptPods


@pytest.fixture(params=["units", "fake"])
def kept(request: pytest.FixtureRequest, tmp_path: Path) -> KeptPods:
    """The real one has begun nothing: nobody looks after its units."""
    return FakeKeptPods() if request.param == "fake" else SupervisedPods(str(tmp_path), "unix:///nowhere")


def order(name: str = "web", uid: str = "u1", manifest: str = "kind: Pod\n") -> KeepOrder:
    return KeepOrder("default", name, uid, "/pods", manifest)


async def test_what_is_kept_is_listed_by_name_until_it_is_forgotten(kept: KeptPods) -> None:
    await kept.keep_up(order("web"))
    await kept.keep_up(order("db.main", "u2"))
    assert [pod.order.name for pod in await kept.all_kept()] == ["db.main", "web"]
    first = (await kept.all_kept())[1]
    assert (first.order, first.wanted, first.phase, first.containers) == (order("web"), True, "", ())
    assert first.since > 0
    await kept.leave_alone("default", "web")
    assert [pod.order.name for pod in await kept.all_kept()] == ["db.main"]
    assert kept.problem == ""


async def test_one_of_the_same_name_is_replaced(kept: KeptPods) -> None:
    await kept.keep_up(order())
    await kept.keep_up(order(uid="u2", manifest="kind: Pod # other\n"))
    assert [pod.order for pod in await kept.all_kept()] == [order(uid="u2", manifest="kind: Pod # other\n")]


async def test_it_is_wanted_to_run_or_to_stop(kept: KeptPods) -> None:
    await kept.keep_up(order())
    await kept.want(WantOrder("default", "web", run=False, grace=3))
    assert [pod.wanted for pod in await kept.all_kept()] == [False]
    await kept.want(WantOrder("default", "web", run=True))
    assert [pod.wanted for pod in await kept.all_kept()] == [True]


async def test_what_is_not_kept_is_not_found(kept: KeptPods) -> None:
    with pytest.raises(NotFound, match="pod default/web is not kept up"):
        await kept.leave_alone("default", "web")
    with pytest.raises(NotFound, match="pod default/web is not kept up"):
        await kept.want(WantOrder("default", "web", run=True))


async def test_units_are_for_root_only_and_survive(tmp_path: Path) -> None:
    await SupervisedPods(str(tmp_path), "unix:///nowhere").keep_up(order(manifest="secret"))
    (found,) = tmp_path.iterdir()
    assert (found.name, found.stat().st_mode & 0o777) == ("default_web.json", 0o600)
    again = SupervisedPods(str(tmp_path), "unix:///nowhere")
    assert [pod.order.manifest for pod in await again.all_kept()] == ["secret"]


async def test_a_file_that_is_no_unit_hides_no_other(tmp_path: Path) -> None:
    (tmp_path / "default_bad.json").write_text("{")
    (tmp_path / "note.txt").write_text("x")
    kept = SupervisedPods(str(tmp_path), "unix:///nowhere")
    await kept.keep_up(order())
    assert [pod.order.name for pod in await kept.all_kept()] == ["web"]


async def test_where_it_is_switched_off_nothing_is_kept(tmp_path: Path) -> None:
    kept = SupervisedPods(str(tmp_path), "unix:///nowhere", enabled=False)
    with pytest.raises(WrongState, match="kept_pods is false"):
        await kept.keep_up(order())
    assert not list(tmp_path.iterdir())
