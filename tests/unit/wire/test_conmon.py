from __future__ import annotations

import pytest

from crib.wire.conmon import decode_exit, decode_sync, window_size


def test_sync_line_gives_the_pid() -> None:
    assert decode_sync(b'{"pid": 42}').pid == 42


def test_sync_line_gives_the_runtimes_words() -> None:
    found = decode_sync(b'{"pid": -1, "message": "no \\"such\\" file\\n"}')
    assert (found.pid, found.message) == (-1, 'no "such" file\n')


@pytest.mark.parametrize("line", [b"", b"{", b'{"pid": "x"}', b"[]", b"\xff"])
def test_other_sync_lines_are_errors(line: bytes) -> None:
    with pytest.raises(ValueError, match="sync"):
        decode_sync(line)


@pytest.mark.parametrize(("data", "code"), [(b"0", 0), (b"137\n", 137), (b"-1", 255), (b"999", 255)])
def test_exit_file_gives_a_code(data: bytes, code: int) -> None:
    assert decode_exit(data) == code


@pytest.mark.parametrize("data", [b"", b"x", b"1 2", b"9999999"])
def test_torn_exit_file_is_an_error(data: bytes) -> None:
    with pytest.raises(ValueError, match="exit"):
        decode_exit(data)


def test_a_window_s_size_is_told_as_rows_and_columns() -> None:
    assert window_size(132, 50) == b"50 132\n"
