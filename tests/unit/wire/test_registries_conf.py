"""registries.conf: prefixes, places and what is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crib.wire.registries_conf import Mirror, Registry, best_match, parse_registries, rewritten
from crib.wire.toml_table import MalformedToml

DOCUMENTED = b"""
unqualified-search-registries = ["example.com"]
short-name-mode = "enforcing"
credential-helpers = ["containers-auth.json", "ecr-login"]

[aliases]
"image" = "registry.com/namespace/image"

[[registry]]
prefix = "example.com/foo"
insecure = false
blocked = false
location = "internal-registry-for-example.com/bar"

[[registry.mirror]]
location = "example-mirror-0.local/mirror-for-foo"

[[registry.mirror]]
location = "example-mirror-1.local/mirrors/foo/"
insecure = true
pull-from-mirror = "tag-only"

[[registry]]
location = "registry.com"
mirror-by-digest-only = true

[[registry.mirror]]
location = "mirror.registry.com:5000"

[[registry]]
prefix = "*.example.org"
blocked = true
"""


def test_every_documented_field_is_read() -> None:
    conf = parse_registries(DOCUMENTED)
    assert conf.helpers == ("containers-auth.json", "ecr-login")
    assert conf.registries == (
        Registry(
            "example.com/foo",
            "internal-registry-for-example.com/bar",
            mirrors=(
                Mirror("example-mirror-0.local/mirror-for-foo"),
                Mirror("example-mirror-1.local/mirrors/foo", insecure=True, pull="tag-only"),
            ),
        ),
        Registry(
            "registry.com", "registry.com", mirrors=(Mirror("mirror.registry.com:5000", pull="digest-only"),)
        ),
        Registry("*.example.org", blocked=True),
    )
    assert parse_registries(b"").helpers is None


@pytest.mark.parametrize(
    ("reference", "prefix"),
    [
        ("a.example/foo/bar:1", "a.example/foo"),
        ("a.example/foo:1", "a.example/foo"),
        ("a.example/foo@sha256:00", "a.example/foo"),
        ("a.example/foo/special:2", "a.example/foo/special:2"),
        ("a.example/foobar:1", "a.example"),
        ("a.example/other:1", "a.example"),
        ("a.example:5000/other:1", None),
        ("x.y.wild.example/z:1", "*.wild.example"),
        ("x.wild.example:5000/z:1", "*.wild.example"),
        ("x.deep.wild.example/z:1", "*.deep.wild.example"),
        ("wild.example/z:1", None),
        ("notwild.example/z:1", None),
        ("b.example/x.wild.example/z:1", None),
        ("x.wild.example.evil.example/z:1", None),
    ],
)
def test_the_longest_prefix_wins(reference: str, prefix: str | None) -> None:
    names = ("a.example", "a.example/foo", "a.example/foo/special:2", "*.wild.example", "*.deep.wild.example")
    match = best_match([Registry(name, "there.example") for name in names], reference)
    assert (match and match.prefix) == prefix


@pytest.mark.parametrize(
    ("prefix", "location", "reference", "result"),
    [
        ("a.example/foo", "b.example/bar", "a.example/foo/x:1", "b.example/bar/x:1"),
        ("a.example/foo", "b.example/bar", "a.example/foo@sha256:0", "b.example/bar@sha256:0"),
        ("a.example", "b.example:5000/c", "a.example/x:1", "b.example:5000/c/x:1"),
        ("*.a.example", "b.example/c", "x.y.a.example/z:1", "b.example/c/z:1"),
        ("*.a.example", "", "x.a.example/z:1", "x.a.example/z:1"),
    ],
)
def test_the_prefix_is_replaced_by_the_location(
    prefix: str, location: str, reference: str, result: str
) -> None:
    assert rewritten(prefix, location, reference) == result


def test_of_two_tables_for_one_prefix_the_first_counts() -> None:
    conf = parse_registries(
        b'[[registry]]\nlocation = "a.example"\nblocked = true\n[[registry]]\nlocation = "a.example"\n'
    )
    assert [registry.blocked for registry in conf.registries] == [True]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[registries.search]\nregistries = ["a.example"]', "version 1 of the format"),
        ("[registries]", "version 1 of the format"),
        ("[[registry]]", r"registry\[0\].location is missing"),
        ('[[registry]]\nprefix = "a.example"', r"registry\[0\].location is missing"),
        ('[[registry]]\nprefix = "example.*.com"\nlocation = "b.example"', r"registry\[0\].prefix"),
        ('[[registry]]\nprefix = "*.example.com/foo"', "must be like"),
        ('[[registry]]\nprefix = "*.example.com:5000"', "must be like"),
        ('[[registry]]\nprefix = "*"', "must be like"),
        ('[[registry]]\nlocation = "https://a.example"', "without a scheme"),
        ('[[registry]]\nlocation = "nodot/foo"', "with a dot or a port"),
        ('[[registry]]\nlocation = "a.example/../x y"', "must be HOST"),
        (
            '[[registry]]\nlocation = "a.example"\nblock = true',
            r"registry\[0\].block is not known, .*blocked",
        ),
        ('[[registry]]\nlocation = "a.example"\nblocked = "yes"', "blocked must be true or false"),
        ('[[registry]]\nlocation = "a.example"\npull-from-mirror = "all"', "is for mirrors only"),
        ('[[registry]]\nlocation = "a.example"\n[[registry.mirror]]', r"registry\[0\].mirror\[0\].location"),
        (
            '[[registry]]\nlocation = "a.example"\n[[registry.mirror]]\nlocation = "b.example"\n'
            'pull-from-mirror = "some"',
            "pull-from-mirror is 'some'",
        ),
        (
            '[[registry]]\nlocation = "a.example"\nmirror-by-digest-only = true\n'
            '[[registry.mirror]]\nlocation = "b.example"\npull-from-mirror = "all"',
            "beside mirror-by-digest-only",
        ),
        ('[registry]\nlocation = "a.example"', "registry must be an array"),
        ("registry = [1]", "registry must be an array of tables"),
        ('credential-helpers = ["../x"]', "credential-helpers"),
        ("credential-helpers = [" + ",".join(['"a"'] * 17) + "]", "credential-helpers"),
        ('[[registry]]\nlocation = "a.example"\n' * 1001, "registry has 1001 entries"),
        ("[[registry]\n", "not TOML: .*line 1"),
    ],
)
def test_a_malformed_file_is_refused_with_the_key_or_the_line(text: str, words: str) -> None:
    with pytest.raises(MalformedToml, match=words):
        parse_registries(text.encode())


WORDS = st.sampled_from(
    [
        *(
            "[[registry]]\n",
            "[[registry.mirror]]\n",
            "[registries]\n",
            "location",
            "prefix",
            " = ",
            '"',
            "\n",
        ),
        *(
            "a.example",
            "*.",
            "/",
            ":",
            "@",
            "true",
            "insecure",
            "blocked",
            "pull-from-mirror",
            "tag-only",
            "[",
        ),
    ]
)


@given(st.binary(max_size=200) | st.lists(WORDS, max_size=30).map(lambda words: "".join(words).encode()))
def test_whatever_the_bytes_are_only_its_own_error_comes_out(data: bytes) -> None:
    try:
        conf = parse_registries(data)
    except MalformedToml:
        return
    best_match(conf.registries, "a.example/b:c")


NAMES = st.text("ab.:/@*1", max_size=20)


@given(NAMES, NAMES, NAMES)
def test_matching_takes_any_text(prefix: str, location: str, reference: str) -> None:
    match = best_match([Registry(prefix, location)], reference)
    assert rewritten(prefix, location, reference) == reference if match is None else True
