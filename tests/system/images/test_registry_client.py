"""Hosts that redirect, are busy, away or wrong; what is chosen of what they have; and who is asked what."""

from __future__ import annotations

import email.utils
import hashlib
import itertools
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from crib.backends.images.worker import tokens
from crib.backends.images.worker.connections import DamagedFailure, HostFailure
from crib.backends.images.worker.host_pool import HostPool
from crib.backends.images.worker.registry import RegistryClient
from crib.model.errors import REGISTRY_UNAVAILABLE, Broken, CribError, NotFound, Unavailable
from crib.model.registry import ClientCertificate, Credential, RegistryHost
from tests.fault_proxy import FaultProxy, running_proxy
from tests.faults import (
    cut,
    document,
    drip,
    in_seconds,
    no_head,
    redirect,
    redirect_to,
    status,
    too_many,
)
from tests.images import BuiltImage, busybox_image, digest_of
from tests.registry import free_port
from tests.system.labs.client_lab import (
    Sleeps,
    client,
    content,
    host,
    mirror_of,
    order,
    refused,
    resolved,
    terms,
)
from tests.tls_lab import Authority
from tests.upstreams import Shelf, from_images

pytestmark = pytest.mark.system

INDEX = "application/vnd.oci.image.index.v1+json"
SOURCE = Path(__file__).resolve().parents[3] / "src"


@pytest.fixture(scope="module")
def image() -> BuiltImage:
    return busybox_image()


@pytest.fixture
def shelf(image: BuiltImage) -> Shelf:
    return from_images({"a/b": image})


@pytest.fixture
def registry(shelf: Shelf) -> Iterator[FaultProxy]:
    with running_proxy(shelf) as proxy:
        yield proxy


@pytest.fixture
def mirror(shelf: Shelf) -> Iterator[FaultProxy]:
    with running_proxy(shelf) as proxy:
        yield proxy


# Which host is asked, for what


async def test_an_image_is_found_with_its_documents(registry: FaultProxy, image: BuiltImage) -> None:
    found = await resolved(host(registry.url))
    assert found.id == image.id
    assert found.documents.config == image.config_blob
    assert found.documents.manifest == image.manifest_blob
    fetched = found.fetched(())
    assert fetched.documents == found.documents
    accept = registry.of("manifest")[0].headers["accept"].split(", ")
    assert accept == [
        "application/vnd.oci.image.index.v1+json",
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
        "application/vnd.docker.distribution.manifest.v2+json",
    ]


async def test_a_digest_beside_a_tag_decides(registry: FaultProxy, image: BuiltImage) -> None:
    digest = digest_of(image.manifest_blob)
    assert (await resolved(host(registry.url), tag="other", digest=digest)).id == image.id
    assert [one.path for one in registry.of("manifest")] == [f"/v2/a/b/manifests/{digest}"]


async def test_each_host_has_its_own_root_repository_and_namespace(shelf: Shelf, image: BuiltImage) -> None:
    with running_proxy(
        lambda seen: shelf(replace(seen, path=seen.path.replace("/hub/v2/x/", "/v2/")))
    ) as hub:
        one = RegistryHost(f"{hub.url}/hub/v2", "x/a/b", "a test", namespace="docker.io")
        assert (await resolved(one)).id == image.id
    assert hub.seen[0].path == "/hub/v2/x/a/b/manifests/1?ns=docker.io"
    assert hub.seen[1].path == f"/hub/v2/x/a/b/blobs/{image.id}?ns=docker.io"


async def test_a_slip_is_forgiven_once(registry: FaultProxy, image: BuiltImage) -> None:
    sleeps = Sleeps()
    for what, fault in (("manifest", status(502)), ("config", cut(10, "reset", length=20))):
        registry.add(what, fault, times=1)
    assert (await resolved(host(registry.url), pool=sleeps.pool())).id == image.id
    assert len(registry.seen) == 4
    registry.clear()
    registry.add("manifest", status(500))
    await refused(Unavailable, host(registry.url), pool=sleeps.pool())
    assert len(registry.seen) == 2


