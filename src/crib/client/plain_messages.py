"""Messages of the CRI as plain JSON, the way Go's encoding/json writes its types.

So are the configs in verbose answers of crib and of containerd, and in the files that crictl takes. Fields
have their own names or lowerCamelCase ones, enums are numbers or names, and bytes are text.
"""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any, TypeVar

from google.protobuf.json_format import ParseDict, ParseError

if TYPE_CHECKING:
    from google.protobuf.message import Message

_Kind = TypeVar("_Kind", bound="Message")


def from_plain(value: Any, kind: type[_Kind], *, strict: bool = False) -> _Kind:
    """The message. ValueError says what is wrong; a field that is not known is, if it is to be `strict`."""
    if not isinstance(value, dict):
        raise ValueError(f"it is no {kind.__name__}, but {type(value).__name__}")  # noqa: TRY004  callers show it
    message = kind()
    try:
        ParseDict(_with_bytes(value, message.DESCRIPTOR), message, ignore_unknown_fields=not strict)
    except ParseError as error:
        raise ValueError(" ".join(str(error).split())) from None
    return message


def _with_bytes(value: Any, descriptor: Any) -> Any:
    """Text in fields of bytes as base64, which protobuf's JSON has there; `descriptor` is a message's."""
    if not isinstance(value, dict):
        return value
    fields = {field.name: field for field in descriptor.fields}
    fields |= {field.json_name: field for field in descriptor.fields}
    found: dict[str, Any] = {}
    for name, content in value.items():
        field = fields.get(name)
        if field is None or field.message_type is None:
            is_bytes = field is not None and field.type == field.TYPE_BYTES
            text = isinstance(content, str)
            found[name] = base64.b64encode(content.encode()).decode() if is_bytes and text else content
        elif field.message_type.GetOptions().map_entry:
            found[name] = content
        elif isinstance(content, list):
            found[name] = [_with_bytes(item, field.message_type) for item in content]
        else:
            found[name] = _with_bytes(content, field.message_type)
    return found
