"""CNI plugins that fail in every way at every place of a chain: what is told, and that nothing is left."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Iterator

import pytest

from crib.client.errors import ClientError, TimedOut
from crib.client.pods import Pod
from crib.stubs.node.v1 import node_pb2
from crib.stubs.runtime.v1 import api_pb2 as pb
from tests.system.labs.daemon import Cri, until
from tests.system.labs.network_lab import (
    CniLab,
    LabCribd,
    Traces,
    check,
    cni_lab,
    cribd_on,
    failing_bridge,
    network_ready,
    pod_namespace,
)

pytestmark = [pytest.mark.root, pytest.mark.system]

WORDS = "7, no luck today, really"
IMPATIENT = 3.0
"""Seconds for plugins where one of them hangs: for each of one pod's others a busy machine takes less."""


@pytest.fixture(scope="module")
def shared_lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CniLab]:
    with cni_lab(tmp_path_factory.mktemp("failures")) as made:
        made.write(*failing_bridge(made))
        yield made


@pytest.fixture(scope="module")
def shared_cribd(shared_lab: CniLab) -> Iterator[LabCribd]:
    with cribd_on(shared_lab.host, shared_lab.settings(ready_timeout=0.5)) as daemon:
        yield daemon


@pytest.fixture
def lab(shared_lab: CniLab) -> Iterator[CniLab]:
    shared_lab.write(*failing_bridge(shared_lab))
    yield shared_lab
    shared_lab.no_failpoints()


@pytest.fixture
async def cri(lab: CniLab, shared_cribd: LabCribd) -> AsyncIterator[Cri]:
    async with story(lab, shared_cribd) as connection:
        yield connection


@contextlib.asynccontextmanager
async def story(lab: CniLab, cribd: LabCribd) -> AsyncIterator[Cri]:
    """For one test: at its end all is as before."""
    async with cribd.story() as connection:
        before = lab.traces(cribd)
        yield connection
        lab.no_failpoints()
        for sandbox in await connection.sandboxes():
            await connection.remove_pod(sandbox)
        await lab.as_before(cribd, before)


@pytest.fixture(scope="module")
def hasty_lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CniLab]:
    """For those whose plugin hangs: elsewhere plugins have as long as a busy machine makes them take."""
    with cni_lab(tmp_path_factory.mktemp("hasty")) as made:
        made.write(*failing_bridge(made))
        yield made


@pytest.fixture(scope="module")
def hasty_cribd(hasty_lab: CniLab) -> Iterator[LabCribd]:
    settings = hasty_lab.settings(plugin_timeout=IMPATIENT, ready_timeout=0.5)
    with cribd_on(hasty_lab.host, settings) as daemon:
        yield daemon


@pytest.fixture
async def hasty(hasty_lab: CniLab, hasty_cribd: LabCribd) -> AsyncIterator[Cri]:
    hasty_lab.write(*failing_bridge(hasty_lab))
    async with story(hasty_lab, hasty_cribd) as connection:
        yield connection


@pytest.fixture
def own_lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CniLab]:
    """For those who kill the daemon: a new one would count as left behind by the test that started it."""
    with cni_lab(tmp_path_factory.mktemp("killed")) as made:
        made.write(*failing_bridge(made))
        yield made


@pytest.fixture
def own_cribd(own_lab: CniLab) -> Iterator[LabCribd]:
    with cribd_on(own_lab.host, own_lab.settings()) as daemon:
        try:
            yield daemon
        finally:
            own_lab.no_failpoints()


async def failing_run(cri: Cri, config: pb.PodSandboxConfig) -> str:
    """What RunPodSandbox says; it must fail."""
    with pytest.raises(ClientError) as caught:
        await cri.call(cri.runtime.RunPodSandbox, pb.RunPodSandboxRequest(config=config))
    return str(caught.value)


def names_pod(text: str, config: pb.PodSandboxConfig) -> bool:
    """By its id, or as its user knows it."""
    known = f"{config.metadata.namespace}/{config.metadata.name}"
    return known in text or re.search(r"pod( sandbox)? [0-9a-f]{64}", text) is not None


