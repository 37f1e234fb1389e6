"""The lab: what it refuses, and by night a guest that is used, loses its power, and leaves nothing."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.guest import images, lab, machine
from tests.guest.images import LabError
from tests.guest.lab import Guest
from tests.guest.machine import GuestLost

SCRIPT = images.ROOT / "script" / "guest"


def guest_script(*argv: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [SCRIPT, *argv], env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )


def test_a_guest_that_there_is_not_is_refused_with_those_that_there_are() -> None:
    done = guest_script("sid", "true")
    assert done.returncode == 125
    assert done.stderr == "script/guest: there is no guest sid: the lab has trixie, bookworm, selinux\n"


def test_missing_programs_are_told_with_their_packages(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(LabError, match="mmdebstrap, ssh-keygen not found: apt-get install qemu-system-x86 "):
        images.require("mmdebstrap", "ssh-keygen")


def test_no_image_is_begun_on_a_disk_without_space_for_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CRIB_GUESTS", str(tmp_path / "guests"))
    monkeypatch.setattr(images, "NEEDED_GIB", 1 << 30)
    monkeypatch.setattr(images, "require", lambda *programs: None)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    with pytest.raises(LabError, match=r"an image needs \d+ GiB, and .* free"):
        images.image("trixie")
    assert not (tmp_path / "guests").exists()


def test_wheels_are_fetched_in_a_checkout_without_an_environment_too(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pip = tmp_path / "python"
    pip.write_text("#!/bin/sh\n")
    pip.chmod(0o755)
    monkeypatch.setattr(images, "ROOT", tmp_path)
    monkeypatch.setattr(sys, "executable", str(pip))
    assert images._python_with_pip() == str(pip)


def test_only_root_makes_images(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CRIB_GUESTS", str(tmp_path))
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(LabError, match="needs root"):
        images.image("trixie")


def test_an_image_is_another_when_its_packages_or_the_locked_dependencies_change(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("pyproject.toml", "requirements-dev.lock"):
        (tmp_path / name).write_text((images.ROOT / name).read_text())
    monkeypatch.setattr(images, "ROOT", tmp_path)
    stamps = {images.stamp(recipe) for recipe in images.RECIPES.values()}
    assert len(stamps) == len(images.RECIPES)
    before = images.stamp(images.RECIPES["trixie"])
    with (tmp_path / "pyproject.toml").open("a") as file:
        file.write("\n[tool.something]\nof = 'no interest'\n")
    assert images.stamp(images.RECIPES["trixie"]) == before
    with (tmp_path / "requirements-dev.lock").open("a") as file:
        file.write("another==1\n")
    assert images.stamp(images.RECIPES["trixie"]) != before


def test_an_accelerator_that_there_is_not_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CRIB_GUEST_ACCEL", "xen")
    with pytest.raises(LabError, match="kvm or tcg, not xen"):
        machine.accelerator(images.Image(images.RECIPES["trixie"], tmp_path))


@pytest.fixture(scope="module")
def guest() -> Iterator[Guest]:
    with lab.booted("trixie") as found:
        yield found


@pytest.mark.nightly
def test_a_command_in_a_guest_gives_back_what_it_said_and_its_exit_code(guest: Guest) -> None:
    done = guest.run("sh", "-c", "cat; pwd; echo oh >&2; exit 7", check=False, stdin=b"in\n")
    assert (done.returncode, done.stdout, done.stderr) == (7, f"in\n{images.CHECKOUT}\n", "oh\n")
    with pytest.raises(LabError, match=r"false failed in the guest \(exit code 1\)"):
        guest.run("false")
    assert guest.run("python", "-c", "import crib; print(crib.__file__)").stdout.startswith(images.CHECKOUT)


@pytest.mark.nightly
def test_files_go_in_and_come_out(guest: Guest, tmp_path: Path) -> None:
    (tmp_path / "in").write_text("content")
    guest.copy_in(tmp_path / "in", f"{lab.ARTEFACTS}/out")
    guest.copy_out(lab.ARTEFACTS, tmp_path / "artefacts")
    assert (tmp_path / "artefacts" / "out").read_text() == "content"
    with pytest.raises(LabError, match="/nowhere cannot be copied out"):
        guest.copy_out("/nowhere", tmp_path)


@pytest.mark.nightly
def test_power_is_cut_under_a_command_and_what_was_not_written_is_lost(guest: Guest) -> None:
    boot = "/proc/sys/kernel/random/boot_id"
    first = guest.run("cat", boot).stdout
    guest.run("sh", "-c", "echo kept >/root/kept; sync; echo lost >/root/lost")
    ended: list[BaseException] = []

    def sleeps() -> None:
        try:
            guest.run("sleep", "3000")
        except GuestLost as error:
            ended.append(error)

    thread = threading.Thread(target=sleeps)
    thread.start()
    guest.reset()
    thread.join(machine.MONITOR_SECONDS)
    assert ended
    assert guest.run("cat", boot).stdout != first
    assert guest.run("cat", "/root/kept").stdout == "kept\n"
    assert guest.run("cat", "/root/lost", check=False).stdout != "lost\n"


@pytest.mark.nightly
def test_a_guest_that_is_killed_with_its_lab_leaves_no_qemu_and_no_file(private_root: Path) -> None:
    from_before = set(images.store().rglob("*"))
    process = subprocess.Popen(
        [SCRIPT, "trixie", "sh", "-c", "echo up; sleep 3000"],
        env={**os.environ, "TMPDIR": str(private_root)},
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"up\n"
    (qemu,) = [pid for pid in _children(process.pid) if "qemu" in _name(pid)]
    ended = os.pidfd_open(qemu)
    process.kill()
    process.wait()
    process.stdout.close()
    assert _ends(ended)
    os.close(ended)
    assert set(images.store().rglob("*")) == from_before


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _name(pid: int) -> str:
    return Path(f"/proc/{pid}/comm").read_text()


def _ends(pidfd: int) -> bool:
    return bool(select.select([pidfd], [], [], machine.MONITOR_SECONDS)[0])
