"""Programs that SIGKILL does not end are counted by what they were started for."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from crib.host import undying
from crib.host.processes import Child, SpawnOptions, spawn
from tests.hung_mount import Hang, mount_that_hangs_later

BOUND = 30.0


async def taken(hang: Hang, number: int) -> None:
    """So many wait for the answer of a file system that has taken their question: nothing ends that."""
    assert await asyncio.to_thread(hang.has_taken, number, BOUND)


def stuck() -> list[undying.Killed]:
    """Those of the object; a program that another test has just killed may be there too."""
    return [one for one in undying.undying() if one.owner == "stuck"]


@pytest.mark.root
async def test_an_object_with_programs_that_do_not_end_gets_no_more_of_them_until_one_has_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(undying, "GRACE", 0.0)
    place = tmp_path / "disk"
    place.mkdir()
    program = ("stat", str(place))
    children: list[Child] = []
    with mount_that_hangs_later(place) as hangs:
        hangs.set()
        for number in range(undying.MAX_OF_ONE):
            children.append(spawn(program, SpawnOptions(owner="stuck")))
            await taken(hangs, number + 1)
            children[-1].kill()
        found = stuck()
        assert len(found) == undying.MAX_OF_ONE
        assert found[0].what == f"stat {place} (pid {children[0].pid})"
        with pytest.raises(undying.TooManyUndying, match=r"^stat is not started: 4 programs .* outlived"):
            spawn(program, SpawnOptions(owner="stuck"))
        assert await spawn(("true",), SpawnOptions(owner="other")).wait(BOUND) == 0
    for child in children:
        await child.wait(BOUND)
    assert stuck() == []
    assert await spawn(("true",), SpawnOptions(owner="stuck")).wait(BOUND) == 0
