"""The arguments of `crib nri`."""

from __future__ import annotations

from dataclasses import dataclass

from crib.cli.forms import Format, ListOutput


@dataclass(frozen=True)
class NriPluginsOptions:
    output: ListOutput = Format.TABLE
