"""What several plugins have answered, one after the other, made into one answer.

A plugin sees what those before it have made of the container (`edits.with_edits`), and may not set what one
of them has set unless it removes that first. So their edits can be put into the spec one after the other,
and each part of it has one plugin that it is from.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

from crib.model.edits import ContainerEdits
from crib.model.ids import ContainerId
from crib.model.plugins import ContainerUpdate, Eviction, PluginOrders
from crib.model.resource_change import ResourceChange
from crib.ocispec.adjust_owners import Contradiction, Owners

_NOTHING = PluginOrders()


@dataclass(frozen=True, slots=True)
class NodePluginAnswer:
    """One plugin's answer."""

    plugin: str
    """As `10-name`."""
    edits: ContainerEdits | None = None
    """Of the container that is being created."""
    orders: PluginOrders = _NOTHING


class Answers:
    """Collects what plugins answer about one container that is created, updated or stopped."""

    def __init__(
        self, container: ContainerId, asked: ResourceChange | None = None, *, creating: bool = False
    ) -> None:
        """`asked` is the change that the client of an update wants; None while there is no update."""
        self._container = container
        self._creating = creating
        self._asked = asked
        self._changed = False
        self._updates: dict[ContainerId, ContainerUpdate] = {}
        self._evictions: dict[ContainerId, Eviction] = {}
        self.edits: tuple[ContainerEdits, ...] = ()
        """In the order of the plugins."""
        self.owners: dict[ContainerId, Owners] = {}

    @property
    def change(self) -> ResourceChange | None:
        """What the update has become; None: it is as it was asked for."""
        return self._asked if self._changed else None

    @property
    def orders(self) -> PluginOrders:
        """For other containers: one update each, in the order in which they were first asked for."""
        return PluginOrders(tuple(self._updates.values()), tuple(self._evictions.values()))

    def add(self, answer: NodePluginAnswer) -> None:
        """The next plugin's. Contradiction: the call that they were asked about is to fail."""
        if answer.edits is not None:
            self._owners(self._container).take(answer.plugin, answer.edits)
            self.edits = (*self.edits, answer.edits)
        for update in answer.orders.updates:
            if self._creating and update.container == self._container:
                raise Contradiction(
                    f'plugin "{answer.plugin}" asked update of "{self._container}" during creation'
                )
            try:
                self._owners(update.container).take_limits(answer.plugin, update.change)
            except Contradiction:
                if not update.ignore_failure:
                    raise
            else:
                self._put(update)
        for eviction in answer.orders.evictions:
            self._evictions.setdefault(eviction.container, eviction)

    def _put(self, update: ContainerUpdate) -> None:
        if self._asked is not None and update.container == self._container:
            self._asked = overlaid(self._asked, update.change)
            self._changed = True
            return
        before = self._updates.get(update.container)
        if before is not None:
            update = replace(
                update,
                change=overlaid(before.change, update.change),
                plugin=", ".join(dict.fromkeys((before.plugin, update.plugin))),
                ignore_failure=before.ignore_failure and update.ignore_failure,
            )
        self._updates[update.container] = update

    def _owners(self, container: ContainerId) -> Owners:
        return self.owners.setdefault(container, Owners())


def overlaid(below: ResourceChange, above: ResourceChange) -> ResourceChange:
    """Both changes; where both say something `above` holds."""
    changes = {one.name: getattr(above, one.name) for one in fields(above)}
    changes = {name: value for name, value in changes.items() if value not in (None, {})}
    for name in ("hugepage_limits", "unified"):
        changes[name] = {**getattr(below, name), **getattr(above, name)}
    return replace(below, **changes)