async def run(cri: Cri, config: pb.PodSandboxConfig) -> Pod:
    request = pb.RunPodSandboxRequest(config=config)
    return Pod((await cri.call(cri.runtime.RunPodSandbox, request)).pod_sandbox_id, config)


ADD_FAILURES = {
    f"error({WORDS})": r"{} ADD.*no luck today.*really.*code 7",
    f"partial({WORDS})": r"{} ADD.*no luck today.*really.*code 7",
    "garbage": "{} ADD",
    "empty": "{} ADD",
    "huge": "{} ADD.*more than",
    "version(9.9.9)": r"{} ADD.*9\.9\.9",
    "stderr(lost my way)": "{} ADD.*lost my way",
    "silent(3)": "{} ADD.*exit code 3",
    "signal(11)": "{} ADD.*(-11|signal 11|SIGSEGV)",
}
"""Failpoint to what the error must say of it."""


@pytest.mark.parametrize(
    ("failpoint", "place"),
    [(failpoint, "second") for failpoint in ADD_FAILURES]
    + [(f"partial({WORDS})", place) for place in ("first", "third")],
)
async def test_an_add_that_fails_is_told_and_undone_and_the_retry_succeeds(
    lab: CniLab, cri: Cri, failpoint: str, place: str
) -> None:
    await fail_and_retry(lab, cri, failpoint, place)


@pytest.mark.nightly
@pytest.mark.parametrize("failpoint", ADD_FAILURES)
async def test_an_add_may_fail_in_any_way_at_any_place(lab: CniLab, cri: Cri, failpoint: str) -> None:
    for place in ("first", "second", "third"):
        await fail_and_retry(lab, cri, failpoint, place)


async def fail_and_retry(lab: CniLab, cri: Cri, failpoint: str, place: str) -> None:
    """A pod whose ADD fails there: what is told, what is left of it, and how the retry does."""
    before = lab.traces(cri.cribd)
    config = cri.pod_config(f"unlucky-{place}")
    lab.fail(place, "ADD", f"1*{failpoint}")
    said = await failing_run(cri, config)
    assert re.search(ADD_FAILURES[failpoint].format(place), said), said
    assert names_pod(said, config), said
    assert lab.calls("DEL", place)[-1]["id"] == lab.calls("ADD", place)[-1]["id"]
    assert await cri.sandboxes() == {}
    await lab.as_before(cri.cribd, before)
    pod = await run(cri, config)
    assert lab.held_addresses() == [(await cri.pod_status(pod)).network.ip]
    await cri.remove_pod(pod)
    await lab.as_before(cri.cribd, before)


@pytest.mark.parametrize(
    "failpoint",
    [
        f"partial({WORDS})",
        *(pytest.param(kind, marks=pytest.mark.nightly) for kind in ("garbage", "signal(9)")),
    ],
)
async def test_an_add_that_fails_in_ipam_is_told_and_undone(
    lab: CniLab, cri: Cri, shared_cribd: LabCribd, failpoint: str
) -> None:
    before = lab.traces(shared_cribd)
    config = cri.pod_config("unlucky")
    lab.fail("addresses", "ADD", f"1*{failpoint}")
    said = await failing_run(cri, config)
    assert re.search("first ADD", said), said
    if WORDS in failpoint:
        assert re.search("no luck today", said), said
    await lab.as_before(shared_cribd, before)
    await run(cri, config)


async def test_an_address_without_an_interface_is_given_back(
    lab: CniLab, cri: Cri, shared_cribd: LabCribd
) -> None:
    before = lab.traces(shared_cribd)
    lab.fail("first", "ADD", f"1*address({WORDS})")
    await failing_run(cri, cri.pod_config("half"))
    await lab.as_before(shared_cribd, before)


