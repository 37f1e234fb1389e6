"""Every step of every verb: cribd, its monitors, a program or the caller ends there, and nothing is lost.

The steps are found by a life without faults: the stages of the timeline, the calls of the ports, and the
statements for SQLite. So a step that is new is tried without a word here. The ordinary suite takes some of
each verb's, the nightly one all.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path

import pytest

from tests.crash.steered import (
    Fault,
    ImageKubelet,
    ImportKubelet,
    Kubelet,
    Steered,
    Tries,
    WithHostPoints,
    running_steered,
    steps_of,
)
from tests.crash.volume_user import VERBS as VOLUME_VERBS
from tests.crash.volume_user import VolumeUser
from tests.images import Entry, busybox_image, push, write_layout, write_saved_archive
from tests.registry import running_registry
from tests.system.labs.daemon import DaemonProcess
from tests.system.labs.leftovers import Leftovers
from tests.system.labs.network_lab import FAILING, CniLab, LabCribd, cni_lab, cribd_on, failing_bridge

pytestmark = [pytest.mark.root, pytest.mark.system]

STEPS = ("stage", "port", "sql")
STARTED = "host processes.spawn"
"""A step, too, where it is a program that dies: it has just been started."""
DEADLINE = 0.3
"""Seconds that a caller has who does not wait; a verb takes less, but not where a step of it is held."""

some_or_all = pytest.mark.parametrize(
    "most", [1, pytest.param(1000, marks=pytest.mark.nightly)], ids=["some", "all"]
)


@pytest.fixture
def cribd() -> Iterator[Steered]:
    with running_steered() as daemon:
        yield daemon


@pytest.fixture
def cribd_with_host_points() -> Iterator[Steered]:
    with running_steered(WithHostPoints) as daemon:
        yield daemon


def chosen(steps: Sequence[tuple[str, int]], most: int, shift: int) -> list[tuple[str, int]]:
    """At most so many, spread over all; another `shift` gives others."""
    if len(steps) <= most:
        return list(steps)
    return [steps[(shift + number * len(steps) // most) % len(steps)] for number in range(most)]


@dataclass(frozen=True)
class Plan:
    """What happens at which steps; `deadline` as Kubelet's. Of few, each `every`th verb has one."""

    what: str
    argument: object = None
    kinds: tuple[str, ...] = STEPS
    shift: int = 0
    every: int = 1
    deadline: float = 0.0


async def try_each(
    cribd: Steered,
    most: int,
    plan: Plan,
    verbs: Sequence[str] = (),
    kubelet: Callable[[], Kubelet] | None = None,
) -> Tries:
    """That at each step, before it and after it; with few, before or after."""

    def new() -> Kubelet:
        made = kubelet() if kubelet else Kubelet(cribd, shares_pid=True)
        return replace(made, deadline=plan.deadline)

    found = await steps_of(cribd, *plan.kinds, kubelet=new(), verbs=verbs)
    assert verbs or all(found.values()), f"there are verbs without steps: {found}"
    faults = {}
    for count, verb in enumerate(list(found)[:: plan.every if most == 1 else 1]):
        whens = ("before", "after") if most > 1 else (("before", "after")[count % 2],)
        faults[verb] = [
            Fault(*step, when, plan.what, plan.argument)
            for step in chosen(found[verb], most, plan.shift)
            for when in whens
        ]
    tries = Tries(cribd)
    await tries.try_each(new, faults, verbs)
    return tries


@some_or_all
async def test_a_daemon_that_is_killed_at_any_step_leaves_nothing_and_the_retry_succeeds(
    cribd: Steered, most: int
) -> None:
    tries = await try_each(cribd, most, Plan("kill", shift=2))
    tries.check(least=8)


@some_or_all
async def test_a_daemon_that_is_killed_with_its_monitors_leaves_nothing_and_the_retry_succeeds(
    cribd: Steered, most: int
) -> None:
    tries = await try_each(cribd, most, Plan("kill with monitors", shift=3, every=2))
    tries.check(least=4)


@some_or_all
async def test_a_caller_that_goes_away_at_any_step_changes_nothing_for_the_next(
    cribd: Steered, most: int
) -> None:
    tries = await try_each(cribd, most, Plan("hold", shift=1))
    tries.check(least=8)


@some_or_all
async def test_a_deadline_that_expires_at_any_step_changes_nothing_for_the_next(
    cribd: Steered, most: int
) -> None:
    tries = await try_each(cribd, most, Plan("hold", shift=1, every=2, deadline=DEADLINE))
    tries.check(least=1)


@pytest.mark.parametrize(
    ("most", "programs"),
    [
        pytest.param(1, ["crun", "conmon"], id="some"),
        pytest.param(1000, ["crun"], id="all-crun", marks=pytest.mark.nightly),
        pytest.param(1000, ["conmon"], id="all-conmon", marks=pytest.mark.nightly),
    ],
)
async def test_a_program_that_is_killed_at_any_step_leaves_nothing_and_the_retry_succeeds(
    cribd_with_host_points: Steered, most: int, programs: list[str]
) -> None:
    plan = Plan("kill programs", programs, (*STEPS, STARTED), shift=4)
    tries = await try_each(cribd_with_host_points, most, plan)
    tries.check(least=6)


