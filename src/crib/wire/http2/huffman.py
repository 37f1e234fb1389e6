"""The code that strings of headers may be packed with (RFC 7541, section 5.2, appendix B). Only unpacked."""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise

KEPT, KEPT_BYTES = 512, 256
"""Strings whose plain form is kept, and their bytes at most: callers send the same ones again and again."""
PADDING = 7
"""Bits at most behind the last symbol; all of them are set."""
_END = 256
"""The symbol that ends a string, and must not be in one."""
_LENGTHS = (
    *(13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28),
    *(28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28),
    *(6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6),
    *(5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10),
    *(13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7),
    *(7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6),
    *(15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5),
    *(6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28),
    *(20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23),
    *(24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24),
    *(22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23),
    *(21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23),
    *(26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25),
    *(19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27),
    *(20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23),
    *(26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26),
    30,
)
"""Bits of each symbol. The code is canonical: codes of one length follow in the order of symbols."""


class BadString(ValueError):
    """It is not packed as the appendix says."""


def _codes() -> dict[int, int]:
    """Symbols by their code with a 1 before it, which keeps leading zeros."""
    symbols = sorted(range(len(_LENGTHS)), key=lambda symbol: (_LENGTHS[symbol], symbol))
    found, code = {1 << _LENGTHS[symbols[0]]: symbols[0]}, 0
    for before, symbol in pairwise(symbols):
        code = (code + 1) << (_LENGTHS[symbol] - _LENGTHS[before])
        found[1 << _LENGTHS[symbol] | code] = symbol
    return found


_SYMBOLS = _codes()


def unpacked(packed: bytes) -> bytes:
    """The plain string. Raises BadString."""
    return _kept(packed) if len(packed) <= KEPT_BYTES else _unpacked(packed)


def _unpacked(packed: bytes) -> bytes:
    plain, code = bytearray(), 1
    for byte in packed:
        for shift in (7, 6, 5, 4, 3, 2, 1, 0):
            code = code << 1 | byte >> shift & 1
            symbol = _SYMBOLS.get(code)
            if symbol is not None:
                if symbol == _END:
                    raise BadString("the end is within a string")
                plain.append(symbol)
                code = 1
    if code.bit_length() > PADDING + 1 or code & (code + 1):
        raise BadString("the padding is not what ends a string")
    return bytes(plain)


_kept = lru_cache(KEPT)(_unpacked)
