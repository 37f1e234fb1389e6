"""Passwords and tokens: who gets them, how often, and that they show nowhere."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from crib.backends.images.worker.host_pool import HostPool
from crib.model.errors import CribError, Unavailable
from crib.model.registry import Credential, RegistryHost
from tests.fault_proxy import FaultProxy, running_proxy
from tests.faults import redirect, status, then_also, wants_basic, wants_bearer
from tests.images import BuiltImage, busybox_image, push
from tests.registry import BASIC_PASSWORD, BASIC_USER, free_port, running_registry
from tests.system.labs.client_lab import BASIC, SECRETS, Sleeps, client, host
from tests.tls_lab import Authority
from tests.token_server import TokenServer, everybody, running_token_server
from tests.upstreams import from_images, from_url

pytestmark = pytest.mark.system

PASSWORD = Credential("alice", "secret", source="/etc/crib/auth.json")
IDENTITY = Credential("alice", identity_token="rt", source="request")


@pytest.fixture(scope="module")
def image() -> BuiltImage:
    return busybox_image()


@pytest.fixture
def registry(image: BuiltImage) -> Iterator[FaultProxy]:
    with running_proxy(from_images({"a/b": image})) as proxy:
        yield proxy


def bearer(registry: FaultProxy, tokens: TokenServer, scope: str = "") -> None:
    """From now on the registry takes tokens of this server only."""
    challenge = f'realm="{tokens.url}",service="{tokens.service}"' + (f',scope="{scope}"' if scope else "")

    def change(exchange: Any) -> None:
        token = tokens.issued[-1] if tokens.issued else "none"
        wants_bearer(token, challenge)(exchange)

    registry.add("any", change)


async def resolved(*hosts: RegistryHost, pool: HostPool | None = None, **fields: Any) -> str:
    """The image's id."""
    async with client(*hosts, pool=pool, **fields) as asked:
        return (await asked.resolve()).id


async def refused(*hosts: RegistryHost, kind: type[CribError] = Unavailable) -> str:
    """What the pull says; nothing in it is secret."""
    async with client(*hosts) as asked:
        with pytest.raises(kind) as caught:
            await asked.resolve()
    text = str(caught.value)
    assert not any(secret in text for secret in (*SECRETS, "secret", "rt-"))
    return text


async def test_a_real_registry_takes_the_tokens_of_its_server(tmp_path: Path, image: BuiltImage) -> None:
    with (
        running_token_server(users={"alice": "secret"}, refresh_tokens={"rt": "alice"}) as tokens,
        running_registry(tmp_path) as plain,
        running_registry(tmp_path, token=tokens) as url,
    ):
        push(plain, image, "a/b", "1")
        pool = HostPool()
        for credential in (PASSWORD, IDENTITY):
            assert await resolved(host(url, credential=credential), pool=pool) == image.id
        assert [one.method for one in tokens.requests] == ["GET", "POST"]
        assert all(one.scopes == ("repository:a/b:pull",) for one in tokens.requests)
        text = await refused(host(url))
        assert "it asks for credentials, and there are none for it" in text
        tokens.public = everybody
        assert await resolved(host(url)) == image.id
        assert tokens.requests[-1].basic is None
        # The same pool: an anonymous pull has not made use of what others were given, nor they of its.
        assert await resolved(host(url), pool=pool) == image.id
        assert len(tokens.requests) == 5


async def test_a_real_registry_takes_basic_credentials(tmp_path: Path, image: BuiltImage) -> None:
    with running_registry(tmp_path) as plain, running_registry(tmp_path, basic=True) as url:
        push(plain, image, "a/b", "1")
        good = Credential(BASIC_USER, BASIC_PASSWORD)
        assert await resolved(host(url, credential=good)) == image.id
        text = await refused(host(url, credential=replace(good, password="wrong", source="the helper")))
        assert "it refuses the credentials (of the helper)" in text
        assert "there are none for it" in await refused(host(url))


async def test_basic_credentials_are_sent_only_once_they_are_asked_for(registry: FaultProxy) -> None:
    registry.add("any", wants_basic(BASIC.username, BASIC.password))
    await resolved(host(registry.url, credential=BASIC))
    assert [bool(one.authorization) for one in registry.seen] == [False, True, True]
    assert [one.status for one in registry.seen] == [401, 200, 200]


