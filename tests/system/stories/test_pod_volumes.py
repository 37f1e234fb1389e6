"""Volumes of pods without a kubelet, on a real daemon: whose data they keep, who may use them, and when they go."""

# ruff: noqa: E501  # a manifest's lines

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from crib.client import Client, lookup, volumes
from crib.client.errors import ClientError, WrongState
from crib.client.workloads import keeping
from crib.stubs.node.v1.node_pb2 import Volume, VolumeSpec
from tests.system.labs.daemon import IMAGE, Cribd, crib, running_cribd
from tests.system.labs.databases import (
    POSTGRES,
    POSTGRES_UID,
    SQLITE,
    postgres_directory,
    postgres_image,
    sqlite_image,
)
from tests.system.labs.power_cuts import power_cut

pytestmark = [pytest.mark.root, pytest.mark.system]

SLEEP = '[sleep, "1000"]'


def pod(name: str, volume: str, mount: str = "mountPath: /data", image: str = IMAGE, spec: str = "") -> str:
    """A pod with one volume; with `mount` as a device where it has a devicePath."""
    field = "volumeDevices" if "devicePath" in mount else "volumeMounts"
    return f"""
apiVersion: v1
kind: Pod
metadata: {{name: {name}}}
spec:
  terminationGracePeriodSeconds: 0
  {spec}
  containers:
  - {{name: app, image: "{image}", command: {SLEEP}, {field}: [{{name: v, {mount}}}]}}
  volumes: [{{name: v, {volume}}}]
"""


def claim(name: str, spec: str = "") -> str:
    return f"---\napiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {{name: {name}}}\nspec: {{{spec}}}\n"


def claimed(name: str) -> str:
    return f"persistentVolumeClaim: {{claimName: {name}}}"


@pytest.fixture(scope="module")
def cribd() -> Iterator[Cribd]:
    with running_cribd() as daemon:
        yield daemon


@contextlib.asynccontextmanager
async def cleared(cribd: Cribd, pods: Path) -> AsyncIterator[Client]:
    """A client; at the end no pod and no volume is left."""
    async with Client(str(cribd.socket), pods_dir=str(pods)) as client:
        try:
            yield client
        finally:
            for one in await lookup.pods(client.connection):
                await client.remove_pod(one.id)
            for volume in await listed(client):
                await volumes.remove(client.connection, volume.id)
            async for snapshot in volumes.list_snapshots(client.connection):
                await volumes.remove_snapshot(client.connection, snapshot.id)


@pytest.fixture
async def client(cribd: Cribd, tmp_path: Path) -> AsyncIterator[Client]:
    async with cribd.story(), cleared(cribd, tmp_path / "pods") as client:
        yield client


async def listed(client: Client) -> list[Volume]:
    return [one async for one in volumes.list_volumes(client.connection)]


async def said(client: Client, pod: str, *command: str) -> str:
    done = await client.exec(pod, command)
    assert done.code == 0, done.err
    return done.out.decode() if isinstance(done.out, bytes) else done.out


async def sql(client: Client, pod: str, statement: str) -> str:
    return await said(client, pod, "/usr/bin/sqlite3", "/data/shop.db", statement)


COUNT = "select count(*), sum(price) from orders"
SHOP = pod("shop", claimed("orders"), image=SQLITE) + claim("orders", "accessModes: [ReadWriteOnce]")


async def test_a_databases_data_outlives_its_pod_a_kill_and_a_reboot_and_moves_to_another_crib(
    tmp_path: Path,
) -> None:
    archive = f"{tmp_path}/orders.tar"
    with running_cribd(built=[sqlite_image()], warm=False) as cribd:
        async with cleared(cribd, tmp_path / "pods") as client:
            await client.run_manifest(SHOP, restart=True)
            await sql(client, "shop", "create table orders (price int); insert into orders values (3), (4)")
            cribd.kill()
            cribd.start()
            assert await sql(client, "shop", COUNT) == "2|7\n", "the pod has run on"
            await client.remove_pod("shop")
            await client.run_manifest(SHOP, restart=True)
            assert await sql(client, "shop", COUNT) == "2|7\n", "the pod is another one"
            await sql(client, "shop", "insert into orders values (5)")
            power_cut(cribd)
            cribd.start()
            (kept,) = await keeping.all_kept(client.connection)
            await keeping.follow(client.connection, kept.uid, keeping.is_up)
            assert await sql(client, "shop", COUNT) == "3|12\n", "the boot is another one"
            await client.remove_pod("shop")
            await volumes.export(client.connection, "orders", archive)
    with running_cribd(built=[sqlite_image()], warm=False) as cribd:
        async with cleared(cribd, tmp_path / "elsewhere") as client:
            await volumes.import_files(client.connection, "orders", VolumeSpec(), archive)
            await client.run_manifest(SHOP)
            assert await sql(client, "shop", COUNT) == "3|12\n", "the node is another one"


