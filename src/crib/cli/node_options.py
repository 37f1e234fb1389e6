"""The options of commands that look after the node."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer

from crib.cli.options import Format


@dataclass(frozen=True)
class WorkOptions:
    output: Annotated[Format, typer.Option("--output", "-o", help="Output format.")] = Format.TABLE


@dataclass(frozen=True)
class AbandonOptions:
    id: Annotated[
        str, typer.Argument(metavar="ID", help="Id of a pod or a container, or the beginning of it.")
    ]
    reason: Annotated[str, typer.Option(metavar="TEXT", help="The reason; it is shown with the object.")] = ""
