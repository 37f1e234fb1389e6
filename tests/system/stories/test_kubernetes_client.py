"""The `kubernetes` package's own clients of exec, attach and port-forward, through an API server's relay."""

from __future__ import annotations

import asyncio
import hashlib
import http.client
import json
import re
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from kubernetes import client as kubernetes
from kubernetes.stream import portforward, stream
from kubernetes.stream.ws_client import RESIZE_CHANNEL, STDIN_CHANNEL, PortForward, WSClient

from tests.system.labs.api_proxy import api_proxy
from tests.system.labs.daemon import Cri, Cribd, running_cribd, until
from tests.system.labs.stream_lab import BOUND, box_in, echo, nothing_kept, pod_server

pytestmark = [pytest.mark.root, pytest.mark.system]

Exec = Callable[..., WSClient]


@pytest.fixture(scope="module")
def cribd() -> Iterator[Cribd]:
    with running_cribd() as daemon:
        yield daemon


@pytest.fixture
async def cri(cribd: Cribd) -> AsyncIterator[Cri]:
    async with nothing_kept(cribd), cribd.story() as connection:
        yield connection


@pytest.fixture(params=["", "v4.channel.k8s.io"], ids=["newest", "v4"])
async def api(cri: Cri, request: pytest.FixtureRequest) -> AsyncIterator[kubernetes.CoreV1Api]:
    """A client that offers what it knows, or as older ones do."""
    async with api_proxy(cri) as url:
        made = kubernetes.ApiClient(kubernetes.Configuration(host=url))
        if request.param:
            made.set_default_header("sec-websocket-protocol", request.param)
        yield kubernetes.CoreV1Api(made)


async def opened(method: Any, **fields: object) -> WSClient:
    """An exec or attach in the pod `box`; the client waits in threads, so it is asked from one."""
    fields = {"stdin": False, "stdout": True, "stderr": True, "tty": False, "binary": True, **fields}

    def ask() -> WSClient:
        made: WSClient = stream(method, "box", "stories", _preload_content=False, **fields)
        made.sock.settimeout(BOUND)
        return made

    return await asyncio.to_thread(ask)


async def ended(client: WSClient) -> tuple[bytes, bytes]:
    """What it wrote from now on, once it has ended."""
    await asyncio.to_thread(client.run_forever, BOUND)
    assert not client.is_open(), "it did not end"
    client.sock.shutdown()
    return client.read_stdout(), client.read_stderr()


async def seen(client: WSClient, pattern: bytes) -> re.Match[bytes]:
    """The pattern in what it writes, once it is there."""
    text = b""
    async with asyncio.timeout(BOUND):
        while (match := re.search(pattern, text)) is None:
            assert client.is_open(), text
            text += await asyncio.to_thread(client.read_stdout, 1)
    return match


async def test_streams_come_apart_and_the_exit_code_is_there(cri: Cri, api: kubernetes.CoreV1Api) -> None:
    await box_in(cri, "box")
    for script, code in (("echo out; echo err >&2", 0), ("echo out; echo err >&2; exit 3", 3)):
        client = await opened(api.connect_get_namespaced_pod_exec, command=["sh", "-c", script])
        assert await ended(client) == (b"out\n", b"err\n")
        assert client.returncode == code
    client = await opened(api.connect_get_namespaced_pod_exec, command=["sh", "-c", "kill -9 $$"])
    assert await ended(client) == (b"", b"")
    assert client.returncode == 137


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")  # the client leaves its socket to Python
async def test_the_short_form_gives_all_output(cri: Cri, api: kubernetes.CoreV1Api) -> None:
    await box_in(cri, "box")
    said = await asyncio.to_thread(
        stream,
        api.connect_get_namespaced_pod_exec,
        "box",
        "stories",
        command=["sh", "-c", "for i in $(busybox seq 20000); do echo line $i; done"],
        stdout=True,
        stderr=True,
    )
    assert said == "".join(f"line {number}\n" for number in range(1, 20001))


async def test_what_is_no_program_is_told_in_the_runtimes_words(cri: Cri, api: kubernetes.CoreV1Api) -> None:
    await box_in(cri, "box")
    client = await opened(api.connect_get_namespaced_pod_exec, command=["nothere"])
    _, words = await ended(client)
    assert client.returncode == 127
    assert b"nothere" in words


async def test_what_the_cri_refuses_fails_the_handshake(cri: Cri, api: kubernetes.CoreV1Api) -> None:
    _, box = await box_in(cri, "box")
    await cri.stop_container(box)
    with pytest.raises(kubernetes.ApiException, match="500"):
        await opened(api.connect_get_namespaced_pod_exec, command=["true"])
    with pytest.raises(kubernetes.ApiException, match="400"):
        await opened(api.connect_get_namespaced_pod_exec, command=["true"], container="other")


async def test_a_conversation_line_by_line_and_then_the_end_of_input(
    cri: Cri, api: kubernetes.CoreV1Api
) -> None:
    await box_in(cri, "box")
    script = 'while read -r line; do echo "<$line>"; [ "$line" = end ] && exit 5; done; echo over'
    client = await opened(api.connect_get_namespaced_pod_exec, command=["sh", "-c", script], stdin=True)
    for word in ("one", "zwei", "trôis"):
        client.write_stdin(f"{word}\n".encode())
        await seen(client, f"<{word}>\n".encode())
    if client.subprotocol == "v5.channel.k8s.io":
        client.close_channel(STDIN_CHANNEL)
        assert (await ended(client))[0] == b"over\n"
        assert client.returncode == 0
    else:  # has no way to end it
        client.write_stdin(b"end\n")
        assert (await ended(client))[0] == b"<end>\n"
        assert client.returncode == 5


