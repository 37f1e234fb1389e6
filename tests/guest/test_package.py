"""A node's life with the Debian package: installed, upgraded, downgraded, cut off, removed, purged.

CRIB_DEB names a package that is there already; else it is built first.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.packaging.builder import ROOT, next_schema, output, variant

lab = pytest.importorskip("tests.guest.lab")
pytestmark = [pytest.mark.root, pytest.mark.nightly]

APT = "DEBIAN_FRONTEND=noninteractive apt-get -q -y --no-install-recommends --allow-downgrades"
BRIDGE = '[network]\nmode = "bridge"\n'
FILES = "/run/crib/records.db /var/lib/crib/crib.db /var/lib/crib/images.db"
PATH = "PATH=/usr/sbin:/usr/bin:/sbin:/bin"
"""Without the checkout's own programs."""
STEP_SECONDS = 3600.0
"""For a step of apt in a guest that is emulated, beside other work: it compiles all modules."""
SETTLE_SECONDS = 900.0
"""For what comes by itself: cribd after a boot, the watchdog, a server's first page, what systemd removes."""
PATIENCE = """
mkdir -p /etc/systemd/system/cribd.service.d
printf '[Service]\nTimeoutStartSec=900\nWatchdogSec=120\n' >/etc/systemd/system/cribd.service.d/patience.conf
"""
"""The package's unit with time for a guest that is slow."""
LEFT = """
find /etc /usr /opt /srv /var/lib -xdev ! -path '*/__pycache__*' ! -name '*-' ! -name '*-old' \
    ! -path '/var/lib/apt/*' ! -path '/var/lib/dpkg/*' ! -path '/var/lib/systemd/*'
find /run /sys/fs/cgroup -name '*crib*'
getent group
findmnt --noheadings --list --output TARGET | grep crib
ip -brief link | cut -d ' ' -f 1
nft list tables
sed -n 's/ (.*//p' /sys/kernel/security/apparmor/profiles 2>/dev/null | grep crib
systemctl list-units --all --no-legend --plain '*crib*' | cut -d ' ' -f 1
ps -e -o comm= | grep -e crib -e conmon -e httpd
true
"""


