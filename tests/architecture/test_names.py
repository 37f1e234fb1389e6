"""A public class has a name of its own in all of crib: who reads it knows which one is meant."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from pathlib import Path

SOURCE = Path(__file__).parents[2] / "src" / "crib"
WIRE_IMPORT = re.compile(r"^from crib\.(wire\.[\w.]+) import (?:\(([^)]*)\)|(.*))$", re.MULTILINE)

ERRORS_OF_CLIENTS = (
    "client.errors: the same word for the same status; the client library has no other room's errors"
)
SHARED = {
    "AlreadyExists": ERRORS_OF_CLIENTS,
    "Exhausted": ERRORS_OF_CLIENTS,
    "InvalidRequest": ERRORS_OF_CLIENTS,
    "NotFound": ERRORS_OF_CLIENTS,
    "Session": "client.streams: the library's word for its end; in the daemon it is the container's",
    "TimedOut": ERRORS_OF_CLIENTS,
    "Unavailable": ERRORS_OF_CLIENTS,
    "WrongState": ERRORS_OF_CLIENTS,
}
"""Names of more than one class, each with its reason. This list only shrinks."""


def classes() -> dict[str, list[str]]:
    """By name the modules that define it.

    The formats of `wire` have their standards' words and are spoken with their module (`cdi.Device`): such a
    class counts only if somebody outside of `wire` imports it by its bare name.
    """
    texts = {
        path.relative_to(SOURCE).as_posix(): path.read_text()
        for path in sorted(SOURCE.rglob("*.py"))
        if "stubs" not in path.parts
    }
    bare = {
        (f"{module.replace('.', '/')}.py", name)
        for file, text in texts.items()
        if not file.startswith("wire/")
        for module, many, one in WIRE_IMPORT.findall(text)
        for name in re.findall(r"\w+", many or one)
    }
    found = defaultdict(list)
    for file, text in texts.items():
        for node in ast.parse(text).body:
            counts = not file.startswith("wire/") or (file, getattr(node, "name", "")) in bare
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_") and counts:
                found[node.name].append(file)
    return found


def test_public_classes_have_names_of_their_own() -> None:
    shared = {name: files for name, files in classes().items() if len(files) > 1}
    assert shared.keys() == SHARED.keys(), {name: shared.get(name) for name in shared.keys() ^ SHARED.keys()}


def test_every_module_has_the_same_logger_name() -> None:
    other = re.compile(r"^(?!_log\b)\w+ = logging\.getLogger\(", re.MULTILINE)
    assert [str(path) for path in SOURCE.rglob("*.py") if other.search(path.read_text())] == []


def test_capitals_alone_say_that_a_name_is_a_constant() -> None:
    """`Final` beside them said nothing more, and stood in every fourth module only."""
    marking = re.compile(r"\bimport .*\bFinal\b")
    marked = [str(path) for path in SOURCE.rglob("*.py") if marking.search(path.read_text())]
    assert [path for path in marked if "/stubs/" not in path] == []
