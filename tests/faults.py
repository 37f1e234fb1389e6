"""What can go wrong with a registry's answer, one function each (see tests/fault_proxy.py).

proxy.add("layer", cut(1000, then="reset"), times=1)
"""

from __future__ import annotations

import base64
import email.utils
import gzip
import re
import threading
import time
from collections.abc import Mapping

from tests.fault_proxy import MAX_WAIT, Answer, Exchange, Fault


def status(code: int, headers: Mapping[str, str] | None = None, body: bytes = b"") -> Fault:
    """Nothing but this status."""

    def change(exchange: Exchange) -> None:
        exchange.answer = Answer(code, body, dict(headers or {}))

    return change


def too_many(after: str | None = "1") -> Fault:
    """429 with this Retry-After; a date is made with `in_seconds`."""
    return status(429, {} if after is None else {"Retry-After": after})


def in_seconds(seconds: float) -> str:
    """An HTTP date, so far from now (whole seconds, rounded up)."""
    return email.utils.formatdate(int(time.time() + seconds) + 1, usegmt=True)


def cut(stop: int, then: str = "close", length: int | None = None) -> Fault:
    """Stops within the body: `then` is close, reset or stall; a negative `stop` counts from the end."""

    def change(exchange: Exchange) -> None:
        answer = exchange.answer
        answer.stop, answer.then = stop if stop >= 0 else len(answer.body) + stop, then
        answer.length = length

    return change


def no_head(then: str = "close") -> Fault:
    """Not even the head of a response comes."""

    def change(exchange: Exchange) -> None:
        exchange.answer = Answer(200, head=False, stop=0, then=then)

    return change


def drip(count: int, seconds: float, start: int = 0) -> Fault:
    """After `start` bytes at once, `count` bytes every so often."""

    def change(exchange: Exchange) -> None:
        exchange.answer.drip = count, seconds
        exchange.answer.headers["X-Start"] = str(start)

    return change


def flip(place: int = -1) -> Fault:
    """One byte is another one."""

    def change(exchange: Exchange) -> None:
        body = bytearray(exchange.answer.body)
        body[place] ^= 1
        exchange.answer.body = bytes(body)

    return change


def longer(extra: bytes = b"more") -> Fault:
    """More comes than should."""

    def change(exchange: Exchange) -> None:
        exchange.answer.body += extra
        exchange.answer.length = None

    return change


def redirect(base: str, code: int = 307, query: str = "") -> Fault:
    """To the same path below another base URL, as registries send one to a store of blobs."""

    def change(exchange: Exchange) -> None:
        location = f"{base}{exchange.seen.path}{query}"
        exchange.answer = Answer(code, b"", {"Location": location})

    return change


def redirect_to(location: str, code: int = 307) -> Fault:
    """To exactly this."""
    return status(code, {"Location": location})


def no_ranges(exchange: Exchange) -> None:
    """Answers 200 with everything, whatever range was asked for."""
    exchange.seen.headers.pop("range", None)
    exchange.answer.headers.pop("Accept-Ranges", None)


def other_range(shift: int = 1) -> Fault:
    """A 206 whose Content-Range is not what was asked for, and whose bytes are of there."""

    def change(exchange: Exchange) -> None:
        match = re.fullmatch(r"bytes=(\d+)-(\d*)", exchange.seen.range)
        if match is None:
            return
        last = str(int(match[2]) + shift) if match[2] else ""
        exchange.seen.headers["range"] = f"bytes={int(match[1]) + shift}-{last}"
        _ = exchange.answer

    return change


def gzipped(exchange: Exchange) -> None:
    """Content-Encoding gzip although nobody asked for it."""
    exchange.answer.body = gzip.compress(exchange.answer.body)
    exchange.answer.headers["Content-Encoding"] = "gzip"


def document(body: bytes, media_type: str = "application/vnd.oci.image.manifest.v1+json") -> Fault:
    """This document instead."""

    def change(exchange: Exchange) -> None:
        exchange.answer = Answer(200, body, {"Content-Type": media_type})

    return change


def media_type(text: str) -> Fault:
    """The right body under another Content-Type."""

    def change(exchange: Exchange) -> None:
        exchange.answer.headers = {
            k: v for k, v in exchange.answer.headers.items() if k.lower() != "content-type"
        } | {"Content-Type": text}

    return change


def wants_basic(user: str, password: str) -> Fault:
    """401 for whoever has not these."""
    encoded = base64.b64encode(f"{user}:{password}".encode()).decode()
    return _wants(f"Basic {encoded}", 'Basic realm="test"')


def wants_bearer(token: str, challenge: str) -> Fault:
    """401 for whoever has not this token."""
    return _wants(f"Bearer {token}", f"Bearer {challenge}")


def _wants(right: str, challenge: str) -> Fault:
    def change(exchange: Exchange) -> None:
        if exchange.seen.authorization != right:
            exchange.answer = Answer(401, b"{}", {"WWW-Authenticate": challenge})

    return change


def held_until(event: threading.Event) -> Fault:
    """The answer waits for the event."""

    def change(exchange: Exchange) -> None:
        event.wait(MAX_WAIT)

    return change


def then_also(*faults: Fault) -> Fault:
    """Several faults in one answer."""

    def change(exchange: Exchange) -> None:
        for fault in faults:
            fault(exchange)

    return change
