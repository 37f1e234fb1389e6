"""Who is asked for an image, in which order and how, by the administrator's files."""

from __future__ import annotations

import base64
import os
from dataclasses import dataclass
from pathlib import Path

import pytest

from crib.backends.images.registries import config_files
from crib.backends.images.registries.config_files import ConfigFiles
from crib.backends.images.registries.hosts import RegistryHosts
from crib.model.errors import InvalidRequest, Unavailable
from crib.model.image import PullOrder, parse_reference
from crib.model.image_settings import RegistrySettings
from crib.model.registry import AuthConfig, RegistryHost

DIGEST = f"sha256:{'0' * 64}"


def pem(label: str, content: str) -> str:
    return f"-----BEGIN {label}-----\n{base64.b64encode(content.encode()).decode()}\n-----END {label}-----\n"


@dataclass
class Lab:
    """A directory of an administrator's files."""

    root: Path

    def write(self, name: str, text: str) -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def settings(
        self,
        *,
        mirrors: dict[str, tuple[str, ...]] | None = None,
        insecure: tuple[str, ...] = (),
        conf: bool = False,
    ) -> RegistrySettings:
        return RegistrySettings(
            mirrors=mirrors or {},
            insecure=insecure,
            hosts_dirs=(f"{self.root}/certs.d", f"{self.root}/more.d"),
            registries_conf=f"{self.root}/registries.conf" if conf else "",
            auth_file=f"{self.root}/auth.json",
        )

    async def ask(self, image: str, settings: RegistrySettings | None = None) -> tuple[RegistryHost, ...]:
        return await RegistryHosts(settings or self.settings()).hosts(order(image))

    async def urls(self, image: str, settings: RegistrySettings | None = None) -> list[str]:
        return [host.url for host in await self.ask(image, settings)]

    async def conf(self, text: str, image: str, insecure: tuple[str, ...] = ()) -> tuple[RegistryHost, ...]:
        self.write("registries.conf", text)
        return await self.ask(image, self.settings(conf=True, insecure=insecure))


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path)


def order(image: str, auth: AuthConfig | None = None) -> PullOrder:
    return PullOrder(parse_reference(image), auth or AuthConfig())


async def test_without_any_file_the_registry_alone_is_asked(lab: Lab) -> None:
    assert await lab.ask("busybox") == (
        RegistryHost(
            "https://registry-1.docker.io/v2", "library/busybox", "the registry itself", is_origin=True
        ),
    )


async def test_files_and_settings_mean_a_registry_however_they_spell_it(lab: Lab) -> None:
    settings = lab.settings(mirrors={"Registry.Example:443": ("https://mirror.example",)})
    assert await lab.urls("registry.example/a", settings) == [
        "https://mirror.example/v2",
        "https://registry.example/v2",
    ]
    settings = lab.settings(insecure=("10.1:5000", "[::ffff:a00:2]:5000"))
    for image, url in (
        ("10.0.0.1:5000/a", "http://10.0.0.1:5000/v2"),
        ("10.1:5000/a", "http://10.0.0.1:5000/v2"),
        ("10.2:5000/a", "http://10.0.0.2:5000/v2"),
    ):
        assert await lab.urls(image, settings) == [url]
    text = '[[registry]]\nlocation = "Registry.Example:443"\nblocked = true\n'
    for image in ("registry.example/a", "REGISTRY.example:443/a"):
        with pytest.raises(InvalidRequest, match="is blocked"):
            await lab.conf(text, image)
    lab.write("certs.d/dir.example:443/ca.crt", pem("CERTIFICATE", "authority"))
    (host,) = await lab.ask("Dir.example:443/a")
    assert (host.url, len(host.authorities)) == ("https://dir.example/v2", 1)
    # On the loopback interface these are two: one is spoken to without TLS.
    lab.write("certs.d/localhost:443/ca.crt", pem("CERTIFICATE", "authority"))
    for image, url in (
        ("localhost/a", "http://localhost/v2"),
        ("localhost:443/a", "https://localhost:443/v2"),
    ):
        assert await lab.urls(image) == [url]


