"""Several handlers: chosen by name, one that cannot be used, one that is taken out with its pods there."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from crib.client import pods
from crib.client.errors import ClientError
from crib.stubs.runtime.v1 import api_pb2 as pb
from tests.system.labs.daemon import Cri, Cribd, log_contents, running_cribd, until

pytestmark = [pytest.mark.root, pytest.mark.system]

HANDLERS = """
[handlers.crun]
[handlers.runc]
[handlers.runsc]
path = "/opt/nosuch/runsc"
[handlers.base]
path = "crun"
base_spec = "/nosuch/base.json"
[handlers.later]
path = "{path}"
annotations = ["example.com/*"]
"""


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A runc under a name and path of its own, which a test may take away."""
    found = shutil.which("runc")
    assert found is not None
    path = tmp_path_factory.mktemp("handlers") / "my-runtime"
    shutil.copy(found, path)
    return path


@pytest.fixture
def cribd(program: Path) -> Iterator[Cribd]:
    with running_cribd() as daemon:
        daemon.stop()
        with daemon.config.open("a") as file:
            file.write(HANDLERS.format(path=program))
        daemon.start()
        yield daemon


@pytest.fixture
async def cri(cribd: Cribd) -> AsyncIterator[Cri]:
    async with cribd.story() as connection:
        yield connection


async def run_pod(cri: Cri, name: str, handler: str, **fields: object) -> pods.Pod:
    return await pods.run_sandbox(cri.connection, cri.pod_config(name, **fields), handler)


async def test_a_pod_runs_by_the_handler_that_it_names(cri: Cri, cribd: Cribd) -> None:
    for handler, made_by in (("", "crun"), ("runc", "runc"), ("later", "later")):
        pod = await run_pod(cri, f"pod-of-{made_by}", handler)
        box = await cri.run_container(pod, "sleep", "1000")
        assert os.listdir(cribd.state / "runtime" / made_by) == [box]
        assert await cri.sh(box, "echo inside") == "inside"
        assert (await cri.pod_status(pod)).runtime_handler == made_by or not handler
    with pytest.raises(ClientError, match=r"no handler 'kata'.*base, crun, later, runc, runsc"):
        await run_pod(cri, "kata", "kata")


async def test_a_handler_that_cannot_be_used_does_not_stop_the_daemon_and_tells_why(cri: Cri) -> None:
    status = await cri.call(cri.runtime.Status, pb.StatusRequest(verbose=True))
    assert all(condition.status for condition in status.status.conditions)
    handlers = json.loads(status.info["info"])["handlers"]
    assert "/opt/nosuch/runsc" in handlers["runsc"]["problem"]
    assert "base_spec /nosuch/base.json" in handlers["base"]["problem"]
    assert handlers["runc"]["problem"] == ""
    with pytest.raises(ClientError, match=r"handler runsc cannot be used: .*/opt/nosuch/runsc"):
        await run_pod(cri, "gvisor", "runsc")


async def test_a_bad_base_spec_of_the_default_handler_is_a_start_error(cribd: Cribd) -> None:
    config = cribd.root / "bad.toml"
    text = cribd.config.read_text().replace(
        "[handlers.crun]", '[handlers.crun]\nbase_spec = "/nosuch/b.json"'
    )
    for mine in (str(cribd.root), cribd.cgroup, cribd.bridge):  # nothing of the daemon that runs
        text = text.replace(mine, f"{mine}/bad" if mine.startswith("/tmp") else f"{mine}b")
    config.write_text(text)
    (cribd.root / "bad").mkdir()
    try:
        done = cribd.run(config=config)
        assert done.returncode == 1
        assert "handler crun: base_spec /nosuch/b.json" in done.stderr
        assert "Traceback" not in done.stderr
    finally:
        cribd.run("--wipe", config=_good(config))
        shutil.rmtree(cribd.root / "bad")
        config.unlink()


def _good(config: Path) -> Path:
    config.write_text(config.read_text().replace('base_spec = "/nosuch/b.json"', ""))
    return config


@pytest.mark.parametrize("program_is_there", [True, False])
async def test_pods_of_a_handler_that_is_gone_can_be_stopped_and_removed(
    cri: Cri, cribd: Cribd, program: Path, program_is_there: bool
) -> None:
    shared = pb.NamespaceOption(pid=pb.POD)
    pod = await run_pod(cri, "left", "later", namespaces=shared)
    script = "trap 'exit 9' TERM; echo ready; while :; do sleep 0.05; done"
    box = await cri.run_container(pod, "sh", "-c", script)
    await until(lambda: log_contents(cribd.logs / "left" / "box.log")["stdout"])
    other = await run_pod(cri, "other", "later")
    created = await cri.create(other, "sleep", "1000")
    running = await cri.run_container(other, "sleep", "1000", name="two")
    before = cribd.config.read_text()
    cribd.stop()
    cribd.config.write_text(before[: before.index("[handlers.later]")])
    if not program_is_there:
        program.rename(program.with_suffix(".away"))
    cribd.start()
    try:
        async with cribd.connect() as anew:
            assert (await anew.status(box)).state == pb.CONTAINER_RUNNING
            assert (await anew.status(created)).state == pb.CONTAINER_CREATED
            with pytest.raises(ClientError, match="no handler 'later'"):
                await anew.create(pod, "true", name="more")
            with pytest.raises(ClientError, match="no handler 'later'"):
                await anew.start(created)
            if program_is_there:  # its probes go on
                assert await anew.sh(box, "echo inside", timeout=30) == "inside"
            await anew.stop_container(box, 30)
            status = await anew.exited(box)
            assert status.exit_code == 9
            await anew.stop_container(running)
            await anew.remove_container(created)
            await anew.remove_pod(pod)
            await anew.remove_pod(other)
            assert await anew.sandboxes() == {}
        assert os.listdir(cribd.state / "runtime" / "later") == []
    finally:
        if not program_is_there:
            program.with_suffix(".away").rename(program)
        cribd.config.write_text(before)
