"""The commands of `crib bench` and their help."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

# typer reads the options from the signatures when a program begins
from crib.bench.options import BenchOptions, CrowdOptions, PullBenchOptions, StreamsOptions

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from typing import Any


class BenchSession(Protocol):
    """What the command line gives: its endpoint, and a way to run a coroutine."""

    @property
    def endpoint(self) -> str: ...

    def run(self, work: Coroutine[Any, Any, None]) -> None: ...


def bench(session: BenchSession, options: BenchOptions) -> None:
    """Measure what pods cost here: single calls, whole lives, memory.

    Pods are made as a kubelet makes them: a pid namespace for each container, a memory limit, two mounts, a
    log file, the runtime's own network. Runtimes are measured in turn, pod by pod, after a warm-up; figures
    are medians and 99th percentiles. Everything that was made is removed, also after Ctrl-C.

    crib bench -e crib=unix:///run/crib/crib.sock -e containerd=unix:///run/containerd/containerd.sock
    """
    from crib.bench import session as work

    session.run(work.run(options, session.endpoint))


def pull(session: BenchSession, options: PullBenchOptions) -> None:
    """Measure what pulls cost here: time, CPU, memory, and whether the runtime still answers meanwhile.

    Each round removes the image, pulls it (then sync), pulls it again while it is there, lists images, and
    pulls it once more while Version is called every few milliseconds. Runtimes are measured in turn, after a
    pull that is not counted. An image that was there before is there afterwards, others are removed, also
    after Ctrl-C. Do it on a quiet node: sync and the CPU's figures are the whole machine's.

    crib bench pull localhost:5000/big:1 -e crib=unix:///run/crib/crib.sock -e crio=unix:///run/crio/crio.sock
    """
    from crib.bench import pulls as work

    session.run(work.run(options, session.endpoint))


def streams(session: BenchSession, options: StreamsOptions) -> None:
    """Measure exec, attach and port-forward here: round trips, throughput, many at once.

    Each runtime gets one pod. All that it speaks is measured, SPDY and WebSocket, in turn with the others,
    after a warm-up: commands from the call to the exit code, with the client's own part of it; bytes out of
    the container, into it, and out of a port; sessions at once, what each takes of CPU and of the daemon's
    memory. Pods are removed, also after Ctrl-C. Do it on a quiet node: the CPU's figures are the whole
    machine's.

    crib bench streams -e crib=unix:///run/crib/crib.sock -e crio=unix:///run/crio/crio.sock
    """
    from crib.bench import streams as work

    session.run(work.run(options, session.endpoint))


def crowd(session: BenchSession, options: CrowdOptions) -> None:
    """Measure what is left for others while a crowd of callers works: is Version still answered at once?

    Each caller has a connection of its own, in a few processes. In the one part all of them run whole lives
    of pods, one after the other; in the other all list pods, containers and their stats without a pause.
    Version is called 20 times a second meanwhile, over a connection of its own. Pods are removed, also after
    Ctrl-C. Do it on a quiet node.

    crib bench crowd --callers 10 --callers 200 -e crib=unix:///run/crib/crib.sock
    """
    from crib.bench import crowd as work

    work.go_before_all()
    session.run(work.run(options, session.endpoint))
