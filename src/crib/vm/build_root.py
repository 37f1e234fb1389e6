"""The guest's root: Python with the little of its library that is used, crun, busybox, and the agent.

All of it is what is installed on this node. Python's modules are compiled by the Python that will run them,
and come without their sources.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Container, Iterable, Mapping
from pathlib import Path

from crib.vm.build_tree import BuildFailed, Tree

PROGRAM_SECONDS = 60.0
"""For a program that is asked about files."""
MODULES_ROOT = "usr/lib/modules"
"""Where it has the kernel's modules that are loaded after the root is mounted."""
WANTED = "wanted"
"""The file beside them that names those which every machine loads when it is configured."""
CRIB = Path(__file__).parents[1]
AGENT_PARTS = ("__init__.py", "vm/__init__.py", "vm/guest", "wire/__init__.py", "wire/mux.py")
"""Files and directories of this package that the guest has."""
PYTHONS = ("/usr/bin/python3",)
_DIRECTORIES = ("dev", "etc", "proc", "root", "run", "sys", "tmp", "var")

_COMPILE = """
import importlib, json, marshal, sys, _imp
root = sys.argv[1]
sys.path[:] = [root] + [entry for entry in sys.path if not entry.endswith(".zip")]
for name in sys.argv[2:]:
    importlib.import_module(name)
found = {}
for name, module in list(sys.modules.items()):
    path = getattr(module, "__file__", None)
    if path is None or name == "__main__" or path.startswith(root) or not path.startswith("/"):
        continue
    found[name] = path
print(json.dumps({"version": sys.version.split()[0], "tag": "%d.%d" % sys.version_info[:2], "files": found}))
"""
_TO_BYTES = """
import importlib._bootstrap_external as external, sys
for source, name in zip(sys.argv[1::2], sys.argv[2::2]):
    with open(source, "rb") as file:
        code = compile(file.read(), name, "exec", dont_inherit=True, optimize=2)
    data = external._code_to_hash_pyc(code, bytes(8), False)
    sys.stdout.buffer.write(len(data).to_bytes(4, "big") + data)
"""


class GuestRoot:
    """The tree while it is filled, and what was put into it."""

    def __init__(self) -> None:
        self.tree = Tree()
        self.versions: dict[str, str] = {}
        for name in _DIRECTORIES:
            self.tree.directory(name)
        for name in ("bin", "sbin", "lib", "lib64"):
            self.tree.link(name, f"usr/{name}")
            self.tree.directory(f"usr/{name}")

    def program(self, name: str, target: str = "") -> Path:
        """A program of the node with the libraries that it loads."""
        path = shutil.which(name) if "/" not in name else name
        if path is None or not Path(path).exists():
            raise BuildFailed(f"there is no {name} on this node, and the guest needs it: install its package")
        found = Path(path).resolve()
        self.tree.file(target or f"usr/bin/{found.name}", found, 0o755)
        self._libraries(found)
        return found

    def _libraries(self, path: Path) -> None:
        for library in libraries_of(path):
            place = _merged(library)
            if place not in self.tree:
                self.tree.file(place, library.resolve(), 0o755)

    def python(self, agent: Iterable[str]) -> None:
        """Python, the agent's package, and what it imports of the library."""
        program = self.program(_python())
        if program.name != "python3":
            self.tree.link("usr/bin/python3", program.name)
        asked = run_program([str(program), "-I", "-S", "-c", _COMPILE, str(CRIB.parent), *agent])
        found = json.loads(asked)
        self.versions["python"] = found["version"]
        library = f"usr/lib/python{found['tag']}"
        self.tree.directory(f"{library}/lib-dynload")  # Python warns where there is none
        sources: dict[str, Path] = {}
        for name, path in sorted((name, Path(path)) for name, path in found["files"].items()):
            if path.suffix == ".so":
                self.tree.file(f"{library}/lib-dynload/{name}.so", path.resolve(), 0o755)
                self._libraries(path)
            else:
                end = "/__init__.py" if path.name == "__init__.py" else ".py"
                sources[f"{library}/{name.replace('.', '/')}{end}"] = path
        for part in AGENT_PARTS:
            whole = CRIB / part
            for source in sorted(whole.rglob("*.py")) if whole.is_dir() else [whole]:
                sources[f"{library}/crib/{source.relative_to(CRIB)}"] = source
        self._compiled(program, sources)

    def _compiled(self, program: Path, sources: Mapping[str, Path]) -> None:
        """Put modules into the tree, by their places."""
        words = [word for place, source in sources.items() for word in (str(source), f"/{place}")]
        made = run_program([str(program), "-I", "-S", "-c", _TO_BYTES, *words])
        at = 0
        for place in sources:
            length = int.from_bytes(made[at : at + 4], "big")
            self.tree.file(f"{place}c", made[at + 4 : at + 4 + length])
            at += 4 + length


def libraries_of(path: Path) -> list[Path]:
    """What the loader would load for a program or library, the loader itself too; none for a static one."""
    try:
        said = run_program(["ldd", str(path)]).decode()
    except BuildFailed:
        return []  # static: ldd fails for it
    return [Path(found) for found in re.findall(r"(/\S+) \(0x", said)]


def packages_of(paths: Iterable[Path]) -> list[str]:
    """The Debian packages that files belong to, as name=version, sorted; what is of none is left out."""
    # some say where a file is by its path below /usr, some by that of the link that led there
    candidates = [name for path in paths for name in (str(path), str(path).removeprefix("/usr"))]
    try:
        said = run_program(["dpkg-query", "--search", *candidates], {0, 1}).decode()
    except BuildFailed:
        return []  # no Debian
    names = {line.partition(": ")[0] for line in said.splitlines()}
    if not names:
        return []
    form = "--showformat=${Package}=${Version}\n"
    return sorted(set(run_program(["dpkg-query", "--show", form, *sorted(names)]).decode().split()))


def _python() -> str:
    for name in PYTHONS:
        if Path(name).exists():
            return name
    raise BuildFailed(f"there is no {PYTHONS[0]} on this node, and the guest needs it: install python3")


def _merged(library: Path) -> str:
    """Where the guest has a library: below /usr, where the links /lib and /lib64 lead."""
    text = str(library).lstrip("/")
    return text if text.startswith("usr/") else f"usr/{text}"


def run_program(words: list[str], good: Container[int] = (0,)) -> bytes:
    """What a program prints. BuildFailed with its words if its exit code is not `good`."""
    try:
        done = subprocess.run(words, capture_output=True, timeout=PROGRAM_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BuildFailed(f"{words[0]} did not answer: {error}") from None
    if done.returncode not in good:
        raise BuildFailed(
            f"{' '.join(words[:2])} failed: {done.stderr.decode(errors='replace').strip()[-400:]}"
        )
    return done.stdout
