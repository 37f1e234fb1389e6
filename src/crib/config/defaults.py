"""The configuration that a package installs: every key at its default, commented out and explained.

All of it comes from `crib.model.settings`: the fields, their defaults and the docstrings below them. A `#`
directly before a word comments out a key; a `#` and a space begin an explanation.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import json
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any, get_args, get_origin

from crib.model.keys import fields_of, is_live, is_part, unwrapped
from crib.model.settings import Settings

_WIDTH = 100
_HEAD = (
    "crib's configuration, with every key at its default. To change one, remove the # before it.",
    "Files in the conf.d directory next to this one override it, in lexical order. "
    "`crib config check` reports what is wrong. "
    "`crib reload` applies a change. A key marked (restart) takes effect when cribd restarts. "
    "Containers keep running in either case.",
)
_HANDLERS = "One table for each RuntimeClass handler. If there is any, only the handlers given here exist."


def default_config() -> str:
    """TOML that sets nothing. Without the `#` before each key it sets the defaults."""
    settings = Settings()
    fields = {field.name: getattr(settings, field.name) for field in dataclasses.fields(settings)}
    tables = {name: value for name, value in fields.items() if dataclasses.is_dataclass(value)}
    lines = [*(line for text in _HEAD for line in _words(text)), *_keys(settings, (*tables, "handlers"))]
    for name, table in tables.items():
        lines += _table(name, table, live=is_live(fields_of(Settings)[name]))
    for name, handler in settings.handlers.items():
        lines += ["", *_words(_HANDLERS), *_handler(f"handlers.{name}", handler)]
    return "\n".join(lines) + "\n"


def _handler(name: str, handler: Any) -> Iterator[str]:
    """Its keys, and its tables but `containers`: that one overrides the node's, whose keys are explained."""
    kind: type = type(handler)
    own = [
        one
        for one, hint in fields_of(kind).items()
        if dataclasses.is_dataclass(getattr(handler, one)) and not is_part(hint) and one != "containers"
    ]
    yield from (f"#[{name}]", *_keys(handler, tuple(own)))
    for one in own:
        told = explanations(kind)[one]
        yield from ("", *_words(told), f"#[{name}.{one}]", *_keys(getattr(handler, one)))


def explanations(kind: type) -> dict[str, str]:
    """What each key of a table means: the docstring below the field."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0]
    assert isinstance(tree, ast.ClassDef)
    told = {}
    for field, below in zip(tree.body, tree.body[1:], strict=False):
        match field, below:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str() as text)):
                told[name] = " ".join(text.split())
    return told


def _table(name: str, table: Any, *, live: bool) -> Iterator[str]:
    """A table, and the tables in it."""
    kind: type = type(table)
    below = {
        one: getattr(table, one)
        for one, hint in fields_of(kind).items()
        if dataclasses.is_dataclass(getattr(table, one)) and not is_part(hint)
    }
    yield from ("", f"[{name}]", *_keys(table, tuple(below), live=live))
    for one, inner in below.items():
        yield from _table(f"{name}.{one}", inner, live=live)


def _keys(table: Any, but: tuple[str, ...] = (), *, live: bool = False) -> Iterator[str]:
    kind: type = type(table)
    told = explanations(kind)
    for name, hint in fields_of(kind).items():
        if is_part(hint):
            yield from _keys(getattr(table, name), live=is_live(hint))
        elif name not in but:
            yield ""
            yield from _words(told[name] if live or is_live(hint) else f"{told[name]} (restart)")
            yield from _element_keys(hint)
            yield f"#{name} = {_toml(getattr(table, name))}"


def _element_keys(hint: Any) -> Iterator[str]:
    """The keys of one table in an array of tables, as text."""
    array, _ = unwrapped(hint)
    kind = unwrapped(get_args(array)[0])[0] if get_origin(array) is tuple else None
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        told = explanations(kind)
        for field in dataclasses.fields(kind):
            yield from _words(f"{field.name} = {_toml(field.default)}: {told[field.name]}", indent=4)


def _words(text: str, indent: int = 0) -> Iterator[str]:
    for line in textwrap.wrap(text, _WIDTH - indent, break_on_hyphens=False):
        yield f"# {' ' * indent}{line}"


def _toml(value: Any) -> str:
    if dataclasses.is_dataclass(value):
        return "{}"  # a handler's containers: those of the node, with nothing overridden
    if isinstance(value, Mapping):
        pairs = ", ".join(f"{json.dumps(key)} = {_toml(one)}" for key, one in value.items())
        return f"{{ {pairs} }}" if pairs else "{}"
    if isinstance(value, tuple):
        return f"[{', '.join(map(_toml, value))}]"
    return json.dumps(value)  # of strings, numbers and booleans TOML and JSON have the same form
