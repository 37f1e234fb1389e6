"""What two reports of a kept pod, one after the other, say of restarts and of probes."""

from __future__ import annotations

from collections.abc import Iterator

from crib.model.events import EventKind, NodeEvent
from crib.wire.kept import MAX_MESSAGE, ContainerReport, PodReport

_WHO = "by crib's supervisor"
_NS = 1_000_000_000


def changes(before: PodReport | None, after: PodReport, now: int) -> Iterator[NodeEvent]:
    """A pause before each restart, if there is one, the restart, and what probes found; `now` in nanoseconds.

    Without a report before, the daemon may have been killed between a restart and its being told: the restart
    of each container is told then, and whoever keeps events knows whether it has been told.
    The pod's name is left out, which reports do not have. A container of a Job is called POD/NAME in them.
    """
    if before is None:
        started_again = tuple(
            ContainerReport(one.name, restarts=one.restarts - 1)
            for one in after.containers
            if one.restarts and one.id
        )
        before = PodReport(after.uid, "", containers=started_again)
    earlier = {one.name: one for one in before.containers}
    for one in after.containers:
        last = earlier.get(one.name)
        if last is None:
            continue
        if probed := _probed(last, one):
            yield _event(after, one, now, *probed)
        action = text = ""
        if one.restarts > last.restarts:
            why = _why(last, is_same_pod=before.sandbox in ("", after.sandbox))
            action, text = "restarted", f"{why}; restart {one.restarts}, {_WHO}"
        elif one.until > now and one.until != last.until:
            pause = round((one.until - now) / _NS, 1)
            action = "backing off"
            text = f"{_why(one)}; again in {pause:g} s (restart {one.restarts + 1}, {_WHO})"
        if action:
            yield _event(after, one, now, action, text)


def _probed(last: ContainerReport, one: ContainerReport) -> tuple[str, str] | None:
    """Action and text where a probe has found something else than before."""
    before = last.probe if last.id == one.id else ""
    if one.probe and one.probe != before:
        return "unhealthy", one.probe[:MAX_MESSAGE]
    is_well = before and one.ready and one.id == last.id
    return ("healthy", "its readiness probe succeeds again") if is_well else None


def _event(pod: PodReport, one: ContainerReport, now: int, action: str, text: str) -> NodeEvent:
    return NodeEvent(
        EventKind.CONTAINER,
        action,
        now,
        subject=one.id,
        pod_id=pod.sandbox,
        name=one.name.rpartition("/")[2],
        text=text,
    )


def _why(one: ContainerReport, *, is_same_pod: bool = True) -> str:
    if one.message:
        return one.message[:MAX_MESSAGE]
    if one.until or one.state.startswith("Exited"):
        return f"exit code {one.exit_code}"
    return "it ended" if is_same_pod else "its pod was made again"