@pytest.fixture
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CniLab]:
    with cni_lab(tmp_path_factory.mktemp("steps")) as made:
        made.write(*failing_bridge(made))
        yield made


class SteeredLab(LabCribd, WithHostPoints):
    """One on a host of its own, with plugins."""

    lab: CniLab

    def _spawn(self, **environment: str) -> DaemonProcess:
        return self.host.inside(lambda: Steered._spawn(self, **environment))

    def leftovers(self) -> Leftovers:
        """With what plugins leave."""
        found = super().leftovers()
        return replace(found, files=found.files | self.host.state() | {*self.lab.held_addresses()})


@pytest.mark.parametrize(
    ("most", "what"),
    [
        pytest.param(1, "kill programs", id="some"),
        pytest.param(1000, "kill programs", id="all-plugins", marks=pytest.mark.nightly),
        pytest.param(1000, "kill", id="all-daemon", marks=pytest.mark.nightly),
    ],
)
async def test_a_plugin_or_its_daemon_that_is_killed_at_any_step_leaves_nothing(
    lab: CniLab, most: int, what: str
) -> None:
    SteeredLab.lab = lab
    with cribd_on(lab.host, lab.settings(), kind=SteeredLab) as cribd:
        assert isinstance(cribd, SteeredLab)
        plan = Plan(what, list(FAILING), (*STEPS, STARTED) if most > 1 else (STARTED,), shift=1)
        tries = await try_each(cribd, most, plan, ("run", "stop"))
        tries.check(least=2)


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """What an image is called at a registry that runs."""
    with running_registry(tmp_path_factory.mktemp("registry")) as url:
        push(url, busybox_image([Entry("own", bytes(1 << 20))]), "crash/steps", "1")
        yield f"{url.removeprefix('http://')}/crash/steps:1"


@some_or_all
@pytest.mark.parametrize("what", ["kill", "hold"])
async def test_a_pull_or_a_removal_that_is_cut_off_at_any_step_leaves_nothing(
    cribd: Steered, image: str, most: int, what: str
) -> None:
    verbs = ("pull", "remove image")
    tries = await try_each(cribd, most, Plan(what), verbs, lambda: ImageKubelet(cribd, image=image))
    tries.check(least=2)


@some_or_all
@pytest.mark.parametrize("what", ["kill", pytest.param("hold", marks=pytest.mark.nightly)])
async def test_volumes_whose_daemon_or_caller_ends_at_any_step_are_whole_and_leave_nothing(
    cribd: Steered, tmp_path: Path, most: int, what: str
) -> None:
    def user() -> VolumeUser:
        return VolumeUser(cribd, archive=tmp_path / "disk.tar")

    tries = await try_each(cribd, most, Plan(what, shift=3), VOLUME_VERBS, user)
    tries.check(least=3)


IMPORTED = "docker.io/crash/imported:1"


@pytest.fixture(
    params=[
        pytest.param(write_saved_archive, id="file"),
        pytest.param(write_layout, id="directory", marks=pytest.mark.nightly),
    ]
)
def archive(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Of one image, some of whose layers are nowhere else."""
    built = busybox_image([Entry("own", bytes(1 << 20))], name=IMPORTED)
    written: Path = request.param(tmp_path / "archive", [built])
    return written


@some_or_all
@pytest.mark.parametrize("what", ["kill", "hold"])
async def test_an_import_that_is_cut_off_at_any_step_leaves_nothing(
    cribd: Steered, archive: Path, most: int, what: str
) -> None:
    verbs = ("import", "remove image")
    new = lambda: ImportKubelet(cribd, image=IMPORTED, archive=archive)  # noqa: E731
    tries = await try_each(cribd, most, Plan(what), verbs, new)
    tries.check(least=2)


@pytest.mark.parametrize(
    ("most", "number"),
    [
        pytest.param(3, errno.EIO, id="some"),
        *(
            pytest.param(1000, number, id=f"all-{errno.errorcode[number]}", marks=pytest.mark.nightly)
            for number in (errno.ENOSPC, errno.EIO, errno.EMFILE, errno.EROFS)
        ),
    ],
)
async def test_a_call_that_fails_in_an_import_is_told_and_the_retry_succeeds(
    cribd_with_host_points: Steered, archive: Path, most: int, number: int
) -> None:
    cribd, verbs = cribd_with_host_points, ("import", "remove image")
    new = lambda: ImportKubelet(cribd, image=IMPORTED, archive=archive)  # noqa: E731
    calls = await steps_of(cribd, "host", "sql", kubelet=new(), verbs=verbs)
    faults = [
        [Fault(*step, what="raise", argument=number) for step in chosen(calls[verb], most, 1)]
        for verb in verbs
    ]
    tries = Tries(cribd)
    for due in zip_longest(*faults):  # one of each verb in a life
        await tries.try_life(replace(new(), fault=dict(zip(verbs, due, strict=True)).get), *verbs)
    tries.check(least=2)
