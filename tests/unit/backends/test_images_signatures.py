"""Signatures by keys made here, as cosign makes them; verifier programs that accept, refuse and misbehave."""

from __future__ import annotations

import base64
import json
import logging
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from crib.backends.images import signatures
from crib.backends.images.signatures import judged_by, problem_with
from crib.model.ids import Digest
from crib.model.image import Signature, SuspectImage, parse_reference

DIGEST = Digest("sha256:" + "a" * 64)
NAME = "registry.test:5000/team/app"
P256 = ec.generate_private_key(ec.SECP256R1())
RSA = rsa.generate_private_key(65537, 2048)
ED25519 = ed25519.Ed25519PrivateKey.generate()


def payload(
    digest: str = DIGEST, repository: str = NAME, kind: str = "cosign container image signature"
) -> bytes:
    return json.dumps(
        {
            "critical": {
                "identity": {"docker-reference": repository},
                "image": {"docker-manifest-digest": digest},
                "type": kind,
            },
            "optional": None,
        }
    ).encode()


def signed(key: Any, document: bytes) -> Signature:
    match key:
        case ec.EllipticCurvePrivateKey():
            raw = key.sign(document, ec.ECDSA(hashes.SHA256()))
        case rsa.RSAPrivateKey():
            raw = key.sign(document, padding.PKCS1v15(), hashes.SHA256())
        case _:
            raw = key.sign(document)
    return Signature(document, base64.b64encode(raw).decode())


def pem(path: Path, key: Any) -> str:
    path.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return str(path)


def suspect(*found: Signature, keys: tuple[str, ...] = (), name: str = f"{NAME}:1") -> SuspectImage:
    return SuspectImage(parse_reference(name), DIGEST, found, keys)


@pytest.fixture
def key(tmp_path: Path) -> str:
    return pem(tmp_path / "cosign.pub", P256)


@pytest.mark.parametrize(
    "private",
    [P256, ec.generate_private_key(ec.SECP384R1()), RSA, ED25519],
    ids=["ecdsa-p256", "ecdsa-p384", "rsa", "ed25519"],
)
def test_an_image_signed_by_the_key_is_right(private: Any, tmp_path: Path) -> None:
    path = pem(tmp_path / "key", private)
    assert problem_with(suspect(signed(private, payload()), keys=(path,))) == ""


def test_no_key_asks_for_no_signature() -> None:
    assert problem_with(suspect()) == ""


def test_an_image_without_a_signature_is_told_so(key: str) -> None:
    assert problem_with(suspect(keys=(key,))) == "it has no signature"


def test_one_good_signature_by_one_of_the_keys_will_do(key: str, tmp_path: Path) -> None:
    other = pem(tmp_path / "other", ED25519)
    good, bad = signed(P256, payload()), signed(RSA, payload())
    assert problem_with(suspect(bad, good, keys=(other, key))) == ""
    assert problem_with(suspect(good, keys=(str(tmp_path / "missing"), key))) == ""


def test_a_signature_by_another_key_does_not_count(key: str) -> None:
    other = ec.generate_private_key(ec.SECP256R1())
    assert "by none of the keys" in problem_with(suspect(signed(other, payload()), keys=(key,)))


def test_a_changed_payload_does_not_count(key: str) -> None:
    good = signed(P256, payload("sha256:" + "b" * 64))
    forged = replace(good, payload=payload())
    assert "by none of the keys" in problem_with(suspect(forged, keys=(key,)))


def test_a_signature_of_another_image_does_not_count(key: str) -> None:
    other = "sha256:" + "b" * 64
    problem = problem_with(suspect(signed(P256, payload(other)), keys=(key,)))
    assert problem == f"a signature is for '{other}', not for {DIGEST}"


@pytest.mark.parametrize(
    "repository", ["registry.test:5000/team/other", "registry.test/team/app", "", "a b", "x" * 900]
)
def test_a_signature_under_another_name_does_not_count(key: str, repository: str) -> None:
    problem = problem_with(suspect(signed(P256, payload(repository=repository)), keys=(key,)))
    assert f"not for {NAME}" in problem


def test_names_of_the_docker_hub_are_one(key: str) -> None:
    found = signed(P256, payload(repository="index.docker.io/library/busybox"))
    assert problem_with(suspect(found, keys=(key,), name="busybox")) == ""


