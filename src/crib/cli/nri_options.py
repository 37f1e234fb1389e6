"""The arguments of `crib nri`."""

from __future__ import annotations

from dataclasses import dataclass

from crib.cli.forms import Format, Output


@dataclass(frozen=True)
class NriPluginsOptions:
    output: Output = Format.TABLE