async def test_a_password_is_tried_by_get_and_then_by_post(registry: FaultProxy) -> None:
    with running_token_server(users={"alice": "secret"}, failing=[404]) as tokens:
        bearer(registry, tokens)
        await resolved(host(registry.url, credential=PASSWORD))
    get, post = tokens.requests
    assert get.basic == ("alice", "secret")
    assert get.parameters["account"] == "alice"
    assert (post.method, post.parameters["grant_type"]) == ("POST", "password")
    assert "authorization" not in post.headers


@pytest.mark.parametrize("code", [401, 404, 405])
async def test_an_identity_token_is_tried_by_post_and_then_by_get(registry: FaultProxy, code: int) -> None:
    with running_token_server(users={"alice": "rt"}, oauth=code) as tokens:
        bearer(registry, tokens)
        await resolved(host(registry.url, credential=IDENTITY))
    post, get = tokens.requests
    assert post.parameters["grant_type"] == "refresh_token"
    assert post.parameters["refresh_token"] == "rt"
    assert post.parameters["service"] == tokens.service
    assert get.basic == ("alice", "rt")


async def test_an_identity_token_goes_before_a_password_and_that_is_tried_next(registry: FaultProxy) -> None:
    both = Credential("alice", "secret", identity_token="old")
    with running_token_server(users={"alice": "secret"}) as tokens:
        bearer(registry, tokens)
        await resolved(host(registry.url, credential=both))
    assert [one.method for one in tokens.requests] == ["POST", "GET"]
    assert tokens.requests[1].basic == ("alice", "secret")


async def test_a_registry_token_is_sent_as_it_is_and_nobody_else_is_asked(registry: FaultProxy) -> None:
    with running_token_server() as tokens:
        registry.add("any", wants_bearer(SECRETS[2], f'realm="{tokens.url}"'))
        await resolved(host(registry.url, credential=Credential(registry_token=SECRETS[2])))
        assert [one.status for one in registry.seen] == [200, 200]
        await refused(host(registry.url, credential=Credential(registry_token="other")))
    assert tokens.requests == []


async def test_a_token_is_kept_for_its_scope_and_credential(registry: FaultProxy, image: BuiltImage) -> None:
    pool = HostPool()
    with running_token_server(users={"alice": "secret"}, public=everybody) as tokens:
        registry.add("any", wants_bearer_of(tokens))
        mine = host(registry.url, credential=PASSWORD)
        for _ in range(3):
            await resolved(mine, pool=pool)
        assert len(tokens.requests) == 1
        await resolved(host(registry.url), pool=pool)
        assert len(tokens.requests) == 2
    assert not any("secret" in key or "alice" in key for key in pool.grants)
    assert "secret" not in repr(pool.grants)
    assert tokens.issued[0] not in repr(pool.grants)


def wants_bearer_of(tokens: TokenServer) -> Any:
    """The registry takes any token that was ever issued."""

    def change(exchange: Any) -> None:
        sent = exchange.seen.authorization.removeprefix("Bearer ")
        if sent not in tokens.issued:
            wants_bearer("-", f'realm="{tokens.url}",service="{tokens.service}"')(exchange)

    return change


async def test_a_token_that_is_refused_is_fetched_anew_once(registry: FaultProxy) -> None:
    pool = HostPool()
    with running_token_server(public=everybody) as tokens:
        bearer(registry, tokens)
        await resolved(host(registry.url), pool=pool)
        tokens.token("", ("repository:a/b:pull",))  # whatever was issued before counts no more
        await resolved(host(registry.url), pool=pool)
        assert len(tokens.requests) == 2
        registry.clear()
        registry.add("any", wants_bearer("never", f'realm="{tokens.url}"'))
        async with client(host(registry.url), pool=pool) as asked:
            with pytest.raises(Unavailable, match="status 401"):
                await asked.resolve()
        assert len(tokens.requests) == 3
        assert [one.status for one in registry.seen] == [401, 401]


