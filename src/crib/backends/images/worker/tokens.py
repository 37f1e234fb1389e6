"""What a registry wants to see: passwords, tokens of its token server, and how long they count.

Distribution's token and OAuth2 specifications, as docker and containerd answer them. A secret goes to the
registry's own host, and to the token server that this names: over https, or over http when the registry
itself is spoken to over http.
"""

from __future__ import annotations

import hashlib
import time
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from crib.backends.images.worker.connections import Connections, HostFailure, HttpRequest
from crib.backends.images.worker.host_pool import Grant
from crib.model.registry import Credential, RegistryHost
from crib.wire import registry

if TYPE_CHECKING:
    import aiohttp

_NO_POST = (401, 404, 405)
"""Token servers without OAuth2 answer so; some ask for Basic credentials at POST, too."""
_NO_GET = (404, 405)
MAX_GRANTS = 1000
"""Tokens that are kept; the oldest go first."""


class Authorizer:
    """Authorization headers for one pull; what it learns is shared by the pulls of the process."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections
        self._grants = connections.pool.grants

    async def header(self, host: RegistryHost) -> str:
        """What to send at first: nothing before the host has asked, as it decides what it wants."""
        if host.credential.registry_token:
            return f"Bearer {host.credential.registry_token}"
        grant = self._grants.get(_key(host))
        if grant is None:
            return ""
        if not grant.usable and grant.challenge is not None:
            return await self._renewed(host, grant, grant.challenge, grant.authorization)
        return grant.authorization

    async def answer(self, host: RegistryHost, response: aiohttp.ClientResponse, sent: str) -> str:
        """What to send instead of `sent`, which got this 401; empty when there is nothing else to try.

        HostFailure when the token server gives nothing.
        """
        challenges = registry.parse_challenges(", ".join(response.headers.getall("WWW-Authenticate", [])))
        challenge = registry.choose_challenge(challenges)
        if challenge is None or host.credential.registry_token:
            return ""
        grant = self._grants.get(_key(host))
        if grant is None:
            while len(self._grants) >= MAX_GRANTS:
                del self._grants[next(iter(self._grants))]
            grant = self._grants[_key(host)] = Grant()
        return await self._renewed(host, grant, challenge, sent)

    async def _renewed(
        self, host: RegistryHost, grant: Grant, challenge: registry.Challenge, old: str
    ) -> str:
        async with grant.lock:
            # Whoever waited for the lock takes what the one before him has fetched.
            if grant.usable and grant.authorization != old:
                return grant.authorization
            if challenge.scheme == "basic":
                credential = host.credential
                header = registry.basic(credential.username, credential.password)
                if not credential.password or header == old:
                    return ""
                grant.authorization, grant.ends = header, float("inf")
            else:
                token = await self._fetch(host, challenge)
                grant.authorization = f"Bearer {token.value}"
                grant.ends = time.monotonic() + token.life
                # Only a token that was had once is asked for without a new challenge.
                grant.challenge = challenge
            return grant.authorization

    async def _fetch(self, host: RegistryHost, challenge: registry.Challenge) -> registry.Token:
        """A token of the token server that the challenge names."""
        realm = urlsplit(challenge.parameters["realm"])
        name = realm.netloc.rpartition("@")[2]
        if realm.scheme != "https" and urlsplit(host.url).scheme == "https":
            raise HostFailure(401, f"names the token server {name} over plain http")
        try:
            response = await self._ask(host, challenge)
        except HostFailure as failure:
            raise HostFailure(
                failure.status, f"token server {name}: {failure}", failure.retry_after
            ) from failure
        data = await self._connections.read(response, registry.MAX_TOKEN_BODY)
        if response.status in (400, 401, 403):
            # OAuth2 says invalid_grant with 400 (RFC 6749, 5.2).
            text = f"token server {name}: status {response.status}: {refusal(host.credential)}"
            raise HostFailure(401, text)
        if response.status != 200:
            raise HostFailure(response.status, f"token server {name}: status {response.status}")
        token = registry.parse_token(data, time.time())
        if token is None:
            raise HostFailure(502, f"token server {name} gave no token that can be used")
        return token

    async def _ask(self, host: RegistryHost, challenge: registry.Challenge) -> aiohttp.ClientResponse:
        """OAuth2 first with an identity token, the older GET first with a password or with nothing."""
        credential = host.credential
        query = registry.token_query(challenge, host.repository)
        if credential.identity_token:
            form = registry.refresh_form(query, credential.identity_token)
            response = await self._post(host, challenge, form)
            if response.status not in _NO_POST:
                return response
            response.close()
            return await self._get(host, challenge)
        response = await self._get(host, challenge)
        if response.status in _NO_GET and credential.password:
            response.close()
            form = registry.password_form(query, credential.username, credential.password)
            return await self._post(host, challenge, form)
        return response

    async def _post(
        self, host: RegistryHost, challenge: registry.Challenge, form: dict[str, str]
    ) -> aiohttp.ClientResponse:
        realm = challenge.parameters["realm"].partition("#")[0]
        return await self._connections.send(host, HttpRequest(realm, form=form, token=True))

    async def _get(self, host: RegistryHost, challenge: registry.Challenge) -> aiohttp.ClientResponse:
        credential = host.credential
        secret = credential.password or credential.identity_token
        url = registry.token_url(challenge, host.repository, credential.username if secret else "")
        header = registry.basic(credential.username, secret) if secret else ""
        return await self._connections.send(host, HttpRequest(url, authorization=header, token=True))


def refusal(credential: Credential) -> str:
    """What a 401 or 403 means for who has this credential."""
    if credential.anonymous:
        return "it asks for credentials, and there are none for it"
    return f"it refuses the credentials (of {credential.source or 'the request'})"


def _key(host: RegistryHost) -> str:
    """Host, repository and credential, without giving the latter away."""
    credential = host.credential
    parts = (
        *(host.url, host.repository, credential.username, credential.password),
        *(credential.identity_token, credential.registry_token),
    )
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()
