"""How fast one host brings a blob: the average of all that it brought, not of the last minute."""

from __future__ import annotations


class Pace:
    """Bytes and the time that they took, over all connections to one host. Times are seconds of any clock
    that only rises."""

    def __init__(self, min_rate: int, grace: float) -> None:
        """`min_rate` is in bytes a second (0: none), `grace` the seconds before anything is judged."""
        self._min_rate = min_rate
        self._grace = grace
        self._connections = 0
        self._since = 0.0
        self._spent = 0.0
        self._received = 0

    def begin(self, now: float) -> None:
        """One more connection waits for bytes."""
        if not self._connections:
            self._since = now
        self._connections += 1

    def end(self, now: float) -> None:
        """One connection fewer."""
        self._connections -= 1
        if not self._connections:
            self._spent += now - self._since

    def add(self, count: int, paused: float) -> None:
        """Bytes that came; for `paused` seconds we did not take them, for which the host is not to blame."""
        self._received += count
        self._spent -= paused / self._connections

    def problem(self, now: float) -> str:
        """What is wrong with its pace; empty when nothing is."""
        spent = self._spent + now - self._since
        if spent < self._grace or self._received >= self._min_rate * spent:
            return ""
        rate = self._received / spent
        return f"too slow: {rate:.0f} bytes a second for {spent:.3g} s, images.min_rate is {self._min_rate}"