async def test_a_token_is_renewed_before_it_ends(
    registry: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("crib.backends.images.worker.host_pool._EARLY", 100.0)
    pool = HostPool()
    with running_token_server(public=everybody, expires_in=70) as tokens:
        registry.add("any", wants_bearer_of(tokens))
        await resolved(host(registry.url), pool=pool)
        # The manifest cost a 401; the config's token was had without one.
        assert [one.status for one in registry.seen] == [401, 200, 200]
        assert len(tokens.requests) == 2


async def test_requests_that_need_the_same_token_share_one_fetch(
    registry: FaultProxy, image: BuiltImage
) -> None:
    gate = threading.Event()
    with running_token_server(public=everybody, gate=gate) as tokens:
        registry.add("any", wants_bearer_of(tokens))
        pool = HostPool()
        pulls = asyncio.gather(*(resolved(host(registry.url), pool=pool) for _ in range(6)))
        await asyncio.to_thread(
            registry.wait_for, lambda proxy: sum(one.status == 401 for one in proxy.seen) == 6
        )
        gate.set()
        assert set(await pulls) == {image.id}
    assert len(tokens.requests) == 1


async def test_the_scope_that_the_registry_names_is_asked_for(registry: FaultProxy) -> None:
    with running_token_server(public=everybody) as tokens:
        bearer(registry, tokens, scope="repository:a/b:pull registry:catalog:*")
        await resolved(host(registry.url))
    assert tokens.requests[0].scopes == ("repository:a/b:pull", "registry:catalog:*")


async def test_bearer_is_chosen_where_basic_is_offered_too(registry: FaultProxy) -> None:
    with running_token_server(users={"alice": "secret"}) as tokens:

        def change(exchange: Any) -> None:
            if not exchange.seen.authorization.startswith("Bearer"):
                challenge = f'Basic realm="x", Bearer realm="{tokens.url}"'
                status(401, {"WWW-Authenticate": challenge})(exchange)

        registry.add("any", change)
        await resolved(host(registry.url, credential=PASSWORD))
    assert len(tokens.requests) == 1
    assert not any(one.authorization.startswith("Basic") for one in registry.seen)


async def test_a_token_server_that_refuses_names_itself_and_no_secret(registry: FaultProxy) -> None:
    with running_token_server(users={"alice": "other"}) as tokens:
        bearer(registry, tokens)
        text = await refused(host(registry.url, credential=PASSWORD))
    name = tokens.url.removeprefix("http://").removesuffix("/token")
    assert f"token server {name}: status 401" in text
    assert "it refuses the credentials (of /etc/crib/auth.json)" in text


async def test_a_busy_token_server_is_asked_again(registry: FaultProxy) -> None:
    sleeps = Sleeps()
    with running_token_server(public=everybody, failing=[503, 429]) as tokens:
        bearer(registry, tokens)
        await resolved(host(registry.url), pool=sleeps.pool())
    assert len(tokens.requests) == 3
    assert len(sleeps.slept) == 2


async def test_a_token_server_that_is_away_is_no_lack_of_credentials(registry: FaultProxy) -> None:
    bearer(registry, TokenServer(url=f"http://127.0.0.1:{free_port()}/token"))
    async with client(host(registry.url)) as asked:
        with pytest.raises(Unavailable, match="connection failed") as caught:
            await asked.resolve()
    assert caught.value.reason == "RegistryUnavailable"


async def test_credentials_go_to_their_own_host_only(registry: FaultProxy, image: BuiltImage) -> None:
    mine = host(registry.url, credential=BASIC, headers=(("X-Mine", "yes"),))
    with running_proxy(from_images({"a/b": image})) as store:
        registry.add("any", then_also(redirect(store.url), wants_basic(BASIC.username, BASIC.password)))
        async with client(mine) as asked:
            found = await asked.resolve()
            body = await asked.open_blob(mine, found.layers[0].place, 10, 20)
            assert [chunk async for chunk in body.chunks()]
            body.close()
        assert [bool(one.authorization) for one in registry.seen] == [False, True, True, True]
        assert all(one.headers["x-mine"] == "yes" for one in registry.seen)
        assert len(store.seen) == 3
        assert not any({"authorization", "x-mine", "cookie"} & set(one.headers) for one in store.seen)
        assert store.seen[-1].range == "bytes=10-19"


async def test_a_challenge_of_a_host_that_a_redirect_led_to_gets_nothing(
    registry: FaultProxy, image: BuiltImage
) -> None:
    with (
        running_token_server(users={"alice": "secret"}) as thief,
        running_proxy(from_images({"a/b": image})) as store,
    ):
        registry.add("any", redirect(store.url))
        store.add("any", wants_bearer("x", f'realm="{thief.url}"'))
        await refused(host(registry.url, credential=PASSWORD))
    assert thief.requests == []
    assert not any(one.authorization for one in store.seen)


async def test_credentials_do_not_return_over_a_redirect_back(
    registry: FaultProxy, image: BuiltImage
) -> None:
    with running_proxy(from_images({"a/b": image})) as other:
        registry.add("manifest", redirect(other.url), times=1)
        other.add("manifest", redirect(registry.url))
        token = Credential(registry_token=SECRETS[2])
        await resolved(host(registry.url, credential=token))
    first, second = registry.of("manifest")
    assert first.authorization
    assert not second.authorization


async def test_a_token_server_over_plain_http_gets_nothing_of_a_registry_over_https(
    image: BuiltImage,
) -> None:
    authority = Authority()
    with (
        running_token_server(users={"alice": "secret"}) as tokens,
        running_proxy(from_images({"a/b": image}), tls=authority.server_context()) as secure,
    ):
        bearer(secure, tokens)
        text = await refused(host(secure.url, credential=PASSWORD, authorities=(authority.pem,)))
    assert "over plain http" in text
    assert tokens.requests == []


async def test_a_token_server_of_the_same_authority_is_believed(image: BuiltImage) -> None:
    authority = Authority()
    with (
        running_token_server(users={"alice": "secret"}, tls=authority.server_context()) as tokens,
        running_proxy(from_images({"a/b": image}), tls=authority.server_context()) as secure,
    ):
        bearer(secure, tokens)
        mine = host(secure.url, credential=PASSWORD, authorities=(authority.pem,))
        assert await resolved(mine) == image.id


async def test_what_a_server_repeats_of_a_secret_is_not_shown(registry: FaultProxy) -> None:
    echo = f'{{"errors":[{{"code":"DENIED","message":"bad {SECRETS[0]} in Basic Zm9v"}}]}}'.encode()
    registry.add("any", status(403, {}, echo))
    text = await refused(host(registry.url, credential=BASIC))
    assert "DENIED: bad … in Basic …" in text


async def test_netrc_is_not_read(
    tmp_path: Path, registry: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login thief password stolen\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    await resolved(host(registry.url))
    assert not any(one.authorization for one in registry.seen)


async def test_a_mirror_gets_its_own_credential_and_not_the_origins(
    registry: FaultProxy, image: BuiltImage
) -> None:
    with running_proxy(from_images({"a/b": image})) as mirror:
        mirror.add("any", wants_basic("nobody", "else"))
        registry.add("any", wants_basic(BASIC.username, BASIC.password))
        own = Credential("mirror", "mirror-secret")
        hosts = host(mirror.url, is_origin=False, credential=own), host(registry.url, credential=BASIC)
        assert await resolved(*hosts) == image.id
        sent = {one.authorization for one in mirror.seen} - {""}
        assert sent == {"Basic bWlycm9yOm1pcnJvci1zZWNyZXQ="}


async def test_an_upstream_behind_a_proxy_is_reached(
    tmp_path: Path, image: BuiltImage, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running_registry(tmp_path) as url:
        push(url, image, "a/b", "1")
        with running_proxy(from_url(url)) as proxy:
            monkeypatch.setenv("http_proxy", proxy.url.replace("http://", "http://me:pw@"))
            # A name that nobody resolves: only the proxy can have answered.
            assert await resolved(host("http://registry.invalid")) == image.id
            assert proxy.seen[0].headers["host"] == "registry.invalid"
            assert proxy.seen[0].headers["proxy-authorization"] == "Basic bWU6cHc="
            monkeypatch.setenv("no_proxy", "127.0.0.1")
            count = len(proxy.seen)
            assert await resolved(host(url)) == image.id
            assert len(proxy.seen) == count
