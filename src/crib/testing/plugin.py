"""Fixtures for pytest; they are there wherever crib is installed (entry point `pytest11`).

* `cri_server`: a fake runtime (`FakeServer`), a new one for each test.
* `cri_endpoint`: where a runtime answers: the real one of CRIB_ENDPOINT if that is set, else a fake one.
* `cri_client`: a `SyncClient` at `cri_server`, if the test asks for that, too; else at `cri_endpoint`.

`pytest -p no:crib` leaves them out.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from crib.client import SyncClient
    from crib.testing import FakeServer


@pytest.fixture
def cri_server() -> Iterator[FakeServer]:
    """A CRI runtime in memory, behind a real socket."""
    from crib.testing import FakeServer  # every run of pytest loads this module

    with FakeServer() as server:
        yield server


@pytest.fixture
def cri_endpoint(request: pytest.FixtureRequest) -> str:
    """The endpoint of a real runtime, as CRIB_ENDPOINT says, or of a fake one."""
    if real := os.environ.get("CRIB_ENDPOINT"):
        return real
    server: FakeServer = request.getfixturevalue("cri_server")
    return server.endpoint


@pytest.fixture
def cri_client(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SyncClient]:
    """A client of the fake runtime that the test scripts, else of `cri_endpoint`."""
    from crib.client import SyncClient

    endpoint = (
        request.getfixturevalue("cri_server").endpoint
        if "cri_server" in request.fixturenames
        else request.getfixturevalue("cri_endpoint")
    )
    with SyncClient(endpoint, pods_dir=str(tmp_path / "pods")) as client:
        yield client
