"""Whether memory was the cause of an exit, on trees of files: of cgroups that stay, and of scopes that go."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from crib.backends.bundle.bundles import BundleNote
from crib.backends.pods.oom import OomKills
from crib.host.cgroup_stats import StatsReader
from crib.host.cgroups import CgroupLayout
from crib.model.ids import ContainerId
from crib.model.paths import Paths

POD = "/kubepods.slice/kubepods-pod1.slice"
KILLED = 137


class Pod:
    """A pod's slice whose counter counts what its scopes' do, as the kernel's does."""

    def __init__(self, top: Path) -> None:
        self._top = top
        self.restart()
        self.kills = 0
        self._write(POD, 0)

    def restart(self) -> None:
        layout = CgroupLayout("v2", {}, str(self._top / "cg"), frozenset({"memory"}))
        paths = Paths(data=str(self._top / "data"), state=str(self._top / "run"))
        self.oom = OomKills(paths, StatsReader(layout))

    def container(self, name: str) -> BundleNote:
        note = self.begun(name)
        self.oom.made(note)
        return note

    def begun(self, name: str) -> BundleNote:
        """A container whose creation has not returned yet."""
        scope = f"{POD}/crib-{name}.scope"
        note = BundleNote("crun", scope, oom_kills=self.oom.before(scope))
        self._write(scope, 0)
        return note

    def kill_in(self, note: BundleNote, times: int = 1) -> None:
        self.kills += times
        self._write(POD, self.kills)
        self._write(note.cgroup, times)

    def gone(self, note: BundleNote) -> BundleNote:
        """systemd has removed its scope."""
        shutil.rmtree(f"{self._top}/cg{note.cgroup}")
        return note

    def ended(self, note: BundleNote, code: int = KILLED) -> bool:
        return self.oom.ended(ContainerId(note.cgroup[-70:-6]), note, code)

    def _write(self, path: str, kills: int) -> None:
        directory = Path(f"{self._top}/cg{path}")
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "memory.events").write_text(f"low 0\noom {kills}\noom_kill {kills}\noom_group_kill 0\n")


@pytest.fixture
def pod(tmp_path: Path) -> Pod:
    return Pod(tmp_path)


A, B, C, D = (letter * 64 for letter in "abcd")


def test_a_scope_that_is_gone_is_told_by_its_pods_counter(pod: Pod) -> None:
    a, b = pod.container(A), pod.container(B)
    pod.kill_in(a)
    assert pod.ended(pod.gone(a))
    assert pod.ended(a), "asked again, it is still so"
    assert not pod.ended(pod.gone(b)), "killed by somebody else"


def test_a_scope_that_is_there_counts_for_itself(pod: Pod) -> None:
    a, b = pod.container(A), pod.container(B)
    pod.kill_in(a, 3)
    assert pod.ended(a, 0), "a process of it was killed, whatever its first one made of that"
    pod.gone(a)
    assert not pod.ended(pod.gone(b))


def test_kills_that_a_neighbour_survived_are_the_neighbours(pod: Pod) -> None:
    a = pod.container(A)
    pod.kill_in(a)
    b = pod.container(B)
    assert not pod.ended(pod.gone(b))
    assert not pod.ended(pod.gone(a), 0)
    c = pod.container(C)
    assert not pod.ended(pod.gone(c))


def test_a_code_that_no_kill_leaves_is_no_kill(pod: Pod) -> None:
    a, b = pod.container(A), pod.container(B)
    pod.kill_in(a)
    assert not pod.ended(pod.gone(a), 1)
    assert not pod.ended(pod.gone(b)), "and it is not the next one's"


def test_containers_that_run_out_of_memory_in_the_same_moment_are_all_reported(pod: Pod) -> None:
    a, b, c, d = (pod.container(name) for name in (A, B, C, D))
    for note in (a, b):
        pod.kill_in(note)
    for note in (a, b, c):
        pod.gone(note)
    assert pod.ended(a)
    assert pod.ended(b)
    assert not pod.ended(c), "killed by somebody else"
    pod.kill_in(d)
    assert pod.ended(pod.gone(d))


def test_several_kills_in_one_container_are_no_other_ones(pod: Pod) -> None:
    a, b = pod.container(A), pod.container(B)
    pod.kill_in(a, 3)
    c = pod.begun(C)
    assert pod.ended(pod.gone(a))
    pod.oom.made(c)
    assert not pod.ended(pod.gone(b))
    assert not pod.ended(pod.gone(c))


def test_a_scope_that_stays_a_while_counts_once(pod: Pod) -> None:
    a, b, c = (pod.container(name) for name in (A, B, C))
    pod.kill_in(a, 2)
    assert pod.ended(a), "by its own file"
    pod.kill_in(b)
    pod.gone(a)
    assert pod.ended(pod.gone(b))
    assert not pod.ended(pod.gone(c))


def test_it_is_found_out_after_a_restart_too(pod: Pod) -> None:
    a = pod.container(A)
    pod.kill_in(a)
    pod.gone(a)
    b = pod.container(B)
    pod.restart()
    assert not pod.ended(pod.gone(b))
    pod.restart()
    assert pod.ended(a)


def test_after_a_restart_a_neighbours_kill_from_before_is_still_the_neighbours(pod: Pod) -> None:
    a, b = pod.container(A), pod.container(B)
    pod.kill_in(a)
    assert pod.ended(pod.gone(a))
    pod.restart()
    pod.oom.found(b)
    assert not pod.ended(pod.gone(b)), "killed by somebody else"


def test_who_ran_out_of_memory_while_the_daemon_was_away_is_reported(pod: Pod) -> None:
    a, b, c = (pod.container(name) for name in (A, B, C))
    for note in (a, b):
        pod.kill_in(note)
        pod.gone(note)
    pod.restart()
    for note in (a, b, c):
        pod.oom.found(note)
    assert pod.ended(a)
    assert pod.ended(b)
    assert not pod.ended(pod.gone(c))


def test_what_is_removed_is_forgotten_and_its_neighbours_are_not(pod: Pod) -> None:
    """The neighbours may be of another pod: the client names the slice."""
    a, b = pod.container(A), pod.container(B)
    pod.kill_in(a, 2)
    assert pod.ended(a)
    pod.oom.forget(pod.gone(a).cgroup)
    assert not pod.ended(pod.gone(b)), "killed by somebody else"
    pod.oom.forget(b.cgroup)
    assert pod.oom._slices == {}


def test_a_cgroup_that_the_daemon_keeps_tells_for_itself(tmp_path: Path, pod: Pod) -> None:
    own = BundleNote("crun", "/kubepods/pod1/own")
    assert not pod.ended(own)
    pod.kill_in(own)
    assert pod.ended(own, 1)
    bundle = Path(Paths(data=str(tmp_path / "data"), state=str(tmp_path / "run")).container(ContainerId(A)))
    bundle.mkdir(parents=True)
    (bundle / "oom").touch()
    assert pod.oom.ended(ContainerId(A), None, 1), "as its monitor has filed it"
    assert pod.oom.ended(ContainerId(A), pod.gone(pod.container(A)), 1)
