"""Forgetting tracked connections (ctnetlink; the kernel's nfnetlink_conntrack.h).

A UDP "connection" lives as long as its client keeps sending. So one that was tracked before a port was
forwarded, or while the port led to another pod, would never see the new destination.
"""

from __future__ import annotations

import errno
import socket
import struct

from crib.host.netlink import (
    NETLINK_NETFILTER,
    NLA_F_NESTED,
    Netlink,
    Request,
    attribute,
    u32_attribute,
)

_IPCTNL_MSG_CT_DELETE = (1 << 8) | 2
_FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
_CTA_TUPLE_ORIG = 1
_CTA_FILTER = 25
_CTA_FILTER_ORIG_FLAGS = 1
_CTA_FILTER_REPLY_FLAGS = 2
_CTA_TUPLE_PROTO = 2
_CTA_PROTO_NUM = 1
_CTA_PROTO_DST_PORT = 3
_F_PROTO_NUM = 1 << 3
_F_PROTO_DST_PORT = 1 << 5


def forget_connections_to_port(version: int, protocol: int, port: int) -> bool:
    """Forget the connections of IP `version` (4 or 6) whose first packet went to this port of any host.

    False if the kernel cannot filter (before 5.8) or tracks nothing. Walks the table of connections:
    below a millisecond for thousands.
    """
    transport = attribute(_CTA_PROTO_NUM, bytes((protocol,)))
    transport += attribute(_CTA_PROTO_DST_PORT, struct.pack(">H", port))
    tuple_ = attribute(_CTA_TUPLE_PROTO | NLA_F_NESTED, transport)
    chosen = u32_attribute(_CTA_FILTER_ORIG_FLAGS, _F_PROTO_NUM | _F_PROTO_DST_PORT)
    chosen += u32_attribute(_CTA_FILTER_REPLY_FLAGS, 0)
    body = (
        struct.pack("=BBH", _FAMILIES[version], 1, 0)
        + attribute(_CTA_TUPLE_ORIG | NLA_F_NESTED, tuple_)
        + attribute(_CTA_FILTER | NLA_F_NESTED, chosen)
    )
    try:
        with Netlink(NETLINK_NETFILTER) as netlink:
            netlink.ask((Request(_IPCTNL_MSG_CT_DELETE, body, "forget connections", f"port {port}"),))
    except OSError as error:
        if error.errno in {errno.EINVAL, errno.EOPNOTSUPP, errno.ENOENT, errno.EPROTONOSUPPORT}:
            return False
        raise
    return True
