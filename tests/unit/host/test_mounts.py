"""What can be said of mounts without making any."""

from __future__ import annotations

import pytest

from crib.host import libc, mounts
from crib.host.mounts import Overlay


def test_overlay_options_are_relative_and_escaped() -> None:
    overlay = Overlay("/t", ("/d/l/a:b", "/d/l/c,d"), "/d/up\\x", "/d/work", ("volatile",))
    expected = r"lowerdir=l/a\:b:l/c\,d,upperdir=up\\x,workdir=work,volatile"
    assert mounts.overlay_options(overlay, "/d") == expected


def test_overlay_context_is_quoted_as_its_categories_have_a_comma() -> None:
    overlay = Overlay("/t", ("/d/a", "/d/b"), context="u:r:t:s0:c1,c2")
    assert mounts.overlay_options(overlay, "/d") == 'lowerdir=a:b,context="u:r:t:s0:c1,c2"'


def test_an_overlay_of_one_directory_or_half_an_upper_is_refused() -> None:
    with pytest.raises(ValueError, match="overlay on /t needs two lower"):
        mounts.perform(Overlay("/t", ("/a",)))
    with pytest.raises(ValueError, match="overlay on /t needs both upper and work"):
        mounts.perform(Overlay("/t", ("/a",), upper="/u"))


def test_errors_name_the_path() -> None:
    with pytest.raises(FileNotFoundError) as caught:
        libc.mount("/nowhere", "/nowhere-else", None, libc.MS_BIND)
    assert caught.value.filename == "/nowhere-else"
    with pytest.raises(OSError, match="NUL"):
        libc.umount2("/a\0b")


def test_unmounting_what_is_not_there_says_so() -> None:
    assert not mounts.unmount("/nowhere/at/all")
