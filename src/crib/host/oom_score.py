"""Our OOM score, which children inherit, as another one for a moment."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator


@contextlib.contextmanager
def lent(score: int | None) -> Iterator[None]:
    """Have another OOM score for the moment in which a child is made.

    Afterwards it would be too late: a runtime forks within half a millisecond.
    """
    if score is None:
        yield
        return
    ours = _read_score()
    if ours != score:
        _write_score(score)
    try:
        yield
    finally:
        if ours != score:
            _write_score(ours)


def _read_score() -> int:
    with open("/proc/self/oom_score_adj", encoding="ascii") as file:
        return int(file.read())


def _write_score(score: int) -> None:
    # To go below one's own takes CAP_SYS_RESOURCE; without it the child keeps ours.
    with contextlib.suppress(PermissionError), open("/proc/self/oom_score_adj", "wb") as file:
        file.write(b"%d" % score)
