"""Container events to any number of subscribers, none of whom can hold up the daemon."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from crib.model.errors import Exhausted
from crib.model.events import ContainerEvent
from crib.model.tallies import Tally

QUEUE_LIMIT = 4096
"""Events that a subscriber may lag behind before it is closed."""
SUBSCRIBER_LIMIT = 64


class Subscription:
    """One reader's bounded queue. Closed when it lags too far: the kubelet then lists anew."""

    def __init__(self, limit: int) -> None:
        self._queue: asyncio.Queue[ContainerEvent | None] = asyncio.Queue(limit + 1)
        self._limit = limit
        self.lagging = False

    def push(self, event: ContainerEvent) -> bool:
        """False when the queue is full: the subscription then ends, and what it holds is dropped.

        Its reader lists anew in any case, and one that never reads again would keep the events for ever.
        """
        if self._queue.qsize() >= self._limit:
            self.lagging = True
            while not self._queue.empty():
                self._queue.get_nowait()
            self._queue.put_nowait(None)
            return False
        self._queue.put_nowait(event)
        return True

    def close(self) -> None:
        if not self.lagging and self._queue.qsize() <= self._limit:
            self._queue.put_nowait(None)

    async def events(self) -> AsyncIterator[ContainerEvent]:
        """Every event since the subscription began; Exhausted when the reader was too slow."""
        while (event := await self._queue.get()) is not None:
            yield event
        if self.lagging:
            raise Exhausted(f"event subscriber is more than {self._limit} events behind")


class EventBus:
    """Publishes to all current subscribers; never waits."""

    def __init__(self, limit: int = QUEUE_LIMIT) -> None:
        self._limit = limit
        self._subscriptions: set[Subscription] = set()
        self.published = Tally()
        """By type."""
        self.cut_off = 0
        """Subscribers that lagged behind too far."""

    @property
    def subscribers(self) -> int:
        return len(self._subscriptions)

    def subscribe(self) -> Subscription:
        if len(self._subscriptions) >= SUBSCRIBER_LIMIT:
            raise Exhausted(f"there are {SUBSCRIBER_LIMIT} event subscribers already")
        subscription = Subscription(self._limit)
        self._subscriptions.add(subscription)
        return subscription

    def unsubscribe(self, subscription: Subscription) -> None:
        self._subscriptions.discard(subscription)

    def publish(self, event: ContainerEvent) -> None:
        self.published.add((event.type.name.lower(),))
        for subscription in tuple(self._subscriptions):
            if not subscription.push(event):
                self._subscriptions.discard(subscription)
                self.cut_off += 1

    def close(self) -> None:
        for subscription in tuple(self._subscriptions):
            subscription.close()
        self._subscriptions.clear()