@pytest.fixture(scope="module")
def deb(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("packages")
    if chosen := os.environ.get("CRIB_DEB"):
        target = place / Path(chosen).name
        target.symlink_to(Path(chosen).resolve())
        return target
    subprocess.run([ROOT / "script/package", "--out", place], check=True)
    return next(place.glob("*.deb"))


class Node:
    """A guest in which packages come and go."""

    def __init__(self, guest: Any) -> None:
        self.guest = guest

    def sh(self, text: str, *, check: bool = True) -> str:
        return str(self.guest.run("env", PATH, "sh", "-c", text, check=check, timeout=STEP_SECONDS).stdout)

    def left(self) -> set[str]:
        return set(self.sh(LEFT).splitlines())

    def settles(self, before: set[str]) -> None:
        """Nothing is left that was not there before, once systemd has cleared away."""
        deadline = time.monotonic() + SETTLE_SECONDS
        while (left := self.left()) != before and time.monotonic() < deadline:
            time.sleep(1)  # nobody tells when that is done
        assert left == before, (left - before, before - left)

    def install(self, deb: Path) -> None:
        self.sh(f"{APT} install /root/{deb.name}")

    def crib(self, arguments: str) -> str:
        return self.sh(f"crib --timeout {STEP_SECONDS:.0f} {arguments}")

    def comes_true(self, condition: str) -> None:
        """A command of the guest succeeds, if not at once."""
        self.sh(f"timeout {SETTLE_SECONDS:.0f} sh -c 'until {condition}; do sleep 1; done'")

    def is_up(self) -> None:
        """The unit is, or is on its way."""
        self.comes_true("systemctl --quiet is-active cribd")

    def first_process(self) -> str:
        """Of the pod's server: its pid, and when it was started."""
        return self.sh("cut -d ' ' -f 1,22 /proc/$(pidof -s httpd)/stat")

    def page(self) -> str:
        # by timeout: wget -T of Debian 12 ends with SIGSEGV
        self.comes_true("timeout 60 busybox wget -q -O /tmp/page http://127.0.0.1:8088/ 2>/dev/null")
        return self.sh("cat /tmp/page")

    def serves(self) -> None:
        """The unit is up, and the pod answers from within and from without."""
        assert self.sh("systemctl is-active cribd") == "active\n"
        assert "web" in self.page()
        assert self.crib("exec web -c server -- cat /etc/hostname") == "web\n"


@pytest.mark.parametrize("release", ["trixie", "bookworm"])
def test_a_node_lives_with_the_package(release: str, deb: Path, tmp_path: Path) -> None:
    later = variant(deb, "9.0.0-1", next_schema)
    demo = tmp_path / "demo.tar"
    output(sys.executable, ROOT / "script/demo-image", "/bin/busybox", demo)
    with lab.booted(release) as guest:
        node = Node(guest)
        node.sh(PATIENCE)
        before = node.left()
        for file in (deb, later, demo, ROOT / "examples/web.yaml"):
            guest.copy_in(file.resolve(), f"/root/{file.name}")

        node.install(deb)
        assert node.sh("systemctl is-active cribd; systemctl is-enabled cribd") == "active\nenabled\n"
        assert node.sh("stat -c %G:%a /run/crib/crib.sock") == "crib:660\n"
        assert node.sh("cat /etc/crictl.yaml").count("crib.sock") == 2
        guest.run(
            "sh", "-c", "mkdir /etc/crib/conf.d && cat >/etc/crib/conf.d/bridge.toml", stdin=BRIDGE.encode()
        )
        node.sh("systemctl restart cribd")
        node.crib("import /root/demo.tar")
        node.crib("run /root/web.yaml")
        node.serves()
        first = node.first_process()

        # an upgrade whose records have a later schema
        node.install(later)
        node.serves()
        assert node.first_process() == first
        assert node.sh(f"for file in {FILES}; do stat -c %a $file.schema-1; done") == "600\n" * 3

        # an earlier crib refuses them, and the pod runs on
        node.install(deb)
        said = node.sh("journalctl --boot --unit cribd --lines 60 --output cat")
        assert "has schema 2, of a later crib" in said
        assert "web" in node.page()
        node.sh(
            f"systemctl stop cribd; for file in {FILES}; do rm -f $file-wal $file-shm; "
            "mv $file.schema-1 $file; done; systemctl start cribd"
        )
        node.serves()
        assert node.first_process() == first

        # what a client would see counts for the watchdog
        node.sh("mv /run/crib/crib.sock /run/crib/moved")
        node.comes_true("[ -S /run/crib/crib.sock ]")
        node.is_up()
        assert "NRestarts=1\n" in node.sh("systemctl show cribd --property NRestarts")
        node.serves()
        assert node.first_process() == first

        # a power cut
        node.sh("sync")
        guest.reset()
        node.is_up()
        assert "NotReady" in node.crib("pods")
        node.crib("run --replace --restart /root/web.yaml")
        node.serves()

        # an orderly reboot: a kept pod comes back
        guest.reboot()
        node.is_up()
        assert "the host shuts down: 2 containers" in node.sh("journalctl --unit cribd --output cat")
        assert "web" in node.page()
        node.comes_true("crib kept | grep -q Running")
        node.serves()

        # removed, while it serves
        node.sh(f"{APT} remove crib")
        assert node.sh("ps -e -o comm= | grep -e conmon -e httpd", check=False) == ""
        assert node.sh("ls /var/lib/crib/images.db /etc/crib/config.toml")
        node.install(deb)
        assert node.sh("systemctl is-active cribd") == "active\n"
        assert "localhost/demo" in node.crib("images")
        node.sh(f"{APT} purge crib")
        node.settles(before)
