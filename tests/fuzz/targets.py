"""What outsiders write and crib reads, each format as one function of bytes: taken, or refused as documented.

A target raises nothing else, keeps to its processor time, and holds what its reader promises: bytes that come
in pieces mean what they mean in one, and what was taken can be taken again. `python -m tests.fuzz NAME` runs
one for long; `test_targets.py` runs each for a moment. SPDY's session is in `fuzz_spdy`, ttrpc in
`fuzz_ttrpc`, HTTP/2 in `fuzz_http2`, edits of a whole layer in `fuzz_erofs`.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast, get_args

from crib import config
from crib.backends.images.worker.documents import image_of
from crib.manifest.documents import ManifestText
from crib.manifest.faults import ManifestError
from crib.manifest.load import read_plans
from crib.manifest.plan import Dirs, Site
from crib.model.errors import InvalidRequest
from crib.model.ids import digest_of
from crib.model.image import ImageDocuments, Platform, parse_reference
from crib.streaming.head import BadRequest, HeadReader, websocket_key
from crib.tunnel.link import Link
from crib.tunnel.websocket import Role, WebSocket
from crib.wire import (
    cdi,
    channel_messages,
    cni,
    cni_result,
    conmon,
    crilog,
    dns,
    docker_config,
    go_template,
    hosts_toml,
    oci_features,
    oci_hooks,
    oci_image,
    oci_runtime,
    portforward,
    registries_conf,
    registry,
    remotecommand,
    simple_signing,
    tar,
    volume_archive,
)
from crib.wire.erofs_inode import ErofsError
from crib.wire.erofs_reader import ErofsImage
from crib.wire.go_template.values import Value
from crib.wire.toml_table import MalformedToml
from tests.fuzz import fuzz_erofs, fuzz_http2, fuzz_nri, fuzz_spdy, fuzz_ttrpc

_MANIFEST = (Path(__file__).parent / "corpus" / "manifest" / "manifest").read_bytes()
SITE = Site(Dirs("/pods"), memory=16 << 30)
MAX_ENTRIES = 10_000
"""Of a file system image that a target walks."""
CHANNELS = (channel_messages.UNNAMED, channel_messages.CHANNEL, channel_messages.V4_BASE64)


SECONDS = 5.0
"""Of processor time for one input, coverage measured."""


@dataclass(frozen=True, slots=True)
class Target:
    """`tokens` are words of the format, which a mutation puts in; an input has `max_bytes` at most."""

    one_input: Callable[[bytes], None]
    tokens: Sequence[bytes] = ()
    max_bytes: int = 4096


def _pieces(data: bytes, size: int) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]


def _tar(data: bytes) -> None:
    def read(pieces: list[bytes]) -> tuple[list[object], str]:
        reader, members = tar.TarReader(), list[object]()
        try:
            for piece in pieces:
                members += reader.receive_data(piece)
            reader.end()
        except tar.TarError as error:
            return [], str(error)
        return members, ""

    assert read([data]) == read(_pieces(data, 100))


def _erofs(data: bytes) -> None:
    with suppress(ErofsError):
        image = ErofsImage(lambda at, size: data[at : at + size], len(data), max_inodes=MAX_ENTRIES)
        assert sum(1 for _ in image.walk()) <= MAX_ENTRIES


def _manifest(data: bytes) -> None:
    with suppress(oci_image.ImageFormatError):
        document = oci_image.parse_manifest(data, "", "manifest")
        if isinstance(document, oci_image.Index):
            chosen = oci_image.choose_manifest(document, oci_image.Platform("amd64", "linux"), "index")
            assert oci_image.is_digest(chosen.digest)
        else:
            assert all(oci_image.is_digest(layer.digest) for layer in document.layers)
            for layer in document.layers:
                oci_image.layer_compression(layer, "manifest")


def _signatures(data: bytes) -> None:
    with suppress(oci_image.ImageFormatError):
        assert len(oci_image.parse_signatures(data, "manifest")) <= oci_image.MAX_SIGNATURES
    with suppress(simple_signing.PayloadError):
        simple_signing.parse_payload(data)


def _image_config(data: bytes) -> None:
    manifest = oci_image.parse_manifest(_MANIFEST, "", "manifest")
    assert isinstance(manifest, oci_image.Manifest)
    with suppress(oci_image.ImageFormatError):
        documents = ImageDocuments(data, _MANIFEST)
        found = image_of(manifest, documents, digest_of(_MANIFEST), Platform("amd64", "linux"))
        assert all(oci_image.is_digest(layer.diff_id) for layer in found.layers)


def _archive(data: bytes) -> None:
    with suppress(oci_image.ImageFormatError):
        oci_image.parse_saved_images(data, "manifest.json")
    with suppress(oci_image.ImageFormatError):
        oci_image.parse_layout(data, "oci-layout")


def _reference(data: bytes) -> None:
    with suppress(InvalidRequest):
        reference = parse_reference(data.decode("utf-8", "surrogateescape"))
        assert parse_reference(str(reference)) == reference


def _registry(data: bytes) -> None:
    text = data.decode("latin-1")
    challenge = registry.choose_challenge(registry.parse_challenges(text))
    if challenge is not None and challenge.scheme == "bearer":
        registry.token_url(challenge, "library/x")
        registry.token_query(challenge, "library/x")
    registry.parse_token(data, 0.0)
    registry.parse_content_range(text)
    wait = registry.parse_retry_after(text, 0.0)
    assert wait is None or wait >= 0
    assert registry.printable(shown := registry.error_text(data)) == shown


def _settings(data: bytes) -> None:
    with suppress(config.ConfigError, UnicodeDecodeError):
        config.parse(data.decode())


def _hosts(data: bytes) -> None:
    with suppress(MalformedToml):
        assert len(hosts_toml.parse_hosts(data).hosts) <= hosts_toml.MOST_HOSTS


def _registries(data: bytes) -> None:
    with suppress(MalformedToml):
        registries_conf.best_match(registries_conf.parse_registries(data).registries, "docker.io/library/x")


def _auth_file(data: bytes) -> None:
    with suppress(docker_config.MalformedAuth):
        found = docker_config.parse_auth_file(data)
        found.entry("docker.io", "library/x")
        found.helper("docker.io", "library/x")
    with suppress(docker_config.MalformedAuth):
        docker_config.parse_helper_answer(data)


def _pod_manifest(data: bytes) -> None:
    with suppress(ManifestError, UnicodeDecodeError):
        read_plans([ManifestText("fuzzed.yaml", data.decode())], SITE, lambda: "uid-1")


def _cni_network(data: bytes) -> None:
    with suppress(cni.MalformedCni):
        network = cni.parse_network(data)
        for plugin in network.plugins:
            cni.decoded(cni.request(network, plugin, {"mac": "02:00:00:00:00:01"}, None), "request")
    with suppress(cni.MalformedCni):
        cni.parse_versions(data)
    cni.parse_error(data)


def _cni_result(data: bytes) -> None:
    with suppress(cni.MalformedCni):
        raw = cni_result.parse_result(data).raw
        for version in cni.VERSIONS:
            with suppress(cni.MalformedCni):  # an older version cannot say all that a newer one says
                cni_result.result_from_document(cni_result.converted(raw, version))


def _cdi(data: bytes) -> None:
    for yaml in (False, True):
        with suppress(ValueError):
            document = cdi.decode(data, yaml=yaml)
            assert len({device.name for device in document.devices}) == len(document.devices)
    with suppress(ValueError):
        oci_hooks.decode(data)


def _oci_runtime(data: bytes) -> None:
    runtime = (oci_runtime.decode_state, oci_runtime.decode_process, oci_runtime.decode_spec)
    for decode in (oci_features.decode_features, *runtime):
        with suppress(ValueError):
            cast("Callable[[bytes], object]", decode)(data)
    with suppress(ValueError):
        profile = oci_runtime.decode_seccomp(data)
        assert oci_runtime.decode_seccomp(oci_runtime.encode(profile)) == profile


def _conmon(data: bytes) -> None:
    with suppress(ValueError):
        conmon.decode_sync(data)
    with suppress(ValueError):
        assert 0 <= conmon.decode_exit(data) <= 255


def _cri_log(data: bytes) -> None:
    def read(pieces: list[bytes]) -> list[crilog.LogLine]:
        joiner = crilog.LineJoiner()
        return [line for piece in pieces for line in joiner.receive(piece)] + list(joiner.finish())

    lines = read([data])
    assert lines == read(_pieces(data, 7))
    assert sum(len(line.content) for line in lines) <= len(data)


def _datagrams(data: bytes) -> None:
    def read(pieces: list[bytes]) -> list[bytes]:
        reader, payloads = portforward.DatagramReader(), list[bytes]()
        with suppress(ValueError):
            for piece in pieces:
                payloads.extend(reader.receive(piece))
        return payloads

    assert read([data]) == read(_pieces(data, 3))


def _dns(data: bytes) -> None:
    with suppress(dns.MalformedMessage):
        query = dns.read_query(data)
        answer = dns.write_answer(query, dns.Answer(dns.NO_ERROR), query.datagram_bytes)
        assert len(answer) <= max(query.datagram_bytes, dns.PLAIN_BYTES)
        dns.reverse_address(query.name)
        dns.is_answer_to(data, query, 1)
    with suppress(dns.MalformedMessage):
        dns.refuse(data, dns.FORMAT_ERROR)


def _template(data: bytes) -> None:
    with suppress(go_template.MalformedTemplate, UnicodeDecodeError):
        text = go_template.render(
            data.decode(), {"PodCIDR": "10.1.0.0/24", "Ranges": ("a", "b"), "Empty": ()}
        )
        assert len(text) <= go_template.OUTPUT_CHARACTERS
    with suppress(go_template.MalformedTemplate, UnicodeDecodeError):
        value: Value = [{"a": {"b": "text", "n": 1}, "l": ["x", None, True, 0.5]}, "y"]
        assert len(go_template.Template(data.decode()).written(value)) <= go_template.OUTPUT_CHARACTERS


def _volume_archive(data: bytes) -> None:
    with suppress(volume_archive.MalformedDescription):
        if text := volume_archive.found_in(data):
            found = volume_archive.decode(text)
            assert volume_archive.decode(volume_archive.encode(found)).name == found.name


def _outcome(data: bytes) -> None:
    for has_status in (False, True):
        remotecommand.decode_outcome(data, has_status=has_status)
    decoder = remotecommand.ResizeDecoder()
    for piece in _pieces(data, 5):
        assert len(decoder.receive(piece)) <= remotecommand.NEWEST_SIZES


def _port_forward(data: bytes) -> None:
    text = data.decode("latin-1")
    with suppress(remotecommand.MalformedRequest, ValueError):
        portforward.decode_target(text)
    with suppress(remotecommand.MalformedRequest, ValueError):
        assert all(0 < port <= portforward.MAX_PORT for port in portforward.decode_ports(text))


def _channels(data: bytes) -> None:
    for protocol in CHANNELS:
        channel_messages.is_begun(protocol, data)
        with suppress(channel_messages.MalformedMessage):
            channel_messages.decode_message(protocol, data)


class _Wire:
    """In a link's place: gives bytes in pieces, and keeps nothing of what is sent."""

    is_full = False

    def __init__(self, pieces: list[bytes]) -> None:
        self._pieces = pieces[::-1]

    async def receive(self) -> bytes:
        return self._pieces.pop() if self._pieces else b""

    def put(self, data: Sequence[bytes]) -> None:
        assert all(len(piece) < 1 << 16 for piece in data)

    def push_back(self, data: bytes) -> None:
        self._pieces.append(data)


