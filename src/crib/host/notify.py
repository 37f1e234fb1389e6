"""Tell the service manager how the daemon is (sd_notify(3)); nothing happens without one."""

from __future__ import annotations

import os
import socket


class ServiceManager:
    """Made before any program is started: it takes $NOTIFY_SOCKET out of the environment.

    A crun that finds it there takes it for the container's, and its start fails (bind: address in use).
    """

    def __init__(self) -> None:
        self._address = os.environ.pop("NOTIFY_SOCKET", "")

    def tell(self, state: str) -> bool:
        """Send e.g. `READY=1`. False when there is no manager, or it does not listen."""
        address = self._address
        if not address.startswith(("/", "@")):
            return False
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
            try:
                sender.sendto(state.encode(), address.replace("@", "\0", 1) if address[0] == "@" else address)
            except OSError:
                return False
        return True
