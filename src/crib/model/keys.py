"""How a class of settings says what its keys may hold: each bound is next to its field.

    port: Annotated[int, Between(0, 65535)] = 0
    dirs: tuple[Annotated[str, Is(Form.PATH)], ...] = ()

Bounds of an array count for each element. Those of a table's names and values count for each of them.
`crib.config` checks them; nothing else reads them.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from enum import Enum, auto
from typing import Annotated, Any, NamedTuple, TypeVar, get_args, get_origin, get_type_hints

T = TypeVar("T")


class OneOf(NamedTuple):
    """The value is one of these."""

    choices: tuple[object, ...]


class AtLeast(NamedTuple):
    """The value is a number not below `least`."""

    least: float


class Between(NamedTuple):
    """The value is a number from `least` to `most`, both included."""

    least: float
    most: float


class Form(Enum):
    """What a string says. `crib.config.values` has the rule of each."""

    PATH = auto()
    """An absolute path."""
    HANDLER = auto()
    INTERFACE = auto()
    SUBNET = auto()
    SUBNET6 = auto()
    IP_RANGE = auto()
    IP_ADDRESS = auto()
    LISTEN = auto()
    """`unix`, unix:PATH or ADDRESS:PORT."""
    COLLECTOR = auto()
    """HOST:PORT or unix:PATH."""
    DOMAIN = auto()
    IMAGE = auto()
    IMAGE_PATTERN = auto()
    CAPABILITY = auto()
    DEVICE = auto()
    VARIABLE = auto()
    SYSCTL = auto()
    SYSCTL_VALUE = auto()
    TIMEZONE = auto()
    ULIMIT = auto()
    ULIMIT_VALUE = auto()
    UMASK = auto()
    SHM_SIZE = auto()
    """An integer: bytes of a /dev/shm."""


class Is(NamedTuple):
    """The value has this form, or is the empty string where that may be."""

    form: Form
    or_empty: bool = False


Bound = OneOf | AtLeast | Between | Is


class _Part:
    """Marks a field that is no key."""


PART = _Part()
"""Marks a field whose own fields are keys of the table around it: `Annotated[StoreSettings, PART]`."""


class _Live:
    """Marks a field that a reload changes."""


LIVE = _Live()
"""Marks a key, or a table with all of its keys, that follows a reload while the daemon runs."""


class _Changing:
    """Marks a mapping whose tables come and go."""


CHANGING = _Changing()
"""Marks a mapping of tables: a reload brings new ones and takes others away."""

Path = Annotated[str, Is(Form.PATH)]
PathOrNone = Annotated[str, Is(Form.PATH, or_empty=True)]


def unwrapped(hint: Any) -> tuple[Any, tuple[Bound, ...]]:
    """A field's type without its bounds, and the bounds."""
    if get_origin(hint) is not Annotated:
        return hint, ()
    kind, *notes = get_args(hint)
    return kind, tuple(note for note in notes if isinstance(note, Bound))


def is_part(hint: Any) -> bool:
    """Whether the field is marked with PART."""
    return get_origin(hint) is Annotated and PART in get_args(hint)


def is_live(hint: Any) -> bool:
    """Whether the field is marked with LIVE."""
    return get_origin(hint) is Annotated and LIVE in get_args(hint)


@functools.cache
def fields_of(kind: type) -> Mapping[str, Any]:
    """The fields of a class of settings, each with its type and bounds."""
    hints = get_type_hints(kind, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind)}


@functools.cache
def keys_of(kind: type) -> Mapping[str, Any]:
    """The keys of its table, those of its parts included, each with its type and bounds."""
    keys: dict[str, Any] = {}
    for name, hint in fields_of(kind).items():
        keys |= keys_of(unwrapped(hint)[0]) if is_part(hint) else {name: hint}
    return keys


def followed(old: T, new: T) -> T:
    """What holds after a reload: of the new settings what is LIVE, of the old ones the rest.

    A table in a mapping neither comes nor goes, unless that is CHANGING.
    """
    kind: type = type(old)
    changes: dict[str, Any] = {}
    for name, hint in fields_of(kind).items():
        before, after = getattr(old, name), getattr(new, name)
        if is_live(hint):
            changes[name] = after
        elif dataclasses.is_dataclass(before):
            changes[name] = followed(before, after)
        elif get_origin(hint) is Annotated and CHANGING in get_args(hint):
            changes[name] = {
                key: followed(before[key], one) if key in before else one for key, one in after.items()
            }
        elif isinstance(before, Mapping):
            changes[name] = {
                key: followed(one, after[key]) if key in after and dataclasses.is_dataclass(one) else one
                for key, one in before.items()
            }
    return dataclasses.replace(old, **changes)  # type: ignore[type-var]  # settings are dataclasses


def as_table(settings: Any) -> dict[str, Any]:
    """What the settings say, by key, as a configuration file would have it."""
    kind: type = type(settings)
    table: dict[str, Any] = {}
    for name, hint in fields_of(kind).items():
        value = getattr(settings, name)
        table |= as_table(value) if is_part(hint) else {name: _plain(value)}
    return table


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return as_table(value)
    if isinstance(value, Mapping):
        return {name: _plain(element) for name, element in value.items()}
    return [_plain(element) for element in value] if isinstance(value, tuple) else value
