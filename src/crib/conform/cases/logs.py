"""Container logs: the CRI's format, long lines, rotation (ReopenContainerLog)."""

from __future__ import annotations

import asyncio
import os
import re

from crib.client.errors import ClientError
from crib.client.pods import Pod
from crib.conform.case import Level, case
from crib.conform.expect import Mismatch, equal, refused, true
from crib.conform.trial import NOBODY, PATIENCE, Box, Trial, read
from crib.stubs.runtime.v1 import api_pb2 as pb

_LINE = re.compile(
    rb"(?P<time>\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|[+-]\d\d:\d\d)) "
    rb"(?P<stream>stdout|stderr) (?P<tag>[FP]) (?P<text>.*)"
)
_FORMAT = "kubelet: CRI log format (pkg/kubelet/kuberuntime/logs)"


def _path(pod: Pod, config: pb.ContainerConfig) -> str:
    return os.path.join(pod.config.log_directory, config.log_path)


def _lines(path: str) -> list[tuple[str, str, bytes]]:
    """Stream, tag and text of each line; Mismatch if one is not in the format."""
    raw, found = read(path), []
    for line in raw.split(b"\n")[:-1]:
        match = _LINE.fullmatch(line)
        if match is None:
            raise Mismatch(f"a line of {os.path.basename(path)}", "TIME stdout|stderr F|P TEXT", line)
        found.append((match["stream"].decode(), match["tag"].decode(), match["text"]))
    true("the end of the log", not raw or raw.endswith(b"\n"), "a line feed", raw[-40:])
    return found


async def _logged(trial: Trial, script: str, *, tty: bool = False) -> list[tuple[str, str, bytes]]:
    """The log of a script that has ended."""
    pod, config = await trial.subject.shared_pod(), trial.config("sh", "-c", script)
    config.tty = tty
    await trial.ended(config)
    return _lines(_path(pod, config))


@case("CreateContainer", Level.MUST, _FORMAT, "ContainerConfig.log_path", "PodSandboxConfig.log_directory")
async def the_log_is_in_the_cri_format(trial: Trial) -> None:
    """Each line has a time, its stream, a tag and its text; empty lines are lines."""
    found = await _logged(trial, "echo one; echo; echo ' two  '")
    equal(
        "lines of the log", found, [("stdout", "F", b"one"), ("stdout", "F", b""), ("stdout", "F", b" two  ")]
    )


@case("CreateContainer", Level.MUST, _FORMAT, "ContainerConfig.log_path")
async def both_streams_are_in_the_log(trial: Trial) -> None:
    """Standard output and standard error are told apart."""
    found = await _logged(trial, "echo out; echo err >&2")
    equal("lines of the log", sorted(found), [("stderr", "F", b"err"), ("stdout", "F", b"out")])


@case("CreateContainer", Level.MUST, _FORMAT, "ContainerConfig.log_path")
async def long_lines_come_in_parts(trial: Trial) -> None:
    """A line of 100,000 bytes is in the log in parts, all but the last tagged P, and nothing is lost."""
    found = await _logged(trial, "yes x | head -n 50000 | tr '\\n' y; echo; echo end")
    tags = [tag for _, tag, text in found]
    equal("the two last lines' tags", tags[-2:], ["F", "F"])
    true("tags of the parts", len(tags) > 2 and set(tags[:-2]) == {"P"}, "P for all but the last", tags)
    equal("bytes of all parts", len(b"".join(text for _, _, text in found[:-1])), 100_000)
    true(
        "text of all parts",
        b"".join(t for _, _, t in found[:-1]) == b"xy" * 50_000,
        "as it was written",
        "another",
    )


@case("CreateContainer", Level.MUST, _FORMAT, "ContainerConfig.log_path")
async def a_line_without_an_end_is_not_lost(trial: Trial) -> None:
    """What a container writes last, without a line feed, is in the log."""
    found = await _logged(trial, "echo first; printf last")
    equal("texts of the log", [text for _, _, text in found], [b"first", b"last"])


@case("CreateContainer", Level.SHOULD, _FORMAT, "ContainerConfig.log_path")
async def any_byte_may_be_in_a_line(trial: Trial) -> None:
    """Bytes that are no text are in the log as they were written."""
    found = await _logged(trial, "printf 'a\\000b\\377\\033[1m\\n'")
    equal("texts of the log", [text for _, _, text in found], [b"a\0b\xff\x1b[1m"])


@case("CreateContainer", Level.SHOULD, _FORMAT, "ContainerConfig.tty,log_path")
async def a_terminals_output_is_logged_as_stdout(trial: Trial) -> None:
    """What a container with a terminal writes is in the log, as stdout."""
    found = await _logged(trial, "echo out; echo err >&2", tty=True)
    texts = [(stream, text.rstrip(b"\r")) for stream, _, text in found]
    equal("lines of the log", texts, [("stdout", b"out"), ("stdout", b"err")])


