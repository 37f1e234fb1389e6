"""CNI plugins that do not answer as they should: what is told, and what becomes of their processes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from crib.model.errors import Broken, CribError, Unavailable
from tests.system.labs.cni_lab import CniLab
from tests.system.labs.daemon import until
from tests.system.labs.pod_namespaces import no_stage

pytestmark = [pytest.mark.root, pytest.mark.system]


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[CniLab]:
    made = CniLab(tmp_path)
    yield made
    made.remove()


async def test_a_plugin_that_hangs_is_killed_with_its_children_and_named(lab: CniLab) -> None:
    lab.configure(lab.recorder("one"))
    (lab.directory / "one.HANG.ADD").touch()
    note = lab.directory / "child"
    for seconds in (0.5, 5, 50):  # until the time is enough for it to begin, on a busy machine too
        with pytest.raises(Broken, match=rf"one ADD: no answer within {seconds} s"):
            await lab.network(plugin_timeout=seconds).attach(lab.namespaces.make().pod(), no_stage)
        if note.exists() and note.read_text():
            break
    child = int(note.read_text())
    await until(lambda: not is_running(child))


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


@pytest.mark.parametrize(
    ("script", "told"),
    [
        ("echo '{\"ips\":'; echo lost my way >&2", r"odd ADD: result: .*; it said: lost my way"),
        ("true", "odd ADD: result: "),
        ('echo \'{"cniVersion":"7.0.0"}\'', r"odd ADD: .*'7\.0\.0' is not one of"),
        ("echo out of luck >&2; kill -ABRT $$", "odd ADD: ended by SIGABRT: out of luck"),
        ("echo no such thing; exit 3", "odd ADD: exit code 3: no such thing"),
        ("exit 4", "odd ADD: exit code 4: it said nothing"),
        ("head -c 2000000 /dev/zero", "odd ADD: printed more than 1048576 bytes"),
    ],
)
async def test_what_a_plugin_did_instead_of_an_answer_is_told_with_pod_and_plugin(
    lab: CniLab, script: str, told: str
) -> None:
    lab.configure(lab.script("odd", f"#!/bin/sh\ncat >/dev/null\n{script}\n"))
    pod = lab.namespaces.make().pod()
    with pytest.raises(Broken, match=rf"pod {pod.id} \(default/web\): cni plugin {told}"):
        await lab.network().attach(pod, no_stage)


async def test_a_file_that_cannot_be_run_is_named(lab: CniLab) -> None:
    lab.configure(lab.script("odd", "no program"))
    with pytest.raises(CribError, match=r"odd ADD: cannot run .*/bin/odd: Exec format error"):
        await lab.network().attach(lab.namespaces.make().pod(), no_stage)


async def test_what_plugins_do_is_counted_by_plugin_and_command(lab: CniLab) -> None:
    lab.configure(lab.recorder("one"), lab.recorder("two"))
    lab.fail("two", "ADD", 99, "out of luck")
    network, pod = lab.network(), lab.namespaces.make().pod()
    with pytest.raises(CribError):
        await network.attach(pod, no_stage)
    await network.detach(pod)
    done = {labels: sum(one.buckets) for labels, one in network.programs.durations.series.items()}
    wanted = {(plugin, command): 1 for plugin in ("one", "two") for command in ("ADD", "DEL")}
    assert {labels: count for labels, count in done.items() if labels in wanted} == wanted
    assert network.programs.failures.counts[("two", "ADD")] == 1


async def test_try_again_later_is_unavailable(lab: CniLab) -> None:
    lab.configure(lab.recorder("one"))
    lab.fail("one", "ADD", code=11)
    with pytest.raises(Unavailable, match="code 11"):
        await lab.network().attach(lab.namespaces.make().pod(), no_stage)


async def test_an_answer_of_another_version_reaches_the_next_plugin_in_that_of_the_network(
    lab: CniLab,
) -> None:
    lab.configure(lab.recorder("one"), lab.recorder("two"), version="0.4.0")
    network = lab.network()
    pod = lab.namespaces.make().pod()
    lab.answer("one", {"cniVersion": "1.0.0", "ips": [{"address": "10.9.8.7/24"}]})
    lab.answer("two", {"cniVersion": "0.2.0", "ip4": {"ip": "10.9.8.7/24"}})
    assert (await network.attach(pod, no_stage)).addresses == ("10.9.8.7",)
    await network.detach(pod)
    previous = [call["input"]["prevResult"] for call in lab.calls("ADD", "DEL")[1:]]
    assert [(one["cniVersion"], one["ips"][0]["version"]) for one in previous] == [("0.4.0", "4")] * 3