def _run(work: Coroutine[Any, Any, None]) -> None:
    """Without a loop: what runs here waits for nothing but its turn."""
    with suppress(StopIteration):
        while True:
            work.send(None)


def _websocket(data: bytes) -> None:
    async def read(socket: WebSocket) -> None:
        with suppress(ConnectionError):
            while await socket.part() is not None:
                pass

    for role in get_args(Role):
        _run(read(WebSocket(cast("Link", _Wire(_pieces(data, 50))), role)))


def _http_head(data: bytes) -> None:
    async def read() -> None:
        http = HeadReader(cast("Link", _Wire(_pieces(data, 50))))
        try:
            head = await http.read()
            if head is not None and head.asks_for("websocket"):
                websocket_key(head)
        except BadRequest as problem:
            http.refuse(problem)

    _run(read())


_JSON = (b'{"', b'":', b"[", b"null", b"1e999", b'"\\ud800"', b"[[[[[[[[", b"-1", b"18446744073709551616")
_IMAGE = (*_JSON, b"sha256:", b'"digest"', b'"size"', b'"mediaType"', b'"layers"', b'"manifests"')
_TOML = (b"[[", b"]]\n", b" = ", b'"""', b"1979-05-27", b"\n[", b"inf", b"{a={b=", b"0x")
_CNI = (*_JSON, b'"cniVersion"', b'"0.1.0"', b'"1.1.0"', b'"ips"', b'"ip4"', b'"routes"', b'"plugins"')