async def test_try_again_later_is_told_as_unavailable(lab: CniLab, cri: Cri) -> None:
    lab.fail("second", "ADD", "error(11, later, please)")
    with pytest.raises(ClientError, match="later; please") as caught:
        await cri.run_pod("early")
    assert caught.value.code == "UNAVAILABLE"


async def test_a_plugin_that_hangs_in_add_is_killed_with_its_children(hasty_lab: CniLab, hasty: Cri) -> None:
    before = hasty_lab.traces(hasty.cribd)
    config = hasty.pod_config("slow")
    hasty_lab.fail("second", "ADD", "1*hang")
    said = await failing_run(hasty, config)
    assert re.search(rf"second ADD.*{IMPATIENT:g} s", said), said
    await until(lambda: not hasty_lab.processes())
    await hasty_lab.as_before(hasty.cribd, before)
    await run(hasty, config)


async def test_what_a_plugin_leaves_running_does_not_hold_up_its_answer(lab: CniLab, cri: Cri) -> None:
    lab.fail("third", "ADD", "1*background")
    pod = await cri.run_pod("quick")
    assert lab.held_addresses() == [(await cri.pod_status(pod)).network.ip]
    assert len(lab.processes()) == 1
    lab.kill_processes()


async def test_a_caller_that_gives_up_during_add_leaves_nothing(
    lab: CniLab, cri: Cri, shared_cribd: LabCribd
) -> None:
    before = lab.traces(shared_cribd)
    config = cri.pod_config("patient")
    gate = lab.fail("second", "ADD", "gate")
    request = pb.RunPodSandboxRequest(config=config)
    with pytest.raises(TimedOut):
        await cri.call(cri.runtime.RunPodSandbox, request, timeout=0.5)
    gate.unlink()
    pod = await run(cri, config)  # joins what goes on without its first caller, or gets what that made
    added, deleted = [{call["id"] for call in lab.calls(what)} for what in ("ADD", "DEL")]
    assert added - deleted == {pod.id}
    await cri.remove_pod(pod)
    await lab.as_before(shared_cribd, before)


DEL_FAILURES = {
    f"error({WORDS})": r"{} DEL.*no luck today.*really.*code 7",
    "silent(3)": "{} DEL.*exit code 3",
    "stderr(lost my way)": "{} DEL.*lost my way",
    "signal(9)": "{} DEL",
}


@pytest.mark.parametrize(
    "failpoint",
    [
        failpoint if failpoint.startswith("error") else pytest.param(failpoint, marks=pytest.mark.nightly)
        for failpoint in DEL_FAILURES
    ],
)
async def test_a_del_that_fails_is_told_at_each_stop_until_it_works(
    lab: CniLab, cri: Cri, shared_cribd: LabCribd, failpoint: str
) -> None:
    before = lab.traces(shared_cribd)
    for place in ("first", "third"):
        pod = await cri.run_pod("sticky")
        lab.fail(place, "DEL", f"2*{failpoint}")
        for _ in range(2):
            with pytest.raises(ClientError) as caught:
                await cri.stop_pod(pod)
            said = str(caught.value)
            assert re.search(DEL_FAILURES[failpoint].format(place), said), said
            assert pod.id in said
            assert (await cri.pod_status(pod)).state == pb.SANDBOX_NOTREADY
            assert bool(lab.held_addresses()) == (place == "first")
        await cri.stop_pod(pod)
        assert lab.held_addresses() == []
        await cri.stop_pod(pod)
        await cri.remove_pod(pod)
        await lab.as_before(shared_cribd, before)


async def test_a_pod_whose_del_fails_can_be_removed_as_soon_as_it_works(
    lab: CniLab, cri: Cri, shared_cribd: LabCribd
) -> None:
    before = lab.traces(shared_cribd)
    pod = await cri.run_pod("sticky")
    lab.fail("addresses", "DEL", f"1*error({WORDS})")
    request = pb.RemovePodSandboxRequest(pod_sandbox_id=pod.id)
    with pytest.raises(ClientError, match="no luck today"):
        await cri.call(cri.runtime.RemovePodSandbox, request)
    assert len(lab.held_addresses()) == 1
    await cri.call(cri.runtime.RemovePodSandbox, request)
    assert await cri.sandboxes() == {}
    await lab.as_before(shared_cribd, before)


