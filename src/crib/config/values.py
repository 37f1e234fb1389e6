"""What a value must be, by the bounds next to its field (`crib.model.keys`)."""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Callable, Mapping
from typing import Any

from crib.host.sysctls import check_value, required_namespace
from crib.model.errors import InvalidRequest
from crib.model.image import parse_reference
from crib.model.keys import AtLeast, Between, Bound, Form, Is, OneOf
from crib.ocispec.defaults import (
    LOCAL_ZONE,
    MAX_SHM_SIZE,
    MIN_SHM_SIZE,
    ULIMITS,
    ZONES,
    parse_device,
    parse_ulimit,
    parse_umask,
)
from crib.ocispec.security import KNOWN_CAPABILITIES

Rule = Callable[[Any], str]
"""Says what a bad value must be, as in `at least 1`; empty for a good one."""

_ANY = r"\*[a-z0-9._*-]*"
_HOST_PATTERN = re.compile(rf"(?:[a-z0-9._*-]*|\[[0-9a-f:]+\](?:{_ANY})?)(?::(?:[0-9]+|[0-9]*{_ANY}))?")
"""An address in brackets is complete. A port may run into a `*` and what follows it."""
_PATH_PATTERN = re.compile(r"[a-z0-9._/*-]*")
_HOST = re.compile(r"[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]")
_HANDLER = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_VARIABLE = re.compile(r"[^=\0]+")
_ZONE = re.compile(r"[A-Za-z0-9_+-]+(/[A-Za-z0-9_+-]+)*")
_DOMAIN = re.compile(
    r"(?=.{1,200}$)[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*"
)


def problem(bound: Bound, value: Any) -> str:
    """What a value that breaks the bound must be, as in `at least 1`; empty for a value within it."""
    match bound:
        case OneOf(choices):
            return "" if value in choices else f"one of {', '.join(map(repr, choices))}"
        case AtLeast(least):
            return "" if value >= least else f"at least {least}"
        case Between(least, most):
            return "" if least <= value <= most else f"{least} to {most}"
        case Is(form, or_empty):
            return "" if or_empty and value == "" else RULES[form](value)


def absolute(text: str) -> str:
    good = text.startswith("/") and ".." not in text.split("/")
    return "" if good else "an absolute path without '..'"


def interface_name(text: str) -> str:
    """As the kernel's dev_valid_name has it."""
    good = 0 < len(os.fsencode(text)) <= 15 and not set(text) & set("/: ") and text not in (".", "..")
    return "" if good else "an interface name of at most 15 bytes"


def image_name(text: str) -> str:
    try:
        parse_reference(text, field="")
    except InvalidRequest as error:
        return f"an image name ({error})"
    return ""


def image_pattern(text: str) -> str:
    """A rule that matches no image would silently accept what it is meant to refuse."""
    host, slash, path = text.partition("/")
    try:
        if "*" not in text:
            good = parse_reference(text, field="").repository == path
        elif slash and "*" not in host:
            good = parse_reference(f"{host}/x/x", field="").repository == "x/x"
        else:
            # What follows a `*` without a slash may be a path, which has no capitals.
            beginning, star, rest = (host, "", "") if slash else host.partition("*")
            good = _HOST_PATTERN.fullmatch(f"{beginning.lower()}{star}{rest}") is not None
    except InvalidRequest:
        good = False
    if good and ("*" not in text or _PATH_PATTERN.fullmatch(path)):
        return ""
    return "a pattern for an image's full name without tag and digest, such as docker.io/library/busybox"


def ip_address(text: str) -> str:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return "an IP address"
    return ""


def listening_place(text: str) -> str:
    """IPv6 addresses are in brackets, as everywhere before a port."""
    if text == "unix" or (text.startswith("unix:") and not absolute(text.removeprefix("unix:"))):
        return ""
    address, _, port = text.rpartition(":")
    is_six = address.startswith("[") and address.endswith("]")
    if not ip_address(address[1:-1] if is_six else address) and is_six == (":" in address) and _is_port(port):
        return ""
    return "`unix`, unix:PATH or an IP address with a port, as 127.0.0.1:9641"


