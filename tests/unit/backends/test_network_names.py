"""The pods' name server on loopback addresses, with name servers behind it that these tests play."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import socket
from collections.abc import AsyncIterator, Collection, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

import pytest

from crib.backends.network.bridge import forwarder as forwarder_module
from crib.backends.network.bridge import names
from crib.backends.network.bridge.addresses import Address
from crib.backends.network.bridge.forwarder import Forwarder, framed, read_framed, servers_in
from crib.backends.network.bridge.names import NameServer
from crib.wire import dns
from tests.dns_questions import Upstream, answered, code, free_port, header, opt, question

WAIT_SECONDS = 60.0
"""That anything may take: it hangs then."""
_OWN = f"127.{secrets.randbelow(254) + 1}.{secrets.randbelow(256)}"
"""Where neither servers nor clients of other tests are: they use 127.0.0.1, and could have any port there."""
SERVER, UPSTREAM, SECOND = (f"{_OWN}.{number}" for number in (1, 2, 3))

PODS: dict[tuple[str, str], Sequence[Address]] = {
    ("web", "shop"): (IPv4Address("10.0.0.2"), IPv6Address("fd00::2")),
    ("old", "shop"): (IPv4Address("10.0.0.3"),),
    ("my.pod-1", "shop"): (IPv4Address("10.0.0.4"),),
    ("many", "shop"): tuple(IPv6Address(n) for n in range(100)),
}


def lookup(name: str, namespace: str) -> Sequence[Address]:
    if name == "broken":
        raise RuntimeError("the table is gone")
    return PODS.get((name, namespace), ())


def reverse(address: Address) -> tuple[str, str] | None:
    return next((pod for pod, addresses in PODS.items() if address in addresses), None)


class Rig:
    """A name server, and a resolv.conf of its own."""

    def __init__(self, directory: Path) -> None:
        self.port = free_port(SERVER, UPSTREAM, SECOND)
        self.resolv_conf = directory / "resolv.conf"
        self.point_to(UPSTREAM)
        self.server = NameServer(
            "Pods.Test.", lookup, reverse, Forwarder(os.fspath(self.resolv_conf), self.port)
        )

    def point_to(self, *servers: str) -> None:
        text = "".join(f"nameserver {server}\n" for server in servers)
        # A new file, as programs write it: time stamps alone would not tell two writes of one moment apart.
        new = self.resolv_conf.with_suffix(".new")
        new.write_text(f"# the host's\nsearch example.org\n{text}", encoding="ascii")
        new.rename(self.resolv_conf)

    async def ask(self, data: bytes, source: str = "127.0.0.1", address: str = SERVER) -> bytes:
        """The answer by UDP."""
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as client:
            if family == socket.AF_INET:
                client.bind((source, 0))
            client.connect((address, self.port))
            client.send(data)
            async with asyncio.timeout(WAIT_SECONDS):
                return await asyncio.get_running_loop().sock_recv(client, 65535)

    async def ask_by_stream(self, *queries: bytes) -> list[bytes]:
        """The answers by one TCP connection."""
        async with asyncio.timeout(WAIT_SECONDS):
            reader, writer = await asyncio.open_connection(SERVER, self.port)
            writer.write(b"".join(framed(query) for query in queries))
            answers = [await read_framed(reader) for _ in queries]
            writer.close()
            return answers

    async def asked(self, name: str, kind: int = dns.A) -> tuple[int, int, int]:
        """The code, and how many answers and authorities there are."""
        message = await self.ask(question(name, kind))
        assert message[:2] == b"\0\7"
        return code(message), header(message)[3], header(message)[4]


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    made = Rig(tmp_path)
    await made.server.listen([SERVER], made.port)
    yield made
    await made.server.close()


async def test_a_pods_name_is_answered_with_its_addresses_of_the_kind_that_was_asked_for(rig: Rig) -> None:
    found = await rig.ask(question("WEB.shop.pods.test"))
    assert found.endswith(IPv4Address("10.0.0.2").packed)
    assert found[-10:-6] == b"\0\0\0\5", "five seconds"
    assert (await rig.ask(question("web.shop.pods.test", dns.AAAA))).endswith(IPv6Address("fd00::2").packed)
    assert await rig.asked("web.shop.pods.test", dns.ANY) == (0, 2, 0)
    assert await rig.asked("my.pod-1.shop.pods.test") == (0, 1, 0)


@pytest.mark.parametrize(
    ("name", "kind", "expected"),
    [
        ("old.shop.pods.test", dns.AAAA, (dns.NO_ERROR, 0, 1)),
        ("old.shop.pods.test", 15, (dns.NO_ERROR, 0, 1)),
        ("no.shop.pods.test", dns.A, (dns.NO_SUCH_NAME, 0, 1)),
        ("shop.pods.test", dns.A, (dns.NO_SUCH_NAME, 0, 1)),
        ("we\x00b.shop.pods.test", dns.A, (dns.NO_SUCH_NAME, 0, 1)),
        ("web\u00e9.shop.pods.test", dns.A, (dns.NO_SUCH_NAME, 0, 1)),
        ("pods.test", dns.SOA, (dns.NO_ERROR, 1, 0)),
        ("pods.test", dns.A, (dns.NO_ERROR, 0, 1)),
        ("broken.shop.pods.test", dns.A, (dns.SERVER_FAILURE, 0, 0)),
    ],
)
async def test_what_is_not_there_is_told_from_what_has_no_such_record(
    rig: Rig, name: str, kind: int, expected: tuple[int, int, int]
) -> None:
    assert await rig.asked(name, kind) == expected
    assert await rig.asked("old.shop.pods.test") == (dns.NO_ERROR, 1, 0), "it goes on"


async def test_an_answer_too_long_for_a_datagram_is_cut_and_comes_whole_by_tcp(rig: Rig) -> None:
    query = question("many.shop.pods.test", dns.AAAA)
    plain = await rig.ask(query)
    longer = await rig.ask(question("many.shop.pods.test", dns.AAAA, extra=opt(4096)))
    assert header(plain)[1] & header(longer)[1] & 0x0200
    assert len(plain) <= 512 < len(longer) <= dns.DATAGRAM_BYTES
    whole, other = await rig.ask_by_stream(query, question("old.shop.pods.test"))
    assert header(whole)[3] == 100
    assert not header(whole)[1] & 0x0200
    assert header(other)[3] == 1


async def test_a_pods_address_has_its_name_and_other_addresses_are_asked_for_elsewhere(rig: Rig) -> None:
    found = await rig.ask(question("2.0.0.10.in-addr.arpa", dns.PTR))
    assert found.endswith(b"\x03web\x04shop\x04pods\x04test\0")
    assert await rig.asked(IPv6Address("fd00::2").reverse_pointer, dns.PTR) == (0, 1, 0)
    assert await rig.asked("2.0.0.10.in-addr.arpa", dns.A) == (0, 0, 1)
    upstream = Upstream(lambda data: [answered(data, dns.NO_SUCH_NAME)])
    async with upstream.running(UPSTREAM, rig.port):
        assert (await rig.asked("9.0.0.10.in-addr.arpa", dns.PTR))[0] == dns.NO_SUCH_NAME
    assert upstream.queries


async def test_other_names_go_to_the_hosts_server_as_they_came_but_for_a_new_id(rig: Rig) -> None:
    upstream = Upstream(lambda data: [answered(data)])
    query = question("Example.org", extra=opt(4096))
    async with upstream.running(UPSTREAM, rig.port):
        answers = [await rig.ask(query), *await rig.ask_by_stream(query)]
        for _ in range(6):
            await rig.ask(query)
    assert {answer[:2] for answer in answers} == {b"\0\7"}
    assert all(answer.count(IPv4Address("192.0.2.1").packed) == 1 for answer in answers)
    assert {data[2:] for data in upstream.queries} == {query[2:]}
    assert len({data[:2] for data in upstream.queries}) > 4


async def test_an_answer_to_another_question_or_under_another_id_is_not_believed(rig: Rig) -> None:
    def replies(data: bytes) -> Sequence[bytes]:
        ident = int.from_bytes(data[:2], "big")
        forged = answered(question("example.org", ident=ident ^ 1), dns.NO_SUCH_NAME)
        other = answered(question("example.net", ident=ident), dns.NO_SUCH_NAME)
        return [b"", b"\xff" * 20, data, forged, other, answered(data)]

    async with Upstream(replies).running(UPSTREAM, rig.port):
        assert await rig.asked("example.org") == (dns.NO_ERROR, 1, 0)


@pytest.mark.parametrize("failure", [dns.SERVER_FAILURE, dns.REFUSED, None])
async def test_the_second_server_is_asked_when_the_first_fails_or_is_not_there(
    rig: Rig, failure: int | None
) -> None:
    rig.point_to(UPSTREAM, SECOND)
    async with contextlib.AsyncExitStack() as stack:
        if failure is not None:
            first = Upstream(lambda data: [answered(data, failure)])
            await stack.enter_async_context(first.running(UPSTREAM, rig.port))
        await stack.enter_async_context(Upstream(lambda data: [answered(data)]).running(SECOND, rig.port))
        assert await rig.asked("example.org") == (dns.NO_ERROR, 1, 0)
        (by_stream,) = await rig.ask_by_stream(question("example.org"))
        assert header(by_stream)[3] == 1


async def test_without_any_server_that_answers_it_is_a_failure(rig: Rig) -> None:
    for _ in range(2):
        assert (await rig.asked("example.org"))[0] == dns.SERVER_FAILURE
        assert code((await rig.ask_by_stream(question("example.org")))[0]) == dns.SERVER_FAILURE
        rig.point_to(SERVER)


async def test_a_server_of_the_host_that_is_ourselves_is_not_asked(rig: Rig) -> None:
    query = question("example.org")
    ourselves, other = (Upstream(lambda data: [answered(data)]) for _ in range(2))
    rig.point_to(UPSTREAM, SECOND)
    async with ourselves.running(UPSTREAM, rig.port), other.running(SECOND, rig.port):
        forwarder = Forwarder(os.fspath(rig.resolv_conf), rig.port)
        avoid = {ip_address(UPSTREAM)}
        assert await forwarder.ask_by_stream(dns.read_query(query), query, avoid)
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        forwarder.question(dns.read_query(query), query, avoid, answer.set_result).start()
        assert await asyncio.wait_for(answer, WAIT_SECONDS)
    assert (len(ourselves.queries), len(other.queries)) == (0, 2)


async def test_the_server_knows_its_own_addresses(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    avoided: list[Collection[Address]] = []

    def servers(_self: Forwarder, avoid: Collection[Address]) -> list[str]:
        avoided.append(avoid)
        return []

    monkeypatch.setattr(Forwarder, "_others", servers)
    assert (await rig.asked("example.org"))[0] == dns.SERVER_FAILURE
    assert code((await rig.ask_by_stream(question("example.org")))[0]) == dns.SERVER_FAILURE
    assert avoided == [{ip_address(SERVER)}] * 2


async def test_a_server_that_says_nothing_is_left_for_the_next_and_in_the_end_it_is_a_failure(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def reply(_: bytes) -> Sequence[bytes]:
        monkeypatch.setattr(forwarder_module, "TRY_SECONDS", WAIT_SECONDS)  # for whoever is asked next
        return []

    monkeypatch.setattr(forwarder_module, "TRY_SECONDS", 0.1)
    silent = Upstream(reply)
    rig.point_to(UPSTREAM, SECOND)
    async with silent.running(UPSTREAM, rig.port):
        async with Upstream(lambda data: [answered(data)]).running(SECOND, rig.port):
            assert await rig.asked("example.org") == (dns.NO_ERROR, 1, 0)
            assert code((await rig.ask_by_stream(question("example.org")))[0]) == dns.NO_ERROR
        monkeypatch.setattr(forwarder_module, "TOTAL_SECONDS", 0.1)
        assert (await rig.asked("example.org"))[0] == dns.SERVER_FAILURE


async def test_a_changed_resolv_conf_is_read_anew_and_a_lost_one_remembered(rig: Rig) -> None:
    async with Upstream(lambda data: [answered(data)]).running(SECOND, rig.port):
        assert (await rig.asked("example.org"))[0] == dns.SERVER_FAILURE
        rig.point_to(SECOND)
        assert (await rig.asked("example.org"))[0] == dns.NO_ERROR
        rig.resolv_conf.unlink()
        assert (await rig.asked("example.org"))[0] == dns.NO_ERROR


async def test_what_is_no_question_is_refused_or_passed_over_and_the_server_goes_on(rig: Rig) -> None:
    assert code(await rig.ask(question("a.b")[:-1])) == dns.FORMAT_ERROR
    assert code(await rig.ask(question("web.shop.pods.test", flags=0x2800))) == dns.NOT_IMPLEMENTED
    assert await rig.ask(question("web.shop.pods.test", extra=opt(512, 1)))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        for data in (b"", b"x", question("a", flags=0x8000), os.urandom(1000)):
            client.sendto(data, (SERVER, rig.port))
    assert await rig.asked("old.shop.pods.test") == (dns.NO_ERROR, 1, 0)
    reader, writer = await asyncio.open_connection(SERVER, rig.port)
    writer.write(framed(b"x"))
    async with asyncio.timeout(WAIT_SECONDS):
        assert await reader.read() == b""
    writer.close()


async def test_one_client_cannot_take_all_questions_from_the_others(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    for bound in ("TRY_SECONDS", "TOTAL_SECONDS"):  # none of the questions that wait is given up meanwhile
        monkeypatch.setattr(forwarder_module, bound, 1000.0)
    silent = Upstream(lambda _: [])
    async with silent.running(UPSTREAM, rig.port):
        waiting = [
            asyncio.ensure_future(rig.ask(question("example.org"))) for _ in range(names.QUESTIONS_OF_ONE)
        ]
        async with asyncio.timeout(WAIT_SECONDS):
            while len(silent.queries) < names.QUESTIONS_OF_ONE:
                silent.asked.clear()
                await silent.asked.wait()
        assert (await rig.asked("example.org"))[0] == dns.SERVER_FAILURE
        assert not any(task.done() for task in waiting)
        assert await rig.asked("old.shop.pods.test") == (dns.NO_ERROR, 1, 0)
        silent.reply = lambda data: [answered(data)]
        assert code(await rig.ask(question("example.org"), source="127.0.0.9")) == dns.NO_ERROR
        for task in waiting:
            task.cancel()
        await asyncio.wait(waiting)


async def test_one_client_has_so_many_connections_and_no_more(rig: Rig) -> None:
    held = [await asyncio.open_connection(SERVER, rig.port) for _ in range(names.CONNECTIONS_OF_ONE)]
    for reader, writer in held:
        writer.write(framed(question("old.shop.pods.test")))
        assert await read_framed(reader)
    reader, writer = await asyncio.open_connection(SERVER, rig.port)
    async with asyncio.timeout(WAIT_SECONDS):
        assert await reader.read() == b""
    for _, other in (*held, (reader, writer)):
        other.close()


async def test_it_listens_where_it_is_told_to_and_nowhere_else(rig: Rig) -> None:
    await rig.server.listen([SERVER, UPSTREAM], rig.port)
    await rig.server.listen([UPSTREAM, UPSTREAM], rig.port)
    assert code(await rig.ask(question("old.shop.pods.test"), address=UPSTREAM)) == dns.NO_ERROR
    with pytest.raises(ConnectionRefusedError):
        await rig.ask(question("old.shop.pods.test"))
    with pytest.raises(ConnectionRefusedError):
        await rig.ask_by_stream(question("old.shop.pods.test"))
    await rig.server.listen([SERVER], rig.port)
    assert await rig.asked("old.shop.pods.test") == (dns.NO_ERROR, 1, 0)


async def test_it_answers_over_ipv6_too(rig: Rig) -> None:
    await rig.server.listen(["::1"], rig.port)
    assert code(await rig.ask(question("web.shop.pods.test"), address="::1")) == dns.NO_ERROR


async def test_an_address_that_is_taken_is_named_and_the_others_are_kept(rig: Rig) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as other:
        other.bind((SECOND, rig.port))
        other.listen()
        with pytest.raises(OSError, match=f"listen for names on {SECOND} port {rig.port}") as caught:
            await rig.server.listen([SERVER, SECOND], rig.port)
    assert caught.value.filename == SECOND
    assert await rig.asked("old.shop.pods.test") == (dns.NO_ERROR, 1, 0)
    await rig.server.listen([SERVER, SECOND], rig.port)
    assert code(await rig.ask(question("old.shop.pods.test"), address=SECOND)) == dns.NO_ERROR


@pytest.mark.parametrize("domain", ["", ".", "a..b", "pods test", ".".join(["a" * 62] * 4)])
def test_a_domain_that_can_have_no_names_is_refused(domain: str) -> None:
    with pytest.raises(ValueError):
        NameServer(domain, lookup)


async def test_closing_ends_what_is_under_way(rig: Rig) -> None:
    silent = Upstream(lambda _: [])
    async with silent.running(UPSTREAM, rig.port):
        reader, writer = await asyncio.open_connection(SERVER, rig.port)
        writer.write(framed(question("example.org")))
        async with asyncio.timeout(WAIT_SECONDS):
            await silent.asked.wait()
            await rig.server.close()
            assert await reader.read() == b""
        writer.close()
    await rig.server.close()
    with pytest.raises(ConnectionRefusedError):
        await rig.ask(question("old.shop.pods.test"))


async def test_what_closing_dropped_takes_no_place_afterwards(rig: Rig) -> None:
    silent = Upstream(lambda _: [])
    async with silent.running(UPSTREAM, rig.port):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            for _ in range(names.QUESTIONS_OF_ONE):
                client.sendto(question("example.org"), (SERVER, rig.port))
            async with asyncio.timeout(WAIT_SECONDS):
                while len(silent.queries) < names.QUESTIONS_OF_ONE:
                    silent.asked.clear()
                    await silent.asked.wait()
        await rig.server.close()
        await rig.server.listen([SERVER], rig.port)
        silent.reply = lambda data: [answered(data)]
        assert await rig.asked("example.org") == (dns.NO_ERROR, 1, 0)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"", ("127.0.0.1",)),
        (b"nameserver 127.0.0.53\noptions edns0\n", ("127.0.0.53",)),
        (b" nameserver\t::1 # us\n#nameserver 9.9.9.9\n", ("::1",)),
        (b"nameserver x\nnameserver\nnameserver 10.0.0.1\nnameserver 10.0.0.1\n", ("10.0.0.1",)),
        (
            b"nameserver 1.1.1.1\nnameserver 2.2.2.2\nnameserver 3.3.3.3\nnameserver 4.4.4.4\n",
            ("1.1.1.1", "2.2.2.2", "3.3.3.3"),
        ),
        (b"nameserver fe80::1%eth0\n\xff\xfe\n", ("fe80::1%eth0",)),
    ],
)
def test_the_hosts_servers_are_those_that_the_c_library_asks(text: bytes, expected: tuple[str, ...]) -> None:
    assert tuple(servers_in(text)) == expected
    assert all(ip_address(server) for server in expected)
