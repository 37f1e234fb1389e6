"""A registry leads nobody to what only this node reaches: token servers and redirects of SSRF's kind.

Addresses of the loopback interface stand for others: 127.0.0.2 for one of the internet, 127.0.0.3 for one of
a private network.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import pytest

from crib.backends.images.worker import guarded, places
from crib.backends.images.worker.host_pool import HostPool
from crib.backends.images.worker.places import Place
from crib.model.errors import Unavailable
from tests.fault_proxy import FaultProxy, running_proxy
from tests.faults import document, redirect, redirect_to, wants_bearer
from tests.images import BuiltImage, busybox_image
from tests.system.labs.client_lab import client, content, host, mirror_of, refused, resolved
from tests.token_server import running_token_server
from tests.upstreams import Shelf, from_images

pytestmark = pytest.mark.system

STAND_INS = {"127.0.0.2": Place.PUBLIC, "127.0.0.3": Place.PRIVATE}
TOKEN = "token-of-an-internal-service"


@pytest.fixture(scope="module")
def image() -> BuiltImage:
    return busybox_image()


@pytest.fixture
def shelf(image: BuiltImage) -> Shelf:
    return from_images({"a/b": image})


@pytest.fixture(autouse=True)
def stand_ins(monkeypatch: pytest.MonkeyPatch) -> None:
    real = places.place_of

    def place_of(text: str) -> Place:
        return STAND_INS.get(text) or real(text)

    monkeypatch.setattr(guarded, "place_of", place_of)
    monkeypatch.setattr(places, "place_of", place_of)


@pytest.fixture
def public(shelf: Shelf) -> Iterator[FaultProxy]:
    with running_proxy(shelf, address="127.0.0.2") as proxy:
        yield proxy


@pytest.fixture
def private(shelf: Shelf) -> Iterator[FaultProxy]:
    with running_proxy(shelf, address="127.0.0.3") as proxy:
        yield proxy


@pytest.fixture
def internal(shelf: Shelf) -> Iterator[FaultProxy]:
    """A service of this node that gives a token to whoever asks."""
    with running_proxy(shelf) as proxy:
        proxy.add("other", document(b'{"access_token": "%s"}' % TOKEN.encode(), "application/json"))
        yield proxy


def realm(url: str) -> Any:
    return wants_bearer("another", f'realm="{url}/metadata/token",service="s"')


async def test_ssrf_a_token_of_a_service_of_this_node_is_not_handed_to_a_registry(
    public: FaultProxy, internal: FaultProxy
) -> None:
    public.add("any", realm(internal.url))
    error = await refused(Unavailable, host(public.url))
    assert internal.seen == []
    assert f"token server {internal.host}" in str(error)
    assert f"{public.url} is public" in str(error)
    assert [one.authorization for one in public.seen if one.authorization] == []


async def test_ssrf_a_name_counts_for_what_it_resolves_to_when_it_is_connected_to(
    public: FaultProxy, internal: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = socket.getaddrinfo

    def rebound(name: str, *arguments: Any, **more: Any) -> Any:
        return real("127.0.0.1" if name == "rebind.test" else name, *arguments, **more)

    monkeypatch.setattr(socket, "getaddrinfo", rebound)
    for what, fault in (
        ("manifest", realm(internal.url.replace("127.0.0.1", "rebind.test"))),
        ("manifest", redirect(internal.url.replace("127.0.0.1", "rebind.test"))),
    ):
        public.clear()
        public.add(what, fault)
        error = await refused(Unavailable, host(public.url))
        assert "loopback address of rebind.test (127.0.0.1)" in str(error)
    assert internal.seen == []


@pytest.mark.parametrize("address", ["169.254.169.254", "[fe80::1]", "[fd00:ec2::254]", "100.100.100.200"])
@pytest.mark.parametrize("way", ["realm", "redirect"])
async def test_ssrf_nobody_is_led_to_a_metadata_server(
    way: str, address: str, internal: FaultProxy, public: FaultProxy
) -> None:
    for registry in (public, internal):
        registry.clear()
        registry.add(
            "manifest", realm(f"http://{address}") if way == "realm" else redirect_to(f"http://{address}/x")
        )
        error = await refused(Unavailable, host(registry.url))
        assert f"link-local address of {address.strip('[]')}" in str(error)
        assert registry.host in str(error)


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
async def test_ssrf_no_redirect_leads_from_the_internet_to_this_node(
    code: int, public: FaultProxy, internal: FaultProxy
) -> None:
    public.add("manifest", redirect(internal.url, code))
    error = await refused(Unavailable, host(public.url))
    assert internal.seen == []
    assert "loopback address of 127.0.0.1" in str(error)


async def test_ssrf_a_token_server_that_redirects_into_a_private_network_is_not_followed(
    public: FaultProxy, private: FaultProxy, internal: FaultProxy, shelf: Shelf
) -> None:
    with running_proxy(shelf, address="127.0.0.2") as tokens:
        public.add("any", realm(tokens.url))
        for target in (private, internal):
            tokens.clear()
            tokens.add("any", redirect(target.url))
            await refused(Unavailable, host(public.url))
            assert len(tokens.seen) == 1
            assert target.seen == []


async def test_ssrf_a_private_token_server_is_for_registries_of_private_networks(
    public: FaultProxy, private: FaultProxy, image: BuiltImage
) -> None:
    with running_token_server(users={}, address="127.0.0.3") as tokens:
        challenge = f'realm="{tokens.url}",service="{tokens.service}"'
        public.add("any", wants_bearer("x", challenge))
        error = await refused(Unavailable, host(public.url))
        assert "private address of 127.0.0.3" in str(error)
        assert tokens.requests == []
        private.add("manifest", wants_bearer("x", challenge), times=1)
        assert (await resolved(host(private.url))).id == image.id
        assert len(tokens.requests) == 1


async def test_blobs_of_a_public_registry_may_lie_in_the_nodes_own_network(
    public: FaultProxy, private: FaultProxy, image: BuiltImage
) -> None:
    public.add("layer", redirect(private.url))
    layer = image.layers[0]
    async with client(host(public.url)) as asked:
        found = await asked.resolve()
        body = await asked.open_blob(host(public.url), found.layers[0].place, 0, None)
        assert await content(body) == layer.blob
    assert private.seen


async def test_ssrf_a_connection_that_is_kept_for_a_mirror_is_not_lent_to_a_registry(
    public: FaultProxy, internal: FaultProxy
) -> None:
    public.add("layer", redirect(internal.url))
    mirror, registry = mirror_of(internal), host(public.url)
    async with client(mirror, registry, pool=HostPool()) as asked:
        found = await asked.resolve()
        before = len(internal.seen)
        assert before
        with pytest.raises(Exception, match=r"loopback address of 127\.0\.0\.1"):
            await asked.open_blob(registry, found.layers[0].place, 0, None)
        assert len(internal.seen) == before
