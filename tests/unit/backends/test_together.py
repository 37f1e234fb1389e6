"""Questions of one turn of the loop are answered by one step in a thread."""

from __future__ import annotations

import asyncio
import threading

import pytest

from crib.backends.together import Together


async def test_questions_of_one_turn_are_answered_by_one_thread_and_an_error_is_its_askers_alone() -> None:
    threads: list[int] = []

    def look(number: int) -> int:
        threads.append(threading.get_ident())
        if number == 3:
            raise FileNotFoundError(str(number))
        return 2 * number

    looks = Together("looking", look)
    answers = await asyncio.gather(*(looks.ask(number) for number in range(5)), return_exceptions=True)
    assert answers[:3] == [0, 2, 4]
    assert isinstance(answers[3], FileNotFoundError)
    assert answers[4] == 8
    assert len(set(threads)) == 1
    assert threads[0] != threading.get_ident()


async def test_who_asks_and_leaves_takes_nothing_from_the_others() -> None:
    looks: Together[int, int] = Together("looking", lambda number: -number)
    leaves, stays = asyncio.ensure_future(looks.ask(1)), asyncio.ensure_future(looks.ask(2))
    await asyncio.sleep(0)
    leaves.cancel()
    assert await stays == -2
    with pytest.raises(asyncio.CancelledError):
        await leaves
    assert await looks.ask(3) == -3
