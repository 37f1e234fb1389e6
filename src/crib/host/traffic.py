"""Rates of interfaces: the token bucket (tc-tbf(8)) and the redirection of what comes in (tc-mirred(8)).

Layouts are those of the kernel's headers linux/pkt_sched.h, linux/pkt_cls.h and linux/tc_act/tc_mirred.h.
Functions take the open `Netlink` socket and so act on the namespace in which it was opened; each round trip
costs well under a millisecond.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Collection
from dataclasses import dataclass

from crib.host.links import IFF_UP, KernelLink, check_interface_name
from crib.host.netlink import (
    NLA_F_NESTED,
    NLM_F_CREATE,
    NLM_F_EXCL,
    NLM_F_REPLACE,
    MalformedMessage,
    Netlink,
    Request,
    attribute,
    parse_attributes,
    text_attribute,
    u32_attribute,
)

_RTM_NEWLINK = 16
_RTM_NEWQDISC = 36
_RTM_DELQDISC = 37
_RTM_GETQDISC = 38
_RTM_NEWTFILTER = 44
_RTM_GETTFILTER = 46

_IFLA_IFNAME = 3
_IFLA_LINKINFO = 18
_IFLA_INFO_KIND = 1

_NLM_F_ECHO = 0x8  # without it the kernel reports qdiscs only to listeners, not to the requester

_TCA_KIND = 1
_TCA_OPTIONS = 2
_TC_H_ROOT = 0xFFFFFFFF
_TC_H_INGRESS = 0xFFFFFFF1
_INGRESS_HANDLE = 0xFFFF0000

_TCA_TBF_PARMS = 1
_TCA_TBF_RATE64 = 4
_TCA_TBF_BURST = 6
_TC_LINKLAYER_ETHERNET = 1

_TCA_U32_SEL = 5
_TCA_U32_ACT = 7
_TC_U32_TERMINAL = 1
_FILTER_HANDLE = 0x80000001  # the first rule of the first table: a second request finds it again
_FILTER_PRIORITY = 1
_ETH_P_ALL = 3
_TCA_ACT_KIND = 1
_TCA_ACT_OPTIONS = 2
_TCA_MIRRED_PARMS = 2
_TCA_EGRESS_REDIR = 1
_TC_ACT_STOLEN = 4

_LINK_HEADER = struct.Struct("=BxHiII")
_TC_HEADER = struct.Struct("=BxxxiIII")
_RATE = struct.Struct("=BBHhHI")  # tc_ratespec
_TBF = struct.Struct("=12s12sIII")  # tc_tbf_qopt
_RULE = struct.Struct("=BBBxHHhhI")  # tc_u32_sel, with one key
_KEY = struct.Struct("=IIii")
_MIRRED = struct.Struct("=IIiiiiI")

U32_MAX = (1 << 32) - 1


@dataclass(frozen=True, slots=True)
class TokenBucket:
    """`rate` in bytes per second; `burst` and `limit` (of the queue and the burst together) in bytes."""

    rate: int
    burst: int
    limit: int


def set_bucket(netlink: Netlink, link: KernelLink, bucket: TokenBucket) -> None:
    """Let an interface send at a rate; what it sends comes through this one queue. Changes an earlier rate.

    `burst` must hold the longest packet, or that is dropped for ever. OSError ENOENT: a kernel without TBF.
    """
    # The link layer is named so that the kernel wants no table of transmission times.
    rate = _RATE.pack(0, _TC_LINKLAYER_ETHERNET, 0, 0, 0, min(bucket.rate, U32_MAX))
    options = attribute(_TCA_TBF_PARMS, _TBF.pack(rate, b"", min(bucket.limit, U32_MAX), 0, 0))
    options += u32_attribute(_TCA_TBF_BURST, min(bucket.burst, U32_MAX))
    if bucket.rate >= U32_MAX:
        options += attribute(_TCA_TBF_RATE64, struct.pack("=Q", bucket.rate))
    body = _tc_header(link, parent=_TC_H_ROOT) + text_attribute(_TCA_KIND, "tbf")
    body += attribute(_TCA_OPTIONS | NLA_F_NESTED, options)
    what = f"limit to {bucket.rate} bytes/s"
    netlink.ask((Request(_RTM_NEWQDISC, body, what, link.name, NLM_F_CREATE | NLM_F_REPLACE),))


def clear_bucket(netlink: Netlink, link: KernelLink) -> None:
    """Take the rate off an interface; without one nothing happens."""
    body = _tc_header(link, parent=_TC_H_ROOT) + text_attribute(_TCA_KIND, "tbf")
    # EINVAL: the queue there is of another kind, such as the default one.
    _ask_unless(netlink, Request(_RTM_DELQDISC, body, "remove rate", link.name), {errno.ENOENT, errno.EINVAL})


def bucket_rate(netlink: Netlink, link: KernelLink) -> int:
    """The rate of an interface in bytes per second, 0 for none."""
    body = _tc_header(link, parent=_TC_H_ROOT) + text_attribute(_TCA_KIND, "tbf")
    found = _get_unless(netlink, Request(_RTM_GETQDISC, body, "read rate", link.name, _NLM_F_ECHO))
    return 0 if found is None else parse_rate(found.get(_TCA_OPTIONS, b""))


def parse_rate(options: bytes) -> int:
    """Bytes per second in a bucket's TCA_OPTIONS. Raises MalformedMessage."""
    parts = parse_attributes(options)
    raw = parts.get(_TCA_TBF_RATE64, b"")
    if len(raw) == 8:
        return int(struct.unpack("=Q", raw)[0])
    raw = parts.get(_TCA_TBF_PARMS, b"")
    if len(raw) < _TBF.size:
        raise MalformedMessage(f"parameters of a token bucket are {len(raw)} bytes")
    return int(_RATE.unpack_from(raw)[5])


