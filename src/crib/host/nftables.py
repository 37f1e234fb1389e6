"""libnftables(3): commands in nft's own language in, JSON out.

One `Nftables` belongs to one thread at a time and to the network namespace of the thread that made it.
A command costs 0.1–0.3 ms; one that the kernel refuses some 10–30 ms (the transaction is undone), so
callers check first. The library is loaded on first use.

Elements of sets go past the library, by netlink messages of our own (nfnetlink, nf_tables.h). libnftables
reads the tables, chains and sets of the whole host before it adds one element: 0.3 ms where there are few.
Ours takes 0.05 ms, whatever else there is. Keys are bytes: the fields of a concatenation in network order,
each padded to four bytes. The NETLINK_NETFILTER socket stays open: closing it waits until the kernel has
freed what was deleted (8 ms).
"""

from __future__ import annotations

import ctypes
import errno
import json
import re
import struct
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from crib.host.kept_descriptors import FD_SETSIZE, lowest_free
from crib.host.netlink import (
    NETLINK_NETFILTER,
    NLA_F_NESTED,
    NLM_F_CREATE,
    Netlink,
    Request,
    attribute,
    parse_attributes,
    text_attribute,
)

LIBRARY = "libnftables.so.1"
OUTPUT_BYTES = 64 * 1024 * 1024

_OUTPUT_JSON = 1 << 4
_OUTPUT_NUMERIC_PROTO = 1 << 7
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,30}")


Elements = list[tuple[tuple[str, ...], tuple[str, ...]]]
"""Keys and values of a map, each field as text."""


@dataclass(frozen=True, slots=True)
class TableContents:
    """A table as the kernel has it."""

    rules: tuple[str, ...]
    """Each with its chain, in their order; to be compared, not read."""
    sets: Mapping[str, frozenset[tuple[str, ...]]]
    """Elements, each field as text; those of intervals to be compared only."""
    maps: Mapping[str, Elements]


class NftablesError(OSError):
    """A command was refused; the filename is the table, the message libnftables' own first line."""


def check_table_name(name: str) -> str:
    """The name itself; ValueError if it could mean anything else in a command."""
    if _NAME.fullmatch(name) is None:
        raise ValueError(f"nftables table name {name!r} is not a word of at most 31 letters, digits and _")
    return name


class Nftables:
    """A libnftables context. Raises NftablesError (errno ENOENT if the library is not installed)."""

    def __init__(self) -> None:
        self._netlink: Netlink | None = None
        self._library = _load()
        if (number := lowest_free()) >= FD_SETSIZE:  # it would end the process, not fail
            text = f"make an nftables context with descriptor {number}, where it must be below {FD_SETSIZE}"
            raise NftablesError(errno.EMFILE, text, LIBRARY)
        self._context = self._library.nft_ctx_new(0)
        if not self._context:
            raise NftablesError(errno.ENOMEM, "make an nftables context", LIBRARY)
        self._library.nft_ctx_buffer_output(self._context)
        self._library.nft_ctx_buffer_error(self._context)
        self._library.nft_ctx_output_set_flags(self._context, _OUTPUT_JSON | _OUTPUT_NUMERIC_PROTO)

    def close(self) -> None:
        """Free the context; closing twice is safe."""
        if self._netlink is not None:
            self._netlink.close()
            self._netlink = None
        if self._context:
            self._library.nft_ctx_free(self._context)
            self._context = None

    def run(self, commands: str, *, table: str, what: str) -> list[dict[str, Any]]:
        """Run commands as one transaction; what it printed, as the objects of libnftables-json(5)."""
        if not self._context:
            raise NftablesError(errno.EBADF, f"{what}: the nftables context is closed", table)
        code = self._library.nft_run_cmd_from_buffer(self._context, commands.encode())
        output: bytes = self._library.nft_ctx_get_output_buffer(self._context) or b""
        message: bytes = self._library.nft_ctx_get_error_buffer(self._context) or b""
        if code != 0:
            raise _refusal(message.decode("utf-8", "replace"), table, what)
        if len(output) > OUTPUT_BYTES:
            raise NftablesError(errno.EFBIG, f"{what}: nftables printed {len(output)} bytes", table)
        return _objects(output, table, what)

    def generation(self) -> int:
        """Another number after each change of any table in this network namespace, whoever made it.

        Takes 0.05 ms, where listing a table takes some milliseconds (nf_tables.h, NFT_MSG_GETGEN).
        """
        if self._netlink is None:
            self._netlink = Netlink(NETLINK_NETFILTER)
        asked = Request(_GET_GENERATION, struct.pack("=BBH", 0, 0, 0), "ask for the generation", "nftables")
        found = parse_attributes(self._netlink.get(asked).body, _NFGENMSG_BYTES).get(_GENERATION_ID, b"")
        return int.from_bytes(found, "big")

    def exists(self, table: str, chain: str) -> bool:
        """Whether the chain (and so its table) of family inet exists."""
        try:
            self.run(f"list chain inet {table} {chain}", table=table, what="look for rules")
        except NftablesError as error:
            if error.errno == errno.ENOENT:
                return False
            raise
        return True

    def contents(self, table: str, family: str = "inet") -> TableContents | None:
        """What is in a table; None if there is no such table."""
        try:
            objects = self.run(f"list table {family} {table}", table=table, what="list table")
        except NftablesError as error:
            if error.errno == errno.ENOENT:
                return None
            raise
        rules = [item["rule"] for item in objects if isinstance(item.get("rule"), dict)]
        sets = [item["set"] for item in objects if isinstance(item.get("set"), dict)]
        return TableContents(
            rules=tuple(json.dumps([rule.get("chain"), rule.get("expr")]) for rule in rules),
            sets={str(one.get("name")): frozenset(map(_fields, one.get("elem", ()))) for one in sets},
            maps={str(item["map"].get("name")): _elements(item["map"]) for item in objects if "map" in item},
        )

    def delete_table(self, table: str, family: str = "inet") -> bool:
        """Remove a table with all in it; False if there was none."""
        try:
            self.run(f"delete table {family} {table}", table=table, what="delete table")
        except NftablesError as error:
            if error.errno == errno.ENOENT:
                return False
            raise
        return True


