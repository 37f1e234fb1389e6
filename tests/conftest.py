"""What all tests share: a steady hypothesis, short private roots, a count of what a root test left behind."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from crib.host import threads
from tests.system.labs import nursery

settings.register_profile(
    "steady",
    derandomize=True,
    database=None,
    deadline=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile(os.environ.get("CRIB_HYPOTHESIS", "steady"))

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell gives that to what it starts in the background, and so would we to the programs that we start.
    signal.signal(signal.SIGINT, signal.default_int_handler)

# A thread is in the namespaces of the one that started it: those of one test must not live on in the next.
threads.IDLE = 0.02

ALONE = "CRIB_TEST_ALONE"
"""Set where nothing else makes interfaces, cgroups or mounts: the whole machine's are compared then."""
_ROOT_PREFIX = f"crib{os.getpid()}-"
SETTLE_SECONDS = 30.0
"""What the kernel removes by itself (links, dying cgroups) may take as long."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Without root, tests that need it are skipped, not failed."""
    if os.geteuid() == 0:
        return
    for item in items:
        if item.get_closest_marker("root"):
            item.add_marker(pytest.mark.skip(reason="needs root"))


@pytest.hookimpl(trylast=True)  # after the fixtures' ends, which come in this hook when a run is interrupted
def pytest_sessionfinish() -> None:
    nursery.end_nursery()


@pytest.fixture
def private_root() -> Iterator[Path]:
    """A directory with a short path: a unix socket's must fit into 107 bytes."""
    path = Path(tempfile.mkdtemp(prefix=_ROOT_PREFIX, dir="/tmp"))
    try:
        yield path
    finally:
        _remove(path)


def _remove(path: Path) -> None:
    below = [line for line in _mount_points() if line.startswith(f"{path}/")]
    assert not below, f"still mounted: {', '.join(below)}"
    shutil.rmtree(path)


@pytest.fixture(autouse=True)
def nothing_left_behind(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[None]:
    """A `root` test ends with the mounts, namespaces, cgroups, processes and interfaces it began with."""
    if request.node.get_closest_marker("root") is None:
        yield
        return
    ours = (f"{tmp_path_factory.getbasetemp()}/", f"/tmp/{_ROOT_PREFIX}")
    before = Traces.now(ours)
    yield
    deadline = time.monotonic() + SETTLE_SECONDS
    left = Traces.now(ours).beyond(before)
    while left and time.monotonic() < deadline:
        time.sleep(0.02)  # the kernel tells nobody when it has removed the last of them
        left = Traces.now(ours).beyond(before)
    assert not left, "left behind: " + "; ".join(left)


@dataclass(frozen=True)
class Traces:
    """What can be left behind. Alone on a machine all of it counts, else only what must be ours."""

    mounts: frozenset[str]
    namespaces: frozenset[str]
    cgroups: frozenset[str]
    interfaces: frozenset[str]
    processes: frozenset[tuple[int, str]]

    @staticmethod
    def now(ours: tuple[str, ...]) -> Traces:
        alone = bool(os.environ.get(ALONE))
        return Traces(
            mounts=frozenset(path for path in _mount_points() if alone or path.startswith(ours)),
            namespaces=frozenset(_namespaces_held()),
            cgroups=frozenset(_cgroups() if alone else ()),
            interfaces=frozenset(os.listdir("/sys/class/net") if alone else ()),
            processes=frozenset(_descendants()),
        )

    def beyond(self, before: Traces) -> list[str]:
        """What is here now and was not before; children of one that was there are its own matter."""
        known = {pid for pid, _ in before.processes}
        fresh = {(pid, name) for pid, name in self.processes - before.processes if _parent(pid) not in known}
        return [
            *(f"mount {name}" for name in sorted(self.mounts - before.mounts)),
            *(f"namespace {name}" for name in sorted(self.namespaces - before.namespaces)),
            *(f"cgroup {name}" for name in sorted(self.cgroups - before.cgroups)),
            *(f"interface {name}" for name in sorted(self.interfaces - before.interfaces)),
            *(f"process {pid} {name}" for pid, name in sorted(fresh)),
        ]


def _mount_points() -> list[str]:
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as lines:
        return [line.split(" ", 5)[4] for line in lines]


def _namespaces_held() -> Iterator[str]:
    """Network namespaces that threads of this process are in: one that changed its own must have ended."""
    for task in os.listdir("/proc/self/task"):
        try:
            yield os.readlink(f"/proc/self/task/{task}/ns/net")
        except OSError:  # of a thread that ends in this moment the kernel says ENOENT, ESRCH or EACCES
            continue


def _cgroups() -> Iterator[str]:
    for directory, _, _ in os.walk("/sys/fs/cgroup"):
        yield directory


def _descendants() -> Iterator[tuple[int, str]]:
    """Processes below this one, without zombies, and without the one that all tests share."""
    shared = nursery.nursery_pid()
    waiting = [os.getpid()]
    while waiting:
        pid = waiting.pop()
        for child in _children(pid):
            name, state = _name_and_state(child)
            if state and state != "Z" and child != shared:
                yield child, name
            waiting.append(child)


def _children(pid: int) -> Iterator[int]:
    try:
        for task in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{task}/children", encoding="ascii") as file:
                yield from map(int, file.read().split())
    except (FileNotFoundError, ProcessLookupError):
        return


def _name_and_state(pid: int) -> tuple[str, str]:
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            head, _, rest = file.read().rpartition(")")
    except (FileNotFoundError, ProcessLookupError):
        return "", ""
    return head.partition("(")[2], rest.split()[0]


def _parent(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            return int(file.read().rpartition(")")[2].split()[1])
    except (FileNotFoundError, ProcessLookupError):
        return 0
