"""Challenges, tokens, ranges and error bodies of registries."""

from __future__ import annotations

import base64
import json
import time
from email.utils import formatdate
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crib.wire import registry

NOW = 1_700_000_000.0


def chosen(header: str) -> registry.Challenge:
    challenge = registry.choose_challenge(registry.parse_challenges(header))
    assert challenge is not None
    return challenge


def test_a_bearer_challenge_becomes_the_url_of_a_token() -> None:
    header = (
        'Bearer realm="https://auth.example/token",service="registry.example",scope="repository:a/b:pull"'
    )
    url = registry.token_url(chosen(header), "a/b")
    assert url == "https://auth.example/token?scope=repository%3Aa%2Fb%3Apull&service=registry.example"
    assert registry.token_url(chosen(header), "a/b", "me & you").endswith("&account=me+%26+you")


def test_the_scope_is_made_where_the_challenge_has_none() -> None:
    challenge = chosen('Bearer realm="http://auth.example/token?x=1#y"')
    assert registry.token_url(challenge, "a") == "http://auth.example/token?x=1&scope=repository%3Aa%3Apull"


def test_several_challenges_in_one_header_are_told_apart() -> None:
    found = registry.parse_challenges('Basic realm="a, \\"b\\"", Bearer realm=x,service=y')
    assert [(one.scheme, one.parameters) for one in found] == [
        ("basic", {"realm": 'a, "b"'}),
        ("bearer", {"realm": "x", "service": "y"}),
    ]


def test_bearer_goes_before_basic_unless_its_token_server_cannot_be_asked() -> None:
    both = 'Basic realm="r", Bearer realm="https://auth.example/token"'
    assert chosen(both).scheme == "bearer"
    assert chosen('Bearer realm="file:///etc/passwd", Basic realm="r"').scheme == "basic"
    assert chosen('Bearer realm="https://[::1/token", Basic realm="r"').scheme == "basic"
    assert registry.choose_challenge(registry.parse_challenges('Bearer realm="file:///x"')) is None
    assert registry.choose_challenge(registry.parse_challenges('Digest realm="https://x/"')) is None


HEADERS = st.text(max_size=100) | st.lists(
    st.sampled_from(["Bearer", "Basic", " ", ",", "realm", "=", '"', "\\", "https://x/t", "scope", "a"])
).map("".join)


@given(HEADERS)
def test_no_header_raises(header: str) -> None:
    challenge = registry.choose_challenge(registry.parse_challenges(header))
    if challenge is not None and challenge.scheme == "bearer":
        assert urlsplit(registry.token_url(challenge, "a/b")).scheme in ("http", "https")
    registry.parse_content_range(header)
    registry.parse_retry_after(header, NOW)
    assert registry.printable(header).isprintable()


LONG_SECONDS = 10.0
"""Of the CPU, whatever else the machine does. One pass takes some milliseconds, one for each byte minutes."""


@pytest.mark.parametrize("header", [" " * 100_000, "," * 100_000, 'A b="' + "\\" * 100_000, "a=" * 50_000])
def test_a_long_header_takes_no_long_time(header: str) -> None:
    began = time.process_time()
    registry.parse_challenges(header)
    assert time.process_time() - began < LONG_SECONDS


def test_either_field_of_a_token_reply_counts() -> None:
    assert registry.parse_token(b'{"token":"t"}', NOW) == registry.Token("t", 60.0)
    assert registry.parse_token(b'{"access_token":"a","expires_in":300}', NOW) == registry.Token("a", 300.0)
    assert registry.parse_token(b'{"token":"","access_token":"a"}', NOW) == registry.Token("a", 60.0)
    assert registry.parse_token(b'{"token":null}', NOW) is None
    assert registry.parse_token(b"<html>", NOW) is None


@pytest.mark.parametrize("value", ["a b", "a\r\nX-Evil: 1", "\u00e9", "x" * (1 << 17)])
def test_a_token_that_is_no_header_value_is_not_taken(value: str) -> None:
    assert registry.parse_token(json.dumps({"token": value}).encode(), NOW) is None


