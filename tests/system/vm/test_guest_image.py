"""`crib vm build` and `crib vm boot`, as people run them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.system.labs.vm_guest import BOOT_SECONDS, BUILD_SECONDS, guest_image, guest_kernel

pytestmark = [pytest.mark.root, pytest.mark.system]


def crib(*words: str, limit: float) -> subprocess.CompletedProcess[str]:
    program = Path(sys.executable).with_name("crib")
    return subprocess.run([str(program), *words], capture_output=True, text=True, timeout=limit, check=False)


def test_the_same_node_gives_the_same_image_and_its_manifest_is_true(tmp_path: Path) -> None:
    image = guest_image()
    words = (
        "vm",
        "build",
        "--kernel",
        str(guest_kernel()),
        "--destination",
        str(tmp_path / "vm"),
        "-o",
        "json",
    )
    made = crib(*words, limit=BUILD_SECONDS)
    assert made.returncode == 0, made.stderr
    manifest = json.loads(made.stdout)
    assert manifest == json.loads((image / "manifest.json").read_text())
    for name, file in manifest["files"].items():
        assert (tmp_path / "vm" / name).stat().st_size == file["bytes"]
        assert (tmp_path / "vm" / name).read_bytes() == (image / name).read_bytes()
    assert {"crun", "python"} <= set(manifest)
    assert any(name.startswith("crun=") for name in manifest["packages"]) or not os.path.exists(
        "/usr/bin/dpkg"
    )
    again = crib(*words, limit=BUILD_SECONDS)  # over the one that is there
    assert again.returncode == 0, again.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["vm"]


def test_an_image_that_cannot_be_made_leaves_the_one_that_is_there(tmp_path: Path) -> None:
    old = tmp_path / "vm"
    old.mkdir()
    (old / "kept").touch()
    (tmp_path / "empty").mkdir()
    for kernel in (tmp_path / "empty", tmp_path / "none.deb"):
        made = crib("vm", "build", "-k", str(kernel), "-d", str(old), limit=BUILD_SECONDS)
        assert made.returncode == 1
        assert made.stderr.startswith("crib vm build: ")
        assert str(kernel) in made.stderr
    made = crib(
        "vm", "build", "-k", str(guest_kernel()), "-d", str(old), "--module", "nonsense", limit=BUILD_SECONDS
    )
    assert (made.returncode, "nonsense" in made.stderr) == (1, True), made.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "vm"]
    assert (old / "kept").exists()


def test_a_guest_is_booted_once_and_its_stages_are_told() -> None:
    words = (
        "vm",
        "boot",
        str(guest_image()),
        "--acceleration",
        "tcg",
        "--limit",
        str(BOOT_SECONDS),
        "-o",
        "json",
    )
    done = crib(*words, limit=BOOT_SECONDS + 60)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    stages = {one["name"]: one for one in found["stages"]}
    assert list(stages) == ["virtiofsd", "qemu", "kernel", "init", "agent", "configure"]
    assert all(one["began"] <= one["ended"] for one in stages.values())
    assert stages["qemu"]["ended"] <= stages["kernel"]["ended"] <= stages["init"]["ended"]
    assert (found["acceleration"], found["machine"]) == ("tcg", "microvm")
    assert 0 < found["guest_memory"] <= found["memory"] == 256 << 20


def test_a_guest_that_does_not_boot_says_what_it_said(tmp_path: Path) -> None:
    image = guest_image()
    for name in ("kernel", "initrd", "manifest.json"):
        (tmp_path / name).symlink_to(image / name)
    (tmp_path / "guest.erofs").write_bytes(bytes(1 << 20))
    words = ("vm", "boot", str(tmp_path), "--acceleration", "tcg", "--limit", str(BOOT_SECONDS))
    done = crib(*words, limit=BOOT_SECONDS + 60)
    assert done.returncode == 1
    assert "the root was not mounted" in done.stderr
    missing = crib("vm", "boot", str(tmp_path / "none"), "--acceleration", "tcg", limit=60)
    assert (missing.returncode, "manifest.json" in missing.stderr) == (1, True)
