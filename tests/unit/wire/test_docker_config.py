"""Auth files and helpers' answers: what they give, to whom, and what is refused."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crib.wire import docker_config
from crib.wire.docker_config import AuthEntry, MalformedAuth, parse_auth_file


def basic(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def auths(**entries: Any) -> bytes:
    return json.dumps({"auths": entries}).encode()


def users(*keys: str) -> bytes:
    """A file whose entries' user names are their keys."""
    return json.dumps({"auths": {key: {"username": key, "password": "p"} for key in keys}}).encode()


def test_every_kind_of_entry_is_read() -> None:
    file = parse_auth_file(
        json.dumps(
            {
                "auths": {
                    "a.example": {"auth": basic("user:pass:word"), "email": "x"},
                    "b.example": {"username": "u", "password": "p"},
                    "c.example": {"identitytoken": "refresh", "auth": ""},
                    "d.example": {"registrytoken": "bearer"},
                    "e.example": {},
                    "f.example": {"auth": None},
                },
                "credHelpers": {"g.example": "ecr-login"},
                "credsStore": "pass",
                "HttpHeaders": {"User-Agent": "x"},
            }
        ).encode()
    )
    assert file.entries["a.example"] == AuthEntry("user", "pass:word")
    assert file.entries["b.example"] == AuthEntry("u", "p")
    assert file.entries["c.example"] == AuthEntry(identity_token="refresh")
    assert file.entries["d.example"] == AuthEntry(registry_token="bearer")
    assert file.entries["e.example"].empty
    assert file.entries["f.example"].empty
    assert (file.helper("g.example", "x"), file.helper("a.example", "x"), file.store) == (
        "ecr-login",
        "",
        "pass",
    )


def test_an_empty_file_has_nothing() -> None:
    for data in (b"", b" \n", b"{}", b'{"auths": null, "credsStore": null}'):
        assert parse_auth_file(data).entry("a.example", "b") is None


@pytest.mark.parametrize(
    ("path", "key"),
    [
        ("namespace/user/image", "my.example/namespace/user/image"),
        ("namespace/user/other", "my.example/namespace/user"),
        ("namespace/user", "my.example/namespace/user"),
        ("namespace/username", "my.example/namespace"),
        ("elsewhere", "my.example"),
        ("namespaces/x", "my.example"),
    ],
)
def test_the_most_specific_path_of_a_host_counts(path: str, key: str) -> None:
    file = parse_auth_file(
        users(
            *("my.example", "my.example/namespace", "my.example/namespace/user"),
            *("my.example/namespace/user/image", "other.example/namespace/user/image"),
        )
    )
    found = file.entry("my.example", path)
    assert found is not None
    assert found[0] == found[1].username == key


@pytest.mark.parametrize(
    "key",
    [
        *("docker.io", "index.docker.io", "registry-1.docker.io", "https://index.docker.io/v1/"),
        *("https://index.docker.io/v1", "https://registry-1.docker.io/v2/", "http://docker.io/"),
    ],
)
def test_all_names_of_docker_hub_are_one(key: str) -> None:
    file = parse_auth_file(users(key))
    for host in ("docker.io", "registry-1.docker.io", "index.docker.io"):
        assert file.entry(host, "library/busybox") is not None
    assert file.entry("hub.example", "library/busybox") is None


@pytest.mark.parametrize(
    ("key", "host"),
    [
        ("https://a.example/v1/", "a.example"),
        ("https://a.example/v2", "a.example"),
        ("a.example:443", "a.example"),
        ("A.Example", "a.example"),
        ("a.example", "a.example:443"),
        ("http://a.example:5000/", "a.example:5000"),
    ],
)
def test_a_key_may_be_a_url(key: str, host: str) -> None:
    assert parse_auth_file(users(key)).entry(host, "x/y") is not None


@pytest.mark.parametrize(
    ("key", "host", "path", "matches"),
    [
        ("*.kubernetes.io", "abc.kubernetes.io", "x", True),
        ("*.kubernetes.io", "kubernetes.io", "x", False),
        ("*.kubernetes.io", "abc.def.kubernetes.io", "x", False),
        ("*.*.kubernetes.io", "abc.def.kubernetes.io", "x", True),
        ("prefix.*.io", "prefix.kubernetes.io", "x", True),
        ("*-good.kubernetes.io", "prefix-good.kubernetes.io", "x", True),
        ("*-good.kubernetes.io", "prefix-bad.kubernetes.io", "x", False),
        ("*.a.example/images", "r.a.example", "images/x", True),
        ("*.a.example/images", "r.a.example", "imagesx", False),
        ("*.a.example:5000", "r.a.example:5000", "x", True),
        ("*.a.example:5000", "r.a.example", "x", False),
        ("*.a.example", "r.a.example:5000", "x", False),
        ("*.a.example", "r.a.example.evil.example", "x", False),
        ("a?.example", "ab.example", "x", True),
        ("a?.example", "a.b.example", "x", False),
        ("[::1]:5000", "[::1]:5000", "x", True),
        ("[ab]*.example", "a.example", "x", False),
    ],
)
def test_globs_match_label_by_label(key: str, host: str, path: str, matches: bool) -> None:
    assert (parse_auth_file(users(key)).entry(host, path) is not None) is matches


def test_a_host_itself_goes_before_a_glob_and_a_longer_path_before_both() -> None:
    file = parse_auth_file(users("*.a.example", "r.a.example", "*.a.example/team"))
    for path, key in (("x", "r.a.example"), ("team/x", "*.a.example/team")):
        found = file.entry("r.a.example", path)
        assert found is not None
        assert found[0] == key


