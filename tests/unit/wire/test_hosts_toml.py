"""hosts.toml: what is taken, in which order, and what is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crib.wire.hosts_toml import HostEntry, base_url, directory_names, parse_hosts
from crib.wire.toml_table import DOCUMENT_BYTES, MalformedToml

DOCUMENTED = b"""
server = "https://registry-1.docker.io"

[host."https://zebra.example"]
  capabilities = ["pull"]
  ca = "/etc/certs/mirror.pem"
  skip_verify = false
  [host."https://zebra.example".header]
    x-custom-2 = ["value1", "value2"]
    x-one = "value"

[host."https://mirror-bak.registry/us"]
  capabilities = ["PULL", "resolve"]
  skip_verify = true

[host."http://apple.example"]
  capabilities = ["pull", "resolve", "push", "referrers"]
  ca = ["test-1-ca.pem", "/etc/certs/special.pem"]
  client = [["/etc/certs/client.cert", "/etc/certs/client.key"], ["/etc/certs/client.pem", ""]]
  dial_timeout = "1m1.5s"

[host."https://test-2.registry"]
  client = "/etc/certs/client.pem"

[host."https://test-3.registry"]
  client = ["client-1.pem", "client-2.pem"]

[host."https://non-compliant.example/v2/upstream"]
  capabilities = ["pull"]
  override_path = true