async def test_only_hosts_that_may_are_asked_for_a_tag_and_for_blobs(
    registry: FaultProxy, mirror: FaultProxy, image: BuiltImage
) -> None:
    by_digest = mirror_of(mirror, resolves=False)
    resolving = host(registry.url, pulls=False)
    async with client(by_digest, resolving) as asked:
        found = await asked.resolve()
        assert asked.blob_hosts() == [by_digest]
    assert found.id == image.id
    assert [one.kind for one in registry.seen] == ["manifest"]
    assert [one.kind for one in mirror.seen] == ["layer"]  # the config, which that mirror never saw a name of


async def test_no_host_that_may_be_asked_is_an_error(registry: FaultProxy) -> None:
    error = await refused(Unavailable, host(registry.url, resolves=False))
    assert "no host may be asked" in str(error)


async def test_who_served_the_manifest_is_asked_first_for_blobs(
    registry: FaultProxy, mirror: FaultProxy, image: BuiltImage
) -> None:
    mirror.add("manifest", status(404))
    hosts = mirror_of(mirror), host(registry.url)
    async with client(*hosts) as asked:
        await asked.resolve()
        assert list(asked.blob_hosts()) == [hosts[1], hosts[0]]
        asked.mark_dead(hosts[1])
        assert list(asked.blob_hosts()) == [hosts[0], hosts[1]]


@pytest.mark.parametrize(
    "fault",
    [
        document(b"{}"),
        document(b"<html>log in</html>", "text/html"),
        status(500),
        status(404),
        status(403),
        no_head(),
        no_head("reset"),
        cut(10),
        cut(10, "reset"),
        redirect_to("file:///etc/passwd"),
        redirect_to("http://[::1"),
        redirect_to(""),
        redirect_to("//"),
        redirect_to("http://\u2028@/"[:8]),
    ],
)
async def test_a_mirror_that_is_wrong_is_passed(
    registry: FaultProxy, mirror: FaultProxy, image: BuiltImage, fault: Any
) -> None:
    mirror.add("manifest", fault)
    assert (await resolved(mirror_of(mirror), host(registry.url))).id == image.id


async def test_a_mirror_with_another_digest_is_passed_and_broken_if_all_have(
    registry: FaultProxy, mirror: FaultProxy, image: BuiltImage
) -> None:
    wrong = document(image.manifest_blob + b" ")
    digest = digest_of(image.manifest_blob)
    mirror.add("manifest", wrong)
    assert (await resolved(mirror_of(mirror), host(registry.url), digest=digest)).id == image.id
    registry.add("manifest", wrong)
    error = await refused(Broken, mirror_of(mirror), host(registry.url), digest=digest)
    assert str(error).count("sent a manifest of digest") == 2


async def test_a_wrong_config_is_passed(registry: FaultProxy, mirror: FaultProxy, image: BuiltImage) -> None:
    mirror.add(image.id, document(b"{}"))
    assert (await resolved(mirror_of(mirror), host(registry.url))).id == image.id
    mirror.clear()
    mirror.add(image.id, document(image.config_blob + b"more"))
    assert (await resolved(mirror_of(mirror), host(registry.url))).id == image.id


@pytest.mark.parametrize(
    ("code", "kind", "reason"),
    [
        (404, NotFound, ""),
        (401, Unavailable, ""),
        (403, Unavailable, ""),
        (500, Unavailable, REGISTRY_UNAVAILABLE),
        (418, Unavailable, REGISTRY_UNAVAILABLE),
    ],
)
async def test_what_the_origin_says_decides_the_error(
    registry: FaultProxy, mirror: FaultProxy, code: int, kind: type[CribError], reason: str
) -> None:
    mirror.add("any", status(404 if code == 500 else 500))
    registry.add("any", status(code))
    error = await refused(kind, mirror_of(mirror), host(registry.url))
    assert isinstance(error, CribError)
    assert error.reason == reason
    for proxy in (mirror, registry):
        assert f"{proxy.host}: status " in str(error)


