"""`crib exec` and `cp` at their edges, with a real daemon and a real tar: odd inputs, odd trees."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from crib.cli.session import Session
from tests.system.daemon import Cri, Cribd, running_cribd
from tests.system.stream_lab import box_in
from tests.unit.cli.stream_pod import crib

pytestmark = [pytest.mark.root, pytest.mark.system]


@pytest.fixture(scope="module")
def cribd() -> Iterator[Cribd]:
    with running_cribd() as daemon:
        yield daemon


@pytest.fixture
async def cri(cribd: Cribd) -> AsyncIterator[Cri]:
    async with cribd.story() as connected:
        yield connected


@pytest.fixture
def session(cribd: Cribd) -> Session:
    return Session(f"unix://{cribd.socket}")


async def test_an_input_that_is_empty_ends_a_command_that_was_to_have_a_terminal(
    cri: Cri, session: Session
) -> None:
    await box_in(cri, "empty")
    done = await crib(session, "exec", "-it", "empty", "--", "sh", "-c", "cat; tty; exit 4", stdin=b"")
    assert (done.returncode, done.stdout) == (4, b"not a tty\n")
    assert done.stderr == b"crib: the input is no terminal, so the command gets none\n"


async def test_files_with_several_names_go_there_and_back(cri: Cri, session: Session, tmp_path: Path) -> None:
    _, box = await box_in(cri, "edges")
    await cri.sh(box, "ln -s $(readlink -f /bin/sh) /bin/tar")
    tree, back = tmp_path / "tree", tmp_path / "back"
    (tree / "other").mkdir(parents=True)
    (tree / "file").write_bytes(os.urandom(100_000))
    (tree / "other/name").hardlink_to(tree / "file")
    for words in (("cp", str(tree), "edges:/var"), ("cp", "edges:/var/tree", f"{back}/")):
        done = await crib(session, *words)
        assert (done.returncode, done.stderr) == (0, b"")
    assert (await cri.sh(box, "stat -c %h /var/tree/file")).strip() == "2"
    assert (back / "other/name").samefile(back / "file")
    assert (back / "file").read_bytes() == (tree / "file").read_bytes()
    done = await crib(session, "cp", "edges:/var/tree/file", f"{tmp_path}/none/")
    assert (done.returncode, done.stderr) == (1, b"crib: there is no directory 'none' to copy into\n")
    assert not (tmp_path / "none").exists()
