"""What the node gives pods that ask for nothing else, looked at from inside of containers."""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from crib.client import pods
from crib.client.errors import ClientError
from crib.client.node import explain_container
from crib.client.pods import Pod
from crib.host.namespaces import enter
from crib.stubs.runtime.v1 import api_pb2 as pb
from tests.system.labs.daemon import Cri, Cribd, log_contents, running_cribd

pytestmark = [pytest.mark.root, pytest.mark.system]

USER = 1000
SLEEP = ("sleep", "600")
SETTINGS = """
[containers]
capabilities = ["CHOWN", "SETUID"]
devices = ["/dev/fuse::r"]
timezone = "Asia/Tokyo"
umask = "027"
shm_size = 33554432
seccomp_profile = "{profile}"

[containers.env]
PROXY = "node"
A = "node"

[containers.ulimits]
nofile = "2000:3000"
core = "0"

[containers.sysctls]
"net.core.somaxconn" = "123"
"kernel.msgmax" = "4321"

[[containers.mounts]]
source = "{files}"
destination = "/opt/node"

[[containers.mounts]]
source = "{files}"
destination = "/opt/mine"
read_only = false

[handlers.crun]
annotations = ["io.crib.*", "io.kubernetes.cri-o.*", "*.crio.io"]

[handlers.runc]

[handlers.small]
path = "crun"

[handlers.small.containers]
shm_size = 65536
capabilities = []
ulimits = {{ nofile = "100:200" }}
"""
# mkdir fails with ENOSPC, which nothing else would say
PROFILE = {
    "defaultAction": "SCMP_ACT_ALLOW",
    "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28}],
}
LOOK = """
umask; ulimit -Sn; ulimit -Hn; ulimit -c; date +%Z; echo $PROXY $A
grep CapBnd /proc/self/status; cat /proc/sys/net/core/somaxconn /proc/sys/kernel/msgmax
df -k /dev/shm | tail -n 1 | awk '{print $2}'
cat /opt/node/name; touch /opt/node/x 2>/dev/null || echo read-only; touch /opt/mine/x && echo written
(: < /dev/fuse) && echo opened; (: > /dev/fuse) 2>/dev/null || echo read-only
mkdir /tmp/new
"""


@pytest.fixture(scope="module")
def cribd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cribd]:
    place = tmp_path_factory.mktemp("node")
    (place / "files").mkdir()
    (place / "files" / "name").write_text("the node's\n")
    (place / "profile.json").write_text(json.dumps(PROFILE))
    text = SETTINGS.format(profile=place / "profile.json", files=place / "files")
    with running_cribd(extra=text) as daemon:
        yield daemon


@pytest.fixture
async def cri(cribd: Cribd) -> AsyncIterator[Cri]:
    async with cribd.story() as connection:
        yield connection


def may_ping(namespace: Path, group: int) -> bool:
    """Whether a user of that group alone gets a socket for pings there (icmp(7)); asked in a child."""
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            enter(str(namespace), "net")
            os.setgroups([])
            os.setgid(group)
            os.setuid(group)
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP).close()
            os._exit(0)
        os._exit(1)
    return os.waitpid(child, 0)[1] == 0


async def run_pod(cri: Cri, handler: str = "", **fields: object) -> Pod:
    return await pods.run_sandbox(cri.connection, cri.pod_config("plain", **fields), handler)


async def run_box(cri: Cri, pod: Pod, *, user: int = 0, seccomp: bool = False, **fields: Any) -> str:
    config = cri.container_config(*SLEEP, **fields)
    if user:
        config.linux.security_context.run_as_user.value = user
    if seccomp:
        config.linux.security_context.seccomp.profile_type = pb.SecurityProfile.RuntimeDefault
    box = await pods.create_container(cri.connection, pod, config)
    await cri.start(box)
    return box


@pytest.mark.parametrize("handler", ["crun", "runc"])
async def test_a_container_that_asks_for_nothing_has_what_the_node_gives(cri: Cri, handler: str) -> None:
    pod = await run_pod(cri, handler, log_directory=str(cri.cribd.logs / handler))
    looks = cri.container_config("sh", "-c", LOOK, envs=[pb.KeyValue(key="A", value=b"container")])
    looks.linux.security_context.seccomp.profile_type = pb.SecurityProfile.RuntimeDefault
    box = await pods.create_container(cri.connection, pod, looks)
    await cri.start(box)
    await cri.exited(box)
    said = log_contents(cri.cribd.logs / handler / "box.log")
    assert said["stdout"].decode().splitlines() == [
        *("0027", "2000", "3000", "0", "JST", "node container"),
        *(f"CapBnd:\t{1 << 0 | 1 << 7:016x}", "123", "4321", "32768"),
        *("the node's", "read-only", "written", "opened", "read-only"),
    ]
    assert "'/tmp/new': No space left" in said["stderr"].decode()
    unconfined = await run_box(cri, pod, name="unconfined")
    assert await cri.sh(unconfined, "mkdir /new && grep Umask /proc/1/status") == "Umask:\t0027"


