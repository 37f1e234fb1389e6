"""Challenges, tokens and error bodies of registries."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from crib.wire import registry


def test_a_bearer_challenge_becomes_the_url_of_a_token() -> None:
    header = (
        'Bearer realm="https://auth.example/token",service="registry.example",scope="repository:a/b:pull"'
    )
    url = registry.token_url(registry.parse_challenges(header), "a/b")
    assert url == "https://auth.example/token?scope=repository%3Aa%2Fb%3Apull&service=registry.example"


def test_the_scope_is_made_where_the_challenge_has_none() -> None:
    challenges = registry.parse_challenges('Bearer realm="http://auth.example/token?x=1"')
    assert registry.token_url(challenges, "a") == "http://auth.example/token?x=1&scope=repository%3Aa%3Apull"


def test_several_challenges_in_one_header_are_told_apart() -> None:
    found = registry.parse_challenges('Basic realm="a, \\"b\\"", Bearer realm=x,service=y')
    assert [(one.scheme, one.parameters) for one in found] == [
        ("basic", {"realm": 'a, "b"'}),
        ("bearer", {"realm": "x", "service": "y"}),
    ]


def test_no_token_is_fetched_from_a_strange_scheme() -> None:
    assert registry.token_url(registry.parse_challenges('Bearer realm="file:///etc/passwd"'), "a") is None
    assert registry.token_url(registry.parse_challenges('Basic realm="https://x/"'), "a") is None


@given(st.text(max_size=100))
def test_no_header_raises(header: str) -> None:
    registry.parse_challenges(header)


def test_either_field_of_a_token_reply_counts() -> None:
    assert registry.parse_token(b'{"token":"t"}') == "t"
    assert registry.parse_token(b'{"access_token":"a","expires_in":300}') == "a"
    assert registry.parse_token(b"<html>") == ""


def test_an_error_body_becomes_one_printable_line() -> None:
    body = b'{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest\\nunknown","detail":{"x":1}}]}'
    assert registry.error_text(body) == "MANIFEST_UNKNOWN: manifest unknown"
    assert registry.error_text(b"\xff<html>") == ""
    assert registry.error_text(b'{"errors":null}') == ""


def test_paths_are_those_of_the_distribution_spec() -> None:
    assert registry.manifest_path("a/b", "1.0") == "/v2/a/b/manifests/1.0"
    assert registry.blob_path("a/b", "sha256:00") == "/v2/a/b/blobs/sha256:00"
