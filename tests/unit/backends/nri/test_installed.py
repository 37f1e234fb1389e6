"""Plugins that the daemon starts: real programs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import pytest

from crib.backends.nri import installed
from crib.backends.nri.plugins import NriPlugins
from crib.model.nri_settings import NriSettings
from crib.model.plugin_status import PluginState, PluginStatus
from crib.model.plugins import PodMoment
from tests.plugin_lab import BOUND, INSTALLED, ROOT, Begin, LabHost, no_stage, shown_pod, until

PLUGIN = INSTALLED.format(python=sys.executable)


@pytest.fixture
def directory(settings: NriSettings) -> Path:
    made = Path(settings.plugin_dir)
    made.mkdir()
    Path(settings.plugin_config_dir).mkdir()
    return made


def install(directory: Path, name: str, text: str) -> Path:
    path = directory / name
    path.write_text(textwrap.dedent(text))
    path.chmod(0o755)
    return path


async def status(plugins: NriPlugins, name: str, state: PluginState) -> PluginStatus:
    """When it has come to this state."""

    def found() -> list[PluginStatus]:
        return [one for one in plugins.statuses() if (one.name, one.state) == (name, state)]

    await until(found)
    return found()[0]


def is_there(pid: int) -> bool:
    """A process that nobody has reaped yet has ended all the same."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