async def test_a_terminal_has_one_output_and_the_sizes_that_it_is_told(
    cri: Cri, api: kubernetes.CoreV1Api
) -> None:
    await box_in(cri, "box")
    client = await opened(api.connect_get_namespaced_pod_exec, command=["sh"], stdin=True, tty=True)
    for rows, columns in ((24, 80), (50, 132)):
        client.write_channel(RESIZE_CHANNEL, json.dumps({"Width": columns, "Height": rows}).encode())
        client.write_stdin(
            b"until stty size | grep -q '^%d %d$'; do true; done; echo it is $?\n" % (rows, columns)
        )
        await seen(client, rb"\nit is 0\r\n")
    client.write_stdin(b"tty; ls nothere\n")
    await seen(client, rb"/dev/(pts/\d+|console)\r\n(.*\n)*.*nothere")
    client.write_stdin(b"sh -c 'echo $((40 + 2)); exec sleep 1000'\n")
    await seen(client, rb"\n42\r\n")  # before that Ctrl-C would be the shell's, which edits its line
    client.write_stdin(b"\x03")
    client.write_stdin(b"exit 7\n")
    await ended(client)
    assert client.returncode == 7


async def test_bytes_of_all_kinds_come_back_as_they_went(cri: Cri, api: kubernetes.CoreV1Api) -> None:
    await box_in(cri, "box")
    data = bytes(range(256)) * (16 << 10)
    script = f"head -c {len(data)} > /tmp/data; cat /tmp/data"
    client = await opened(api.connect_get_namespaced_pod_exec, command=["sh", "-c", script], stdin=True)

    def send() -> None:
        for start in range(0, len(data), 32 << 10):
            client.write_stdin(data[start : start + (32 << 10)])

    await asyncio.to_thread(send)
    out, _ = await ended(client)
    assert hashlib.sha256(out).hexdigest() == hashlib.sha256(data).hexdigest()


async def test_an_attached_client_talks_to_the_first_process(cri: Cri, api: kubernetes.CoreV1Api) -> None:
    script = 'while read -r line; do echo "<$line>"; [ "$line" = end ] && exit 3; done'
    _, box = await box_in(cri, "box", "sh", "-c", script, stdin=True)
    client = await opened(api.connect_get_namespaced_pod_attach, stdin=True)
    client.write_stdin(b"hello\n")
    await seen(client, b"<hello>\n")
    await asyncio.to_thread(client.close)
    again = await opened(api.connect_get_namespaced_pod_attach, stdin=True)
    again.write_stdin(b"end\n")
    assert await ended(again) == (b"<end>\n", b"")
    assert (await cri.exited(box)).exit_code == 3


async def forwarded(api: kubernetes.CoreV1Api, *ports: int) -> PortForward:
    """Sockets at ports of the pod `box`."""
    return await asyncio.to_thread(
        portforward,
        api.connect_get_namespaced_pod_portforward,
        "box",
        "stories",
        ports=",".join(map(str, ports)),
    )


def over_socket(sock: socket.socket, data: bytes) -> bytes:
    """What comes back for it."""
    sock.settimeout(BOUND)
    sock.sendall(data)
    found = b""
    while len(found) < len(data):
        got = sock.recv(1 << 16)
        assert got, f"it ended after {len(found)} bytes"
        found += got
    return found


async def closed(forward: PortForward) -> None:
    """Returns when its thread has ended; all of its sockets are closed."""
    forward.close()
    await until(lambda: not forward.connected)


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")  # as above
async def test_several_ports_of_a_pod_at_once(cri: Cri, cribd: Cribd, api: kubernetes.CoreV1Api) -> None:
    pod, _ = await box_in(cri, "box")
    async with pod_server(cribd, pod, 4001, echo), pod_server(cribd, pod, 4002, echo):
        forward = await forwarded(api, 4001, 4002)
        data = {4001: b"one" * 100_000, 4002: b"two" * 100_000}
        answers = await asyncio.gather(
            *(asyncio.to_thread(over_socket, forward.socket(port), said) for port, said in data.items())
        )
        assert answers == list(data.values())
        await closed(forward)


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")  # the client leaves sockets to Python
async def test_an_http_client_over_a_forwarded_port(cri: Cri, api: kubernetes.CoreV1Api) -> None:
    page = (
        "busybox mkdir /www; echo hello from the pod > /www/index.html; exec busybox httpd -f -p 80 -h /www"
    )
    _, box = await box_in(cri, "box", "sh", "-c", page)
    await cri.sh(box, "until busybox wget -q -O /dev/null http://127.0.0.1/; do :; done")

    def get(forward: PortForward) -> bytes:
        connection = http.client.HTTPConnection("box", 80)
        connection.sock = forward.socket(80)
        connection.request("GET", "/")
        return connection.getresponse().read()

    forwards = await asyncio.gather(*(forwarded(api, 80) for _ in range(5)))
    pages = await asyncio.gather(*(asyncio.to_thread(get, forward) for forward in forwards))
    assert pages == [b"hello from the pod\n"] * 5
    for forward in forwards:
        await closed(forward)


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")  # as above
async def test_a_port_where_nobody_listens_says_so_and_spares_the_others(
    cri: Cri, cribd: Cribd, api: kubernetes.CoreV1Api
) -> None:
    pod, _ = await box_in(cri, "box")
    async with pod_server(cribd, pod, 4001, echo):
        forward = await forwarded(api, 4001, 4002)
        assert await asyncio.to_thread(forward.socket(4002).recv, 100) == b""
        assert "refused" in forward.error(4002)
        assert await asyncio.to_thread(over_socket, forward.socket(4001), b"still here") == b"still here"
        assert forward.error(4001) is None
        await closed(forward)
