"""The kernel without its wrapping: what an emulated CPU need not unpack at each boot.

Source: kernel Documentation/arch/x86/boot.rst (`payload_offset`, `payload_length`), and the formats that
scripts/extract-vmlinux looks for. A kernel that is entered like this is not moved to a random address.
"""

from __future__ import annotations

import ctypes
import lzma
import struct
import sys
import zlib
from typing import Protocol

MAX_BYTES = 512 << 20
"""Of a kernel, unpacked."""
_SETUP_SECTORS, _MAGIC, _PAYLOAD = 0x1F1, 0x202, 0x248
_SECTOR = 512
_LZ4_MAGIC = b"\x02\x21\x4c\x18"
_LZ4_BLOCK = 8 << 20
"""What each block has before it is packed (lz4's legacy frame)."""


class _Stream(Protocol):
    @property
    def eof(self) -> bool: ...
    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


def unwrapped(image: bytes) -> bytes | None:
    """The ELF file within a bzImage; None if there is none that can be taken out and entered."""
    if image[_MAGIC : _MAGIC + 4] != b"HdrS":
        return None
    sectors = image[_SETUP_SECTORS] or 4
    offset, length = struct.unpack_from("<II", image, _PAYLOAD)
    begin = (sectors + 1) * _SECTOR + offset
    try:
        kernel = _unpacked(image[begin : begin + length])
    except (OSError, ValueError, EOFError, zlib.error, lzma.LZMAError):
        return None
    return kernel if kernel is not None and _can_be_entered(kernel) else None


def _unpacked(payload: bytes) -> bytes | None:
    if payload.startswith(_LZ4_MAGIC):
        return _unpacked_lz4(payload)
    if payload.startswith(b"\x1f\x8b"):
        return _complete(zlib.decompressobj(31), payload)
    if payload.startswith((b"\xfd7zXZ\0", b"\x5d\0\0")):
        return _complete(lzma.LZMADecompressor(), payload)
    if payload.startswith(b"\x28\xb5\x2f\xfd"):
        if sys.version_info >= (3, 14):
            from compression import zstd
        else:
            from backports import zstd
        try:
            return _complete(zstd.ZstdDecompressor(), payload)
        except zstd.ZstdError as error:
            raise ValueError(str(error)) from None
    return None


def _complete(stream: _Stream, payload: bytes) -> bytes:
    data = stream.decompress(payload, MAX_BYTES)
    if not stream.eof:
        raise EOFError(f"no end within {MAX_BYTES} bytes")
    return data


def _unpacked_lz4(payload: bytes) -> bytes | None:
    """Blocks, each with its length; last comes that of the whole. By the library that crun loads."""
    try:
        unpack = ctypes.CDLL("liblz4.so.1").LZ4_decompress_safe
    except OSError:
        return None
    room = ctypes.create_string_buffer(_LZ4_BLOCK)
    parts, at = [], len(_LZ4_MAGIC)
    while at + 8 <= len(payload):  # four bytes of a block's length, or the last four
        (length,) = struct.unpack_from("<I", payload, at)
        at += 4
        count = unpack(payload[at : at + length], room, length, _LZ4_BLOCK)
        if count <= 0:
            raise ValueError("a block that cannot be unpacked")
        parts.append(room.raw[:count])
        at += length
    return b"".join(parts)


def _can_be_entered(kernel: bytes) -> bool:
    """Whether it is an ELF-64 with the note that names the entry for a 32-bit start (PVH: Xen, type 18)."""
    if kernel[:6] != b"\x7fELF\x02\x01":
        return False
    return (
        struct.pack("<III", 4, 4, 18) + b"Xen\0" in kernel
        or struct.pack("<III", 4, 8, 18) + b"Xen\0" in kernel
    )
