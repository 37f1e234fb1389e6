"""The port `NodePlugins`: all plugins as one, in their order.

The plugins of one verb are asked one after the other, and each sees what those before it made of a container.
A plugin is asked one thing at a time, and only there do verbs of different pods wait for each other: a slow
plugin delays others by its own calls only. What cannot be refused (an end, something that has happened) is
told to all plugins, whatever one of them answers.
"""

from __future__ import annotations

import contextlib
import logging
import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from google.protobuf.message import Message

from crib.backends.nri.members import Members
from crib.backends.nri.moments import REFUSABLE, Moment
from crib.backends.nri.plugin import Plugin
from crib.backends.nri.requests import (
    ANSWERS,
    MOMENTS,
    PodMessages,
    container_request,
    pod_request,
    update_request,
)
from crib.backends.nri.translate import container_message
from crib.backends.nri.translate_answers import create_answer, stop_answer, update_answer
from crib.backends.nri.translate_validation import validation_request
from crib.model.edits import ContainerEdits
from crib.model.nri_settings import NriSettings
from crib.model.plugin_status import PluginFigures, PluginStatus
from crib.model.plugins import (
    ContainerMoment,
    CreateAnswer,
    PluginOrders,
    PodMoment,
    ShownContainer,
    ShownPod,
    UpdateAnswer,
)
from crib.model.resource_change import ResourceChange
from crib.ocispec.adjust import Answers, NodePluginAnswer
from crib.ocispec.adjust_owners import Contradiction, Owners
from crib.ocispec.adjust_rules import rejections
from crib.ports.clocks import StageTimer
from crib.ports.plugins import PluginHost, PluginRefused
from crib.stubs.nri.v1alpha1 import api_pb2 as pb

_log = logging.getLogger(__name__)
M = TypeVar("M", bound=Message)


@dataclass(frozen=True, slots=True)
class _About:
    """What plugins are asked or told."""

    moment: Moment
    subject: str
    """Id of the pod or container."""
    stage: StageTimer


