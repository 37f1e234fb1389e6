"""A netlink socket: requests go out as one datagram, every answer is read back with bounds.

Only the messages live here (rtnetlink(7), netlink(7)); what is asked for with them is in `links`, `veth`,
`addresses` and `routes`. A socket belongs to the network namespace of the thread that opened it, for as
long as it is open. It is blocking with a receive time-out, and not for use by two threads at once.

Written by hand because pyroute2 costs 8.8 MB of memory, 0.3 s of import and three times the latency.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Self

NETLINK_ROUTE = 0
NETLINK_NETFILTER = 12

NLM_F_REQUEST = 0x1
NLM_F_ACK = 0x4
NLM_F_DUMP = 0x300
NLM_F_EXCL = 0x200
NLM_F_CREATE = 0x400
NLM_F_REPLACE = 0x100

_NLMSG_NOOP = 1
_NLMSG_ERROR = 2
_NLMSG_DONE = 3
_NLM_F_DUMP_INTR = 0x10
_NLM_F_CAPPED = 0x100
_NLM_F_ACK_TLVS = 0x200
_NLMSGERR_ATTR_MSG = 1
_NLA_TYPE_MASK = 0x3FFF
NLA_F_NESTED = 0x8000

_SOL_NETLINK = 270
_NETLINK_CAP_ACK = 10
_NETLINK_EXT_ACK = 11
_NETLINK_GET_STRICT_CHK = 12

_NFNL_MSG_BATCH_BEGIN = 0x10
_NFNL_MSG_BATCH_END = 0x11

_NFGENMSG = struct.Struct(">BBH")
_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_ERRNO = struct.Struct("=i")

RECEIVE_BYTES = 64 * 1024
DUMP_MESSAGES = 100_000
DUMP_TRIES = 5
TIMEOUT_SECONDS = 10


@dataclass(frozen=True, slots=True)
class Request:
    """One message to the kernel; `what` and `subject` (an interface) name it when it is refused."""

    kind: int
    body: bytes
    what: str
    subject: str
    flags: int = 0


@dataclass(frozen=True, slots=True)
class Reply:
    """One message from the kernel without its header."""

    kind: int
    body: bytes


class MalformedMessage(OSError):
    """The kernel's answer does not keep the lengths that it states."""


def align(length: int) -> int:
    """The length rounded up to netlink's four-byte grid."""
    return (length + 3) & ~3


def attribute(kind: int, value: bytes) -> bytes:
    """One attribute, padded."""
    length = _ATTRIBUTE.size + len(value)
    if length > 0xFFFF:
        raise ValueError(f"netlink attribute {kind} of {length} bytes does not fit")
    return _ATTRIBUTE.pack(length, kind) + value + bytes(align(length) - length)


def text_attribute(kind: int, value: str) -> bytes:
    """An attribute that holds a NUL-terminated string."""
    return attribute(kind, value.encode() + b"\0")


def u32_attribute(kind: int, value: int) -> bytes:
    """An attribute that holds an unsigned 32-bit number in the machine's order."""
    return attribute(kind, struct.pack("=I", value))


def u32(raw: bytes | None) -> int:
    """The number in such an attribute; 0 if it is missing or of another size."""
    return struct.unpack("=I", raw)[0] if raw is not None and len(raw) == 4 else 0


def parse_attributes(body: bytes, offset: int = 0) -> dict[int, bytes]:
    """The attributes from `offset` on; of a repeated kind the last. Raises MalformedMessage."""
    found: dict[int, bytes] = {}
    end = len(body)
    while offset + _ATTRIBUTE.size <= end:
        length, kind = _ATTRIBUTE.unpack_from(body, offset)
        if length < _ATTRIBUTE.size or offset + length > end:
            raise MalformedMessage(f"netlink attribute of {length} bytes at {offset} of {end}")
        found[kind & _NLA_TYPE_MASK] = body[offset + _ATTRIBUTE.size : offset + length]
        offset += align(length)
    return found