async def test_the_last_host_decides_where_none_is_the_origin(
    registry: FaultProxy, mirror: FaultProxy
) -> None:
    mirror.add("manifest", status(500))
    last = mirror_of(registry)
    assert "status 404" in str(await refused(NotFound, mirror_of(mirror), last, tag="no"))
    asked = RegistryClient(order(mirror_of(mirror), last), HostPool())
    failures = [(last, HostFailure(500, "x")), (mirror_of(mirror), HostFailure(404, "x"))]
    assert asked.failure("x", [*failures, (last, HostFailure(404, "x"))]).reason == ""
    assert asked.failure("x", failures).reason == REGISTRY_UNAVAILABLE


# Redirects


async def test_a_redirect_is_followed_with_its_query_untouched(
    registry: FaultProxy, shelf: Shelf, image: BuiltImage
) -> None:
    query = "?X-Sig=a%2Fb%3d+c&x=%7E"
    with running_proxy(shelf) as store:
        registry.add("layer", redirect(store.url, 302, query))
        mine = host(registry.url)
        async with client(mine) as asked:
            found = await asked.resolve()
            body = await asked.open_blob(mine, found.layers[0].place, 0, None)
            assert digest_of(await content(body)) == found.layers[0].blob_digest
        assert store.seen[0].path.endswith(query)


async def test_redirects_do_not_go_on_for_ever(registry: FaultProxy) -> None:
    registry.add("manifest", redirect(registry.url))
    error = await refused(Unavailable, host(registry.url))
    assert "redirects more than 5 times" in str(error)
    assert len(registry.seen) == 6


async def test_a_redirect_out_of_https_is_refused(shelf: Shelf, registry: FaultProxy) -> None:
    authority = Authority()
    with running_proxy(shelf, tls=authority.server_context()) as secure:
        secure.add("manifest", redirect(registry.url, query="?sig=hidden"))
        error = await refused(Unavailable, host(secure.url, authorities=(authority.pem,)))
    assert "redirects to plain http at 127.0.0.1" in str(error)
    assert "hidden" not in str(error)
    assert registry.seen == []


async def test_a_host_that_cannot_be_reached_is_told_in_words_without_numbers(registry: FaultProxy) -> None:
    error = await refused(Unavailable, host(f"http://127.0.0.1:{free_port()}"))
    assert "connection failed: connection refused" in str(error)
    error = await refused(Unavailable, host("http://registry.invalid"))
    assert "connection failed: " in str(error)
    assert "Errno" not in str(error)


async def test_a_signed_url_does_not_show_in_an_error(registry: FaultProxy) -> None:
    registry.add("manifest", redirect_to(f"http://127.0.0.1:{free_port()}/x?X-Amz-Signature=hidden"))
    error = await refused(Unavailable, host(registry.url))
    assert "connection failed: connection refused" in str(error)
    assert "hidden" not in str(error)
    registry.clear()
    registry.add("manifest", redirect("", query="?sig=hidden"), times=1)
    registry.add("manifest", cut(5, "reset"))
    assert "hidden" not in str(await refused(Unavailable, host(registry.url)))


# TLS


async def test_own_authorities_are_believed_and_others_are_not(shelf: Shelf, image: BuiltImage) -> None:
    authority = Authority()
    with running_proxy(shelf, tls=authority.server_context()) as secure:
        both = (Authority("another").pem, authority.pem)
        assert (await resolved(host(secure.url, authorities=both))).id == image.id
        assert (await resolved(host(secure.url, authorities=("\n".join(both),)))).id == image.id
        for authorities in ((), (Authority("another").pem,)):
            error = await refused(Unavailable, host(secure.url, authorities=authorities))
            assert "its certificate is not accepted" in str(error)
        assert (await resolved(host(secure.url, skip_verify=True))).id == image.id
        error = await refused(Unavailable, host(secure.url, authorities=("no pem",)))
        assert "certificate authority 1 cannot be read" in str(error)