async def test_a_failed_add_whose_del_fails_too_is_cleared_by_the_retry(
    lab: CniLab, cri: Cri, shared_cribd: LabCribd
) -> None:
    before = lab.traces(shared_cribd)
    config = cri.pod_config("twice")
    lab.fail("third", "ADD", f"1*error({WORDS})")
    lab.fail("first", "DEL", "1*error(5, cannot let go, yet)")
    said = await failing_run(cri, config)
    assert "no luck today" in said
    assert len(lab.held_addresses()) == 1
    pod = await run(cri, config)
    assert lab.held_addresses() == [(await cri.pod_status(pod)).network.ip]
    await cri.remove_pod(pod)
    await lab.as_before(shared_cribd, before)


async def test_a_plugin_that_hangs_in_del_is_killed_and_asked_again(hasty_lab: CniLab, hasty: Cri) -> None:
    pod = await hasty.run_pod("slow")
    hasty_lab.fail("first", "DEL", "1*hang")
    with pytest.raises(ClientError, match=rf"first DEL.*{IMPATIENT:g} s"):
        await hasty.stop_pod(pod)
    await until(lambda: not hasty_lab.processes())
    await hasty.stop_pod(pod)
    assert hasty_lab.held_addresses() == []


async def test_a_plugin_that_was_taken_away_is_missed_at_add_and_at_del_and_put_back_works(
    lab: CniLab, cri: Cri, shared_cribd: LabCribd
) -> None:
    before = lab.traces(shared_cribd)
    pod = await cri.run_pod("made")
    plugin, aside = lab.plugins / "second", lab.plugins / "aside"
    plugin.rename(aside)
    try:
        with pytest.raises(ClientError, match=rf"plugin second.*{re.escape(str(lab.plugins))}"):
            await cri.stop_pod(pod)
        config = cri.pod_config("late")
        assert re.search("plugin second", await failing_run(cri, config))
    finally:
        aside.rename(plugin)
    await cri.remove_pod(pod)
    await cri.remove_pod(await run(cri, config))
    await lab.as_before(shared_cribd, before)


@pytest.mark.parametrize("gone", [False, True])
async def test_del_goes_by_the_configuration_that_add_had(lab: CniLab, cri: Cri, *, gone: bool) -> None:
    pod = await cri.run_pod("old")
    address = (await cri.pod_status(pod)).network.ip
    if gone:
        (lab.confs / "10-test.conflist").unlink()
    else:
        lab.write(*failing_bridge(lab, "10.99.0.0/24", bridge="br1"), name="other")
        other = await cri.run_pod("new")
        assert (await cri.pod_status(other)).network.ip.startswith("10.99.0.")
        await cri.remove_pod(other)
        lab.host.ip("link delete br1")  # it is the plugins' to keep
    assert lab.held_addresses() == [address]
    await cri.remove_pod(pod)
    assert lab.held_addresses() == []
    last = lab.calls("DEL", "first")[-1]
    assert (last["id"], last["config"]["name"]) == (pod.id, "test-net")
    assert last["config"]["prevResult"]["ips"]


@pytest.mark.parametrize(
    ("command", "failpoint", "told"),
    [
        ("STATUS", "error(50, the bridge is burning, twice)", "the bridge is burning"),
        ("STATUS", "silent(3)", "second"),
        ("VERSION", f"error({WORDS})", "second"),
        ("VERSION", "garbage", "second"),
        ("VERSION", "version(9.9.9)", "second speaks 9.9.9"),
    ],
)
async def test_a_network_whose_plugin_says_so_is_not_ready_until_it_does_not(
    lab: CniLab, cri: Cri, command: str, failpoint: str, told: str
) -> None:
    await not_ready(lab, cri, command, failpoint, told)


