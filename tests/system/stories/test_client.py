"""The client library with real runtimes: the suite of the contract, and what only one of them can do."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from crib.client import SyncClient
from tests.client_docs import IMAGE as EXAMPLE_IMAGE
from tests.client_docs import Example, examples, is_a_test, needs_a_registry
from tests.contract.cri_contract import CriContract, RuntimeUnderTest
from tests.images import busybox_image
from tests.system.labs.containerd_lab import Containerd, running_containerd
from tests.system.labs.daemon import IMAGE, Cribd, running_cribd

pytestmark = [pytest.mark.root, pytest.mark.system]


@pytest.fixture(scope="module")
def cribd() -> Iterator[Cribd]:
    with running_cribd(built=(busybox_image(name=IMAGE), busybox_image(name=EXAMPLE_IMAGE))) as found:
        yield found


@pytest.fixture(scope="module")
def containerd() -> Iterator[Containerd]:
    with running_containerd() as found:
        yield found


class TestCribd(CriContract):
    @pytest.fixture
    def runtime(self, cribd: Cribd) -> Iterator[RuntimeUnderTest]:
        before = cribd.leftovers()
        with SyncClient(str(cribd.socket)) as client:
            yield RuntimeUnderTest(client, IMAGE)
        cribd.settle(before)


class TestContainerd(CriContract):
    @pytest.fixture
    def runtime(self, containerd: Containerd) -> Iterator[RuntimeUnderTest]:
        with SyncClient(containerd.endpoint) as client:
            yield RuntimeUnderTest(client, IMAGE, host_network=True, has_events=False)
            assert client.pods() == []


RUNNABLE = [one for one in examples() if not (is_a_test(one) or needs_a_registry(one))]


@pytest.mark.parametrize("example", RUNNABLE, ids=str)
def test_the_examples_of_the_page_do_with_cribd_what_is_shown(
    example: Example,
    cribd: Cribd,
    private_root: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = cribd.leftovers()
    monkeypatch.setenv("CRIB_ENDPOINT", str(cribd.socket))
    monkeypatch.setenv("CRIB_PODS_DIR", str(private_root))
    exec(compile(example.text, str(example), "exec"), {"__name__": "example"})
    said = capsys.readouterr().out
    assert example.said is None or said == example.said
    cribd.settle(before)
