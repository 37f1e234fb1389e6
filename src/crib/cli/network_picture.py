"""A pod's network as a picture: the pod, a line for each interface and where it leads, and the host ports.

A mark on a line shows where it is broken. The line of the first interface is drawn last: the others end above
it, and no lines cross.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from crib.cli.output import clean, short_id

if TYPE_CHECKING:
    from crib.stubs.node.v1.node_pb2 import InspectPodNetworkResponse, Network, PodInterface

MIN_WIDTH, MAX_WIDTH = 40, 100
"""Columns. The minimum grows by `_STEP` for each further line of an interface."""
MAX_LINES = 8
"""Interfaces that get a line; all are in the pod's box."""
MAX_ROUTES = 12
_STEP = 4
"""Columns between two lines."""
_BUILT_IN = "bridge"
_RATES = ((10**9, "Gbit/s"), (10**6, "Mbit/s"), (10**3, "kbit/s"))


@dataclass(frozen=True, slots=True)
class Pen:
    """The characters of a picture. `corners` are upper left and right, lower left and right."""

    corners: str
    across: str
    down: str
    enters: str
    leaves: str
    broken: str
    out: str
    then: str
    arrow: str


LINES = Pen("┌┐└┘", "─", "│", "┴", "┬", "✗", "▼", "→", "──→")
ASCII = Pen("++++", "-", "|", "+", "+", "X", "v", "->", "-->")


@dataclass(slots=True)
class _Box:
    title: str
    rows: list[tuple[str, str]] = field(default_factory=list)

    def width(self) -> int:
        """Columns with which nothing is wrapped."""
        rows = [len(text) for _, text in self.rows]
        return max(len(self.title) + 7, self.indent() + max(rows, default=0) + 4)

    def indent(self) -> int:
        return max((len(label) for label, _ in self.rows), default=0) + 2


@dataclass(slots=True)
class _Strand:
    """Where one interface leads. The first value of a note says whether the line is intact there."""

    notes: list[tuple[bool, str]] = field(default_factory=list)
    box: _Box | None = None
    out: list[tuple[bool, str]] = field(default_factory=list)

    def width(self) -> int:
        """Columns with which nothing is wrapped."""
        texts = [len(text) + _STEP for _, text in self.notes]
        return max(*texts, self.box.width() if self.box else 0)


def pen_for(encoding: str | None) -> Pen:
    """Box characters if the output's encoding has them."""
    try:
        "".join(str(getattr(LINES, name)) for name in LINES.__slots__).encode(encoding or "ascii")
    except (LookupError, UnicodeEncodeError):
        return ASCII
    return LINES


def picture(
    pod: InspectPodNetworkResponse, networks: Sequence[Network], width: int, pen: Pen = LINES
) -> list[str]:
    """Lines of at most `width` columns (see MIN_WIDTH and MAX_WIDTH); `networks` are the node's."""
    attached = _attached(pod, {network.name: network for network in reversed(networks)})
    strands = [_strand(pod, *place, pen) for place in attached if _leads_somewhere(*place[1:])][:MAX_LINES]
    if strands and (limits := _limits(pod)):
        strands[0].notes.insert(0, (True, limits))
    top = _pod_box(pod, attached, pen)
    needed = max(top.width(), *(_STEP * at + strand.width() for at, strand in enumerate(strands)), 0)
    least = MIN_WIDTH + _STEP * max(0, len(strands) - 1)
    width = max(least, min(width, MAX_WIDTH, needed))
    lines = list(_drawn(top, width, pen, lines_below=len(strands)))
    for at in range(len(strands) - 1, -1, -1):
        rails = f"  {pen.down} " * at
        own = width - len(rails)
        lines += [rails + line for line in _drawn_strand(strands[at], own, pen)]
        if at:
            lines.append(rails.rstrip())
    if pod.forwards:
        lines += ["", "ports of the host", *_ports(pod, pen)]
    lines = [clean(line) for line in lines]
    return lines if pen is LINES else [line.encode("ascii", "replace").decode() for line in lines]