@pytest.mark.parametrize(
    ("expires_in", "issued_at", "life"),
    [
        (300, "2023-11-14T22:13:20Z", 300.0),
        (300, "2023-11-14T22:11:40.123456789Z", 200.123456),
        (300, "2023-11-14T22:11:40+00:00", 200.0),
        (300, "1970-01-01T00:00:00Z", 60.0),
        (300, "2099-01-01T00:00:00Z", 300.0),
        (300, "yesterday", 300.0),
        (-5, None, 60.0),
        (1e300, None, 86400.0),
    ],
)
def test_the_life_of_a_token_is_bounded(expires_in: float, issued_at: str | None, life: float) -> None:
    body: dict[str, Any] = {"token": "t", "expires_in": expires_in, "issued_at": issued_at}
    token = registry.parse_token(json.dumps(body).encode(), NOW)
    assert token is not None
    assert token.life == pytest.approx(life, abs=0.001)


@given(
    st.binary(max_size=100) | st.text(max_size=40).map(lambda text: json.dumps({"issued_at": text}).encode())
)
def test_no_token_reply_raises(body: bytes) -> None:
    registry.parse_token(body, NOW)
    registry.error_text(body)


def test_forms_carry_what_oauth2_asks_for() -> None:
    query = registry.token_query(chosen('Bearer realm="https://x/",service=s'), "a/b")
    refresh = registry.refresh_form(query, "rt")
    assert refresh["grant_type"] == "refresh_token"
    assert (refresh["refresh_token"], refresh["service"], refresh["scope"]) == (
        "rt",
        "s",
        "repository:a/b:pull",
    )
    password = registry.password_form(query, "u", "p")
    assert (password["grant_type"], password["username"], password["password"]) == ("password", "u", "p")
    assert parse_qs("client_id=" + password["client_id"])


def test_basic_credentials_are_encoded_as_utf_8() -> None:
    assert base64.b64decode(registry.basic("\u00fc", "a:b").removeprefix("Basic ")).decode() == "\u00fc:a:b"


@pytest.mark.parametrize(
    ("header", "found"),
    [
        ("bytes 5-9/20", (5, 10, 20)),
        ("bytes 0-0/*", (0, 1, None)),
        ("bytes 9-5/20", None),
        ("bytes 5-20/20", None),
        ("bytes */20", None),
        ("items 0-1/2", None),
        ("", None),
        ("bytes 0-99999999999999999999/1", None),
    ],
)
def test_a_content_range_says_where_a_part_belongs(header: str, found: tuple[int, int, int | None]) -> None:
    assert registry.parse_content_range(header) == found


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("3", 3.0),
        (" 0 ", 0.0),
        ("9" * 400, 86400.0),
        (formatdate(NOW + 90, usegmt=True), 90.0),
        (formatdate(NOW - 90, usegmt=True), 0.0),
        ("-1", None),
        ("\u0663", None),
        ("soon", None),
        ("", None),
    ],
)
def test_retry_after_is_seconds_or_a_date(header: str, seconds: float | None) -> None:
    assert registry.parse_retry_after(header, NOW) == seconds


def test_an_error_body_becomes_one_printable_line() -> None:
    body = b'{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest\\nunknown","detail":{"x":1}}]}'
    assert registry.error_text(body) == "MANIFEST_UNKNOWN: manifest unknown"
    assert registry.error_text(b"\xff<html>") == ""
    assert registry.error_text(b'{"errors":null}') == ""


def test_what_may_be_secret_is_not_shown() -> None:
    text = registry.printable("at https://s3.example/x?X-Amz-Signature=abc with Bearer abc.def, Basic Zm9v")
    assert text == "at https://s3.example/x?\u2026 with Bearer \u2026, Basic \u2026"


def test_paths_are_relative_to_the_root_of_the_api() -> None:
    assert registry.manifest_path("a/b", "1.0") == "/a/b/manifests/1.0"
    assert registry.blob_path("a/b", "sha256:00") == "/a/b/blobs/sha256:00"