def test_an_empty_entry_does_not_hide_another_spelling_of_its_host() -> None:
    file = parse_auth_file(
        json.dumps(
            {"auths": {"https://index.docker.io/v1/": {"auth": basic("u:p")}, "docker.io": {}}}
        ).encode()
    )
    assert file.entries["docker.io"] == AuthEntry("u", "p")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"{", "is not JSON"),
        (b"[]", "is not a JSON object"),
        (b'{"auths": []}', "auths must be an object"),
        (b'{"auths": {"a.example": "x"}}', r"auths\['a.example'\] must be an object whose fields"),
        (b'{"auths": {"a.example": {"auth": 5}}}', r"auths\['a.example'\] must be"),
        (b'{"auths": {"a.example": {"auth": "hunter2!"}}}', r"auths\['a.example'\].auth is not base64"),
        (auths(a={"auth": basic("hunter2")}), "auth is base64 of something without a colon"),
        (auths(a={"auth": base64.b64encode(b"\xff:hunter2").decode()}), "auth is not base64 of USER"),
        (auths(**{"": {}}), r"auths\[''\] names no host"),
        (auths(**{"https:///x": {}}), "names no host"),
        (auths(a={"password": "hunter2" * 20_000}), "longer than"),
        (b'{"credHelpers": {"a.example": "../../bin/sh"}}', r"credHelpers\['a.example'\] must be a helper"),
        (b'{"credHelpers": {"a.example": 5}}', "credHelpers"),
        (b'{"credsStore": "a b"}', "credsStore must be a helper's name"),
        (b'{"a.example": {"auth": "aHVudGVyMjo="}}', "format of a .dockercfg"),
        (b'{"auths": {"u:hunter2@a.example": 5}}', "auths"),
        (b"x" * (docker_config.DOCUMENT_BYTES + 1), "longer than"),
        (b"[" * 100_000, "not JSON"),
        (b'"\xff"', "not"),
    ],
)
def test_a_malformed_file_is_refused_with_its_key_and_without_its_secrets(data: bytes, words: str) -> None:
    with pytest.raises(MalformedAuth, match=words) as caught:
        parse_auth_file(data)
    assert "hunter2" not in str(caught.value)


def test_no_repr_shows_a_secret() -> None:
    entry = AuthEntry("u", "hunter2", "hunter2", "hunter2")
    file = parse_auth_file(auths(a={"auth": basic("u:hunter2"), "identitytoken": "hunter2"}))
    assert "hunter2" not in repr(entry) + repr(file)


@pytest.mark.parametrize(
    ("auth", "pair"),
    [
        (basic("user:"), ("user", "")),
        (basic("us\u00e9r:p\u00e4ss"), ("us\u00e9r", "p\u00e4ss")),
        (basic("user:pass\0\0"), ("user", "pass")),
        (basic("user:pas").rstrip("="), ("user", "pas")),
        (base64.urlsafe_b64encode(b"u:~~~~???>>>").decode(), ("u", "~~~~???>>>")),
    ],
)
def test_the_auth_field_is_base64_of_user_and_password(auth: str, pair: tuple[str, str]) -> None:
    assert docker_config.decode_basic(auth) == pair


def test_helpers_are_asked_for_docker_hub_by_the_address_of_its_first_api() -> None:
    assert docker_config.helper_server("registry-1.docker.io") == "https://index.docker.io/v1/"
    assert docker_config.helper_server("a.example:5000") == "a.example:5000"


def test_a_helpers_answer_is_a_password_or_an_identity_token() -> None:
    answer = b'{"ServerURL": "a.example", "Username": "u", "Secret": "s"}'
    assert docker_config.parse_helper_answer(answer) == AuthEntry("u", "s")
    token = b'{"Username": "<token>", "Secret": "s"}'
    assert docker_config.parse_helper_answer(token) == AuthEntry(identity_token="s")
    assert docker_config.parse_helper_answer(b"{}").empty


@pytest.mark.parametrize("answer", [b"", b"hunter2", b"[]", b'{"Secret": 5}', b'{"Secret": "hunter2"'])
def test_a_helpers_malformed_answer_is_not_quoted(answer: bytes) -> None:
    with pytest.raises(MalformedAuth, match="not a JSON object") as caught:
        docker_config.parse_helper_answer(answer)
    assert "hunter2" not in str(caught.value)
    with pytest.raises(MalformedAuth, match="longer than"):
        docker_config.parse_helper_answer(json.dumps({"Secret": "x" * 70_000}).encode())


def test_a_helper_may_know_nothing() -> None:
    assert docker_config.helper_knows_none(b"credentials not found in native keychain\n")
    assert not docker_config.helper_knows_none(b"")
    assert not docker_config.helper_knows_none(b"boom: credentials not found")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["auths", "auth", "credHelpers", "credsStore", "username", "a.example", "*.b/c"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(st.binary(max_size=200) | JSON.map(lambda value: json.dumps(value).encode()))
def test_whatever_the_bytes_are_only_its_own_error_comes_out(data: bytes) -> None:
    for read in (parse_auth_file, docker_config.parse_helper_answer):
        try:
            read(data)
        except MalformedAuth:
            pass
    docker_config.helper_knows_none(data)


@given(st.text(max_size=60), st.text("ab/.*?[]:", max_size=20), st.text(max_size=20))
def test_looking_up_takes_any_text(key: str, host: str, path: str) -> None:
    docker_config.AuthFile({docker_config.normalized(key): AuthEntry()}).entry(host, path)
    try:
        docker_config.decode_basic(key)
    except MalformedAuth:
        pass
