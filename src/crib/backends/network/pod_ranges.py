"""The node's ranges of pod addresses, in a file: a kubelet does not send them again after our restart."""

from __future__ import annotations

import logging
import os
from ipaddress import ip_network

from crib.backends.failures import trying
from crib.host.files import atomic_write
from crib.host.threads import OURS
from crib.model.errors import InvalidRequest

_log = logging.getLogger(__name__)

RANGES = 16
FIELD = "pod_cidr"
_FILE_BYTES = 4096


def ranges_of(pod_cidr: str) -> tuple[str, ...]:
    """The ranges of a text with commas, bits beyond a prefix cut off; InvalidRequest naming the CRI field."""
    texts = [part.strip() for part in pod_cidr.split(",") if part.strip()]
    if len(texts) > RANGES:
        raise InvalidRequest(f"{len(texts)} ranges, more than {RANGES}", field=FIELD)
    return tuple(_range(text) for text in texts)


def _range(text: str) -> str:
    _, _, prefix = text.partition("/")
    try:
        if prefix.isdecimal():  # Go's ParseCIDR, which plugins read ranges with, wants a number too
            return str(ip_network(text, strict=False))
    except ValueError:
        pass
    raise InvalidRequest(f"{text!r} is not an address range such as 10.1.0.0/24", field=FIELD)


class PodRanges:
    """The range of each family, in the order that the kubelet sent."""

    def __init__(self, directory: str) -> None:
        """`directory` outlives a reboot. Other files may be in it: those of pods, whose names are ids."""
        self._path = f"{directory}/pod-cidr"
        self.ranges: tuple[str, ...] = self._read()
        """Prefixes such as 10.1.2.0/24; none before the kubelet has sent them."""

    async def remember(self, pod_cidr: str) -> tuple[str, ...]:
        """Use what the kubelet sent from now on; an empty text changes nothing. InvalidRequest, Broken."""
        ranges = ranges_of(pod_cidr)
        if ranges and ranges != self.ranges:
            await OURS.run(f"writing the node's pod ranges to {self._path}", self._write, ranges)
            self.ranges = ranges
        return ranges

    def _read(self) -> tuple[str, ...]:
        try:
            with open(self._path, encoding="ascii") as file:
                return ranges_of(file.read(_FILE_BYTES))
        except FileNotFoundError:
            return ()
        except (OSError, UnicodeDecodeError, InvalidRequest) as error:
            _log.warning(
                "the node's pod ranges are not known until a kubelet sends them: %s: %s", self._path, error
            )
            return ()

    def _write(self, ranges: tuple[str, ...]) -> None:
        with trying("keep the node's pod range"):
            os.makedirs(os.path.dirname(self._path), mode=0o700, exist_ok=True)
            atomic_write(self._path, ",".join(ranges).encode(), sync=True)
