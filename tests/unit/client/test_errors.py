"""What a runtime says becomes an error of the tree, whichever runtime says it."""

from __future__ import annotations

import grpc
import grpc.aio
import pytest

from crib.client.errors import (
    ClientError,
    ImageDenied,
    ImageNotFound,
    ImageRejected,
    NotFound,
    RegistryUnavailable,
    RuntimeFailure,
    Unavailable,
    failed_pull,
    from_rpc,
)

CONTAINERD = 'failed to pull and unpack image "r.example/a:1": failed to resolve reference "r.example/a:1": '
CRI_O = "initializing source docker://r.example/a:1: reading manifest 1 in r.example/a: "
CRIB = "manifest of r.example/a:1 could not be pulled (r.example: "


def raised(code: grpc.StatusCode, words: str, method: str) -> ClientError:
    empty = grpc.aio.Metadata()
    return from_rpc(grpc.aio.AioRpcError(code, empty, empty, words, None), "unix:///s", method)


@pytest.mark.parametrize(
    ("code", "words", "kind"),
    [
        # containerd 1.6
        ("NOT_FOUND", f"{CONTAINERD}r.example/a:1: not found", ImageNotFound),
        ("UNKNOWN", f"{CONTAINERD}pull access denied, repository does not exist", ImageDenied),
        ("UNKNOWN", f"{CONTAINERD}failed to authorize: 401 Unauthorized", ImageDenied),
        ("UNKNOWN", f"{CONTAINERD}dial tcp 127.0.0.1:1: connect: connection refused", RegistryUnavailable),
        ("UNKNOWN", f"{CONTAINERD}dial tcp: lookup r.example: no such host", RegistryUnavailable),
        ("UNKNOWN", f"{CONTAINERD}unexpected status code: 503 Service Unavailable", RegistryUnavailable),
        # CRI-O 1.28
        ("UNKNOWN", f"{CRI_O}manifest unknown", ImageNotFound),
        ("UNKNOWN", f"{CRI_O}name unknown: repository name not known to registry", ImageNotFound),
        ("UNKNOWN", f"{CRI_O}requested access to the resource is denied", ImageDenied),
        ("UNKNOWN", f"{CRI_O}unauthorized: authentication required", ImageDenied),
        ("UNKNOWN", "RegistryUnavailable: pinging container registry r.example: EOF", RegistryUnavailable),
        ("UNKNOWN", "SignatureValidationFailed: Source image rejected: A signature", ImageRejected),
        # crib
        ("NOT_FOUND", f"{CRIB}404)", ImageNotFound),
        ("UNAVAILABLE", f"{CRIB}401): credentials are refused, or the repository does not", ImageDenied),
        ("UNKNOWN", f"RegistryUnavailable: {CRIB}connection refused)", RegistryUnavailable),
        ("INVALID_ARGUMENT", "image: r.example/a:1 is blocked by registries.conf", ImageRejected),
        # of none of the kinds
        ("UNKNOWN", "failed to extract layer sha256:00: no space left on device", RuntimeFailure),
        ("UNAVAILABLE", "crib is starting", Unavailable),
    ],
)
def test_a_pull_that_fails_says_why_by_its_class(code: str, words: str, kind: type[ClientError]) -> None:
    for found in (raised(grpc.StatusCode[code], words, "PullImage"), failed_pull(code, words)):
        assert type(found) is kind
        assert (found.message, found.code) == (words, code)


@pytest.mark.parametrize(
    ("code", "words", "kind"),
    [
        ("NOT_FOUND", 'failed to resolve image "a:1": not found', ImageNotFound),
        ("UNKNOWN", 'locating image with ID "00": image not known', ImageNotFound),
        ("NOT_FOUND", "image 'a:1' is not on this node: pull it first", ImageNotFound),
        ("NOT_FOUND", 'failed to find sandbox id "x": not found', NotFound),
        ("NOT_FOUND", "there is no pod sandbox 'x'", NotFound),
    ],
)
def test_a_container_of_a_missing_image_is_told_from_one_of_a_missing_pod(
    code: str, words: str, kind: type[ClientError]
) -> None:
    assert type(raised(grpc.StatusCode[code], words, "CreateContainer")) is kind


def test_an_older_crib_names_no_code_and_its_words_count() -> None:
    assert type(failed_pull("", f"RegistryUnavailable: {CRIB}connection refused)")) is RegistryUnavailable
    assert type(failed_pull("", "no such image in the registry")) is RuntimeFailure


def test_other_calls_are_not_judged_by_words_of_images() -> None:
    assert type(raised(grpc.StatusCode.UNKNOWN, "manifest unknown", "StartContainer")) is RuntimeFailure
