"""The administrator's directories, when they do not answer: that costs what needs them, and nothing else."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from crib.client.errors import ClientError
from crib.stubs.node.v1 import node_pb2
from crib.stubs.runtime.v1 import api_pb2 as pb
from tests.hung_mount import hung_mount
from tests.system.labs.daemon import Cri, Cribd, until

pytestmark = [pytest.mark.root, pytest.mark.system]

BOUND = 60.0
"""Seconds for what takes a few, or waits for ever."""
BLOCKING = """
import threading
from crib.api import node_service

encode = node_service.translate.encode_info

def hold_up(*arguments):
    threading.Event().wait(1.0)
    return encode(*arguments)

node_service.translate.encode_info = hold_up
from crib.daemon import main
main()
"""
"""A daemon whose every Info blocks the loop for a second."""


@contextlib.contextmanager
def daemon(*, network: str = "", extra: str = "") -> Iterator[Cribd]:
    """One that has not been started."""
    cribd = Cribd(network=network, extra=extra)
    try:
        yield cribd
    finally:
        cribd.end()


async def answers(cri: Cri) -> None:
    await asyncio.wait_for(cri.call(cri.runtime.Version, pb.VersionRequest()), BOUND)


async def waits(cri: Cri) -> list[node_pb2.ThreadWait]:
    return list((await cri.call(cri.node.Info, node_pb2.InfoRequest())).waiting)


async def seen_waiting(cri: Cri, what: str) -> node_pb2.ThreadWait:
    """Once it is."""
    async with asyncio.timeout(BOUND):
        while True:
            if found := [wait for wait in await waits(cri) if wait.what == what]:
                return found[0]


async def test_a_daemon_starts_though_the_archives_to_import_do_not_answer(tmp_path: Path) -> None:
    with daemon(extra=f'[images]\nimport_dir = "{tmp_path}"\n') as cribd, hung_mount(tmp_path):
        cribd.start()
        async with cribd.connect() as cri:
            await answers(cri)
            wait = await seen_waiting(cri, f"listing images.import_dir {tmp_path}")
            assert (wait.kind, wait.owner, wait.overdue) == ("foreign", str(tmp_path), False)


async def test_a_pull_whose_hosts_directory_does_not_answer_waits_alone_and_the_daemon_can_be_ended(
    tmp_path: Path,
) -> None:
    with daemon(extra=f'[images]\nhosts_dirs = ["{tmp_path}"]\n') as cribd, hung_mount(tmp_path):
        cribd.start()
        async with cribd.connect() as cri:
            request = pb.PullImageRequest(image=pb.ImageSpec(image="registry.example/a:1"))
            pull = asyncio.ensure_future(cri.call(cri.image.PullImage, request))
            what = f"reading who is asked for registry.example/a:1: {tmp_path}"
            await seen_waiting(cri, what)
            await answers(cri)
            await asyncio.to_thread(cribd.stop)
            with pytest.raises(ClientError, match="given up, as the daemon ends"):
                await pull


@pytest.mark.nightly
async def test_a_pull_is_refused_in_time_and_says_what_does_not_answer(tmp_path: Path) -> None:
    auth = tmp_path / "auth"
    auth.mkdir()
    with daemon(extra=f'[images]\nauth_file = "{auth}/config.json"\n') as cribd, hung_mount(auth):
        cribd.start()
        async with cribd.connect() as cri:
            request = pb.PullImageRequest(image=pb.ImageSpec(image="registry.example/a:1"))
            with pytest.raises(
                ClientError, match=f"reading credentials from {auth}.* takes more than"
            ) as told:
                await asyncio.wait_for(cri.call(cri.image.PullImage, request), BOUND)
            assert told.value.code == "UNAVAILABLE"
            assert [wait.overdue for wait in await waits(cri)] == [True]


async def test_status_answers_though_the_cni_configuration_does_not(tmp_path: Path) -> None:
    network = f'mode = "cni"\ncni_conf_dir = "{tmp_path}"\n'
    with daemon(network=network) as cribd, hung_mount(tmp_path):
        cribd.start()
        async with cribd.connect() as cri:
            for _ in range(6):
                status = await asyncio.wait_for(cri.call(cri.runtime.Status, pb.StatusRequest()), BOUND)
                _, ready = status.status.conditions
                assert not ready.status
                assert f"reading cni configuration in {tmp_path}: " in ready.message
                await answers(cri)
            # Who asked again and again is refused at once, so that threads that hang are few.
            assert "not tried, as 4 threads hang in such work" in ready.message
            assert len(await waits(cri)) == 4


async def test_what_blocks_the_loop_is_in_the_log_and_counted() -> None:
    with daemon() as cribd:
        cribd.program = ("-c", BLOCKING)
        cribd.start()
        async with cribd.connect() as cri:
            await cri.call(cri.node.Info, node_pb2.InfoRequest())
            info = await cri.call(cri.node.Info, node_pb2.InfoRequest())
            assert info.loop.stalls >= 1
            assert info.loop.longest >= 1.0
        await until(lambda: "the loop continues: it was blocked for" in cribd.log(), BOUND)
        assert " < hold_up (" in cribd.log()
