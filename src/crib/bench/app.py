"""The commands of `crib bench` and their help."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

# typer reads the options from the signatures when a program begins
from crib.bench.options import BenchOptions, CrowdOptions, DayOptions, PullBenchOptions, StreamsOptions

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from typing import Any


class BenchSession(Protocol):
    """What the command line gives: its endpoint, and a way to run a coroutine."""

    @property
    def endpoint(self) -> str: ...

    def run(self, work: Coroutine[Any, Any, None]) -> None: ...


def bench(session: BenchSession, options: BenchOptions) -> None:
    """Measure what pods cost on this node: single calls, whole lives, memory.

    Makes pods as a kubelet does: a pid namespace for each container, a memory limit, two mounts, a log file,
    the runtime's own network. Measures runtimes in turn, pod by pod, after a warm-up. Figures are medians and
    99th percentiles. Removes everything that it made, even after Ctrl-C.

    crib bench -e crib=unix:///run/crib/crib.sock -e containerd=unix:///run/containerd/containerd.sock
    """
    from crib.bench import session as work

    session.run(work.run(options, session.endpoint))


def pull(session: BenchSession, options: PullBenchOptions) -> None:
    """Measure what pulls cost on this node: time, CPU, memory, and how well the runtime answers meanwhile.

    Each round removes the image, pulls it (then sync), pulls it again while it is present, lists images, and
    pulls it once more while calling Version every few milliseconds. Measures runtimes in turn, after a pull
    that does not count. An image that was there before stays; others are removed, even after Ctrl-C. Use a
    quiet node: sync and the CPU figures are those of the whole machine.

    crib bench pull localhost:5000/big:1 -e crib=unix:///run/crib/crib.sock -e crio=unix:///run/crio/crio.sock
    """
    from crib.bench import pulls as work

    session.run(work.run(options, session.endpoint))


def streams(session: BenchSession, options: StreamsOptions) -> None:
    """Measure exec, attach and port-forward on this node: round trips, throughput, concurrent sessions.

    Makes one pod in each runtime and measures every protocol that it speaks, SPDY and WebSocket, in turn,
    after a warm-up: commands from the call to the exit code, with the client's own share; bytes out of the
    container, into it, and out of a port; concurrent sessions, with the CPU and the daemon's memory for each.
    Removes its pods, even after Ctrl-C. Use a quiet node: the CPU figures are those of the whole machine.

    crib bench streams -e crib=unix:///run/crib/crib.sock -e crio=unix:///run/crio/crio.sock
    """
    from crib.bench import streams as work

    session.run(work.run(options, session.endpoint))


def crowd(session: BenchSession, options: CrowdOptions) -> None:
    """Measure how well the runtime serves others while a crowd of callers works: how long does Version take?

    Each caller has a connection of its own; a few processes hold them. In one part all callers run whole
    lives of pods, one after the other; in the other they list pods, containers and their stats continuously.
    Meanwhile Version is called 20 times a second, over a connection of its own. Removes its pods, even after
    Ctrl-C. Use a quiet node.

    crib bench crowd --callers 10 --callers 200 -e crib=unix:///run/crib/crib.sock
    """
    from crib.bench import crowd as work

    work.go_before_all()
    session.run(work.run(options, session.endpoint))


def day(session: BenchSession, options: DayOptions) -> None:
    """Measure what a kubelet's rhythm costs while nothing happens: CPU seconds a minute.

    Starts pods, and asks for some time what a kubelet asks all day: lists each second and the status of what
    changed, statistics every 10 s, a command in each container every 5 s as an exec probe, the runtime's own
    status, events. Measures runtimes in turn, and tells the CPU of the daemon, of the bench itself and of the
    whole machine. Removes its pods, even after Ctrl-C. Use a quiet node.

    crib bench day -e crib=unix:///run/crib/crib.sock -e crio=unix:///run/crio/crio.sock
    """
    from crib.bench import day as work

    session.run(work.run(options, session.endpoint))
