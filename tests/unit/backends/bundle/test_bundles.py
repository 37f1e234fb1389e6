from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from crib.backends.bundle.bundles import BundleNote, Bundles
from crib.model.ids import ContainerId
from crib.model.paths import Paths
from crib.model.sandbox import (
    ProcessIdentity,
)

ID = ContainerId("c" * 64)


def test_note_is_read_as_it_was_written(tmp_path: Path) -> None:
    paths = Paths(f"{tmp_path}/d", f"{tmp_path}/s")
    bundles = Bundles(paths)
    note = BundleNote("crun", "/a/b", ProcessIdentity(5, 6), shared_pids=True, pod="p")
    assert bundles.read_note(ID) is None
    bundles.make(ID, note)
    assert bundles.read_note(ID) == Bundles(paths).read_note(ID) == note
    Path(f"{tmp_path}/s/containers/{ID}/crib.json").write_text('{"handler": "crun"')
    assert bundles.read_note(ID) == note, "a note is remembered"
    assert Bundles(paths).read_note(ID) is None


def test_a_note_that_cannot_be_read_is_not_taken_for_a_missing_one(tmp_path: Path) -> None:
    bundles = Bundles(Paths(f"{tmp_path}/d", f"{tmp_path}/s"))
    Path(f"{tmp_path}/s/containers/{ID}/crib.json").mkdir(parents=True)
    with pytest.raises(OSError, match=os.strerror(errno.EISDIR)):  # as EMFILE or EIO
        bundles.read_note(ID)


def test_stale_pid_file_names_no_process(tmp_path: Path) -> None:
    bundles = Bundles(Paths(f"{tmp_path}/d", f"{tmp_path}/s"))
    bundles.make(ID, BundleNote("crun", "/a"))
    assert bundles.first_pid(ID) == 0
    Path(bundles.pid_file(ID)).write_text(str(os.getpid()))
    assert bundles.first_pid(ID) == 0
