"""Lines of the log, as text and JSON."""

from __future__ import annotations

import gc
import io
import json
import logging
import re
from collections.abc import Iterator

import pytest

from crib.model.settings import LogSettings
from crib.observe import logs

log = logging.getLogger("crib.test")


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    gc.collect()  # what earlier tests dropped may have a last word to log, which is not of these lines
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    yield
    root.handlers[:] = before
    root.setLevel(level)
    logging.captureWarnings(False)


def test_a_text_line_has_time_level_logger_request_and_message() -> None:
    out = io.StringIO()
    logs.set_up(LogSettings(), lambda: "2a", out)
    log.info("made %s\nforged line", "it")
    assert re.fullmatch(
        r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z INFO    crib\.test \[2a\]: made it\\nforged line\n",
        out.getvalue(),
    )


def test_a_json_line_is_an_object() -> None:
    out = io.StringIO()
    logs.set_up(LogSettings(format="json"), lambda: "2a", out)
    try:
        raise ZeroDivisionError("oops")
    except ZeroDivisionError:
        log.exception("failed\n")
    content = json.loads(out.getvalue())
    assert (content["level"], content["request"], content["message"]) == ("error", "2a", "failed\n")
    assert "ZeroDivisionError: oops" in content["traceback"]


def test_outside_of_calls_there_is_no_request() -> None:
    out = io.StringIO()
    logs.set_up(LogSettings(format="json"), stream=out)
    log.info("x")
    assert "request" not in json.loads(out.getvalue())


def test_the_level_can_be_changed_and_libraries_stay_quiet() -> None:
    out = io.StringIO()
    logs.set_up(LogSettings(level="warning"), stream=out)
    log.info("unheard")
    logs.set_level("debug")
    log.debug("heard")
    logging.getLogger("asyncio").debug("library")
    assert out.getvalue().count("\n") == 1
    assert "heard" in out.getvalue()


def test_setting_up_again_replaces_what_was_there() -> None:
    first, second = io.StringIO(), io.StringIO()
    logs.set_up(LogSettings(), stream=first)
    logs.set_up(LogSettings(format="json"), stream=second)
    log.info("x")
    assert not first.getvalue()
    assert second.getvalue().count("\n") == 1


def test_a_huge_message_is_cut() -> None:
    out = io.StringIO()
    logs.set_up(LogSettings(), stream=out)
    log.info("x" * 1_000_000)
    assert len(out.getvalue()) < 20_000