# The settings' own mirrors


async def test_mirrors_come_before_the_registry_itself(lab: Lab) -> None:
    settings = lab.settings(
        mirrors={"docker.io": ("http://mirror.example", "https://two.example/hub/")},
        insecure=("plain.example",),
    )
    hosts = await lab.ask("docker.io/library/busybox", settings)
    assert [(host.url, host.namespace, host.is_origin) for host in hosts] == [
        ("http://mirror.example/v2", "docker.io", False),
        ("https://two.example/hub/v2", "docker.io", False),
        ("https://registry-1.docker.io/v2", "", True),
    ]
    assert await lab.urls("plain.example/x", settings) == ["http://plain.example/v2"]


@pytest.mark.parametrize(
    ("registry", "scheme"),
    [
        ("localhost:5000", "http"),
        ("127.0.0.1:5000", "http"),
        ("[::1]:5000", "http"),
        ("localhost:443", "https"),
        ("127.0.0.1.example", "https"),
        ("registry.example:5000", "https"),
        ("10.0.0.1", "https"),
    ],
)
async def test_plain_http_is_for_the_loopback_alone(lab: Lab, registry: str, scheme: str) -> None:
    assert await lab.urls(f"{registry}/x") == [f"{scheme}://{registry}/v2"]


async def test_mirrors_of_docker_hub_may_be_set_by_any_of_its_names(lab: Lab) -> None:
    settings = lab.settings(mirrors={"registry-1.docker.io": ("https://m.example",)})
    assert (await lab.urls("busybox", settings))[0] == "https://m.example/v2"


@pytest.mark.parametrize("url", ["https://", "https://a.example?x", "https://u:hunter2@a.example", "ftp://a"])
async def test_a_mirror_that_is_no_url_is_the_administrators_fault(lab: Lab, url: str) -> None:
    with pytest.raises(Unavailable, match=r"images.mirrors.a.example ") as caught:
        await lab.ask("a.example/x", lab.settings(mirrors={"a.example": (url,)}))
    assert "hunter2" not in str(caught.value)


# hosts.toml


async def test_hosts_toml_says_who_is_asked_and_the_registry_comes_last(lab: Lab) -> None:
    path = lab.write(
        "certs.d/docker.io/hosts.toml",
        '[host."https://zebra.example"]\ncapabilities = ["pull"]\ndial_timeout = "2s"\n'
        '[host."https://zebra.example".header]\nx-a = ["b", "c"]\n'
        '[host."https://apple.example/v2/hub"]\noverride_path = true\nskip_verify = true\n',
    )
    zebra, apple, hub = await lab.ask("busybox", lab.settings(mirrors={"docker.io": ("https://no.example",)}))
    assert zebra == RegistryHost(
        "https://zebra.example/v2",
        "library/busybox",
        f"host in {path}",
        resolves=False,
        headers=(("x-a", "b"), ("x-a", "c")),
        connect_timeout=2.0,
        namespace="docker.io",
    )
    assert (apple.url, apple.skip_verify, apple.resolves) == ("https://apple.example/v2/hub", True, True)
    assert (hub.url, hub.is_origin, hub.namespace) == ("https://registry-1.docker.io/v2", True, "")
    assert hub.reason == f"the registry itself, by {path}"


async def test_a_server_in_hosts_toml_takes_the_registrys_place(lab: Lab) -> None:
    lab.write("certs.d/_default/hosts.toml", 'server = "https://all.example"\n[header]\nx = "y"')
    (host,) = await lab.ask("quay.io/a/b")
    assert (host.url, host.is_origin, host.namespace) == ("https://all.example/v2", False, "quay.io")
    assert host.headers == (("x", "y"),)
    lab.write("certs.d/docker.io/hosts.toml", 'server = "https://docker.io"')
    assert [(one.url, one.is_origin) for one in await lab.ask("busybox")] == [
        ("https://registry-1.docker.io/v2", True)
    ]


