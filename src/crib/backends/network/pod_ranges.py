"""The node's ranges of pod addresses, in a file: a kubelet does not tell them again after our restart."""

from __future__ import annotations

import logging
import os
from typing import Final

from crib.backends.network.cni.conf_template import ranges_of
from crib.host.files import atomic_write
from crib.host.threads import OURS
from crib.model.errors import Broken, InvalidRequest

_log = logging.getLogger(__name__)

_FILE_BYTES: Final = 4096


class PodRanges:
    """The range of each family, in the order told."""

    def __init__(self, path: str) -> None:
        self._path = path
        self.ranges: tuple[str, ...] = self._read()
        """Prefixes such as 10.1.2.0/24; none before the kubelet has told them."""

    async def remember(self, pod_cidr: str) -> tuple[str, ...]:
        """Take what the kubelet told from now on; nothing told changes nothing. InvalidRequest, Broken."""
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
        try:
            os.makedirs(os.path.dirname(self._path), mode=0o700, exist_ok=True)
            atomic_write(self._path, ",".join(ranges).encode(), sync=True)
        except OSError as error:
            raise Broken(f"keep the node's pod range: {error.strerror} ({error.filename})") from error
