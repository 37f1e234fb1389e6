"""Lifecycle hooks: functions of other projects before and after the verbs.

A hook sees a frozen view of what the verb is about. A refusal or a failure before a verb refuses it, as the
settings say; verbs that end something always go on. After a verb nothing can be refused any more. Each call
is a stage in the pod's timeline, and a hook that fails is a warning in Status until it works again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from types import MappingProxyType, TracebackType

from crib.engine.notices import Notices
from crib.engine.timeline import SandboxTimeline
from crib.model.container import ContainerRecord
from crib.model.errors import Unavailable, WrongState
from crib.model.extension import ENDING, ContainerView, PodView, Refused, View
from crib.model.sandbox import SandboxRecord
from crib.ports.extensions import HookFailed, LifecycleHook

ERROR_LIMIT = 1000
"""Characters of a verb's error that hooks are told."""


class Hooks:
    """All hooks, in the order of the settings."""

    def __init__(self, hooks: Sequence[LifecycleHook], notices: Notices) -> None:
        self._hooks = hooks
        self._notices = notices

    def around(
        self, verb: str, view: Callable[[], View], stage: SandboxTimeline | None = None
    ) -> Around | _Nothing:
        """To be entered around a verb; `view` makes what hooks see, and is called only if there are any."""
        return Around(self, verb, view, stage) if self._hooks else _NOTHING

    async def call(self, moment: str, view: View, stage: SandboxTimeline | None) -> None:
        """Call every hook that has this moment. WrongState and Unavailable, unless nothing can be refused."""
        before, _, verb = moment.partition("_")
        may_refuse = before == "before" and verb not in ENDING
        for hook in self._hooks:
            if moment in hook.moments:
                with _timed(stage, hook.name, moment):
                    await self._call(hook, moment, view, may_refuse=may_refuse)

    async def _call(self, hook: LifecycleHook, moment: str, view: View, *, may_refuse: bool) -> None:
        subject = f"hook {hook.name}"
        try:
            await hook.call(moment, view)
        except Refused as refusal:
            if may_refuse:
                raise WrongState(f"hook {hook.name} refuses it: {refusal}") from refusal
            self._notices.warn(subject, f"{moment} refuses what cannot be refused: {refusal}")
        except HookFailed as failure:
            self._notices.warn(subject, f"{moment}: {failure}")
            if may_refuse and hook.failure_refuses:
                raise Unavailable(f"hook {hook.name} failed in {moment}: {failure}") from failure
        else:
            self._notices.healed(subject)


def _timed(stage: SandboxTimeline | None, name: str, moment: str) -> AbstractContextManager[object]:
    return stage(f"hook {name}", moment) if stage is not None else nullcontext()


class Around:
    """One verb between its hooks."""

    __slots__ = ("_hooks", "_stage", "_verb", "_view")

    def __init__(
        self, hooks: Hooks, verb: str, view: Callable[[], View], stage: SandboxTimeline | None
    ) -> None:
        self._hooks, self._verb, self._view, self._stage = hooks, verb, view, stage

    async def __aenter__(self) -> None:
        await self._hooks.call(f"before_{self._verb}", self._view(), self._stage)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None and not isinstance(error, Exception):
            return  # the daemon ends
        text = (str(error) or type(error).__name__)[:ERROR_LIMIT] if error is not None else ""
        await self._hooks.call(f"after_{self._verb}", replace(self._view(), error=text), self._stage)


class _Nothing:
    """Around a verb when there are no hooks."""

    async def __aenter__(self) -> None: ...

    async def __aexit__(self, *_: object) -> None: ...


_NOTHING = _Nothing()


def pod_view(record: SandboxRecord) -> PodView:
    """What hooks see of a pod."""
    config, metadata = record.config, record.config.metadata
    return PodView(
        id=record.id,
        namespace=metadata.namespace,
        name=metadata.name,
        uid=metadata.uid,
        attempt=metadata.attempt,
        handler=record.handler,
        labels=_frozen(config.labels),
        annotations=_frozen(config.annotations),
        hostname=config.hostname,
        host_network=config.host_network,
        privileged=config.security.privileged,
        addresses=tuple(record.network.addresses) if record.network else (),
    )


def container_view(record: ContainerRecord, sandbox: SandboxRecord | None) -> ContainerView:
    """What hooks see of a container; of a pod that is not on record any more it has the id."""
    config = record.config
    return ContainerView(
        id=record.id,
        name=config.name,
        attempt=config.attempt,
        image=config.user_specified_image or config.image,
        image_id=record.image_id,
        pod=pod_view(sandbox) if sandbox else PodView(record.sandbox_id, "", "", "", 0, ""),
        labels=_frozen(config.labels),
        annotations=_frozen(config.annotations),
        privileged=config.security.privileged,
        mounts=tuple((mount.host_path, mount.container_path) for mount in config.mounts),
        memory_limit=max(0, record.resources.memory_limit_in_bytes),
    )


def _frozen(values: Mapping[str, str]) -> Mapping[str, str]:
    return MappingProxyType(dict(values))
