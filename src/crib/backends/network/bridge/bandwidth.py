"""Limits on how fast a pod receives and sends (kubernetes.io/ingress-bandwidth, egress-bandwidth).

Both directions are shaped on the host's side, out of the pod's reach: what the pod receives by a token bucket
on the host's end of its veth pair; what it sends by one on an ifb interface of its own, through which all of
it is led. Measured with one TCP flow at 1, 10, 100 Mbit/s and 1 Gbit/s: over 3 s its payload was 0.95 to 0.97
of the limit each way (headers are the rest), over the first second 0.86 to 1.05. A policer needs no second
interface, but drops instead of delaying. The kernel's own (act_police) is missing in the kernel that this was
measured with; nftables', whose bucket holds at least a second's worth, let 1.8 to 2.2 of the limit through in
the first second and 0.98 to 1.05 after it.

The ifb is the one thing that does not end with the veth pair: `release` removes it, and `orphans` finds those
whose veth pair is gone, without any record.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence

from crib.backends.network.runtime_config import Bandwidth
from crib.host import links, traffic
from crib.host.netlink import Netlink

BURST_SECONDS = 0.005
BURST_PACKETS = 2
QUEUE_SECONDS = 0.025
QUEUE_PACKETS = 10
_HEADER_BYTES = 18


def apply(host_interface: str, limits: Bandwidth) -> None:
    """Make the limits of the pod behind `host_interface` these, whatever they were.

    In the calling thread's network namespace; well under a millisecond, some 30 ms when an egress limit goes.
    OSError naming the interface: ENODEV if there is none, ENOENT or EOPNOTSUPP without TBF or ifb.
    """
    with Netlink() as netlink:
        link = links.get_link(netlink, host_interface)
        if limits.ingress:
            traffic.set_bucket(netlink, link, bucket(limits.ingress, link.mtu))
        else:
            traffic.clear_bucket(netlink, link)
        if limits.egress:
            name = shaper_name(host_interface)
            traffic.make_intermediate(netlink, name)
            shaper = links.get_link(netlink, name)
            traffic.set_bucket(netlink, shaper, bucket(limits.egress, link.mtu))
            traffic.redirect_incoming(netlink, link, shaper)
        else:
            traffic.stop_redirecting(netlink, link)
            links.delete_link(netlink, shaper_name(host_interface))


def read(host_interface: str) -> Bandwidth:
    """The limits in force, each a multiple of 8. OSError ENODEV if there is no such interface."""
    with Netlink() as netlink:
        link = links.get_link(netlink, host_interface)
        ingress = traffic.bucket_rate(netlink, link)
        try:
            shaper = links.get_link(netlink, shaper_name(host_interface))
        except OSError as error:
            if error.errno != errno.ENODEV:
                raise
            return Bandwidth(ingress=ingress * 8)
        led = traffic.redirection(netlink, link) == shaper.index
        return Bandwidth(ingress * 8, traffic.bucket_rate(netlink, shaper) * 8 if led else 0)


def release(host_interface: str) -> bool:
    """Remove what would outlive `host_interface`; whether there was something (then some 30 ms)."""
    with Netlink() as netlink:
        return links.delete_link(netlink, shaper_name(host_interface))


def orphans(prefix: str) -> Sequence[str]:
    """Interfaces left from host interfaces that began with `prefix` and are gone, for `delete_link`."""
    with Netlink() as netlink:
        names = {link.name for link in links.list_links(netlink)}
    start = shaper_name(prefix)
    return sorted(
        name for name in names if name.startswith(start) and name[0].lower() + name[1:] not in names
    )


def shaper_name(host_interface: str) -> str:
    """The ifb of a host interface: its name with a capital, so that each is found by the other."""
    first = host_interface[:1]
    if not first.islower() or not first.isascii():
        raise ValueError(f"interface name {host_interface!r} does not begin with a small letter")
    return first.upper() + host_interface[1:]


def bucket(rate: int, mtu: int) -> traffic.TokenBucket:
    """The token bucket for `rate` bits per second: burst and queue of milliseconds and some packets."""
    packet = mtu + _HEADER_BYTES
    rate_bytes = max(rate // 8, 1)
    burst = max(int(rate_bytes * BURST_SECONDS), BURST_PACKETS * packet)
    queue = max(int(rate_bytes * QUEUE_SECONDS), QUEUE_PACKETS * packet)
    half = traffic.U32_MAX // 2
    return traffic.TokenBucket(rate_bytes, min(burst, half), min(burst, half) + min(queue, half))