async def test_a_certificate_for_another_name_is_not_accepted(shelf: Shelf) -> None:
    authority = Authority()
    with running_proxy(shelf, tls=authority.server_context("registry.example")) as secure:
        error = await refused(Unavailable, host(secure.url, authorities=(authority.pem,)))
    assert "its certificate is not accepted" in str(error)


async def test_a_client_certificate_is_shown_to_its_own_host_only(shelf: Shelf, image: BuiltImage) -> None:
    authority, clients = Authority(), Authority("clients")
    one = clients.client()
    wanted = authority.server_context(clients=clients)
    with running_proxy(shelf, tls=wanted) as secure, running_proxy(shelf, tls=wanted) as store:
        for certificate in (
            ClientCertificate(one.certificate, one.key),
            ClientCertificate(one.certificate + one.key),
        ):
            mine = host(secure.url, authorities=(authority.pem,), certificates=(certificate,))
            assert (await resolved(mine)).id == image.id
        await refused(Unavailable, host(secure.url, authorities=(authority.pem,)))
        secure.add("manifest", redirect(store.url))
        await refused(Unavailable, mine)
        assert store.seen == []


async def test_a_key_that_cannot_be_read_is_named(shelf: Shelf) -> None:
    one = Authority().client()
    other = Authority().client()
    with running_proxy(shelf, tls=Authority().server_context()) as secure:
        for certificate in (ClientCertificate(one.certificate, other.key), ClientCertificate("x", "y")):
            error = await refused(Unavailable, host(secure.url, certificates=(certificate,)))
            assert "client certificate 1 cannot be read" in str(error)


