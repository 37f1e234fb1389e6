"""What --help shows, and what is said to somebody who mistypes a command.

Pages are plain text, with bold headings on a terminal. typer's own pages need rich, which takes longer to
import than the rest; and they call a flag's value <bool>.
"""

from __future__ import annotations

import difflib
import inspect
import shutil
import sys
import textwrap
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperCommand, TyperGroup

from crib.cli import colours, panels

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

MAX_WIDTH, MIN_WIDTH = 100, 40
"""Columns of the terminal. Longer lines are hard to read, shorter ones have no room for two columns."""
MAX_NAME = 26
"""Columns for the names of options; text after a longer one begins on the next line."""
_SAID_ELSEWHERE: dict[str, tuple[str, ...]] = {
    "apply": ("run",),
    "build": (),
    "compose": (),
    "container": ("ps",),
    "copy": ("cp",),
    "delete": (),
    "describe": ("inspect",),
    "destroy": (),
    "get": ("pods", "ps", "images"),
    "kube": ("run",),
    "login": ("pull",),
    "logout": (),
    "play": ("run",),
    "rename": (),
    "search": (),
}
"""Words of docker, podman and kubectl, and the commands that do that here. None where nothing here does it,
or where it takes things away: not even a command whose name is much alike."""
_TAKES_AWAY = frozenset(
    {
        "abandon",
        "down",
        "gc",
        "kill",
        "prune",
        "remove",
        "restart",
        "rm",
        "rmi",
        "rmp",
        "stop",
        "stopp",
        "wipe",
    }
)
"""Commands that nobody should be led to: offered only for the beginning of their own name."""
_CLOSE = 0.6
"""How much alike names are that are offered for each other (difflib's ratio)."""
_OFFERED = 3


@dataclass(frozen=True, slots=True)
class CommandEntry:
    """One argument or option on a page."""

    name: str
    text: str


@dataclass(frozen=True, slots=True)
class Page:
    """What there is to say of a command."""

    path: str
    usage: str
    paragraphs: tuple[str, ...]
    """The first one is the summary. One that begins with `crib ` has examples, one a line."""
    arguments: tuple[CommandEntry, ...]
    options: tuple[CommandEntry, ...]
    commands: tuple[tuple[str, tuple[CommandEntry, ...]], ...] = ()
    """By heading."""


class CribCommand(TyperCommand):
    """A command with our help."""

    def get_help(self, ctx: Any) -> str:
        return shown(page(self, ctx))


class CribGroup(TyperGroup):
    """A group of commands with our help and hints."""

    def get_help(self, ctx: Any) -> str:
        return shown(page(self, ctx))

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        if args[0] == "help" and "help" not in self.commands:
            if len(args) == 1:
                print(self.get_help(ctx))
                raise typer.Exit
            args = [args[1], *args[2:], "--help"]
        if args[0] not in self.commands and not args[0].startswith("-"):
            ctx.fail(unknown(args[0], list(self.commands)))
        return super().resolve_command(ctx, args)


def unknown(word: str, names: Sequence[str]) -> str:
    """What to say of a command that does not exist."""
    if word in _SAID_ELSEWHERE:
        found = [name for name in _SAID_ELSEWHERE[word] if name in names]
    else:
        found = [
            name
            for name in difflib.get_close_matches(word, names, _OFFERED, _CLOSE)
            if name not in _TAKES_AWAY or name.startswith(word)
        ]
    hint = f"; did you mean {' or '.join(found)}?" if found else ""
    return f"there is no command {word!r}{hint}"


def page(command: Any, ctx: Any) -> Page:
    """The page of a typer command in its context."""
    arguments = [param for param in command.params if param.param_type_name == "argument"]
    options = [param for param in command.get_params(ctx) if param.param_type_name == "option"]
    words = ["[OPTIONS]", *map(_usage_of, arguments)]
    if isinstance(command, TyperGroup):
        words.append("[COMMAND]" if command.invoke_without_command and arguments else "COMMAND [ARGS]...")
    return Page(
        path=ctx.command_path,
        usage=" ".join([ctx.command_path, *words]),
        paragraphs=tuple(inspect.cleandoc(command.help or "").split("\n\n")),
        arguments=tuple(CommandEntry(_argument_name(param), _text_of(param)) for param in arguments),
        options=tuple(
            CommandEntry(_option_name(param), _text_of(param)) for param in options if not param.hidden
        ),
        commands=_commands(command) if isinstance(command, TyperGroup) else (),
    )


