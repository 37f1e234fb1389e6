"""What is wrong with the node: one fault a subject, and a memory of what is over."""

from __future__ import annotations

from crib.engine.notices import LIMIT, Notices
from tests.fakes.clock import ManualClock


def test_a_fault_lasts_until_it_has_healed_and_is_remembered_then() -> None:
    clock = ManualClock()
    notices = Notices(clock)
    notices.fault("records", "disk full")
    began = notices.faults[0].at
    clock.advance(1)
    notices.fault("records", "disk read-only")
    assert [(fault.text, fault.at) for fault in notices.faults] == [("disk read-only", began)]
    notices.healed("records")
    notices.healed("records")
    assert notices.faults == ()
    assert [(notice.text, notice.is_fault) for notice in notices] == [
        ("disk read-only; that has ended", False)
    ]


def test_what_is_over_is_kept_up_to_a_limit() -> None:
    notices = Notices(ManualClock())
    for number in range(LIMIT + 5):
        notices.past("start", str(number))
    assert [notice.text for notice in notices][::-1] == [str(number) for number in range(5, LIMIT + 5)]
