"""The port `ContainerLogs`: in memory, and conmon's files."""

from __future__ import annotations

from dataclasses import replace

from tests.contract.handler_lab import HandlerLab
from tests.fakes.world import bounded


async def test_the_log_can_be_opened_anew(lab: HandlerLab) -> None:
    pod = await lab.pod()
    record = await lab.running(pod)
    async with bounded():
        await lab.handler.logs.reopen(record)
        await lab.gone(record)
        await lab.handler.pods.remove(pod)


async def test_a_log_is_rotated_only_if_it_is_longer_than_that(lab: HandlerLab) -> None:
    pod = await lab.pod()
    record = await lab.running(pod)
    async with bounded():
        assert not await lab.handler.logs.rotate(record, 1 << 20, 3)
        assert await lab.handler.logs.rotate(record, -1, 3)
        await lab.gone(record)
        await lab.handler.pods.remove(pod)


async def test_a_log_has_the_size_of_all_its_files(lab: HandlerLab) -> None:
    pod = await lab.pod()
    record = await lab.running(pod, "/bin/sh", "-c", "echo $$; exec sleep 600")
    async with bounded():
        assert await lab.handler.logs.rotate(record, -1, 3)
        other = lab.container(pod)
        assert set(await lab.handler.logs.sizes((record, replace(other, log_path="")))) == {record.id}
        await lab.gone(record)
        await lab.handler.pods.remove(pod)