def collector(text: str) -> str:
    host, _, port = text.rpartition(":")
    if (text.startswith("unix:") and not absolute(text.removeprefix("unix:"))) or (
        _HOST.fullmatch(host) and _is_port(port)
    ):
        return ""
    return "HOST:PORT or unix:PATH, without a scheme"


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdigit() and 0 < int(text) < 1 << 16


def subnet(text: str) -> str:
    try:
        network = ipaddress.ip_network(text)
    except ValueError as error:
        return f"an address range ({error})"
    return "" if network.num_addresses >= 8 else "a range of at least 8 addresses"


def subnet6(text: str) -> str:
    try:
        network = ipaddress.IPv6Network(text)
    except ValueError as error:
        return f"an IPv6 range ({error})"
    return "" if 64 <= network.prefixlen <= 120 else "an IPv6 range with a prefix of 64 to 120 bits"


def domain_name(text: str) -> str:
    return "" if _DOMAIN.fullmatch(text) else "a domain name in lower case, such as pods.internal"


def handler_name(text: str) -> str:
    return "" if _HANDLER.fullmatch(text) else "an RFC 1123 label"


def capability(name: str) -> str:
    return "" if name in KNOWN_CAPABILITIES else "a capability without its CAP_, such as NET_RAW"


def variable(name: str) -> str:
    return "" if _VARIABLE.fullmatch(name) else "a variable name"


def sysctl(name: str) -> str:
    try:
        return "" if required_namespace(name) else "a sysctl of a pod's own network or IPC, in quotes"
    except ValueError as error:
        return f"a sysctl's ({error})"


def shm_size(size: int) -> str:
    good = MIN_SHM_SIZE <= size <= MAX_SHM_SIZE
    return "" if good else f"a number of bytes from {MIN_SHM_SIZE} to {MAX_SHM_SIZE}"


def timezone(name: str) -> str:
    known = name == LOCAL_ZONE or (_ZONE.fullmatch(name) and os.path.isfile(f"{ZONES}/{name}"))
    return "" if known else f"{LOCAL_ZONE} or a time zone that exists below {ZONES}"


def ulimit_name(name: str) -> str:
    return "" if name in ULIMITS else f"one of {', '.join(sorted(ULIMITS))}"


def understood(parse: Callable[[str], object], what: str) -> Rule:
    """The rule for what `parse` takes; it raises ValueError."""

    def rule(text: str) -> str:
        try:
            parse(text)
        except ValueError as error:
            return f"{what} ({error})"
        return ""

    return rule


RULES: Mapping[Form, Rule] = {
    Form.PATH: absolute,
    Form.HANDLER: handler_name,
    Form.INTERFACE: interface_name,
    Form.SUBNET: subnet,
    Form.SUBNET6: subnet6,
    Form.IP_RANGE: understood(ipaddress.ip_network, "an address range"),
    Form.IP_ADDRESS: ip_address,
    Form.LISTEN: listening_place,
    Form.COLLECTOR: collector,
    Form.DOMAIN: domain_name,
    Form.IMAGE: image_name,
    Form.IMAGE_PATTERN: image_pattern,
    Form.CAPABILITY: capability,
    Form.DEVICE: understood(parse_device, "HOST[:CONTAINER[:PERMISSIONS]]"),
    Form.VARIABLE: variable,
    Form.SYSCTL: sysctl,
    Form.SYSCTL_VALUE: understood(lambda value: check_value("", value), "one line of printable text"),
    Form.TIMEZONE: timezone,
    Form.ULIMIT: ulimit_name,
    Form.ULIMIT_VALUE: understood(parse_ulimit, "SOFT:HARD, or one number for both"),
    Form.UMASK: understood(parse_umask, "a umask"),
    Form.SHM_SIZE: shm_size,
}
