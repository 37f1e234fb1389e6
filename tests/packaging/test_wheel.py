"""The wheel: all that the daemon needs is in it, and a virtual environment that has it runs crib."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.packaging.builder import ROOT, output, script


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory with both."""
    directory = tmp_path_factory.mktemp("built")
    script().build_python(directory, "wheel", "sdist")
    return directory


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    return next(built.glob("*.whl"))


def test_every_file_of_the_source_is_in_the_wheel(wheel: Path) -> None:
    listed = output("git", "-C", ROOT, "ls-files", "--cached", "--others", "--exclude-standard", "src")
    wanted = {line.removeprefix("src/") for line in listed.splitlines() if (ROOT / line).exists()}
    with zipfile.ZipFile(wheel) as archive:
        there = {name for name in archive.namelist() if name.startswith("crib/")}
    assert there == wanted


def test_the_files_around_the_daemon_are_in_it_too(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        for name in script().PLACES:
            (inside,) = (one for one in archive.namelist() if one.endswith(f"/data/share/crib/{name}"))
            assert archive.read(inside) == (ROOT / "packaging" / name).read_bytes()


def test_the_manual_pages_and_completions_are_in_it_too(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name.partition("/data/share/")[2] for name in archive.namelist()}
    assert {
        "man/man1/crib.1.gz",
        "man/man1/crib-image-check.1.gz",
        "man/man5/crib.toml.5.gz",
        "man/man8/cribd.8.gz",
        "bash-completion/completions/crib",
        "zsh/vendor-completions/_crib",
        "fish/vendor_completions.d/crib.fish",
    } <= names


def test_an_sdist_has_what_a_wheel_is_built_from(built: Path) -> None:
    with tarfile.open(next(built.glob("*.tar.gz"))) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {
        "pyproject.toml",
        "src/crib/daemon.py",
        "packaging/cribd.service",
        "LICENSE",
        "README.md",
    } <= names
    assert not [name for name in names if name.startswith(("tests/", ".venv/", ".ci/"))]


def test_crib_runs_from_a_virtual_environment_that_has_the_wheel(wheel: Path, tmp_path: Path) -> None:
    """Its libraries are those of this environment: a network is no part of this test."""
    environment = tmp_path / "venv"
    output(sys.executable, "-m", "venv", "--without-pip", environment)
    pip = (sys.executable, "-m", "pip", "--python", environment / "bin/python", "install", "--quiet")
    output(*pip, "--disable-pip-version-check", "--no-deps", "--no-index", "--no-compile", wheel)
    (libraries,) = environment.glob("lib/python3.*/site-packages")
    (libraries / "borrowed.pth").write_text(next(path for path in sys.path if path.endswith("site-packages")))
    variables = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}

    def ran(*words: str) -> str:
        program = environment / "bin" / words[0]
        done = subprocess.run(
            [program, *words[1:]], cwd=tmp_path, env=variables, capture_output=True, text=True, check=True
        )
        return done.stdout

    where = ran("python", "-c", "import crib; print(crib.__file__)")
    assert where.startswith(str(libraries)), where
    assert ran("crib", "--version").strip().endswith(script().crib_version())
    assert "[network]" in ran("cribd", "--default-config")
    assert (environment / "share/crib/cribd.service").exists()


@pytest.mark.nightly
@pytest.mark.parametrize("tool", ["pip", "pipx"])
def test_a_wheel_and_the_libraries_that_an_index_has_make_a_crib(
    wheel: Path, tmp_path: Path, tool: str
) -> None:
    """With the newest libraries that fit, not the locked ones: that is what pipx gives."""
    output(sys.executable, "-m", "venv", tmp_path / "tool")
    python = tmp_path / "tool/bin/python"
    place = tmp_path / "tool/bin"
    if tool == "pip":
        output(python, "-m", "pip", "install", "--quiet", wheel)
    else:
        output(python, "-m", "pip", "install", "--quiet", "pipx")
        place = tmp_path / "bin"
        variables = {**os.environ, "PIPX_HOME": str(tmp_path / "home"), "PIPX_BIN_DIR": str(place)}
        subprocess.run([python, "-m", "pipx", "install", wheel], env=variables, check=True)
    assert output(place / "crib", "--version").strip().endswith(script().crib_version())
    assert "--check-config" in output(place / "cribd", "--help")
