"""docs/everyday.md: each of its commands is run, in its order, against a real daemon and a registry."""

from __future__ import annotations

import contextlib
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from crib.cli import app
from tests.images import Entry, busybox_image, push
from tests.registry import running_registry
from tests.system.labs.daemon import COMMAND_SECONDS, IMAGE, Cribd, running_cribd
from tests.system.labs.demo import CHECKOUT

pytestmark = [pytest.mark.root, pytest.mark.system]

PAPER = (CHECKOUT / "docs/everyday.md").read_text()
FILES = dict(re.findall(r"^`(\S+)`\n\n```\w+\n(.*?)^```$", PAPER, re.MULTILINE | re.DOTALL))
SHOWN = {
    "crib wait job": "3\n",
    "crib logs -f job": "works\n",
    "crib pods -l app=web": "web",
    "crib ps --state exited": "Exited (3)",
    "crib exec -u 1000 -w / -e A=1 web -- id": "uid=1000",
    "crib why job": "3",
    "crib image check": "none damaged",
    "crib prune -a --dry-run": "would remove image",
    "crib logs web job": "[web/server] begins",
}
"""What must be in the output of some of them."""


def commands() -> list[str]:
    """Those of the last column of all tables."""
    rows = [line for line in PAPER.splitlines() if line.startswith("| ")]
    return [words for row in rows for words in re.findall(r"`(crib [^`]+)`", row.rpartition(" | ")[2])]


@pytest.fixture(scope="module")
def cribd() -> Iterator[Cribd]:
    built = (busybox_image(name=IMAGE), busybox_image(name="docker.io/library/busybox:1.37"))
    with running_cribd(built=built) as daemon:
        yield daemon


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[str]:
    """Its address; it has app:1."""
    with running_registry(tmp_path / "registry") as url:
        push(url, busybox_image([Entry("app", b"1")]), "app", "1")
        yield url.removeprefix("http://")


def until_a_line(words: list[str]) -> int:
    """What goes on until Ctrl-C: to its first line, and then that."""
    program = "from crib.cli.app import main; main()"
    process = subprocess.Popen([sys.executable, "-c", program, *words], stdout=subprocess.PIPE)
    assert process.stdout is not None
    with process:
        try:
            assert process.stdout.readline()
            process.send_signal(signal.SIGINT)
            return process.wait(COMMAND_SECONDS)
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()


def test_fifty_everyday_tasks(
    cribd: Cribd,
    registry: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, text in FILES.items():
        Path(name).write_text(text)
    where = ["-e", str(cribd.socket), "--pods-dir", f"{tmp_path}/pods"]
    assert len(commands()) >= 50
    for command in commands():
        words = [*where, *shlex.split(command.replace("registry.example", registry))[1:]]
        if command == "crib cp web:/etc/hosts .":  # the image has no name for tar
            tar = "ln -s $(readlink -f /bin/sh) /bin/tar"
            assert app._ending([*where, "exec", "web", "--", "sh", "-c", tar]) == 0
        code = until_a_line(words) if " forward " in command else app._ending(words)
        said = capfd.readouterr()
        expected = 130 if " forward " in command else 0
        assert code == expected, (command, code, said)
        assert "Traceback" not in said.err, (command, said)
        assert SHOWN.get(command, "") in said.out, (command, said)
