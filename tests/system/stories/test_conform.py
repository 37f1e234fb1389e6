"""`crib conform` against real runtimes: crib itself, and Debian's containerd."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from crib.client import Connection
from crib.conform import reports, session
from crib.conform.running import CaseOutcome
from crib.host import mounts
from tests.images import Entry, busybox_image, push
from tests.patience import PATIENCE
from tests.registry import running_registry
from tests.system.labs.containerd import Containerd, running_containerd
from tests.system.labs.daemon import IMAGE, Cribd, running_cribd

pytestmark = [
    pytest.mark.root,
    pytest.mark.system,
    pytest.mark.skipif(os.geteuid() != 0, reason="pods need root"),
]

LIMIT = 240.0 * PATIENCE
"""Seconds for one case: a busy machine is no fault of the runtime."""
NOT_HERE = {
    "CreateContainer/the_default_apparmor_profile_confines": "a node with AppArmor",
    "CreateContainer/files_of_version_2_are_written": "a node with cgroup v2",
    "CreateContainer/selinux_has_no_effect_where_it_is_off": "a node without SELinux",
    "RunPodSandbox/selinux_options_are_accepted": "a node without SELinux",
    "ContainerStats/pressure_is_whole": "a kernel with PSI for cgroups",
    "CreateContainer/swap_is_limited": "a kernel that counts swap",
    "CreateContainer/huge_pages_are_limited": "a cgroup controller of huge pages",
}
"""What crib may skip, and what it takes to ask it."""
DEVIATIONS_OF_CONTAINERD = {
    "StopPodSandbox/of_a_sandbox_that_is_gone_succeeds": "NOT_FOUND",
    "StopContainer/of_a_container_that_is_unknown_succeeds": "NOT_FOUND",
    "CreateContainer/has_the_id_of_its_image": "it knows no image_id yet",
    "CreateContainer/capabilities_may_have_their_prefix": "it wants names without it",
    "CreateContainer/ambient_capabilities_reach_other_users": "they are not set",
    "CreateContainer/an_unknown_capability_is_refused": "it is ignored",
    "CreateContainer/a_privileged_container_may_write_to_sys": "/sys stays read-only",
    "CreateContainer/an_unknown_cdi_device_is_refused": "it knows no CDI yet",
    "UpdateContainerResources/of_an_ended_container_is_refused": "it is ignored",
    "ListImages/a_filter_picks_one_image": "the filter is ignored",
}
"""Cases that Debian 12's containerd 1.6 fails, each time."""
SOMETIMES = {
    "ContainerStatus/its_times_are_in_their_order": "started_at is taken after the start",
    "CreateContainer/huge_pages_are_limited": "where huge pages have a cgroup controller of version 1",
}


@pytest.fixture(scope="module")
def pulled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An image that is in a registry and on no node."""
    with running_registry(tmp_path_factory.mktemp("registry")) as url:
        push(url, busybox_image([Entry("conform", b"pulled")]), "conform/busybox", "1")
        yield f"{url.removeprefix('http://')}/conform/busybox:1"


@pytest.fixture
def shared_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where mounts travel to other namespaces, as on most nodes; runs keep their mounts below."""
    path = tmp_path / "shared"
    path.mkdir()
    mounts.perform(mounts.Tmpfs(str(path), 256 << 20))
    mounts.set_propagation(str(path), "shared")
    monkeypatch.setattr("tempfile.tempdir", str(path))
    yield path
    mounts.unmount(str(path))


async def run(endpoint: str, plan: session.Plan) -> session.ConformReport:
    async with Connection(endpoint, LIMIT) as connection:
        report = await session.conform(connection, plan, lambda result: print(reports.line(result)))
    assert report.left == []
    return report


def ids(report: session.ConformReport, outcome: CaseOutcome) -> set[str]:
    return {result.case.id for result in report.results if result.outcome is outcome}


def failures(report: session.ConformReport) -> str:
    failed = [one for one in report.results if one.outcome is CaseOutcome.FAILED]
    return "\n".join(line for one in failed for line in reports.failure(one))


@pytest.fixture
def cribd() -> Iterator[Cribd]:
    with running_cribd(extra="[handlers.crun]\n[handlers.runc]\n") as daemon:
        before = daemon.leftovers()
        yield daemon
        daemon.settle(before)


@pytest.fixture
def containerd() -> Iterator[Containerd]:
    with running_containerd([busybox_image(name=IMAGE)]) as daemon:
        yield daemon


async def test_crib_passes_every_case_that_can_be_asked_here(
    cribd: Cribd, pulled: str, shared_directory: Path
) -> None:
    report = await run(str(cribd.socket), session.Plan(IMAGE, pulled, limit=LIMIT))
    assert ids(report, CaseOutcome.FAILED) == set(), failures(report)
    assert ids(report, CaseOutcome.SKIPPED) <= NOT_HERE.keys()
    assert len(report.results) > 240
    assert shared_directory.exists()
    assert list(Path("/sys/fs/cgroup").glob("*/cribconform*")) == []


@pytest.mark.nightly
async def test_containerd_fails_what_it_is_known_for_and_nothing_else(
    containerd: Containerd, pulled: str, shared_directory: Path
) -> None:
    report = await run(containerd.endpoint, session.Plan(IMAGE, pulled, limit=LIMIT))
    failed = ids(report, CaseOutcome.FAILED) - SOMETIMES.keys()
    assert failed == DEVIATIONS_OF_CONTAINERD.keys(), failures(report)
    assert report.passed
    assert shared_directory.exists()
