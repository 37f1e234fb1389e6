"""The node's classes of block I/O, from the administrator's file, and of RDT, as the kernel has them."""

from __future__ import annotations

import glob
import os
import stat
from collections.abc import Iterator, Mapping

from crib.model.errors import Broken
from crib.wire import oci_runtime as oci
from crib.wire.blockio_config import MAX_SIZE, DeviceParameters, decode

RESCTRL = "/sys/fs/resctrl"
"""Where the kernel's classes are (kernel, filesystems/resctrl): a directory each."""
_NO_CLASSES = {"info", "mon_data", "mon_groups"}
_MOST_DEVICES = 1000


def read_blockio_classes(path: str) -> Mapping[str, oci.BlockIo]:
    """By name; none without a file. Broken, naming the file, for one that is wrong. Blocks."""
    if not path:
        return {}
    what = f"blockio_config_file {path}"
    try:
        with open(path, "rb") as file:
            classes = decode(file.read(MAX_SIZE + 1))
        return {name: _block_io(parameters) for name, parameters in classes.items()}
    except (OSError, ValueError) as error:
        raise Broken(f"{what}: {error}") from error


def read_rdt_classes(root: str = RESCTRL) -> frozenset[str]:
    """Their names; none where resctrl is not mounted. Blocks."""
    try:
        with os.scandir(root) as entries:
            found = [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
    except FileNotFoundError:
        return frozenset()
    return frozenset(found) - _NO_CLASSES


def _block_io(entries: tuple[DeviceParameters, ...]) -> oci.BlockIo:
    """The last entry that says something of a device counts."""
    weight: int | None = None
    weights: dict[tuple[int, int], int] = {}
    names = ("read_bps", "write_bps", "read_iops", "write_iops")
    rates: dict[str, dict[tuple[int, int], int]] = {name: {} for name in names}
    for entry in entries:
        if not entry.devices:
            weight = entry.weight if entry.weight is not None else weight
            continue
        for device in _devices(entry.devices):
            if entry.weight is not None:
                weights[device] = entry.weight
            for name, found in rates.items():
                if (rate := getattr(entry, name)) is not None:
                    found[device] = rate
    throttled = {
        name: tuple(oci.ThrottleDevice(*device, rate=rate) for device, rate in found.items())
        for name, found in rates.items()
    }
    return oci.BlockIo(
        weight=weight,
        weight_device=tuple(oci.WeightDevice(*device, weight=one) for device, one in weights.items()),
        throttle_read_bps_device=throttled["read_bps"],
        throttle_write_bps_device=throttled["write_bps"],
        throttle_read_iops_device=throttled["read_iops"],
        throttle_write_iops_device=throttled["write_iops"],
    )


def _devices(patterns: tuple[str, ...]) -> Iterator[tuple[int, int]]:
    """Major and minor of the block devices that match; a pattern without a match is for devices to come."""
    for pattern in patterns:
        for path in sorted(glob.glob(pattern))[:_MOST_DEVICES]:
            found = os.stat(path)
            if stat.S_ISBLK(found.st_mode):
                yield os.major(found.st_rdev), os.minor(found.st_rdev)
