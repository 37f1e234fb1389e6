"""Two kinds of handler under the same roots: what belongs to nobody is ended by the kind that made it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from crib.backends.oci.handler import OciHandler
from crib.backends.shim.processes import shims_of
from crib.model.ids import HandlerName
from crib.model.sandbox import NamespaceMode
from tests.contract.handler_lab import HandlerLab
from tests.fakes.world import bounded
from tests.system.labs.shim_setup import ShimLab, shim_lab

pytestmark = [pytest.mark.root, pytest.mark.system]


@pytest.fixture
async def real() -> AsyncIterator[ShimLab]:
    async with shim_lab(name="shimmed") as made:
        yield made


@pytest.fixture
async def lab(real: ShimLab) -> AsyncIterator[HandlerLab]:
    made = HandlerLab(real.handler, real.logs)
    yield made
    await made.close()


@pytest.fixture
async def default(real: ShimLab) -> AsyncIterator[OciHandler]:
    """Looks after all that no configured handler does, as the default handler."""
    opening = replace(real.opening, name=HandlerName("crun"), others=frozenset({"shimmed"}))
    made = await OciHandler.open(opening)
    yield made
    await made.close()


@pytest.mark.parametrize("pids", [NamespaceMode.CONTAINER, NamespaceMode.POD])
async def test_strays_of_a_shim_are_left_to_its_handler(
    real: ShimLab, lab: HandlerLab, default: OciHandler, pids: NamespaceMode
) -> None:
    pod = await lab.pod(pids)
    record = await lab.running(pod)
    program = real.handler.tools.environment.program
    async with bounded():
        assert list(await default.sweep(lambda: ())) == []
        assert list(await default.sweep(lambda: {pod.id})) == []
        assert (await lab.handler.containers.observe(record)).status == "running"
        assert await lab.handler.pods.alive(pod)
        told = await lab.handler.sweep(lambda: ())
    assert {f"container {record.id}", f"sandbox {pod.id}"} <= set(told)
    assert list(shims_of(program)) == []


async def test_strays_of_another_handler_are_left_to_it_by_shims(
    real: ShimLab, lab: HandlerLab, default: OciHandler
) -> None:
    other = HandlerLab(default, real.logs)
    pod = await other.pod()
    record = await other.running(pod)
    async with bounded():
        assert list(await lab.handler.sweep(lambda: ())) == []
        assert (await default.containers.observe(record)).status == "running"
        told = await default.sweep(lambda: ())
    assert {f"container {record.id}", f"sandbox {pod.id}"} <= set(told)
    await other.close()