@case(
    "ContainerStatus",
    Level.MUST,
    "kubelet reads logs at ContainerStatus.log_path",
    "ContainerStatus.log_path",
    "ContainerConfig.log_path",
)
async def tells_the_path_of_its_log(trial: Trial) -> None:
    """log_path in the status is log_directory and log_path of the configs together."""
    pod, config = await trial.subject.shared_pod(), trial.config()
    status = await trial.status(await trial.create(config))
    equal("ContainerStatus: log_path", status.log_path, _path(pod, config))


@case(
    "CreateContainer",
    Level.SHOULD,
    "CRI: PodSandboxConfig.log_directory may be empty",
    "PodSandboxConfig.log_directory",
    "ContainerConfig.log_path",
)
async def a_container_may_have_no_log(trial: Trial) -> None:
    """Without a log directory and path a container runs, and has no log."""
    pod_config = trial.pod_config()
    pod_config.log_directory = ""
    config = trial.config("echo", "unheard")
    config.log_path = ""
    status = await trial.ended(config, await trial.pod(pod_config))
    equal("exit code", status.exit_code, 0)
    equal("ContainerStatus: log_path", status.log_path, "")


@case("RemoveContainer", Level.SHOULD, "kubelet removes logs itself", "RemoveContainerRequest.container_id")
async def leaves_the_log(trial: Trial) -> None:
    """The log of a removed container stays until its owner removes it."""
    pod, config = await trial.subject.shared_pod(), trial.config("echo", "kept")
    await trial.remove((await trial.ended(config)).id)
    equal("lines of the log", _lines(_path(pod, config)), [("stdout", "F", b"kept")])


@case(
    "ReopenContainerLog",
    Level.MUST,
    "CRI: ReopenContainerLog; kubelet's log rotation",
    "ReopenContainerLogRequest.container_id",
)
async def goes_on_in_a_new_file(trial: Trial) -> None:
    """After a rename and a reopen, the old file has what was written before, the new one what comes after."""
    pod = await trial.subject.shared_pod()
    config = trial.config("sh", "-c", "trap 'echo late' USR1; echo early; while :; do sleep 0.05; done")
    path = _path(pod, config)
    box = await trial.box(config)
    await _until_in(path, b"early")
    os.rename(path, f"{path}.1")
    await trial.call(trial.runtime.ReopenContainerLog, pb.ReopenContainerLogRequest(container_id=box.id))
    true("the new file when the call has returned", os.path.exists(path), "it exists", "it does not")
    await _say(box)
    await _until_in(path, b"late")
    equal("lines of the old file", [text for _, _, text in _lines(f"{path}.1")], [b"early"])
    equal("lines of the new file", [text for _, _, text in _lines(path)], [b"late"])


async def _say(box: Box) -> None:
    await box.sh("kill -USR1 1")


async def _until_in(path: str, text: bytes) -> None:
    """Nobody tells when a log has grown."""
    try:
        async with asyncio.timeout(PATIENCE):
            while True:
                if text in read(path):
                    return
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise Mismatch(f"{os.path.basename(path)} after {PATIENCE:g} s", text, "it is not there") from None


@case(
    "ReopenContainerLog",
    Level.MUST,
    "CRI: once it returns an error, a new log file MUST NOT be created",
    "ReopenContainerLogRequest.container_id",
)
async def of_an_ended_container_makes_a_file_or_an_error(trial: Trial) -> None:
    """For a container that does not run, either a new file is made, or there is an error and no file."""
    pod, config = await trial.subject.shared_pod(), trial.config("echo", "done")
    container = (await trial.ended(config)).id
    path = _path(pod, config)
    os.rename(path, f"{path}.1")
    try:
        await trial.call(
            trial.runtime.ReopenContainerLog, pb.ReopenContainerLogRequest(container_id=container)
        )
        succeeded = True
    except ClientError:
        succeeded = False
    equal("a new file, after success or an error", os.path.exists(path), succeeded)


@case(
    "ReopenContainerLog",
    Level.MUST,
    "kubelet: NOT_FOUND means gone",
    "ReopenContainerLogRequest.container_id",
)
async def of_an_unknown_container_reopens_nothing(trial: Trial) -> None:
    """A reopen for a container that never was is NOT_FOUND."""
    request = pb.ReopenContainerLogRequest(container_id=NOBODY)
    await refused(
        "ReopenContainerLog of an unknown id",
        trial.call(trial.runtime.ReopenContainerLog, request),
        "NOT_FOUND",
    )
