"""Report the daemon's state to the service manager (sd_notify(3)), and ask it; no effect without one."""

from __future__ import annotations

import os
import socket

from crib.host.processes import ToolMissing, run

TELL_LIMIT = 0.5
"""Seconds that a manager which reads nothing is waited for."""

ASK_SECONDS = 5.0
"""For systemctl to answer."""


class ServiceManager:
    """Made before any program is started: it takes $NOTIFY_SOCKET and $WATCHDOG_USEC out of the environment.

    A crun that finds the one there takes it for the container's, and its start fails (bind: address in use).
    """

    def __init__(self) -> None:
        self._address = os.environ.pop("NOTIFY_SOCKET", "")
        period, pid = os.environ.pop("WATCHDOG_USEC", ""), os.environ.pop("WATCHDOG_PID", "")
        ours = self._address and period.isdigit() and pid in ("", str(os.getpid()))
        self.watchdog = int(period) / 1e6 if ours else 0.0
        """Seconds without `WATCHDOG=1` after which it ends the daemon (sd_watchdog_enabled(3)); 0: never."""

    def tell(self, state: str) -> bool:
        """Send e.g. `READY=1`. False when there is no manager, or it does not listen."""
        address = self._address
        if not address.startswith(("/", "@")):
            return False
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
            sender.settimeout(TELL_LIMIT)
            try:
                sender.sendto(state.encode(), address.replace("@", "\0", 1) if address[0] == "@" else address)
            except OSError:
                return False
        return True

    async def shuts_down(self) -> bool:
        """Whether the host is on its way to a power-off or a reboot (systemctl(1), is-system-running).

        False where there is no manager, or no systemd to ask.
        """
        if not self._address:
            return False
        try:
            said = await run(("systemctl", "is-system-running"), timeout=ASK_SECONDS)
        except (ToolMissing, TimeoutError):
            return False
        return said.stdout.strip() == b"stopping"