BANK = f"""
apiVersion: apps/v1
kind: StatefulSet
metadata: {{name: bank}}
spec:
  serviceName: bank
  template:
    spec:
      terminationGracePeriodSeconds: 60
      securityContext: {{runAsUser: {POSTGRES_UID}, runAsGroup: {POSTGRES_UID}}}
      containers:
      - name: app
        image: {POSTGRES}
        command:
        - sh
        - -c
        - |
          cd {postgres_directory()}/bin
          [ -e /data/pg/PG_VERSION ] || ./initdb -D /data/pg -U postgres --locale=C -A trust
          exec ./postgres -D /data/pg -k /tmp -c listen_addresses=
        volumeMounts: [{{name: data, mountPath: /data}}, {{name: tmp, mountPath: /tmp}}]
        startupProbe: {{periodSeconds: 1, failureThreshold: 300, exec: {{command: ["{postgres_directory()}/bin/pg_isready", -h, /tmp]}}}}
        readinessProbe: {{periodSeconds: 1, exec: {{command: ["{postgres_directory()}/bin/pg_isready", -h, /tmp]}}}}
      volumes: [{{name: tmp, emptyDir: {{}}}}]
  volumeClaimTemplates: [{{metadata: {{name: data}}, spec: {{accessModes: [ReadWriteOncePod]}}}}]
"""


async def psql(client: Client, statement: str) -> str:
    program = f"{postgres_directory()}/bin/psql"
    return await said(client, "bank-0", program, "-h", "/tmp", "-U", "postgres", "-Atc", statement)


async def is_ready(client: Client) -> None:
    (kept,) = await keeping.all_kept(client.connection)
    await keeping.follow(
        client.connection,
        kept.uid,
        lambda pod: keeping.is_up(pod) and all(one.ready for one in pod.containers),
    )


@pytest.mark.nightly
@pytest.mark.skipif(postgres_directory() is None, reason="Debian's postgresql is not installed")
async def test_a_real_database_loses_nothing_that_it_has_confirmed(tmp_path: Path) -> None:
    archive = f"{tmp_path}/bank.tar"
    insert = "insert into money select generate_series(1, 1000)"
    with running_cribd(built=[postgres_image()], warm=False) as cribd:
        async with cleared(cribd, tmp_path / "pods") as client:
            await client.run_manifest(BANK, restart=True)
            await is_ready(client)
            await psql(client, "create table money (amount int)")
            await psql(client, insert)
            cribd.kill()
            cribd.start()
            await psql(client, insert)
            power_cut(cribd)
            cribd.start()
            await is_ready(client)
            assert await psql(client, "select count(*), sum(amount) from money") == "2000|1001000\n"
            await client.remove_pod("bank-0")
            await client.run_manifest(BANK, restart=True)
            await is_ready(client)
            await volumes.snapshot(client.connection, "data-bank-0", "running")
            await psql(client, insert)
            await client.stop_pod("bank-0", grace=60)
            await client.remove_pod("bank-0")
            await volumes.export(client.connection, "data-bank-0", archive)
            await volumes.remove(client.connection, "data-bank-0")
            snapshot = VolumeSpec(snapshot="running", access_modes=["ReadWriteOncePod"])
            await volumes.create(client.connection, "data-bank-0", snapshot)
            await client.run_manifest(
                BANK.replace(
                    "spec: {accessModes",
                    "spec: {dataSource: {apiGroup: snapshot.storage.k8s.io, kind: VolumeSnapshot, name: running}, accessModes",
                ),
                restart=True,
            )
            await is_ready(client)
            assert await psql(client, "select count(*) from money") == "2000\n", "as it was at the snapshot"
    with running_cribd(built=[postgres_image()], warm=False) as cribd:
        async with cleared(cribd, tmp_path / "elsewhere") as client:
            spec = VolumeSpec(access_modes=["ReadWriteOncePod"])
            await volumes.import_files(client.connection, "data-bank-0", spec, archive)
            await client.run_manifest(BANK, restart=True)
            await is_ready(client)
            assert await psql(client, "select count(*) from money") == "3000\n"


