"""What is told of pods that have lost something, when that cannot be looked at."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from crib.backends.pods import losses
from crib.host.mount_table import MountChanges
from crib.host.threads import Overdue
from crib.model.errors import Exhausted, Unavailable
from crib.model.paths import Paths


async def test_a_look_at_the_mounts_that_takes_too_long_is_an_error_of_ours_after_which_all_begins_anew(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class Stuck:
        async def run(self, *_: object) -> None:
            raise Overdue("it takes more than 30 s")

    monkeypatch.setattr(losses, "OURS", Stuck())
    told = losses.PodLosses(Paths(str(tmp_path), str(tmp_path))).stream(lambda: ())
    with pytest.raises(Unavailable, match="reading the mount table: it takes more than 30 s"):
        await anext(told)


async def test_a_kernel_that_can_watch_no_more_is_an_error_of_ours_after_which_all_begins_anew(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refuse(_: MountChanges) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # of epoll_ctl(2): max_user_watches

    monkeypatch.setattr(MountChanges, "listen", refuse)
    told = losses.PodLosses(Paths(str(tmp_path), str(tmp_path))).stream(lambda: ())
    with pytest.raises(Exhausted, match=r"watching mounts: .*No space left on device"):
        await anext(told)


def test_looks_that_take_long_are_rarer_but_never_much_rarer() -> None:
    assert losses.pause_after(0.001) == losses.PAUSE
    assert losses.pause_after(0.1) == losses.REST * 0.1
    assert losses.pause_after(30) == losses.LONGEST_PAUSE
