"""Whether KVM is used: never without a try that is limited in time. No test here touches a real device."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from crib.vm import acceleration
from crib.vm.acceleration import Acceleration, find_acceleration

NEVER = "/nosuch/kvm"


async def test_with_emulation_nothing_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    async def refused(*_: object, **__: object) -> None:
        raise AssertionError("a program was started")

    monkeypatch.setattr(acceleration, "run", refused)
    monkeypatch.setattr(os.path, "exists", lambda _path: pytest.fail("it was looked at"))
    assert await find_acceleration("tcg", NEVER) == Acceleration("tcg")


@pytest.mark.parametrize("wanted", ["auto", "kvm"])
async def test_without_a_device_it_is_emulation_and_the_reason_is_told(wanted: str) -> None:
    assert await find_acceleration(wanted, NEVER) == Acceleration("tcg", f"there is no {NEVER}")


async def test_a_device_that_is_another_is_told(tmp_path: Path) -> None:
    other = tmp_path / "kvm"
    other.touch()
    found = await find_acceleration("auto", str(other))
    assert found.name == "tcg"
    assert found.why.startswith(f"{other} cannot be used: ")
    assert "Inappropriate ioctl" in found.why


async def test_a_device_that_hangs_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hanging = tmp_path / "kvm"
    os.mkfifo(hanging)  # whoever opens it waits for a writer
    monkeypatch.setattr(acceleration, "PROBE_TIME", 0.2)
    found = await find_acceleration("auto", str(hanging))
    assert found == Acceleration("tcg", f"{hanging} made no VM within 0 s")
