"""What keeps an idle daemon small: what it does not import at its start, and memory that goes back."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import textwrap
from typing import Any

import pytest

from crib import footprint
from crib.host import libc

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


def test_threads_have_no_heap_each() -> None:
    """A heap of a thread keeps what was once needed in it."""
    heaps = [
        int(
            in_a_process(
                f"""
                import ctypes, threading
                from crib.host import libc

                {setting}
                held = []
                libc_ = ctypes.CDLL(None)
                libc_.malloc.restype = ctypes.c_void_p
                libc_.fopen.restype = ctypes.c_void_p
                threads = [
                    threading.Thread(target=lambda: held.append(libc_.malloc(100_000))) for _ in range(4)
                ]
                for each in threads:
                    each.start()
                for each in threads:
                    each.join()
                stream = libc_.fopen(b"/dev/stdout", b"w")
                libc_.malloc_info(0, ctypes.c_void_p(stream))
                libc_.fclose(ctypes.c_void_p(stream))
                """
            ).count("<heap nr=")
        )
        for setting in ("libc.use_one_heap()", "pass")
    ]
    assert heaps[0] == 1 < heaps[1]


async def test_the_last_imports_wait_for_a_pod_and_memory_goes_back_after_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """They may take long on a busy machine, and leave 10 MiB behind."""
    done: list[str] = []
    pauses: list[float] = []

    class Streams:
        def warm(self) -> None:
            done.append("imported")

    async def until_the_second_long_pause(seconds: float) -> None:
        pauses.append(seconds)
        if pauses.count(footprint.TRIM_EVERY) == 2:
            raise asyncio.CancelledError

    monkeypatch.setattr(libc, "malloc_trim", lambda: done.append("given back"))
    monkeypatch.setattr(asyncio, "sleep", until_the_second_long_pause)
    streams: Any = Streams()
    with pytest.raises(asyncio.CancelledError):
        await footprint.warm_and_small(streams, lambda: len(pauses) == 62)
    assert done == ["given back", "given back", "imported", "given back", "given back"]
    assert set(pauses[:62]) == {footprint.WARM_AFTER}


RESIDENT_LIMIT = 54 << 10
"""KiB of a daemon right after its imports: 48,600 here, and 57,100 with gRPC's library."""


def test_a_daemon_that_has_only_been_imported_is_small() -> None:
    """What it does after that is measured in ADR 91: here nothing hangs on time."""
    resident = in_a_process(
        """
        import re, crib.daemon
        from crib.host.libc import malloc_trim

        malloc_trim()
        print(re.search(r"VmRSS:\\s+(\\d+)", open("/proc/self/status").read())[1])
        """
    )
    assert int(resident) < RESIDENT_LIMIT