"""


def test_hosts_come_in_the_order_of_the_file() -> None:
    file = parse_hosts(DOCUMENTED)
    assert [host.url for host in file.hosts] == [
        "https://zebra.example/v2",
        "https://mirror-bak.registry/us/v2",
        "http://apple.example/v2",
        "https://test-2.registry/v2",
        "https://test-3.registry/v2",
        "https://non-compliant.example/v2/upstream",
    ]
    assert file.server == HostEntry("https://registry-1.docker.io/v2")


def test_every_documented_field_is_read() -> None:
    first, second, third, fourth, fifth, _ = parse_hosts(DOCUMENTED).hosts
    assert (first.pull, first.resolve, first.skip_verify, first.has_tls) == (True, False, False, True)
    assert first.authorities == ("/etc/certs/mirror.pem",)
    assert first.headers == (("x-custom-2", "value1"), ("x-custom-2", "value2"), ("x-one", "value"))
    assert (second.pull, second.resolve, second.skip_verify) == (True, True, True)
    assert third.authorities == ("test-1-ca.pem", "/etc/certs/special.pem")
    assert third.clients == (
        ("/etc/certs/client.cert", "/etc/certs/client.key"),
        ("/etc/certs/client.pem", ""),
    )
    assert third.dial_timeout == 61.5
    assert fourth.clients == (("/etc/certs/client.pem", ""),)
    assert fifth.clients == (("client-1.pem", ""), ("client-2.pem", ""))


def test_fields_of_the_root_are_the_servers_or_else_the_registrys() -> None:
    file = parse_hosts(b'ca = "own.crt"\ncapabilities = ["pull"]\n[header]\nx-a = "b"')
    assert file.hosts == ()
    assert file.server == HostEntry("", resolve=False, authorities=("own.crt",), headers=(("x-a", "b"),))
    assert not parse_hosts(b"").server.has_tls


def test_no_capabilities_and_an_empty_list_both_mean_all() -> None:
    for text in (b"", b"capabilities = []"):
        assert (parse_hosts(text).server.pull, parse_hosts(text).server.resolve) == (True, True)
    push_only = parse_hosts(b'capabilities = ["push"]').server
    assert (push_only.pull, push_only.resolve) == (False, False)


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("mirror.example", "https://mirror.example/v2"),
        ("HTTP://Mirror.Example:5000/", "http://mirror.example:5000/v2"),
        ("https://a.example/v2", "https://a.example/v2"),
        ("https://a.example/v2/", "https://a.example/v2"),
        ("https://a.example//x/../y", "https://a.example/y/v2"),
        ("http://[::1]:5000", "http://[::1]:5000/v2"),
    ],
)
def test_the_root_of_the_api_is_put_behind_a_url(text: str, url: str) -> None:
    assert base_url(text, "server") == url


def test_override_path_leaves_a_url_as_it_is() -> None:
    assert base_url("https://a.example/x/", "host", override_path=True) == "https://a.example/x"
    assert base_url("https://a.example", "host", override_path=True) == "https://a.example"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("server = \n", "not TOML: .*line 1"),
        ("server = 5", "server must be a string"),
        ('server = "https://a.example/?x=1"', "server .*scheme, host and path alone"),
        ('server = "https://a b/"', "server"),
        ('server = "ftp://a.example"', "server .*no host"),
        ('server = "https://a.example:99999"', "server .*not a URL"),
        ('server = "https://"', "server .*no host"),
        ('serve = "https://a.example"', "serve is not known, did you mean server"),
        ('[host."https://a.example"]\ncapabilites = ["pull"]', r"capabilites is not known, did you mean cap"),
        ('[host."https://a.example"]\ncapabilities = ["pul"]', r"capabilities has 'pul', known are pull"),
        ('[host."https://a.example"]\ncapabilities = "pull"', "capabilities must be an array"),
        ('[host."https://a.example"]\nserver = "x"', r'host."https://a.example".server is not known'),
        ('[host."http://a.example"]\n[host."http://a.example"."http://b.example"]', "is not known"),
        ('host = ["https://a.example"]', "host must be a table"),
        ('[host]\n"https://a.example" = "x"', "must be a table"),
        ('skip_verify = "yes"', "skip_verify must be true or false"),
        ("ca = 7", "ca must be an array"),
        ("ca = [7]", "ca must be a string"),
        ('ca = [""]', "ca has a path that is empty"),
        ("client = 7", "client must be a path"),
        ('client = [["a", "b", "c"]]', "client must have paths or pairs"),
        ('client = [["", "b"]]', "client has a path that is empty"),
        ('dial_timeout = "soon"', "dial_timeout is 'soon', and must be a duration"),
        ('dial_timeout = "0s"', "dial_timeout"),
        ('dial_timeout = "11m"', "dial_timeout"),
        ("dial_timeout = 5", "dial_timeout must be a string"),
        ('[header]\n"a b" = "c"', "not a header's name"),
        ('[header]\na = "x\\r\\nHost: y"', "header.a has characters that a header cannot have"),
        ("[header]\na = 5", "header.a must be a string or an array of strings"),
        (f'[header]\na = "{"x" * 9000}"', "header has more than"),
        ("ca = [" + ",".join(['"a"'] * 65) + "]", "ca names 65 files"),
        ("\n".join(f'[host."https://h{n}.example"]' for n in range(65)), "host has 65 entries"),
        ("x = " + "[" * 5000, "nested too deeply"),
        ("x = " + "9" * 5000, "not TOML"),
        ("#" * (DOCUMENT_BYTES + 1), "longer than"),
    ],
)
def test_a_malformed_file_is_refused_with_the_key_or_the_line(text: str, words: str) -> None:
    with pytest.raises(MalformedToml, match=words):
        parse_hosts(text.encode())


def test_what_is_not_utf_8_is_refused() -> None:
    with pytest.raises(MalformedToml, match="not UTF-8 at byte 10"):
        parse_hosts(b'server = "\xff"')


@pytest.mark.parametrize(
    "text",
    [
        'server = "https://user:hunter2@a.example"',
        '[host."https://user:hunter2@a.example"]\nunknown = 1',
        '[host."https://user:hunter2@a.example"]\nskip_verify = 1',
        '[header]\nauthorization = "hunter2\\n"',
    ],
)
def test_no_secret_of_the_file_gets_into_a_message_or_a_repr(text: str) -> None:
    with pytest.raises(MalformedToml) as caught:
        parse_hosts(text.encode())
    assert "hunter2" not in str(caught.value)
    assert "hunter2" not in repr(parse_hosts(b'[header]\nauthorization = "hunter2"'))


def test_a_registry_with_a_port_has_two_names_for_its_directory() -> None:
    assert directory_names("docker.io") == ("docker.io",)
    assert directory_names("a.example:5000") == ("a.example_5000_", "a.example:5000")
    assert directory_names("[::1]:5000") == ("[::1]_5000_", "[::1]:5000")
    assert directory_names("[::1]") == ("[::1]",)


WORDS = st.sampled_from(
    [
        *(
            'server = "',
            'host."https://a.example"',
            "[host",
            "]",
            "[",
            "ca",
            "client",
            " = ",
            '"',
            "\n",
            "true",
        ),
        *(
            '["pull"]',
            "header",
            "dial_timeout",
            "1s",
            "capabilities",
            "https://",
            "@",
            "µs",
            ".",
            "\x00",
            "[[",
        ),
    ]
)


@given(st.binary(max_size=200) | st.lists(WORDS, max_size=30).map(lambda words: "".join(words).encode()))
def test_whatever_the_bytes_are_only_its_own_error_comes_out(data: bytes) -> None:
    try:
        parse_hosts(data)
    except MalformedToml:
        pass
