"""Nothing on the event loop waits for a file system, a program or a peer: what may is in the register below.

The loop serves all pods. A call that hangs there stops the node: so what touches files goes through threads
(`crib.host.threads`), and what stays on the loop says here why it cannot hang.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.architecture.loop_calls import Finding, Source

SOURCE = Path(__file__).parents[2] / "src" / "crib"
NOT_THE_DAEMON = (
    *(
        "cli",
        "client",
        "testing",
        "manifest",
        "supervisor",
        "bench",
        "conform",
        "nri",
        "setup",
        "stubs",
        "backends.images.worker",
        "vm.guest",
        "vm.shim",
    ),
    *(f"backends.images.unpacked.{name}" for name in ("unpack_main", "tree_writer", "tree_digest")),
    *(f"backends.volumes.{name}" for name in ("archive_main", "tree_export", "tree_import")),
    *(f"backends.oci.{name}" for name in ("checkpoint_main", "checkpoint_source", "checkpoint_changes")),
)
"""Rooms of other processes, whose loop serves nobody else."""

AT_START = {
    "crib.daemon.Daemon.open_node": "before the socket is there nobody waits for an answer",
    "crib.backends.handlers.open_handlers": "a part of it",
    "crib.backends.handlers._opened": "a part of it; a reload has read the files in a thread before",
    "crib.backends.locks.pods_cgroup": "a part of it",
    "crib.backends.oci.checkpoint_probe.probe_criu": "a part of it",
    "crib.backends.docker.environment.open_environment": "a part of it",
    "crib.backends.oci.environment.open_environment": "a part of it",
    "crib.backends.pods.opening.open_node": "a part of it",
    "crib.backends.shim.environment.open_environment": "a part of it",
    "crib.backends.shim.environment._shim_facts": "a part of it",
    "crib.backends.vm.environment.open_environment": "a part of it",
    "crib.backends.vm.machine.find_machine": "a part of it",
    "crib.backends.records.rows.SqliteRecords.load": "the databases are read once, before the gate opens",
    "crib.streaming.certificates.Certificates.__init__": "made before the streaming server listens",
    "crib.observe.audit.Audit.__init__": "made before the socket is served; written by a thread of its own",
    "crib.api.server.Server.start": "makes the socket and its directory, in our own state directory",
    "crib.api.server.Server.stop": "removes the socket from our own state directory",
}
"""What only these lead to runs before the first call is served."""

_PROC = "procfs: the kernel answers from memory"
_CGROUP = "cgroupfs: the kernel answers from memory"
_PIPE = "a pipe or socket that does not block, when it is ready"
_STATE = "our own state directory, a tmpfs"
_INSIDE = "runs in a thread within the pod's namespaces; the loop only asks whether there is one"
_SPAWN = (
    "fork and execution of a program wait for each other; programs that may lie elsewhere are looked at "
    "first, in a thread"
)
ON_THE_LOOP = {
    "crib.vm.boot.boot": "a program of its own, with nothing else on its loop",
    "crib.vm.boot._figures": _PROC,
    "crib.backends.images.image_worker.ImageWorker._spawn": "our own interpreter: it dies with its thread",
    "crib.backends.keeping.child.SupervisorChild._once": "our own interpreter, and the ends of its pipes",
    "crib.backends.keeping.child.SupervisorChild.want": _PIPE,
    "crib.backends.images.worker_log.WorkerLog._read": _PIPE,
    "crib.backends.nri.installed._spawned": "the host's own shell: it is the one that waits for the plugin",
    "crib.backends.nri.members.Members.accept": _PROC,
    "crib.backends.network.bridge.forwarder.Forwarder.servers": "the host's own /etc/resolv.conf",
    "crib.backends.network.cni.commands.is_namespace": "a namespace pinned in our own state directory",
    "crib.backends.oci.attach._connect": _STATE,
    "crib.backends.bundle.bundles.Bundles._read_note": _STATE,
    "crib.backends.bundle.bundles.Bundles.first_pid": _STATE,
    "crib.backends.bundle.bundles.Bundles.read_process": _STATE,
    "crib.backends.bundle.bundles.Bundles.read_spec": _STATE,
    "crib.backends.known_processes.identity": _PROC,
    "crib.backends.known_processes.is_alive": _PROC,
    "crib.backends.oci.checkpoints.OciCheckpoints._dump": _SPAWN,
    "crib.backends.oci.conmon.MonitorStart.__init__": _SPAWN,
    "crib.backends.oci.conmon.MonitorStart.pid": _PIPE,
    "crib.backends.oci.conmon.Monitors.spawn": "the runtime's own file, before each start of it",
    "crib.backends.oci.conmon._SyncPipe._read": _PIPE,
    "crib.backends.oci.containers.Containers._keep_null_device": "the host's /dev/null",
    "crib.backends.oci.exec.Commands._bring_home": _CGROUP,
    "crib.backends.oci.exec.Commands._has_begun": _PROC,
    "crib.backends.oci.exec.Commands._has_ended": _PROC,
    "crib.backends.oci.exec.Commands._open": _CGROUP,
    "crib.backends.oci.exec.Commands._put_away": _CGROUP,
    "crib.backends.oci.exec.Commands._run_runtime": _SPAWN,
    "crib.backends.oci.exec.Commands._start": _STATE,
    "crib.backends.oci.exec.Commands._write_process": _STATE,
    "crib.backends.oci.exec._adopted": _PROC,
    "crib.backends.oci.exec._children": _PROC,
    "crib.backends.oci.exec._kill_started": _PROC,
    "crib.backends.oci.exec._read_words": _STATE,
    "crib.backends.oci.exec._unlink": _STATE,
    "crib.backends.oci.lives.OciContainers._run_start": _STATE,
    "crib.backends.oci.lives.OciContainers._start": _PROC,
    "crib.backends.known_processes.read_pid": _STATE,
    "crib.backends.bundle.labels.Labels._give_default": "securityfs",
    "crib.backends.bundle.labels.Labels.bring_back": "securityfs, for a command that failed",
    "crib.backends.oci.log_reopening.reopen": "a watch of nothing yet; what is watched is added in a thread",
    "crib.backends.docker.exec._Running.signal": _PROC,
    "crib.backends.docker.lives.DockerContainers._runs": _PROC,
    "crib.backends.pods.losses.PodLosses.stream": _PROC,
    "crib.backends.shim.lives.ShimContainers.start": _PROC,
    "crib.backends.shim.processes.kill": _PROC,
    "crib.backends.shim.shim_log.ShimLog._read": _PIPE,
    "crib.backends.oci.infra.InfraContainers.start": _STATE,
    "crib.backends.pods.pods.Pods.made_spec": _STATE,
    "crib.backends.pods.pods.Pods.prepare": _CGROUP,
    "crib.backends.oci.runtime_notes.noted_program": _STATE,
    "crib.backends.oci.sessions.NoStreams.__init__": "a file system in memory of its own",
    "crib.backends.oci.inside_signals.OciSignals._send_inside": _STATE,
    "crib.backends.pods.signals.Signals.is_frozen": _CGROUP,
    "crib.backends.pods.signals.Signals.deliver": _CGROUP,
    "crib.backends.shim.chunks.Chunk.fill": _PIPE,
    "crib.backends.shim.chunks.Chunk.remove": _STATE,
    "crib.backends.shim.chunks.Chunks.take": _STATE,
    "crib.backends.shim.chunks._mapped": _STATE,
    "crib.backends.pods.contained.ContainedCommand.bring_home": _CGROUP,
    "crib.backends.pods.contained.ContainedCommand.contain": _CGROUP,
    "crib.backends.pods.contained._parent": _PROC,
    "crib.backends.shim.exec.ShimCommands._start": _STATE,
    "crib.backends.shim.exec._give_score": _PROC,
    "crib.backends.shim.fifo_ends.make_fifos": _STATE,
    "crib.backends.shim.fifo_ends.open_input": _STATE,
    "crib.backends.shim.fifo_ends.open_input_again": _STATE,
    "crib.backends.shim.fifo_ends.open_output": _STATE,
    "crib.backends.shim.fifo_ends.open_output_again": _STATE,
    "crib.backends.shim.fifo_ends.remove_fifos": _STATE,
    "crib.backends.shim.inputs.Input.note_use": _STATE,
    "crib.backends.shim.inputs.Input.was_used": _STATE,
    "crib.backends.shim.outputs.Outputs._carry": _STATE,
    "crib.backends.pods.slices.check_systemd": "the host's own /run",
    "crib.backends.pods.updates.Updates.pod": _CGROUP,
    "crib.backends.records.boot_file.BootRows._try_paying": _STATE,
    "crib.backends.records.journal._rows": _STATE,
    "crib.host.processes.Child.collect": "its descriptor says that the child has ended",
    "crib.backends.records.sqlite_files.commit": "that of `BootRows`; those of images run in threads",
    "crib.host.capture.Capture._read_some": _PIPE,
    "crib.host.cgroups.Cgroups._process_trees": _CGROUP,
    "crib.host.cgroup_trees.remove_one": _CGROUP,
    "crib.host.cgroups._read": _CGROUP,
    "crib.host.cgroup_trees.walk": _CGROUP,
    "crib.host.cgroups._write": _CGROUP,
    "crib.host.files.read_small": "procfs; who reads anything else by it is found by himself",
    "crib.host.inotify.DirectoryWatcher._read": _PIPE,
    "crib.host.namespaces._detach": _STATE,
    "crib.host.namespaces.pin": _STATE,
    "crib.host.namespaces.unpin": _STATE,
    "crib.host.priority._write_score": _PROC,
    "crib.host.priority.raise_session": _PROC,
    "crib.host.priority.raise_threads": _PROC,
    "crib.host.processes.spawn": _SPAWN,
    "crib.host.sealed._make": "a runtime of the host's own that was replaced: once",
    "crib.host.sealed.executable": "the runtime's own file, before each start of it",
    "crib.host.streams.Sink._put": _PIPE,
    "crib.host.streams.Source._take": _PIPE,
    "crib.host.user_namespaces._write_maps": _PROC,
    "crib.host.user_namespaces.open_user_namespace": _PROC,
}
"""Functions that may stay, with the reason."""


@pytest.fixture(scope="module")
def found() -> Sequence[Finding]:
    return Source(SOURCE, "crib", NOT_THE_DAEMON).findings(AT_START)


def test_nothing_on_the_loop_may_hang(found: Sequence[Finding]) -> None:
    assert [str(one) for one in found if one.function not in ON_THE_LOOP] == []


def test_no_entry_of_the_register_is_stale(found: Sequence[Finding]) -> None:
    functions = {one.function for one in found}
    assert [name for name in ON_THE_LOOP if name not in functions] == []


CASES = {
    "directly": (
        """
        async def verb(path: str) -> bytes:
            with open(path, "rb") as file:
                return file.read()
        """,
        ["a.verb: open"],
    ),
    "two calls deep, one of them imported": (
        """
        from pkg.b import look

        def between(path: str) -> bool:
            return look(path)

        async def verb(path: str) -> bool:
            return between(path)
        """,
        ["b.look: os.stat"],
    ),
    "by a method of an object that was made elsewhere": (
        """
        from pkg.b import Reader

        class Verbs:
            def __init__(self, reader: Reader) -> None:
                self._reader = reader

            async def verb(self) -> bytes:
                return self._reader.content()
        """,
        ["b.Reader._opened: os.open"],
    ),
    "by what is handed to the loop": (
        """
        import asyncio
        import os

        def told() -> None:
            os.unlink("/tmp/x")

        async def verb() -> None:
            asyncio.get_running_loop().call_later(1.0, told)
        """,
        ["a.told: os.unlink"],
    ),
    "in asyncio's own pool": (
        """
        import asyncio
        import os

        async def verb(path: str) -> None:
            await asyncio.to_thread(os.stat, path)
        """,
        ["a.verb: asyncio.to_thread"],
    ),
    "by a method of the ground": (
        """
        from pkg.host.files import remove

        async def verb(path: str) -> None:
            remove(path)
        """,
        ["a.verb: pkg.host.files.remove"],
    ),
    "not in a thread": (
        """
        import os
        from functools import partial
        from pkg.b import Reader, look, taking
        from pkg.host.threads import OURS

        async def verb(path: str, reader: Reader) -> None:
            def work() -> None:
                os.stat(path)

            await OURS.run("looking", work)
            await OURS.run("looking", lambda: os.stat(path))
            await OURS.run("looking", partial(look, path))
            await OURS.run("looking", reader.content)
            await taking(lambda: look(path))
        """,
        [],
    ),
    "in what an argument for a thread is worked out from": (
        """
        from pkg.b import look
        from pkg.host.threads import OURS

        async def verb(path: str) -> None:
            await OURS.run("printing", print, look(path))
        """,
        ["b.look: os.stat"],
    ),
}
OTHERS = {
    "b": """
        import os
        from collections.abc import Callable
        from pkg.host.threads import OURS

        def look(path: str) -> bool:
            return os.stat(path).st_size > 0

        class Reader:
            def content(self) -> bytes:
                return self._opened()

            def _opened(self) -> bytes:
                return bytes(os.open("/x", 0))

        async def taking(work: Callable[[], object]) -> object:
            return await OURS.run("taking", work)
        """,
    "host.files": """
        import os

        def remove(path: str) -> None:
            _remove(path)

        def _remove(path: str) -> None:
            os.unlink(path)
        """,
    "host.threads": """
        class Threads:
            async def run(self, job: object, work: object) -> object: ...

        OURS = Threads()
        """,
}


@pytest.mark.parametrize("case", CASES)
def test_a_call_that_blocks_is_found(case: str, tmp_path: Path) -> None:
    source, expected = CASES[case]
    for name, text in (("a", source), *OTHERS.items()):
        path = tmp_path.joinpath(*name.split(".")).with_suffix(".py")
        path.parent.mkdir(exist_ok=True)
        path.write_text(textwrap.dedent(text))
    found = [f"{one.function.removeprefix('pkg.')}: {one.call}" for one in Source(tmp_path, "pkg").findings()]
    assert found == expected