def test_a_signature_of_another_kind_does_not_count(key: str) -> None:
    found = signed(P256, payload(kind="atomic container signature"))
    assert "is of type 'atomic" in problem_with(suspect(found, keys=(key,)))


@pytest.mark.parametrize("text", ["", "no base64!", "YQ==", "é", "A" * 5000])
def test_a_signature_that_is_none_does_not_count(key: str, text: str) -> None:
    assert problem_with(suspect(Signature(payload(), text), keys=(key,)))


def test_signatures_beyond_the_bound_are_not_looked_at(key: str) -> None:
    bad = Signature(payload(), "YQ==")
    many = (*[bad] * signatures.MAX_SIGNATURES, signed(P256, payload()))
    assert problem_with(suspect(*many, keys=(key,)))
    assert problem_with(suspect(*many[1:], keys=(key,))) == ""


@pytest.mark.parametrize(
    "kind", ["missing", "directory", "fifo", "text", "huge", "private", "weak", "dsa", "curve"]
)
def test_a_key_that_cannot_be_used_lets_nothing_pass(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "key"
    match kind:
        case "directory":
            path.mkdir()
        case "fifo":
            os.mkfifo(path)
        case "text":
            path.write_text("no key")
        case "huge":
            path.write_bytes(b" " * (signatures.MAX_KEY + 1))
        case "private":
            from cryptography.hazmat.primitives.serialization import NoEncryption, PrivateFormat

            path.write_bytes(P256.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        case "weak":
            pem(path, rsa.generate_private_key(65537, 1024))
        case "dsa":
            pem(path, dsa.generate_private_key(2048))
        case "curve":
            pem(path, ec.generate_private_key(ec.SECP256K1()))
    problem = problem_with(suspect(signed(P256, payload()), keys=(str(path),)))
    assert f"key {path} cannot be used" in problem


def program(path: Path, script: str) -> str:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


async def test_a_verifier_gets_what_containerd_gives_it_and_accepts_with_0(tmp_path: Path) -> None:
    told = tmp_path / "told"
    verifier = program(tmp_path / "verifier", f'printf "%s\\n" "$@" >{told}; cat >>{told}')
    assert await judged_by(verifier, suspect(), 10) == ""
    *arguments, descriptor = told.read_text().splitlines()
    assert arguments == [
        *("-name", f"{NAME}:1"),
        *("-digest", DIGEST),
        *("-stdin-media-type", "application/vnd.oci.descriptor.v1+json"),
    ]
    assert json.loads(descriptor)["digest"] == DIGEST


async def test_a_verifier_that_refuses_gives_its_reason_in_one_harmless_line(tmp_path: Path) -> None:
    verifier = program(tmp_path / "verifier", r'printf "not\n  signed\033[2J"; exit 3')
    problem = await judged_by(verifier, suspect(), 10)
    assert problem == "verifier verifier refuses it: not signed?[2J (exit code 3)"


async def test_a_verifier_that_says_much_is_bounded(tmp_path: Path) -> None:
    verifier = program(tmp_path / "verifier", "head -c 1000000 /dev/zero | tr '\\0' x; exit 1")
    assert len(await judged_by(verifier, suspect(), 10)) < 400


async def test_a_verifier_that_does_not_read_its_input_may_accept(tmp_path: Path) -> None:
    assert await judged_by(program(tmp_path / "verifier", "exec <&-; exit 0"), suspect(), 10) == ""


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("sleep 60", "no answer within 0.2 s"),
        ("kill -9 $$", "killed by signal 9"),
        ("exit 1", "no reason given"),
    ],
)
async def test_a_verifier_that_fails_lets_nothing_pass(tmp_path: Path, script: str, words: str) -> None:
    verifier = program(tmp_path / "verifier", script)
    assert words in await judged_by(verifier, suspect(), 0.2 if "sleep" in script else 10)


async def test_a_verifier_that_cannot_be_run_lets_nothing_pass(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.write_text("exit 0")
    garbage = Path(program(tmp_path / "garbage", ""))
    garbage.write_bytes(b"#!/no/such/interpreter\n")
    for path in (tmp_path / "missing", plain, tmp_path, garbage):
        assert "cannot be run" in await judged_by(str(path), suspect(), 10)
    assert "not an absolute path" in await judged_by("true", suspect(), 10)


async def test_what_a_verifier_says_aside_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    verifier = program(tmp_path / "verifier", "echo looked up the key >&2")
    assert await judged_by(verifier, suspect(), 10) == ""
    assert "looked up the key" in caplog.text
