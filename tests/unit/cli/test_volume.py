"""`crib volume`: what it shows, makes, removes and refuses to remove."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from crib.cli import volume
from crib.cli import workload_options as args
from crib.cli.forms import Format
from crib.cli.session import CliSession, CommandError
from crib.client.errors import NotFound, WrongState
from crib.client.workloads.named_volumes import NamedVolumes
from crib.manifest.plan import ClaimPlan, Dirs


@pytest.fixture
def session(tmp_path: Path) -> CliSession:
    return CliSession("unix:///none", pods_dir=f"{tmp_path}/pods")


def use(session: CliSession, name: str) -> None:
    dirs = Dirs(session.pods_dir)
    os.makedirs(dirs.pod("u1"))
    NamedVolumes(dirs).use(ClaimPlan("default", name), "u1", "data")


def test_volumes_are_made_and_listed_by_name(session: CliSession, capsys: pytest.CaptureFixture[str]) -> None:
    volume.create(session, args.VolumeCreateOptions(["shop/cache", "data"], ["app=db"]))
    assert capsys.readouterr().out == "shop/cache\ndefault/data\n"
    volume.ls(session, args.VolumeListOptions(quiet=True))
    assert capsys.readouterr().out == "default/data\nshop/cache\n"
    volume.ls(session, args.VolumeListOptions())
    assert capsys.readouterr().out.splitlines()[0].split() == ["VOLUME", "PODS", "ASKED", "FOR", "AGE"]
    Path(session.pods_dir).parent.joinpath("volumes/default/data/data/file").write_bytes(b"x" * 5000)
    volume.inspect(session, args.VolumeInspectOptions(["data"], output=Format.JSON))
    (found,) = json.loads(capsys.readouterr().out)
    assert (found["labels"], found["users"]) == ({"app": "db"}, [])
    assert found["used"] >= 5000
    with pytest.raises(CommandError, match="must be NAME or NAMESPACE/NAME"):
        volume.create(session, args.VolumeCreateOptions(["../x"]))


def test_a_volume_in_use_stays(session: CliSession, capsys: pytest.CaptureFixture[str]) -> None:
    use(session, "data")
    volume.create(session, args.VolumeCreateOptions(["spare"]))
    with pytest.raises(WrongState, match="volume default/data is used by the pod with uid u1"):
        volume.remove(session, args.VolumeRemoveOptions(["data"]))
    with pytest.raises(NotFound, match="there is no volume 'none'"):
        volume.remove(session, args.VolumeRemoveOptions(["none"]))
    volume.prune(session, args.VolumePruneOptions(dry_run=True))
    volume.prune(session, args.VolumePruneOptions(yes=True))
    volume.prune(session, args.VolumePruneOptions(yes=True))
    assert capsys.readouterr().out.splitlines()[-3:] == [
        "would remove default/spare",
        "removed default/spare",
        "nothing to remove",
    ]
    assert [one.label for one in NamedVolumes(Dirs(session.pods_dir)).all()] == ["default/data"]
