"""What a value must be: each rule answers with that, for a bad value only."""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Callable, Mapping
from typing import Any

from crib.model.errors import InvalidRequest
from crib.model.image import parse_reference

Rule = Callable[[Any], str]
"""Says what a bad value must be, as in `at least 1`; nothing of a good one."""
Rules = Mapping[str, Rule]
"""By dotted key; `*` stands for a chosen name. Elements of an array are judged singly; a rule at the key of a
table of chosen names judges each of these."""

_ANY = r"\*[a-z0-9._*-]*"
_HOST_PATTERN = re.compile(rf"(?:[a-z0-9._*-]*|\[[0-9a-f:]+\](?:{_ANY})?)(?::(?:[0-9]+|[0-9]*{_ANY}))?")
"""An address in brackets is whole; a port may go over into a `*` and what stands behind it."""
_PATH_PATTERN = re.compile(r"[a-z0-9._/*-]*")


def one_of(*choices: object) -> Rule:
    text = f"one of {', '.join(map(repr, choices))}"
    return lambda value: "" if value in choices else text


def at_least(least: float) -> Rule:
    return lambda value: "" if value >= least else f"at least {least}"


def between(least: float, most: float) -> Rule:
    return lambda value: "" if least <= value <= most else f"{least} to {most}"


def absolute(text: str) -> str:
    good = text.startswith("/") and ".." not in text.split("/")
    return "" if good else "an absolute path without '..'"


def absolute_or_none(text: str) -> str:
    return absolute(text) if text else ""


def interface_name(text: str) -> str:
    """As the kernel's dev_valid_name has it."""
    good = 0 < len(os.fsencode(text)) <= 15 and not set(text) & set("/: ") and text not in (".", "..")
    return "" if good else "an interface's name of at most 15 bytes"


def image_name(text: str) -> str:
    try:
        parse_reference(text, field="")
    except InvalidRequest as error:
        return f"an image's name ({error})"
    return ""


def image_pattern(text: str) -> str:
    """A rule that fits no image would let through what it is meant to refuse, and say nothing."""
    host, slash, path = text.partition("/")
    try:
        if "*" not in text:
            good = parse_reference(text, field="").repository == path
        elif slash and "*" not in host:
            good = parse_reference(f"{host}/x/x", field="").repository == "x/x"
        else:
            # What stands behind a `*` without a slash may be a path, which has no capitals.
            beginning, star, rest = (host, "", "") if slash else host.partition("*")
            good = _HOST_PATTERN.fullmatch(f"{beginning.lower()}{star}{rest}") is not None
    except InvalidRequest:
        good = False
    if good and ("*" not in text or _PATH_PATTERN.fullmatch(path)):
        return ""
    return (
        "a pattern that fits an image's full name without tag and digest, as docker.io/library/busybox does"
    )


def ip_address(text: str) -> str:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return "an IP address"
    return ""


def subnet(text: str) -> str:
    try:
        network = ipaddress.ip_network(text)
    except ValueError as error:
        return f"an address range ({error})"
    return "" if network.num_addresses >= 8 else "a range of at least 8 addresses"


def subnet6(text: str) -> str:
    try:
        network = ipaddress.IPv6Network(text) if text else None
    except ValueError as error:
        return f"an IPv6 range ({error})"
    good = network is None or 64 <= network.prefixlen <= 120
    return "" if good else "an IPv6 range with a prefix of 64 to 120 bits"


def ip_range(text: str) -> str:
    try:
        ipaddress.ip_network(text)
    except ValueError as error:
        return f"an address range ({error})"
    return ""


def domain_name(text: str) -> str:
    good = not text or re.fullmatch(
        r"(?=.{1,200}$)[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*", text
    )
    return "" if good else "a domain name in lower case, as in pods.internal"
