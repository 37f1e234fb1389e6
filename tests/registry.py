"""A real registry (docker-registry) on a free loopback port, for as long as a block lasts."""

from __future__ import annotations

import contextlib
import itertools
import shutil
import socket
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.shares import own_share

if TYPE_CHECKING:
    from tests.tls_lab import Certificate
    from tests.token_server import TokenServer

_START_SECONDS = 60.0
_PORTS = range(12_000, 20_000)
"""Below those that the kernel hands out by itself (32768 and up): no listener and no connection of anybody
else gets one of them between the answer of `free_port` and its use."""
_numbers = own_share(len(_PORTS))
BASIC_USER, BASIC_PASSWORD = "ali-baba", "open sesame"
"""Who may pull and push where `basic` is asked for."""
_HTPASSWD = f"{BASIC_USER}:$2b$04$aWtoDhDO4qiDp4PfAaF9WelSHikdM66z8okHh4ggsnvq5sEZHn9dy\n"


def free_port() -> int:
    """A TCP port of the loopback interface that nobody listens on, and that nobody is given by chance."""
    for number in itertools.islice(_numbers, len(_PORTS)):
        port = _PORTS[number]
        with socket.socket() as listener, contextlib.suppress(OSError):
            listener.bind(("127.0.0.1", port))
            return port
    raise OSError(f"there is no free port from {_PORTS.start} to {_PORTS.stop - 1}")


@contextlib.contextmanager
def running_registry(
    root: Path,
    port: int = 0,
    *,
    token: TokenServer | None = None,
    basic: bool = False,
    tls: Certificate | None = None,
) -> Iterator[str]:
    """Its base URL. `root` keeps its blobs; the same root may be served again later, or twice at once.

    With `token` it wants tokens of that server, with `basic` the user and password of this module; `tls`
    is its certificate. One without either, on the same root, is where a test pushes.
    """
    program = shutil.which("docker-registry")
    if program is None:
        pytest.skip("docker-registry is not installed")
    port = port or free_port()
    root.mkdir(parents=True, exist_ok=True)
    config = root / f"config-{port}.yml"
    config.write_text(
        "version: 0.1\n"
        "log:\n  level: error\n  accesslog:\n    disabled: true\n"
        f"storage:\n  filesystem:\n    rootdirectory: {root / 'data'}\n  delete:\n    enabled: true\n"
        f"http:\n  addr: 127.0.0.1:{port}\n"
        + _tls_lines(root, port, tls)
        + _auth_lines(root, port, token, basic)
    )
    log = (root / f"log-{port}").open("wb")
    process = subprocess.Popen([program, "serve", str(config)], stdout=log, stderr=log)
    url = f"{'http' if tls is None else 'https'}://127.0.0.1:{port}"
    try:
        _wait_until_it_answers(url, process, root / f"log-{port}")
        yield url
    finally:
        process.kill()
        process.wait()
        log.close()


def _tls_lines(root: Path, port: int, tls: Certificate | None) -> str:
    if tls is None:
        return ""
    certificate, key = tls.write(root, f"server-{port}")
    return f"  tls:\n    certificate: {certificate}\n    key: {key}\n"


def _auth_lines(root: Path, port: int, token: TokenServer | None, basic: bool) -> str:
    if token is not None:
        bundle = root / f"tokens-{port}.pem"
        bundle.write_text(token.root_bundle)
        return (
            f"auth:\n  token:\n    realm: {token.url}\n    service: {token.service}\n"
            f"    issuer: {token.issuer}\n    rootcertbundle: {bundle}\n"
        )
    if basic:
        users = root / f"htpasswd-{port}"
        users.write_text(_HTPASSWD)
        return f"auth:\n  htpasswd:\n    realm: test\n    path: {users}\n"
    return ""


def _wait_until_it_answers(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    anyone = ssl._create_unverified_context()  # only to see that somebody listens
    while True:
        try:
            with urllib.request.urlopen(f"{url}/v2/", timeout=2, context=anyone):
                return
        except urllib.error.HTTPError as refusal:
            refusal.close()
            return
        except OSError:
            pass
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"docker-registry does not answer at {url}: {log.read_text()[-2000:]}")
        time.sleep(0.02)  # polling a program that tells nobody when it is ready
