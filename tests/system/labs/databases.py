"""Images with databases of this machine: busybox, the programs, and their libraries."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path

from tests.images import BuiltImage, Entry, busybox_image, directory

SQLITE = "localhost/sqlite:1"
POSTGRES = "localhost/postgres:1"
POSTGRES_UID = 1000
"""busybox's user `user`: postgres refuses to run as root."""
_LIBRARY = re.compile(r"(/\S+) \(0x")


def sqlite_image() -> BuiltImage:
    """With `sqlite3`."""
    program = shutil.which("sqlite3")
    assert program is not None, "sqlite3 is missing: script/setup --dev installs it"
    return busybox_image([*_directories(["usr/bin"]), *_programs([program])], name=SQLITE)


def postgres_directory() -> Path | None:
    """Where Debian's newest postgresql is, if it is installed."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: int(path.parts[4]))
    return found[-1].parents[1] if found else None


def postgres_image() -> BuiltImage:
    """With `initdb`, `postgres`, `psql` and what they read, in /usr/lib/postgresql."""
    home = postgres_directory()
    assert home is not None
    programs = [home / "bin" / name for name in ("initdb", "postgres", "psql", "pg_isready")]
    libraries = list((home / "lib").glob("*.so"))
    shared = Path("/usr/share/postgresql", home.name)
    texts = [path for path in shared.rglob("*") if path.is_file() and "locale" not in path.parts]
    zones = Path("/usr/share/zoneinfo")
    files = [*_programs(map(str, [*programs, *libraries])), *map(_file, texts)]
    files += [_file(zones / "Etc/UTC")]
    parents = sorted({str(parent) for one in files for parent in Path(one.name).parents} - {"."})
    return busybox_image([*_directories(parents), *files], name=POSTGRES)


def _directories(names: Iterable[str]) -> Iterator[Entry]:
    yield from (directory(name) for name in names)


def _programs(paths: Iterable[str]) -> Iterator[Entry]:
    """They and their libraries, each where it is on this machine."""
    seen: set[str] = set()
    for path in paths:
        yield _file(Path(path))
        told = subprocess.run(["ldd", path], capture_output=True, text=True, check=True).stdout
        for library in _LIBRARY.findall(told):
            if library not in seen and not library.startswith("/usr/lib/postgresql"):
                seen.add(library)
                yield _file(Path(library))


def _file(path: Path) -> Entry:
    data = path.read_bytes()
    return Entry(str(path).lstrip("/"), data, 0o755 if os.access(path, os.X_OK) else 0o644)
