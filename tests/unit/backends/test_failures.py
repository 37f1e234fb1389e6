"""What goes wrong in files and programs, as the error that leaves the room: its kind, and what was tried."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from crib.backends.failures import checked, failure, foreign, ours, trying, why
from crib.backends.images.archives import open_file_of
from crib.host.processes import Completed, ProgramFailed, ToolMissing, look_at
from crib.host.threads import FOREIGN, Job, Overdue
from crib.model.errors import Broken, CribError, Exhausted, InvalidRequest, NotFound, Unavailable


def os_error(number: int, path: str | None = "/p") -> OSError:
    return OSError(number, os.strerror(number), path)


def ended(code: int, stderr: bytes = b"") -> Completed:
    return Completed(("prog",), code, b"", stderr, 0.1)


def test_a_message_begins_with_what_was_tried_and_names_the_file_once() -> None:
    assert str(failure("doing x", os_error(errno.EACCES))) == "doing x: /p: Permission denied"
    assert str(failure("reading /p", os_error(errno.EACCES))) == "reading /p: Permission denied"
    assert str(failure("doing x", os_error(errno.EACCES, None))) == "doing x: Permission denied"
    assert why(OSError("it is odd")) == "it is odd"
    assert why(OSError(errno.EIO, "bad", b"/\xff")) == "/\udcff: bad"
    assert why(OSError(errno.EBADF, "bad", 7)) == "bad", "a descriptor is no name"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.ENOMEM])
def test_a_limit_of_the_host_is_nobodys_fault(number: int) -> None:
    for found in (
        failure("x", os_error(number)),
        failure("x", os_error(number), NotFound),
        failure("x", os_error(number), field="config.image"),
    ):
        assert type(found) is Exhausted


def test_a_failure_is_of_the_kind_that_was_asked_for() -> None:
    assert type(failure("x", os_error(errno.ENOENT), NotFound)) is NotFound
    found = failure("x", os_error(errno.ENOENT), field="config.image", reason="ImageVolumeMountFailed")
    assert isinstance(found, InvalidRequest)
    assert (found.field, found.reason) == ("config.image", "ImageVolumeMountFailed")
    assert found.message == "config.image: x: /p: No such file or directory"


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (ToolMissing("conmon"), Broken, "doing x: conmon: program not found"),
        (ProgramFailed(ended(3, b"no")), Broken, "doing x: prog failed (exit code 3): no"),
        (Overdue("it hangs"), Unavailable, "doing x: it hangs"),
        (Overdue("doing x: no answer"), Unavailable, "doing x: no answer"),
    ],
)
def test_programs_and_what_hangs_are_no_fault_of_the_request(
    error: OSError | ProgramFailed, kind: type[CribError], words: str
) -> None:
    with pytest.raises(kind) as raised, trying("doing x", field="config.image"):
        raise error
    assert str(raised.value).startswith(words)
    assert raised.value.__cause__ is error


def test_a_program_is_told_in_its_own_words() -> None:
    assert checked("x", ended(0)).exit_code == 0
    with pytest.raises(Broken, match=r"^x: no \(exit code 1 of prog\)$"):
        checked("x", ended(1, b" no\n"))
    with pytest.raises(Broken, match="it said nothing"):
        checked("x", ended(1))
    with pytest.raises(Broken, match=r"^x: NO "):
        checked("x", ended(1, b"no"), str.upper)


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
