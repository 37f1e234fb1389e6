"""A confined process reaches what it may and no more; in a process of its own, as there is no way back."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from crib.host import landlock

SOURCE = Path(__file__).parents[3] / "src"
PROGRAM = """
import os, socket, sys
sys.path.insert(0, {source!r})
from crib.host import landlock, privileges
privileges.drop_privileges(os.getuid(), os.getgid())
os.chdir({inside!r})
opened = os.open("../outside/secret", os.O_RDONLY)
print(landlock.confine(["/usr", "/no/such", "/dev/null"], ["."]))

def tell(call):
    try:
        print(call())
    except OSError as error:
        print(type(error).__name__)

tell(lambda: open("new", "wb").write(b"xy"))
tell(lambda: os.rename("new", "renamed"))
tell(lambda: os.truncate("renamed", 1))
tell(lambda: open("renamed", "rb").read())
tell(lambda: os.unlink("renamed"))
tell(lambda: os.mkdir("directory"))
tell(lambda: os.symlink("x", "link"))
tell(lambda: open("../outside/secret").read())
tell(lambda: open("../outside/new", "w"))
tell(lambda: open("/usr/new", "w"))
tell(lambda: os.listdir("/usr") and "listed")
tell(lambda: open("/dev/null").read())
tell(lambda: os.read(opened, 10))
tell(lambda: socket.create_server(("127.0.0.1", 0)) and "listens")
"""


@pytest.mark.skipif(landlock.version() < 4, reason="the kernel's Landlock does not have all that is tested")
def test_only_what_is_named_can_be_reached(tmp_path: Path) -> None:
    for name in ("inside", "outside"):
        (tmp_path / name).mkdir()
    (tmp_path / "outside/secret").write_text("s")
    program = PROGRAM.format(source=str(SOURCE), inside=str(tmp_path / "inside"))
    done = subprocess.run(
        [sys.executable, "-I", "-c", program], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 0, done.stderr
    version, *told = done.stdout.splitlines()
    assert int(version) == landlock.version()
    made = ["2", "None", "None", "b'x'", "None"]
    refused = ["PermissionError"] * 5
    assert told == [*made, *refused, "listed", "", "b's'", "PermissionError"]
    assert os.listdir(tmp_path / "inside") == []


def test_a_kernel_without_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(landlock, "version", lambda: 0)
    assert landlock.confine([], []) == 0
