"""The programs that cribd starts."""

from __future__ import annotations

from collections.abc import AsyncIterator

from crib.model.settings import Settings
from crib.setup.host import HostView, SetupFinding, note, ok, problem

_PACKAGES = {"unshare": "util-linux"}
"""Debian's packages, where they are not called as the program."""


async def look(host: HostView, settings: Settings) -> AsyncIterator[SetupFinding]:
    """Each with its version."""
    for name, handler in settings.handlers.items():
        wanted, subject = handler.path or name, f"handler {name}"
        if path := host.find(wanted):
            yield ok("programs", subject, await _told(host, path))
        elif name == settings.default_handler:
            yield problem("programs", subject, f"{wanted} is not here", _install(wanted))
        else:
            text = f"{wanted} is not here; its pods are refused"
            yield note("programs", subject, text, _install(wanted))
    needed = (
        (settings.conmon, "every container", True),
        (settings.catatonit, "pods that share their process namespace", False),
        ("unshare", "pods with user namespaces", False),
    )
    for program, use, is_needed in needed:
        if path := host.find(program):
            yield ok("programs", program, await _told(host, path))
        else:
            tell = problem if is_needed else note
            yield tell("programs", program, f"it is not here; needed for {use}", _install(program))


async def _told(host: HostView, path: str) -> str:
    return f"{path}: {await host.version(path) or 'tells no version'}"


def _install(program: str) -> str:
    return f"apt install {_PACKAGES.get(program, program.rsplit('/', 1)[-1])}"