async def test_a_volume_that_is_used_stays_and_one_pods_volume_is_for_one_pod(
    cribd: Cribd, client: Client, tmp_path: Path
) -> None:
    once = claim("one", "accessModes: [ReadWriteOncePod]")
    await client.run_manifest(pod("first", claimed("one")) + once)
    with pytest.raises(
        WrongState, match=r"volume default/one is ReadWriteOncePod, and is used by pod default/first"
    ):
        await client.run_manifest(pod("second", claimed("one")) + once)
    assert [one.name for one in await client.pods()] == ["first"], "nothing of the other is left"
    with pytest.raises(WrongState, match=r"volume default/one is used by pod default/first"):
        await volumes.remove(client.connection, "one")
    await client.stop_pod("first", grace=0)
    with pytest.raises(WrongState, match="is used by pod default/first"):
        await volumes.remove(client.connection, "one")
    await client.remove_pod("first")
    await client.run_manifest(pod("second", claimed("one")) + once)
    await client.remove_pod("second")
    await volumes.remove(client.connection, "one")
    assert await listed(client) == []


async def test_what_a_pod_has_of_its_own_goes_with_it_and_a_claim_does_not(client: Client) -> None:
    scratch = "ephemeral: {volumeClaimTemplate: {spec: {accessModes: [ReadWriteOnce]}}}"
    for source in (scratch, "emptyDir: {sizeLimit: 10Mi}"):
        await client.run_manifest(pod("web", source))
        (volume,) = await listed(client)
        assert (volume.name, volume.spec.owner) == ("web-v", volume.uses[0].pod_uid)
        await said(client, "web", "touch", "/data/file")
        assert os.path.exists(f"{volume.uses[0].path}/file")
        await client.remove_pod("web")
        assert await listed(client) == []
        assert not os.path.exists(volume.uses[0].path)
    await client.run_manifest(pod("web", claimed("data")))
    await client.remove_pod("web")
    assert [one.name for one in await listed(client)] == ["data"]


async def test_pods_share_a_volume_by_their_group_and_read_only_is_read_only(client: Client) -> None:
    user = "securityContext: {runAsUser: 1000, runAsGroup: 1000, fsGroup: 2000}"
    await volumes.create(client.connection, "shared", VolumeSpec(access_modes=["ReadWriteMany"]))
    await client.run_manifest(pod("writer", claimed("shared"), spec=user))
    await said(client, "writer", "sh", "-c", "echo hello > /data/word; stat -c %g /data/word > /data/group")
    reader = "persistentVolumeClaim: {claimName: shared, readOnly: true}"
    await client.run_manifest(pod("reader", reader, "mountPath: /w, subPath: word"))
    assert await said(client, "reader", "cat", "/w") == "hello\n"
    assert (await client.exec("reader", ["sh", "-c", "echo x > /w"])).code != 0
    assert await said(client, "writer", "cat", "/data/group") == "2000\n"


async def test_a_claim_of_mode_block_is_a_device_in_the_container(client: Client) -> None:
    spec = VolumeSpec(kind="block", block=True, capacity=1 << 20)
    await volumes.create(client.connection, "disk", spec)
    await client.run_manifest(pod("raw", claimed("disk"), "devicePath: /dev/disk"))
    await said(client, "raw", "sh", "-c", "echo data | dd of=/dev/disk conv=notrunc 2>/dev/null")
    assert await said(client, "raw", "head", "-c", "4", "/dev/disk") == "data"
    with pytest.raises(
        ClientError, match=r"default/disk is a device \(volumeMode: Block\): use volumeDevices"
    ):
        await client.run_manifest(pod("wrong", claimed("disk")))
    await client.remove_pod("raw")
    await client.run_manifest(pod("raw", claimed("disk"), "devicePath: /dev/disk"))
    assert await said(client, "raw", "head", "-c", "4", "/dev/disk") == "data"