async def test_a_registrys_own_directory_in_any_root_goes_before_the_default_one(lab: Lab) -> None:
    lab.write("certs.d/_default/hosts.toml", 'server = "https://default.example"')
    lab.write("more.d/a.example:5000/hosts.toml", 'server = "https://own.example"')
    assert await lab.urls("a.example:5000/x") == ["https://own.example/v2"]
    lab.write("certs.d/a.example_5000_/hosts.toml", 'server = "https://first.example"')
    assert await lab.urls("a.example:5000/x") == ["https://first.example/v2"]
    assert await lab.urls("a.example/x") == ["https://default.example/v2"]


async def test_certificates_are_read_from_beside_hosts_toml_and_travel_as_text(lab: Lab) -> None:
    authority, both = pem("CERTIFICATE", "ca"), pem("CERTIFICATE", "c") + pem("EC PRIVATE KEY", "k")
    lab.write("certs.d/a.example/ca.pem", authority)
    lab.write("certs.d/a.example/both.pem", both)
    certificate = lab.write("elsewhere/client.pem", pem("CERTIFICATE", "other"))
    key = lab.write("elsewhere/client.key", pem("PRIVATE KEY", "hunter2"))
    lab.write(
        "certs.d/a.example/hosts.toml",
        f'ca = "ca.pem"\nclient = ["both.pem", ["{certificate}", "{key}"]]\n',
    )
    (host,) = await lab.ask("a.example/x")
    assert host.authorities == (authority,)
    assert [(one.certificate, one.key) for one in host.certificates] == [
        (both, ""),
        (certificate.read_text(), key.read_text()),
    ]
    assert base64.b64encode(b"hunter2").decode() not in repr(host)


async def test_an_http_host_with_tls_settings_is_tried_over_tls_first_as_in_containerd(lab: Lab) -> None:
    lab.write(
        "certs.d/a.example/hosts.toml",
        '[host."http://10.0.0.1:5000"]\nskip_verify = true\n'
        '[host."http://b.example:80"]\nskip_verify = true\n',
    )
    assert await lab.urls("a.example/x") == [
        "https://10.0.0.1:5000/v2",
        "http://10.0.0.1:5000/v2",
        "http://b.example:80/v2",
        "https://a.example/v2",
    ]


@pytest.mark.parametrize(
    ("capabilities", "image", "lacking"),
    [
        ('["push"]', "a.example/x", "pull"),
        ('["resolve"]', "a.example/x", "pull"),
        ('["pull"]', "a.example/x", "resolve"),
        ('["resolve"]', f"a.example/x@{DIGEST}", "pull"),
    ],
)
async def test_when_nobody_may_be_asked_the_missing_capability_is_named(
    lab: Lab, capabilities: str, image: str, lacking: str
) -> None:
    path = lab.write("certs.d/a.example/hosts.toml", f"capabilities = {capabilities}")
    with pytest.raises(Unavailable, match=f"{path} leaves no host with the capability {lacking}"):
        await lab.ask(image)


