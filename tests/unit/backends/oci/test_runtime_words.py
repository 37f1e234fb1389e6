from __future__ import annotations

from crib.backends.runtime_words import runtime_words, words_of_failure


def test_a_runtimes_failure_is_told_at_whatever_level_and_its_warnings_are_none() -> None:
    lines = [f'time="2023" level={level} msg="it is {level}" pid=7 of=\n' for level in ("warning", "info")]
    assert words_of_failure("".join(lines)) == ""
    fatal = 'time="2023" level=fatal msg="nsexec: out of room"\n'
    assert words_of_failure(lines[0] + fatal + lines[1]) == "nsexec: out of room"
    assert words_of_failure("2023-01-02T03:04:05.6Z: cannot do it\n") == "cannot do it"


def test_runtimes_words_are_cleaned() -> None:
    assert runtime_words("2023-01-02T03:04:05.6Z: cannot do it\n") == "cannot do it"
    assert runtime_words('time="2023" level=error msg="exec \\"x\\" failed"\n') == 'exec "x" failed'
    warned = 'time="2023" level=warning msg="cannot toggle freezer: cgroups not configured"\n'
    assert runtime_words(warned) == "cannot toggle freezer: cgroups not configured"
    failed = 'time="2023" level=error msg="runc create failed: no such program"\n'
    for text in (warned + warned + failed, failed + warned):
        assert runtime_words(text) == "runc create failed: no such program"
    assert runtime_words(warned + "panic: at once\n" + failed).startswith(
        "panic: at once\nrunc create failed"
    )
    counted = (
        'time="2023" level=warning msg="unable to get oom kill count" error="open \\"x\\": no such file"\n'
    )
    assert runtime_words(counted + failed) == "runc create failed: no such program"
    assert runtime_words(counted) == 'unable to get oom kill count error="open "x": no such file"'
    assert runtime_words(counted.replace("warning", "error")).startswith(
        "unable to get oom kill count error="
    )
    assert runtime_words("") == "it said nothing"
    assert len(runtime_words("x" * 5000)) == 2000


def test_words_of_runsc_are_taken_out_of_their_lines() -> None:
    line = '{"msg":"starting \\"x\\": unknown capability","level":"error","time":"2026-11-30T07:00:46Z"}\n'
    assert runtime_words(line) == 'starting "x": unknown capability'