async def test_a_claim_begins_as_a_snapshot_or_as_another_volume(client: Client) -> None:
    await client.run_manifest(pod("old", claimed("old")))
    await said(client, "old", "sh", "-c", "echo before > /data/file")
    await volumes.snapshot(client.connection, "old", "monday")
    await said(client, "old", "sh", "-c", "echo after > /data/file")
    monday = "dataSource: {apiGroup: snapshot.storage.k8s.io, kind: VolumeSnapshot, name: monday}"
    await client.run_manifest(pod("a", claimed("a")) + claim("a", monday))
    await client.run_manifest(
        pod("b", claimed("b")) + claim("b", "dataSource: {kind: PersistentVolumeClaim, name: old}")
    )
    assert await said(client, "a", "cat", "/data/file") == "before\n"
    assert await said(client, "b", "cat", "/data/file") == "after\n"
    names = [one.name async for one in volumes.list_snapshots(client.connection)]
    assert names == ["monday"]


async def test_a_volume_is_made_of_another_one_while_a_pod_uses_that(
    cribd: Cribd, client: Client, tmp_path: Path
) -> None:
    await volumes.create(
        client.connection,
        "old",
        VolumeSpec(
            kind="local", parameters={"mode": "0750"}, access_modes=["ReadWriteMany"], labels={"a": "b"}
        ),
    )
    await client.run_manifest(pod("old", claimed("old")))
    await said(client, "old", "sh", "-c", "echo first > /data/file")
    await volumes.snapshot(client.connection, "old", "new-clone")  # as an attempt that was cut off leaves it
    await said(client, "old", "sh", "-c", "echo second > /data/file")
    made = crib(cribd, tmp_path / "pods", "volume", "create", "new", "--from", "old", "-l", "of=old")
    assert (made.returncode, made.stdout) == (0, "default/new\n"), made.stderr
    spec = (await volumes.inspect(client.connection, "new")).volume.spec
    assert (spec.kind, dict(spec.parameters), list(spec.access_modes)) == (
        "local",
        {"mode": "0750"},
        ["ReadWriteMany"],
    )
    assert dict(spec.labels) == {"of": "old"}
    await client.run_manifest(pod("new", claimed("new")))
    assert await said(client, "new", "cat", "/data/file") == "second\n"
    assert not [one async for one in volumes.list_snapshots(client.connection)]
    again = crib(cribd, tmp_path / "pods", "volume", "create", "new", "--from", "old")
    assert (again.returncode, again.stderr) == (1, "crib: volume default/new is there already\n")
    other = crib(cribd, tmp_path / "pods", "volume", "create", "other", "--from", "old", "--kind", "tmpfs")
    assert "kind tmpfs has no snapshots" in other.stderr
    assert not [one async for one in volumes.list_snapshots(client.connection)]
    none = crib(cribd, tmp_path / "pods", "volume", "create", "other", "--from", "nothing")
    assert (none.returncode, none.stderr) == (1, "crib: there is no volume 'nothing'\n")


async def test_the_commands_show_what_is_behind_a_mount(cribd: Cribd, client: Client, tmp_path: Path) -> None:
    pods = tmp_path / "pods"
    path = tmp_path / "web.yaml"
    path.write_text(pod("web", claimed("data"), "mountPath: /data, subPath: a") + claim("data"))
    planned = crib(cribd, pods, "explain", str(path))
    assert "container mounts[0], volume default/data" in planned.stdout, planned.stderr
    assert crib(cribd, pods, "run", str(path)).returncode == 0
    explained = crib(cribd, pods, "explain", "web")
    assert "container mounts[0], volume default/data" in explained.stdout, explained.stderr
    assert crib(cribd, pods, "diff", str(path)).stdout == ""
    (row,) = crib(cribd, pods, "volume", "ls").stdout.splitlines()[1:]
    assert row.split()[:5] == ["default/data", "local", "local", "-", "1"]
    stats = json.loads(crib(cribd, pods, "volume", "stats", "-o", "json").stdout)
    assert stats[0]["volume"] == "default/data"
    checked = crib(cribd, pods, "volume", "check")
    assert (checked.returncode, checked.stdout) == (0, "nothing is wrong\n"), checked.stdout
