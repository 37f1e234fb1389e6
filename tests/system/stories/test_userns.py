"""Pods with user namespaces of their own, on real runtimes: whose files are whose, inside and on the node."""

from __future__ import annotations

import os
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from crib.client import pods
from crib.client.errors import ClientError
from crib.client.pods import Pod
from crib.host.mount_table import mounts_below
from crib.stubs.runtime.v1 import api_pb2 as pb
from tests.images import busybox_image
from tests.system.labs.daemon import IMAGE, Cri, Cribd, log_contents, page, running_cribd, until

pytestmark = [pytest.mark.root, pytest.mark.system]

UID, GID, LENGTH = 1_000_000, 2_000_000, 65536
UIDS = [pb.IDMapping(host_id=UID, container_id=0, length=LENGTH)]
GIDS = [pb.IDMapping(host_id=GID, container_id=0, length=LENGTH)]
USERNS = pb.UserNamespace(mode=pb.POD, uids=UIDS, gids=GIDS)
SLEEP = ("sleep", "600")


def options(**fields: object) -> pb.NamespaceOption:
    fields.setdefault("pid", pb.CONTAINER)
    return pb.NamespaceOption(userns_options=USERNS, **fields)  # type: ignore[arg-type]  # protobuf's own types


@pytest.fixture(scope="module")
def cribd() -> Iterator[Cribd]:
    with running_cribd(extra="[handlers.crun]\n[handlers.runc]\n") as daemon:
        yield daemon


@pytest.fixture
async def cri(cribd: Cribd) -> AsyncIterator[Cri]:
    async with cribd.story() as connection:
        yield connection


@pytest.fixture(params=["crun", "runc"])
def handler(request: pytest.FixtureRequest) -> str:
    return str(request.param)


async def run_pod(
    cri: Cri, handler: str = "", *, namespaces: pb.NamespaceOption | None = None, **fields: object
) -> Pod:
    config = cri.pod_config("users", namespaces=namespaces or options(), **fields)
    return await pods.run_sandbox(cri.connection, config, handler)


async def run_box(cri: Cri, pod: Pod, *command: str, **fields: object) -> str:
    fields.setdefault("namespaces", options())
    return await cri.run_container(pod, *(command or SLEEP), **fields)


def pid_of(cri: Cri, container: str) -> int:
    return int((cri.cribd.state / "containers" / container / "pidfile").read_text())


def runs(pid: int, program: str) -> bool:
    """Whether it is that program: a runtime's start is over before its own process has become that."""
    return program.encode() in Path(f"/proc/{pid}/cmdline").read_bytes()


async def test_status_says_which_handlers_can_do_it(cri: Cri) -> None:
    reply = await cri.call(cri.runtime.Status, pb.StatusRequest())
    assert {found.name: found.features.user_namespaces for found in reply.runtime_handlers} == {
        "": True,
        "crun": True,
        "runc": True,
    }
    assert reply.features.user_namespaces_host_network


async def test_root_of_the_pod_is_nobody_on_the_node(cri: Cri, handler: str) -> None:
    pod = await run_pod(cri, handler)
    box = await run_box(cri, pod, working_dir="/made/here")
    assert (await cri.sh(box, "cat /proc/self/uid_map")).split() == ["0", str(UID), str(LENGTH)]
    assert (await cri.sh(box, "cat /proc/self/gid_map")).split() == ["0", str(GID), str(LENGTH)]
    assert await cri.sh(box, "id -u; id -g; hostname") == "0\n0\nusers"
    status = Path(f"/proc/{pid_of(cri, box)}/status").read_text()
    assert f"Uid:\t{UID}\t{UID}\t{UID}\t{UID}\n" in status
    owned = "stat -c %u:%g / /bin/busybox /made /made/here /etc/hosts /etc/hostname /etc/resolv.conf /dev/shm"
    assert set((await cri.sh(box, owned)).split()) == {"0:0"}
    # What it writes is its own, on the node too, and set-uid root means the pod's root.
    await cri.sh(
        box, "cp /bin/busybox /sbin-su; chmod 4755 /sbin-su; echo x >/dev/shm/x; echo 1 >>/etc/hosts"
    )
    made = os.stat(cri.cribd.data / "containers" / box / "upper" / "sbin-su")
    assert (made.st_uid, made.st_gid, made.st_mode & 0o7777) == (UID, GID, 0o4755)
    # The ways there are open to it alone.
    ways = (cri.cribd.state / "containers" / box, cri.cribd.state / "sandboxes" / pod.id)
    assert [(way.stat().st_mode & 0o7777, way.stat().st_gid) for way in ways] == [(0o710, GID)] * 2
    assert (ways[0] / "config.json").stat().st_mode & 0o777 == 0o600
    plain = await cri.run_pod("plain")
    box = await cri.run_container(plain, *SLEEP)
    ways = (cri.cribd.state / "containers" / box, cri.cribd.state / "sandboxes" / plain.id)
    assert [way.stat().st_mode & 0o7777 for way in ways] == [0o700] * 2
    shown = await cri.pod_status(pod)
    assert shown.linux.namespaces.options.userns_options == USERNS


