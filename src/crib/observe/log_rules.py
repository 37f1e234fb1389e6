"""Rules for the log at run time: more lines, or fewer, of all or of some, for a while.

A logger that is not asked costs nothing, so the root's level is the lowest that somebody wants, and while
somebody wants lines of some calls only, the others are made and then dropped.
"""

from __future__ import annotations

import logging
import time
from asyncio import TimerHandle, get_running_loop
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from crib.model.caller import CallObject
from crib.model.errors import Exhausted
from crib.model.log_rule import LogRule
from crib.tasks.calls import CallUnderWay, current_call
from crib.tasks.keeper import current_work

_log = logging.getLogger(__name__)

RULES_LIMIT = 16
"""At once."""
MIN_ID = 8
"""Characters of an id from which on a line belongs to an object because it names it."""
_LOUD = ("asyncio", "grpc", "aiohttp", "pyroute2")
"""Libraries whose debug lines are about themselves; they are heard from WARNING up."""


@dataclass(eq=False, slots=True)
class _Followed:
    rule: LogRule
    level: int
    timer: TimerHandle


class LogRules:
    """Of this process, which has one log."""

    def __init__(self) -> None:
        self._usual = logging.INFO
        self._base = logging.INFO
        self._followed: list[_Followed] = []
        self._scoped: tuple[_Followed, ...] = ()
        self.describe: Callable[[str], CallObject] = lambda _: CallObject()
        """What is on record under an id."""

    def set_usual(self, level: str) -> None:
        """Without rules this is the level; a name of the logging module in any case."""
        self._usual = _number(level)
        self._apply()

    def follow(self, rule: LogRule) -> None:
        """Until it ends; to be called on the loop. Of those for all lines the latest counts."""
        if len(self._followed) >= RULES_LIMIT:
            raise Exhausted(f"there are {RULES_LIMIT} rules for the log already: reset them first")
        seconds = max(0.0, (rule.ends_at - time.time_ns()) / 1e9)
        timer = get_running_loop().call_later(seconds, self._end, rule)
        self._followed.append(_Followed(rule, _number(rule.level), timer))
        self._apply()
        _log.log(max(self._base, logging.INFO), "log: %s for %.0f s", shown(rule), seconds)

    def reset(self) -> None:
        for one in self._followed:
            one.timer.cancel()
        self._followed.clear()
        self._apply()

    def __call__(self) -> Sequence[LogRule]:
        return [one.rule for one in self._followed]

    def allows(self, record: logging.LogRecord) -> bool:
        """Whether it is written; it has passed the root's level. It is asked by the task that made it."""
        if record.levelno >= self._base or not self._scoped:
            return True
        return any(record.levelno >= one.level and self._is_of(record, one.rule) for one in self._scoped)

    def _end(self, rule: LogRule) -> None:
        self._followed = [one for one in self._followed if one.rule is not rule]
        self._apply()
        _log.log(max(self._base, logging.INFO), "log: %s has ended", shown(rule))

    def _apply(self) -> None:
        for_all = [one.level for one in self._followed if one.rule.is_for_all]
        self._base = for_all[-1] if for_all else self._usual
        self._scoped = tuple(one for one in self._followed if not one.rule.is_for_all)
        lowest = min((self._base, *(one.level for one in self._scoped)))
        logging.getLogger().setLevel(lowest)
        for name in _LOUD:
            logging.getLogger(name).setLevel(max(lowest, logging.WARNING))

    def _is_of(self, record: logging.LogRecord, rule: LogRule) -> bool:
        call, work = current_call(), current_work()
        if rule.verb and (call is None or call.verb.lower() != rule.verb.lower()):
            return False
        if rule.caller and (call is None or not _is_by(call, rule.caller)):
            return False
        objects = [call.object] if call is not None else []
        if work is not None and work.of and (rule.pod or rule.container):
            objects.append(self.describe(work.of))
        named = [text for text in (rule.pod, rule.container) if len(text) >= MIN_ID]
        if named and (message := record.getMessage()) and all(text in message for text in named):
            return True
        return any(_is_about(one, rule) for one in objects) if rule.pod or rule.container else True


def _is_by(call: CallUnderWay, text: str) -> bool:
    peers = call.peers
    return text in call.agent or any(text == str(one.pid) or text in one.executable for one in peers)


def _is_about(found: CallObject, rule: LogRule) -> bool:
    pod, container = rule.pod, rule.container
    names = (found.pod, found.pod.partition("/")[2])
    is_pod = not pod or pod in names or _begins(found.sandbox, pod)
    return is_pod and (not container or container == found.name or _begins(found.container, container))


def _begins(identifier: str, text: str) -> bool:
    return len(text) >= MIN_ID and identifier.startswith(text)


def _number(level: str) -> int:
    return logging.getLevelNamesMapping()[level.upper()]


def shown(rule: LogRule) -> str:
    """For a person: `debug of pod default/web`."""
    parts = ((name, getattr(rule, name)) for name in ("pod", "container", "verb", "caller"))
    which = ", ".join(f"{name} {text}" for name, text in parts if text)
    return f"level {rule.level} of {which or 'all lines'}"


RULES = LogRules()
"""Of this process."""
