"""A VM: qemu and virtiofsd, started as early as can be: nothing of this needs an event loop.

Both die with the shim's main thread. qemu runs as nobody, in an empty network namespace, and finds all that
it needs behind descriptors; virtiofsd goes by itself to where there is nothing but the share.
"""

from __future__ import annotations

import contextlib
import grp
import json
import os
import signal
import socket
from collections.abc import Sequence
from dataclasses import dataclass

from crib.host.tied_programs import TiedOptions, TiedProgram, start_tied
from crib.vm.qemu import MIB, Image, Machine, Peers, Tap, kernel_arguments, qemu_command
from crib.vm.shim.options import VmOptions, VmPlan
from crib.vm.shim.stages import Stages
from crib.vm.virtiofsd import is_qemus_own, virtiofsd_command

_ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
_KVM_GROUP = "kvm"
_MOST_MANIFEST = 1 << 20
_CPUINFO = "/proc/cpuinfo"


@dataclass(frozen=True, slots=True)
class StartedVm:
    """A VM that begins to boot, and our ends of its connections. `memory` is in bytes."""

    qemu: TiedProgram
    virtiofsd: TiedProgram
    agent: socket.socket
    words: socket.socket
    """What the guest's console and both programs say."""
    control: socket.socket
    """qemu's QMP."""
    memory: int
    cpus: int
    acceleration: str


def start_machine(
    options: VmOptions, plan: VmPlan, share: str, taps: Sequence[Tap], stages: Stages
) -> StartedVm:
    """Start both programs, from the main thread. OSError, ValueError: with nothing left running."""
    memory = -(-plan.memory // MIB) * MIB or options.memory * MIB
    cpus = plan.cpus or options.cpus
    with contextlib.ExitStack() as opened, contextlib.ExitStack() as undo:
        agent, agent_end = socket.socketpair()
        words, words_end = socket.socketpair()
        control, control_end = socket.socketpair()
        for ours, theirs in ((agent, agent_end), (words, words_end), (control, control_end)):
            undo.enter_context(ours)
            opened.enter_context(theirs)
        listening, connected = (opened.enter_context(one) for one in _listening(os.path.dirname(share)))
        with stages.of("virtiofsd"):
            virtiofsd = _start_virtiofsd(options.virtiofsd, share, listening, words_end)
            undo.callback(end_now, virtiofsd)
        files = [opened.enter_context(_File(path)) for path in _paths(options.files)]
        machine = Machine(
            program=options.qemu,
            kind=options.machine,
            acceleration=options.acceleration,
            cpus=cpus,
            memory=memory,
            # By descriptor: nobody may look into the directory that they are in.
            image=Image(*(f"/proc/self/fd/{file.fd}" for file in files)),
            kernel_arguments=(
                *kernel_arguments(options.acceleration, host_tsc_khz()),
                *image_arguments(options.image),
                *options.kernel_arguments.split(),
            ),
        )
        peers = Peers(agent_end.fileno(), connected.fileno(), words_end.fileno(), control_end.fileno())
        passed = (
            *(file.fd for file in files),
            *(tap.fd for tap in taps),
            peers.agent,
            peers.share,
            peers.console,
            peers.control,
        )
        stages.begin("qemu")
        qemu = start_tied(
            qemu_command(machine, peers, taps),
            TiedOptions(
                stdout=peers.console,
                stderr=peers.console,
                pass_fds=passed,
                env=_ENVIRONMENT,
                user=options.user or None,
                groups=_kvm_groups(options),
                own_network=True,
            ),
        )
        undo.pop_all()
        return StartedVm(qemu, virtiofsd, agent, words, control, memory, cpus, options.acceleration)


class _File:
    """One that is opened for reading, and closed at the end of the context."""

    def __init__(self, path: str) -> None:
        self.fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def __enter__(self) -> _File:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.fd)


def _paths(image: Image) -> tuple[str, str, str]:
    return image.kernel, image.initrd, image.root


def _start_virtiofsd(program: str, share: str, listening: socket.socket, words: socket.socket) -> TiedProgram:
    with open(program, "rb") as file:
        in_c = is_qemus_own(file.read())
    command = virtiofsd_command(program, share, listening.fileno(), in_c=in_c)
    return start_tied(
        command,
        TiedOptions(
            stdout=words.fileno(), stderr=words.fileno(), pass_fds=(listening.fileno(),), env=_ENVIRONMENT
        ),
    )


def _listening(directory: str) -> tuple[socket.socket, socket.socket]:
    """A listening socket, and one that is connected to it already: nobody has to wait for the other."""
    listening, connected = socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX)
    try:
        fd = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            name = f"/proc/self/fd/{fd}/virtiofsd.sock"  # a socket's path has at most 107 bytes
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name)
            listening.bind(name)
            listening.listen(1)
            connected.connect(name)
            os.unlink(name)
        finally:
            os.close(fd)
    except BaseException:
        listening.close()
        connected.close()
        raise
    return listening, connected


def _kvm_groups(options: VmOptions) -> tuple[int, ...]:
    if options.acceleration != "kvm":
        return ()
    try:
        return (grp.getgrnam(_KVM_GROUP).gr_gid,)
    except KeyError:
        return ()


def image_arguments(directory: str) -> tuple[str, ...]:
    """What an image's manifest says that its kernel is told. ValueError if it is not understood."""
    try:
        with open(f"{directory}/manifest.json", "rb") as file:
            found = json.loads(file.read(_MOST_MANIFEST)).get("kernel_arguments", [])
    except FileNotFoundError:
        return ()
    return tuple(str(word) for word in found)


def host_tsc_khz() -> int:
    """The rate of the host's time stamp counter, as far as it is told; 0 if it is not."""
    with contextlib.suppress(OSError, ValueError), open(_CPUINFO, encoding="ascii", errors="replace") as file:
        for line in file:
            if line.startswith("cpu MHz"):
                return round(float(line.partition(":")[2]) * 1000)
    return 0


def end_now(program: TiedProgram) -> None:
    """Kill it and collect it, before there is an event loop."""
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(program.pidfd, signal.SIGKILL)
    os.waitid(os.P_PIDFD, program.pidfd, os.WEXITED)
    os.close(program.pidfd)
