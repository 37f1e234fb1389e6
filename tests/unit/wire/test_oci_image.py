"""Manifests, indexes, configs: what is taken, and what is refused with words that say why."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crib.wire import oci_image
from crib.wire.oci_image import ImageFormatError, Index, Manifest, Platform

DIGEST = "sha256:" + "a" * 64
CONFIG = {"mediaType": oci_image.OCI_CONFIG, "digest": DIGEST, "size": 10}
LAYER = {"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": DIGEST, "size": 10}
MANIFEST = {"schemaVersion": 2, "config": CONFIG, "layers": [LAYER]}


def parse(document: dict[str, Any], media_type: str = "") -> Manifest | Index:
    return oci_image.parse_manifest(json.dumps(document).encode(), media_type, "manifest x")


def entry(architecture: str, **more: Any) -> dict[str, Any]:
    platform = {"os": "linux", "architecture": architecture, **more}
    return {"mediaType": oci_image.OCI_MANIFEST, "digest": DIGEST, "size": 1, "platform": platform}


def index(*entries: dict[str, Any]) -> Index:
    parsed = parse({"schemaVersion": 2, "manifests": list(entries)})
    assert isinstance(parsed, Index)
    return parsed


def test_a_manifest_is_read_with_its_layers() -> None:
    parsed = parse(MANIFEST, oci_image.OCI_MANIFEST)
    assert isinstance(parsed, Manifest)
    assert parsed.layers[0].digest == DIGEST


@pytest.mark.parametrize(
    ("document", "media_type", "words"),
    [
        ({**MANIFEST, "manifests": []}, "", "two ways"),
        ({"schemaVersion": 1, "fsLayers": []}, "", "schema 1"),
        ({"schemaVersion": 3}, "", "schemaVersion 3"),
        (MANIFEST, oci_image.OCI_INDEX, "other fields"),
        ({"schemaVersion": 2, "manifests": []}, oci_image.OCI_MANIFEST, "other fields"),
        ({**MANIFEST, "mediaType": oci_image.OCI_INDEX}, "", "other fields"),
        ({**MANIFEST, "mediaType": "text/plain"}, "", "is no image"),
        (
            {**MANIFEST, "config": {**CONFIG, "mediaType": "application/vnd.unknown.v1+json"}},
            "",
            "no image to run",
        ),
        ({**MANIFEST, "config": {**CONFIG, "size": 1 << 40}}, "", "more than"),
        ({**MANIFEST, "layers": [{**LAYER, "digest": "sha256:../../etc"}]}, "", "64 hex digits"),
        ({**MANIFEST, "layers": [{**LAYER, "size": -1}]}, "", "negative"),
        ({**MANIFEST, "layers": [{**LAYER, "urls": ["http://x/"]}]}, "", "foreign layer"),
        ({**MANIFEST, "layers": [{**LAYER, "mediaType": "application/x-evil"}]}, "", "not supported"),
        ({**MANIFEST, "layers": [LAYER] * 501}, "", "501 layers"),
        ({"schemaVersion": 2, "config": CONFIG}, "", "malformed"),
    ],
)
def test_what_is_no_image_is_refused_with_the_reason(
    document: dict[str, Any], media_type: str, words: str
) -> None:
    with pytest.raises(ImageFormatError, match=words):
        parse(document, media_type)


@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_else(data: bytes) -> None:
    with pytest.raises(ImageFormatError):
        oci_image.parse_manifest(data, "", "manifest x")


def test_deep_nesting_is_refused() -> None:
    with pytest.raises(ImageFormatError):
        oci_image.parse_manifest(b'{"config":' + b"[" * 100_000, "", "manifest x")


def test_a_document_above_the_bound_is_refused() -> None:
    with pytest.raises(ImageFormatError, match="more than"):
        oci_image.parse_config(b" " * (oci_image.MAX_DOCUMENT + 1), "config x")


def test_the_first_manifest_that_runs_here_is_chosen() -> None:
    first, second = entry("arm64", variant="v8"), entry("amd64")
    assert oci_image.choose_manifest(index(first, second), "amd64", "x").platform == Platform(
        "amd64", "linux"
    )
    assert oci_image.choose_manifest(index(first, second), "arm64", "x").platform == Platform(
        "arm64", "linux", "v8"
    )


def test_attestations_and_newer_variants_are_not_chosen() -> None:
    attestation = {**entry("amd64"), "annotations": {"vnd.docker.reference.type": "attestation-manifest"}}
    with pytest.raises(ImageFormatError, match="only linux/amd64/v3"):
        oci_image.choose_manifest(index(attestation, entry("amd64", variant="v3")), "amd64", "x")


def test_a_config_with_nulls_is_read_as_absent() -> None:
    document = {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": None}}
    parsed = oci_image.parse_config(json.dumps({**document, "config": {"Env": None}}).encode(), "config x")
    assert parsed.config is not None
    assert parsed.config.env is None
    assert parsed.rootfs.diff_ids is None


def test_a_diff_id_that_is_no_digest_is_refused() -> None:
    document = {"architecture": "amd64", "os": "linux", "rootfs": {"diff_ids": ["../x"]}}
    with pytest.raises(ImageFormatError, match="diff id"):
        oci_image.parse_config(json.dumps(document).encode(), "config x")
