"""One member of a tar archive, and how its 512-byte header is read.

Sources: POSIX.1-2017 ``pax`` (ustar header block), the GNU tar manual "Basic Tar Format", star(5). Functions
raise ValueError with a short reason; the reader adds the member and the offset.
"""

from __future__ import annotations

import enum
from struct import Struct
from typing import NamedTuple
from zlib import adler32

from crib.wire.tar_records import Extent, parse_decimal, parse_number, parse_time

BLOCK = 512
MAX_SIZE = (1 << 63) - 1
HEADER = Struct("100s8s8s8s12s12s8s1s100s8s64x8s8s155s12x")
"""name, mode, uid, gid, size, mtime, checksum, type, link, magic + version, major, minor, prefix."""

_ADLER = 65_521
_MAX_ID = 0xFFFF_FFFF
_MAX_NAME = 4096
MAX_XATTRS = 64
"""Extended attributes of one member. Images have one or two; each costs many times its bytes to hold."""
MAX_XATTR_BYTES = 1 << 17
"""Names and values of all extended attributes of one member."""


class Kind(enum.Enum):
    """What a member is."""

    FILE = "file"
    HARD_LINK = "hard link"
    SYMLINK = "symbolic link"
    CHARACTER = "character device"
    BLOCK = "block device"
    DIRECTORY = "directory"
    FIFO = "fifo"


KINDS = {
    b"0": Kind.FILE,
    b"\0": Kind.FILE,
    b"7": Kind.FILE,
    b"S": Kind.FILE,
    b"1": Kind.HARD_LINK,
    b"2": Kind.SYMLINK,
    b"3": Kind.CHARACTER,
    b"4": Kind.BLOCK,
    b"5": Kind.DIRECTORY,
    b"6": Kind.FIFO,
}
"""Type flags of members; the others are extensions or refused."""


# A NamedTuple, not a frozen dataclass: a layer has tens of thousands, and it is made in a fifth of the time.
class Member(NamedTuple):
    """One member. Names are bytes as written; sizes in bytes; offsets from the archive's first byte.

    ``size`` is the file's size and ``stored`` what the archive holds of it; they differ for sparse members,
    whose ``sparse`` extents say where the stored bytes belong. ``xattrs`` maps full names (``user.x``) to
    values.
    """

    name: bytes
    kind: Kind
    mode: int
    uid: int
    gid: int
    mtime: int
    mtime_nsec: int
    size: int
    offset: int
    stored: int
    link: bytes = b""
    device: tuple[int, int] = (0, 0)
    xattrs: dict[bytes, bytes] | None = None
    sparse: tuple[Extent, ...] | None = None


def printable(name: bytes) -> str:
    """A member's name for a message: quoted, bounded, never with control characters."""
    return repr(name[:200].decode("utf-8", "backslashreplace"))


def check_sum(block: bytes, text: bytes) -> None:
    """Refuse a block whose checksum field (``text``) is wrong; the signed sums of old writers pass too."""
    # The sum counts its own field as eight spaces. adler32's lower half is 1 plus the plain sum of the bytes,
    # modulo 65521, and ten times faster than sum().
    expected = parse_number(text)
    if ((adler32(block) & 0xFFFF) - (adler32(text) & 0xFFFF) + 256 - expected) % _ADLER == 0:
        return
    rest = block[:148] + block[156:]
    if expected != sum(byte - 256 if byte > 127 else byte for byte in rest) + 256:
        raise ValueError("not a tar header (its checksum does not match)")


def prefixed(block: bytes, prefix: bytes, name: bytes) -> bytes:
    """The whole name of a ustar header that splits it."""
    # star keeps times in the prefix's last bytes and says so at the very end of the block.
    text = prefix[:131] if block.endswith(b"tar\0") else prefix
    return text.partition(b"\0")[0] + b"/" + name


def check_member(member: Member) -> None:
    """Refuse what no file system could hold."""
    if len(member.name) > _MAX_NAME or len(member.link) > _MAX_NAME:
        raise ValueError(f"name or link target is longer than {_MAX_NAME} bytes")
    if not (0 <= member.uid <= _MAX_ID and 0 <= member.gid <= _MAX_ID):
        raise ValueError(f"owner {member.uid}:{member.gid} is out of range")
    if not -MAX_SIZE <= member.mtime <= MAX_SIZE:
        raise ValueError(f"time {member.mtime} is out of range")
    if member.sparse is not None and member.stored != sum(extent.length for extent in member.sparse):
        raise ValueError("the sparse map does not match the stored size")


def check_size(size: int) -> int:
    """A size that a file offset can reach."""
    if not 0 <= size <= MAX_SIZE:
        raise ValueError(f"size {size} is out of range")
    return size


def amended(member: Member, records: dict[bytes, bytes]) -> Member:
    """The member with what extended headers say of it; a record without a value says nothing."""
    changes: dict[str, object] = {}
    xattrs: dict[bytes, bytes] = {}
    for key, value in records.items():
        if key.startswith(b"SCHILY.xattr."):
            xattrs[key[13:]] = value
        elif value:
            changes.update(_change(key, value))
    if xattrs:
        _check_xattrs(xattrs)
        changes["xattrs"] = xattrs
    if member.kind is not Kind.FILE:
        changes.pop("size", None)
        changes.pop("stored", None)
    # mypy cannot check names that come from the records; _change is the table of them.
    return member._replace(**changes)  # type: ignore[arg-type]


def _check_xattrs(xattrs: dict[bytes, bytes]) -> None:
    if len(xattrs) > MAX_XATTRS:
        raise ValueError(f"{len(xattrs)} extended attributes, at most {MAX_XATTRS} are taken")
    size = sum(len(name) + len(value) for name, value in xattrs.items())
    if size > MAX_XATTR_BYTES:
        raise ValueError(f"extended attributes of {size} bytes, at most {MAX_XATTR_BYTES} are taken")


def _change(key: bytes, value: bytes) -> dict[str, object]:
    """The fields of a member that one extended record replaces."""
    if key == b"path":
        return {"name": value}
    if key == b"linkpath":
        return {"link": value}
    if key == b"size":
        size = check_size(parse_decimal(value))
        return {"size": size, "stored": size}
    if key in (b"uid", b"gid"):
        return {key.decode(): parse_decimal(value)}
    if key == b"mtime":
        seconds, nanoseconds = parse_time(value)
        return {"mtime": seconds, "mtime_nsec": nanoseconds}
    return {}
