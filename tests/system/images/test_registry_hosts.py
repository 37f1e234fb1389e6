"""Who is asked: mirrors of hosts.toml and registries.conf, certificates, and which mirrors are dead."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from crib.model.errors import REGISTRY_UNAVAILABLE, InvalidRequest, NotFound, Unavailable
from tests.fault_proxy import FaultProxy, running_proxy
from tests.faults import drip, no_head, redirect, status
from tests.images import BuiltImage, digest_of
from tests.registry import free_port
from tests.system.labs.image_lab import ImageLab, image_lab
from tests.system.labs.registry_lab import QUICK, STALLING, hosts_toml, noise_image, pull, refused
from tests.tls_lab import Authority
from tests.upstreams import Shelf

pytestmark = [
    pytest.mark.root,
    pytest.mark.system,
    pytest.mark.skipif(os.geteuid() != 0, reason="mounts need root"),
]

NAME = "registry.test/a/b:1"
BOUND = 25.0
"""Seconds after which a pull hangs: what does not answer here does so for 30 (tests/fault_proxy.py)."""


@pytest.fixture(scope="module")
def image() -> BuiltImage:
    return noise_image(20_000, 10_000)


@pytest.fixture(scope="module")
def shelf(image: BuiltImage) -> Shelf:
    made = Shelf()
    for repository in ("a/b", "mirrored/a/b", "elsewhere/b"):
        made.add(repository, image)
    return made


@pytest.fixture
def first(shelf: Shelf) -> Iterator[FaultProxy]:
    with running_proxy(shelf) as running:
        yield running


@pytest.fixture
def second(shelf: Shelf) -> Iterator[FaultProxy]:
    with running_proxy(shelf) as running:
        yield running


@pytest.fixture
def certs_d(tmp_path: Path) -> Path:
    made = tmp_path / "certs.d"
    made.mkdir()
    return made


@pytest.fixture
def conf(tmp_path: Path) -> Path:
    made = tmp_path / "registries.conf"
    made.write_text("")
    return made


@pytest.fixture
async def lab(tmp_path: Path, certs_d: Path, conf: Path) -> AsyncIterator[ImageLab]:
    """A store that takes its hosts from files alone."""
    async with image_lab(tmp_path, hosts_dirs=(str(certs_d),), registries_conf=str(conf), **QUICK) as made:
        yield made


def by_digest(image: BuiltImage) -> str:
    return f"registry.test/a/b@{digest_of(image.manifest_blob)}"


async def test_a_mirror_of_hosts_toml_is_asked_first_and_told_which_registry_is_meant(
    lab: ImageLab, certs_d: Path, first: FaultProxy, second: FaultProxy, image: BuiltImage
) -> None:
    text = f'server = "{second.url}"\n[host."{first.url}"]\n'
    hosts_toml(certs_d, "registry.test", text)
    assert (await pull(lab, NAME)).id == image.id
    assert second.seen == []
    assert all("ns=registry.test" in seen.path for seen in first.seen)


async def test_the_server_is_asked_when_the_mirror_lacks_the_image(
    lab: ImageLab, certs_d: Path, first: FaultProxy, second: FaultProxy, image: BuiltImage
) -> None:
    hosts_toml(certs_d, "registry.test", f'server = "{second.url}"\n[host."{first.url}"]\n')
    first.add("any", status(404))
    assert (await pull(lab, NAME)).id == image.id
    assert len(first.of("manifest")) == 1
    assert len(second.of("manifest")) == 1


async def test_a_host_that_may_not_resolve_is_asked_by_digest_only(
    lab: ImageLab, certs_d: Path, first: FaultProxy, second: FaultProxy, image: BuiltImage
) -> None:
    text = f'server = "{second.url}"\n[host."{first.url}"]\ncapabilities = ["pull"]\n'
    hosts_toml(certs_d, "registry.test", text)
    assert (await pull(lab, NAME)).id == image.id
    assert [seen for seen in first.of("manifest") if seen.path.partition("?")[0].endswith("/1")] == []
    assert all(first.sent(digest_of(layer.blob)) for layer in image.layers)
    assert second.sent("/blobs/") == 0
    await lab.store.sweep([])
    second.clear()
    assert (await pull(lab, by_digest(image))).id == image.id
    assert second.seen == []


async def test_changes_of_hosts_toml_are_seen_by_the_next_pull(
    lab: ImageLab, certs_d: Path, first: FaultProxy, second: FaultProxy, image: BuiltImage
) -> None:
    await refused(lab, NAME, Unavailable)
    for proxy, other in ((first, second), (second, first)):
        for one in (first, second):
            one.clear()
        hosts_toml(certs_d, "registry.test", f'server = "{proxy.url}"\n')
        assert (await pull(lab, NAME)).id == image.id
        assert proxy.of("manifest")
        assert other.seen == []
        await lab.store.sweep([])
    (certs_d / "registry.test/hosts.toml").unlink()
    await refused(lab, NAME, Unavailable, "registry.test")


async def test_default_holds_for_registries_without_a_directory(
    lab: ImageLab, certs_d: Path, first: FaultProxy, second: FaultProxy, image: BuiltImage
) -> None:
    hosts_toml(certs_d, "_default", f'[host."{first.url}"]\n')
    hosts_toml(certs_d, "own.test", f'server = "{second.url}"\n')
    assert (await pull(lab, NAME)).id == image.id
    assert (await pull(lab, "own.test/a/b:1")).id == image.id
    assert len(first.of("manifest")) == len(second.of("manifest")) == 1


async def test_headers_go_to_their_host_and_not_where_it_redirects(
    lab: ImageLab, certs_d: Path, first: FaultProxy, second: FaultProxy, image: BuiltImage
) -> None:
    text = f'server = "{first.url}"\n[header]\nx-key = "s3cr3t"\nx-two = ["a", "b"]\n'
    hosts_toml(certs_d, "registry.test", text)
    first.add("layer", redirect(second.url))
    assert (await pull(lab, NAME)).id == image.id
    assert all(seen.headers.get("x-key") == "s3cr3t" for seen in first.seen)
    assert len(second.of("layer")) == 2
    assert all("x-key" not in seen.headers for seen in second.seen)


async def test_a_path_is_kept_where_override_path_says_so(
    lab: ImageLab, certs_d: Path, first: FaultProxy, image: BuiltImage
) -> None:
    text = f'server = "{first.url}/v2/mirrored"\noverride_path = true\n'
    hosts_toml(certs_d, "registry.test", text)
    assert (await pull(lab, NAME)).id == image.id
    assert all(seen.path.startswith("/v2/mirrored/a/b/") for seen in first.seen)


async def test_a_host_without_an_answer_is_passed_after_its_own_time(
    lab: ImageLab, certs_d: Path, first: FaultProxy, second: FaultProxy, image: BuiltImage
) -> None:
    text = f'server = "{second.url}"\n[host."{first.url}"]\ndial_timeout = "200ms"\n'
    hosts_toml(certs_d, "registry.test", text)
    first.add("any", no_head("stall"))
    began = time.monotonic()
    assert (await pull(lab, NAME)).id == image.id
    assert 0.2 <= time.monotonic() - began < BOUND
    assert len(first.of("manifest")) == 1


@pytest.mark.parametrize("fault", ["refuses connections", "does not answer"])
async def test_a_dead_mirror_is_asked_once_and_not_for_every_blob(
    fault: str, tmp_path: Path, certs_d: Path, second: FaultProxy, shelf: Shelf
) -> None:
    images = [noise_image(*[3_000] * 4) for _ in range(3)]
    for number, one in enumerate(images):
        shelf.add(f"dead/{number}", one)
    with running_proxy(shelf) as silent:
        silent.add("any", no_head("stall"))
        dead = silent.url if fault == "does not answer" else f"http://127.0.0.1:{free_port()}"
        text = f'server = "{second.url}"\n[host."{dead}"]\ndial_timeout = "300ms"\n'
        hosts_toml(certs_d, "registry.test", text)
        async with image_lab(tmp_path, hosts_dirs=(str(certs_d),), dead_host_time=3600.0) as lab:
            async with asyncio.timeout(BOUND):
                for number, one in enumerate(images):
                    assert (await pull(lab, f"registry.test/dead/{number}:1")).id == one.id
        assert len(silent.seen) == (1 if fault == "does not answer" else 0)


async def test_a_mirror_that_stalls_is_left_within_the_configured_time(
    tmp_path: Path, certs_d: Path, first: FaultProxy, second: FaultProxy, image: BuiltImage
) -> None:
    hosts_toml(certs_d, "registry.test", f'server = "{second.url}"\n[host."{first.url}"]\n')
    first.add("layer", drip(1, 0.05))
    async with image_lab(tmp_path, hosts_dirs=(str(certs_d),), **STALLING) as lab:
        began = time.monotonic()
        assert (await pull(lab, NAME)).id == image.id
        # Two layers side by side, each as long as a transfer may stall.
        assert 1.5 <= time.monotonic() - began < BOUND
    assert len(second.of("layer")) == 2
    assert all(seen.range for seen in second.of("layer")), "what had come was not used"


async def test_all_hosts_are_named_when_none_has_it(
    lab: ImageLab, certs_d: Path, first: FaultProxy, second: FaultProxy
) -> None:
    hosts_toml(certs_d, "registry.test", f'server = "{second.url}"\n[host."{first.url}"]\n')
    first.add("any", status(500))
    await refused(lab, "registry.test/no/such:1", NotFound, first.host, second.host, "500", "404")
    second.add("any", status(500))
    error = await refused(lab, "registry.test/no/such:1", Unavailable, first.host, second.host)
    assert error.reason == REGISTRY_UNAVAILABLE


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("server = ", "hosts.toml"),
        ('[host."http://a.test"]\ncapabilities = ["reslove"]\n', "reslove"),
        ('servre = "http://a.test"\n', "servre"),
        ('server = "http://user:pass@a.test"\n', "user name"),
        ('[host."http://a.test"]\nca = "/no/such.crt"\n', "/no/such.crt"),
    ],
)
async def test_a_file_that_is_not_right_is_named_and_nobody_is_asked(
    text: str, words: str, lab: ImageLab, certs_d: Path
) -> None:
    hosts_toml(certs_d, "registry.test", text)
    error = await refused(lab, NAME, Unavailable, words)
    assert "pass@" not in str(error)


# registries.conf


async def test_registries_conf_rewrites_prefixes_and_has_mirrors(
    lab: ImageLab, conf: Path, first: FaultProxy, second: FaultProxy, image: BuiltImage
) -> None:
    conf.write_text(
        f'[[registry]]\nprefix = "registry.test/a"\nlocation = "{second.host}/elsewhere"\ninsecure = true\n'
        f'[[registry.mirror]]\nlocation = "{first.host}/mirrored/a"\ninsecure = true\n'
    )
    assert (await pull(lab, NAME)).id == image.id
    assert all(seen.path.startswith("/v2/mirrored/a/b/") for seen in first.seen)
    assert second.seen == []
    await lab.store.sweep([])
    first.add("any", status(404))
    assert (await pull(lab, NAME)).id == image.id
    assert all(seen.path.startswith("/v2/elsewhere/b/") for seen in second.seen)


async def test_a_blocked_prefix_is_refused_and_nobody_is_asked(
    lab: ImageLab, conf: Path, certs_d: Path, first: FaultProxy
) -> None:
    hosts_toml(certs_d, "registry.test", f'server = "{first.url}"\n')
    conf.write_text(
        '[[registry]]\nprefix = "registry.test/a"\nlocation = "registry.test/a"\nblocked = true\n'
    )
    await refused(lab, NAME, InvalidRequest, "blocked", str(conf))
    assert first.seen == []
    conf.write_text("")
    assert await pull(lab, NAME)


async def test_a_mirror_by_digest_only_is_not_asked_what_a_tag_means(
    lab: ImageLab, conf: Path, first: FaultProxy, second: FaultProxy, image: BuiltImage
) -> None:
    conf.write_text(
        f'[[registry]]\nprefix = "registry.test"\nlocation = "{second.host}"\ninsecure = true\n'
        f"mirror-by-digest-only = true\n"
        f'[[registry.mirror]]\nlocation = "{first.host}"\ninsecure = true\n'
    )
    assert (await pull(lab, NAME)).id == image.id
    assert [seen for seen in first.of("manifest") if seen.path.endswith("/1")] == []
    await lab.store.sweep([])
    second.clear()
    assert (await pull(lab, by_digest(image))).id == image.id
    assert first.of("manifest")
    assert second.seen == []


# TLS


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


async def test_an_authority_of_hosts_toml_is_believed_for_its_host(
    lab: ImageLab, certs_d: Path, shelf: Shelf, image: BuiltImage, authority: Authority
) -> None:
    with running_proxy(shelf, tls=authority.server_context()) as proxy:
        hosts_toml(certs_d, "registry.test", f'server = "{proxy.url}"\n')
        await refused(lab, NAME, Unavailable, "certificate", proxy.host)
        (certs_d / "registry.test/ca.crt").write_text(authority.pem)
        hosts_toml(certs_d, "registry.test", f'server = "{proxy.url}"\nca = "ca.crt"\n')
        assert (await pull(lab, NAME)).id == image.id


async def test_another_hosts_name_in_the_certificate_is_refused(
    lab: ImageLab, certs_d: Path, shelf: Shelf, authority: Authority
) -> None:
    with running_proxy(shelf, tls=authority.server_context("other.test")) as proxy:
        (certs_d / "registry.test").mkdir()
        (certs_d / "registry.test/ca.crt").write_text(authority.pem)
        hosts_toml(certs_d, "registry.test", f'server = "{proxy.url}"\nca = "ca.crt"\n')
        await refused(lab, NAME, Unavailable, "certificate")
        assert proxy.seen == []


async def test_skip_verify_takes_any_certificate(
    lab: ImageLab, certs_d: Path, shelf: Shelf, image: BuiltImage, authority: Authority
) -> None:
    with running_proxy(shelf, tls=authority.server_context("other.test")) as proxy:
        hosts_toml(certs_d, "registry.test", f'server = "{proxy.url}"\nskip_verify = true\n')
        assert (await pull(lab, NAME)).id == image.id


async def test_a_client_certificate_is_shown_to_whoever_asks_for_it(
    lab: ImageLab, certs_d: Path, shelf: Shelf, image: BuiltImage, authority: Authority
) -> None:
    clients = Authority("clients")
    with running_proxy(shelf, tls=authority.server_context(clients=clients)) as proxy:
        directory = certs_d / "registry.test"
        clients.client().write(directory, "client")
        (directory / "ca.crt").write_text(authority.pem)
        text = f'server = "{proxy.url}"\nca = "ca.crt"\n'
        hosts_toml(certs_d, "registry.test", text)
        await refused(lab, NAME, Unavailable, proxy.host)
        hosts_toml(certs_d, "registry.test", f'{text}client = [["client.cert", "client.key"]]\n')
        assert (await pull(lab, NAME)).id == image.id


async def test_a_directory_of_certificates_alone_is_enough(
    lab: ImageLab, certs_d: Path, shelf: Shelf, image: BuiltImage, authority: Authority
) -> None:
    clients = Authority("clients")
    with running_proxy(shelf, tls=authority.server_context(clients=clients)) as proxy:
        directory = certs_d / proxy.host
        clients.client().write(directory, "client")
        (directory / "ca.crt").write_text(authority.pem)
        assert (await pull(lab, f"{proxy.host}/a/b:1")).id == image.id
