"""Commands that take their arguments as one value: a dataclass instead of a long list of parameters."""

from __future__ import annotations

import dataclasses
import inspect
import typing
from collections.abc import Callable
from typing import TypeAlias, TypeVar

import typer

from crib.cli.command_help import CribCommand, CribGroup
from crib.cli.session import CliSession, CommandError

Options = TypeVar("Options")
Verb: TypeAlias = Callable[[CliSession, Options], None]


def command(
    app: typer.Typer, options: type[Options], panel: str, name: str | None = None
) -> Callable[[Verb[Options]], Verb[Options]]:
    """Register a verb: typer sees the fields of `options`, the verb gets them as one value.

    The verb's docstring is the command's help; `panel` is the heading under which `crib --help` lists it.
    """

    def decorate(verb: Verb[Options]) -> Verb[Options]:
        def act(ctx: typer.Context, values: Options) -> None:
            verb(ctx.find_root().obj, values)

        entry = _entry(act, options, verb.__doc__)
        app.command(name or verb.__name__.rstrip("_"), cls=CribCommand, rich_help_panel=panel)(entry)
        return verb

    return decorate


def group(help_text: str) -> typer.Typer:
    """A group of commands that does nothing by itself."""
    return typer.Typer(cls=CribGroup, help=help_text, rich_markup_mode=None)


def command_group(app: typer.Typer, options: type[Options], panel: str, verb: Verb[Options]) -> typer.Typer:
    """Register a verb that also has sub-commands. They are registered with the group that this returns.

    The verb's own options before a sub-command are refused, as they would have no effect.
    """

    def act(ctx: typer.Context, values: Options) -> None:
        if ctx.invoked_subcommand is None:
            verb(ctx.find_root().obj, values)
        elif any(_is_typed(ctx, item.name) for item in dataclasses.fields(options)):  # type: ignore[arg-type]  # a dataclass
            path = f"{ctx.command_path} {ctx.invoked_subcommand}"
            raise CommandError(f"put the options of {path} after {ctx.invoked_subcommand}", 2)

    made = typer.Typer(cls=CribGroup, rich_markup_mode=None)
    made.callback(invoke_without_command=True)(_entry(act, options, verb.__doc__))
    app.add_typer(made, name=verb.__name__, rich_help_panel=panel)
    return made


def _is_typed(ctx: typer.Context, name: str) -> bool:
    source = ctx.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _entry(
    act: Callable[[typer.Context, Options], None], options: type[Options], help_text: str | None
) -> Callable[..., None]:
    """What typer calls: its parameters are the fields of `options`."""

    def entry(ctx: typer.Context, **values: object) -> None:
        act(ctx, options(**values))

    hints = typing.get_type_hints(options, include_extras=True)
    parameters = [inspect.Parameter("ctx", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)]
    for item in dataclasses.fields(options):  # type: ignore[arg-type]  # every Options is a dataclass
        default: object = inspect.Parameter.empty
        if item.default is not dataclasses.MISSING:
            default = item.default
        parameters.append(
            inspect.Parameter(
                item.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=hints[item.name]
            )
        )
    entry.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # inspect reads it
    entry.__doc__ = _paragraphs(help_text or "")
    return entry


def _paragraphs(text: str) -> str:
    """A docstring with each paragraph on one line, but for examples: help is wrapped for its terminal."""
    parts = inspect.cleandoc(text).split("\n\n")
    return "\n\n".join(part if part.startswith("crib ") else " ".join(part.split()) for part in parts)