async def test_a_host_that_may_only_push_is_never_asked(lab: Lab) -> None:
    lab.write("certs.d/a.example/hosts.toml", '[host."https://b.example"]\ncapabilities = ["push"]')
    assert await lab.urls("a.example/x") == ["https://a.example/v2"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("server = [", r"hosts.toml: is not TOML: .*"),
        ('ca = "missing.pem"', r"missing.pem, which .*/hosts.toml names, does not exist"),
        ('ca = "bad.pem"', r"bad.pem: has no certificate in PEM"),
        ('ca = "torn.pem"', r"torn.pem: has a damaged CERTIFICATE"),
        ('ca = "binary"', r"binary: is not a PEM text"),
        ('ca = "."', r"/\. is not a regular file"),
        ('client = "good.pem"', r"good.pem has no private key in it"),
        ('client = [["good.pem", "good.pem"]]', r"good.pem: has no private key in PEM"),
        ('client = [["good.pem", "locked.pem"]]', r"locked.pem: has a private key with a passphrase"),
    ],
)
async def test_a_broken_file_fails_the_pull_and_is_named(lab: Lab, text: str, words: str) -> None:
    lab.write("certs.d/a.example/hosts.toml", text)
    lab.write("certs.d/a.example/bad.pem", "hello")
    lab.write("certs.d/a.example/good.pem", pem("CERTIFICATE", "x"))
    lab.write("certs.d/a.example/locked.pem", pem("ENCRYPTED PRIVATE KEY", "x"))
    lab.write("certs.d/a.example/torn.pem", "-----BEGIN CERTIFICATE-----\nab!\n-----END CERTIFICATE-----")
    (lab.root / "certs.d/a.example/binary").write_bytes(b"\xff\x00")
    with pytest.raises(Unavailable, match=words):
        await lab.ask("a.example/x")


# Certificates alone


async def test_certificates_alone_are_for_their_host_wherever_it_is_named(lab: Lab) -> None:
    for host in ("origin.example", "mirror.example:5000"):
        lab.write(f"certs.d/{host}/ca.crt", pem("CERTIFICATE", host))
        lab.write(f"certs.d/{host}/client.cert", pem("CERTIFICATE", "client"))
        lab.write(f"certs.d/{host}/client.key", pem("RSA PRIVATE KEY", "key"))
        lab.write(f"certs.d/{host}/readme.txt", "not a certificate")
    settings = lab.settings(mirrors={"origin.example": ("https://mirror.example:5000",)})
    mirror, origin = await lab.ask("origin.example/x", settings)
    assert mirror.authorities == (pem("CERTIFICATE", "mirror.example:5000"),)
    assert origin.authorities == (pem("CERTIFICATE", "origin.example"),)
    assert [one.key for one in origin.certificates] == [pem("RSA PRIVATE KEY", "key")]
    (other,) = await lab.ask("other.example/x", settings)
    assert other.authorities == ()


async def test_certificates_for_a_loopback_registry_mean_tls(lab: Lab) -> None:
    lab.write("certs.d/localhost:5000/ca.crt", pem("CERTIFICATE", "x"))
    assert await lab.urls("localhost:5000/x") == ["https://localhost:5000/v2"]


async def test_a_client_certificate_needs_its_key(lab: Lab) -> None:
    lab.write("certs.d/a.example/client.cert", pem("CERTIFICATE", "x"))
    with pytest.raises(Unavailable, match=r"client.cert has no private key"):
        await lab.ask("a.example/x")


async def test_certificates_are_bounded_in_number_and_size(lab: Lab) -> None:
    for number in range(65):
        lab.write(f"certs.d/a.example/{number}.crt", pem("CERTIFICATE", "x"))
    with pytest.raises(Unavailable, match="more than 64 certificates"):
        await lab.ask("a.example/x")
    lab.write("certs.d/b.example/ca.crt", "x" * (config_files.MAX_BYTES + 1))
    with pytest.raises(Unavailable, match=r"ca.crt is longer than 1048576 bytes"):
        await lab.ask("b.example/x")


# registries.conf


FOO = """
[[registry]]
prefix = "example.com/foo"
location = "internal.example/bar"
[[registry.mirror]]
location = "mirror-0.example/mirror-for-foo"
[[registry.mirror]]
location = "mirror-1.example:5000/mirrors/foo"
insecure = true
"""


