"""Manifests, indexes, configs: what is taken, and what is refused with words that say why."""

from __future__ import annotations

import contextlib
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
        ({**MANIFEST, "mediaType": "text/plain"}, "", "is not an image"),
        (
            {**MANIFEST, "config": {**CONFIG, "mediaType": "application/vnd.unknown.v1+json"}},
            "",
            "not a runnable image",
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


AMD64, ARM64 = Platform("amd64", "linux"), Platform("arm64", "linux")


def test_the_first_manifest_that_runs_here_is_chosen() -> None:
    first, second = entry("arm64", variant="v8"), entry("amd64")
    both = index(first, second)
    assert oci_image.choose_manifest(both, AMD64, "x").platform == AMD64
    assert oci_image.choose_manifest(both, ARM64, "x").platform == Platform("arm64", "linux", "v8")


@pytest.mark.parametrize(
    ("wanted", "offered", "chosen"),
    [
        ("amd64/v3", ["amd64", "amd64/v2", "amd64/v4"], "amd64/v2"),
        ("amd64/v3", ["amd64", "amd64/v3"], "amd64/v3"),
        ("amd64/v2", ["amd64", "amd64/v4"], "amd64"),
        ("amd64", ["amd64/v2", "amd64/v1"], "amd64/v1"),
        ("arm/v7", ["arm/v5", "arm/v6", "arm/v8"], "arm/v6"),
        ("arm/v7", ["arm/v6", "arm"], "arm"),
        ("arm/v6", ["arm", "arm/v5"], "arm/v5"),
        ("arm", ["arm/v6", "arm/v7"], "arm/v7"),
        ("arm64", ["arm/v7", "arm64/v8"], "arm64/v8"),
        ("arm64/v8", ["arm64"], "arm64"),
        ("arm64/v9", ["arm64/v8", "arm64/v9"], "arm64/v9"),
        ("arm64/v9", ["arm64"], "arm64"),
        ("riscv64", ["riscv64"], "riscv64"),
        ("amd64/v9", ["amd64", "amd64/v9"], "amd64/v9"),
    ],
)
def test_the_best_variant_that_runs_is_chosen(wanted: str, offered: list[str], chosen: str) -> None:
    entries = []
    for text in offered:
        architecture, _, variant = text.partition("/")
        entries.append(entry(architecture, **({"variant": variant} if variant else {})))
    architecture, _, variant = wanted.partition("/")
    found = oci_image.choose_manifest(index(*entries), Platform(architecture, "linux", variant), "x")
    assert str(found.platform) == f"linux/{chosen}"


@pytest.mark.parametrize(
    ("wanted", "offered"),
    [
        (Platform("amd64", "linux"), "amd64/v3"),
        (Platform("amd64", "linux", "v9"), "amd64"),
        (Platform("arm", "linux", "v6"), "arm"),
        (Platform("arm64", "linux"), "arm/v7"),
        (Platform("arm64", "linux", "v8"), "arm64/v9"),
        (Platform("amd64", "windows"), "amd64"),
    ],
)
def test_what_does_not_run_is_not_chosen(wanted: Platform, offered: str) -> None:
    architecture, _, variant = offered.partition("/")
    with pytest.raises(ImageFormatError, match=f"nothing for {wanted}, only linux/{offered}"):
        oci_image.choose_manifest(
            index(entry(architecture, **({"variant": variant} if variant else {}))), wanted, "x"
        )


def test_attestations_and_newer_variants_are_not_chosen() -> None:
    attestation = {**entry("amd64"), "annotations": {"vnd.docker.reference.type": "attestation-manifest"}}
    with pytest.raises(ImageFormatError, match="only linux/amd64/v3"):
        oci_image.choose_manifest(index(attestation, entry("amd64", variant="v3")), AMD64, "x")


def test_an_entry_without_a_platform_is_the_last_choice() -> None:
    bare = {"mediaType": oci_image.OCI_INDEX, "digest": DIGEST, "size": 1}
    assert oci_image.choose_manifest(index(bare, entry("amd64")), AMD64, "x").platform == AMD64
    assert oci_image.choose_manifest(index(bare, entry("arm64")), AMD64, "x").platform is None


PAYLOAD = {
    "mediaType": "application/vnd.dev.cosign.simplesigning.v1+json",
    "digest": DIGEST,
    "size": 250,
    "annotations": {"dev.cosignproject.cosign/signature": "c2ln"},
}


def test_signatures_are_read_and_others_left_out() -> None:
    entries = [
        {**PAYLOAD, "annotations": None},
        {**PAYLOAD, "size": oci_image.MAX_PAYLOAD + 1},
        {**PAYLOAD, "mediaType": "application/octet-stream"},
        PAYLOAD,
    ]
    document = {"schemaVersion": 2, "config": CONFIG, "layers": entries}
    ((payload, signature),) = oci_image.parse_signatures(json.dumps(document).encode(), "x")
    assert (payload.digest, signature) == (DIGEST, "c2ln")
    many = {**document, "layers": [PAYLOAD] * 30}
    assert len(oci_image.parse_signatures(json.dumps(many).encode(), "x")) == oci_image.MAX_SIGNATURES


def test_a_payload_without_a_digest_is_refused() -> None:
    document = {"schemaVersion": 2, "config": CONFIG, "layers": [{**PAYLOAD, "digest": "../../x"}]}
    with pytest.raises(ImageFormatError, match="64 hex digits"):
        oci_image.parse_signatures(json.dumps(document).encode(), "x")


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=10,
)
_FIELDS = st.sampled_from(
    (
        *(
            "schemaVersion",
            "mediaType",
            "config",
            "layers",
            "manifests",
            "fsLayers",
            "annotations",
            "platform",
        ),
        *("digest", "size", "urls", "rootfs", "diff_ids", "architecture", "os", "Env", "Cmd", "variant"),
    )
)
_VALUES = st.one_of(
    *(_JSON, st.just(2), st.just(DIGEST), st.just(CONFIG), st.just([LAYER]), st.just([entry("amd64")])),
    st.just(oci_image.OCI_INDEX),
    st.just(oci_image.OCI_MANIFEST),
)
_DOCUMENTS = st.recursive(
    st.dictionaries(_FIELDS, _VALUES, max_size=6),
    lambda inner: st.dictionaries(_FIELDS, inner | st.lists(inner, max_size=3) | _VALUES, max_size=6),
    max_leaves=6,
)


@given(_DOCUMENTS, st.sampled_from(("", *oci_image.ACCEPTED, "text/html")))
def test_documents_with_every_oddity_are_read_or_refused(document: dict[str, Any], media_type: str) -> None:
    data = json.dumps(document).encode()
    with contextlib.suppress(ImageFormatError):
        parsed = oci_image.parse_manifest(data, media_type, "x")
        if isinstance(parsed, Index):
            oci_image.choose_manifest(parsed, AMD64, "x")
    with contextlib.suppress(ImageFormatError):
        oci_image.parse_config(data, "x")
    with contextlib.suppress(ImageFormatError):
        oci_image.parse_signatures(data, "x")


@given(st.integers(0, 400), st.binary(min_size=1, max_size=4))
def test_a_manifest_with_bytes_put_in_is_read_or_refused(place: int, noise: bytes) -> None:
    data = json.dumps(MANIFEST).encode()
    with contextlib.suppress(ImageFormatError):
        oci_image.parse_manifest(data[:place] + noise + data[place:], "", "x")


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
