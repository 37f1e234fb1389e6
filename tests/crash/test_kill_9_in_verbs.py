"""kill -9 of cribd at every moment of every verb: nothing half-made is ever seen, and a retry succeeds.

The production code has no hooks for this. A verb is begun, the daemon is killed after a delay that sweeps over
the time that the verb takes, and then started again.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Iterator
from pathlib import Path

import grpc
import pytest

from crib.client import pods
from crib.client.errors import ClientError
from crib.client.pods import Pod
from crib.stubs.runtime.v1 import api_pb2 as pb
from tests.images import Entry, busybox_image, write_saved_archive
from tests.system.daemon import Cri, Cribd, running_cribd

pytestmark = [pytest.mark.root, pytest.mark.system]

# Milliseconds from the request to the kill. The verbs take 5 to 20 here; the ordinary suite looks at a few.
FEW = (1, 4, 8, 13)
MANY = tuple(step / 2 for step in range(0, 60))

delays = pytest.mark.parametrize(
    "milliseconds", [*FEW, *(pytest.param(delay, marks=pytest.mark.nightly) for delay in MANY)]
)


@pytest.fixture(scope="module")
def cribd() -> Iterator[Cribd]:
    with running_cribd() as daemon:
        yield daemon
