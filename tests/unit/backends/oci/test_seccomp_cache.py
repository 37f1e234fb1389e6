"""What is remembered of compiled seccomp profiles."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from crib.backends.oci import seccomp_cache
from crib.backends.oci.seccomp_cache import SeccompFilters
from crib.model.ids import ContainerId
from crib.wire import oci_runtime as oci

FILTER = b"\x06\x00\x00\x00\x00\x00\xff\x7f" * 3


def profile(action: str = "SCMP_ACT_ERRNO") -> oci.Seccomp:
    return oci.Seccomp(default_action=action)


def compiled(root: Path, name: str, content: bytes = FILTER) -> ContainerId:
    (root / name).mkdir()
    (root / name / "seccomp.bpf").write_bytes(content)
    return ContainerId(name)


def test_a_profile_is_known_by_every_part_of_it_once_it_was_learned(tmp_path: Path) -> None:
    known = SeccompFilters(str(tmp_path))
    assert known.known(profile()) == ""
    known.learn(compiled(tmp_path, "a"), profile())
    assert base64.b64decode(known.known(profile())) == FILTER
    assert known.known(profile("SCMP_ACT_KILL")) == ""
    assert known.known(None) == ""


@pytest.mark.parametrize("content", [b"", FILTER[:-1], FILTER * 2000])
def test_what_cannot_be_a_filter_is_not_learned(tmp_path: Path, content: bytes) -> None:
    known = SeccompFilters(str(tmp_path))
    known.learn(compiled(tmp_path, "a", content), profile())
    assert known.known(profile()) == ""


def test_a_runtime_that_keeps_no_filter_goes_on_compiling(tmp_path: Path) -> None:
    known = SeccompFilters(str(tmp_path))
    known.learn(ContainerId("nothing"), profile())
    known.learn(ContainerId("nothing"), None)
    assert known.known(profile()) == ""


def test_a_filter_with_a_listener_is_never_used_again(tmp_path: Path) -> None:
    known = SeccompFilters(str(tmp_path))
    known.learn(compiled(tmp_path, "a"), profile("SCMP_ACT_NOTIFY"))
    assert known.known(profile("SCMP_ACT_NOTIFY")) == ""


def test_the_profile_used_least_lately_is_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seccomp_cache, "_PROFILES", 2)
    known = SeccompFilters(str(tmp_path))
    first, second, third = profile("A"), profile("B"), profile("C")
    known.learn(compiled(tmp_path, "a"), first)
    known.learn(compiled(tmp_path, "b"), second)
    assert known.known(first)
    known.learn(compiled(tmp_path, "c"), third)
    assert (bool(known.known(first)), known.known(second), bool(known.known(third))) == (True, "", True)
