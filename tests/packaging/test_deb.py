"""The Debian package: what is in it, and what is told to dpkg."""

from __future__ import annotations

import configparser
import gzip
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from crib.config import parse
from crib.config.defaults import default_config
from crib.model.settings import Settings
from tests.packaging.builder import ROOT, output, script, small_deb

UNIT = "usr/lib/systemd/system/cribd.service"
pytestmark = pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="no dpkg-deb here")


@pytest.fixture(scope="module")
def deb(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("deb")
    os.environ["SOURCE_DATE_EPOCH"] = "1700000000"
    try:
        return small_deb(directory / "root", directory)
    finally:
        del os.environ["SOURCE_DATE_EPOCH"]


@pytest.fixture(scope="module")
def tree(deb: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is installed, with the control files in DEBIAN, and the system's Python where it is installed."""
    target = tmp_path_factory.mktemp("tree") / "root"
    output("dpkg-deb", "--raw-extract", deb, target)
    (target / "usr/bin/python3").symlink_to("/usr/bin/python3")
    return target


def fields(tree: Path) -> dict[str, str]:
    text = (tree / "DEBIAN/control").read_text()
    return dict(re.findall(r"^([A-Z][\w-]*): (.*)$", text, re.MULTILINE))


def unit(tree: Path) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None, strict=False)  # ExecReload comes twice
    parser.optionxform = str  # type: ignore[assignment,method-assign]  # systemd's keys have capitals
    parser.read(tree / UNIT)
    return parser


def test_files_belong_to_root_and_nobody_else_may_write_them(deb: Path) -> None:
    lines = output("dpkg-deb", "--contents", deb).splitlines()
    assert len(lines) > 20
    for line in lines:
        mode, owner, *_ = line.split()
        assert owner == "root/root", line
        assert mode[0] == "l" or "w" not in mode[5:], line


def test_the_programs_run_in_the_private_tree_with_the_systems_python(tree: Path) -> None:
    assert os.readlink(tree / "usr/lib/crib/bin/python") == "../../../bin/python3"
    for place, flags in (("usr/bin/crib", "-IS"), ("usr/sbin/cribd", "-I")):
        program = (tree / place).parent / os.readlink(tree / place)
        text = program.read_text()
        assert text.startswith(f"#!/usr/lib/crib/bin/python {flags}\n")
        assert os.access(program, os.X_OK)
        module = re.findall(r"^from (\S+) import main$", text, re.MULTILINE)
        assert (ROOT / "src" / f"{module[0].replace('.', '/')}.py").exists()


@pytest.mark.skipif(not os.path.exists("/usr/bin/python3"), reason="the system has no Python")
def test_the_tree_is_a_virtual_environment_for_whichever_python_the_system_has(tree: Path) -> None:
    code = "import sys, sysconfig as s; print(sys.prefix, s.get_path('purelib'), s.get_python_version())"
    prefix, libraries, version = output(tree / "usr/lib/crib/bin/python", "-I", "-c", code).split()
    assert Path(prefix) == tree / "usr/lib/crib"
    assert Path(libraries) == tree / f"usr/lib/crib/lib/python{version}/site-packages"


def test_python_is_wanted_in_the_versions_that_there_are_libraries_for(tree: Path) -> None:
    versions = [tuple(map(int, version.split("."))) for version in script().PYTHONS]
    wanted = fields(tree)["Depends"].split(", ")
    assert [one for one in wanted if one.startswith("python3")] == [
        "python3 (>= 3.11)",
        "python3 (<< 3.12) | python3 (>= 3.13)",
        "python3 (<< 3.14)",
    ]
    assert versions == [(3, 11), (3, 13)]


def test_the_version_is_the_projects_with_a_revision(tree: Path) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert fields(tree)["Version"] == f"{project['version']}-1"
    assert int(fields(tree)["Installed-Size"]) > 0


def test_the_configuration_is_a_conffile_that_says_nothing_yet(tree: Path) -> None:
    text = (tree / "etc/crib/config.toml").read_text()
    assert text == default_config()
    assert parse(text) == Settings()
    assert (tree / "DEBIAN/conffiles").read_text().split() == ["/etc/crib/config.toml"]


def test_the_papers_come_with_what_they_show_and_use(tree: Path) -> None:
    there = tree / "usr/share/doc/crib"
    for part in ("docs/*.md", "docs/pictures/*.svg", "examples/*.yaml", "examples/nri/*.py"):
        assert {path.name for path in ROOT.glob(part)} == {path.name for path in there.glob(part)}


def test_the_changes_are_told_as_debian_wants_it(tree: Path) -> None:
    there = tree / "usr/share/doc/crib"
    said = gzip.decompress((there / "changelog.Debian.gz").read_bytes()).decode()
    assert said.startswith(f"crib ({fields(tree)['Version']}) unstable; urgency=medium\n")
    assert said.endswith(f" -- {fields(tree)['Maintainer']}  Tue, 14 Nov 2023 22:13:20 +0000\n")
    assert gzip.decompress((there / "changelog.gz").read_bytes()) == (ROOT / "CHANGELOG.md").read_bytes()


def test_every_file_has_its_sum(tree: Path) -> None:
    checked = subprocess.run(
        ["md5sum", "--check", "--quiet", "--strict", tree / "DEBIAN/md5sums"], cwd=tree, check=False
    )
    assert checked.returncode == 0
    listed = {line.split("  ")[1] for line in (tree / "DEBIAN/md5sums").read_text().splitlines()}
    there = {
        str(path.relative_to(tree)) for path in tree.rglob("*") if path.is_file() and not path.is_symlink()
    }
    assert listed == {path for path in there if not path.startswith("DEBIAN/")}


def test_the_same_files_give_the_same_package(
    deb: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    root = deb.parent / "root"
    shutil.rmtree(root / "DEBIAN")
    again = script().build_deb(root, tmp_path, "amd64", "1")
    assert again.read_bytes() == deb.read_bytes()


@pytest.mark.parametrize("name", ["postinst", "prerm", "postrm"])
def test_a_maintainer_script_is_plain_shell_that_passes_over_what_is_not_its_matter(
    tree: Path, name: str
) -> None:
    path = tree / "DEBIAN" / name
    assert path.read_text().startswith("#!/bin/sh\n")
    assert os.stat(path).st_mode & 0o777 == 0o755
    output("sh", "-n", path)


@pytest.mark.parametrize(
    ("name", "action"),
    [
        ("postinst", "abort-upgrade"),
        ("postinst", "abort-remove"),
        ("prerm", "upgrade"),
        ("prerm", "failed-upgrade"),
    ],
)
def test_an_upgrade_touches_nothing_before_the_new_files_are_there(
    tree: Path, name: str, action: str
) -> None:
    traced = subprocess.run(
        ["sh", "-x", tree / "DEBIAN" / name, action, "0.1.0-1"], capture_output=True, text=True, check=True
    )
    ran = [line for line in traced.stderr.splitlines() if not re.match(r"\+ (set|exit|\[)", line)]
    assert ran == []


def test_the_unit_keeps_the_pods_and_comes_back(tree: Path) -> None:
    service = unit(tree)["Service"]
    assert service["Type"] == "notify"
    assert service["ExecStart"] == "/usr/sbin/cribd"
    assert service["ExecReload"] == "/bin/kill -HUP $MAINPID"
    assert "ExecReload=/usr/sbin/cribd --check-config\n" in (tree / UNIT).read_text()
    assert service["KillMode"] == "process"
    assert service["Delegate"] == "yes"
    assert service["Restart"] == "always"
    assert unit(tree)["Unit"]["StartLimitIntervalSec"] == "0"
    assert "RuntimeDirectory" not in service


def test_the_watchdog_is_slower_than_the_first_that_notices(tree: Path) -> None:
    """A kubelet calls the runtime down after 30 s; an end before that would help nobody."""
    assert int(unit(tree)["Service"]["WatchdogSec"]) > 30


def test_containers_get_the_limits_that_systemd_gives_to_services(tree: Path) -> None:
    assert "LimitNOFILE" not in unit(tree)["Service"]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd here")
def test_systemd_understands_the_unit(tree: Path, tmp_path: Path) -> None:
    copy = tmp_path / "cribd.service"
    copy.write_text((tree / UNIT).read_text().replace("/usr/sbin/cribd", sys.executable))
    said = subprocess.run(["systemd-analyze", "verify", copy], capture_output=True, text=True, check=False)
    assert "cribd.service" not in said.stderr


def test_there_is_one_unit_and_the_papers_point_to_it() -> None:
    papers = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]
    assert [paper for paper in papers if "[Unit]" in paper.read_text()] == []
    assert "(../packaging/cribd.service)" in (ROOT / "docs/kubelet.md").read_text()


def test_what_runs_is_locked_and_what_builds_is_not_installed() -> None:
    locked = set(re.findall(r"^([a-z0-9-]+)==", (ROOT / "requirements.lock").read_text(), re.MULTILINE))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted = {re.split(r"[><=;]", one)[0].replace(".", "-") for one in project["project"]["dependencies"]}
    assert wanted <= locked
    assert not {"hatchling", "editables"} & locked
