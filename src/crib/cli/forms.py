"""The forms of a result, as `--output` takes them, and the options with which commands offer them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer

if TYPE_CHECKING:
    from crib.cli.jsonpath import JsonPath
    from crib.wire.go_template import Template


class Format(StrEnum):
    """The forms that have no text of their own."""

    TABLE = "table"
    WIDE = "wide"
    NAME = "name"
    JSON = "json"
    YAML = "yaml"


@dataclass(frozen=True, slots=True)
class Extract:
    """`jsonpath=TEMPLATE` or `go-template=TEMPLATE`."""

    template: JsonPath | Template


@dataclass(frozen=True, slots=True)
class CustomColumns:
    """`custom-columns=TITLE:PATH,…`."""

    columns: tuple[tuple[str, JsonPath], ...]


Form: TypeAlias = Format | Extract | CustomColumns
if TYPE_CHECKING:
    _Value: TypeAlias = Form
else:
    _Value = str  # typer knows no unions; the parser makes a Form of it

_REPORT = (Format.TABLE, Format.JSON, Format.YAML)
_LIST = (Format.TABLE, Format.WIDE, Format.NAME, Format.JSON, Format.YAML)
_DOCUMENT = (Format.YAML, Format.JSON)
_LINES = (Format.TABLE, Format.JSON)


def is_table(form: Form) -> bool:
    """Whether a person reads it: the rest needs no figures that only a table shows."""
    return form in (Format.TABLE, Format.WIDE)


def parse(text: str | Form, offered: tuple[Format, ...]) -> Form:
    """Raises typer's error for wrong usage."""
    if not isinstance(text, str) or isinstance(text, Format):
        return text  # a default
    kind, has_text, rest = text.partition("=")
    if not has_text and kind in offered:
        return Format(kind)
    if kind in ("go-template", "go-template-file") and rest:
        return Extract(_go_template(kind, rest))
    from crib.cli.jsonpath import JsonPath, JsonPathError

    try:
        if kind == "jsonpath" and rest:
            return Extract(JsonPath(rest))
        if kind == "custom-columns" and rest and Format.WIDE in offered:
            return CustomColumns(tuple(_column(part, JsonPath) for part in rest.split(",")))
    except JsonPathError as error:
        raise typer.BadParameter(f"{kind}: {error}") from error
    raise typer.BadParameter(f"{text!r} is not one of {_names(offered)}")


def _go_template(kind: str, text: str) -> Template:
    from crib.wire.go_template import MalformedTemplate, Template

    try:
        if kind == "go-template-file":
            with open(text, encoding="utf-8") as file:
                return Template(file.read())
        return Template(text)
    except OSError as error:
        raise typer.BadParameter(f"{kind}: {text}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise typer.BadParameter(f"{kind}: {text} is not UTF-8 text") from error
    except MalformedTemplate as error:
        raise typer.BadParameter(f"{kind}: {error}") from error


def _column(text: str, path: type[JsonPath]) -> tuple[str, JsonPath]:
    title, colon, rest = text.partition(":")
    if not (title and colon and rest):
        raise typer.BadParameter(f"custom-columns: {text!r} is not TITLE:PATH")
    return title, path(rest if rest.startswith((".", "[", "$", "{")) else f".{rest}")


def _names(offered: tuple[Format, ...]) -> str:
    more = ["jsonpath=TEMPLATE", "go-template=TEMPLATE"]
    more += ["custom-columns=TITLE:PATH,..."] if Format.WIDE in offered else []
    return ", ".join([*offered, *more])


def _parser(offered: tuple[Format, ...]) -> Callable[[str], Any]:
    def form(text: str) -> Any:
        return parse(text, offered)

    return form


def _option(offered: tuple[Format, ...]) -> Any:
    text = f"How the result is written: {_names(offered)}."
    return typer.Option("--output", "-o", metavar="FORM", help=text, parser=_parser(offered))


Output = Annotated[_Value, _option(_REPORT)]
"""Of a command with a table, or lines, and documents."""
ListOutput = Annotated[_Value, _option(_LIST)]
"""Of a command that lists things with names."""
DocumentOutput = Annotated[_Value, _option(_DOCUMENT)]
"""Of a command that shows all of one thing."""
LineOutput = Annotated[_Value, _option(_LINES)]
"""Of a command that writes a line for each thing, as long as there are some."""
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Only ids, whole, one a line.")]