async def test_all_namespaces_of_the_pod_belong_to_its_users(cri: Cri, handler: str) -> None:
    sysctls = {
        "net.ipv4.ip_unprivileged_port_start": "7",
        "net.ipv4.ping_group_range": "0 2147483647",
        "kernel.shmmni": "100",
    }
    pod = await run_pod(cri, handler, sysctls=sysctls)
    box = await run_box(cri, pod)
    first = pid_of(cri, box)
    pins = cri.cribd.state / "sandboxes" / pod.id / "ns"
    for kind in ("user", "net", "ipc", "uts"):
        assert os.stat(pins / kind).st_ino == os.stat(f"/proc/{first}/ns/{kind}").st_ino
    assert (
        await cri.sh(
            box,
            "cd /proc/sys; cat net/ipv4/ip_unprivileged_port_start net/ipv4/ping_group_range kernel/shmmni",
        )
        == f"7\n0\t{LENGTH - 1}\n100"
    )
    # Rights over the network are the pod's own: without that bit of the bounding set it has none.
    assert "eth0" in await cri.sh(box, "ls /sys/class/net")
    assert (await cri.execute(box, "hostname", "other")).code != 0


async def test_volumes_are_shifted_and_others_are_not(cri: Cri, handler: str, tmp_path: Path) -> None:
    os.chmod(tmp_path, 0o700)  # nobody but the node's root finds the way here by himself
    volume, secret = tmp_path / "volume", tmp_path / "secret"
    (volume / "deep").mkdir(parents=True)
    (volume / "root").write_text("of root")
    os.chown(volume, 0, 0)
    secret.mkdir()
    (secret / "key").write_text("key")
    os.chmod(secret / "key", 0o600)
    mapped: dict[str, Any] = {"uidMappings": UIDS, "gidMappings": GIDS}
    pod = await run_pod(cri, handler)
    box = await run_box(
        cri,
        pod,
        mounts=[
            pb.Mount(container_path="/volume", host_path=str(volume), **mapped),
            pb.Mount(container_path="/file", host_path=str(volume / "root"), readonly=True, **mapped),
            pb.Mount(container_path="/secret", host_path=str(secret)),
        ],
    )
    assert not [mount for mount in mounts_below(str(cri.cribd.state)) if "/shifted/" in mount.path]
    assert await cri.sh(box, "stat -c %u:%g /volume /volume/root /volume/deep /file") == "\n".join(
        ["0:0"] * 4
    )
    await cri.sh(box, "echo new >/volume/deep/new; chown 1000:1001 /volume/deep/new; cat /file")
    assert (await cri.execute(box, "sh", "-c", "echo x > /file")).code != 0
    made = os.stat(volume / "deep" / "new")
    assert (made.st_uid, made.st_gid) == (1000, 1001)
    # What was not shifted is nobody's, and its rights are those of others.
    assert await cri.sh(box, "stat -c %u:%g /secret/key") == "65534:65534"
    assert (await cri.execute(box, "cat", "/secret/key")).code != 0
    assert (await cri.execute(box, "touch", "/secret/x")).code != 0
    await cri.remove_container(box)
    assert sorted(os.listdir(volume)) == ["deep", "root"]


