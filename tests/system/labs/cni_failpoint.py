"""A CNI plugin that fails as a test says, and else does what the plugin that it wraps does.

`install` writes it into a plugin directory under any name. Its configuration is that of the plugin named by
its `delegate` key (in `ipam`, where it stands for an IPAM plugin); without one it passes on what it got.
Before a command it looks for the file NAME.COMMAND beside itself, such as `second.ADD`, with a failpoint:

    [TIMES*]KIND[(ARGUMENT)]        1*error(7, no luck, really)     hang     2*silent(3)

    error(CODE, MSG, DETAILS)    answers with that error
    partial(CODE, MSG, DETAILS)  does the work, then answers with that error
    address(CODE, MSG, DETAILS)  takes an address only, then answers with that error
    garbage, empty, huge         answers with no JSON, with nothing, with more than anybody reads
    version(VERSION)             works, and answers in that version of the specification, or speaks no other
    stderr(TEXT)                 fails, with these words on stderr and none on stdout
    silent(CODE)                 fails without a word
    signal(NUMBER)               dies by that signal
    hang                         starts a child, and neither ever ends
    gate                         waits until its file is gone, then works
    late                         works, then waits until its file is gone, then answers
    background                   works, and leaves a child that holds its stdout and stderr

Each call is a line of JSON in the file `calls` beside it, each process that hangs or stays a line in
`processes`. It runs without any package, on a Python that reads nothing of its environment.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NoReturn

VERSIONS = ["0.3.1", "0.4.0", "1.0.0", "1.1.0"]
SPOKEN = "1.0.0"
"""The newest version of the plugins that are wrapped: they are called in it, whatever the network's is."""
SLEEP = "100000"
HUGE_BYTES = 64 << 20


def install(directory: Path, *names: str) -> None:
    """Write the plugin under these names."""
    text = f"#!{sys.executable} -IS\n{Path(__file__).read_text()}"
    for name in names:
        path = directory / name
        path.write_text(text)
        path.chmod(0o755)


class Request:
    """One command, as this process was given it."""

    def __init__(self) -> None:
        self.place, self.name = os.path.split(os.path.abspath(sys.argv[0]))
        self.command = os.environ["CNI_COMMAND"]
        self.config: dict[str, Any] = json.loads(sys.stdin.read() or "{}")
        self.version = self.config.get("cniVersion", SPOKEN)
        self.file = f"{self.place}/{self.name}.{self.command}"

    def note(self) -> None:
        """Append the call to the list of calls."""
        call = {
            "plugin": self.name,
            "command": self.command,
            "id": os.environ.get("CNI_CONTAINERID", ""),
            "interface": os.environ.get("CNI_IFNAME", ""),
            "config": self.config,
        }
        with open(f"{self.place}/calls", "a") as file:
            file.write(json.dumps(call) + "\n")

    def note_process(self, pid: int) -> None:
        with open(f"{self.place}/processes", "a") as file:
            file.write(f"{pid}\n")

    def take_failpoint(self) -> tuple[str, str]:
        """Kind and argument; one with a count is used up by it."""
        with open(f"{self.place}/lock", "a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            try:
                text = Path(self.file).read_text()
            except FileNotFoundError:
                return "", ""
            match = re.fullmatch(r"(?:(\d+)\*)?(\w+)(?:\((.*)\))?\s*", text, re.DOTALL)
            assert match is not None, f"failpoint {text!r}"
            if match[1] is not None:
                if int(match[1]) == 0:
                    return "", ""
                Path(f"{self.file}.new").write_text(re.sub(r"^\d+", str(int(match[1]) - 1), text))
                os.replace(f"{self.file}.new", self.file)
            return match[2], match[3] or ""

    def delegate(self, *, ipam: bool = False) -> tuple[int, bytes]:
        """Exit code and answer of the plugin that is wrapped, or of its IPAM plugin alone."""
        config = {**self.config, "cniVersion": SPOKEN}
        part = config.get("ipam") or {}
        if part.get("type") == self.name:
            program = part["delegate"]
            config["ipam"] = {**part, "type": program}
        elif ipam:
            program = part["type"]
        else:
            program = config.get("delegate", "")
            config["type"] = program
        if not program or self.command in {"STATUS", "GC", "VERSION"}:
            return 0, self.own_answer()
        if "prevResult" in config:
            config["prevResult"] = {**config["prevResult"], "cniVersion": SPOKEN}
        places = os.environ["CNI_PATH"].split(":")
        path = next(f"{place}/{program}" for place in places if os.path.exists(f"{place}/{program}"))
        done = subprocess.run([path], input=json.dumps(config).encode(), stdout=subprocess.PIPE, check=False)
        if done.returncode or self.command != "ADD":
            return done.returncode, done.stdout
        return 0, json.dumps({**json.loads(done.stdout), "cniVersion": self.version}).encode()

    def own_answer(self) -> bytes:
        if self.command == "VERSION":
            spoken = VERSIONS if self.version in VERSIONS else [self.version]
            return json.dumps({"cniVersion": SPOKEN, "supportedVersions": spoken}).encode()
        if self.command != "ADD":
            return b""
        return json.dumps({**self.config["prevResult"], "cniVersion": self.version}).encode()


def answer(code: int, text: bytes) -> NoReturn:
    with contextlib.suppress(BrokenPipeError):
        sys.stdout.buffer.write(text)
        sys.stdout.buffer.flush()
    os._exit(code)


def refuse(argument: str) -> NoReturn:
    code, message, details = [part.strip() for part in argument.split(",", 2)]
    error = {"cniVersion": SPOKEN, "code": int(code), "msg": message, "details": details}
    answer(1, json.dumps(error).encode())


def fail(request: Request, kind: str, argument: str) -> None:
    """Do as the failpoint says; one that returns lets the work be done."""
    match kind:
        case "error":
            refuse(argument)
        case "partial" | "address":
            code, text = request.delegate(ipam=kind == "address")
            if code:
                answer(code, text)
            refuse(argument)
        case "garbage":
            answer(0, b"all is well!\n")
        case "empty":
            answer(0, b"")
        case "huge":
            answer(0, b'{"cniVersion":"1.0.0","long":"' + b"x" * HUGE_BYTES + b'"}')
        case "late":
            code, text = request.delegate()
            stay(request, "gate")
            answer(code, text)
        case "version":
            request.version = argument
        case "stderr":
            print(argument, file=sys.stderr, flush=True)
            answer(1, b"")
        case "silent":
            answer(int(argument), b"")
        case "signal":
            os.kill(os.getpid(), int(argument))
        case _:
            stay(request, kind)


def stay(request: Request, kind: str) -> None:
    match kind:
        case "hang":
            child = subprocess.Popen(["sleep", SLEEP])
            request.note_process(child.pid)
            request.note_process(os.getpid())
            signal.pause()
        case "gate":
            request.note_process(os.getpid())
            while os.path.exists(request.file):
                time.sleep(0.01)  # a program of its own: the file is all that it shares with the test
        case "background":
            child = subprocess.Popen(["sleep", SLEEP], start_new_session=True)
            request.note_process(child.pid)
        case other:
            raise AssertionError(f"no failpoint is called {other!r}")


def main() -> None:
    request = Request()
    request.note()
    kind, argument = request.take_failpoint()
    if kind:
        fail(request, kind, argument)
    answer(*request.delegate())


if __name__ == "__main__":
    main()