_Place = tuple[str, "PodInterface | None", "Network | None"]
"""An interface's name, the interface if it exists, and its network if it is known."""


def _attached(pod: InspectPodNetworkResponse, known: Mapping[str, Network]) -> list[_Place]:
    """The interfaces that the pod's networks gave it, even if they are missing; then all others."""
    present = {interface.name: interface for interface in pod.interfaces}
    places: list[_Place] = []
    for network, name in zip(pod.networks, pod.network_interfaces, strict=True):
        if name:
            places.append((name, present.pop(name, None), known.get(network)))
    return [*places, *((name, interface, None) for name, interface in present.items())]


def _leads_somewhere(interface: PodInterface | None, network: Network | None) -> bool:
    return network is not None or interface is None or bool(interface.host_interface)


def _strand(
    pod: InspectPodNetworkResponse,
    name: str,
    interface: PodInterface | None,
    network: Network | None,
    pen: Pen,
) -> _Strand:
    found = _Strand(_notes(name, interface, network), _host_box(interface, network, pen))
    if interface is None:
        return found
    built_in = network is not None and network.kind == _BUILT_IN
    if any(route.destination == "default" and route.interface == name for route in pod.routes):
        found.out = [(True, "masquerade")] if built_in else []
        found.out.append((True, ""))
    elif built_in:
        found.out = [(False, "the pod has no default route")]
    return found


def _notes(name: str, interface: PodInterface | None, network: Network | None) -> list[tuple[bool, str]]:
    if interface is None:
        return [(False, f"{name} is missing")]
    notes = [(interface.up, f"{name} in the pod{'' if interface.up else ', which is down'}")]
    if not interface.addresses:
        notes.append((False, f"{name} has no address"))
    on_bridge = network is not None and (
        network.kind == _BUILT_IN or any(plugin.type == "bridge" for plugin in network.plugins)
    )
    if interface.host_interface:
        lost = on_bridge and not interface.host_bridge
        notes.append(
            (not lost, f"{interface.host_interface} on the host{', a port of no bridge' if lost else ''}")
        )
    elif on_bridge:
        notes.append((False, "its end on the host is missing"))
    return notes


def _host_box(interface: PodInterface | None, network: Network | None, pen: Pen) -> _Box | None:
    bridge = interface.host_bridge if interface is not None else ""
    if network is None:
        return _Box(f"bridge {bridge}") if bridge else None
    box = _Box(f"bridge {bridge}" if bridge else f"network {network.name}")
    if bridge and network.name != bridge:
        box.rows.append(("network", network.name))
    built_in = network.kind == _BUILT_IN
    box.rows.append(("kind", "built in" if built_in else f"CNI {network.version}".rstrip()))
    if network.plugins:
        chain = [plugin.type if plugin.path else f"{plugin.type} (not found)" for plugin in network.plugins]
        box.rows.append(("plugins", f" {pen.then} ".join(chain)))
    box.rows += [("subnet", subnet) for subnet in network.subnets]
    box.rows += [("gateway", gateway) for gateway in network.gateways]
    if network.problem:
        box.rows.append(("problem", f"{pen.broken} {network.problem}"))
    return box


