"""Holes that others had and that need a registry to be seen; the list is in
tests/unit/backends/test_image_cves.py.

    CVE-2020-15157  credentials for the URLs of a foreign layer    test_cve_2020_15157…
    CVE-2019-10214  credentials over plain http                    test_cve_2019_10214…
    CVE-2024-3727   a digest that the registry tells is a path     test_cve_2024_3727…
    CVE-2023-25153  a document without an end                      test_cve_2023_25153…
    CVE-2021-32760, CVE-2025-47290, Python's tarfile               test_a_layer_that_leads_out…
    CVE-2021-20291  one bad layer stops all other pulls            test_cve_2021_20291…
    CVE-2022-24778  the policy of another platform's image         test_cve_2022_24778…
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from crib.model.errors import Broken, CribError, Unavailable
from tests.fault_proxy import Answer, Exchange, Fault, FaultProxy, running_proxy
from tests.faults import (
    cut,
    document,
    held_until,
    redirect,
    redirect_to,
    status,
    then_also,
    wants_basic,
    wants_bearer,
)
from tests.hostile_layers import CANARY, LEADS_OUT, looks
from tests.images import BuiltImage, BuiltLayer, descriptor, digest_of, layer_tar, push
from tests.registry import BASIC_PASSWORD, BASIC_USER, running_registry
from tests.system.labs.image_lab import ImageLab, image_lab
from tests.system.labs.registry_lab import (
    QUICK,
    hosts_toml,
    image_of,
    left_nothing,
    noise_image,
    pull,
    refused,
    secrets_seen,
)
from tests.tls_lab import Authority
from tests.token_server import TokenServer, running_token_server
from tests.upstreams import Shelf, from_url

pytestmark = [
    pytest.mark.root,
    pytest.mark.system,
    pytest.mark.skipif(os.geteuid() != 0, reason="mounts need root"),
]

USER, PASSWORD = "ali-baba", "open-sesame-7f3a"
BASIC = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
SECRETS = (PASSWORD, BASIC)


@pytest.fixture
def shelf() -> Shelf:
    return Shelf()


@pytest.fixture
def origin(shelf: Shelf) -> Iterator[FaultProxy]:
    with running_proxy(shelf) as running:
        yield running


@pytest.fixture
def other(shelf: Shelf) -> Iterator[FaultProxy]:
    """Another host that has the same blobs: a store behind a redirect, a mirror, or an attacker."""
    with running_proxy(shelf) as running:
        yield running


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[ImageLab]:
    async with image_lab(tmp_path, **QUICK, hosts_dirs=(str(tmp_path / "certs.d"),)) as made:
        yield made


async def test_cve_2020_15157_the_urls_of_a_foreign_layer_are_not_even_asked(
    lab: ImageLab, shelf: Shelf, origin: FaultProxy, other: FaultProxy
) -> None:
    image = noise_image()
    shelf.add("a/b", image)
    for media_type in (
        "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
        "application/vnd.oci.image.layer.nondistributable.v1.tar",
        "application/vnd.oci.image.layer.v1.tar",
    ):
        layer = {**image.manifest["layers"][0], "mediaType": media_type, "urls": [f"{other.url}/steal"]}
        shelf.put(
            "a/b", json.dumps({**image.manifest, "layers": [layer]}).encode(), image.manifest["mediaType"]
        )
        origin.add("any", wants_basic(USER, PASSWORD))
        await refused(lab, f"{origin.host}/a/b:1", Broken, "foreign layer", username=USER, password=PASSWORD)
    assert other.seen == []


@pytest.mark.parametrize("way", ["basic", "bearer", "registry token"])
async def test_credentials_stay_with_their_host_when_it_redirects(
    way: str,
    lab: ImageLab,
    shelf: Shelf,
    origin: FaultProxy,
    other: FaultProxy,
    subtests: pytest.Subtests,
) -> None:
    token = "t0ken-for-one-9c2e"
    with running_token_server(users={USER: PASSWORD}) as tokens:
        gate = {
            "basic": wants_basic(USER, PASSWORD),
            "bearer": _any_bearer(tokens),
            "registry token": wants_bearer(token, f'realm="{tokens.url}"'),
        }[way]
        auth = {"username": USER, "password": PASSWORD}
        if way == "registry token":
            auth = {"registry_token": token}
        for code in (301, 302, 303, 307, 308):
            with subtests.test(code=code):
                image = noise_image(20_000, 10_000)
                shelf.add("a/b", image)
                origin.clear()
                other.clear()
                signed = "?X-Signature=abc%2Fdef%3D"
                origin.add("layer", then_also(redirect(other.url, code, signed), gate))
                origin.add("any", gate)
                # Whoever is sent on may be asked for credentials there, and shows none.
                other.add("any", status(401, {"WWW-Authenticate": 'Basic realm="give"'}), times=1)
                name = f"{origin.host}/a/b:1"
                await refused(lab, name, Unavailable, "401", **auth)
                assert (await pull(lab, name, **auth)).id == image.id
                seen = other.of("layer")
                assert len(seen) >= 3
                assert all(one.path.endswith(signed) for one in seen)
                assert [one.authorization for one in seen if one.authorization] == []
                assert secrets_seen([other], *SECRETS, token, *tokens.issued) == []


def _any_bearer(tokens: TokenServer) -> Fault:
    """As a registry that takes whatever its token server has issued."""

    def change(exchange: Exchange) -> None:
        if exchange.seen.authorization.removeprefix("Bearer ") not in tokens.issued:
            challenge = f'Bearer realm="{tokens.url}",service="{tokens.service}"'
            exchange.answer = Answer(401, b"{}", {"WWW-Authenticate": challenge})

    return change


async def test_credentials_of_a_request_go_to_the_registry_and_to_no_mirror(
    tmp_path: Path, shelf: Shelf, origin: FaultProxy, other: FaultProxy
) -> None:
    image = noise_image()
    shelf.add("a/b", image)
    origin.add("any", wants_basic(USER, PASSWORD))
    other.add("any", wants_basic("somebody", "else"))
    hosts_toml(tmp_path / "certs.d", origin.host, f'server = "{origin.url}"\n[host."{other.url}"]\n')
    async with image_lab(tmp_path, hosts_dirs=(str(tmp_path / "certs.d"),), **QUICK) as lab:
        name = f"{origin.host}/a/b:1"
        assert (await pull(lab, name, username=USER, password=PASSWORD)).id == image.id
    assert other.seen
    assert secrets_seen([other], *SECRETS) == []


async def test_credentials_meant_for_another_server_are_not_shown(
    lab: ImageLab, shelf: Shelf, origin: FaultProxy
) -> None:
    shelf.add("a/b", noise_image())
    origin.add("any", wants_basic(USER, PASSWORD))
    for address in ("registry.test", f"https://{origin.host}.registry.test", f"{origin.host[:-1]}"):
        auth = {"username": USER, "password": PASSWORD, "server_address": address}
        await refused(lab, f"{origin.host}/a/b:1", Unavailable, "credentials", **auth)
    assert secrets_seen([origin], *SECRETS) == []


@pytest.mark.parametrize("what", ["manifest", "layer"])
async def test_cve_2019_10214_nobody_is_followed_from_https_to_http(
    what: str, lab: ImageLab, shelf: Shelf, other: FaultProxy, tmp_path: Path
) -> None:
    shelf.add("a/b", noise_image())
    authority = Authority()
    with running_proxy(shelf, tls=authority.server_context()) as secure:
        hosts_toml(tmp_path / "certs.d", secure.host, f'server = "{secure.url}"\nca = "ca.crt"\n')
        (tmp_path / "certs.d" / secure.host / "ca.crt").write_text(authority.pem)
        secure.add(what, redirect(other.url))
        name = f"{secure.host}/a/b:1"
        await refused(lab, name, Unavailable, "plain http", username=USER, password=PASSWORD)
        assert other.seen == []


async def test_cve_2019_10214_a_token_server_over_http_gets_nothing_from_a_registry_over_https(
    lab: ImageLab, shelf: Shelf, tmp_path: Path
) -> None:
    shelf.add("a/b", noise_image())
    authority = Authority()
    with (
        running_token_server(users={USER: PASSWORD}) as tokens,
        running_proxy(shelf, tls=authority.server_context()) as secure,
    ):
        hosts_toml(tmp_path / "certs.d", secure.host, f'server = "{secure.url}"\nca = "ca.crt"\n')
        (tmp_path / "certs.d" / secure.host / "ca.crt").write_text(authority.pem)
        secure.add("any", wants_bearer("x", f'realm="{tokens.url}",service="s"'))
        name = f"{secure.host}/a/b:1"
        await refused(lab, name, Unavailable, username=USER, password=PASSWORD)
        await refused(lab, name, Unavailable, identity_token=PASSWORD)
        seen = [str((one.headers, one.parameters)) for one in tokens.requests]
        assert [one for one in seen if PASSWORD in one or BASIC in one] == []


async def test_a_token_server_that_redirects_does_not_take_the_password_along(
    lab: ImageLab, shelf: Shelf, origin: FaultProxy, other: FaultProxy
) -> None:
    shelf.add("a/b", noise_image())
    with running_proxy(shelf) as tokens:
        for code in (302, 307, 308):
            tokens.add("any", redirect(other.url, code))
        origin.add("any", wants_bearer("x", f'realm="{tokens.url}/token",service="s"'))
        for auth in ({"username": USER, "password": PASSWORD}, {"identity_token": PASSWORD}):
            await refused(lab, f"{origin.host}/a/b:1", Unavailable, **auth)
        assert tokens.seen
    assert secrets_seen([other], *SECRETS) == []


async def test_a_real_registry_with_basic_gives_to_whoever_knows_the_password_alone(
    lab: ImageLab, tmp_path: Path
) -> None:
    image = noise_image()
    root = tmp_path / "registry"
    with running_registry(root) as plain:
        push(plain, image, "a/b", "1")
    with running_registry(root, basic=True) as url, running_proxy(from_url(url)) as proxy:
        name = f"{proxy.host}/a/b:1"
        await refused(lab, name, Unavailable, "credentials")
        error = await refused(lab, name, Unavailable, "credentials", username=BASIC_USER, password=PASSWORD)
        assert PASSWORD not in str(error)
        assert (await pull(lab, name, username=BASIC_USER, password=BASIC_PASSWORD)).id == image.id


async def test_a_registry_that_repeats_what_it_was_shown_tells_nobody(
    lab: ImageLab, shelf: Shelf, origin: FaultProxy, caplog: pytest.LogCaptureFixture
) -> None:
    body = json.dumps(
        {"errors": [{"code": "DENIED", "message": f"{USER} {PASSWORD} Basic {BASIC}"}]}
    ).encode()
    for code in (400, 401, 403, 500):
        origin.clear()
        origin.add("any", status(401, {"WWW-Authenticate": 'Basic realm="x"'}), times=1)
        origin.add("any", status(code, {"WWW-Authenticate": 'Basic realm="x"'}, body))
        error = await refused(lab, f"{origin.host}/a/b:1", Unavailable, username=USER, password=PASSWORD)
        assert secrets_seen([origin], BASIC) != []
        for secret in SECRETS:
            assert secret not in f"{error!r} {error} {caplog.text}"


async def test_a_signed_address_of_a_redirect_is_in_no_error(
    lab: ImageLab, shelf: Shelf, origin: FaultProxy, other: FaultProxy
) -> None:
    shelf.add("a/b", noise_image())
    origin.add("layer", redirect(other.url, 307, "?X-Amz-Signature=deadbeefcafe"))
    for fault in (status(403), cut(5, "reset"), redirect_to("http://127.0.0.1:1/?sig=deadbeefcafe")):
        other.clear()
        other.add("any", fault)
        error = await refused(lab, f"{origin.host}/a/b:1", Unavailable)
        assert "deadbeefcafe" not in str(error)


@pytest.mark.parametrize(
    "told", ["sha256:../../../../etc/passwd", "../x", "sha256:" + "a" * 64, "", "x" * 9000]
)
async def test_cve_2024_3727_what_the_registry_calls_a_digest_is_never_a_path(
    told: str, lab: ImageLab, shelf: Shelf, origin: FaultProxy
) -> None:
    image = noise_image()
    shelf.add("a/b", image)

    def lie(exchange: Exchange) -> None:
        exchange.answer.headers["Docker-Content-Digest"] = told

    origin.add("any", lie)
    if told.endswith("a" * 64):
        await refused(lab, f"{origin.host}/a/b:1", Broken, "digest")
        return
    try:
        assert (await pull(lab, f"{origin.host}/a/b:1")).id == image.id
    except CribError as refusal:
        assert "digest" in str(refusal) or len(told) > 8000  # noqa: PT017  # aiohttp bounds headers
    left_nothing(lab)


@pytest.mark.parametrize("length", [-1, 1 << 40])
async def test_cve_2023_25153_a_document_without_an_end_is_not_gathered(
    length: int, lab: ImageLab, shelf: Shelf, origin: FaultProxy
) -> None:
    image = noise_image()
    shelf.add("a/b", image)
    endless = then_also(document(bytes(12 << 20)), cut(12 << 20, length=length))
    for what in ("manifest", image.id):
        origin.clear()
        origin.add(what, endless)
        await refused(lab, f"{origin.host}/a/b:1", Unavailable, "more than")
        assert sum(seen.sent for seen in origin.seen) < 64 << 20


async def test_cve_2023_25153_a_config_that_says_to_be_huge_is_not_asked_for(
    lab: ImageLab, shelf: Shelf, origin: FaultProxy
) -> None:
    image = noise_image()
    config = {**image.manifest["config"], "size": 1 << 40}
    shelf.put("a/b", json.dumps({**image.manifest, "config": config}).encode(), image.manifest["mediaType"])
    await refused(lab, f"{origin.host}/a/b:1", Broken, "config")
    assert origin.of("config") == []


async def test_cve_2021_20291_a_bad_layer_holds_up_nobody_else(
    lab: ImageLab, shelf: Shelf, origin: FaultProxy
) -> None:
    good = noise_image(100_000)
    bad = image_of(*(BuiltLayer(b"\xfd7zXZ\0" + bytes(5000 + number)) for number in range(6)))
    for number in range(12):
        shelf.add(f"bad/{number}", bad)
    shelf.add("good", good)
    pulls = [asyncio.ensure_future(pull(lab, f"{origin.host}/bad/{number}:1")) for number in range(12)]
    async with asyncio.timeout(60):
        assert (await pull(lab, f"{origin.host}/good:1")).id == good.id
        outcomes = await asyncio.gather(*pulls, return_exceptions=True)
    assert all(isinstance(outcome, Broken) for outcome in outcomes)
    left_nothing(lab)


async def test_cve_2022_24778_an_index_is_only_as_good_as_its_entry_for_this_machine(
    lab: ImageLab, shelf: Shelf, origin: FaultProxy
) -> None:
    """The first entry is sound, ours is not: what is judged is what would run."""
    sound, ours = noise_image(1000), noise_image(2000)
    other = BuiltImage(sound.layers, {}, (), "riscv64")
    entries = []
    for one, architecture in ((other, "riscv64"), (ours, ours.architecture)):
        shelf.add("multi", one, architecture)
        entry = descriptor(one.manifest_blob, one.manifest["mediaType"])
        entries.append({**entry, "platform": {"os": "linux", "architecture": architecture}})
    index = json.dumps({"schemaVersion": 2, "manifests": entries}).encode()
    shelf.put("multi", index, "application/vnd.oci.image.index.v1+json")
    assert (await pull(lab, f"{origin.host}/multi:1")).id == ours.id
    await lab.store.sweep([])
    shelf.blobs[ours.id] = other.config_blob
    await refused(lab, f"{origin.host}/multi:1", Broken, "config")


@pytest.mark.parametrize("method", ["auto", "directory"])
async def test_a_layer_that_leads_out_of_its_root_changes_nothing_outside(
    method: str, tmp_path: Path, shelf: Shelf, origin: FaultProxy, subtests: pytest.Subtests
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    secret = outside / "secret"
    secret.write_bytes(CANARY)
    secret.chmod(0o600)
    before = looks(outside), looks(secret), looks(Path("/etc/passwd")), looks(Path("/"))
    async with image_lab(tmp_path / "lab", mount_method=method, **QUICK) as lab:
        for number, (case, entries) in enumerate(LEADS_OUT.items()):
            with subtests.test(case):
                shelf.add(f"hostile/{number}", image_of(BuiltLayer(layer_tar(entries))))
                try:
                    fetched = await pull(lab, f"{origin.host}/hostile/{number}:1")
                    (top,) = await lab.store.mounts.acquire([layer.diff_id for layer in fetched.layers])
                    for place, _, files in os.walk(top):
                        for name in files:
                            path = Path(place, name)
                            assert path.is_symlink() or CANARY not in path.read_bytes()
                except CribError as refusal:
                    assert "layer" in str(refusal)  # noqa: PT017  # refused is as good as harmless
                left_nothing(lab)
                assert os.listdir(outside) == ["secret"]
                assert secret.read_bytes() == CANARY
                assert (looks(outside), looks(secret), looks(Path("/etc/passwd")), looks(Path("/"))) == before


async def test_two_credentials_at_once_see_only_what_is_theirs(
    lab: ImageLab, shelf: Shelf, origin: FaultProxy
) -> None:
    """A token or a pull that is shared must not be shared by those who may not have it."""
    image = noise_image(30_000)
    shelf.add("a/b", image)
    gate = threading.Event()
    origin.add("layer", then_also(held_until(gate), wants_basic(USER, PASSWORD)))
    origin.add("any", wants_basic(USER, PASSWORD))
    name = f"{origin.host}/a/b:1"
    allowed = asyncio.ensure_future(pull(lab, name, username=USER, password=PASSWORD))
    await asyncio.to_thread(origin.wait_for, lambda proxy: any(seen.kind == "layer" for seen in proxy.seen))
    for auth in ({}, {"username": USER, "password": "wrong"}, {"registry_token": "wrong"}):
        with pytest.raises(Unavailable, match="credentials"):
            await pull(lab, name, **auth)
    gate.set()
    assert (await allowed).id == image.id
    assert digest_of(image.config_blob) == image.id