TARGETS: dict[str, Target] = {
    "archive": Target(_archive, _JSON),
    "auth-file": Target(_auth_file, (*_JSON, b'"auths"', b'"auth"', b"Og==", b'"credHelpers"')),
    "cdi": Target(_cdi, (*_JSON, b"- ", b": ", b"&a ", b"*a", b"!!python/", b"\n  ", b"cdiVersion")),
    "channels": Target(_channels, (b"\0", b"\xff", b"0", b"=")),
    "cni-network": Target(_cni_network, _CNI),
    "cni-result": Target(_cni_result, _CNI),
    "conmon": Target(_conmon, (b'{"pid": ', b', "message": "', b"-1", b"\xff", b"\n")),
    "cri-log": Target(
        _cri_log, (b"2016-10-06T00:17:09.669794202Z", b" stdout ", b" stderr ", b"P ", b"F ", b"\n")
    ),
    "datagrams": Target(_datagrams, (b"\xff\xff", b"\0\0")),
    "dns": Target(_dns, (b"\xc0\x0c", b"\0\x01", b"\x3f", b"\xff\xff")),
    "erofs": Target(_erofs, (b"\xff\xff\xff\xff", b"\0" * 8, b"\x01", b"trusted."), 24 << 10),
    "erofs-edited": Target(fuzz_erofs.one_input, (), 64),
    "hosts-toml": Target(_hosts, (*_TOML, b"[host.", b"capabilities", b"http://", b"dial_timeout")),
    "http-head": Target(
        _http_head, (b"\r\n", b"\r\n\r\n", b"Upgrade: websocket", b"HTTP/1.1", b"Host:", b" ", b",")
    ),
    "http2": Target(
        fuzz_http2.one_input,
        (
            b"\0\0\x04\x08\0\0\0\0\x01\0\0\0\x10",
            b"\0\0\x06\x04\0\0\0\0\0\0\x04\0\0\0\0",
            b"\0\0\x04\x03\0\0\0\0\x01\0\0\0\x08",
            b"\0\0\0\x01\x05\0\0\0\x0b",
            b"\0\0\x05\0\x01\0\0\0\x01\0\0\0\0\0",
            b"\xff\xff\xff\x7f",
        ),
    ),
    "image-config": Target(_image_config, _IMAGE),
    "manifest": Target(_manifest, _IMAGE),
    "mux": Target(fuzz_ttrpc.frames, (b"\0\0\0\x01", b"\0\0\0\x02", b"\xff\xff\xff\xff", b"\0" * 4)),
    "nri-answer": Target(
        fuzz_nri.one_input,
        (b"\x0a", b"\x12", b"\x22", b"\x32", b"-", b"/dev/x", b"SCMP_ACT_ALLOW", b"RLIMIT_CORE"),
    ),
    "oci-runtime": Target(_oci_runtime, _JSON),
    "outcome": Target(_outcome, (*_JSON, b'"Width"', b'"status"', b"NonZeroExitCode", b'"causes"')),
    "pod-manifest": Target(
        _pod_manifest, (b"\n---\n", b": ", b"- ", b"&a", b"*a", b"<<: ", b"{}", b"[]", b"1Gi", b"|\n")
    ),
    "port-forward": Target(_port_forward, (b"ports=", b"&", b"65536", b"%", b"/", b"udp")),
    "reference": Target(_reference, (b"sha256:", b"@", b":", b"/", b"..", b"[::1]", b"localhost"), 400),
    "registries-conf": Target(_registries, (*_TOML, b"[[registry]]", b"prefix", b"location", b"*.")),
    "registry": Target(
        _registry, (*_JSON, b"Bearer ", b"realm=", b'"', b",", b"\\", b"bytes ", b"-", b"*/", b" GMT")
    ),
    "settings": Target(_settings, (*_TOML, b"[network]", b"[handlers.", b"[images]", b'"cni"')),
    "signatures": Target(_signatures, (*_IMAGE, b'"critical"', b'"annotations"')),
    "spdy": Target(
        fuzz_spdy.one_input, (b"\x80\x03\0\x01", b"\x80\x03\0\x03", b"\xff\xff\xff\xff", b"\0" * 4)
    ),
    "tar": Target(
        _tar,
        (b"ustar\x0000", b"ustar  \0", b"\0" * 512, b"7777777", b"\x80", b"GNU.sparse.", b"path="),
        16 << 10,
    ),
    "template": Target(
        _template,
        (
            *(
                b"{{",
                b"}}",
                b"range ",
                b"if ",
                b"end",
                b".",
                b"$x",
                b":=",
                b"else",
                b"with ",
                b"|",
                b"(",
                b")",
            ),
            *(
                b"printf ",
                b"index ",
                b"print ",
                b'"',
                b"`",
                b"%s",
                b"= ",
                b"break",
                b"len ",
                b"split ",
                b"join ",
            ),
        ),
    ),
    "ttrpc": Target(
        fuzz_ttrpc.calls,
        (b"\0\0\0\x01\x01\0", b"\x02\0", b"\x03\x05", b"\0\0\0\0", b"\x0a\x01", b"\xff\xff"),
    ),
    "volume-archive": Target(_volume_archive, (*_JSON, b"comment=crib-volume:", b'"labels"', b"\0g")),
    "websocket": Target(
        _websocket, (b"\x81\xfe", b"\x82\xff", b"\x88\x80", b"\x89\x80", b"\0" * 4, b"\xff" * 8)
    ),
}
