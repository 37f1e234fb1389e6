"""The task service of one shim (containerd's runtime v2 API, versions 2 and 3), in our nouns."""

from __future__ import annotations

from typing import Protocol

from crib.backends.shim.nouns import Connected, Ended, ProcessState, Stdio, Typed


class TaskService(Protocol):
    """Each call is bounded in time (`verb_timeout` of the settings), but `wait`.

    NotFound for a container or exec that the shim does not know, WrongState where its state does not allow
    the call, NotBuilt for what the shim does not offer, Unavailable when the shim is gone or does not answer
    in time, Broken in the shim's own words for the rest.
    """

    async def create(self, container: str, bundle: str, stdio: Stdio, options: Typed | None) -> int:
        """Make the container of a bundle, whose root is mounted. The pid of its first process; may be 0."""
        ...

    async def start(self, container: str, exec_id: str = "") -> int:
        """Start the first process, or an exec. Its pid."""
        ...

    async def exec(self, container: str, exec_id: str, process: bytes, stdio: Stdio) -> None:
        """Prepare a further process, to be started: `process` is the OCI spec's, as JSON."""
        ...

    async def resize_pty(self, container: str, width: int, height: int, exec_id: str = "") -> None: ...

    async def close_io(self, container: str, exec_id: str = "") -> None:
        """Have the process read the end of its standard input, once all of our ends are closed."""
        ...

    async def wait(self, container: str, exec_id: str = "") -> Ended:
        """Returns when the process has ended. Unavailable as soon as the shim is gone."""
        ...

    async def state(self, container: str, exec_id: str = "") -> ProcessState: ...

    async def kill(
        self, container: str, signum: int, exec_id: str = "", *, everyone: bool = False
    ) -> None: ...

    async def delete(self, container: str, exec_id: str = "") -> Ended:
        """Forget the container, or the exec, which has ended."""
        ...

    async def pids(self, container: str) -> list[int]: ...

    async def stats(self, container: str) -> Typed:
        """Its counters, of a type that the runtime chooses."""
        ...

    async def update(self, container: str, resources: bytes) -> None:
        """Other limits: `resources` is the OCI spec's LinuxResources, as JSON."""
        ...

    async def pause(self, container: str) -> None: ...

    async def resume(self, container: str) -> None: ...

    async def connect(self, container: str) -> Connected: ...

    async def shutdown(self, container: str) -> None:
        """End the shim, unless it has containers."""
        ...
