"""Which cgroups and files are taken for those of an earlier daemon's commands, and what is said of them."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from crib.backends.bundle.bundles import BundleNote, Bundles
from crib.backends.oci.earlier_commands import end_earlier_commands
from crib.backends.streams.command_names import new_name
from crib.model.ids import ContainerId, new_container_id
from crib.model.paths import Paths


@dataclass
class Groups:
    """Cgroups by path, each with those below; `immortal` ones are not ended."""

    names: dict[str, list[str]] = field(default_factory=dict)
    immortal: set[str] = field(default_factory=set)
    ended: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)

    def below(self, path: str) -> list[str]:
        return self.names.get(path, [])

    async def kill(self, path: str, _timeout: float) -> bool:
        self.ended.append(path)
        return path not in self.immortal

    async def remove(self, path: str, timeout: float) -> None:
        if path in self.immortal:
            raise OSError(16, "busy", path)
        self.removed.append(path)


@dataclass
class Lab:
    """An environment of as much as is needed."""

    paths: Paths
    cgroups: Groups

    def owns(self, handler: str) -> bool:
        return handler == "crun"

    def container(self, *names: str, handler: str = "crun", files: tuple[str, ...] = ()) -> ContainerId:
        made = new_container_id()
        bundle = Bundles(self.paths).make(made, BundleNote(handler, f"/crib/{made}"))
        for file in files:
            Path(bundle, file).touch()
        self.cgroups.names[f"/crib/{made}"] = list(names)
        return made

    def files(self, container: ContainerId) -> set[str]:
        return {name for name in os.listdir(self.paths.container(container)) if name.startswith("exec")}

    async def sweep(self, *known: str) -> list[str]:
        environment: Any = self
        return list(await end_earlier_commands(environment, Bundles(self.paths), known))


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(Paths(str(tmp_path / "data"), str(tmp_path / "state")), Groups())


async def test_commands_of_other_lives_are_ended_and_this_ones_and_the_containers_own_groups_are_not(
    lab: Lab,
) -> None:
    own = new_name()
    groups = (own, "exec-abc123-0", "exec-4711-12", "exec-box-1", "exec", "execution-1-1", "system.slice")
    files = (f"{own}.json", "exec-abc123-0.json", "exec-abc123-0.pid", "exec-abc123-1", "exec.fifo")
    box = lab.container(*groups, files=files)
    foreign = lab.container("exec-abc123-0", handler="runc")
    assert await lab.sweep(box, foreign, "f" * 64) == [f"2 commands of an earlier daemon in container {box}"]
    assert lab.cgroups.ended == [f"/crib/{box}/exec-abc123-0", f"/crib/{box}/exec-4711-12"]
    assert lab.cgroups.removed == lab.cgroups.ended
    assert lab.files(box) == {f"{own}.json", "exec.fifo"}
    assert await lab.sweep(foreign) == []


async def test_files_alone_are_removed_without_a_word(lab: Lab) -> None:
    box = lab.container(files=("exec-abc123-0.log",))
    assert await lab.sweep(box) == []
    assert lab.files(box) == set()


async def test_a_command_that_does_not_die_is_told_and_left(lab: Lab) -> None:
    box = lab.container("exec-abc123-0", "exec-abc123-1")
    stuck = f"/crib/{box}/exec-abc123-0"
    lab.cgroups.immortal.add(stuck)
    (told,) = await lab.sweep(box)
    assert told == f"2 commands of an earlier daemon in container {box}, of which do not die: {stuck}"
    assert lab.cgroups.removed == [f"/crib/{box}/exec-abc123-1"]