@pytest.mark.nightly
async def test_a_network_whose_plugin_hangs_in_status_is_not_ready(hasty_lab: CniLab, hasty: Cri) -> None:
    await not_ready(hasty_lab, hasty, "STATUS", "1*hang", f"{IMPATIENT:g} s")


async def not_ready(lab: CniLab, cri: Cri, command: str, failpoint: str, told: str) -> None:
    """It is ready, is not while the second plugin fails in that way, and is again."""
    plugins = failing_bridge(lab)
    lab.write(*plugins, cniVersion="1.1.0")
    (lab.plugins / "second").touch()  # another file to those who remember its answers

    assert (await network_ready(cri)).status
    (lab.plugins / "second").touch()
    failing = lab.fail("second", command, failpoint)
    await until(lambda: _is_ready(cri, False))
    found = await network_ready(cri)
    assert found.reason == "NetworkPluginNotReady"
    assert told in found.message
    failing.unlink()
    (lab.plugins / "second").touch()
    await until(lambda: _is_ready(cri, True))


async def _is_ready(cri: Cri, wanted: bool) -> bool:
    return (await network_ready(cri)).status is wanted


async def test_check_tells_what_a_plugin_says_and_what_the_kernel_lacks(lab: CniLab, cri: Cri) -> None:
    pod = await cri.run_pod("checked")

    async def problem() -> str:
        found = (await check(cri, pod))[pod.id]
        assert found.pod == "stories/checked"
        return str(found.problem)

    assert await problem() == ""
    lab.fail("third", "CHECK", f"1*error({WORDS})")
    assert re.search(r"third CHECK.*no luck today", await problem())
    assert await problem() == ""
    lab.host.run("nsenter", f"--net={pod_namespace(cri.cribd, pod)}", "ip", "address", "flush", "dev", "eth0")
    assert re.search(r"eth0.*10\.88\.0\.", await problem())


@pytest.mark.nightly
async def test_a_check_that_hangs_is_told_and_its_plugin_killed(hasty_lab: CniLab, hasty: Cri) -> None:
    pod = await hasty.run_pod("checked")
    hasty_lab.fail("third", "CHECK", "1*hang")
    assert re.search(rf"third CHECK.*{IMPATIENT:g} s", (await check(hasty, pod))[pod.id].problem)
    await until(lambda: not hasty_lab.processes())
    assert (await check(hasty, pod))[pod.id].problem == ""


async def test_garbage_is_collected_by_the_others_where_one_plugin_fails(lab: CniLab, cri: Cri) -> None:
    lab.write(*failing_bridge(lab), cniVersion="1.1.0")
    pod = await cri.run_pod("valid")
    lab.fail("second", "GC", f"error({WORDS})")
    request = node_pb2.CollectNetworkGarbageRequest()
    await cri.call(cri.node.CollectNetworkGarbage, request)
    for place in ("first", "second", "third"):
        valid = lab.calls("GC", place)[-1]["config"]["cni.dev/valid-attachments"]
        assert valid == [{"containerID": pod.id, "ifname": "eth0"}]
    assert lab.held_addresses() == [(await cri.pod_status(pod)).network.ip]


async def test_garbage_is_not_collected_of_a_pod_that_is_just_starting(lab: CniLab, cri: Cri) -> None:
    lab.write(*failing_bridge(lab), cniVersion="1.1.0")
    config = cri.pod_config("starting")
    gate = lab.fail("second", "ADD", "gate")
    lab.forget_calls()
    starting = asyncio.ensure_future(run(cri, config))
    await lab.hangs("second", "ADD")
    (address,) = lab.held_addresses()
    request = node_pb2.CollectNetworkGarbageRequest(everything=True)
    collecting = asyncio.ensure_future(cri.call(cri.node.CollectNetworkGarbage, request))
    late = asyncio.ensure_future(cri.run_pod("late"))
    await asyncio.sleep(0.2)  # under way: it waits for the ADD, and the late pod's for it
    gate.unlink()
    pod, other, reply = await starting, await late, await collecting
    assert list(reply.released) == []
    addresses = [(await cri.pod_status(each)).network.ip for each in (pod, other)]
    assert addresses[0] == address
    assert lab.held_addresses() == sorted(addresses)
    order = [(call["command"], call["plugin"], call["id"]) for call in lab.all_calls()]
    assert order.index(("ADD", "third", pod.id)) < order.index(("GC", "first", ""))
    valid = {each["containerID"] for each in lab.calls("GC")[-1]["config"]["cni.dev/valid-attachments"]}
    assert pod.id in valid