async def test_removing_a_container_leaves_what_is_mounted_in_its_volume(cri: Cri, tmp_path: Path) -> None:
    from crib.host.mounts import Tmpfs, perform, set_propagation, unmount_tree

    perform(Tmpfs(str(tmp_path), 1 << 20))
    try:
        set_propagation(str(tmp_path), "shared")
        inner = tmp_path / "inner"
        inner.mkdir()
        perform(Tmpfs(str(inner), 1 << 20))
        (inner / "kept").write_text("")
        pod = await run_pod(cri)
        mount = pb.Mount(
            container_path="/volume",
            host_path=str(tmp_path),
            uidMappings=UIDS,
            gidMappings=GIDS,
            propagation=pb.PROPAGATION_HOST_TO_CONTAINER,
        )
        box = await run_box(cri, pod, mounts=[mount])
        assert await cri.sh(box, "ls /volume/inner; stat -c %u /volume/inner/kept") == "kept\n0"
        await cri.remove_container(box)
        assert os.listdir(inner) == ["kept"]
        assert len(mounts_below(str(tmp_path))) == 2
    finally:
        unmount_tree(str(tmp_path))


async def test_containers_of_a_pod_share_pids_with_their_users(cri: Cri, handler: str) -> None:
    shared = options(pid=pb.POD)
    pod = await run_pod(cri, handler, namespaces=shared)
    one = await run_box(cri, pod, name="one", namespaces=shared)
    two = await run_box(cri, pod, name="two", namespaces=shared)

    async def commands() -> str:
        return await cri.sh(two, "cat /proc/[0-9]*/cmdline | tr '\\0' ' '")

    assert "catatonit" in await commands()
    await until(lambda: all(runs(pid_of(cri, each), "sleep") for each in (one, two)))
    assert (await commands()).count("sleep") == 2
    target = options(pid=pb.TARGET, target_id=one)
    three = await run_box(cri, pod, name="three", namespaces=target)
    assert "catatonit" in await cri.sh(three, "cat /proc/1/cmdline")


async def test_the_nodes_network_goes_with_users_of_the_pods_own(cri: Cri, handler: str) -> None:
    host = options(network=pb.NODE)
    pod = await run_pod(cri, handler, namespaces=host)
    box = await run_box(cri, pod, namespaces=host)
    assert os.readlink(f"/proc/{pid_of(cri, box)}/ns/net") == os.readlink("/proc/self/ns/net")
    assert (await cri.sh(box, "cat /proc/self/uid_map")).split() == ["0", str(UID), str(LENGTH)]
    assert cri.cribd.bridge in await cri.sh(box, "ls /sys/class/net")
    for forbidden in ("echo 1 > /proc/sys/net/ipv4/ip_forward", "echo x > /sys/kernel/mm/ksm/run"):
        assert (await cri.execute(box, "sh", "-c", forbidden)).code != 0


async def test_the_pod_is_reached_and_logs_as_any_other(cri: Cri, handler: str) -> None:
    pod = await run_pod(cri, handler, log_directory=str(cri.cribd.logs / handler))
    box = await run_box(cri, pod, "sh", "-c", "echo told; hostname >/hostname; exec httpd -f -p 8080 -h /")
    address = (await cri.pod_status(pod)).network.ip
    assert await until(lambda: page(address, 8080)) == "users"
    log = cri.cribd.logs / handler / "box.log"
    assert await until(lambda: log_contents(log)["stdout"]) == b"told\n"
    stats = await cri.call(cri.runtime.ContainerStats, pb.ContainerStatsRequest(container_id=box))
    assert stats.stats.memory.working_set_bytes.value > 0


async def test_a_terminal_belongs_to_the_pods_root(cri: Cri, handler: str) -> None:
    pod = await run_pod(cri, handler, log_directory=str(cri.cribd.logs / f"tty-{handler}"))
    box = await run_box(cri, pod, "sh", "-c", "test -t 1 && stat -c %u /dev/console", tty=True)
    assert (await cri.exited(box)).exit_code == 0
    log = cri.cribd.logs / f"tty-{handler}" / "box.log"
    assert log_contents(log)["stdout"].strip() == b"0"


async def test_a_privileged_container_is_so_in_its_own_namespaces_only(cri: Cri, handler: str) -> None:
    wanted = cri.pod_config("users", namespaces=options())
    wanted.linux.security_context.privileged = True
    pod = await pods.run_sandbox(cri.connection, wanted, handler)
    config = cri.container_config(*SLEEP, namespaces=options())
    config.linux.security_context.privileged = True
    box = await pods.create_container(cri.connection, pod, config)
    await cri.start(box)
    await cri.sh(
        box, "hostname other; ip link set lo down; mount -t tmpfs none /mnt 2>/dev/null || mkdir /mnt"
    )
    for forbidden in (
        "echo 1 > /proc/sys/kernel/sysrq",
        "mknod /tmp/null c 1 3",
        "dd if=/dev/mem of=/dev/null bs=1 count=1",
        "echo x > /sys/kernel/mm/ksm/run",
    ):
        assert (await cri.execute(box, "sh", "-c", forbidden)).code != 0, forbidden