async def test_what_a_pod_asks_for_wins_over_the_node(cri: Cri) -> None:
    asked = {"net/core/somaxconn": "77", "net.ipv4.ip_unprivileged_port_start": "1024"}
    annotations = {"io.crib.shm-size": "1Mi", "io.kubernetes.cri-o.umask": "0077"}
    pod = await run_pod(cri, sysctls=asked, annotations=annotations)
    mount = pb.Mount(host_path=str(cri.cribd.root), container_path="/opt/node", readonly=True)
    box = await run_box(cri, pod, mounts=[mount], envs=[pb.KeyValue(key="PROXY", value=b"")])
    assert (
        await cri.sh(box, "umask; df -k /dev/shm | tail -n 1 | awk '{print $2}'; echo $PROXY.")
        == "0077\n1024\n."
    )
    assert (
        await cri.sh(box, "cd /proc/sys/net; cat core/somaxconn ipv4/ip_unprivileged_port_start")
        == "77\n1024"
    )
    assert "config.toml" in await cri.sh(box, "ls /opt/node")
    own = await run_box(cri, pod, name="own", annotations={"io.crib.umask": "2"})
    assert await cri.sh(own, "umask") == "0002"


async def test_a_handlers_own_defaults_are_laid_over_the_nodes(cri: Cri) -> None:
    box = await run_box(cri, await run_pod(cri, "small"))
    said = await cri.sh(box, "ulimit -c; ulimit -Hn; df -k /dev/shm | tail -n 1 | awk '{print $2}'; umask")
    assert said.split() == ["0", "200", "64", "0027"]
    assert await cri.sh(box, "grep CapBnd /proc/self/status") == f"CapBnd:\t{0:016x}"


async def test_annotations_count_only_where_the_handler_lets_them_through(cri: Cri) -> None:
    annotations = {"io.crib.shm-size": "nonsense", "io.crib.umask": "nonsense"}
    box = await run_box(cri, await run_pod(cri, "small", annotations=annotations))
    assert await cri.sh(box, "umask") == "0027"


@pytest.mark.parametrize("size", ["", "-1", "0", "1", "1Ei", "1 Mi", "9" * 400, "2Ti"])
async def test_a_malformed_shm_size_is_refused_by_its_name(cri: Cri, size: str) -> None:
    with pytest.raises(ClientError, match=r"config\.annotations\[io\.kubernetes\.cri-o\.ShmSize\]"):
        await run_pod(cri, annotations={"io.kubernetes.cri-o.ShmSize": size})


@pytest.mark.parametrize(
    "name", ["seccomp-notifier-action.crio.io", "io.kubernetes.cri-o.seccompNotifierAction"]
)
async def test_a_pod_that_relies_on_being_stopped_for_its_system_calls_is_refused(
    cri: Cri, name: str
) -> None:
    with pytest.raises(ClientError, match=rf"config\.annotations\[{name}\].*SCMP_ACT_KILL_PROCESS"):
        await run_pod(cri, annotations={name: "stop"})
    await run_pod(cri, "small", annotations={name: "stop"})  # it is not let through: nobody relies on it


async def test_a_malformed_umask_is_refused_by_its_name(cri: Cri) -> None:
    pod = await run_pod(cri, annotations={"io.crib.umask": "8"})
    with pytest.raises(
        ClientError, match=r"sandbox_config\.annotations\[io\.crib\.umask\].*'8' is not a umask"
    ):
        await cri.create(pod, *SLEEP)
    with pytest.raises(ClientError, match=r"config\.annotations\[io\.crib\.umask\].*'01777' is not a umask"):
        await cri.create(pod, *SLEEP, annotations={"io.crib.umask": "01777"})


async def test_explain_tells_what_is_the_nodes(cri: Cri) -> None:
    box = await run_box(cri, await run_pod(cri))
    told = await explain_container(cri.connection, box)
    assert told.origins["/process/user/umask"] == "setting containers.umask"
    assert "setting containers.timezone" in told.origins.values()
    assert "setting containers.devices" in told.origins.values()


@pytest.mark.parametrize("handler", ["crun", "runc"])
@pytest.mark.parametrize("own_users", [False, True])
async def test_any_user_of_a_pod_serves_low_ports_and_pings(cri: Cri, handler: str, own_users: bool) -> None:
    ids = [pb.IDMapping(host_id=1_000_000, container_id=0, length=65536)]
    userns = pb.UserNamespace(mode=pb.POD, uids=ids, gids=ids) if own_users else None
    options = pb.NamespaceOption(pid=pb.CONTAINER, userns_options=userns)
    pod = await run_pod(cri, handler, namespaces=options)
    box = await run_box(cri, pod, user=USER, namespaces=options)
    # The server writes without reading: an nc that sees the client's end first leaves its input unread.
    ask = "until nc 127.0.0.1 80 </dev/null 2>/dev/null; do kill -0 $! || exit 1; done"
    assert "answer" in await cri.sh(box, f"nc -l -p 80 -e echo answer & {ask}", timeout=20)
    group = ids[0].host_id + USER if own_users else USER
    assert may_ping(cri.cribd.state / "sandboxes" / pod.id / "ns" / "net", group)


async def test_a_pod_on_the_hosts_network_leaves_the_hosts_ports_alone(cri: Cri) -> None:
    places = [Path(f"/proc/sys/net/{name}") for name in ("ipv4/ip_unprivileged_port_start", "core/somaxconn")]
    before = [place.read_text() for place in places]
    pod = await run_pod(cri, namespaces=pb.NamespaceOption(network=pb.NODE, pid=pb.CONTAINER), hostname="")
    assert [place.read_text() for place in places] == before
    await cri.remove_pod(pod)
