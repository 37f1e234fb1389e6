"""Manifests and configs as our nouns, the platform they must be for, and failures of the worker."""

from __future__ import annotations

import json
import logging

import pytest

from crib.backends.images.worker.documents import FoundImage, image_of, wire_platform
from crib.backends.images.worker.failures import failed
from crib.model.ids import digest_of
from crib.model.image import ImageDocuments, Layer, Platform, Signature
from crib.wire import oci_image
from crib.wire.oci_image import ImageFormatError

DIFF_ID = "sha256:" + "d" * 64
AMD64 = Platform("amd64", "linux")


def found(platform: Platform = AMD64, layers: int = 1, **config: str) -> FoundImage:
    root = {"diff_ids": [DIFF_ID]}
    document: dict[str, object] = {"architecture": "amd64", "os": "linux", "rootfs": root, **config}
    data = json.dumps(document).encode()
    layer = {"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": DIFF_ID, "size": 5}
    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "config": {"mediaType": oci_image.OCI_CONFIG, "digest": digest_of(data), "size": len(data)},
            "layers": [layer] * layers,
        }
    ).encode()
    parsed = oci_image.parse_manifest(manifest, "", "x")
    assert isinstance(parsed, oci_image.Manifest)
    return image_of(parsed, ImageDocuments(data, manifest), digest_of(manifest), platform)


def test_documents_and_signatures_go_on_to_the_fetched_image() -> None:
    image = found()
    signed = FoundImage(
        *(image.id, image.config, image.layers, image.manifest_digest, ("a/b:1",)),
        documents=image.documents,
        signatures=(Signature(b"{}", "c2ln"),),
    )
    layer = Layer(image.layers[0].diff_id, image.layers[0].diff_id, 5)
    fetched = signed.fetched((layer,))
    assert str(digest_of(fetched.documents.config)) == fetched.id
    assert digest_of(fetched.documents.manifest) == fetched.manifest_digest
    assert (fetched.names, fetched.layers, fetched.signatures) == (
        ("a/b:1",),
        (layer,),
        (Signature(b"{}", "c2ln"),),
    )
    assert "architecture" not in repr(fetched.documents)


def test_layers_and_diff_ids_must_be_as_many() -> None:
    with pytest.raises(ImageFormatError, match=r"names 1 layers but manifest .* has 2"):
        found(layers=2)


@pytest.mark.parametrize(
    ("wanted", "config", "fits"),
    [
        (AMD64, {}, True),
        (AMD64, {"variant": "v1"}, True),
        (AMD64, {"variant": "v2"}, False),
        (Platform("amd64", "linux", "v3"), {"variant": "v2"}, True),
        (Platform("amd64", "linux", "v3"), {}, True),
        (Platform("arm", "linux", "v6"), {"architecture": "arm"}, True),
        (Platform("arm", "linux", "v6"), {"architecture": "arm", "variant": "v7"}, False),
        (Platform("arm64", "linux"), {"architecture": "arm64", "variant": "v8"}, True),
        (Platform("arm64", "linux"), {}, False),
        (AMD64, {"os": "windows"}, False),
        (Platform("amd64"), {}, True),
    ],
)
def test_the_config_must_be_for_the_platform(wanted: Platform, config: dict[str, str], fits: bool) -> None:
    if fits:
        assert found(wanted, 1, **config).config.os == "linux"
    else:
        with pytest.raises(ImageFormatError, match=f"and {wire_platform(wanted)} is wanted"):
            found(wanted, 1, **config)


def test_an_unexpected_error_tells_nothing_secret(caplog: pytest.LogCaptureFixture) -> None:
    try:
        try:
            raise ValueError("https://s3.example/x?sig=hidden")
        except ValueError as error:
            raise KeyError("https://s3.example/x?sig=hidden") from error
    except KeyError as error:
        with caplog.at_level(logging.ERROR):
            message = failed(1, error, importing=False)
    assert message.kind == "Broken"
    assert "KeyError" in message.message
    assert "hidden" not in message.message
    assert "test_images_documents.py" in caplog.text
    assert "sig=" not in caplog.text.replace('"https://s3.example/x?sig=hidden"', "")
