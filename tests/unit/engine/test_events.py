"""Events: order, content, and that nobody slow holds up the others."""

from __future__ import annotations

import pytest

from crib.engine.events import SUBSCRIBER_LIMIT, EventBus, Subscription
from crib.model.errors import Exhausted
from crib.model.events import ContainerEvent, EventType
from tests.fakes.world import bounded, next_events


def event(number: int) -> ContainerEvent:
    return ContainerEvent(f"c{number}", EventType.CREATED, number, None, ())


async def drained(subscription: Subscription) -> list[int]:
    async with bounded():
        return [item.at async for item in subscription.events()]


async def test_every_subscriber_gets_every_event_in_order_since_it_began() -> None:
    bus = EventBus()
    early = bus.subscribe()
    bus.publish(event(1))
    late = bus.subscribe()
    bus.publish(event(2))
    bus.publish(event(3))
    assert [item.at for item in await next_events(early, 3)] == [1, 2, 3]
    assert [item.at for item in await next_events(late, 2)] == [2, 3]


async def test_a_slow_subscriber_is_closed_with_exhausted_and_others_go_on() -> None:
    bus = EventBus(limit=3)
    slow, quick = bus.subscribe(), bus.subscribe()
    for number in range(6):
        bus.publish(event(number))
        assert [item.at for item in await next_events(quick, 1)] == [number]
    got = []
    with pytest.raises(Exhausted, match="more than 3 events behind"):  # noqa: PT012  # it is raised in the loop
        async with bounded():
            async for item in slow.events():
                got.append(item.at)
    assert got == []  # what it held was dropped: it may never have come for it
    assert bus._subscriptions == {quick}


async def test_who_unsubscribed_gets_nothing_more() -> None:
    bus = EventBus()
    subscription = bus.subscribe()
    bus.unsubscribe(subscription)
    bus.publish(event(1))
    subscription.close()
    assert await drained(subscription) == []
    bus.unsubscribe(subscription)


async def test_closing_ends_every_subscription_after_what_it_holds() -> None:
    bus = EventBus(limit=1)
    one, full = bus.subscribe(), bus.subscribe()
    bus.publish(event(1))
    await next_events(one, 1)
    bus.close()
    assert await drained(one) == []
    assert await drained(full) == [1]


async def test_a_subscription_that_lags_is_not_closed_twice() -> None:
    subscription = Subscription(1)
    assert subscription.push(event(1))
    assert not subscription.push(event(2))
    subscription.close()
    with pytest.raises(Exhausted):
        await drained(subscription)


async def test_there_is_a_bound_to_the_number_of_subscribers() -> None:
    bus = EventBus()
    for _ in range(SUBSCRIBER_LIMIT):
        bus.subscribe()
    with pytest.raises(Exhausted, match=f"{SUBSCRIBER_LIMIT} event subscribers"):
        bus.subscribe()
