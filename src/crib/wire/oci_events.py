"""What an OCI runtime's `events --stats` prints: a container's usage (runc's format, which runsc shares)."""

from __future__ import annotations

import msgspec


class Cpu(msgspec.Struct, frozen=True):
    """Core-nanoseconds in all."""

    class Usage(msgspec.Struct, frozen=True):
        """Of all cores."""

        total: int = 0

    usage: Usage = Usage()


class Memory(msgspec.Struct, frozen=True):
    """Bytes in use."""

    class Usage(msgspec.Struct, frozen=True):
        """Of memory without swap."""

        usage: int = 0

    usage: Usage = Usage()


class Data(msgspec.Struct, frozen=True):
    """Its usage; a part that the runtime does not tell is None."""

    cpu: Cpu | None = None
    memory: Memory | None = None


class Event(msgspec.Struct, frozen=True):
    """One line."""

    id: str
    data: Data


def decode_stats(data: bytes) -> Data:
    """ValueError for something else."""
    return msgspec.json.decode(data, type=Event).data
