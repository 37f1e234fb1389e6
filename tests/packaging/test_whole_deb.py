"""The Debian package with its libraries, which come from an index: hence nightly."""

from __future__ import annotations

import re
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from tests.packaging.builder import ROOT, output, script

pytestmark = pytest.mark.nightly

ELF_MACHINES = {"amd64": 62, "arm64": 183}
"""As elf.h has them."""
OF_PACKAGES = {
    **dict.fromkeys(("libc", "libm", "libdl", "librt", "libpthread"), "libc6"),
    "libgcc_s": "libgcc-s1",
    "libstdc++": "libstdc++6",
}


@pytest.fixture(scope="module", params=ELF_MACHINES)
def tree(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("deb")
    subprocess.run([ROOT / "script/package", "--arch", request.param, "--out", place], check=True)
    tree = place / str(request.param)
    output("dpkg-deb", "--raw-extract", next(place.glob(f"*_{request.param}.deb")), tree)
    (tree / "usr/bin/python3").symlink_to("/usr/bin/python3")
    return tree


def libraries(tree: Path, version: str) -> Path:
    return tree / f"usr/lib/crib/lib/python{version}/site-packages"


def test_compiled_libraries_are_for_the_machine_and_the_python_that_loads_them(tree: Path) -> None:
    for version in script().PYTHONS:
        compiled = list(libraries(tree, version).rglob("*.so"))
        assert any("cygrpc" in file.name for file in compiled)
        for file in compiled:
            assert struct.unpack_from("<H", file.read_bytes(), 18) == (ELF_MACHINES[tree.name],), file
            assert re.search(rf"\.(cpython-{version.replace('.', '')}-.*|abi3)\.so$", file.name), file


def test_what_they_need_of_debian_the_package_depends_on(tree: Path) -> None:
    text = (tree / "DEBIAN/control").read_text()
    (line,) = re.findall(r"^Depends: (.*)$", text, re.MULTILINE)
    depends = {one.split()[0] for one in line.split(", ")}
    minor = int(re.findall(r"libc6 \(>= 2\.(\d+)\)", line)[0])
    needed, newest = set(), 0
    for file in tree.rglob("*.so"):
        content = file.read_bytes()
        needed |= {name.decode() for name in re.findall(rb"\0(lib[\w+-]+)\.so\.\d+\0", content)}
        newest = max(newest, *map(int, re.findall(rb"GLIBC_2\.(\d+)", content)), 0)
    assert {OF_PACKAGES[name] for name in needed} <= depends
    assert newest <= minor


@pytest.mark.skipif(shutil.which("lintian") is None, reason="no lintian here")
def test_lintian_has_nothing_to_say(tree: Path) -> None:
    said = output("lintian", "--allow-root", "--fail-on", "none", *tree.parent.glob("*.deb")).splitlines()
    assert [line for line in said if line.startswith(("E:", "W:"))] == []


def test_nothing_is_compiled_to_bytecode_or_lies_beside_the_libraries(tree: Path) -> None:
    assert not list(tree.rglob("__pycache__"))
    for version in script().PYTHONS:
        names = {path.name for path in libraries(tree, version).iterdir()}
        assert not names & {"bin", "include", "share", "hatchling", "pip", "setuptools"}
        assert {"crib", "grpc", "google", "msgspec", "aiohttp"} <= names


def test_files_that_are_the_same_for_both_pythons_are_there_once(tree: Path) -> None:
    first, second = (libraries(tree, version) / "crib/offline.py" for version in script().PYTHONS)
    assert first.samefile(second)


def test_the_tree_runs_wherever_it_lies_with_the_systems_python(tree: Path) -> None:
    python = tree / "usr/lib/crib/bin/python"
    version = output("/usr/bin/python3", "-c", "import sysconfig; print(sysconfig.get_python_version())")
    if tree.name != "amd64" or version.strip() not in script().PYTHONS:
        pytest.skip("for another machine or Python")
    assert output(python, "-I", "-B", "-m", "crib.daemon", "--version").startswith("cribd ")
    assert "import" in output(python, "-I", "-B", "-c", "from crib.cli.app import main; main()", "--help")
