"""Work of the backends that hangs: what its callers hear, and what is left."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from crib.backends.images.archives import open_file_of
from crib.backends.waiting import foreign, ours
from crib.host.processes import look_at
from crib.host.threads import FOREIGN, Job, Overdue
from crib.model.errors import Unavailable


@pytest.fixture
def hanging() -> Iterator[threading.Event]:
    event = threading.Event()
    yield event
    event.set()


@pytest.mark.parametrize("run", [ours, foreign])
async def test_what_takes_too_long_is_unavailable_and_says_what_it_was(
    run: object, hanging: threading.Event
) -> None:
    with pytest.raises(Unavailable, match=r"^reading /nfs: "):
        await run(Job("reading /nfs", limit=0.05), hanging.wait)  # type: ignore[operator]  # one of the two


async def test_a_file_of_an_archive_that_no_thread_opens_leaves_no_descriptor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "index.json").touch()
    directory = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.close(await open_file_of(directory, "index.json", "import of an archive"))
        before = os.listdir("/proc/self/fd")

        def refuse(_: Job) -> None:
            raise Overdue("not tried")

        monkeypatch.setattr(FOREIGN, "_refuse_if_stuck", refuse)
        with pytest.raises(Overdue):
            await open_file_of(directory, "index.json", "import of an archive")
        assert os.listdir("/proc/self/fd") == before
    finally:
        os.close(directory)


async def test_a_look_at_a_program_waits_for_no_pipe_and_says_what_is_not_there(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    await look_at(str(tmp_path / "pipe"))
    with pytest.raises(FileNotFoundError):
        await look_at(str(tmp_path / "none"))
