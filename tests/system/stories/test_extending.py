"""The five examples of docs/extending.md in one package, used by a real daemon."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from crib.client import images
from crib.client.errors import ClientError, WrongState
from crib.stubs.node.v1.node_pb2 import TimelineRequest
from crib.stubs.runtime.v1 import api_pb2 as pb
from tests.images import busybox_image, push
from tests.registry import running_registry
from tests.system.labs.daemon import EXECUTED, Cri, Cribd, DaemonProcess

PAPER = Path(__file__).resolve().parents[3] / "docs" / "extending.md"
_FENCE = re.compile(r"^```(python|toml)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
pytestmark = [pytest.mark.root, pytest.mark.system]


def shown(kind: str) -> list[str]:
    return [match[2] for match in _FENCE.finditer(PAPER.read_text()) if match[1] == kind]


def install(directory: Path, version: str = "1.0") -> None:
    """The modules and the metadata of a distribution, as pip would lay them out."""
    for text in shown("python"):
        name = re.match(r'"""(\w+\.py):', text)
        assert name is not None, f"an example of {PAPER.name} does not begin with its file's name"
        (directory / name[1]).write_text(text)
    package, _ = shown("toml")
    points = package.partition("[project.entry-points")[2]
    lines = re.sub(r'\[project\.entry-points\."(.*)"\]', r"[\1]", f"[project.entry-points{points}")
    info = directory / f"examples-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: examples\nVersion: {version}\n")
    (info / "entry_points.txt").write_text(lines.replace('"', ""))


class Extended(Cribd):
    """cribd with the examples installed."""

    program = EXECUTED

    def __init__(self) -> None:
        _, settings = shown("toml")
        top, _, network = settings.partition("[network]\n")
        super().__init__(extra=top)
        before, _, after = network.partition("[images]\n")
        text = self.config.read_text().replace('mode = "bridge"\n', before.strip() + "\n")
        self.config.write_text(f"{text}\n[images]\n{after}")
        self.packages = self.root / "packages"
        self.packages.mkdir()
        install(self.packages)

    def _spawn(self, **environment: str) -> DaemonProcess:
        return super()._spawn(PYTHONPATH=f"{self.packages}:{PAPER.parents[1] / 'src'}", **environment)


@pytest.fixture
def cribd() -> Iterator[Extended]:
    daemon = Extended()
    try:
        daemon.start()
        daemon.import_images(busybox_image())
        yield daemon
        daemon.stop()
        # the wipe is started without the packages, so kind and network have to be crib's
        text = daemon.config.read_text().replace('"announced"', '"bridge"')
        daemon.config.write_text(text.replace('kind = "first-installed"\n', ""))
    finally:
        daemon.end()


async def test_every_example_works(cribd: Extended, tmp_path: Path) -> None:
    with running_registry(tmp_path) as url:
        for tag in ("1", "latest"):
            push(url, busybox_image(), "demo/box", tag)
        name = f"{url.removeprefix('http://')}/demo/box"
        async with cribd.connect() as cri:
            with pytest.raises(WrongState, match="hook teams refuses it: pod stories/none has no label team"):
                await cri.run_pod("none")
            pod = await cri.run_pod("web", labels={"team": "blue"})
            box = await cri.run_container(pod, "sleep", "3600")
            stages = await stages_of(cri, pod.id)
            assert ("hook teams", "before_run_pod", "ok") in stages
            await cri.stop_container(box)
            await images.pull(cri.connection, f"{name}:1")
            with pytest.raises(ClientError, match="the tag latest says nothing"):
                await images.pull(cri.connection, f"{name}:latest")
            info = await cri.call(cri.runtime.Status, pb.StatusRequest(verbose=True))
            assert info.status.conditions[0].status
            await cri.remove_pod(pod)
    log = cribd.log()
    assert re.search(r"web has \('100\.", log)
    assert "stopped box of blue" in log
    assert f"pull 1: {name}" in log


async def stages_of(cri: Cri, pod: str) -> set[tuple[str, str, str]]:
    reply = await cri.call(cri.node.Timeline, TimelineRequest(pod=pod))
    return {(stage.name, stage.subject, stage.outcome) for stage in reply.stages}


def test_a_network_that_is_not_installed_is_a_fault_of_the_configuration(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text('[network]\nmode = "announced"\n')
    command = [sys.executable, "-m", "crib.daemon", "--config", str(config), "--check-config"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == (
        "cribd: network.mode is 'announced', and no distribution here has that in crib.networks"
        " (there is: 'bridge', 'cni')\n"
    )
