"""What a cosign signature claims, and payloads that are none."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crib.wire.simple_signing import MAX_PAYLOAD, Claim, PayloadError, parse_payload

DIGEST = "sha256:" + "a" * 64
# As cosign writes it.
PAYLOAD = (
    b'{"critical":{"identity":{"docker-reference":"registry.test/app"},"image":{"docker-manifest-digest":"%s"},'
    b'"type":"cosign container image signature"},"optional":{"creator":"me"}}' % DIGEST.encode()
)


def test_a_payload_says_which_manifest_and_which_repository() -> None:
    assert parse_payload(PAYLOAD) == Claim(DIGEST, "registry.test/app")


def test_a_payload_without_an_identity_has_an_empty_one() -> None:
    document = json.loads(PAYLOAD)
    del document["critical"]["identity"]
    assert parse_payload(json.dumps(document).encode()).repository == ""


@pytest.mark.parametrize(
    ("payload", "words"),
    [
        (b"", "malformed"),
        (b"{}", "malformed"),
        (b"[" * 50_000, "malformed"),
        (PAYLOAD.replace(b"cosign container", b"atomic container"), "is of type 'atomic container"),
        (PAYLOAD.replace(b'"sha256', b'7,"x":"sha256'), "malformed"),
        (PAYLOAD.replace(b'"critical"', b'"Critical"'), "malformed"),
        (PAYLOAD + b" " * MAX_PAYLOAD, "at most 65536 are taken"),
        (b"\xff" + PAYLOAD, "malformed"),
    ],
)
def test_what_is_no_payload_of_cosigns_is_refused(payload: bytes, words: str) -> None:
    with pytest.raises(PayloadError, match=words):
        parse_payload(payload)


@given(
    st.binary(max_size=300) | st.integers(0, len(PAYLOAD)).map(lambda cut: PAYLOAD[:cut] + PAYLOAD[cut + 1 :])
)
def test_any_bytes_are_a_claim_or_a_payload_error(payload: bytes) -> None:
    try:
        parse_payload(payload)
    except PayloadError:
        return