async def test_registries_conf_rewrites_names_and_asks_mirrors_in_order(lab: Lab) -> None:
    hosts = await lab.conf(FOO, "example.com/foo/image:1")
    assert [(host.url, host.repository, host.skip_verify) for host in hosts] == [
        ("https://mirror-0.example/v2", "mirror-for-foo/image", False),
        ("https://mirror-1.example:5000/v2", "mirrors/foo/image", True),
        ("http://mirror-1.example:5000/v2", "mirrors/foo/image", False),
        ("https://internal.example/v2", "bar/image", False),
    ]
    assert not any(host.is_origin or host.namespace for host in hosts)
    assert hosts[0].reason == f"mirror, prefix example.com/foo in {lab.root}/registries.conf"
    assert hosts[3].reason == f"location, prefix example.com/foo in {lab.root}/registries.conf"


async def test_an_image_that_no_prefix_matches_is_asked_of_its_registry(lab: Lab) -> None:
    (host,) = await lab.conf(FOO, "example.com/other")
    assert (host.url, host.is_origin) == ("https://example.com/v2", True)


async def test_docker_hub_may_be_a_location(lab: Lab) -> None:
    (host,) = await lab.conf(
        '[[registry]]\nprefix = "a.example"\nlocation = "docker.io"', "a.example/busybox"
    )
    assert (host.url, host.repository) == ("https://registry-1.docker.io/v2", "library/busybox")


async def test_a_registry_without_a_rewrite_is_the_origin(lab: Lab) -> None:
    text = '[[registry]]\nprefix = "*.example.com"\ninsecure = true\n'
    hosts = await lab.conf(text, "a.example.com/x:1")
    assert [(host.url, host.is_origin, host.skip_verify) for host in hosts] == [
        ("https://a.example.com/v2", True, True),
        ("http://a.example.com/v2", True, False),
    ]


@pytest.mark.parametrize(
    ("port", "urls"), [("80", ["http"]), ("443", ["https"]), ("5000", ["https", "http"])]
)
async def test_an_insecure_registrys_port_may_say_its_scheme(lab: Lab, port: str, urls: list[str]) -> None:
    hosts = await lab.conf(
        f'[[registry]]\nlocation = "a.example:{port}"\ninsecure = true', f"a.example:{port}/x"
    )
    assert [host.url.partition(":")[0] for host in hosts] == urls


MIRRORS = """
[[registry]]
location = "a.example"
[[registry.mirror]]
location = "all.example"
[[registry.mirror]]
location = "digests.example"
pull-from-mirror = "digest-only"
[[registry.mirror]]
location = "tags.example"
pull-from-mirror = "tag-only"
"""


async def test_a_mirror_is_asked_for_what_it_may_be_asked_for(lab: Lab) -> None:
    by_tag = await lab.conf(MIRRORS, "a.example/x:1")
    assert [(host.url[8:].partition(".")[0], host.resolves, host.pulls) for host in by_tag] == [
        ("all", True, True),
        ("digests", False, True),
        ("tags", True, True),
        ("a", True, True),
    ]
    by_digest = await lab.conf(MIRRORS, f"a.example/x@{DIGEST}")
    assert [host.url[8:].partition(".")[0] for host in by_digest] == ["all", "digests", "a"]
    assert (await lab.conf(MIRRORS, f"a.example/x:1@{DIGEST}"))[0].repository == "x"


async def test_mirror_by_digest_only_lets_no_mirror_say_what_a_tag_means(lab: Lab) -> None:
    text = (
        '[[registry]]\nlocation = "a.example"\nmirror-by-digest-only = true\n'
        '[[registry.mirror]]\nlocation = "m.example"'
    )
    assert [host.resolves for host in await lab.conf(text, "a.example/x:1")] == [False, True]


BLOCKED = '[[registry]]\nlocation = "bad.example/team"\nblocked = true\n'


async def test_a_blocked_image_is_refused_whatever_hosts_toml_says(lab: Lab) -> None:
    lab.write("certs.d/bad.example/hosts.toml", 'server = "https://good.example"')
    with pytest.raises(
        InvalidRequest, match=r"bad.example/team/x:1 is blocked by .*/registries.conf"
    ) as caught:
        await lab.conf(BLOCKED, "bad.example/team/x:1")
    assert caught.value.field == "image.image"
    assert [host.url for host in await lab.conf(BLOCKED, "bad.example/other")] == ["https://good.example/v2"]