def _pod_box(pod: InspectPodNetworkResponse, attached: Sequence[_Place], pen: Pen) -> _Box:
    box = _Box(f"pod {pod.pod} ({short_id(pod.pod_sandbox_id)})")
    if pod.host_network:
        box.rows.append(("network", "the host's own"))
        return box
    if not pod.netns:
        box.rows.append(("network", "none: the pod has stopped"))
        return box
    box.rows.append(("namespace", pod.netns))
    for name, interface, network in attached:
        if interface is None:
            box.rows.append((name, f"{pen.broken} not there" + (f", of {network.name}" if network else "")))
            continue
        more = f"mac {interface.mac}, mtu {interface.mtu}" + ("" if interface.up else ", down")
        texts = [*interface.addresses, more.removeprefix("mac , ")]  # a tunnel has no mac
        box.rows += [(name if text is texts[0] else "", text) for text in texts]
    if not attached:
        box.rows.append(("network", f"{pen.broken} no interface"))
    here = {text.partition("/")[0] for interface in pod.interfaces for text in interface.addresses}
    box.rows += [
        ("recorded", f"{pen.broken} {address}, which no interface has")
        for address in pod.addresses
        if address not in here
    ]
    routes = [f"{r.destination}{f' via {r.gateway}' * bool(r.gateway)} on {r.interface}" for r in pod.routes]
    if len(routes) > MAX_ROUTES:
        routes[MAX_ROUTES:] = [f"and {len(routes) - MAX_ROUTES} more"]
    box.rows += [("" if at else "routes", route) for at, route in enumerate(routes)]
    return box


def _limits(pod: InspectPodNetworkResponse) -> str:
    ways = ((pod.ingress_rate, "into the pod"), (pod.egress_rate, "out of it"))
    if not pod.ingress_rate:
        ways = ((pod.egress_rate, "out of the pod"), (0, ""))
    said = [f"{rate(bits)} {way}" for bits, way in ways if bits]
    return f"at most {', '.join(said)}" if said else ""


def rate(bits: int) -> str:
    """Bits per second for people: 10 Mbit/s."""
    for size, unit in _RATES:
        if bits >= size:
            return f"{bits / size:.4g} {unit}"
    return f"{bits} bit/s"


def _drawn(box: _Box, width: int, pen: Pen, *, lines_below: int = 0, entered: bool = False) -> Iterator[str]:
    """A box; the lines that leave it begin at its lower edge."""
    left, right, low_left, low_right = tuple(pen.corners)
    edge = f"{pen.across}{pen.enters}" if entered else ""
    title = _wrapped(box.title, width - 7)
    head = f"{left}{edge}{pen.across} {title[0]} "
    yield head + pen.across * (width - len(head) - 1) + right
    indent = box.indent()
    rows = [("", line) for line in title[1:]]
    for label, text in box.rows:
        for number, line in enumerate(_wrapped(text, width - 4 - indent)):
            rows.append((f"{'' if number else label:{indent}}", line))
    for label, line in rows:
        yield f"{pen.down} {label + line:{width - 4}} {pen.down}"
    below = "".join(f"{pen.across}{pen.leaves}".ljust(_STEP, pen.across) for _ in range(lines_below))
    yield low_left + below[: width - 2].ljust(width - 2, pen.across) + low_right


def _drawn_strand(strand: _Strand, width: int, pen: Pen) -> Iterator[str]:
    yield from _drawn_notes(strand.notes, width, pen)
    if strand.box is not None:
        yield from _drawn(strand.box, width, pen, lines_below=bool(strand.out), entered=True)
    passing = [note for note in strand.out if note[1]]
    yield from _drawn_notes(passing, width, pen)
    if len(passing) < len(strand.out):
        yield f"  {pen.out} out by the host's routes"


def _drawn_notes(notes: Sequence[tuple[bool, str]], width: int, pen: Pen) -> Iterator[str]:
    for whole, text in notes:
        for number, line in enumerate(_wrapped(text, width - _STEP)):
            yield f"  {pen.down if whole or number else pen.broken} {line}"


def _ports(pod: InspectPodNetworkResponse, pen: Pen) -> Iterator[str]:
    shown = []
    for forward in pod.forwards:
        host = f"[{forward.host_address}]" if ":" in forward.host_address else forward.host_address
        target = f"port {forward.pod_port} of the pod"
        shown.append((f"{forward.protocol} {host}:{forward.host_port}", target))
    longest = max(len(source) for source, _ in shown)
    for source, target in shown:
        yield f"  {source:{longest}} {pen.arrow} {target}"


def _wrapped(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, max(width, 8), break_on_hyphens=False) or [""]
