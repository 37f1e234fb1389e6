"""The door of the streaming server: heads, tokens, TLS, limits, its end."""

from __future__ import annotations

import asyncio
import os
import ssl
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import pytest

from crib.engine.streams.tickets import WAITING
from crib.model.errors import Broken, Exhausted
from crib.model.settings import StreamingSettings
from crib.streaming import certificates, server
from crib.streaming.head import HEAD_BYTES
from crib.streaming.server import StreamServer
from crib.wire.remotecommand import Exited, Failed
from tests.tls_lab import Authority
from tests.unit.streaming.clients import Refused, SpdyClient, Wire, WsClient, blind, head, split_answer
from tests.unit.streaming.lab import BOUND, Lab, MakeLab, at_once, cat, forever, until

V4 = "v4.channel.k8s.io"


async def answer(lab: Lab, request: bytes) -> tuple[int, dict[str, str], bytes]:
    """What the server says to bytes, until it closes."""
    wire = await Wire.to(lab.server.url_for("exec", "x"))
    try:
        await wire.send(request)
        return split_answer(await wire.read_to_end())
    finally:
        wire.close()


# tokens


async def test_a_token_is_good_once(lab: Lab) -> None:
    url = lab.exec_url()
    client = await SpdyClient.connect(url, V4)
    with pytest.raises(Refused) as caught:
        await SpdyClient.connect(url, V4)
    assert caught.value.status == 404
    assert await client.outcome(await client.terminal("stdout")) == Exited(0)
    client.close()


async def test_a_token_ages_and_is_of_one_kind(lab: Lab) -> None:
    url = lab.exec_url()
    lab.clock.advance(61)
    assert (await answer(lab, head(url)))[0] == 404
    url = lab.exec_url()
    assert (await answer(lab, head(url.replace("/exec/", "/attach/"))))[0] == 404
    assert (await answer(lab, head(url)))[0] == 404, "its first use was its last"


def test_tokens_that_nobody_uses_are_limited_and_go() -> None:
    lab = Lab()
    urls = {lab.exec_url() for _ in range(WAITING)}
    assert len(urls) == WAITING
    with pytest.raises(Exhausted):
        lab.exec_url()
    lab.clock.advance(61)
    lab.exec_url()


# heads