async def test_a_plugin_is_started_configured_and_ended(
    directory: Path,
    settings: NriSettings,
    host: LabHost,
    begin: Begin,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    install(directory, "10-lab", PLUGIN)
    Path(settings.plugin_config_dir, "lab.conf").write_text("all of them")
    plugins = await begin()
    (found,) = plugins.statuses()  # begin has waited for it
    assert (found.name, found.state, found.installed, found.starts) == ("10-lab", PluginState.READY, True, 1)
    assert is_there(found.pid)
    await until(lambda: "NRI plugin 10-lab: configured with all of them" in caplog.text)
    await plugins.pod(PodMoment.RUN, shown_pod(), no_stage)
    assert host.notes == {}
    await plugins.close()
    assert not is_there(found.pid)


async def test_its_environment_is_what_plugins_expect(directory: Path, begin: Begin, tmp_path: Path) -> None:
    told = tmp_path / "told"
    install(
        directory,
        "07-told",
        f"""\
        #!/bin/sh
        {{ env; ls -l /proc/self/fd; pwd; }} > {told}.new
        mv {told}.new {told}
        """,
    )
    await begin()
    text = told.read_text()
    assert "NRI_PLUGIN_NAME=told\n" in text
    assert "NRI_PLUGIN_IDX=07\n" in text
    assert "NRI_PLUGIN_SOCKET=3\n" in text
    assert "3 -> socket:" in text
    assert "0 -> /dev/null" in text
    assert text.endswith("/\n")
    assert "PYTEST" not in text


async def test_one_that_writes_much_does_not_wait_for_its_lines_to_be_logged(
    directory: Path, begin: Begin, caplog: pytest.LogCaptureFixture
) -> None:
    """At the pace of a process that may be hostile this would take 25 s."""
    caplog.set_level("INFO")
    install(directory, "10-loud", "#!/bin/sh\nyes 'one line of many' | head -c 2000000 >&2\n")
    plugins = await begin()
    await status(plugins, "10-loud", PluginState.ENDED)
    lines = [record.getMessage() for record in caplog.records if "10-loud: " in record.getMessage()]
    assert len(lines) == installed.LOG_LINES + 1
    assert lines[-1].endswith("lines more, which are left out")


async def test_one_that_ends_by_itself_with_0_is_not_started_again(
    directory: Path, begin: Begin, host: LabHost
) -> None:
    install(directory, "10-idle", "#!/bin/sh\nexit 0\n")
    plugins = await begin()
    found = await status(plugins, "10-idle", PluginState.ENDED)
    assert (found.starts, found.problem, host.notes) == (1, "", {})


async def test_one_that_crashes_is_noted_and_started_again(
    directory: Path, begin: Begin, host: LabHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(installed, "FIRST_PAUSE", 0.01)
    marker = tmp_path / "crashed"
    crashing = f"#!/bin/sh\n[ -e {marker} ] && exec {directory}/../good\ntouch {marker}\nexit 3\n"
    install(directory, "10-lab", crashing)
    install(directory.parent, "good", PLUGIN)
    plugins = await begin()
    assert host.noted[0] == ("NRI plugin 10-lab", "it ended (exit code 3); it is started again")
    found = await status(plugins, "10-lab", PluginState.READY)
    assert found.starts == 2
    assert host.notes == {}


async def test_one_that_is_killed_is_started_again(
    directory: Path, begin: Begin, host: LabHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(installed, "FIRST_PAUSE", 0.01)
    install(directory, "10-lab", PLUGIN)
    plugins = await begin()
    first = await status(plugins, "10-lab", PluginState.READY)
    os.kill(first.pid, signal.SIGKILL)
    await until(lambda: any(one.starts == 2 and one.state == "ready" for one in plugins.statuses()))
    assert ("NRI plugin 10-lab", "it ended (signal 9); it is started again") in host.noted


async def test_one_that_does_not_speak_is_noted(
    directory: Path, settings: NriSettings, begin: Begin, host: LabHost
) -> None:
    install(directory, "10-mute", "#!/bin/sh\nexec sleep 1000\n")
    await begin(replace(settings, registration_timeout=0.5))
    await until(lambda: "10-mute" in str(host.notes))
    assert "not registered and configured within 0.5 s" in host.notes["NRI plugin 10-mute"]


async def test_one_that_stays_without_its_connection_is_killed_with_all_that_it_started(
    directory: Path, begin: Begin, host: LabHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(installed, "END_SECONDS", 0.1)
    pids = tmp_path / "pids"
    install(
        directory,
        "10-deaf",
        f"""\
        #!/bin/sh
        trap '' TERM
        sleep 1000 3<&- &
        echo $$ $! > {pids}.new
        mv {pids}.new {pids}
        exec 3<&-
        wait
        """,
    )
    await begin()
    mine = [int(word) for word in pids.read_text().split()]
    await until(lambda: not any(map(is_there, mine)))
    assert "it closed its connection" in host.notes["NRI plugin 10-deaf"]


@pytest.mark.parametrize("end", ["kill -TERM $$", "exit 3", "exit 0"])
async def test_what_one_has_started_does_not_outlive_it(
    directory: Path, begin: Begin, tmp_path: Path, end: str
) -> None:
    pids = tmp_path / "pids"
    install(
        directory,
        "10-parent",
        f"""\
        #!/bin/sh
        (trap '' TERM; exec sleep 1000 3<&-) &
        echo $! > {pids}.new
        mv {pids}.new {pids}
        {end}
        """,
    )
    await begin()
    left = int(pids.read_text())
    await until(lambda: not is_there(left))


async def test_it_is_asked_to_end_together_with_what_it_has_started(
    directory: Path, begin: Begin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(installed, "END_SECONDS", BOUND)
    told, plugin = tmp_path / "told", install(tmp_path, "plugin", PLUGIN)
    install(
        directory,
        "10-wrapped",
        f"""\
        #!/bin/sh
        trap : TERM
        sh -c 'trap "echo asked > {told}; exit 0" TERM; echo up > {told}; while :; do sleep 0.01; done' &
        until [ -s {told} ]; do sleep 0.01; done
        {plugin} &
        wait; wait; wait
        """,
    )
    plugins = await begin()
    await status(plugins, "10-wrapped", PluginState.READY)
    await plugins.close()
    assert told.read_text() == "asked\n"


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("10-wasm", b"\0asm\1\0\0\0", "WebAssembly"),
        ("10-nothing", b"#!/no/such/interpreter\n", "exit code 12"),
    ],
)
async def test_one_that_cannot_be_started_is_noted(
    name: str, content: bytes, problem: str, directory: Path, begin: Begin, host: LabHost
) -> None:
    path = directory / name
    path.write_bytes(content)
    path.chmod(0o755)
    plugins = await begin()
    assert problem in host.notes[f"NRI plugin {name}"]
    (found,) = plugins.statuses()
    assert (found.name, found.state) == (name, PluginState.WAITING)
    assert problem in found.problem


async def test_what_is_no_plugin_is_not_started(
    directory: Path, begin: Begin, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    started = tmp_path / "started"
    program = f"#!/bin/sh\necho $0 >> {started}\n"
    install(directory, "README", program)
    install(directory, "1-short", program)
    install(directory, "10-data", program).chmod(0o644)
    (directory / "10-directory").mkdir()
    (directory / "10-gone").symlink_to("/no/such/file")
    plugins = await begin()
    assert plugins.statuses() == []
    assert not started.exists()
    assert "README" in caplog.text
    assert "1-short" in caplog.text


async def test_without_the_directory_there_are_none(begin: Begin, host: LabHost) -> None:
    plugins = await begin()
    assert plugins.statuses() == []
    assert host.notes == {}


@pytest.mark.parametrize(
    ("content", "problem"), [(b"\xff\xfe", "UTF-8"), (b"x" * ((1 << 20) + 1), "more than 1048576 bytes")]
)
async def test_a_configuration_that_cannot_be_sent_is_noted(
    content: bytes, problem: str, directory: Path, settings: NriSettings, begin: Begin, host: LabHost
) -> None:
    install(directory, "10-lab", "#!/bin/sh\nexit 0\n")
    Path(settings.plugin_config_dir, "10-lab.conf").write_bytes(content)
    await begin()
    assert problem in host.notes["NRI plugin 10-lab"]


def test_a_plugin_does_not_outlive_a_daemon_that_is_killed(directory: Path, settings: NriSettings) -> None:
    """Whether or not it looks at its connection."""
    told = directory.parent / "told"
    install(directory, "10-deaf", f"#!/bin/sh\necho $$ > {told}.new; mv {told}.new {told}\nexec sleep 1000\n")
    program = f"""
        import asyncio
        from crib.backends.nri.plugins import NriPlugins
        from crib.model.nri_settings import NriSettings
        from tests.plugin_lab import LabHost

        async def main():
            plugins = NriPlugins({settings!r})
            await plugins.begin(LabHost())
            await asyncio.sleep(1000)

        asyncio.run(main())
    """.replace(
        "ValidatorSettings", "__import__('crib.model.nri_settings').model.nri_settings.ValidatorSettings"
    )
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'src'}"}
    with subprocess.Popen([sys.executable, "-c", textwrap.dedent(program)], env=environment) as daemon:
        try:
            _poll(told.exists)
            pid = int(told.read_text())
            assert is_there(pid)
        finally:
            daemon.kill()
    _poll(lambda: not is_there(pid))


def _poll(is_so: object) -> None:
    import time

    end = time.monotonic() + 20
    while not is_so():  # type: ignore[operator]
        assert time.monotonic() < end
        time.sleep(0.005)  # another process gives no notice
