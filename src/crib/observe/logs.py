"""The daemon's log: one line a record on stderr, as text or JSON, with the ids of the call it belongs to.

Times are RFC 3339 in UTC with microseconds.
"""

from __future__ import annotations

import json
import logging
import sys
from collections import deque
from datetime import UTC, datetime
from typing import TextIO

from crib.model.settings import LogSettings
from crib.model.tallies import Tally
from crib.observe.log_rules import RULES
from crib.tasks.calls import CallUnderWay, current_call

MAX_MESSAGE = 16 << 10
"""Characters of one record's message: what programs print may be in it."""
LATEST = 200
"""Lines that are kept in memory, for whoever looks into the daemon."""
LATEST_LENGTH = 2000
"""Characters of each of these."""


def set_up(settings: LogSettings, stream: TextIO | None = None) -> None:
    """Send every record to `stream` (stderr). Calling it again replaces what was set before."""
    handler = _Handler(stream or sys.stderr)
    handler.setFormatter(_JsonFormatter() if settings.format == "json" else _TextFormatter())
    handler.addFilter(_with_call)
    handler.addFilter(RULES.allows)
    root = logging.getLogger()
    for old in tuple(root.handlers):
        if isinstance(old.formatter, (_TextFormatter, _JsonFormatter)):
            root.removeHandler(old)
    root.addHandler(handler)
    RULES.set_usual(settings.level)
    logging.captureWarnings(True)


class LogFigures:
    """What was logged since the daemon began."""

    def __init__(self) -> None:
        self.records = Tally()
        """By level."""
        self.bytes = 0
        self.latest: deque[str] = deque(maxlen=LATEST)
        """The lines that were written last."""


FIGURES = LogFigures()
"""Of this process, which has one log."""


class _Handler(logging.StreamHandler[TextIO]):
    """Counts what it writes; its lock is held meanwhile."""

    def format(self, record: logging.LogRecord) -> str:
        line = super().format(record)
        FIGURES.records.add((record.levelname.lower(),))
        FIGURES.bytes += len(line.encode(errors="replace")) + len(self.terminator)
        FIGURES.latest.append(line[:LATEST_LENGTH])
        return line


def _with_call(record: logging.LogRecord) -> bool:
    """A filter that notes the call in whose task the record was made."""
    record.call = current_call()
    return True


def _time(record: logging.LogRecord) -> str:
    moment = datetime.fromtimestamp(record.created, UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _message(record: logging.LogRecord) -> str:
    text = record.getMessage()
    return text if len(text) <= MAX_MESSAGE else f"{text[:MAX_MESSAGE]} … ({len(text)} characters)"


def _ids(record: logging.LogRecord) -> tuple[str, str]:
    """Of the call and of its trace."""
    call: CallUnderWay | None = getattr(record, "call", None)
    return ("", "") if call is None else (call.request, call.trace)


class _TextFormatter(logging.Formatter):
    """`TIME LEVEL logger [request trace]: message`; a message is one line, a traceback keeps its lines."""

    def format(self, record: logging.LogRecord) -> str:
        ids = " ".join(filter(None, _ids(record)))
        tag = f" [{ids}]" if ids else ""
        message = _message(record).replace("\n", "\\n")
        line = f"{_time(record)} {record.levelname:<7} {record.name}{tag}: {message}"
        if record.exc_info:
            line = f"{line}\n{self.formatException(record.exc_info)}"
        return line


class _JsonFormatter(logging.Formatter):
    """One object a line: time, level, logger, message; request, trace and traceback where there are any."""

    def format(self, record: logging.LogRecord) -> str:
        content = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": _message(record),
        }
        request, trace = _ids(record)
        if request:
            content["request"] = request
        if trace:
            content["trace"] = trace
        if record.exc_info:
            content["traceback"] = self.formatException(record.exc_info)
        return json.dumps(content, ensure_ascii=False)
