"""Keys that have another name now. The old one still counts, and who writes it is told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from crib.config.places import Path, Say, dotted


@dataclass(frozen=True, slots=True)
class Renamed:
    """What became of a key."""

    now: Path
    since: str
    """The version of crib that has the new name."""


RENAMED: Mapping[Path, Renamed] = {}
"""By the old key. A row stays for two minor versions; a key that is gone for good is an unknown key."""


def take_old_names(table: dict[str, Any], say: Say) -> Mapping[Path, Path]:
    """Put what old keys say under the new ones; the old keys that were found, by the new ones.

    A file that has both is faulty: nobody could tell which of them counts.
    """
    found: dict[Path, Path] = {}
    for old, renamed in RENAMED.items():
        above = _table(table, old[:-1])
        if above is None or old[-1] not in above:
            continue
        place: Any = table
        for part in renamed.now[:-1]:
            place = place.setdefault(part, {}) if isinstance(place, dict) else None
        value = above.pop(old[-1])
        if not isinstance(place, dict) or renamed.now[-1] in place:
            text = f"{dotted(old)} is the old name of {dotted(renamed.now)}, which is set too: remove one"
            say(old, text)
        else:
            place[renamed.now[-1]] = value
            found[renamed.now] = old
    return found


def _table(table: dict[str, Any], path: Path) -> dict[str, Any] | None:
    for part in path:
        inner = table.get(str(part))
        if not isinstance(inner, dict):
            return None
        table = inner
    return table
