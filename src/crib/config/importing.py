"""`crib config import`: reads the files of containerd or CRI-O, and makes one of ours."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from crib.config import Configuration, from_containerd, from_crio
from crib.config.carrying import Carried, KeyCarrier, parsed, written
from crib.config.document import Document
from crib.config.faults import ConfigError, Fault
from crib.model.settings import Settings

USUAL = ("/etc/containerd/config.toml", "/etc/crio/crio.conf")
"""Where they are looked for when no file is named."""


@dataclass(frozen=True, slots=True)
class Imported:
    """A configuration of ours, made of theirs."""

    text: str
    lines: Sequence[Carried]
    files: Sequence[str]
    faults: Sequence[Fault] = ()
    """What is wrong with ours as a whole: keys that do not go together."""


def import_from(file: str = "") -> Imported:
    """What can be carried over. ConfigError when a file cannot be read, or is neither's."""
    path = file or next((one for one in USUAL if os.path.exists(one)), "")
    if not path:
        raise ConfigError((Fault(" and ".join(USUAL), "neither is there; name a file"),))
    text = _text(path)
    if "crio" in parsed(path, text):
        return _of_crio(path)
    return _of_containerd(path, text)


def report(imported: Imported) -> Iterator[str]:
    """Lines for people: what was carried over, what was not and why."""
    for line in imported.lines:
        if line.to:
            more = f" ({line.why})" if line.why else ""
            yield f"carried  {line.place}: {line.key} → {line.to}{more}"
    for line in imported.lines:
        if not line.to:
            yield f"left     {line.place}: {line.key}: {line.why}"
    for fault in imported.faults:
        yield f"wrong    {fault}"
    count = sum(bool(line.to) for line in imported.lines)
    yield f"{count} of {len(imported.lines)} keys of {', '.join(imported.files)} were carried over"


def _of_containerd(path: str, text: str) -> Imported:
    carrier = KeyCarrier(from_containerd.RULES)
    patterns = parsed(path, text).get("imports", [])
    here = os.path.dirname(path)
    more = [found for one in patterns for found in sorted(glob.glob(os.path.join(here, str(one))))]
    files = [path, *(found for found in more if os.path.abspath(found) != os.path.abspath(path))]
    for one in files:
        from_containerd.carry(carrier, one, _text(one))
    return _imported(carrier, files)


def _of_crio(path: str) -> Imported:
    carrier = KeyCarrier(from_crio.RULES)
    files = [path, *sorted(glob.glob(f"{path}.d/*.conf"))]
    for one in files:
        from_crio.carry(carrier, one, _text(one))
    if os.path.exists(from_crio.REGISTRIES):
        carrier.table.setdefault("images", {})["registries_conf"] = from_crio.REGISTRIES
    return _imported(carrier, files)


def _imported(carrier: KeyCarrier, files: Sequence[str]) -> Imported:
    """Without handlers that cannot be had, and checked as a whole."""
    table = carrier.table
    handlers = table.setdefault("handlers", {})
    refused = {line.path[-2] for line in carrier.lines if line.path[-1] == "runtime_type" and not line.to}
    for name in refused:
        handlers.pop(name, None)
    lines = [
        replace(line, to="", why="its handler is left out")
        if line.to and "runtimes" in line.path and refused & set(line.path)
        else line
        for line in carrier.lines
    ]
    default = table.pop("default_handler", "")
    if default and not handlers and default not in refused:
        handlers[default] = {}
    if handlers:
        table["default_handler"] = default if default in handlers else next(iter(handlers))
    else:
        del table["handlers"]
    text = f"# made by crib config import of {', '.join(files)}\n{written(table)}"
    try:
        Configuration([Document("result", text, Settings)], main="result")
    except ConfigError as error:
        return Imported(text, lines, files, error.faults)
    return Imported(text, lines, files)


def _text(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError((Fault(path, str(getattr(error, "strerror", None) or error)),)) from error
