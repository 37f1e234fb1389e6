"""What a piece of work for a volume carries through all of its calls: its end, its words and its secrets."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from urllib.parse import quote

from crib.backends.failures import foreign, why
from crib.host.threads import Job
from crib.model.errors import CribError, InvalidRequest
from crib.model.volumes import SECRET_LIMIT

SECRETS_SECONDS = 10.0
"""For reading the secrets of one call."""
HIDDEN = "***"
_LINE = 8
"""Characters from which on a line of a secret is hidden by itself."""


@dataclass(frozen=True, slots=True)
class Errand:
    """One piece of work."""

    about: str
    """What the driver calls the volume or snapshot; empty where it is about the driver."""
    seconds: float
    """For one call."""
    until: float
    """The end of the last one, repeated ones among them, on the loop's clock."""
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def left(self) -> float:
        return self.until - asyncio.get_running_loop().time()

    def longer(self, seconds: float) -> Errand:
        """The same, where calls may be repeated for so long."""
        return replace(self, until=asyncio.get_running_loop().time() + seconds)

    def hiding(self, text: str) -> str:
        """The text without any secret in it, also one that was quoted or encoded on its way."""
        for value in sorted(self._forms(), key=len, reverse=True):
            text = text.replace(value, HIDDEN)
        return text

    def _forms(self) -> set[str]:
        forms = set()
        for secret in self.secrets.values():
            lines = [line for line in secret.splitlines() if len(line) >= _LINE]
            for value in (secret, *lines):
                encoded = base64.b64encode(value.encode()).decode().rstrip("=")
                forms |= {value, quote(value, safe=""), repr(value)[1:-1], encoded}
        return forms - {""}


async def errand(
    about: str, seconds: float, secrets: Mapping[str, str] | None = None, *, needed: bool = True
) -> Errand:
    """Begin one of so many seconds. `secrets` has the files by key: read now, for they may have changed.

    InvalidRequest where one cannot be read; Unavailable where its file system does not answer. Where they are
    not `needed`, but to be kept out of errors, that does not matter.
    """
    until = asyncio.get_running_loop().time() + seconds
    if not secrets:
        return Errand(about, seconds, until)
    job = Job(f"reading the secrets of {about}", about, limit=min(seconds, SECRETS_SECONDS))
    try:
        read = await foreign(job, _read_all, dict(secrets))
    except CribError:
        if needed:
            raise
        read = {}
    return Errand(about, seconds, until, read)


def _read_all(files: Mapping[str, str]) -> dict[str, str]:
    return {key: _read(key, path) for key, path in files.items()}


def _read(key: str, path: str) -> str:
    name = f"secrets.{key}"
    try:
        with open(path, "rb") as file:
            content = file.read(SECRET_LIMIT + 1)
    except OSError as error:
        raise InvalidRequest(f"the secret cannot be read: {why(error)}", field=name) from error
    if len(content) > SECRET_LIMIT:
        raise InvalidRequest(f"{path} has more than {SECRET_LIMIT} bytes", field=name)
    try:
        return content.decode().removesuffix("\n")
    except UnicodeDecodeError:
        # The cause would carry the content.
        raise InvalidRequest(f"{path} is no UTF-8 text, and drivers take nothing else", field=name) from None
