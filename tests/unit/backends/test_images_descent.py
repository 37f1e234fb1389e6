"""What the worker hands over is the image of the digest that was asked for, all the way down, or refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

import pytest

from crib.backends.images.descent import check_descent
from crib.model.errors import Broken
from crib.model.ids import Digest, ImageId, digest_of
from crib.model.image import FetchedImage, ImageConfig, ImageDocuments, Layer
from tests import images as built

INDEX = "application/vnd.oci.image.index.v1+json"


def index_of(*documents: bytes, media_type: str = "application/vnd.oci.image.manifest.v1+json") -> bytes:
    entries = [built.descriptor(document, media_type) for document in documents]
    return json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries}).encode()


def fetched(algorithm: str = "sha256", user: str = "1000") -> FetchedImage:
    layers = tuple(
        built.BuiltLayer(built.layer_tar([built.Entry(name)]), algorithm=algorithm) for name in "ab"
    )
    image = built.BuiltImage(layers, {"User": user, "Cmd": ["/a"]}, algorithm=algorithm)
    inner = index_of(b"{}", image.manifest_blob)
    outer = index_of(inner, media_type=INDEX)
    return FetchedImage(
        ImageId(image.id),
        ImageConfig(user=user, cmd=("/a",), architecture="amd64", os="linux"),
        tuple(Layer(Digest(layer.diff_id), Digest(layer.diff_id), 4096) for layer in layers),
        digest_of(outer),
        documents=ImageDocuments(image.config_blob, image.manifest_blob),
        indexes=(outer, inner),
    )


def other_config(image: FetchedImage) -> FetchedImage:
    other = fetched(user="0")
    return replace(image, documents=replace(image.documents, config=other.documents.config))


def other_image(image: FetchedImage) -> FetchedImage:
    return replace(fetched(user="0"), manifest_digest=image.manifest_digest)


TAMPERED: dict[str, Callable[[FetchedImage], FetchedImage]] = {
    "another image under the digest that was signed": other_image,
    "another image behind the right indexes": lambda it: replace(other_image(it), indexes=it.indexes),
    "another config": other_config,
    "another config with its own id": lambda it: replace(other_config(it), id=fetched(user="0").id),
    "another user than the config's": lambda it: replace(it, config=replace(it.config, user="0")),
    "other layers": lambda it: replace(it, layers=it.layers[::-1]),
    "fewer layers": lambda it: replace(it, layers=it.layers[:1]),
    "no index": lambda it: replace(it, indexes=()),
    "an index left out": lambda it: replace(it, indexes=it.indexes[:1]),
    "an index instead of the manifest": lambda it: replace(
        it, indexes=it.indexes[:1], documents=replace(it.documents, manifest=it.indexes[1])
    ),
    "an id of another algorithm": lambda it: replace(
        it, id=ImageId(digest_of(it.documents.config, "sha512"))
    ),
    "a document that is none": lambda it: replace(it, manifest_digest=digest_of(b"{"), indexes=(b"{",)),
}


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_an_image_is_followed_from_its_digest_to_its_layers(algorithm: str) -> None:
    image = fetched(algorithm)
    if algorithm == "sha512":
        image = replace(image, manifest_digest=digest_of(image.documents.manifest, algorithm), indexes=())
    check_descent(image)
    check_descent(replace(image, layers=()), layers=False)


def test_an_image_without_a_digest_has_its_config_alone() -> None:
    image = fetched()
    alone = replace(image, manifest_digest=None, indexes=(), documents=ImageDocuments(image.documents.config))
    check_descent(alone)
    with pytest.raises(Broken, match="config of digest"):
        check_descent(other_config(alone))


@pytest.mark.parametrize("how", TAMPERED)
def test_what_does_not_descend_from_the_digest_is_refused(how: str) -> None:
    with pytest.raises(Broken, match="image worker"):
        check_descent(TAMPERED[how](fetched()))
