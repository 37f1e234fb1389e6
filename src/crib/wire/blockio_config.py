"""Files with classes of block I/O, as containerd and CRI-O read them (goresctrl, blockio configuration).

    classes:
      slow:
        - weight: 50                        # of every device that no later entry names
        - devices: ["/dev/sd[ab]"]
          throttleReadBps: 20M
          throttleWriteIops: 1k

Keys are taken in upper or lower case. A rate is a number with a suffix of Kubernetes' quantities.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import msgspec

MAX_SIZE = 1 << 20
"""Bytes of a file."""
_WEIGHTS = range(10, 1001)
_QUANTITY = re.compile(r"(\d{1,18}(?:\.\d{1,18})?)(|[kMGTPE]|[KMGTPE]i)")
_FACTORS = {
    "": 1,
    **{suffix: 1000**power for power, suffix in enumerate("kMGTPE", 1)},
    **{f"{suffix}i": 1024**power for power, suffix in enumerate("KMGTPE", 1)},
}
_LARGEST = (1 << 64) - 1
_Quantity = str | int | float | None


@dataclass(frozen=True, slots=True)
class DeviceParameters:
    """What holds for the devices that match patterns (glob(7)); without these, the weight of all others.

    Bytes and operations a second; None: no limit.
    """

    devices: tuple[str, ...] = ()
    weight: int | None = None
    read_bps: int | None = None
    write_bps: int | None = None
    read_iops: int | None = None
    write_iops: int | None = None


class _Entry(msgspec.Struct, forbid_unknown_fields=True):
    devices: tuple[str, ...] = ()
    weight: _Quantity = None
    throttlereadbps: _Quantity = None
    throttlewritebps: _Quantity = None
    throttlereadiops: _Quantity = None
    throttlewriteiops: _Quantity = None


class _Document(msgspec.Struct, forbid_unknown_fields=True):
    classes: dict[str, tuple[dict[str, Any], ...] | None] = {}


def decode(data: bytes) -> Mapping[str, tuple[DeviceParameters, ...]]:
    """The classes by name. ValueError with the place of what is wrong."""
    # Imported only if such a file exists: the daemon is smaller without it.
    import yaml

    if len(data) > MAX_SIZE:
        raise ValueError(f"it is larger than {MAX_SIZE} bytes")
    try:
        loaded = yaml.load(data.decode(), Loader=yaml.SafeLoader)
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(f"it is not YAML: {error}".replace("\n", " ")) from error
    document = msgspec.convert(_lowered(loaded or {}), type=_Document)
    return {
        name: tuple(_parameters(entry, f"classes.{name}[{at}]") for at, entry in enumerate(entries or ()))
        for name, entries in document.classes.items()
    }


def _lowered(table: Any) -> Any:
    """With its keys in lower case."""
    return {str(key).lower(): value for key, value in table.items()} if isinstance(table, dict) else table


def _parameters(given: dict[str, Any], where: str) -> DeviceParameters:
    try:
        entry = msgspec.convert(_lowered(given), type=_Entry)
    except msgspec.ValidationError as error:
        raise ValueError(f"{where}: {error}") from error
    if not all(device.startswith("/") for device in entry.devices):
        raise ValueError(f"{where}.devices are not absolute paths")
    weight = _quantity(entry.weight, f"{where}.weight")
    if weight is not None and weight not in _WEIGHTS:
        raise ValueError(f"{where}.weight: {weight} is not from 10 to 1000")
    found = DeviceParameters(
        devices=entry.devices,
        weight=weight,
        read_bps=_quantity(entry.throttlereadbps, f"{where}.throttleReadBps"),
        write_bps=_quantity(entry.throttlewritebps, f"{where}.throttleWriteBps"),
        read_iops=_quantity(entry.throttlereadiops, f"{where}.throttleReadIops"),
        write_iops=_quantity(entry.throttlewriteiops, f"{where}.throttleWriteIops"),
    )
    if not found.devices and found != DeviceParameters(weight=weight):
        raise ValueError(f"{where}: rates are of devices, and it names none")
    return found


def _quantity(value: str | float | None, where: str) -> int | None:
    if value is None or value == "":
        return None
    match = _QUANTITY.fullmatch(str(value))
    number = Decimal(match[1]) * _FACTORS[match[2]] if match is not None else None
    if number is None or number > _LARGEST or number != int(number):
        raise ValueError(f"{where}: {str(value)[:80]!r} is not a number such as 1000, 20M or 4Ki")
    return int(number)
