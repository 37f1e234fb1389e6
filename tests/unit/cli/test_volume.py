"""`crib volume`: what the commands ask for, what they write, and how they end."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from crib.cli import volume, volume_drivers, volume_snapshots, volume_upkeep
from crib.cli import volume_options as args
from crib.cli.forms import Format
from crib.cli.session import CliSession, CommandError
from crib.client.errors import ClientError, NotFound, NotOffered, WrongState
from crib.stubs.node.v1 import node_pb2 as node
from tests.unit.cli.command_world import add_pod, served
from tests.unit.client.fake_runtime import World
from tests.unit.client.fake_volumes import VolumeWorld, serve_volumes


@pytest.fixture
def world(tmp_path: Path) -> VolumeWorld:
    return VolumeWorld(directory=f"{tmp_path}/volumes")


@pytest.fixture
async def session(world: VolumeWorld, tmp_path: Path) -> AsyncIterator[CliSession]:
    server = await serve_volumes(f"{tmp_path}/s", world)
    yield CliSession(f"unix://{tmp_path}/s", pods_dir=f"{tmp_path}/pods")
    await server.stop(None)


Told = pytest.CaptureFixture[str]


def lines(capsys: Told) -> list[str]:
    return capsys.readouterr().out.splitlines()


async def test_a_volume_is_made_as_the_options_say(
    session: CliSession, world: VolumeWorld, capsys: Told
) -> None:
    world.warnings = ["10 GiB is no limit here"]
    options = args.VolumeCreateOptions(
        ["shop/data"],
        storage_class="fast",
        size="10Gi",
        modes=[args.AccessModeName.ONE_POD],
        fs_type="xfs",
        parameters=["a=b=c"],
        mount_options=["noatime"],
        secrets=["key=secret"],
        labels=["app=db"],
        reclaim=args.ReclaimName.RETAIN,
        snapshot="monday",
    )
    await volume.create(session, options)
    told = capsys.readouterr()
    assert (told.out, told.err) == ("shop/data\n", "note: shop/data: 10 GiB is no limit here\n")
    asked = world.volumes["shop/data"].spec
    assert asked == node.VolumeSpec(
        kind="local",
        storage_class="fast",
        parameters={"a": "b=c"},
        snapshot="monday",
        capacity=10 << 30,
        access_modes=["ReadWriteOncePod"],
        fs_type="xfs",
        mount_options=["noatime"],
        labels={"app": "db"},
        secrets={"key": f"{Path.cwd()}/secret"},
        reclaim="Retain",
    )
    await volume.create(session, args.VolumeCreateOptions(["a", "b"], kind=args.VolumeKindName.TMPFS))
    assert lines(capsys) == ["default/a", "default/b"]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (args.VolumeCreateOptions(["../x"]), "'../x' must be NAME or NAMESPACE/NAME"),
        (args.VolumeCreateOptions(["/x"]), "'/x' must be NAME or NAMESPACE/NAME"),
        (args.VolumeCreateOptions(["x"], size="much"), "--size: 'much' is not a quantity"),
        (args.VolumeCreateOptions(["x"], parameters=["a"]), "--parameter 'a' is not KEY=VALUE"),
        (args.VolumeCreateOptions(["x"], labels=["=a"]), "--label '=a' is not KEY=VALUE"),
    ],
)
async def test_an_option_that_is_wrong_is_named_and_nothing_is_made(
    session: CliSession, world: VolumeWorld, options: args.VolumeCreateOptions, told: str
) -> None:
    with pytest.raises(CommandError, match=told) as wrong:
        await volume.create(session, options)
    assert wrong.value.exit_code == 2
    assert world.volumes == {}


async def test_volumes_are_listed_with_who_uses_them(
    session: CliSession, world: VolumeWorld, capsys: Told
) -> None:
    add_pod(world, "web")
    used = world.add_volume(
        "default/data", storage_class="fast", capacity=1 << 30, access_modes=["ReadWriteOnce"]
    )
    world.use(used, "uid-web", "v")
    world.use(used, "uid-web", "w")
    world.add_volume("shop/raw", kind="csi", driver="d.example", labels={"app": "db"})
    world.volumes["shop/raw"].problem = "its driver does not answer"
    await volume.ls(session, args.VolumeListOptions(output=Format.WIDE))
    table = lines(capsys)
    assert table[0].split() == [
        "VOLUME", "KIND", "CLASS", "SIZE", "PODS", "STATE", "AGE", "ACCESS", "MODES", "ID", "PATHS"
    ]  # fmt: skip
    assert table[1].split()[:7] == ["default/data", "local", "fast", "1.0", "GiB", "1", "Ready"]
    assert table[1].split()[-1] == f"{world.directory}/{used.id}"
    assert "csi (d.example)" in table[2]
    assert "Ready: its driver does not answer" in table[2]
    await volume.ls(session, args.VolumeListOptions(quiet=True))
    assert lines(capsys) == ["default/data", "shop/raw"]
    await volume.ls(session, args.VolumeListOptions(pod="web", output=Format.NAME))
    assert lines(capsys) == ["default/data"]
    await volume.ls(session, args.VolumeListOptions(labels=["app=db"], output=Format.JSON))
    (found,) = json.loads(capsys.readouterr().out)
    assert (found["name"], found["spec"]["driver"]) == ("raw", "d.example")
    await volume.ls(session, args.VolumeListOptions(namespace="none"))
    assert len(lines(capsys)) == 1


async def test_all_about_a_volume_is_shown(session: CliSession, world: VolumeWorld, capsys: Told) -> None:
    world.use(world.add_volume("default/data"), "u1", "v")
    await volume_snapshots.create(session, args.SnapshotCreateOptions("data", "monday"))
    assert lines(capsys) == ["default/monday"]
    await volume.inspect(session, args.VolumeInspectOptions(["data"], output=Format.JSON))
    (found,) = json.loads(capsys.readouterr().out)
    assert found["uses"][0]["podUid"] == "u1"
    assert found["snapshots"][0]["name"] == "monday"
    assert found["can"] == ["snapshots"]
    with pytest.raises(NotFound, match="there is no volume 'none'"):
        await volume.inspect(session, args.VolumeInspectOptions(["none"]))


async def test_a_volume_in_use_stays_and_the_others_go(
    session: CliSession, world: VolumeWorld, capsys: Told
) -> None:
    world.use(world.add_volume("default/data"), "u1", "v")
    world.add_volume("default/spare")
    with pytest.raises(WrongState, match="volume default/data is used by pod pod-u1"):
        await volume.remove(session, args.VolumeRemoveOptions(["data"]))
    with pytest.raises(CommandError, match="1 of 2 volumes were not removed"):
        await volume.remove(session, args.VolumeRemoveOptions(["data", "spare"]))
    told = capsys.readouterr()
    assert told.out == "removed spare\n"
    assert "is used by pod pod-u1" in told.err
    assert list(world.volumes) == ["default/data"]


async def test_prune_says_what_goes_and_why(session: CliSession, world: VolumeWorld, capsys: Told) -> None:
    world.use(world.add_volume("default/data"), "u1", "v")
    world.add_volume("default/spare")
    await volume_upkeep.prune(session, args.VolumePruneOptions())
    await volume_upkeep.prune(session, args.VolumePruneOptions(every=True, dry_run=True))
    assert "default/spare" in world.volumes
    await volume_upkeep.prune(session, args.VolumePruneOptions(every=True, yes=True))
    assert lines(capsys) == [
        "nothing to remove",
        "would remove default/spare (no pod uses it)",
        "removed default/spare (no pod uses it)",
    ]
    assert list(world.volumes) == ["default/data"]


async def test_files_are_copied_by_absolute_paths(
    session: CliSession, world: VolumeWorld, capsys: Told, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    world.add_volume("default/data")
    await volume_upkeep.export(session, args.VolumeExportOptions("data", "data.tar"))
    await volume_upkeep.import_files(
        session, args.VolumeImportOptions("shop/data", "data.tar", storage_class="fast")
    )
    assert world.copies == [f"{tmp_path}/data.tar"] * 2
    assert world.volumes["shop/data"].spec.storage_class == "fast"
    assert lines(capsys) == [
        f"exported data to {tmp_path}/data.tar (10.0 KiB)",
        f"imported shop/data from {tmp_path}/data.tar (5 B)",
    ]


async def test_what_is_not_told_of_a_volume_is_a_dash_and_no_zero(
    session: CliSession, world: VolumeWorld, capsys: Told
) -> None:
    world.add_volume("default/data")
    world.add_volume("default/other")
    world.usages["data"] = node.VolumeUsage(total_bytes=2048, used_bytes=512, inodes_used=0)
    await volume_upkeep.stats(session, args.VolumeStatsOptions())
    rows = [line.split() for line in lines(capsys)]
    assert rows[1] == ["default/data", "512", "B", "2.0", "KiB", "-", "25", "%", "0", "-", "-"]
    assert rows[2] == ["default/other", *"-------"]
    await volume_upkeep.stats(session, args.VolumeStatsOptions(["data"], output=Format.JSON))
    (found,) = json.loads(capsys.readouterr().out)
    assert found == {"volume": "data", "totalBytes": 2048, "usedBytes": 512, "inodesUsed": 0}


async def test_a_volume_is_made_larger(session: CliSession, world: VolumeWorld, capsys: Told) -> None:
    world.add_volume("default/data")
    await volume_upkeep.resize(session, args.VolumeResizeOptions("data", "2Gi"))
    assert lines(capsys) == ["volume default/data has 2.0 GiB"]
    with pytest.raises(CommandError, match="QUANTITY: '2G1' is not a quantity"):
        await volume_upkeep.resize(session, args.VolumeResizeOptions("data", "2G1"))


async def test_a_check_fails_while_something_is_wrong(
    session: CliSession, world: VolumeWorld, capsys: Told
) -> None:
    assert await volume_upkeep.check(session, args.VolumeCheckOptions()) == 0
    world.findings = [node.Finding(area="volumes", subject="default/data", problem="its directory is gone")]
    assert await volume_upkeep.check(session, args.VolumeCheckOptions(["data"], repair=True)) == 1
    assert lines(capsys) == [
        "nothing is wrong",
        "wrong    volumes     default/data: its directory is gone (no repair can fix this)",
        "1 wrong",
    ]
    assert [(list(asked.volumes), asked.repair) for asked in world.checks] == [([], False), (["data"], True)]
    assert await volume_upkeep.check(session, args.VolumeCheckOptions(output=Format.JSON)) == 1
    assert json.loads(capsys.readouterr().out)[0]["area"] == "volumes"


async def test_snapshots_are_listed_and_removed(
    session: CliSession, world: VolumeWorld, capsys: Told
) -> None:
    world.add_volume("shop/data")
    await volume_snapshots.create(session, args.SnapshotCreateOptions("shop/data", "monday"))
    await volume_snapshots.ls(session, args.SnapshotListOptions())
    told = lines(capsys)
    assert told[1].split() == ["SNAPSHOT", "VOLUME", "KIND", "SIZE", "STATE", "AGE"]
    assert told[2].split()[:5] == ["shop/monday", "shop/data", "local", "4.0", "KiB"]
    with pytest.raises(CommandError, match="1 of 2 snapshots were not removed"):
        await volume_snapshots.remove(session, args.SnapshotRemoveOptions(["none", "shop/monday"]))
    assert world.snapshots == {}
    with pytest.raises(CommandError, match="'A' must be at most 253"):
        await volume_snapshots.create(session, args.SnapshotCreateOptions("shop/data", "A"))


async def test_another_runtime_keeps_no_volumes(tmp_path: Path) -> None:
    async with served(World(), tmp_path, node=False) as session:
        for call in (
            volume.ls(session, args.VolumeListOptions()),
            volume.create(session, args.VolumeCreateOptions(["a"])),
            volume_upkeep.check(session, args.VolumeCheckOptions()),
        ):
            with pytest.raises(NotOffered) as wrong:
                await call
            assert isinstance(wrong.value, ClientError)


async def test_drivers_are_listed_with_what_they_were_asked(
    session: CliSession, world: VolumeWorld, capsys: Told
) -> None:
    world.drivers = [
        node.VolumeDriver(name="a.csi", version="v1", ready=True, calls=4, failures=1, duration=6_000_000),
        node.VolumeDriver(name="b.csi", problem="nobody listens"),
    ]
    await volume_drivers.ls(session, args.VolumeDriversOptions())
    _, ready, away = (line.split() for line in lines(capsys))
    assert ready == ["a.csi", "v1", "Ready", "4", "1", "1.5", "ms"]
    assert " ".join(away) == "b.csi - Not ready: nobody listens 0 0 -"
    await volume_drivers.ls(session, args.VolumeDriversOptions(quiet=True))
    assert lines(capsys) == ["a.csi", "b.csi"]