@pytest.mark.parametrize(
    "path", ["/", "/exec", "/exec/", "/exec/a/b", "/nope/x", "//exec/x", "*", "http://[/exec/x"]
)
async def test_other_paths_are_not_found(lab: Lab, path: str) -> None:
    status, _, _ = await answer(lab, f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    assert status == 404


async def test_heads_that_are_none_are_refused(lab: Lab) -> None:
    url = lab.exec_url()
    plain = head(url).decode()
    cases = {
        "no upgrade": (plain.replace("Upgrade: SPDY/3.1\r\n", ""), 400),
        "another one": (plain.replace("SPDY/3.1", "h2c"), 400),
        "method": (plain.replace("POST", "PUT"), 405),
        "head": (plain.replace("POST", "HEAD"), 405),
        "http/1.0": (plain.replace("HTTP/1.1", "HTTP/1.0"), 505),
        "no host": (plain.replace("Host:", "Hostess:"), 400),
        "body": (plain.replace("\r\n\r\n", "\r\nContent-Length: 5\r\n\r\nhello"), 400),
        "announced body": (plain.replace("\r\n\r\n", "\r\nContent-Length: 5\r\n\r\n"), 400),
        "chunks": (plain.replace("\r\n\r\n", "\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"), 400),
        "smuggled": (
            plain.replace("\r\n\r\n", "\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n"),
            400,
        ),
        "two lengths": (plain.replace("\r\n\r\n", "\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n"), 400),
        "other coding": (plain.replace("\r\n\r\n", "\r\nTransfer-Encoding: gzip\r\n\r\n"), 501),
        "too long": (plain.replace("\r\n\r\n", "\r\nX: " + "y" * HEAD_BYTES), 431),
        "no http": ("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
        "space in the name": (plain.replace("Host:", "Host :"), 400),
    }
    for name, (request, status) in cases.items():
        fresh = request.replace(url.rpartition("/")[2], lab.exec_url().rpartition("/")[2])
        assert (await answer(lab, fresh.encode("latin-1")))[0] == status, name
    assert not lab.commands


async def test_refusals_say_what_would_be_right(lab: Lab) -> None:
    _, headers, text = await answer(lab, head(lab.exec_url(), method="PUT"))
    assert headers["allow"] == "GET, POST"
    assert headers["connection"] == "close"
    assert text == b"only GET and POST are served\n"
    url = lab.exec_url()
    status, headers, _ = await answer(lab, head(url, "websocket", "Sec-WebSocket-Version: 8", method="GET"))
    assert (status, headers["sec-websocket-version"]) == (426, "13")
    status, _, _ = await answer(lab, head(lab.exec_url(), "websocket", "Sec-WebSocket-Version: 13"))
    assert status == 405
    bad_key = ("Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: short")
    status, _, _ = await answer(lab, head(lab.exec_url(), "websocket", *bad_key, method="GET"))
    assert status == 400
    status, _, _ = await answer(lab, head(lab.forward_url(80), "SPDY/3.1", "X-Stream-Protocol-Version: v9"))
    assert status == 403


WEBSOCKET = ("Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==")


@pytest.mark.parametrize("protocol", ["websocket", "SPDY/3.1"])
@pytest.mark.parametrize(
    "origin", ["http://evil.example", "https://127.0.0.1", "http://{}.evil.example", "null"]
)
async def test_a_page_of_another_origin_is_refused_with_a_good_token_and_does_not_use_it_up(
    lab: Lab, protocol: str, origin: str
) -> None:
    """Cross-site WebSocket hijacking."""
    url = lab.exec_url()
    words = (f"Origin: {origin.format(urlsplit(url).netloc)}", *WEBSOCKET)
    status, _, text = await answer(lab, head(url, protocol, *words, method="GET"))
    assert (status, text.startswith(b"pages of ")) == (403, True)
    assert not lab.commands
    client = await SpdyClient.connect(url, V4)
    assert await client.outcome(await client.terminal("stdout")) == Exited(0)
    client.close()


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("Origin: http://{}",),  # Python's client of Kubernetes says so of whoever it talks to
        ("Origin: HTTPS://{}",),
        # A kubelet and an API server pass Origin on, and a page cannot say that somebody did.
        ("Origin: https://dashboard.example", "X-Forwarded-For: 10.0.0.1, 10.0.0.2"),
    ],
)
async def test_clients_that_are_no_pages_of_others_are_served(lab: Lab, words: tuple[str, ...]) -> None:
    url = lab.exec_url()
    lines = [word.format(urlsplit(url).netloc) for word in (*words, *WEBSOCKET)]
    wire = await Wire.to(url)
    await wire.send(head(url, "websocket", *lines, method="GET"))
    assert (await wire.read()).startswith(b"HTTP/1.1 101 ")
    wire.close()


async def test_what_comes_right_behind_the_head_is_taken(lab: Lab) -> None:
    """And a head may come byte by byte."""
    wire = await Wire.to(lab.exec_url())
    client = SpdyClient(wire, {})
    opening = [("streamtype", "error"), ("streamtype", "stdout")]
    ids = [client.spdy.open_stream((header,)) for header in opening]
    request = head(lab.exec_url(), "SPDY/3.1", f"X-Stream-Protocol-Version: {V4}")
    for byte in request[:-1]:
        await wire.send(bytes([byte]))
    await wire.send(request[-1:] + b"".join(client.spdy.data_to_send()))
    head_of_answer = await wire.reader.readuntil(b"\r\n\r\n")
    assert b" 101 " in head_of_answer
    assert await client.outcome(dict(zip(("error", "stdout"), ids, strict=True))) == Exited(0)
    client.close()


