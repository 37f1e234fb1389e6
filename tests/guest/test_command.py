"""A suite that is tried on whatever machine there is: what fails the caller, and what is only told.

No guest is booted: one that plays it stands at the lab's door.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

from tests.guest import command, images, lab, suites
from tests.guest.images import ROOT, Image, LabError
from tests.guest.machine import GuestLost

GOOD = '<testsuites><testsuite><testcase classname="a" name="good"/></testsuite></testsuites>'
BAD = GOOD.replace("</testsuite>", '<testcase classname="a" name="bad"><failure/></testcase></testsuite>')
CUT = 124
BOUND = 30.0


@dataclass
class PlayedGuest:
    """Its suite ends with this code and report, or with an error."""

    code: int = 0
    report: str = GOOD
    boot: Callable[[], object] = lambda: None
    suite: Callable[[], object] = lambda: None
    closed: bool = False
    level_of_services: tuple[str, ...] = ()
    streamed: list[Sequence[str]] = field(default_factory=list)

    def __enter__(self) -> Self:
        self.boot()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.closed = True

    def copy_checkout(self) -> None:
        pass

    def stream(self, *argv: str, env: object = None) -> int:
        self.streamed.append(argv)
        self.suite()
        return self.code

    def copy_out(self, source: str, directory: Path) -> None:
        if self.report:
            (directory / "report.xml").write_text(self.report)


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., int]:
    """Try the smoke run in a guest; the exit code."""

    def attempt(guest: PlayedGuest, within: float = 600.0) -> int:
        image = Image(images.RECIPES["trixie"], tmp_path)
        monkeypatch.setattr(images, "image", lambda name: image)
        monkeypatch.setattr(lab, "Guest", lambda *args, **options: guest)
        return command.main(["--suite", "smoke", "--within", str(within), "trixie"])

    return attempt


def fails(error: Exception) -> Callable[[], object]:
    def fail() -> object:
        raise error

    return fail


def hangs() -> None:
    threading.Event().wait(BOUND)


def test_a_smoke_run_that_passed_or_failed_is_that(
    tried: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    guest = PlayedGuest()
    assert tried(guest) == 0
    assert guest.closed
    (argv,) = guest.streamed
    assert argv[:3] == ("timeout", "--signal=INT", "--kill-after=60")
    assert 0 < int(argv[3]) <= 600 - suites.END_SECONDS - command.FETCH_SECONDS
    assert tried(PlayedGuest(1, BAD)) == 1
    assert "failed: a::bad" in capsys.readouterr().out


def test_a_guest_that_is_lost_under_the_smoke_run_or_leaves_no_report_fails_it(
    tried: Callable[..., int],
) -> None:
    assert tried(PlayedGuest(suite=fails(GuestLost("the guest was lost")))) == command.TROUBLE
    assert tried(PlayedGuest(3, "")) == command.TROUBLE


@pytest.mark.parametrize(
    "error",
    [
        GuestLost("the guest did not come up in 900 s; the end of its console:\nKernel panic"),
        FileNotFoundError(2, "No such file or directory", "qemu-img"),
    ],
)
def test_a_machine_that_boots_no_guest_says_so_in_a_line_and_fails_nothing(
    tried: Callable[..., int], capsys: pytest.CaptureFixture[str], error: Exception
) -> None:
    guest = PlayedGuest(boot=fails(error))
    assert tried(guest) == 0
    assert not guest.streamed
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("script/guest: no result of smoke in trixie: ")
    assert ("Kernel panic" in line) == isinstance(error, GuestLost)


def test_a_machine_on_which_no_image_can_be_made_says_so_in_a_line_and_fails_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("CRIB_GUESTS", str(tmp_path / "guests"))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    assert command.main(["--suite", "smoke", "--within", "600", "trixie"]) == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("a guest's image is made in a chroot of x86-64, and this machine is aarch64")

    def make(*_: object) -> None:
        raise LabError("mmdebstrap failed (exit code 25) in the making of an image:\nW: a\nE: no archive")

    monkeypatch.setattr(images, "image", make)
    assert command.main(["--suite", "smoke", "--within", "600", "trixie"]) == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("mmdebstrap failed (exit code 25) in the making of an image: E: no archive")


def test_time_that_is_up_fails_nothing_but_what_has_failed_by_then_does(
    tried: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert tried(PlayedGuest(boot=hangs), within=0.1) == 0
    assert "the guest was not up in time" in capsys.readouterr().err
    assert tried(PlayedGuest(), within=60.0) == 0
    assert "the guest was up too late" in capsys.readouterr().err
    assert tried(PlayedGuest(CUT)) == 0
    assert "1 passed, cut off" in capsys.readouterr().out
    assert tried(PlayedGuest(CUT, "")) == 0
    assert "left no report when its time was up" in capsys.readouterr().err
    assert tried(PlayedGuest(CUT, BAD)) == 1


def test_a_guest_that_hangs_under_the_smoke_run_is_left_at_the_deadline(
    tried: Callable[..., int], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(suites, "END_SECONDS", 0.0)
    monkeypatch.setattr(command, "FETCH_SECONDS", -1.0)
    guest = PlayedGuest(suite=hangs)
    assert tried(guest, within=0.5) == 0
    assert "it did not end in time" in capsys.readouterr().err
    assert guest.closed


@pytest.fixture
def house(tmp_path: Path) -> Path:
    """A checkout whose scripts only say that they ran."""
    (tmp_path / ".ci").mkdir()
    (tmp_path / "script").mkdir()
    shutil.copy(ROOT / ".ci" / "run", tmp_path / ".ci" / "run")
    for name in ("setup", "guest", "test"):
        plays(tmp_path, name, f'echo {name} "$@"')
    return tmp_path


def plays(house: Path, name: str, text: str) -> None:
    script = house / "script" / name
    script.write_text(f"#!/bin/sh\n{text}\n")
    script.chmod(0o755)


def ci(house: Path) -> tuple[int, list[str]]:
    done = subprocess.run([house / ".ci" / "run"], capture_output=True, text=True, check=False, timeout=BOUND)
    assert done.stderr == ""
    return done.returncode, done.stdout.splitlines()


def test_ci_smokes_first_and_closes_with_the_suites_own_line(house: Path) -> None:
    code, (first, smoke, last) = ci(house)
    assert (code, first, last) == (0, "setup --dev", "test")
    found = re.fullmatch(r"guest --suite smoke --within (\d+) trixie", smoke)
    assert found
    assert 0 < int(found[1]) <= 720


def test_ci_fails_with_the_smoke_run_and_with_the_suite(house: Path) -> None:
    plays(house, "guest", "exit 1")
    assert ci(house) == (1, ["setup --dev", "test"])
    plays(house, "test", "echo 1 failed; exit 5")
    assert ci(house) == (5, ["setup --dev", "1 failed"])


def test_ci_goes_on_without_programs_for_guests(house: Path) -> None:
    plays(house, "setup", 'echo "$1"; [ "$1" = --dev ] || { echo E: no archive; exit 1; }')
    said = "no smoke run: the programs for guests cannot be installed here: E: no archive"
    assert ci(house) == (0, ["--dev", said, "test"])
