from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from crib.backends.oci.command_lines import ExecFiles, Monitored, MonitorProgram, RuntimeProgram
from crib.model.ids import ContainerId

ID = ContainerId("c" * 64)


def test_monitor_is_told_all_it_needs() -> None:
    runtime = RuntimeProgram("/usr/bin/crun", "/run/crib/runtime/crun", ("--debug",))
    container = Monitored(ID, "web", "/b", "/b/pidfile", "sh", "short", "/l/0.log", True, True, False)
    argv = MonitorProgram("/usr/bin/conmon", "/e", "/s").create(runtime, runtime.program, container)
    for pair in (
        ("--cid", ID),
        ("--cuuid", "short"),
        ("--log-path", "k8s-file:/l/0.log"),
        ("--exit-dir", "/e"),
    ):
        assert argv[argv.index(pair[0]) + 1] == pair[1]
    assert "--runtime-arg=--debug" in argv
    assert "--runtime-arg=--root=/run/crib/runtime/crun" in argv
    assert argv[-3:] == ("--terminal", "--stdin", "--leave-stdin-open")
    silent = MonitorProgram("conmon", "/e", "/s").create(runtime, "", replace(container, log_path=""))
    assert silent[silent.index("--log-path") + 1] == "none"


def test_runtime_commands() -> None:
    runtime = RuntimeProgram("crun", "/r")
    assert runtime.start("x") == ("crun", "--root=/r", "start", "x")
    detached = ("--detach", "--pid-file", "i")
    piped = runtime.exec("x", ExecFiles("p", "l", "i"), "sub")
    assert piped[-6:] == (*detached, "--cgroup", "sub", "x")
    assert runtime.exec("x", ExecFiles("p", "l", "i", "s"))[-6:] == (*detached, "--console-socket", "s", "x")


def test_a_monitor_calls_the_script_that_stands_in_with_all_that_it_needs() -> None:
    runtime = RuntimeProgram("/usr/bin/runsc", "/r", ("--network=host",), stand_in="/s.sh")
    container = Monitored(ID, "web", "/b", "/b/pidfile", "sh", "short")
    argv = MonitorProgram("conmon", "/e", "/s").create(runtime, runtime.program, container)
    assert argv[argv.index("--runtime") + 1] == "/bin/sh"
    told = [word.removeprefix("--runtime-arg=") for word in argv if word.startswith("--runtime-arg=")]
    assert told == ["/s.sh", "/b", ID, "/usr/bin/runsc", "--network=host", "--root=/r"]
    assert runtime.start_monitored(ID, "/b") == ("/bin/sh", "/s.sh", "/b", ID, "start")
    assert RuntimeProgram("crun", "/r").start_monitored(ID, "/b") == ("crun", "--root=/r", "start", ID)


def test_what_a_runtime_keeps_of_a_container_is_found_in_either_form(tmp_path: Path) -> None:
    (tmp_path / ID).mkdir()
    (tmp_path / f"{ID}_sandbox:pod.state").touch()
    assert RuntimeProgram("crun", str(tmp_path)).state_of(ID) == [f"{tmp_path}/{ID}"]
    inside = RuntimeProgram("runsc", str(tmp_path), stand_in="/s.sh")
    assert inside.state_of(ID) == [f"{tmp_path}/{ID}_sandbox:pod.state"]
    assert set(inside.known()) == {ID}
    assert RuntimeProgram("runsc", f"{tmp_path}/nosuch").known() == []
