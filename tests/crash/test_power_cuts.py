"""The power is cut at any moment of a data directory's life: what is found then can be mended, and is no lie.

What was done there is played once, on a disk that logs it (tests.crash.power); each cut is one moment of the
log and one seed for what was lost of what nobody had synced. STATE is empty and the boot id another one, as
after a reboot. The writable layers of containers are no part of that disk, as overlayfs takes none over FUSE:
they are there or not, by the seed.
"""

from __future__ import annotations

import contextlib
import json
import random
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest

from crib.host import mounts
from crib.stubs.runtime.v1 import api_pb2 as pb
from tests.crash.fuse_disk import Op
from tests.crash.power import PowerDisk, after_cut
from tests.images import Entry, busybox_image, push
from tests.registry import running_registry
from tests.system.labs.cni_lab import PLUGIN_DIR
from tests.system.labs.daemon import IMAGE, Cri, Cribd
from tests.system.labs.leftovers import remove_network

pytestmark = [pytest.mark.root, pytest.mark.system]

FEW, MANY = 6, 200
"""Cuts of one recorded life: in the ordinary suite, and at night."""
LAYER_BYTES = 200_000
CODE = 3
"""What the containers end with."""
LOST = 255
END_SECONDS = 60.0
Answer = dict[str, list[Any]]
"""What tests.crash.rebooted tells of one cut."""
UNNEEDED = "layer that no image and no container needs"
"""The one thing that may be wrong with images: a pull was cut off, and its layers are whole."""

cuts = pytest.mark.parametrize(
    "seeds", [range(FEW), pytest.param(range(FEW, MANY), marks=pytest.mark.nightly)], ids=["few", "many"]
)


@dataclass(frozen=True)
class Change:
    """An image came or went: positions in the log when that was asked for and answered."""

    asked: int
    answered: int
    name: str
    is_there: bool


@dataclass
class Life:
    """What was done on a disk, and what had been answered when."""

    log: list[tuple[int, Op]] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)
    containers: list[str] = field(default_factory=list)


class CribdOnPowerDisk(Cribd):
    """A daemon whose data is on a disk that logs, and later on what is left of it."""

    def __init__(self, *, network: str = "") -> None:
        super().__init__(network=network)
        self.data.mkdir(mode=0o700)
        self.writable = self.root / "writable"
        self.writable.mkdir(mode=0o700)
        self.disk: PowerDisk | None = PowerDisk(self.data, self.root / "power.log")
        (self.data / "containers").mkdir(mode=0o700)
        mounts.perform(mounts.Bind(str(self.writable), str(self.data / "containers")))

    def unplug(self) -> list[tuple[int, Op]]:
        """Take the disk away; what was done on it. What is at its place from now on is a plain directory."""
        if self.disk is None:
            return []
        log = self.disk.read_log()
        mounts.unmount(str(self.data / "containers"))
        self.disk.unplug()
        self.disk = None
        return log

    def wipe(self) -> None:
        """A plugin's bridge is the plugin's to keep; and this test's to remove."""
        super().wipe()
        remove_network(self.bridge)

    def end(self) -> None:
        self.unplug()
        super().end()


@contextlib.contextmanager
def changing(cribd: CribdOnPowerDisk, life: Life, name: str, *, is_there: bool) -> Iterator[None]:
    assert cribd.disk is not None
    asked = cribd.disk.position()
    yield
    life.changes.append(Change(asked, cribd.disk.position(), name, is_there))


async def live(cribd: CribdOnPowerDisk, life: Life, image: str) -> None:
    """Images come and go, pods run and end."""
    spec = pb.ImageSpec(image=image)
    async with cribd.connect() as cri:
        with changing(cribd, life, image, is_there=True):
            await cri.call(cri.image.PullImage, pb.PullImageRequest(image=spec))
        pod = await cri.run_pod("first")
        await _end(cri, life, pod, image)
        await _end(cri, life, await cri.run_pod("second"), IMAGE)
        await cri.remove_pod(pod)
        with changing(cribd, life, image, is_there=False):
            await cri.call(cri.image.RemoveImage, pb.RemoveImageRequest(image=spec))
        with changing(cribd, life, image, is_there=True):
            await cri.call(cri.image.PullImage, pb.PullImageRequest(image=spec))


async def _end(cri: Cri, life: Life, pod: Any, image: str) -> None:
    box = await cri.run_container(pod, "sh", "-c", f"exit {CODE}", image=image)
    life.containers.append(box)
    await cri.exited(box)


@contextlib.contextmanager
def recorded(cribd: CribdOnPowerDisk, registry: Path) -> Iterator[tuple[CribdOnPowerDisk, Life]]:
    """A daemon's life in two starts; then its disk is unplugged, and nothing of it runs any more."""
    life = Life()
    noise = random.Random(1)
    layers = [[Entry(f"data{number}", noise.randbytes(LAYER_BYTES))] for number in range(2)]
    try:
        with running_registry(registry) as url:
            push(url, busybox_image(*layers), "power/app", "1")
            cribd.start()
            with changing(cribd, life, IMAGE, is_there=True):
                cribd.import_images(busybox_image(name=IMAGE))
            _run(live(cribd, life, f"{url.removeprefix('http://')}/power/app:1"))
            cribd.stop()
            cribd.start()
            _run(_clear(cribd))
        cribd.stop()
        cribd.wipe()
        life.log = cribd.unplug()
        yield cribd, life
    finally:
        cribd.end()


def _run(work: Any) -> None:
    import asyncio

    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        runner.run(work)


