"""The client library with real runtimes: the suite of the contract, and what only one of them can do."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from crib.client import CommandSpec, ContainerSpec, PodSpec, SyncClient
from crib.client.errors import NotOffered, TimedOut
from tests.client_docs import IMAGE as EXAMPLE_IMAGE
from tests.client_docs import Example, examples, is_a_test, needs_a_registry
from tests.contract.cri_contract import CriContract, RuntimeUnderTest
from tests.images import busybox_image
from tests.system.labs.containerd import Containerd, running_containerd
from tests.system.labs.daemon import IMAGE, Cribd, running_cribd

pytestmark = [pytest.mark.root, pytest.mark.system]


@pytest.fixture(scope="module")
def cribd() -> Iterator[Cribd]:
    with running_cribd(built=(busybox_image(name=IMAGE), busybox_image(name=EXAMPLE_IMAGE))) as found:
        yield found


@pytest.fixture(scope="module")
def containerd() -> Iterator[Containerd]:
    with running_containerd([busybox_image(name=IMAGE)]) as found:
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
            yield RuntimeUnderTest(client, IMAGE, has_events=False)
            assert client.pods() == []


AS_NOBODY = CommandSpec(["sh", "-c", "id -u; pwd; echo $COLOUR"], {"COLOUR": "red"}, "/tmp", "65534")


def test_a_command_runs_as_another_user_elsewhere_and_with_more_in_its_environment(
    cribd: Cribd, private_root: Path
) -> None:
    before = cribd.leftovers()
    with SyncClient(str(cribd.socket), pods_dir=str(private_root)) as client:
        box = client.run_pod_container(PodSpec("differs"), ContainerSpec(IMAGE, ["sleep", "1000"]))
        assert client.exec(box, AS_NOBODY).check().text == "65534\n/tmp\nred\n"
        reads = replace(AS_NOBODY, command=["sh", "-c", "id -u; cat; exit 3"])
        assert client.exec(box, reads, input=b"given").out == b"65534\ngiven"
        assert client.exec(box, CommandSpec(["id", "-u"])).text == "0\n"
        with pytest.raises(TimedOut):
            client.exec(box, replace(AS_NOBODY, command=["sleep", "1000"]), timeout=0.5)
        client.remove_pod_container(box)
    cribd.settle(before)


def test_another_runtime_refuses_a_command_that_differs(containerd: Containerd, private_root: Path) -> None:
    with SyncClient(containerd.endpoint, pods_dir=str(private_root)) as client:
        box = client.run_pod_container(PodSpec("same"), ContainerSpec(IMAGE, ["sleep", "1000"]))
        with pytest.raises(NotOffered):
            client.exec(box, AS_NOBODY)
        assert client.exec(box, CommandSpec(["true"])).code == 0
        client.remove_pod_container(box)


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