LOADING = """\
import sys
from crib.backends.images.worker.host_pool import tls_context
from crib.host.privileges import drop_privileges
from crib.model.registry import ClientCertificate, RegistryHost
drop_privileges(65534, 65534)
tls_context(RegistryHost("https://x/v2", "a", "", skip_verify=True), [ClientCertificate(*sys.argv[1:])])
"""


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give up what it has")
def test_a_client_certificate_can_be_loaded_by_who_has_given_up_all_rights() -> None:
    one = Authority().client()
    # A program of its own: a fork of this one would have the locks that its threads held, for ever.
    done = subprocess.run(
        [sys.executable, "-c", LOADING, one.certificate, one.key],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(SOURCE)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


# Busy hosts, and hosts that are away


@pytest.mark.parametrize(("after", "least"), [("2", 2.0), ("0", 0.0), (None, 0.25)])
async def test_a_busy_host_is_asked_again_when_it_says(
    registry: FaultProxy, image: BuiltImage, after: str | None, least: float
) -> None:
    sleeps = Sleeps()
    registry.add("manifest", too_many(after), times=1)
    assert (await resolved(host(registry.url), pool=sleeps.pool())).id == image.id
    (slept,) = sleeps.slept
    assert least <= slept <= 1.2 * least + 0.3


async def test_a_date_is_a_time_to_wait_for(registry: FaultProxy, image: BuiltImage) -> None:
    sleeps = Sleeps()
    date = in_seconds(20)
    told = email.utils.parsedate_to_datetime(date).timestamp()
    registry.add("manifest", status(503, {"Retry-After": date}), times=1)
    before = time.time()
    assert (await resolved(host(registry.url), pool=sleeps.pool())).id == image.id
    earliest, latest = told - time.time(), told - before
    assert earliest <= sleeps.slept[0] <= 1.1 * latest + 0.1


async def test_pauses_grow_and_end_with_the_next_host(
    registry: FaultProxy, mirror: FaultProxy, image: BuiltImage
) -> None:
    sleeps = Sleeps()
    pool = sleeps.pool()
    mirror.add("any", status(503))
    hosts = mirror_of(mirror), host(registry.url)
    assert (await resolved(*hosts, pool=pool)).id == image.id
    assert len(mirror.seen) == 5
    assert all(low <= slept <= 2 * low for low, slept in zip((0.25, 0.5, 1, 2), sleeps.slept, strict=True))
    assert pool.is_dead(hosts[0])
    assert (await resolved(*hosts, pool=pool)).id == image.id
    assert len(mirror.seen) == 5


async def test_nobody_waits_longer_than_a_minute(registry: FaultProxy) -> None:
    sleeps = Sleeps()
    registry.add("manifest", too_many("25"))
    error = await refused(Unavailable, host(registry.url), pool=sleeps.pool())
    assert "status 429" in str(error)
    assert sum(sleeps.slept) <= 60
    assert len(registry.seen) == 3
    registry.clear()
    registry.add("manifest", too_many("3600"))
    sleeps.now += 100
    sleeps.slept.clear()
    await refused(Unavailable, host(registry.url), pool=sleeps.pool())
    assert (len(registry.seen), sleeps.slept) == (1, [])


async def test_a_busy_host_is_left_alone_by_every_pull(registry: FaultProxy, image: BuiltImage) -> None:
    sleeps = Sleeps()
    pool = sleeps.pool()
    pool.hold(registry.url, 7.0)
    await resolved(host(registry.url), pool=pool)
    assert sleeps.slept == [7.0]


async def test_a_host_that_is_away_costs_its_time_out_once(registry: FaultProxy, image: BuiltImage) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(64)  # connections are taken and never answered
        away = host(f"http://127.0.0.1:{silent.getsockname()[1]}", is_origin=False, connect_timeout=0.5)
        pool = HostPool()
        began = time.monotonic()
        for _ in range(5):
            assert (await resolved(away, host(registry.url), pool=pool)).id == image.id
        assert time.monotonic() - began >= 0.5
        assert pool.is_dead(away)
        assert came(silent) == 1
        error = await refused(Unavailable, away)
        assert "gave no answer within 0.5 s" in str(error)


def came(listener: socket.socket) -> int:
    """How many have come to a door that nobody opens."""
    listener.setblocking(False)
    for count in itertools.count():
        try:
            listener.accept()[0].close()
        except BlockingIOError:
            return count
    raise AssertionError


async def test_a_host_is_asked_in_its_turn_again_when_it_was_away_long_ago(
    registry: FaultProxy, mirror: FaultProxy
) -> None:
    sleeps = Sleeps()
    pool = sleeps.pool()
    hosts = mirror_of(mirror), host(registry.url)
    pool.mark_dead(hosts[0], 60.0)
    assert pool.dead_last(hosts) == [hosts[1], hosts[0]]
    sleeps.now += 61
    assert pool.dead_last(hosts) == list(hosts)
    pool.mark_dead(hosts[0], 0.0)
    assert pool.dead_last(hosts) == list(hosts)


async def test_a_manifest_that_trickles_in_is_given_up(
    registry: FaultProxy, mirror: FaultProxy, image: BuiltImage
) -> None:
    mirror.add("manifest", drip(1, 0.05))
    found = await resolved(mirror_of(mirror), host(registry.url), terms=terms(stall_timeout=1.5))
    assert found.id == image.id
    assert len(mirror.of("manifest")) == 1


async def test_an_endless_manifest_is_given_up(registry: FaultProxy) -> None:
    registry.add("manifest", document(b" " * ((8 << 20) + 1)))
    assert "sent more than 8388608 bytes" in str(await refused(Unavailable, host(registry.url)))


# Errors


def test_a_failure_says_what_every_host_said() -> None:
    one, two = host("http://user:pw@one.example", is_origin=False), host("http://two.example")
    asked = RegistryClient(order(one, two), HostPool())
    error = asked.failure(
        "layer sha256:00", [(one, HostFailure(0, "it is away")), (two, DamagedFailure(200, "it is wrong"))]
    )
    assert isinstance(error, Broken)
    assert str(error) == (
        "layer sha256:00 of registry.example/a/b could not be pulled "
        "(one.example: it is away; two.example: it is wrong)"
    )


def test_a_key_of_the_pool_tells_nothing() -> None:
    one = host("http://one.example", credential=Credential("u", "p"))
    assert tokens._key(one) != tokens._key(host("http://one.example"))
    assert len(tokens._key(one)) == len(hashlib.sha256().hexdigest())
