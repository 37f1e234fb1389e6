"""What plugins answer, as our nouns: each value is checked, and an error names the field and the plugin."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from crib.backends.nri.translate_adjustment import container_edits
from crib.backends.nri.translate_checks import Misfit, each, name, text
from crib.backends.nri.translate_limits import resource_change
from crib.model.ids import ContainerId
from crib.model.plugins import ContainerUpdate, Eviction, PluginOrders
from crib.ocispec.adjust import NodePluginAnswer
from crib.ports.plugins import PluginRefused
from crib.stubs.nri.v1alpha1 import api_pb2 as pb

_MAX_REASON = 4096
"""Bytes of why a container is to be evicted."""
_MAX_UPDATES = 4096
"""Containers in one answer: more than a node has."""


def create_answer(plugin: str, answer: pb.CreateContainerResponse) -> NodePluginAnswer:
    """PluginRefused; so with all that follow. `plugin` is `10-name`."""
    with _answer_of(plugin, "CreateContainer"):
        edits = container_edits(plugin, answer.adjust) if answer.adjust.ByteSize() else None
        return NodePluginAnswer(plugin, edits, _orders(plugin, answer.update, answer.evict))


def update_answer(plugin: str, answer: pb.UpdateContainerResponse) -> NodePluginAnswer:
    """Its updates may be of the container itself: they change the update that it was asked about."""
    with _answer_of(plugin, "UpdateContainer"):
        return NodePluginAnswer(plugin, orders=_orders(plugin, answer.update, answer.evict))


def stop_answer(plugin: str, answer: pb.StopContainerResponse) -> NodePluginAnswer:
    """There are no evictions in it."""
    with _answer_of(plugin, "StopContainer"):
        return NodePluginAnswer(plugin, orders=_orders(plugin, answer.update, ()))


def synchronize_updates(plugin: str, updates: Sequence[pb.ContainerUpdate]) -> tuple[ContainerUpdate, ...]:
    """Of all parts of a Synchronize."""
    with _answer_of(plugin, "Synchronize"):
        return _orders(plugin, updates, ()).updates


def unasked_orders(plugin: str, request: pb.UpdateContainersRequest) -> PluginOrders:
    """What a plugin wants without having been asked."""
    with _answer_of(plugin, "UpdateContainers"):
        return _orders(plugin, request.update, request.evict)


@contextmanager
def _answer_of(plugin: str, moment: str) -> Iterator[None]:
    try:
        yield
    except Misfit as error:
        raise PluginRefused(f"NRI plugin {plugin}, {moment}: {error}") from error


def _orders(
    plugin: str, updates: Sequence[pb.ContainerUpdate], evictions: Sequence[pb.ContainerEviction]
) -> PluginOrders:
    return PluginOrders(
        updates=each("update", updates, lambda one: _update(plugin, one), _MAX_UPDATES),
        evictions=each("evict", evictions, lambda one: _eviction(plugin, one), _MAX_UPDATES),
    )


def _update(plugin: str, update: pb.ContainerUpdate) -> ContainerUpdate:
    return ContainerUpdate(
        container=ContainerId(name(update.container_id, "container_id")),
        change=resource_change(update.linux.resources, "linux.resources"),
        plugin=plugin,
        ignore_failure=update.ignore_failure,
    )


def _eviction(plugin: str, eviction: pb.ContainerEviction) -> Eviction:
    return Eviction(
        container=ContainerId(name(eviction.container_id, "container_id")),
        reason=text(eviction.reason, "reason", _MAX_REASON),
        plugin=plugin,
    )
