"""What CNI plugins answer to ADD, in every version of the specification, and the way between them (no I/O).

Source: section 5 of the CNI specification, 0.1.0 to 1.1.0. Three forms exist. 0.1.0 and 0.2.0 have one
address of each family (`ip4`, `ip6`), with its routes; 0.3.0 to 0.4.0 have lists, and each address says its
family; since 1.0.0 it does not. Within a form only the version differs, as libcni sees it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv6Interface, ip_address, ip_interface
from typing import Any

import msgspec

from crib.wire.cni import VERSIONS, MalformedCni, decoded, shaped

_WHAT = "result"
_ADDRESS_A_FAMILY = ("0.1.0", "0.2.0")
_FAMILY_IN_ADDRESS = ("0.3.0", "0.3.1", "0.4.0")
_NEW_OF_INTERFACES = frozenset({"mtu", "socketPath", "pciID"})
_OF_EITHER_FORM = frozenset({"ip4", "ip6", "interfaces", "ips", "routes"})
_OLD_ROUTE = ("dst", "gw")


@dataclass(frozen=True, slots=True)
class Interface:
    """An interface that exists for the pod; `sandbox` is empty for one of the host, `mtu` 0 if unknown."""

    name: str
    mac: str = ""
    sandbox: str = ""
    mtu: int = 0
    socket_path: str = ""
    pci_id: str = ""


@dataclass(frozen=True, slots=True)
class Address:
    """An address with its prefix length; `interface` is an index into the result's interfaces."""

    address: str
    gateway: str = ""
    interface: int | None = None


@dataclass(frozen=True, slots=True)
class Route:
    """A route of the pod. The numbers are None if the result does not have them (all but 1.1.0)."""

    dst: str
    gw: str = ""
    mtu: int | None = None
    advmss: int | None = None
    priority: int | None = None
    table: int | None = None
    scope: int | None = None


@dataclass(frozen=True, slots=True)
class Dns:
    """What the network wants the pod's resolver to be."""

    nameservers: tuple[str, ...] = ()
    domain: str = ""
    search: tuple[str, ...] = ()
    options: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Result:
    """What ADD gave, whatever its version; `raw` is the document, with its `cniVersion`."""

    version: str
    interfaces: tuple[Interface, ...]
    ips: tuple[Address, ...]
    routes: tuple[Route, ...]
    dns: Dns
    raw: Mapping[str, Any]

    def addresses_of(self, interface: str) -> tuple[str, ...]:
        """The addresses, without prefix lengths, of this interface of the pod, in the plugins' order.

        An address that names no interface is the pod's.
        """
        return tuple(item.address.partition("/")[0] for item in self.ips if self._belongs(item, interface))

    def _belongs(self, item: Address, interface: str) -> bool:
        if item.interface is None or not self.interfaces:
            return True
        owner = self.interfaces[item.interface]
        # A plugin that names no sandbox at all means the pod's; a name alone may be an interface of the host.
        is_pods = bool(owner.sandbox) or not any(one.sandbox for one in self.interfaces)
        return is_pods and owner.name == interface


class _InterfaceShape(msgspec.Struct):
    name: str | None = None
    mac: str | None = None
    sandbox: str | None = None
    mtu: int | None = None
    socket_path: str | None = msgspec.field(default=None, name="socketPath")
    pci_id: str | None = msgspec.field(default=None, name="pciID")


class _AddressShape(msgspec.Struct):
    address: str
    gateway: str | None = None
    interface: int | None = None


class _RouteShape(msgspec.Struct):
    dst: str
    gw: str | None = None
    mtu: int | None = None
    advmss: int | None = None
    priority: int | None = None
    table: int | None = None
    scope: int | None = None


class _DnsShape(msgspec.Struct):
    nameservers: list[str] | None = None
    domain: str | None = None
    search: list[str] | None = None
    options: list[str] | None = None


class _FamilyShape(msgspec.Struct):
    ip: str
    gateway: str | None = None
    routes: list[_RouteShape] | None = None


class _OldShape(msgspec.Struct):
    ip4: _FamilyShape | None = None
    ip6: _FamilyShape | None = None
    dns: _DnsShape | None = None


class _Shape(msgspec.Struct):
    interfaces: list[_InterfaceShape] | None = None
    ips: list[_AddressShape] | None = None
    routes: list[_RouteShape] | None = None
    dns: _DnsShape | None = None


class _VersionShape(msgspec.Struct):
    cni_version: str | None = msgspec.field(default=None, name="cniVersion")


def parse_result(data: bytes, asked: str = "") -> Result:
    """What ADD printed. Raises MalformedCni naming the field.

    `asked` is the version of the request: an answer may be of an older one and says so; one that says none is
    of the version asked for, as libcni takes it (of the version that it looks like, if `asked` is empty).
    """
    return result_from_document(decoded(data, _WHAT), asked)


def result_from_document(document: Mapping[str, Any], asked: str = "") -> Result:
    """The same for a decoded answer, such as a stored one."""
    version = _version_of(document, asked)
    if version in _ADDRESS_A_FAMILY:
        old = shaped(document, _OldShape, _WHAT)
        families = [family for family in (old.ip4, old.ip6) if family is not None]
        addresses = [Address(family.ip, family.gateway or "") for family in families]
        routes = [route for family in families for route in family.routes or ()]
        interfaces: list[_InterfaceShape] = []
        dns = old.dns
    else:
        shape = shaped(document, _Shape, _WHAT)
        addresses = [Address(ip.address, ip.gateway or "", ip.interface) for ip in shape.ips or ()]
        routes, interfaces, dns = shape.routes or [], shape.interfaces or [], shape.dns
    return Result(
        version=version,
        interfaces=tuple(_interface(item) for item in interfaces),
        ips=tuple(_checked_address(item, len(interfaces)) for item in addresses),
        routes=tuple(_route(item) for item in routes),
        dns=_dns(dns),
        raw={**document, "cniVersion": version},
    )