async def test_of_many_pods_at_once_those_that_a_plugin_fails_take_nothing_from_the_others(
    lab: CniLab, cri: Cri, shared_cribd: LabCribd
) -> None:
    before = lab.traces(shared_cribd)
    configs = [cri.pod_config(f"pod{number}") for number in range(8)]
    lab.fail("third", "ADD", f"3*error({WORDS})")
    ended = await asyncio.gather(*(run(cri, config) for config in configs), return_exceptions=True)
    pods = [each for each in ended if isinstance(each, Pod)]
    errors = [str(each) for each in ended if isinstance(each, BaseException)]
    assert len(pods) == 5
    assert all("no luck today" in error for error in errors)
    addresses = [(await cri.pod_status(pod)).network.ip for pod in pods]
    assert lab.held_addresses() == sorted(addresses)
    assert all(not found.problem for found in (await check(cri)).values())
    lab.fail("first", "DEL", f"2*error({WORDS})")
    stopped = await asyncio.gather(*(cri.remove_pod(pod) for pod in pods), return_exceptions=True)
    assert len([each for each in stopped if isinstance(each, ClientError)]) == 2
    await asyncio.gather(*(cri.remove_pod(sandbox) for sandbox in await cri.sandboxes()))
    await lab.as_before(shared_cribd, before)


# From here on the daemon is killed.


async def removed(lab: CniLab, cribd: LabCribd, before: Traces) -> None:
    """After a start: every pod goes, and then all is as before."""
    async with cribd.connect() as cri:
        for sandbox in await cri.sandboxes():
            await cri.remove_pod(sandbox)
    await lab.as_before(cribd, before)


async def test_kill_9_between_a_failed_add_and_its_retry(own_lab: CniLab, own_cribd: LabCribd) -> None:
    before = own_lab.traces(own_cribd)
    async with own_cribd.connect() as cri:
        config = cri.pod_config("unlucky")
        own_lab.fail("third", "ADD", f"1*error({WORDS})")
        own_lab.fail("first", "DEL", "1*error(5, cannot let go, yet)")
        await failing_run(cri, config)
    own_cribd.kill()
    assert len(own_lab.held_addresses()) == 1
    own_cribd.start()
    async with own_cribd.connect() as cri:
        pod = await run(cri, config)
        assert own_lab.held_addresses() == [(await cri.pod_status(pod)).network.ip]
    await removed(own_lab, own_cribd, before)


@pytest.mark.parametrize("failpoint", ["gate", pytest.param("1*hang", marks=pytest.mark.nightly)])
async def test_kill_9_while_an_add_hangs_and_the_plugin_comes_back_afterwards(
    own_lab: CniLab, own_cribd: LabCribd, failpoint: str
) -> None:
    before = own_lab.traces(own_cribd)
    async with own_cribd.connect() as cri:
        config = cri.pod_config("cut")
        waiting = own_lab.fail("second", "ADD", failpoint)
        call = asyncio.ensure_future(_code(run(cri, config)))
        await own_lab.hangs("second", "ADD")
        own_cribd.kill()
        assert await call == "UNAVAILABLE"
    own_cribd.start()
    await own_lab.as_before(own_cribd, before)  # the row that was CREATING is torn down at the start
    waiting.unlink()
    if "hang" in failpoint:
        own_lab.kill_processes()
    await until(lambda: not own_lab.processes())
    await own_lab.as_before(own_cribd, before)
    async with own_cribd.connect() as cri:
        await run(cri, config)
    await removed(own_lab, own_cribd, before)