def make_intermediate(netlink: Netlink, name: str) -> None:
    """Make an ifb interface, up; having it already is fine.

    Packets that are redirected into it pass its queue and continue as usual.
    """
    info = text_attribute(_IFLA_INFO_KIND, "ifb")
    body = (
        _LINK_HEADER.pack(socket.AF_UNSPEC, 0, 0, IFF_UP, IFF_UP)
        + text_attribute(_IFLA_IFNAME, check_interface_name(name))
        + attribute(_IFLA_LINKINFO | NLA_F_NESTED, info)
    )
    request = Request(_RTM_NEWLINK, body, "make ifb", name, NLM_F_CREATE | NLM_F_EXCL)
    _ask_unless(netlink, request, {errno.EEXIST})


def redirect_incoming(netlink: Netlink, link: KernelLink, to: KernelLink) -> None:
    """Have all that comes in at `link` leave by `to` first, before anything else of the host sees it.

    If `to` is removed, what comes in is dropped. The redirection ends with `link`.
    """
    ingress = _tc_header(link, parent=_TC_H_INGRESS, handle=_INGRESS_HANDLE)
    ingress += text_attribute(_TCA_KIND, "ingress")
    made = Request(_RTM_NEWQDISC, ingress, "take what comes in", link.name, NLM_F_CREATE | NLM_F_EXCL)
    _ask_unless(netlink, made, {errno.EEXIST})
    # u32 with an empty mask matches all; the matchall classifier is missing in more kernels.
    rule = _RULE.pack(_TC_U32_TERMINAL, 0, 1, 0, 0, 0, 0, 0) + _KEY.pack(0, 0, 0, 0)
    mirred = _MIRRED.pack(0, 0, _TC_ACT_STOLEN, 0, 0, _TCA_EGRESS_REDIR, to.index)
    action = text_attribute(_TCA_ACT_KIND, "mirred") + attribute(
        _TCA_ACT_OPTIONS | NLA_F_NESTED, attribute(_TCA_MIRRED_PARMS, mirred)
    )
    options = attribute(_TCA_U32_SEL, rule) + attribute(
        _TCA_U32_ACT | NLA_F_NESTED, attribute(1 | NLA_F_NESTED, action)
    )
    body = _filter_header(link) + attribute(_TCA_OPTIONS | NLA_F_NESTED, options)
    netlink.ask((Request(_RTM_NEWTFILTER, body, f"redirect to {to.name}", link.name, NLM_F_CREATE),))


def stop_redirecting(netlink: Netlink, link: KernelLink) -> None:
    """Undo `redirect_incoming`; without one nothing happens."""
    body = _tc_header(link, parent=_TC_H_INGRESS, handle=_INGRESS_HANDLE)
    request = Request(_RTM_DELQDISC, body, "stop redirecting", link.name)
    _ask_unless(netlink, request, {errno.ENOENT, errno.EINVAL})


def redirection(netlink: Netlink, link: KernelLink) -> int:
    """The index of the interface that what comes in is redirected to; 0 for none, or one that is gone."""
    request = Request(_RTM_GETTFILTER, _filter_header(link), "read redirection", link.name, _NLM_F_ECHO)
    found = _get_unless(netlink, request)
    raw = b"" if found is None else found.get(_TCA_OPTIONS, b"")
    for kind in (_TCA_U32_ACT, 1, _TCA_ACT_OPTIONS, _TCA_MIRRED_PARMS):
        raw = parse_attributes(raw).get(kind, b"")
    return int(_MIRRED.unpack_from(raw)[6]) if len(raw) >= _MIRRED.size else 0


def _tc_header(link: KernelLink, *, parent: int, handle: int = 0, info: int = 0) -> bytes:
    return _TC_HEADER.pack(socket.AF_UNSPEC, link.index, handle, parent, info)


def _filter_header(link: KernelLink) -> bytes:
    info = _FILTER_PRIORITY << 16 | socket.htons(_ETH_P_ALL)
    header = _tc_header(link, parent=_INGRESS_HANDLE, handle=_FILTER_HANDLE, info=info)
    return header + text_attribute(_TCA_KIND, "u32")


def _ask_unless(netlink: Netlink, request: Request, fine: Collection[int]) -> None:
    try:
        netlink.ask((request,))
    except OSError as error:
        if error.errno not in fine:
            raise


def _get_unless(netlink: Netlink, request: Request) -> dict[int, bytes] | None:
    """The answer's attributes; None if there is nothing of that kind (EINVAL: something of another kind)."""
    try:
        reply = netlink.get(request)
    except OSError as error:
        if error.errno in {errno.ENOENT, errno.EINVAL}:
            return None
        raise
    return parse_attributes(reply.body, _TC_HEADER.size)
