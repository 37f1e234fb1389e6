"""Which credential a host gets: the caller's own, or the node's, or none.

- The request's (CRI AuthConfig) goes to the registry that the image's name means, or, where it names a
  server, to that host alone. A mirror gets it only if it is that host.
- Else the node's: registries.conf's `credential-helpers` in order or, where it has none, the auth file: a
  helper that `credHelpers` names for the host, then the most specific entry of `auths`, then `credsStore`.
- Over plain http nothing is sent, except on the loopback interface and to hosts that the administrator named
  as insecure (`images.insecure`, or `insecure = true` in registries.conf): an http:// URL in hosts.toml or
  among the mirrors allows the transfer, not the secret (CVE-2019-10214 is of this class).

No secret is in a message, a log line or a repr.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import urlsplit

from crib.backends.failures import foreign, why
from crib.backends.images.registries.config_files import FILES_SECONDS, ConfigFiles
from crib.host import processes
from crib.host.threads import Job
from crib.model.errors import InvalidRequest, Unavailable
from crib.model.image import PullOrder
from crib.model.registry import AuthConfig, Credential, RegistryHost, is_loopback
from crib.wire import docker_config
from crib.wire.docker_config import AuthEntry, AuthFile, MalformedAuth, normalized
from crib.wire.registries_conf import AUTH_FILE
from crib.wire.toml_table import without_login

HELPER_TIMEOUT = 10.0
"""Seconds for one answer of a credential helper."""
HELPER_KEPT = 60.0
"""Seconds for which an answer is kept."""
_MAX_KEPT = 256
_HELPER_OUTPUT = 256 << 10
_TOKEN = re.compile(r"[\x21-\x7e]*")


@dataclass(frozen=True, slots=True)
class Terms:
    """On which terms a host is asked."""

    insecure: bool = False
    """Whether the administrator named it as insecure: secrets may go over plain http."""
    helpers: tuple[str, ...] = (AUTH_FILE,)
    """Where the node's credentials are looked for, in order: helpers' names, or the auth file."""


_TERMS = Terms()


class Credentials:
    """Finds credentials; `clock` gives seconds, for how long helpers' answers are kept."""

    def __init__(
        self, auth_file: str, files: ConfigFiles, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._auth_file = auth_file
        self._files = files
        self._clock = clock
        self._answers: dict[tuple[str, str], tuple[float, AuthEntry]] = {}

    async def find(self, host: RegistryHost, order: PullOrder, terms: Terms = _TERMS) -> Credential:
        """The credential for one host; `source` says where it is from, or why there is none.

        InvalidRequest names the field of `auth` that is wrong; Unavailable the auth file or the helper.
        """
        asked = _authority(host.url)
        given = request_credential(order.auth)
        meant = _meant_for(order)
        if host.url.startswith("http://") and not (terms.insecure or is_loopback(asked)):
            return Credential(source=f"none over plain http: {asked} is not named in images.insecure")
        if not given.anonymous and normalized(asked) == meant:
            return given
        found = await self._of_node(host, terms.helpers)
        if given.anonymous or normalized(asked) != normalized(order.reference.registry):
            return found
        note = f"the request's are for {without_login(meant)[:200]!r}"
        return Credential(
            found.username,
            found.password,
            found.identity_token,
            found.registry_token,
            source=f"{found.source} ({note})" if found.source else note,
        )

    async def _of_node(self, host: RegistryHost, helpers: tuple[str, ...]) -> Credential:
        asked = _authority(host.url)
        for helper in helpers:
            if helper == AUTH_FILE:
                found = await self._of_auth_file(asked, _path(host))
            else:
                found = await self._of_helper(helper, asked, "credential-helpers")
            if not found.anonymous:
                return found
        return Credential()

    async def _of_auth_file(self, asked: str, path: str) -> Credential:
        name = self._auth_file
        auths = (await self._auths(name) if name else None) or AuthFile()
        if helper := auths.helper(asked, path):
            found = await self._of_helper(helper, asked, f"credHelpers of {name}")
            if not found.anonymous:
                return found
        match = auths.entry(asked, path)
        if match is not None and not match[1].empty:
            return _credential(match[1], f"{name}, entry {without_login(match[0])[:200]}")
        if auths.store:
            return await self._of_helper(auths.store, asked, f"credsStore of {name}")
        return Credential()

    async def _auths(self, name: str) -> AuthFile | None:
        job = Job(f"reading credentials from {name}", name, FILES_SECONDS)
        return await foreign(job, self._files.load, name, docker_config.parse_auth_file)

    async def _of_helper(self, helper: str, asked: str, named_by: str) -> Credential:
        server = docker_config.helper_server(asked)
        kept = self._answers.get((helper, server))
        if kept is None or kept[0] <= self._clock():
            kept = self._clock() + HELPER_KEPT, await _ask(helper, server, named_by)
            if len(self._answers) >= _MAX_KEPT:
                self._answers.clear()
            self._answers[helper, server] = kept
        return _credential(kept[1], f"docker-credential-{helper} ({named_by})")


def request_credential(auth: AuthConfig) -> Credential:
    """What a request gives, all kinds that are there: which one counts is Credential's own rule.

    Username and password win over `auth`, as with the peers. InvalidRequest names the field.
    """
    for field in ("username", "password", "auth", "server_address", "identity_token", "registry_token"):
        if len(getattr(auth, field)) > docker_config.SECRET_BYTES:
            raise InvalidRequest(
                f"is longer than {docker_config.SECRET_BYTES} characters", field=f"auth.{field}"
            )
    for field in ("identity_token", "registry_token"):
        if not _TOKEN.fullmatch(getattr(auth, field)):
            raise InvalidRequest("has characters that a token cannot have", field=f"auth.{field}")
    username, password = auth.username, auth.password
    if auth.auth and not (username or password):
        try:
            username, password = docker_config.decode_basic(auth.auth)
        except MalformedAuth as error:
            raise InvalidRequest(str(error), field="auth.auth") from None
    if ":" in username:
        raise InvalidRequest("has a colon in it, which RFC 7617 does not allow", field="auth.username")
    given = Credential(username, password, auth.identity_token, auth.registry_token)
    if given.anonymous:
        return given
    if auth.server_address and not _meant_host(auth.server_address):
        raise InvalidRequest("names no host", field="auth.server_address")
    return Credential(username, password, auth.identity_token, auth.registry_token, "request")


def _meant_for(order: PullOrder) -> str:
    """The host, normalized, that the request's credentials are for."""
    return _meant_host(order.auth.server_address or order.reference.registry)


def _meant_host(address: str) -> str:
    return normalized(address).partition("/")[0].rpartition("@")[2]


def _authority(url: str) -> str:
    return urlsplit(url).netloc


def _path(host: RegistryHost) -> str:
    """The repository with the path that its host has it under, as entries of an auth file write it."""
    steps = [step for step in urlsplit(host.url).path.split("/") if step]
    if "v2" in steps:
        steps.remove("v2")
    return "/".join((*steps, host.repository))


def _credential(entry: AuthEntry, source: str) -> Credential:
    if entry.empty:
        return Credential()
    return Credential(entry.username, entry.password, entry.identity_token, entry.registry_token, source)


async def _ask(helper: str, server: str, named_by: str) -> AuthEntry:
    """Run `docker-credential-NAME get`; an empty entry when it knows none."""
    program = f"docker-credential-{helper}"
    what = f"credential helper {program} (named by {named_by}) for {server}"
    try:
        answer = await processes.run(
            (program, "get"),
            timeout=HELPER_TIMEOUT,
            stdin=f"{server}\n".encode(),
            options=processes.RunOptions(output_limit=_HELPER_OUTPUT),
        )
    except TimeoutError as error:
        raise Unavailable(f"{what} does not end: {error}") from error
    except OSError as error:
        raise Unavailable(f"{what} cannot be started: {why(error, what)}") from error
    if answer.timed_out:
        raise Unavailable(f"{what} gave no answer within {HELPER_TIMEOUT:.0f} s")
    if answer.exit_code != 0:
        if docker_config.helper_knows_none(answer.stdout) or docker_config.helper_knows_none(answer.stderr):
            return AuthEntry()
        # What it wrote stays out: nobody can say whether a secret is in it.
        raise Unavailable(
            f"{what} failed with exit code {answer.exit_code}; `echo {server} | {program} get` shows why"
        )
    try:
        return docker_config.parse_helper_answer(answer.stdout)
    except MalformedAuth as error:
        raise Unavailable(f"{what}: its answer {error}") from None
