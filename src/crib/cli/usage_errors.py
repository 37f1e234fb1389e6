"""What somebody reads who gave an option a value that it does not take.

typer checks values with pydantic, whose sentences speak of inputs and types. Ours name the value.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_UNITS = {"int": "a whole number", "float": "a number", "bool": "true or false"}


def reworded(error: Any) -> Any:
    """The error, with words of ours in the place of pydantic's."""
    cause = error.__cause__
    if type(cause).__name__ == "ValidationError" and (found := cause.errors()):
        error.message = words(found[0])
    return error


def words(fault: Mapping[str, Any]) -> str:
    """A fault as pydantic tells it: `type`, `input`, `msg` and the `ctx` of its type."""
    kind, value, context = str(fault["type"]), fault["input"], fault.get("ctx", {})
    shown = repr(value)
    unit = _UNITS.get(kind.partition("_")[0])
    if unit is not None:
        return f"{shown} is not {unit}"
    if kind == "greater_than_equal":
        return f"{shown} is less than {context['ge']:g}"
    if kind == "less_than_equal":
        return f"{shown} is more than {context['le']:g}"
    if kind == "value_error":
        return str(context["error"]).rstrip(".")
    return f"{shown}: {fault['msg']}"