def converted(raw: Mapping[str, Any], version: str) -> dict[str, Any]:
    """The document of a result in another version, by libcni's rules. Raises MalformedCni if there is no way.

    Lost on the way down is only what the older version cannot say. 0.2.0 and older need an address.
    """
    _known(version)
    result = result_from_document(raw)
    document: dict[str, Any] = dict(result.raw)
    if (had := _form(result.version)) != (wanted := _form(version)):
        if had == 0:
            document = _without_families(document)
        if wanted == 0:
            document = _with_families(document)
        elif wanted == 1:
            document = _with_family_in_addresses(document)
        elif had == 1 and document.get("ips"):
            document["ips"] = [_without(item, frozenset({"version"})) for item in document["ips"]]
    document["cniVersion"] = version
    return document


def _version_of(document: Mapping[str, Any], asked: str) -> str:
    told = shaped(document, _VersionShape, _WHAT).cni_version
    looks_old = "ip4" in document or "ip6" in document
    return _known(told or asked or (_ADDRESS_A_FAMILY[-1] if looks_old else VERSIONS[-1]))


def _known(version: str) -> str:
    if version not in VERSIONS:
        raise MalformedCni(f"result: cniVersion {version!r} is not one of {', '.join(VERSIONS)}")
    return version


def _form(version: str) -> int:
    """Which of the three forms a version has, in their order."""
    return 0 if version in _ADDRESS_A_FAMILY else 1 if version in _FAMILY_IN_ADDRESS else 2


def _interface(shape: _InterfaceShape) -> Interface:
    return Interface(
        name=shape.name or "",
        mac=shape.mac or "",
        sandbox=shape.sandbox or "",
        mtu=shape.mtu or 0,
        socket_path=shape.socket_path or "",
        pci_id=shape.pci_id or "",
    )


def _checked_address(item: Address, interfaces: int) -> Address:
    _gateway(item.gateway, "gateway")
    if item.interface is not None and interfaces and not 0 <= item.interface < interfaces:
        raise MalformedCni(f"result: ips: interface {item.interface} of {interfaces} interfaces")
    return Address(str(_with_prefix(item.address, "address")), item.gateway, item.interface)


def _route(shape: _RouteShape) -> Route:
    _with_prefix(shape.dst, "routes: dst")
    return Route(
        dst=shape.dst,
        gw=_gateway(shape.gw or "", "routes: gw"),
        mtu=shape.mtu,
        advmss=shape.advmss,
        priority=shape.priority,
        table=shape.table,
        scope=shape.scope,
    )


def _dns(shape: _DnsShape | None) -> Dns:
    if shape is None:
        return Dns()
    return Dns(
        nameservers=tuple(shape.nameservers or ()),
        domain=shape.domain or "",
        search=tuple(shape.search or ()),
        options=tuple(shape.options or ()),
    )


def _with_prefix(text: str, field: str) -> IPv4Interface | IPv6Interface:
    address, _, prefix = text.partition("/")
    try:
        if prefix.isdecimal() and "%" not in address:  # no netmask, no zone: Go takes neither
            return ip_interface(text)
    except ValueError:
        pass
    raise MalformedCni(f"result: {field} {text!r} is not an address with a prefix length")


def _gateway(text: str, field: str) -> str:
    try:
        if text:
            ip_address(text)
    except ValueError as error:
        raise MalformedCni(f"result: {field} {text!r} is not an address") from error
    return text


def _family(text: str) -> str:
    """`4` or `6`; libcni takes an IPv4 address that is written as IPv6 for the former."""
    address = _with_prefix(text, "address").ip
    return "4" if address.version == 4 or address.ipv4_mapped is not None else "6"


def _without_families(document: Mapping[str, Any]) -> dict[str, Any]:
    families = [document[key] for key in ("ip4", "ip6") if document.get(key)]
    addresses = [
        {"address": family["ip"]} | ({"gateway": family["gateway"]} if family.get("gateway") else {})
        for family in families
    ]
    routes = [route for family in families for route in family.get("routes") or ()]
    return _without(document, _OF_EITHER_FORM) | {"ips": addresses, "routes": routes}


def _with_families(document: Mapping[str, Any]) -> dict[str, Any]:
    """The first address of each family, and the routes of those families."""
    found: dict[str, dict[str, Any]] = {}
    for item in document.get("ips") or ():
        if (key := f"ip{_family(item['address'])}") not in found:
            gateway = {"gateway": item["gateway"]} if item.get("gateway") else {}
            found[key] = {"ip": item["address"], **gateway}
    if not found:
        raise MalformedCni(f"result: ips: none, and versions before {_FAMILY_IN_ADDRESS[0]} need an address")
    for route in document.get("routes") or ():
        if (family := found.get(f"ip{_family(route['dst'])}")) is not None:
            kept = {key: route[key] for key in _OLD_ROUTE if route.get(key)}
            family.setdefault("routes", []).append(kept)
    return _without(document, _OF_EITHER_FORM) | found


def _with_family_in_addresses(document: Mapping[str, Any]) -> dict[str, Any]:
    changed = dict(document)
    if document.get("interfaces"):
        changed["interfaces"] = [_without(item, _NEW_OF_INTERFACES) for item in document["interfaces"]]
    if document.get("ips"):
        changed["ips"] = [{**item, "version": _family(item["address"])} for item in document["ips"]]
    return changed


def _without(document: Mapping[str, Any], keys: frozenset[str]) -> dict[str, Any]:
    return {key: value for key, value in document.items() if key not in keys}
