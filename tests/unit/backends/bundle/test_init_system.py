"""Which init system a command is: by the file that it leads to inside the root."""

from __future__ import annotations

from pathlib import Path

import pytest

from crib.backends.bundle.rootfs import read_facts


@pytest.fixture
def root(tmp_path: Path) -> str:
    (tmp_path / "usr/lib/systemd").mkdir(parents=True)
    (tmp_path / "usr/lib/systemd/systemd").touch()
    (tmp_path / "usr/sbin").mkdir()
    (tmp_path / "usr/sbin/init").symlink_to("/lib/systemd/systemd")
    (tmp_path / "lib").symlink_to("usr/lib")
    (tmp_path / "sbin").symlink_to("usr/sbin")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/busybox").touch()
    (tmp_path / "bin/init").symlink_to("busybox")
    (tmp_path / "bin/systemd").symlink_to("init")
    return str(tmp_path)


@pytest.mark.parametrize(
    ("command", "init"),
    [
        ("/sbin/init", "systemd"),
        ("/lib/systemd/systemd", "systemd"),
        ("/../../sbin/init", "systemd"),
        ("/bin/init", "busybox"),
        ("/bin/systemd", "busybox"),
        ("/bin/busybox", ""),
        ("/nowhere/init", ""),
        ("init", ""),
        ("", ""),
    ],
)
def test_a_command_is_the_init_system_that_it_leads_to(root: str, command: str, init: str) -> None:
    assert read_facts(root, command).init == init