async def test_clients_that_say_nothing_or_too_little_are_told_and_closed(make_lab: MakeLab) -> None:
    lab = await make_lab(creation_timeout=0.1)
    for request in (b"", b"GET /exec/x HTTP/1.1\r\n"):
        assert (await answer(lab, request))[0] == 408
    wire = await Wire.to(lab.exec_url())
    wire.close()
    await until(lambda: not lab.server._clients)


# limits


async def test_silence_ends_a_connection_and_a_byte_keeps_it(
    make_lab: MakeLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The link looks at its clock each `idle_timeout`; only the test turns that."""
    now, looked = 0.0, asyncio.Event()

    def monotonic() -> float:
        looked.set()
        return now

    monkeypatch.setattr("crib.streaming.link.time", SimpleNamespace(monotonic=monotonic))
    lab = await make_lab(idle_timeout=0.05, kill_abandoned=True)
    lab.script = cat
    client = await SpdyClient.connect(lab.exec_url("sh", stdin=True, stdout=True), V4)
    streams = await client.terminal("stdin", "stdout")
    for number in range(1, 5):
        now += 0.04
        await client.send(streams["stdin"], b".")
        await client.until(lambda number=number: len(client.got[streams["stdout"]]) == number)  # type: ignore[misc]
        looked.clear()
        async with asyncio.timeout(BOUND):
            await looked.wait()  # the link has nothing to read or write: it looks whether this lasts
    assert not lab.commands[0].killed.is_set()
    now += 0.06
    await client.to_end()
    client.close()
    await until(lab.commands[0].killed.is_set)


# its end


async def test_a_server_that_stops_tells_its_clients(make_lab: MakeLab) -> None:
    """The end of a connection alone would be taken for success."""
    lab = await make_lab()
    lab.script = forever
    spdy = await SpdyClient.connect(lab.exec_url(), V4)
    streams = await spdy.terminal("stdout")
    socket = await WsClient.connect(lab.exec_url(), ["v5.channel.k8s.io"])
    forward = await SpdyClient.connect(lab.forward_url(80), "portforward.k8s.io")
    data, _ = await forward.pair(80, "1")
    await forward.send(data, b"x")
    await until(lambda: len(lab.commands) == 2 and lab.targets)
    stopping = asyncio.ensure_future(lab.server.stop())
    told = "crib is stopping: the command keeps running without input, and what it writes is lost"
    assert await spdy.outcome(streams) == Failed(told)
    await socket.to_end()
    assert told.encode() in socket.channel(3)
    await forward.to_end()
    for client in (spdy, socket, forward):
        client.close()
    await stopping
    assert lab.targets[0].aborted.is_set()
    with pytest.raises(OSError):
        await Wire.to(lab.exec_url())


async def test_a_server_that_stops_waits_for_no_client(
    make_lab: MakeLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "STOPPING_TIME", 2 * BOUND)  # after which it would leave them behind
    lab = await make_lab()
    wires = [await Wire.to(lab.exec_url()) for _ in range(3)]
    lab.script = forever
    client = await SpdyClient.connect(lab.exec_url(), V4)
    await client.terminal("stdout")
    await until(lambda: lab.commands)
    async with asyncio.timeout(BOUND):
        await lab.server.stop()
    assert not lab.server._clients
    ends: list[Any] = [*wires, client]
    for end in ends:
        end.close()


async def test_an_address_that_cannot_be_had_is_broken(lab: Lab) -> None:
    port = lab.address[1]
    for settings in (StreamingSettings(port=port), StreamingSettings(address="192.0.2.1")):
        with pytest.raises(Broken, match="cannot listen"):
            await StreamServer(lab.streams, settings, at_once).start()


async def test_urls_of_ipv6_have_brackets(make_lab: MakeLab) -> None:
    try:
        lab = await make_lab(address="::1")
    except Broken:
        pytest.skip("there is no IPv6 here")
    assert lab.exec_url().startswith("http://[::1]:")
    client = await SpdyClient.connect(lab.exec_url(), V4)
    client.close()


# TLS


def trusting(authority: Authority, pair: tuple[Path, Path] | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context(cadata=authority.pem)
    if pair is not None:
        context.load_cert_chain(*pair)
    return context


async def run_over_tls(lab: Lab, context: ssl.SSLContext) -> bytes:
    """One exec; the certificate that the server showed."""
    url = lab.exec_url()
    assert url.startswith("https://")
    client = await SpdyClient.connect(url, V4, context=context)
    shown = client.wire.writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    assert await client.outcome(await client.terminal("stdout")) == Exited(0)
    client.close()
    assert isinstance(shown, bytes)
    return shown


async def test_tls_takes_changed_files_and_keeps_the_old_ones_while_they_are_broken(
    make_lab: MakeLab, tmp_path: Path
) -> None:
    authority = Authority()
    certificate, key = authority.server().write(tmp_path, "server")
    lab = await make_lab(tls="files", cert_file=str(certificate), key_file=str(key))
    context = trusting(authority)
    first = await run_over_tls(lab, context)
    certificate.write_text("half of a cert")
    assert await run_over_tls(lab, context) == first
    key.unlink()
    assert await run_over_tls(lab, context) == first
    authority.server().write(tmp_path, "server")
    assert await run_over_tls(lab, context) != first


async def test_tls_wants_a_client_s_certificate_when_it_has_an_authority(
    make_lab: MakeLab, tmp_path: Path
) -> None:
    ours, other = Authority(), Authority("other")
    certificate, key = ours.server().write(tmp_path, "server")
    authority = tmp_path / "ca.pem"
    authority.write_text(ours.pem)
    lab = await make_lab(
        tls="files", cert_file=str(certificate), key_file=str(key), client_ca_file=str(authority)
    )
    await run_over_tls(lab, trusting(ours, ours.client().write(tmp_path, "client")))
    for context in (trusting(ours), trusting(ours, other.client().write(tmp_path, "stranger"))):
        with pytest.raises((OSError, AssertionError)):
            await run_over_tls(lab, context)
    await until(lambda: not lab.server._clients)


async def test_a_self_signed_certificate_names_the_address_and_is_made_anew(
    make_lab: MakeLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab = await make_lab(tls="self-signed")
    seen = await run_over_tls(lab, blind())
    pem = ssl.DER_cert_to_PEM_cert(seen)
    assert await run_over_tls(lab, ssl.create_default_context(cadata=pem)) == seen
    now = time.time()
    half = certificates.SELF_SIGNED_DAYS * 86400 / 2
    monkeypatch.setattr(time, "time", lambda: now + half)
    assert await run_over_tls(lab, blind()) != seen


async def test_a_refusal_over_tls_ends_with_the_connection(
    make_lab: MakeLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "CLOSING_TIME", 3600.0)
    lab = await make_lab(tls="self-signed")
    wire = await Wire.to(lab.exec_url(), blind())
    await wire.send(b"GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n")
    assert split_answer(await wire.read_to_end())[0] == 404
    await until(lambda: not lab.server._clients)
    wire.close()


async def test_tls_clients_that_speak_something_else_or_nothing_are_closed(make_lab: MakeLab) -> None:
    lab = await make_lab(tls="self-signed", creation_timeout=0.2)
    for said in (b"GET / HTTP/1.1\r\n\r\n", b"", b"\x16\x03\x01"):
        wire = await Wire.to(lab.exec_url())
        await wire.send(said)
        assert b"HTTP" not in await wire.read_to_end()
        wire.close()
    await until(lambda: not lab.server._clients)


def test_certificates_that_cannot_be_used_are_broken(tmp_path: Path) -> None:
    pair = Authority().server().write(tmp_path, "server")
    other = Authority().server().write(tmp_path, "other")
    missing = str(tmp_path / "missing")
    wrong: tuple[dict[str, Any], ...] = (
        {"cert_file": missing, "key_file": missing},
        {"cert_file": str(pair[0]), "key_file": str(other[1])},
        {"cert_file": str(pair[0]), "key_file": str(pair[1]), "client_ca_file": missing},
    )
    for files in wrong:
        with pytest.raises(Broken, match="certificate"):
            StreamServer(Lab().streams, StreamingSettings(tls="files", **files), at_once)
    assert os.listdir(tmp_path)
