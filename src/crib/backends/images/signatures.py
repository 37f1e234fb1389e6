"""Whether an image is signed by a key that is trusted, and what verifier programs say of it.

A signature counts when one of the keys made it over the payload's bytes, and the payload names this manifest
and this repository. The repository is asked for because a key signs many images: whoever can write to a
registry could else serve one of them under the name of another. It is the repository that the image's name
means, whichever mirror served it; an image that was copied to another repository is signed again there.
Signatures are cosign's with keys (sigstore's signature specification); certificates, transparency logs and
bundles are not looked at.

Verifier programs are called as containerd's bindir verifier calls them (docs/image-verification.md there).
"""

from __future__ import annotations

import base64
import binascii
import json
import logging
import os
import stat
from collections.abc import Callable, Sequence

from crib.host import processes
from crib.model.errors import InvalidRequest
from crib.model.image import ImageReference, Signature, SuspectImage, parse_reference
from crib.wire.simple_signing import PayloadError, parse_payload

_log = logging.getLogger(__name__)

MAX_SIGNATURES = 100
"""Signatures of one image that are looked at."""
MAX_KEY = 64 << 10
"""Bytes of a key's file at most."""
MIN_RSA = 2048
"""Bits of an RSA key at least."""
MAX_OUTPUT = 16 << 10
"""Bytes that a verifier program may write; what is beyond them is dropped."""
_MAX_SIGNATURE = 4096
_MAX_REASON = 300
_DESCRIPTOR = "application/vnd.oci.descriptor.v1+json"

_Check = Callable[[bytes, bytes], bool]
"""Whether the signature (first) is a key's over the payload (second)."""


def problem_with(suspect: SuspectImage) -> str:
    """Why no trusted key has signed the image; empty when one has, or when none is asked for.

    Reads the keys' files, and takes some 0.1 ms for each signature and key: for a thread. A key that cannot
    be read is a problem unless another one has signed.
    """
    if not suspect.keys:
        return ""
    if not suspect.signatures:
        return "it has no signature"
    checks: list[_Check] = []
    problems: list[str] = []
    for path in suspect.keys:
        try:
            checks.append(_load_key(_read_key(path)))
        except (OSError, ValueError) as error:
            problems.append(f"key {path} cannot be used: {error}")
    for signature in suspect.signatures[:MAX_SIGNATURES]:
        problem = _signature_problem(signature, suspect, checks)
        if not problem:
            return ""
        problems.append(problem)
    return "; ".join(dict.fromkeys(problems))[:1000]


def _signature_problem(signature: Signature, suspect: SuspectImage, checks: Sequence[_Check]) -> str:
    if len(signature.signature) > _MAX_SIGNATURE:
        return f"a signature has {len(signature.signature)} characters, at most {_MAX_SIGNATURE} are taken"
    try:
        raw = base64.b64decode(signature.signature, validate=True)
    except (binascii.Error, ValueError) as error:
        return f"a signature is not base64: {error}"
    if not any(check(raw, signature.payload) for check in checks):
        return "a signature was made by none of the keys"
    # Only now: what nobody trusted has signed is not even parsed.
    try:
        claim = parse_payload(signature.payload)
    except PayloadError as error:
        return f"a signature is unusable: {error}"
    if claim.digest != suspect.digest:
        return f"a signature is for {claim.digest[:100]!r}, not for {suspect.digest}"
    if not _same_repository(claim.repository, suspect.reference):
        return f"a signature is for {claim.repository[:300]!r}, not for {suspect.reference.name}"
    return ""


def _same_repository(signed: str, reference: ImageReference) -> bool:
    try:
        return parse_reference(signed).name == reference.name
    except InvalidRequest:
        return False


def _read_key(path: str) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    with open(fd, "rb", buffering=0) as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise ValueError("it is not a regular file")
        data = file.read(MAX_KEY + 1)
    if len(data) > MAX_KEY:
        raise ValueError(f"it has more than {MAX_KEY} bytes")
    return data


def _load_key(pem: bytes) -> _Check:
    """How a public key checks a signature (as cosign makes them: over SHA-256); ValueError."""
    from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        key = load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ValueError("it is not a public key in PEM") from error

    def check(signature: bytes, payload: bytes) -> bool:
        try:
            match key:
                case ec.EllipticCurvePublicKey():
                    key.verify(signature, payload, ec.ECDSA(hashes.SHA256()))
                case rsa.RSAPublicKey():
                    key.verify(signature, payload, padding.PKCS1v15(), hashes.SHA256())
                case ed25519.Ed25519PublicKey():
                    key.verify(signature, payload)
                case _:
                    return False
        except InvalidSignature:
            return False
        return True

    match key:
        case ec.EllipticCurvePublicKey() if isinstance(key.curve, ec.SECP256R1 | ec.SECP384R1 | ec.SECP521R1):
            return check
        case rsa.RSAPublicKey() if key.key_size >= MIN_RSA:
            return check
        case ed25519.Ed25519PublicKey():
            return check
    raise ValueError(f"it is neither ECDSA (NIST curves), RSA (from {MIN_RSA} bits) nor Ed25519")


async def judged_by(program: str, suspect: SuspectImage, timeout: float) -> str:
    """Why a verifier program (an absolute path) does not accept the image; empty when it does.

    It accepts by exit code 0. One that is missing, cannot be started, is killed or takes longer than
    `timeout` seconds does not accept. Its standard output is the reason, its standard error goes to the log.
    """
    name = os.path.basename(program)
    if not os.path.isabs(program):
        return f"verifier {program} is not an absolute path"
    # The port knows no more of the manifest; media type and size stand in the format, so they are there.
    descriptor = json.dumps({"mediaType": "", "digest": suspect.digest, "size": 0})
    argv = [
        program,
        *("-name", str(suspect.reference)),
        *("-digest", suspect.digest),
        *("-stdin-media-type", _DESCRIPTOR),
    ]
    try:
        await processes.look_at(program)
        done = await processes.run(
            argv,
            timeout=timeout,
            stdin=descriptor.encode(),
            options=processes.RunOptions(output_limit=MAX_OUTPUT),
        )
    except (OSError, TimeoutError) as error:
        return f"verifier {name} cannot be run: {error}"
    if done.stderr:
        _log.info("verifier %s on %s: %s", name, suspect.reference, _shown(done.stderr, MAX_OUTPUT))
    if done.timed_out:
        return f"verifier {name} gave no answer within {timeout:g} s"
    if done.exit_code == 0:
        return ""
    how = f"exit code {done.exit_code}" if done.exit_code > 0 else f"killed by signal {-done.exit_code}"
    return f"verifier {name} refuses it: {_shown(done.stdout, _MAX_REASON) or 'no reason given'} ({how})"


def _shown(output: bytes, limit: int) -> str:
    """What a program said, for an error or the log: bounded, one line, nothing that a terminal obeys."""
    text = " ".join(output[:limit].decode("utf-8", "replace").split())
    return "".join(character if character.isprintable() else "?" for character in text)
