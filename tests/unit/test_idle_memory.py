"""What keeps an idle daemon small: what it does not import at its start, and memory that goes back."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import textwrap

import pytest

from crib import daemon

NOT_AT_START = (
    # other programs of ours, and what only they need
    *("crib.cli", "crib.client", "crib.bench", "typer", "rich", "aiohttp", "yaml", "isal", "zstandard"),
    "crib.backends.images.worker.main",
    # by the first stream
    *("h11", "wsproto", "crib.streaming.head", "crib.tunnel.spdy", "crib.tunnel.websocket"),
    # by settings that ask for it, or when somebody asks
    *("crib.backends.network.cni.network", "crib.backends.network.bridge.network", "crib.host.nftables"),
    *("cryptography", "prometheus_client", "google.protobuf.json_format", "email", "opentelemetry"),
    # by reflection, which few ask for
    *("grpc", "grpc_reflection"),
)


def in_a_process(program: str) -> str:
    command = [sys.executable, "-c", textwrap.dedent(program)]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout


def test_a_daemon_starts_without_what_it_needs_later_or_never() -> None:
    loaded = in_a_process("import sys, crib.daemon; print(*sys.modules)").split()
    assert sorted(set(NOT_AT_START) & set(loaded)) == []


def test_memory_that_was_freed_goes_back_to_the_system() -> None:
    before, after = map(
        int,
        in_a_process(
            """
            import re
            from crib.host.libc import malloc_trim

            def resident() -> str:
                return re.search(r"VmRSS:\\s+(\\d+)", open("/proc/self/status").read())[1]

            blocks = [bytearray(2000) for _ in range(20_000)]
            blocks = blocks[-1:]  # the last one keeps the heap from shrinking by itself
            before = resident()
            malloc_trim()
            print(before, resident())
            """
        ).split(),
    )
    assert before - after > 20_000, "KiB, of 40,000"


async def test_memory_goes_back_right_after_the_last_imports(monkeypatch: pytest.MonkeyPatch) -> None:
    """They may take long on a busy machine, and leave 10 MiB behind."""
    done: list[str] = []

    class Streams:
        def warm(self) -> None:
            done.append("imported")

    async def until_the_first_pause(seconds: float) -> None:
        if seconds == daemon.TRIM_EVERY:
            raise asyncio.CancelledError

    monkeypatch.setattr(daemon.libc, "malloc_trim", lambda: done.append("given back"))
    monkeypatch.setattr(daemon.asyncio, "sleep", until_the_first_pause)
    with pytest.raises(asyncio.CancelledError):
        await daemon._warm_and_small(Streams())  # type: ignore[arg-type]  # all that it needs of the server
    assert done == ["imported", "given back"]
