"""Commands whose arguments are one value: a dataclass of options instead of a long list of parameters."""

from __future__ import annotations

import dataclasses
import inspect
import typing
from collections.abc import Callable
from typing import TypeVar

import typer

from crib.cli.session import Session

Options = TypeVar("Options")


def command(
    app: typer.Typer, options: type[Options], panel: str, name: str | None = None
) -> Callable[[Callable[[Session, Options], None]], Callable[[Session, Options], None]]:
    """Register a verb: typer sees the fields of `options`, the verb gets them as one value.

    The verb's docstring is the command's help; `panel` is the heading under which `crib --help` lists it.
    """

    def decorate(verb: Callable[[Session, Options], None]) -> Callable[[Session, Options], None]:
        def entry(ctx: typer.Context, **values: object) -> None:
            verb(ctx.find_root().obj, options(**values))

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
        entry.__doc__ = _paragraphs(verb.__doc__ or "")
        app.command(name or verb.__name__.rstrip("_"), rich_help_panel=panel)(entry)
        return verb

    return decorate


def _paragraphs(text: str) -> str:
    """A docstring with each paragraph on one line: help is wrapped for the terminal it is shown on."""
    parts = inspect.cleandoc(text).split("\n\n")
    return "\n\n".join(" ".join(part.split()) for part in parts)
