"""Which fields of runtime.v1 some case sets or observes: computed from what the cases declare."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from crib.stubs.runtime.v1 import api_pb2 as pb

if TYPE_CHECKING:
    from google.protobuf.descriptor import Descriptor

    from crib.conform.case import Case

_OTHER_PLATFORM = "Windows"


@dataclass(frozen=True, slots=True)
class Coverage:
    """Fields as `Message.field`, each with the ids of the cases that cover it."""

    requests: Mapping[str, tuple[str, ...]]
    responses: Mapping[str, tuple[str, ...]]

    def share(self) -> tuple[int, int]:
        """Covered fields of requests, and all of them."""
        return sum(1 for cases in self.requests.values() if cases), len(self.requests)


def coverage(cases: Iterable[Case]) -> Coverage:
    """Of these cases. A field that requests and responses share counts as one of requests."""
    by_field: dict[str, list[str]] = {}
    for case in cases:
        for field in case.fields:
            by_field.setdefault(field, []).append(case.id)
    requests, responses = fields_of("input_type"), fields_of("output_type")
    return Coverage(
        {field: tuple(by_field.get(field, ())) for field in requests},
        {field: tuple(by_field.get(field, ())) for field in responses if field not in requests},
    )


def fields_of(side: str) -> list[str]:
    """Every field that the requests (input_type) or answers (output_type) of all RPCs can have, for Linux."""
    found: dict[str, None] = {}
    seen: set[str] = set()
    for service in pb.DESCRIPTOR.services_by_name.values():
        for method in service.methods:
            _walk(getattr(method, side), seen, found)
    return list(found)


def rpcs() -> list[str]:
    """The names of all RPCs."""
    services = pb.DESCRIPTOR.services_by_name.values()
    return [method.name for service in services for method in service.methods]


def _walk(message: Descriptor, seen: set[str], found: dict[str, None]) -> None:
    if message.full_name in seen or message.name.startswith(_OTHER_PLATFORM):
        return
    seen.add(message.full_name)
    for field in message.fields:
        below = field.message_type
        if below is not None and below.name.startswith(_OTHER_PLATFORM):
            continue
        found[f"{message.name}.{field.name}"] = None
        # a map is a message of its own to protobuf, and of no interest
        if below is not None and not below.GetOptions().map_entry:
            _walk(below, seen, found)
