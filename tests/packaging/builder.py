"""script/package as a module, and what it builds without the libraries, which would need a network."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Callable
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parents[2]


def script() -> ModuleType:
    loader = SourceFileLoader("crib_package", str(ROOT / "script/package"))
    spec = spec_from_loader("crib_package", loader)
    assert spec is not None
    module = module_from_spec(spec)
    loader.exec_module(module)
    return module


def small_deb(root: Path, out: Path) -> Path:
    """The package but for its libraries; `root` is what it was packed from."""
    module = script()
    module.lay_out(root, "1")
    deb = module.build_deb(root, out, "amd64", "1")
    assert isinstance(deb, Path)
    return deb


def output(*command: object) -> str:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=True)
    return done.stdout


def variant(deb: Path, version: str, edit: Callable[[Path], None] = lambda tree: None) -> Path:
    """The same package in another version, after `edit` of its tree; beside the first."""
    out = deb.parent / f"crib_{version}_amd64.deb"
    with tempfile.TemporaryDirectory(dir=deb.parent) as scratch:
        tree = Path(scratch, "tree")
        output("dpkg-deb", "--raw-extract", deb, tree)
        control = tree / "DEBIAN/control"
        control.write_text(re.sub(r"(?m)^Version: .*$", f"Version: {version}", control.read_text()))
        edit(tree)
        output("dpkg-deb", "--root-owner-group", "-Zzstd", "-z1", "--build", tree, out)
    return out


def next_schema(tree: Path) -> None:
    """Make it a crib whose records have a later schema: a step that adds a table."""
    for file in tree.glob("usr/lib/crib/lib/python*/site-packages/crib/backends/records/migrations.py"):
        text = file.read_text()
        later = text.replace("SCHEMA_VERSION = 1\n", "SCHEMA_VERSION = 2\n").replace(
            "] = {}\n", '] = {1: lambda one: one.execute("CREATE TABLE added (word)") and None}\n'
        )
        assert later.count("SCHEMA_VERSION = 2") == later.count("{1: lambda") == 1
        file.unlink()  # it may be the same file for all Pythons
        file.write_text(later)