async def test_what_would_not_hold_is_refused_and_nothing_is_made(cri: Cri) -> None:
    for wrong in (
        pb.UserNamespace(mode=pb.POD, uids=UIDS * 2, gids=GIDS),
        pb.UserNamespace(
            mode=pb.POD, uids=[pb.IDMapping(host_id=1, container_id=1, length=LENGTH)], gids=GIDS
        ),
        pb.UserNamespace(mode=pb.POD, uids=[pb.IDMapping(host_id=UID, length=1000)], gids=GIDS),
        pb.UserNamespace(mode=pb.POD, uids=[pb.IDMapping(host_id=0, length=LENGTH)], gids=GIDS),
        pb.UserNamespace(mode=pb.POD, uids=UIDS, gids=[pb.IDMapping(host_id=999, length=LENGTH)]),
        pb.UserNamespace(mode=pb.CONTAINER),
        pb.UserNamespace(mode=pb.TARGET),
    ):
        with pytest.raises(ClientError, match="userns_options"):
            await cri.run_pod("wrong", namespaces=pb.NamespaceOption(userns_options=wrong))
    for kind in ("pid", "ipc"):
        with pytest.raises(ClientError, match=f"namespace_options.{kind}"):
            await cri.run_pod("wrong", namespaces=options(**{kind: pb.NODE}))
    pod = await run_pod(cri)
    other = pb.UserNamespace(mode=pb.POD, uids=GIDS, gids=GIDS)
    with pytest.raises(ClientError, match="userns_options"):
        await run_box(cri, pod, namespaces=pb.NamespaceOption(pid=pb.CONTAINER, userns_options=other))
    with pytest.raises(ClientError, match=rf"userns_options.uids\[0\].host_id.*\({pod.id}"):
        await cri.run_pod("wrong", namespaces=options())
    mount = pb.Mount(container_path="/v", host_path="/etc/hostname", uidMappings=GIDS, gidMappings=GIDS)
    with pytest.raises(ClientError, match="uidMappings"):
        await run_box(cri, pod, mounts=[mount])
    assert await cri.containers() == {}


@pytest.fixture
def mortal() -> Iterator[Cribd]:
    """For the story that kills it."""
    with running_cribd() as daemon:
        yield daemon


async def test_pods_with_users_of_their_own_outlive_the_daemon(mortal: Cribd) -> None:
    async with mortal.story() as cri:
        pod = await run_pod(cri)
        box = await run_box(cri, pod)
        mortal.kill()
        mortal.start()
        async with mortal.connect() as again:
            assert (await again.pod_status(pod)).state == pb.SANDBOX_READY
            more = await run_box(again, pod, name="more")
            assert (await again.sh(more, "cat /proc/self/uid_map")).split() == ["0", str(UID), str(LENGTH)]
            assert await again.sh(box, "id -u") == "0"
            await again.remove_pod(pod)


@pytest.fixture
def not_executable() -> Iterator[Cribd]:
    """A daemon whose state lies on a file system that nothing can be run from."""
    daemon = Cribd(extra="[handlers.crun]\n[handlers.runc]\n")
    daemon.state.mkdir(mode=0o711)
    options = "mode=711,nosuid,nodev,noexec"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", daemon.state], check=True)
    try:
        daemon.start()
        daemon.import_images(busybox_image(name=IMAGE))
        yield daemon
        daemon.stop()
        daemon.wipe()
    finally:
        subprocess.run(["umount", daemon.state], check=True)
        daemon.end()


async def test_shared_pids_need_no_programs_to_run_from_the_state_directory(not_executable: Cribd) -> None:
    """Debian mounts /run noexec, which a user namespace cannot lift."""
    async with not_executable.connect() as cri:
        for handler in ("crun", "runc"):
            shared = options(pid=pb.POD)
            pod = await run_pod(cri, handler, namespaces=shared)
            box = await run_box(cri, pod, namespaces=shared)
            assert "catatonit" in await cri.sh(box, "cat /proc/1/comm")
            await cri.remove_pod(pod)
