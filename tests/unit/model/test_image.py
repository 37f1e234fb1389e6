"""Image references: as docker, containerd and CRI-O read them, and nothing else gets through."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from crib.model.errors import InvalidRequest
from crib.model.ids import Digest, ImageId, is_digest
from crib.model.image import MAX_NAME, MAX_TEXT, ImageConfig, ImageRecord, Layer, parse_reference

DIGEST = "sha256:" + "0123456789abcdef" * 4
DIGEST_512 = "sha512:" + "0123456789abcdef" * 8


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("busybox", "docker.io/library/busybox:latest"),
        ("busybox:1.36", "docker.io/library/busybox:1.36"),
        ("library/busybox", "docker.io/library/busybox:latest"),
        ("docker.io/busybox", "docker.io/library/busybox:latest"),
        ("index.docker.io/busybox", "docker.io/library/busybox:latest"),
        ("registry-1.docker.io/library/busybox", "docker.io/library/busybox:latest"),
        ("user/app:V1.0_x-y", "docker.io/user/app:V1.0_x-y"),
        ("localhost/app", "localhost/app:latest"),
        ("localhost:5000/app", "localhost:5000/app:latest"),
        ("127.0.0.1:5000/a/b/c:t", "127.0.0.1:5000/a/b/c:t"),
        ("[::1]:5000/app", "[::1]:5000/app:latest"),
        ("registry.k8s.io/pause:3.9", "registry.k8s.io/pause:3.9"),
        ("host:80/a__b/c--d/e.f", "host:80/a__b/c--d/e.f:latest"),
        (f"busybox@{DIGEST}", f"docker.io/library/busybox@{DIGEST}"),
        (f"a.b/busybox:1@{DIGEST}", f"a.b/busybox:1@{DIGEST}"),
        (f"a.b/busybox:1@{DIGEST_512}", f"a.b/busybox:1@{DIGEST_512}"),
        ("cafe", "docker.io/library/cafe:latest"),
        ("LocalHost:5902/a", "localhost:5902/a:latest"),
        ("LOCALHOST/a", "localhost/a:latest"),
        ("localhost:05902/a", "localhost:5902/a:latest"),
        ("localhost:80/a", "localhost/a:latest"),
        ("localhost:443/a", "localhost:443/a:latest"),
        ("127.0.0.1:80/a", "127.0.0.1/a:latest"),
        ("[0:0::0001]:5000/a", "[::1]:5000/a:latest"),
        ("[::1]:80/a", "[::1]/a:latest"),
        ("127.1:5000/a", "127.0.0.1:5000/a:latest"),
        ("0177.0.0.1:80/a", "127.0.0.1/a:latest"),
        ("0X7F000001:5000/a", "127.0.0.1:5000/a:latest"),
        ("[::ffff:7f00:1]:80/a", "127.0.0.1/a:latest"),
        ("10.258:443/a", "10.0.1.2/a:latest"),
        ("10.0.0.256/a", "10.0.0.256/a:latest"),
        ("127.0.0.09:5000/a", "127.0.0.09:5000/a:latest"),
        ("127.1/a/b", "127.0.0.1/a/b:latest"),
        ("127/a", "docker.io/127/a:latest"),
        ("[2001:DB8::0:1]:443/a", "[2001:db8::1]/a:latest"),
        ("Registry.Example:443/a:T", "registry.example/a:T"),
        ("registry.example:0443/a", "registry.example/a:latest"),
        ("registry:443/a", "registry:443/a:latest"),
        ("registry.example:80/a", "registry.example:80/a:latest"),
        ("Index.Docker.IO:443/busybox", "docker.io/library/busybox:latest"),
    ],
)
def test_a_name_has_one_canonical_form(text: str, canonical: str) -> None:
    assert str(parse_reference(text)) == canonical


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        ":",
        "@",
        "/",
        "//",
        "a:",
        "a@",
        "a/",
        "/a",
        "a//b",
        "A",
        "a/B",
        "a..b",
        "a___b",
        "-a",
        "a-",
        "../etc",
        "a/../b",
        "a b",
        "a\n",
        "a:b\n",
        "a:b:c",
        "http://a.b/c",
        "a:" + "t" * 129,
        "a@sha256:abc",
        "a@md5:" + "0" * 32,
        "a@sha384:" + "0" * 96,
        "a@sha512:" + "0" * 64,
        "a@sha256:" + "0" * 128,
        DIGEST_512,
        f"a@{DIGEST}@{DIGEST}",
        DIGEST,
        "-host.com/a",
        "registry.example./a",
        "localhost.:5902/a",
        "registry.example:/a",
        "host.com:port/a",
        "x" * (MAX_NAME + 1),
        "ä",
        "a\0b",
    ],
)
def test_what_is_no_reference_is_refused_naming_the_field(text: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_reference(text, field="image.image")
    assert caught.value.field == "image.image"


def test_a_digest_of_an_unknown_algorithm_is_refused_by_its_name() -> None:
    with pytest.raises(InvalidRequest, match=r"a@sha384:0+' has a digest that is neither sha256 with"):
        parse_reference("a@sha384:" + "0" * 96)


def test_a_text_of_megabytes_is_refused_without_repeating_it() -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_reference("a" * 10_000_000)
    assert len(str(caught.value)) < 200


@given(st.one_of(st.text(max_size=40), st.from_regex(r"[a-z0-9./:@_\-\[\]A-F]{0,80}", fullmatch=True)))
@example("a" * MAX_TEXT)
@example("a." * 120)
def test_any_text_is_refused_or_has_a_canonical_form_that_reads_as_itself(text: str) -> None:
    try:
        reference = parse_reference(text)
    except InvalidRequest:
        return
    again = parse_reference(str(reference))
    assert again == reference
    assert reference.tag or is_digest(reference.digest)
    assert ".." not in reference.repository.split("/")
    assert not reference.repository.startswith("/")


def test_the_size_of_an_image_is_that_of_its_layers() -> None:
    layer = Layer(Digest(DIGEST), Digest(DIGEST), 10)
    assert ImageRecord(ImageId(DIGEST), ImageConfig(), (layer, layer)).size == 20
