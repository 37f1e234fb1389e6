"""The handlers whose ports are held against the same suites."""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from crib.backends.shim import statistics
from crib.model.settings import HandlerSettings
from tests.contract.handler_lab import HandlerLab
from tests.fakes import world
from tests.fakes.clock import ManualClock
from tests.fakes.handler import FakeHandler
from tests.fakes.host import FakeHost
from tests.system.labs.docker_engine import Engine, docker_lab, shared_engine
from tests.system.labs.oci_setup import oci_lab
from tests.system.labs.shim_setup import shim_lab
from tests.system.labs.vm_pods import VM_SECONDS, vm_lab

__all__ = ["lab", "shared_engine"]

_REAL = [pytest.mark.root, pytest.mark.system]
_GVISOR = pytest.mark.skipif(shutil.which("runsc") is None, reason="gVisor's runsc is not installed")


DAILY_IN_MACHINES = {"test_limits_of_created_and_running_containers_can_be_changed"}
"""One boot: under emulation each takes seconds, so the rest is nightly."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        name, _, case = item.name.partition("[")
        is_machines = item.path.parent == Path(__file__).parent and "vm" in re.split(r"[-\]]", case)
        if is_machines and name not in DAILY_IN_MACHINES:
            item.add_marker(pytest.mark.nightly)


@pytest.fixture(scope="module", autouse=True)
def engine_that_tests_share(request: pytest.FixtureRequest) -> None:
    """Started before any of its tests looks what is there, and what it leaves behind."""
    ours = (item for item in request.session.items if item.path == request.path)
    if any("[docker" in item.name for item in ours):
        request.getfixturevalue("shared_engine")


@pytest.fixture(
    params=[
        "fake",
        "elsewhere",
        pytest.param("oci", marks=_REAL),
        pytest.param("runsc", marks=[*_REAL, _GVISOR]),
        pytest.param("shim of crun", marks=_REAL),
        pytest.param("shim of runc", marks=_REAL),
        pytest.param("vm", marks=_REAL),
        pytest.param("docker", marks=_REAL),
    ]
)
async def lab(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[HandlerLab]:
    async with contextlib.AsyncExitStack() as stack:
        if request.param.startswith("shim"):
            runtime = request.param.rpartition(" ")[2]
            shim = await stack.enter_async_context(shim_lab({"BinaryName": runtime}))
            made = HandlerLab(shim.handler, shim.logs)
        elif request.param == "docker":
            engine: Engine = request.getfixturevalue("shared_engine")
            docker = await stack.enter_async_context(docker_lab(engine))
            made = HandlerLab(docker.handler, docker.logs)
        elif request.param == "vm":
            monkeypatch.setattr(world, "BOUND", VM_SECONDS)
            monkeypatch.setattr(statistics, "ANSWER_TIME", VM_SECONDS)
            shim = await stack.enter_async_context(vm_lab())
            made = HandlerLab(shim.handler, shim.logs)
        elif request.param == "runsc":
            options = HandlerSettings(args=("--network=host",))
            real = await stack.enter_async_context(oci_lab("runsc", options))
            made = HandlerLab(real.handler, real.logs)
        elif request.param != "oci":
            clock = ManualClock()
            host = FakeHost(clock, elsewhere=request.param == "elsewhere")
            made = HandlerLab(FakeHandler(clock, host), "/logs")
        else:
            real = await stack.enter_async_context(oci_lab())
            made = HandlerLab(real.handler, real.logs)
        stack.push_async_callback(made.close)
        yield made
