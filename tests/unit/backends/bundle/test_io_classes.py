"""The node's classes of block I/O and RDT: from a file, and from what the kernel has."""

from __future__ import annotations

import glob
import os
import stat
from pathlib import Path

import pytest

from crib.backends.bundle.io_classes import read_blockio_classes, read_rdt_classes
from crib.model.errors import Broken
from crib.wire import oci_runtime as oci

FILE = """
classes:
  slow:
  - weight: 50
  - devices: ["/dev/sd*"]
    weight: 20
    throttleReadBps: 20M
  - devices: [/dev/sdb, /dev/null, /dev/later]
    throttleReadBps: 1k
    throttleWriteIops: 5
"""


def test_patterns_become_the_devices_that_match_and_the_last_entry_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes = {"/dev/sda": os.makedev(8, 0), "/dev/sdb": os.makedev(8, 16), "/dev/null": os.makedev(1, 3)}

    def found(path: str) -> os.stat_result:
        kind = stat.S_IFCHR if path == "/dev/null" else stat.S_IFBLK
        return os.stat_result((kind, *(0,) * 9), {"st_rdev": nodes[path]})

    def matching(pattern: str) -> list[str]:
        return [path for path in nodes if Path(path).match(pattern)]

    file = tmp_path / "classes.yaml"
    file.write_text(FILE)
    monkeypatch.setattr(glob, "glob", matching)
    monkeypatch.setattr(os, "stat", found)
    assert read_blockio_classes(str(file)) == {
        "slow": oci.BlockIo(
            weight=50,
            weight_device=(oci.WeightDevice(8, 0, weight=20), oci.WeightDevice(8, 16, weight=20)),
            throttle_read_bps_device=(oci.ThrottleDevice(8, 0, 20_000_000), oci.ThrottleDevice(8, 16, 1000)),
            throttle_write_iops_device=(oci.ThrottleDevice(8, 16, 5),),
        )
    }


def test_no_file_has_no_classes_and_a_wrong_one_is_named(tmp_path: Path) -> None:
    assert read_blockio_classes("") == {}
    with pytest.raises(Broken, match=r"blockio_config_file /nosuch\.yaml"):
        read_blockio_classes("/nosuch.yaml")
    file = tmp_path / "classes.yaml"
    file.write_text("classes: 7")
    with pytest.raises(Broken, match=rf"blockio_config_file {file}: .*classes"):
        read_blockio_classes(str(file))


def test_rdt_classes_are_the_kernels_directories(tmp_path: Path) -> None:
    for name in ("gold", "info", "mon_data", "mon_groups"):
        (tmp_path / name).mkdir()
    (tmp_path / "schemata").touch()
    assert read_rdt_classes(str(tmp_path)) == {"gold"}
    assert read_rdt_classes(f"{tmp_path}/nosuch") == frozenset()
