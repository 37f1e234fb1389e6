"""Threads and namespaces, as far as they need no rights."""

from __future__ import annotations

from pathlib import Path

import pytest

from crib.host import namespaces


def test_bad_requests_are_refused_before_anything_is_made(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="can be pinned"):
        namespaces.pin_namespaces([], str(tmp_path))
    with pytest.raises(ValueError, match="can be pinned"):
        namespaces.pin_namespaces(["mnt"], str(tmp_path))
    with pytest.raises(ValueError, match="UTS"):
        namespaces.pin_namespaces(["net"], str(tmp_path), hostname="x")
    assert list(tmp_path.iterdir()) == []


def test_a_missing_namespace_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        namespaces.run_in_namespace(str(tmp_path / "net"), "net", lambda: None)
    assert caught.value.filename == str(tmp_path / "net")
