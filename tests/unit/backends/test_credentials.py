"""Which credential goes to which host, and that no secret goes anywhere else."""

from __future__ import annotations

import base64
import json
import logging
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from crib.backends.images.registries import credentials
from crib.backends.images.registries.config_files import ConfigFiles
from crib.backends.images.registries.credentials import Credentials, request_credential
from crib.backends.images.registries.hosts import RegistryHosts
from crib.model.errors import CribError, InvalidRequest, Unavailable
from crib.model.image import PullOrder, parse_reference
from crib.model.image_settings import RegistrySettings
from crib.model.registry import AuthConfig, Credential, RegistryHost

REQUEST = AuthConfig(username="caller", password="hunter2")


def basic(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


@dataclass
class Lab:
    """An auth file, helpers on PATH, and a hosts directory."""

    root: Path

    @property
    def auth_file(self) -> str:
        return f"{self.root}/auth.json"

    def auths(self, **document: Any) -> None:
        Path(self.auth_file).write_text(json.dumps(document))

    def helper(self, name: str, script: str) -> None:
        path = self.root / "bin" / f"docker-credential-{name}"
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    def hosts_toml(self, registry: str, text: str) -> None:
        path = self.root / "certs.d" / registry / "hosts.toml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def settings(self) -> RegistrySettings:
        return RegistrySettings(hosts_dirs=(f"{self.root}/certs.d",), auth_file=self.auth_file)

    async def users(
        self, image: str, auth: AuthConfig | None = None, settings: RegistrySettings | None = None
    ) -> list[tuple[str, str]]:
        """Of every host that is asked: its URL and the user name that it gets."""
        order = PullOrder(parse_reference(image), auth or AuthConfig())
        hosts = await RegistryHosts(settings or self.settings()).hosts(order)
        return [(host.url.removesuffix("/v2"), host.credential.username) for host in hosts]

    async def find(self, image: str, auth: AuthConfig | None = None) -> Credential:
        """What the registry itself gets."""
        order = PullOrder(parse_reference(image), auth or AuthConfig())
        return (await RegistryHosts(self.settings()).hosts(order))[-1].credential


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    return Lab(tmp_path)


# The request's


@pytest.mark.parametrize(
    ("auth", "credential"),
    [
        (AuthConfig(), Credential()),
        (AuthConfig(server_address="a.example"), Credential()),
        (AuthConfig(username="u", password="p"), Credential("u", "p", source="request")),
        (AuthConfig(auth=basic("u:p:q")), Credential("u", "p:q", source="request")),
        (AuthConfig(username="u", password="p", auth=basic("x:y")), Credential("u", "p", source="request")),
        (AuthConfig(username="u", password="p", auth="nonsense"), Credential("u", "p", source="request")),
        (AuthConfig(identity_token="i"), Credential(identity_token="i", source="request")),
        (AuthConfig(registry_token="r"), Credential(registry_token="r", source="request")),
        (AuthConfig("u", "p", basic("x:y"), "", "i", "r"), Credential("u", "p", "i", "r", "request")),
        (AuthConfig(auth=basic("x:y"), identity_token="i"), Credential("x", "y", "i", source="request")),
    ],
)
def test_all_fields_of_a_request_and_their_combinations_are_taken(
    auth: AuthConfig, credential: Credential
) -> None:
    assert request_credential(auth) == credential


@pytest.mark.parametrize(
    ("auth", "field"),
    [
        (AuthConfig(auth="hunter2!"), "auth.auth"),
        (AuthConfig(auth=basic("hunter2")), "auth.auth"),
        (AuthConfig(registry_token="hunter2\r\nHost: evil"), "auth.registry_token"),
        (AuthConfig(registry_token="hunter2\n"), "auth.registry_token"),
        (AuthConfig(identity_token="hunter2 x"), "auth.identity_token"),
        (AuthConfig(username="a:b", password="hunter2"), "auth.username"),
        (AuthConfig(username="a", password="hunter2" * 10_000), "auth.password"),
        (AuthConfig(username="a", password="hunter2", server_address="https:///x"), "auth.server_address"),
    ],
)
async def test_a_malformed_field_is_named_without_its_value(lab: Lab, auth: AuthConfig, field: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        await lab.find("a.example/x", auth)
    assert caught.value.field == field
    assert "hunter2" not in str(caught.value) + repr(caught.value)


async def test_a_requests_credentials_go_to_the_registry_and_to_no_mirror(lab: Lab) -> None:
    lab.hosts_toml("a.example", '[host."https://mirror.example"]\n[host."https://a.example:8443"]')
    assert await lab.users("a.example/x", REQUEST) == [
        ("https://mirror.example", ""),
        ("https://a.example:8443", ""),
        ("https://a.example", "caller"),
    ]


async def test_a_requests_credentials_do_not_go_to_a_server_that_takes_the_registrys_place(lab: Lab) -> None:
    lab.hosts_toml("_default", 'server = "https://all.example"')
    assert await lab.users("a.example/x", REQUEST) == [("https://all.example", "")]


@pytest.mark.parametrize(
    "address",
    [
        "docker.io",
        "index.docker.io",
        "https://index.docker.io/v1/",
        "registry-1.docker.io",
        "https://docker.io",
    ],
)
async def test_a_server_address_may_be_any_name_of_docker_hub(lab: Lab, address: str) -> None:
    auth = replace(REQUEST, server_address=address)
    assert (await lab.find("busybox", auth)).username == "caller"
    assert (await lab.find("quay.io/a/b", auth)).anonymous


async def test_a_server_address_names_the_only_host_that_gets_the_credentials(lab: Lab) -> None:
    lab.hosts_toml("a.example", '[host."https://mirror.example:5000"]')
    for address, users in (
        ("https://mirror.example:5000/v2/", ["caller", ""]),
        ("mirror.example:5000", ["caller", ""]),
        ("mirror.example", ["", ""]),
        ("A.Example:443", ["", "caller"]),
        ("a.example.evil.example", ["", ""]),
        ("https://a.example@evil.example", ["", ""]),
    ):
        found = await lab.users("a.example/x", replace(REQUEST, server_address=address))
        assert [user for _, user in found] == users, address


async def test_credentials_that_fit_nobody_are_said_to_be_unused(lab: Lab) -> None:
    found = await lab.find("a.example/x", replace(REQUEST, server_address="https://b.example/v1/"))
    assert found == Credential(source="the request's are for 'b.example'")
    lab.auths(auths={"a.example": {"username": "node", "password": "p"}})
    found = await lab.find("a.example/x", replace(REQUEST, server_address="b.example"))
    assert found.username == "node"
    assert found.source == f"{lab.auth_file}, entry a.example (the request's are for 'b.example')"


# The node's


async def test_without_credentials_in_the_request_the_nodes_auth_file_counts_for_mirrors_too(
    lab: Lab,
) -> None:
    lab.hosts_toml("a.example", '[host."https://mirror.example"]\n[host."https://other.example"]')
    lab.auths(
        auths={
            "a.example": {"auth": basic("whole:p")},
            "a.example/team": {"auth": basic("team:p")},
            "*.example/none": {"auth": basic("none:p")},
            "mirror.example": {"auth": basic("mirror:p")},
        }
    )
    assert await lab.users("a.example/team/x") == [
        ("https://mirror.example", "mirror"),
        ("https://other.example", ""),
        ("https://a.example", "team"),
    ]
    assert [user for _, user in await lab.users("a.example/team/x", REQUEST)] == ["mirror", "", "caller"]
    assert (await lab.find("a.example/x")).username == "whole"


async def test_an_entrys_path_is_the_one_under_which_the_host_has_the_repository(lab: Lab) -> None:
    lab.hosts_toml(
        "docker.io",
        'server = "https://harbor.example/v2/hub"\noverride_path = true\n[host."https://harbor.example/other"]',
    )
    lab.auths(auths={"harbor.example/hub": {"username": "hub", "password": "p"}})
    assert [user for _, user in await lab.users("busybox")] == ["", "hub"]


async def test_a_changed_auth_file_counts_at_once_and_a_missing_one_gives_nothing(lab: Lab) -> None:
    assert (await lab.find("a.example/x")).anonymous
    lab.auths(auths={"a.example": {"username": "one", "password": "p"}})
    assert (await lab.find("a.example/x")).username == "one"
    lab.auths(auths={"a.example": {"username": "two", "password": "p"}})
    assert (await lab.find("a.example/x")).username == "two"


async def test_a_broken_auth_file_fails_the_pull_and_shows_no_secret(lab: Lab) -> None:
    lab.auths(auths={"a.example": {"auth": "hunter2!"}})
    with pytest.raises(Unavailable, match=r"auth.json: auths\['a.example'\].auth is not base64") as caught:
        await lab.find("a.example/x")
    assert "hunter2" not in str(caught.value)


# Helpers


def answer(user: str, secret: str = "hunter2") -> str:
    return f"""read server; echo "$1 $server" >> "$(dirname "$0")/asked"
printf '{{"ServerURL": "%s", "Username": "{user}", "Secret": "{secret}"}}' "$server" """


async def test_a_helper_is_asked_by_its_protocol(lab: Lab) -> None:
    lab.helper("fake", answer("helped"))
    lab.helper("store", answer("<token>", "refresh"))
    lab.auths(
        auths={"a.example": {"username": "file", "password": "p"}, "b.example": {}},
        credHelpers={"a.example": "fake", "*.cloud.example": "fake"},
        credsStore="store",
    )
    found = await lab.find("a.example/x")
    assert found == Credential(
        "helped", "hunter2", source=f"docker-credential-fake (credHelpers of {lab.auth_file})"
    )
    assert (await lab.find("1.cloud.example/x")).username == "helped"
    stored = await lab.find("b.example/x")
    assert (stored.identity_token, stored.username) == ("refresh", "")
    assert (await lab.find("busybox")).source == f"docker-credential-store (credsStore of {lab.auth_file})"
    assert (lab.root / "bin/asked").read_text().splitlines() == [
        "get a.example",
        "get 1.cloud.example",
        "get b.example",
        "get https://index.docker.io/v1/",
    ]


async def test_a_helper_that_knows_nothing_leaves_the_entry_of_the_file(lab: Lab) -> None:
    lab.helper("none", "echo credentials not found in native keychain; exit 1")
    lab.auths(
        auths={"a.example": {"username": "file", "password": "p"}},
        credHelpers={"a.example": "none"},
        credsStore="none",
    )
    assert (await lab.find("a.example/x")).username == "file"
    assert (await lab.find("b.example/x")).anonymous


async def test_helpers_of_registries_conf_are_asked_in_order(lab: Lab) -> None:
    lab.helper("none", "echo credentials not found in native keychain; exit 1")
    lab.helper("some", answer("some"))
    lab.auths(auths={"a.example": {"username": "file", "password": "p"}})
    conf = lab.root / "registries.conf"
    settings = replace(lab.settings(), registries_conf=str(conf))
    for helpers, user in (
        (["none", "containers-auth.json", "some"], "file"),
        (["none", "some", "containers-auth.json"], "some"),
        (["none"], ""),
        ([], "file"),
    ):
        conf.write_text(f"credential-helpers = {json.dumps(helpers)}")
        assert await lab.users("a.example/x", settings=settings) == [("https://a.example", user)]


@pytest.mark.parametrize(
    ("script", "words"),
    [
        (
            "echo hunter2; echo hunter2 >&2; exit 3",
            r"failed with exit code 3; `echo a.example \| docker-cred",
        ),
        ("echo hunter2", "its answer is not a JSON object"),
        ("exec sleep 60", "gave no answer within 0 s"),
        ("yes hunter2", "gave no answer within 0 s"),
    ],
)
async def test_a_helper_that_fails_is_named_and_nothing_that_it_said_is_repeated(
    lab: Lab, script: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "within" in words:
        monkeypatch.setattr(credentials, "HELPER_TIMEOUT", 0.2)
    lab.helper("bad", script)
    lab.auths(credHelpers={"a.example": "bad"})
    with pytest.raises(Unavailable, match=words) as caught:
        await lab.find("a.example/x")
    assert "docker-credential-bad (named by credHelpers of " in str(caught.value)
    assert "hunter2" not in str(caught.value)


async def test_a_helper_that_is_not_installed_is_named(lab: Lab) -> None:
    lab.auths(credsStore="absent")
    with pytest.raises(
        Unavailable, match=r"docker-credential-absent .* cannot be started: program not found"
    ):
        await lab.find("a.example/x")


async def test_a_helpers_answer_is_kept_for_a_minute(lab: Lab) -> None:
    lab.helper("fake", answer("u"))
    lab.auths(credsStore="fake")
    now = [0.0]
    found = Credentials(lab.auth_file, ConfigFiles(), lambda: now[0])
    host = RegistryHost("https://a.example/v2", "x", "")
    order = PullOrder(parse_reference("a.example/x"))
    for time, asked in ((0.0, 1), (59.0, 1), (60.0, 2)):
        now[0] = time
        assert (await found.find(host, order)).username == "u"
        assert len((lab.root / "bin/asked").read_text().splitlines()) == asked


# Over plain http, and in logs


async def test_cve_2019_10214_no_credentials_over_plain_http_to_a_host_that_is_not_insecure(lab: Lab) -> None:
    lab.auths(auths={"a.example": {"auth": basic("node:p")}, "m.example": {"auth": basic("mirror:p")}})
    lab.hosts_toml("a.example", 'server = "http://a.example"\n[host."http://m.example"]\nskip_verify = true')
    expected = [("https://m.example", "mirror"), ("http://m.example", ""), ("http://a.example", "")]
    assert await lab.users("a.example/x") == expected
    assert await lab.users("a.example/x", REQUEST) == expected
    assert (await lab.find("a.example/x")).source == (
        "none over plain http: a.example is not named in images.insecure"
    )


async def test_credentials_go_over_plain_http_to_the_loopback_and_where_the_administrator_says_so(
    lab: Lab,
) -> None:
    assert await lab.users("localhost:5000/x", REQUEST) == [("http://localhost:5000", "caller")]
    settings = replace(lab.settings(), insecure=("a.example",))
    assert await lab.users("a.example/x", REQUEST, settings) == [("http://a.example", "caller")]
    conf = lab.root / "registries.conf"
    conf.write_text('[[registry]]\nlocation = "b.example"\ninsecure = true')
    settings = replace(lab.settings(), registries_conf=str(conf))
    assert await lab.users("b.example/x", REQUEST, settings) == [
        ("https://b.example", "caller"),
        ("http://b.example", "caller"),
    ]


async def test_a_location_in_registries_conf_on_another_host_gets_no_credentials_of_the_request(
    lab: Lab,
) -> None:
    conf = lab.root / "registries.conf"
    conf.write_text(
        '[[registry]]\nprefix = "a.example"\nlocation = "b.example"\n'
        '[[registry.mirror]]\nlocation = "a.example/mirror"'
    )
    settings = replace(lab.settings(), registries_conf=str(conf))
    assert await lab.users("a.example/x", REQUEST, settings) == [
        ("https://a.example", "caller"),
        ("https://b.example", ""),
    ]


async def test_cve_2020_15157_no_host_but_those_named_by_image_and_administrator_gets_a_credential(
    lab: Lab,
) -> None:
    """What an image's manifest names (URLs of foreign layers) is never a host here: only the name counts."""
    lab.auths(auths={"*.example": {"auth": basic("node:p")}})
    assert await lab.users("a.example/evil.example/x", REQUEST) == [("https://a.example", "caller")]
    assert await lab.users("a.example.evil/x", REQUEST) == [("https://a.example.evil", "caller")]
    assert await lab.users("a.example.evil/x") == [("https://a.example.evil", "")]


async def test_no_secret_gets_into_a_log_or_a_repr(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    lab.helper("fake", answer("helped"))
    lab.hosts_toml(
        "a.example", '[host."https://m.example"]\n[host."https://m.example".header]\nx = "hunter2"'
    )
    lab.auths(auths={"a.example": {"auth": basic("node:hunter2")}}, credHelpers={"m.example": "fake"})
    hosts = RegistryHosts(lab.settings())
    for auth in (AuthConfig(), REQUEST, AuthConfig(auth=basic("u:hunter2"), registry_token="hunter2")):
        shown = repr(await hosts.hosts(PullOrder(parse_reference("a.example/x"), auth)))
        assert "hunter2" not in shown
        assert basic("u:hunter2") not in shown
    assert "docker-credential-fake" in caplog.text
    assert "hunter2" not in caplog.text


async def test_errors_of_every_kind_are_ours(lab: Lab) -> None:
    Path(lab.auth_file).mkdir()
    with pytest.raises(CribError, match=r"auth.json is not a regular file"):
        await lab.find("a.example/x")