async def _clear(cribd: Cribd) -> None:
    async with cribd.connect() as cri:
        for sandbox in await cri.sandboxes():
            await cri.remove_pod(sandbox)


class Rebooted:
    """The process that looks at what was left, again and again."""

    def __init__(self, cribd: Cribd) -> None:
        self._log = cribd.log_file
        with cribd.log_file.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.crash.rebooted", str(cribd.config)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
            )

    def look(self) -> Answer:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(b"\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, self._log.read_text(errors="replace")[-4000:]
        answer: Answer = json.loads(line)
        return answer

    def end(self) -> None:
        self._process.communicate(timeout=END_SECONDS)


@pytest.fixture(scope="module")
def bridged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Cribd, Life]]:
    with recorded(CribdOnPowerDisk(), tmp_path_factory.mktemp("registry")) as life:
        yield life


@pytest.fixture(scope="module")
def plugged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Cribd, Life]]:
    """With CNI: the bridge plugin, and host-local, whose addresses are on the disk too."""
    directory = tmp_path_factory.mktemp("cni")
    network = f'mode = "cni"\ncni_conf_dir = "{directory}"\ncni_bin_dirs = ["{PLUGIN_DIR}"]\n'
    cribd = CribdOnPowerDisk(network=network)
    ipam = {"type": "host-local", "subnet": cribd.subnet, "dataDir": str(cribd.data / "ipam")}
    plugin = {"type": "bridge", "bridge": cribd.bridge, "isGateway": True, "ipam": ipam}
    conf = {"cniVersion": "1.0.0", "name": "power", "plugins": [plugin]}
    (directory / "power.conflist").write_text(json.dumps(conf))
    with recorded(cribd, tmp_path_factory.mktemp("registry")) as life:
        yield life


def cut(cribd: CribdOnPowerDisk, life: Life, seed: int) -> int:
    """Put what a power cut left at the place of the data; the position in the log at which it was."""
    draw = random.Random(seed)
    number = draw.randint(1, len(life.log))
    for directory in (cribd.data, cribd.state):
        shutil.rmtree(directory, ignore_errors=True)  # of a cut before, which may have failed
    cribd.data.mkdir(mode=0o700)
    after_cut([op for _, op in life.log[:number]], seed, cribd.data)
    (cribd.data / "containers").mkdir(mode=0o700, exist_ok=True)
    for container in life.containers:
        if draw.random() < 0.5:
            (cribd.data / "containers" / container / "upper").mkdir(parents=True)
    return life.log[number - 1][0]


def check_images(cribd: Cribd, life: Life, position: int, answer: Answer) -> None:
    """What is listed is whole, and what had been answered is so."""
    wrong = [one for one in answer["found"] if one["area"] in ("images", "records") and not one["is_note"]]
    assert [one for one in wrong if one["problem"] != UNNEEDED] == []
    names = {
        name
        for (blob,) in _rows(cribd.data / "images.db", "images")
        for name in msgspec.msgpack.decode(blob)["tags"]
    }
    for name in {change.name for change in life.changes}:
        of_it = [change for change in life.changes if change.name == name and change.asked < position]
        if of_it and of_it[-1].answered <= position:
            assert (name in names) == of_it[-1].is_there, f"{name} was answered for; listed are {names}"


def check_records(cribd: Cribd, answer: Answer) -> None:
    """Rows are right or gone, a repair leaves nothing wrong, and a second look finds that so."""
    assert [one for one in answer["repaired"] if one["is_left"]] == []
    assert [one for one in answer["after"] if not one["is_note"]] == []
    assert [one for one in answer["wiped"] if one["problem"]] == []
    assert not list(cribd.data.glob("*.broken-*"))


def check_exits(answer: Answer) -> None:
    """A container that had ended tells its own code, or that it is not known; never another one."""
    for code in answer["codes"]:
        assert code in (CODE, LOST)


def _rows(database: Path, table: str) -> list[tuple[bytes]]:
    with contextlib.closing(sqlite3.connect(database, timeout=10)) as connection:
        return connection.execute(f"SELECT record FROM {table}").fetchall()


def look_after_cuts(cribd: CribdOnPowerDisk, life: Life, seeds: range) -> Iterator[tuple[int, Answer]]:
    """After each cut, what was found and mended."""
    after = Rebooted(cribd)
    try:
        for seed in seeds:
            position = cut(cribd, life, seed)
            try:
                answer = after.look()
                check_images(cribd, life, position, answer)
                check_records(cribd, answer)
                check_exits(answer)
            except AssertionError as error:
                raise AssertionError(f"seed {seed}, position {position} of the log: {error}") from error
            yield seed, answer
    finally:
        after.end()


@cuts
def test_after_a_power_cut_at_any_moment_all_can_be_mended_and_nothing_is_a_lie(
    bridged: tuple[CribdOnPowerDisk, Life], seeds: range
) -> None:
    cribd, life = bridged
    found = [answer for _, answer in look_after_cuts(cribd, life, seeds)]
    assert any(one["found"] for one in found), "no cut hit anything: these seeds prove nothing"


@cuts
def test_after_a_power_cut_no_address_of_a_plugin_stays_with_a_pod_that_is_gone(
    plugged: tuple[CribdOnPowerDisk, Life], seeds: range
) -> None:
    """Kept results are not synced: torn or lost, what they stood for is released all the same."""
    cribd, life = plugged
    for seed, answer in look_after_cuts(cribd, life, seeds):
        held = [path.name for path in (cribd.data / "ipam").glob("*/*") if path.name[0].isdigit()]
        assert held == [], f"seed {seed}: {answer}"
