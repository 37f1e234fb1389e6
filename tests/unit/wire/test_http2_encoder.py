"""Headers of HTTP/2 as another encoder packs them: with tables, new sizes of them, and packed strings.

The encoder here knows RFC 7541 alone, and nothing of the reader's: its code of strings is that of appendix B,
letter by letter, for the characters that it packs.
"""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from crib.wire.http2.hpack import HeaderReader

CODES = {
    "0": "00000", "1": "00001", "2": "00010", "a": "00011", "c": "00100", "e": "00101", "i": "00110",
    "o": "00111", "s": "01000", "t": "01001", " ": "010100", "%": "010101", "-": "010110", ".": "010111",
    "/": "011000", "3": "011001", "=": "100000", "A": "100001", "_": "100010", "b": "100011", "d": "100100",
    ":": "1011100", "B": "1011101", "w": "1111000", "x": "1111001", "y": "1111010", "z": "1111011",
    "&": "11111000", "*": "11111001", ",": "11111010", ";": "11111011", "X": "11111100", "Z": "11111101",
    "!": "1111111000", "\"": "1111111001", "(": "1111111010", ")": "1111111011", "?": "1111111100",
    "'": "11111111010", "+": "11111111011", "|": "11111111100", "#": "111111111010", ">": "111111111011",
    "$": "1111111111001", "@": "1111111111010", "[": "1111111111011", "]": "1111111111100",
    "~": "1111111111101", "^": "11111111111100", "}": "11111111111101", "<": "111111111111100",
    "`": "111111111111101", "{": "111111111111110",
}  # fmt: skip
STATIC = {(":method", "GET"): 2, (":method", "POST"): 3, (":path", "/"): 4, (":scheme", "http"): 6}
STATIC_NAMES = {":authority": 1, ":method": 2, ":path": 4, "content-type": 31, "te": 0, "user-agent": 58}
STATIC_ENTRIES = 61


class Encoder:
    """With a table of its own, as section 2.3 describes it."""

    def __init__(self) -> None:
        self.table: list[tuple[str, str]] = []
        self.limit = 4096

    def resize(self, size: int) -> bytes:
        self.limit = size
        self._evict()
        return self._number(size, 5, 0x20)

    def header(self, name: str, value: str, how: int, *, packs: bool) -> bytes:
        """`how`: with the table (0x40), without it (0x00), or never with it (0x10)."""
        if (name, value) in STATIC:
            return self._number(STATIC[name, value], 7, 0x80)
        if (name, value) in self.table:
            return self._number(STATIC_ENTRIES + 1 + self.table.index((name, value)), 7, 0x80)
        index = STATIC_NAMES.get(name, 0)
        names = [known for known, _ in self.table]
        if not index and name in names:
            index = STATIC_ENTRIES + 1 + names.index(name)
        out = self._number(index, 6 if how == 0x40 else 4, how)
        if not index:
            out += self._string(name, packs)
        out += self._string(value, packs)
        if how == 0x40:
            self.table.insert(0, (name, value))
            self._evict()
        return out

    def _evict(self) -> None:
        while sum(len(name) + len(value) + 32 for name, value in self.table) > self.limit:
            self.table.pop()

    def _string(self, text: str, packs: bool) -> bytes:
        if packs and all(letter in CODES for letter in text):
            bits = "".join(CODES[letter] for letter in text)
            bits += "1" * (-len(bits) % 8)
            raw = bytes(int(bits[at : at + 8], 2) for at in range(0, len(bits), 8))
            return self._number(len(raw), 7, 0x80) + raw
        return self._number(len(text), 7, 0) + text.encode("latin-1")

    def _number(self, value: int, bits: int, first: int) -> bytes:
        most = 2**bits - 1
        if value < most:
            return bytes((first | value,))
        out, value = [first | most], value - most
        while value >= 128:
            out.append(value % 128 + 128)
            value //= 128
        return bytes((*out, value))


TEXTS = st.one_of(
    st.text(st.sampled_from(sorted(CODES)), max_size=60),
    st.text(st.characters(max_codepoint=255), max_size=200),
    st.sampled_from(("GET", "POST", "/", "http", "x" * 4100)),
)
NAMES = st.one_of(
    st.sampled_from((*STATIC_NAMES, ":scheme", "x-a", "x-b", "x-c")),
    st.text(st.sampled_from("abcde-"), max_size=9),
)
HEADERS = st.tuples(NAMES, TEXTS, st.sampled_from((0x40, 0x40, 0x00, 0x10)), st.booleans())
SIZES = st.lists(st.sampled_from((0, 31, 40, 100, 300, 4096)), max_size=2)
BLOCKS = st.tuples(SIZES, st.lists(HEADERS, max_size=8), st.booleans())


@settings(deadline=None)
@given(st.lists(BLOCKS, max_size=12))
def test_blocks_of_another_encoder_mean_what_went_into_them(
    blocks: list[tuple[list[int], list[tuple[str, str, int, bool]], bool]],
) -> None:
    encoder, reader = Encoder(), HeaderReader()
    for sizes, headers, comes_again in blocks:
        for _ in range(1 + comes_again):  # the second time by what is in the table, if it fits
            block = b"".join(encoder.resize(size) for size in sizes)
            block += b"".join(encoder.header(*header[:3], packs=header[3]) for header in headers)
            assert reader.read(block) == tuple(header[:2] for header in headers)
            assert list(reader._table) == encoder.table