def _commands(group: Any) -> tuple[tuple[str, tuple[CommandEntry, ...]], ...]:
    by_panel: dict[str, list[CommandEntry]] = {}
    for name, command in group.commands.items():
        if not command.hidden:
            panel = command.rich_help_panel if isinstance(command.rich_help_panel, str) else panels.NODE
            by_panel.setdefault(panel, []).append(CommandEntry(name, summary(command.help or "")))
    if len(by_panel) == 1:
        return (("Commands", tuple(*by_panel.values())),)
    return tuple((panel, tuple(by_panel[panel])) for panel in sorted(by_panel, key=panels.place))


def summary(text: str) -> str:
    """The first sentence of a help text."""
    first = " ".join(text.strip().partition("\n\n")[0].split())
    sentence, dot, _ = first.partition(". ")
    return sentence + dot.strip()


def _usage_of(param: Any) -> str:
    name = _argument_name(param)
    return name if param.required else f"[{name}]"


def _argument_name(param: Any) -> str:
    return f"{param.metavar or param.name.upper()}{'...' if param.nargs != 1 else ''}"


def _option_name(param: Any) -> str:
    short = [name for name in param.opts if not name.startswith("--")]
    long = [name for name in (*param.opts, *param.secondary_opts) if name.startswith("--")]
    names = ", ".join([*short[:1], *long]) if short else f"    {', '.join(long)}"
    return names if param.is_flag or param.count else f"{names} {_value_of(param)}"


def _value_of(param: Any) -> str:
    if param.metavar:
        return str(param.metavar)
    return "N" if param.type_descriptor.annotation in (int, float) else str(param.name).upper()


def _text_of(param: Any) -> str:
    """The help, with what may be given and what is taken when nothing is."""
    notes = []
    if choices := choices_of(param):
        notes.append(f"one of {', '.join(choices)}")
    if param.min is not None or param.max is not None:
        notes.append(_bounds(param.min, param.max))
    is_list = param.nargs != 1 or getattr(param, "multiple", False)
    if param.param_type_name == "option" and is_list and "repeat" not in (param.help or "").lower():
        notes.append("may be repeated")
    if param.envvar:
        notes.append(f"or {param.envvar} in the environment")
    default = getattr(param.default, "value", param.default)
    if default not in (None, "", False, (), []) and not callable(default):
        notes.append(f"default {default:g}" if isinstance(default, float) else f"default {default}")
    text = "Show this help and exit." if param.name == "help" else (param.help or "").strip()
    return f"{text} ({'; '.join(notes)})" if notes else text


def choices_of(param: Any) -> list[str]:
    """The values of which one may be given; empty if anything may."""
    kind = param.type_descriptor
    return [str(getattr(one, "value", one)) for one in kind.choices or ()] if kind.is_choice else []


def _bounds(low: float | None, high: float | None) -> str:
    if low is None:
        return f"at most {high:g}"
    return f"at least {low:g}" if high is None else f"{low:g} to {high:g}"


def shown(found: Page) -> str:
    """The page as text for standard output."""
    width = max(MIN_WIDTH, min(MAX_WIDTH, shutil.get_terminal_size((80, 24)).columns))
    has_colours = colours.wanted(sys.stdout)

    def head(text: str) -> str:
        return colours.painted(f"{text}:", "bold") if has_colours else f"{text}:"

    blocks = [_filled(found.usage, width, f"{head('Usage')} ", "       ")]
    for paragraph in found.paragraphs:
        if paragraph.startswith("crib "):
            blocks.append("\n".join(f"  {line}" for line in paragraph.splitlines()))
        else:
            blocks.append(_filled(paragraph, width))
    parameters = _column((*found.arguments, *found.options))
    commands = _column(entry for _, entries in found.commands for entry in entries)
    sections = [("Arguments", found.arguments, parameters)]
    sections += [(title, entries, commands) for title, entries in found.commands]
    for title, entries, column in (*sections, ("Options", found.options, parameters)):
        if entries:
            blocks.append("\n".join([head(title), *_entries(entries, width, column)]))
    if found.commands:
        blocks.append(f"{found.path} help COMMAND tells more about a command.")
    return "\n\n".join(block for block in blocks if block)


def _filled(text: str, width: int, first: str = "", rest: str = "") -> str:
    wrapper = textwrap.TextWrapper(
        width, initial_indent=first, subsequent_indent=rest, break_long_words=False, break_on_hyphens=False
    )
    return wrapper.fill(text)


def _column(entries: Iterable[CommandEntry]) -> int:
    """Where the texts begin."""
    return 4 + min(MAX_NAME, max((len(entry.name) for entry in entries), default=0))


def _entries(entries: Sequence[CommandEntry], width: int, column: int) -> list[str]:
    lines = []
    for entry in entries:
        name = f"  {entry.name}"
        if len(name) > column - 2:
            lines.append(name)
            name = ""
        lines.append(_filled(entry.text, width, name.ljust(column), " " * column))
    return lines
