"""The daemon's log: one line a record on stderr, as text or JSON, with the id of the call it belongs to.

Times are RFC 3339 in UTC with microseconds.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TextIO

from crib.model.settings import LogSettings
from crib.model.tallies import Tally

RequestId = Callable[[], str]
"""The id of the call that the current task works for, or an empty text."""

MAX_MESSAGE = 16 << 10
"""Characters of one record's message: what programs print may be in it."""
_LOUD = ("asyncio", "grpc", "aiohttp", "pyroute2")
"""Libraries whose debug lines are about themselves; they are heard from WARNING up."""


def set_up(settings: LogSettings, request_id: RequestId = str, stream: TextIO | None = None) -> None:
    """Send every record to `stream` (stderr). Calling it again replaces what was set before."""
    handler = _Handler(stream or sys.stderr)
    handler.setFormatter(_JsonFormatter() if settings.format == "json" else _TextFormatter())
    handler.addFilter(_WithRequestId(request_id))
    root = logging.getLogger()
    for old in tuple(root.handlers):
        if isinstance(old.formatter, (_TextFormatter, _JsonFormatter)):
            root.removeHandler(old)
    root.addHandler(handler)
    set_level(settings.level)
    logging.captureWarnings(True)


def set_level(level: str) -> None:
    """`level` is a name of the logging module in any case; takes effect at once."""
    number = logging.getLevelNamesMapping()[level.upper()]
    logging.getLogger().setLevel(number)
    for name in _LOUD:
        logging.getLogger(name).setLevel(max(number, logging.WARNING))


class LogFigures:
    """What was logged since the daemon began."""

    def __init__(self) -> None:
        self.records = Tally()
        """By level."""
        self.bytes = 0


FIGURES = LogFigures()
"""Of this process, which has one log."""


class _Handler(logging.StreamHandler[TextIO]):
    """Counts what it writes; its lock is held meanwhile."""

    def format(self, record: logging.LogRecord) -> str:
        line = super().format(record)
        FIGURES.records.add((record.levelname.lower(),))
        FIGURES.bytes += len(line.encode(errors="replace")) + len(self.terminator)
        return line


class _WithRequestId(logging.Filter):
    """Looks the id up when the record is made, in the task that made it."""

    def __init__(self, request_id: RequestId) -> None:
        super().__init__()
        self._request_id = request_id

    def filter(self, record: logging.LogRecord) -> bool:
        record.request_id = self._request_id()
        return True


def _time(record: logging.LogRecord) -> str:
    moment = datetime.fromtimestamp(record.created, UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _message(record: logging.LogRecord) -> str:
    text = record.getMessage()
    return text if len(text) <= MAX_MESSAGE else f"{text[:MAX_MESSAGE]} … ({len(text)} characters)"


def _request_id(record: logging.LogRecord) -> str:
    return str(getattr(record, "request_id", ""))


class _TextFormatter(logging.Formatter):
    """`TIME LEVEL logger [request]: message`; a message's line ends are shown, a traceback keeps its own."""

    def format(self, record: logging.LogRecord) -> str:
        request = _request_id(record)
        tag = f" [{request}]" if request else ""
        message = _message(record).replace("\n", "\\n")
        line = f"{_time(record)} {record.levelname:<7} {record.name}{tag}: {message}"
        if record.exc_info:
            line = f"{line}\n{self.formatException(record.exc_info)}"
        return line


class _JsonFormatter(logging.Formatter):
    """One object a line: time, level, logger, message, and request and traceback where there are any."""

    def format(self, record: logging.LogRecord) -> str:
        content = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": _message(record),
        }
        if request := _request_id(record):
            content["request"] = request
        if record.exc_info:
            content["traceback"] = self.formatException(record.exc_info)
        return json.dumps(content, ensure_ascii=False)