def _load() -> ctypes.CDLL:
    try:
        library = ctypes.CDLL(LIBRARY)
    except OSError as error:
        raise NftablesError(
            errno.ENOENT, f"load {LIBRARY} (package libnftables1): {error}", LIBRARY
        ) from error
    pointer, text, number = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_uint
    shapes: tuple[tuple[str, Any, tuple[Any, ...]], ...] = (
        ("nft_ctx_new", pointer, (ctypes.c_uint32,)),
        ("nft_ctx_free", None, (pointer,)),
        ("nft_ctx_buffer_output", ctypes.c_int, (pointer,)),
        ("nft_ctx_buffer_error", ctypes.c_int, (pointer,)),
        ("nft_ctx_get_output_buffer", text, (pointer,)),
        ("nft_ctx_get_error_buffer", text, (pointer,)),
        ("nft_ctx_output_set_flags", None, (pointer, number)),
        ("nft_run_cmd_from_buffer", ctypes.c_int, (pointer, text)),
    )
    for name, result, arguments in shapes:
        function = getattr(library, name)
        function.restype = result
        function.argtypes = arguments
    return library


_ERRNOS = {
    "No such file or directory": errno.ENOENT,
    "File exists": errno.EEXIST,
    "Operation not permitted": errno.EPERM,
    "Device or resource busy": errno.EBUSY,
    "Operation not supported": errno.EOPNOTSUPP,
}


def _refusal(message: str, table: str, what: str) -> NftablesError:
    first = message.strip().splitlines()[0] if message.strip() else "no reason given"
    number = next((code for text, code in _ERRNOS.items() if text in first), errno.EINVAL)
    return NftablesError(number, f"{what}: {first}", table)


def _objects(output: bytes, table: str, what: str) -> list[dict[str, Any]]:
    if not output.strip():
        return []
    try:
        document = json.loads(output)
    except ValueError as error:
        raise NftablesError(errno.EBADMSG, f"{what}: nftables printed no JSON: {error}", table) from error
    objects = document.get("nftables") if isinstance(document, dict) else None
    if not isinstance(objects, list):
        raise NftablesError(errno.EBADMSG, f"{what}: nftables printed JSON without a list of objects", table)
    return [item for item in objects if isinstance(item, dict)]


def _elements(listed: dict[str, Any]) -> Elements:
    return [
        (_fields(element[0]), _fields(element[1]))
        for element in listed.get("elem", ())
        if isinstance(element, list) and len(element) == 2
    ]


def _fields(side: Any) -> tuple[str, ...]:
    """One side of an element: a single value, a concatenation, or either with a comment around it."""
    if isinstance(side, dict) and isinstance(side.get("elem"), dict):
        side = side["elem"].get("val")
    if isinstance(side, dict) and isinstance(side.get("concat"), list):
        return tuple(str(field) for field in side["concat"])
    return (str(side),)


_SUBSYSTEM = 10
_NEW_ELEMENTS = _SUBSYSTEM << 8 | 12
_DELETE_ELEMENTS = _SUBSYSTEM << 8 | 14
_GET_GENERATION = _SUBSYSTEM << 8 | 16
_GENERATION_ID = 1
_NFGENMSG_BYTES = 4
_FAMILIES = {"inet": 1, "bridge": 7}
_LIST_TABLE = 1
_LIST_SET = 2
_LIST_ELEMENTS = 3 | NLA_F_NESTED
_ELEMENT = 1 | NLA_F_NESTED
_ELEMENT_KEY = 1 | NLA_F_NESTED
_DATA_VALUE = 1

Keys = Mapping[str, Collection[bytes]]
"""By the name of the set."""


def add_elements(netlink: Netlink, family: str, table: str, keys: Keys) -> None:
    """Add keys to sets, all or none; existing keys are fine. OSError; ENOENT if a set does not exist."""
    _change_elements(netlink, _NEW_ELEMENTS, (family, table), keys)


def delete_elements(netlink: Netlink, family: str, table: str, keys: Keys) -> None:
    """Delete keys from sets, all or none. OSError; ENOENT if a key or its set does not exist."""
    _change_elements(netlink, _DELETE_ELEMENTS, (family, table), keys)


def _change_elements(netlink: Netlink, kind: int, of_table: tuple[str, str], keys: Keys) -> None:
    family, table = of_table
    is_new = kind == _NEW_ELEMENTS
    requests = [
        Request(
            kind,
            struct.pack("=BBH", _FAMILIES[family], 0, 0)
            + text_attribute(_LIST_TABLE, table)
            + text_attribute(_LIST_SET, name)
            + attribute(_LIST_ELEMENTS, b"".join(map(_element, of_set))),
            f"{'add to' if is_new else 'delete from'} set {name}",
            table,
            NLM_F_CREATE if is_new else 0,
        )
        for name, of_set in keys.items()
        if of_set
    ]
    if requests:
        netlink.transact(_SUBSYSTEM, requests)


def _element(key: bytes) -> bytes:
    return attribute(_ELEMENT, attribute(_ELEMENT_KEY, attribute(_DATA_VALUE, key)))
