"""Monitors and stray processes come to the daemon when their parent ends, not to an init that reaps late."""

from __future__ import annotations

import asyncio
import logging
import signal

from crib.host import processes

_log = logging.getLogger(__name__)

REAP_AGAIN = 1.0
"""Seconds until orphans are looked for again after that failed."""


def adopt_orphans() -> None:
    """From now on, for as long as the running loop lasts."""
    processes.become_subreaper()
    asyncio.get_running_loop().add_signal_handler(signal.SIGCHLD, _reap)
    _reap()


def _reap() -> None:
    """Those that have ended. That may take a descriptor, and no signal comes twice."""
    try:
        processes.reap_orphans()
    except OSError as error:
        _log.warning("reaping orphans: %s; trying again in %.0f s", error, REAP_AGAIN)
        asyncio.get_running_loop().call_later(REAP_AGAIN, _reap)