class NriPlugins:
    """See NodePlugins."""

    def __init__(self, settings: NriSettings, figures: PluginFigures | None = None) -> None:
        self._settings = settings
        self.limit = settings.request_timeout
        """Seconds for one call."""
        self.figures = figures or PluginFigures()
        self._members = Members(settings, self.figures, self._look)
        self._pods = PodMessages()
        self.present = False
        self._look()

    def _look(self) -> None:
        """At whether there is anybody to ask."""
        self.present = bool(self._members.ready) or self._settings.validator.enable

    async def begin(self, host: PluginHost) -> None:
        """See NodePlugins."""
        await self._members.begin(host)

    def accept(self, end: socket.socket) -> None:
        """Somebody has connected, who says that it is a plugin; `end` is ours."""
        self._members.accept(end)

    async def close(self) -> None:
        """See NodePlugins."""
        await self._members.close()

    def hears(self, call: str) -> bool:
        """See NodePlugins."""
        return bool(self._asking(MOMENTS[call]))

    def statuses(self) -> Sequence[PluginStatus]:
        """See NodePlugins."""
        return self._members.statuses()

    async def pod(self, moment: PodMoment, pod: ShownPod, stage: StageTimer) -> None:
        """See NodePlugins."""
        about = _About(MOMENTS[moment], pod.record.id, stage)
        await self._tell(about, lambda: pod_request(moment, pod, self._pods.of(pod)))

    async def container(
        self, moment: ContainerMoment, pod: ShownPod, container: ShownContainer, stage: StageTimer
    ) -> None:
        """See NodePlugins."""
        about = _About(MOMENTS[moment], container.record.id, stage)
        await self._tell(
            about, lambda: container_request(about.moment, self._pods.of(pod), container_message(container))
        )

    async def create(self, pod: ShownPod, container: ShownContainer, stage: StageTimer) -> CreateAnswer:
        """See NodePlugins."""
        about = _About(Moment.CREATE_CONTAINER, container.record.id, stage)
        answers = Answers(container.record.id, creating=True)
        asked = []
        for plugin in self._members.ready:
            if plugin.wants(about.moment):
                shown = container_message(container, answers.edits)
                request = container_request(about.moment, self._pods.of(pod), shown)
                reply = await self._ask(plugin, about, request, pb.CreateContainerResponse)
                if reply is None:
                    continue  # it was dropped, and has not judged this container
                with _refusing(about):
                    answers.add(_counted(plugin, create_answer(str(plugin), reply)))
            asked.append(plugin)
        await self._validate(pod, container, answers, asked, stage)
        return CreateAnswer(answers.edits, answers.orders)

    async def update(
        self, pod: ShownPod, container: ShownContainer, change: ResourceChange, stage: StageTimer
    ) -> UpdateAnswer:
        """See NodePlugins."""
        about = _About(Moment.UPDATE_CONTAINER, container.record.id, stage)
        answers = Answers(container.record.id, change)
        for plugin in self._asking(about.moment):
            shown = container_message(container)
            request = update_request(self._pods.of(pod), shown, answers.change or change)
            reply = await self._ask(plugin, about, request, pb.UpdateContainerResponse)
            if reply is not None:
                with _refusing(about):
                    answers.add(_counted(plugin, update_answer(str(plugin), reply)))
        return UpdateAnswer(answers.change, answers.orders)

    async def stop(self, pod: ShownPod, container: ShownContainer, stage: StageTimer) -> PluginOrders:
        """See NodePlugins. What plugins want is done, whether or not another one fails."""
        about = _About(Moment.STOP_CONTAINER, container.record.id, stage)
        answers = Answers(container.record.id)
        asking = self._asking(about.moment)
        if not asking:
            return answers.orders
        request = container_request(about.moment, self._pods.of(pod), container_message(container))
        for plugin in asking:
            try:
                reply = await self._ask(plugin, about, request, pb.StopContainerResponse)
                if reply is not None:
                    with _refusing(about):
                        answers.add(_counted(plugin, stop_answer(str(plugin), reply)))
            except PluginRefused as error:
                _log.warning("%s", error)
        return answers.orders

    def _asking(self, moment: Moment) -> list[Plugin]:
        return [plugin for plugin in self._members.ready if plugin.wants(moment)]

    async def _tell(self, about: _About, request: Callable[[], Message]) -> None:
        asking = self._asking(about.moment)
        if not asking:
            return
        message = request()
        first: PluginRefused | None = None
        for plugin in asking:
            try:
                await self._ask(plugin, about, message, ANSWERS[about.moment])
            except PluginRefused as error:
                if about.moment in REFUSABLE:
                    raise
                first = first or error
        if first is not None:
            raise first

    async def _ask(self, plugin: Plugin, about: _About, request: Message, kind: type[M]) -> M | None:
        with about.stage(f"NRI {plugin}", about.moment.call):
            return await plugin.ask(about.moment, request, kind, about.subject, self.limit)

    async def _validate(
        self,
        pod: ShownPod,
        container: ShownContainer,
        answers: Answers,
        asked: Sequence[Plugin],
        stage: StageTimer,
    ) -> None:
        """By the settings, and by the plugins that validate; PluginRefused."""
        about = _About(Moment.VALIDATE_CONTAINER_ADJUSTMENT, container.record.id, stage)
        names = [str(plugin) for plugin in asked]
        config = container.record.config
        owners = answers.owners.get(container.record.id) or Owners()
        problems = rejections(self._settings.validator, pod.record.config, config, owners, names)
        if text := "; ".join(problems):
            raise PluginRefused(f"container {about.subject} is rejected: {text}")
        judges = self._asking(about.moment)
        if not judges:
            return
        asked_names = [(one.name.index, one.name.base) for one in asked if one.name is not None]
        request = validation_request(pod, container, answers, asked_names)
        for judge in judges:
            reply = await self._ask(judge, about, request, pb.ValidateContainerAdjustmentResponse)
            if reply is None:
                raise PluginRefused(f"validator {judge} did not judge container {about.subject}")
            if reply.reject:
                why = reply.reason or "it gives no reason"
                raise PluginRefused(f"validator {judge} rejects container {about.subject}: {why}")


@contextlib.contextmanager
def _refusing(about: _About) -> Iterator[None]:
    """What plugins want that cannot be together: the verb fails."""
    try:
        yield
    except Contradiction as error:
        raise PluginRefused(f"{about.moment.call} of {about.subject}: {error}") from error


def _counted(plugin: Plugin, answer: NodePluginAnswer) -> NodePluginAnswer:
    """Without edits that change nothing, which would be kept with the container."""
    plugin.count(answer.orders)
    if answer.edits is not None and answer.edits == ContainerEdits(answer.edits.origin):
        return replace(answer, edits=None)
    return answer