def split_messages(datagram: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """The (kind, flags, sequence, body) of each message in a datagram. Raises MalformedMessage."""
    offset = 0
    end = len(datagram)
    while offset < end:
        if end - offset < _HEADER.size:
            raise MalformedMessage(f"{end - offset} stray bytes after a netlink message")
        length, kind, flags, sequence, _port = _HEADER.unpack_from(datagram, offset)
        if length < _HEADER.size or offset + length > end:
            raise MalformedMessage(f"netlink message of {length} bytes at {offset} of {end}")
        yield kind, flags, sequence, datagram[offset + _HEADER.size : offset + length]
        offset += align(length)


class Netlink:
    """An open netlink socket in the calling thread's network namespace.

    Raises OSError with the operation in its message and the interface as its filename.
    """

    def __init__(self, family: int = NETLINK_ROUTE) -> None:
        self._sequence = 0
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, family)
        try:
            timeout = struct.pack("@ll", TIMEOUT_SECONDS, 0)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, timeout)
            for option in (_NETLINK_EXT_ACK, _NETLINK_CAP_ACK, _NETLINK_GET_STRICT_CHK):
                try:
                    self._socket.setsockopt(_SOL_NETLINK, option, 1)
                except OSError:
                    pass  # older kernels: answers are longer or less precise, never different
            self._socket.bind((0, 0))
        except OSError:
            self._socket.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the socket; closing twice is safe."""
        self._socket.close()

    def ask(self, requests: Sequence[Request]) -> None:
        """Have the kernel do all of `requests`, in their order, in one round trip.

        The kernel continues after a refused request; the first refusal is raised.
        """
        first = self._sequence + 1
        self._send(requests, NLM_F_ACK)
        self._await_answers(requests, first)

    def transact(self, subsystem: int, requests: Sequence[Request]) -> None:
        """Have a subsystem of netfilter do all of `requests` or none (nfnetlink's batches).

        The first refusal is raised.
        """
        begin, end = (
            Request(kind, _NFGENMSG.pack(0, 0, subsystem), "transaction", "netfilter")
            for kind in (_NFNL_MSG_BATCH_BEGIN, _NFNL_MSG_BATCH_END)
        )
        # Only some kernels acknowledge begin and end, so no acknowledgement is requested.
        asked = [replace(request, flags=request.flags | NLM_F_ACK) for request in requests]
        first = self._sequence + 2
        self._send((begin, *asked, end), 0)
        self._await_answers(requests, first, begin)

    def _await_answers(self, requests: Sequence[Request], first: int, begin: Request | None = None) -> None:
        """Wait until each has an answer; `first` is the number of the first one.

        If `begin`, the message before it, is refused, all of them are, whatever else is answered.
        """
        refused: OSError | None = None
        waiting = len(requests)
        while waiting:
            for kind, flags, sequence, body in self._receive():
                position = sequence - first
                if kind != _NLMSG_ERROR:
                    continue
                if begin is not None and position == -1 and (error := _refusal(begin, flags, body)):
                    raise error
                if not 0 <= position < len(requests):
                    continue
                waiting -= 1
                refused = refused or _refusal(requests[position], flags, body)
        if refused is not None:
            raise refused

    def get(self, request: Request) -> Reply:
        """The one message that answers `request`."""
        self._send((request,), 0)
        while True:
            for kind, flags, sequence, body in self._receive():
                if sequence != self._sequence:
                    continue
                if kind == _NLMSG_ERROR:
                    raise _refusal(request, flags, body) or MalformedMessage(
                        f"{request.what}: the kernel gave no answer"
                    )
                return Reply(kind, body)

    def dump(self, request: Request) -> list[Reply]:
        """All messages that answer `request`; asked anew when the tables changed meanwhile."""
        for _ in range(DUMP_TRIES):
            self._send((request,), NLM_F_DUMP)
            replies, consistent = self._read_dump(request)
            if consistent:
                return replies
        return replies

    def _read_dump(self, request: Request) -> tuple[list[Reply], bool]:
        replies: list[Reply] = []
        consistent = True
        while True:
            for kind, flags, sequence, body in self._receive():
                if sequence != self._sequence or kind == _NLMSG_NOOP:
                    continue
                consistent = consistent and not flags & _NLM_F_DUMP_INTR
                if kind in {_NLMSG_DONE, _NLMSG_ERROR}:
                    refused = _refusal(request, flags, body) if len(body) >= _ERRNO.size else None
                    if refused is not None:
                        raise refused
                    return replies, consistent
                replies.append(Reply(kind, body))
                if len(replies) > DUMP_MESSAGES:
                    raise MalformedMessage(f"{request.what}: more than {DUMP_MESSAGES} answers")

    def _send(self, requests: Sequence[Request], flags: int) -> None:
        parts: list[bytes] = []
        for request in requests:
            self._sequence += 1
            length = _HEADER.size + len(request.body)
            parts.append(
                _HEADER.pack(length, request.kind, NLM_F_REQUEST | flags | request.flags, self._sequence, 0)
            )
            parts.append(request.body + bytes(align(length) - length))
        self._socket.sendto(b"".join(parts), (0, 0))

    def _receive(self) -> Iterator[tuple[int, int, int, bytes]]:
        try:
            datagram, _ancillary, flags, sender = self._socket.recvmsg(RECEIVE_BYTES)
        except BlockingIOError as error:
            raise TimeoutError(f"no answer from the kernel within {TIMEOUT_SECONDS} s") from error
        if flags & socket.MSG_TRUNC:
            raise MalformedMessage(f"netlink answer longer than {RECEIVE_BYTES} bytes")
        if sender[0] != 0:
            return iter(())  # only the kernel (port 0) is believed
        return split_messages(datagram)


def _refusal(request: Request, flags: int, body: bytes) -> OSError | None:
    """The error that an NLMSG_ERROR or NLMSG_DONE body states, None for an acknowledgement."""
    if len(body) < _ERRNO.size:
        return MalformedMessage(f"{request.what}: netlink error of {len(body)} bytes")
    (negative,) = _ERRNO.unpack_from(body)
    if negative >= 0:
        return None
    reason = os.strerror(-negative)
    detail = _extended_reason(flags, body)
    if detail:
        reason = f"{reason} ({detail})"
    return OSError(-negative, f"{request.what}: {reason}", request.subject)


def _extended_reason(flags: int, body: bytes) -> str:
    offset = _ERRNO.size + _HEADER.size
    if not flags & _NLM_F_ACK_TLVS or len(body) < offset:
        return ""
    if not flags & _NLM_F_CAPPED:
        (echoed,) = struct.unpack_from("=I", body, _ERRNO.size)
        offset = _ERRNO.size + align(echoed)
    try:
        text = parse_attributes(body, offset).get(_NLMSGERR_ATTR_MSG, b"")
    except MalformedMessage:
        return ""
    return text.rstrip(b"\0").decode("utf-8", "replace")