async def test_kill_9_during_a_slow_del_and_the_next_daemon_does_it_again(
    own_lab: CniLab, own_cribd: LabCribd
) -> None:
    before = own_lab.traces(own_cribd)
    async with own_cribd.connect() as cri:
        pod = await cri.run_pod("slow")
        waiting = own_lab.fail("first", "DEL", "1*gate")
        call = asyncio.ensure_future(_code(cri.stop_pod(pod)))
        await own_lab.hangs("first", "DEL")
        own_cribd.kill()
        assert await call == "UNAVAILABLE"
    assert len(own_lab.held_addresses()) == 1
    own_cribd.start()
    assert own_lab.held_addresses() == []
    async with own_cribd.connect() as cri:
        assert (await cri.pod_status(pod)).state == pb.SANDBOX_NOTREADY
        other = await cri.run_pod("other")
        waiting.unlink()  # the old DEL comes to its end now, and takes nothing of the other pod
        await until(lambda: not own_lab.processes())
        assert own_lab.held_addresses() == [(await cri.pod_status(other)).network.ip]
    await removed(own_lab, own_cribd, before)


async def test_a_del_that_fails_at_the_start_is_tried_again_by_stop(
    own_lab: CniLab, own_cribd: LabCribd
) -> None:
    before = own_lab.traces(own_cribd)
    async with own_cribd.connect() as cri:
        pod = await cri.run_pod("sticky")
        own_lab.fail("first", "DEL", f"3*error({WORDS})")
        assert "no luck today" in await _words(cri.stop_pod(pod))
    own_cribd.kill()
    own_cribd.start()
    async with own_cribd.connect() as cri:
        status = await cri.pod_status(pod)
        assert status.state == pb.SANDBOX_NOTREADY
        assert len(own_lab.held_addresses()) == 1
        assert "no luck today" in await _words(cri.stop_pod(pod))
        await cri.stop_pod(pod)
        assert own_lab.held_addresses() == []
    await removed(own_lab, own_cribd, before)


@pytest.mark.nightly
async def test_a_del_that_hangs_at_the_start_does_not_hold_up_the_daemon(
    own_lab: CniLab, own_cribd: LabCribd
) -> None:
    before = own_lab.traces(own_cribd)
    async with own_cribd.connect() as cri:
        fine, stuck = await cri.run_pod("fine"), await cri.run_pod("stuck")
        own_lab.fail("third", "DEL", f"1*error({WORDS})")
        assert "no luck today" in await _words(cri.stop_pod(stuck))
    own_cribd.kill()
    waiting = own_lab.fail("first", "DEL", "1*hang")
    own_cribd.start()  # within its bound
    async with own_cribd.connect() as cri:
        assert (await cri.pod_status(fine)).state == pb.SANDBOX_READY
        assert (await cri.pod_status(stuck)).state == pb.SANDBOX_NOTREADY
        await until(lambda: not own_lab.processes())
        waiting.unlink()
        await cri.remove_pod(stuck)
    await removed(own_lab, own_cribd, before)


@pytest.mark.nightly
async def test_an_end_of_cribd_while_an_add_hangs_ends_the_plugin_too(
    own_lab: CniLab, own_cribd: LabCribd
) -> None:
    before = own_lab.traces(own_cribd)
    async with own_cribd.connect() as cri:
        own_lab.fail("second", "ADD", "1*hang")
        call = asyncio.ensure_future(_code(cri.run_pod("slow")))
        await own_lab.hangs("second", "ADD")
        await asyncio.to_thread(own_cribd.stop)
        assert await call == "UNAVAILABLE"
    assert own_lab.processes() == []
    own_cribd.start()
    await removed(own_lab, own_cribd, before)


async def _code(call: object) -> str:
    try:
        await call  # type: ignore[misc]
    except ClientError as error:
        return error.code
    return ""


async def _words(call: object) -> str:
    try:
        await call  # type: ignore[misc]
    except ClientError as error:
        return str(error)
    return ""
