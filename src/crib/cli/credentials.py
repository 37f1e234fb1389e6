"""Credentials for a pull: from standard input alone, as arguments are seen by every process of the node."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from crib.cli.session import CommandError
from crib.stubs.runtime.v1.api_pb2 import AuthConfig

if TYPE_CHECKING:
    from collections.abc import Sequence

    from crib.cli.options import PullOptions

MAX_SECRET = 64 << 10
"""Bytes; tokens of identity providers reach some KiB."""
DEFAULT_REGISTRY = "docker.io"


def read(options: PullOptions) -> AuthConfig | None:
    """What the options ask for; None when they name no credentials. CommandError says what is wrong."""
    wants_password = bool(options.user) or options.password_stdin
    if not (wants_password or options.identity_token_stdin):
        return None
    if wants_password and options.identity_token_stdin:
        raise CommandError("give a password or an identity token, not both", 2)
    if wants_password and not (options.user and options.password_stdin):
        raise CommandError("--user NAME and --password-stdin must be given together", 2)
    _check_one_registry(options.images)
    if options.identity_token_stdin:
        return AuthConfig(identity_token=_secret("identity token"))
    return AuthConfig(username=options.user, password=_secret(f"password of {options.user}"))


def _secret(what: str) -> str:
    if sys.stdin.isatty():
        import getpass

        text = getpass.getpass(f"{what}: ")
    else:
        try:
            text = sys.stdin.read(MAX_SECRET + 1)
        except UnicodeDecodeError:
            raise CommandError(f"the {what} on standard input is not UTF-8 text") from None
    text = text.removesuffix("\n").removesuffix("\r")
    if not text:
        raise CommandError(f"standard input holds no {what}")
    if len(text) > MAX_SECRET:
        raise CommandError(f"the {what} on standard input is longer than {MAX_SECRET} characters")
    return text


def _check_one_registry(names: Sequence[str]) -> None:
    """One registry's password must not go to another one."""
    registries = {registry_of(name) for name in names}
    if len(registries) > 1:
        raise CommandError(f"credentials are for one registry, not for {' and '.join(sorted(registries))}", 2)


def registry_of(name: str) -> str:
    """The registry that an image's name means (distribution's reference grammar, docker's short names)."""
    first, slash, _ = name.partition("/")
    named = slash and ("." in first or ":" in first or first == "localhost")
    return first if named else DEFAULT_REGISTRY
