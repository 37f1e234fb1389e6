"""When a connection is read no further: each reason for that holds by itself."""

from __future__ import annotations

from crib.ttrpc.carriers import FrameCarrier

UNTAKEN_BYTES = 4 << 20
"""Of messages of streams on one connection that nobody has taken yet, from which on it is not read."""


class Reading:
    """Of one carrier."""

    def __init__(self, carrier: FrameCarrier) -> None:
        self._carrier = carrier
        self._reasons: set[str] = set()
        self._untaken = 0

    def hold(self, reason: str) -> None:
        """Read no further for this reason."""
        if not self._reasons:
            self._carrier.pause()
        self._reasons.add(reason)

    def release(self, reason: str) -> None:
        """The reason is gone."""
        if reason in self._reasons:
            self._reasons.remove(reason)
            if not self._reasons:
                self._carrier.resume()

    def came(self, size: int) -> None:
        """A message of a stream has come."""
        self._untaken += size
        if self._untaken > UNTAKEN_BYTES:
            self.hold("messages")

    def taken(self, size: int) -> None:
        """One was taken, or will not be."""
        self._untaken -= size
        if self._untaken <= UNTAKEN_BYTES // 2:
            self.release("messages")