async def test_a_drop_in_has_the_last_word_on_a_prefix(lab: Lab) -> None:
    lab.write("registries.conf.d/10-open.conf", BLOCKED.replace("true", "false"))
    lab.write("registries.conf.d/20-unread.txt", BLOCKED)
    assert len(await lab.conf(BLOCKED, "bad.example/team/x:1")) == 1
    path = lab.write("registries.conf.d/30-shut.conf", BLOCKED)
    with pytest.raises(InvalidRequest, match=f"blocked by {path}"):
        await lab.conf(BLOCKED, "bad.example/team/x:1")


async def test_hosts_toml_goes_before_registries_conf(lab: Lab) -> None:
    lab.write("certs.d/example.com/hosts.toml", 'server = "https://own.example"')
    assert [host.url for host in await lab.conf(FOO, "example.com/foo/x")] == ["https://own.example/v2"]


@pytest.mark.parametrize(
    ("text", "image", "words"),
    [
        ("[registries.search]", "a.example/x", "registries.conf: registries: this is version 1"),
        (
            '[[registry]]\nprefix = "a.example/x:1"\nlocation = "b.example/x:2"',
            "a.example/x:1",
            "changes the tag or digest",
        ),
        (
            '[[registry]]\nprefix = "a.example"\nlocation = "b.example/UPPER"',
            "a.example/x",
            "is not an image reference",
        ),
        (
            '[[registry]]\nprefix = "a.example/x"\nlocation = "b.example"',
            "a.example/x",
            "makes 'b.example:latest' of a.example/x:latest: it has no repository",
        ),
    ],
)
async def test_a_registries_conf_that_makes_no_sense_is_named(
    lab: Lab, text: str, image: str, words: str
) -> None:
    with pytest.raises(Unavailable, match=words):
        await lab.conf(text, image)


async def test_a_registries_conf_that_is_named_must_exist(lab: Lab) -> None:
    with pytest.raises(
        Unavailable, match=r"registries.conf, which images.registries_conf names, does not ex"
    ):
        await lab.ask("a.example/x", lab.settings(conf=True))


# Changes


async def test_changes_are_seen_without_a_restart(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config_files, "_SETTLED", 0.0)
    hosts = RegistryHosts(lab.settings())

    async def urls() -> list[str]:
        return [host.url for host in await hosts.hosts(order("a.example/x"))]

    assert await urls() == ["https://a.example/v2"]
    path = lab.write("certs.d/a.example/hosts.toml", 'server = "https://one.example"')
    assert await urls() == ["https://one.example/v2"]
    replacement = lab.write("new.toml", 'server = "https://two.example"')
    os.replace(replacement, path)
    assert await urls() == ["https://two.example/v2"]
    path.write_text("nonsense")
    with pytest.raises(Unavailable, match=f"{path}: is not TOML"):
        await urls()
    path.unlink()
    assert await urls() == ["https://a.example/v2"]


def test_an_unchanged_file_is_parsed_once_and_a_fresh_one_each_time(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[bytes] = []

    def parse(data: bytes) -> int:
        seen.append(data)
        return len(seen)

    path = str(lab.write("file", "x"))
    files = ConfigFiles()
    assert [files.load(path, parse), files.load(path, parse)] == [1, 2]
    monkeypatch.setattr(config_files, "_SETTLED", -1.0)
    assert [files.load(path, parse), files.load(path, parse)] == [3, 3]
    assert files.load(f"{path}/below", parse) is None


def test_a_pipe_in_a_files_place_is_refused_and_not_waited_for(lab: Lab) -> None:
    os.mkfifo(lab.root / "pipe")
    with pytest.raises(Unavailable, match="pipe is not a regular file"):
        ConfigFiles().load(str(lab.root / "pipe"), len)
