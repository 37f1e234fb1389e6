"""Tables of the messages that the agent takes and sends: proto/shim/task.proto and proto/vm/guest.proto.

A test compares them with what is generated from these files. Fields of no use to the agent are left out.
"""

from __future__ import annotations

from crib.vm.guest.codec import BOOL, BYTES, FIXED32, INT, MAP, STRING, UINT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

TASK = "containerd.task.v3.Task"
GUEST = "crib.vm.v1.Guest"

EMPTY: dict[int, Any] = {}
ANY = {1: ("type_url", STRING), 2: ("value", BYTES)}
TIMESTAMP = {1: ("seconds", INT), 2: ("nanos", UINT)}
MOUNT = {1: ("type", STRING), 2: ("source", STRING), 3: ("target", STRING), 4: ("options", (STRING,))}
_PROCESS = {1: ("id", STRING), 2: ("exec_id", STRING)}
_ONE = {1: ("id", STRING)}
_ENDED = {1: ("exit_status", UINT), 2: ("exited_at", TIMESTAMP)}
PROCESS_INFO = {1: ("pid", UINT)}

CREATE = {
    1: ("id", STRING), 2: ("bundle", STRING), 3: ("rootfs", (MOUNT,)), 4: ("terminal", BOOL),
    5: ("stdin", STRING), 6: ("stdout", STRING), 7: ("stderr", STRING), 8: ("checkpoint", STRING),
}  # fmt: skip
EXEC = {
    **_PROCESS, 3: ("terminal", BOOL), 4: ("stdin", STRING), 5: ("stdout", STRING), 6: ("stderr", STRING),
    7: ("spec", ANY),
}  # fmt: skip
STATE = {
    1: ("id", STRING), 2: ("bundle", STRING), 3: ("pid", UINT), 4: ("status", UINT), 5: ("stdin", STRING),
    6: ("stdout", STRING), 7: ("stderr", STRING), 8: ("terminal", BOOL), 9: ("exit_status", UINT),
    10: ("exited_at", TIMESTAMP), 11: ("exec_id", STRING),
}  # fmt: skip

TASK_CALLS: dict[str, tuple[dict[int, Any], dict[int, Any]]] = {
    "State": (_PROCESS, STATE),
    "Create": (CREATE, {1: ("pid", UINT)}),
    "Start": (_PROCESS, {1: ("pid", UINT)}),
    "Delete": (_PROCESS, {1: ("pid", UINT), 2: ("exit_status", UINT), 3: ("exited_at", TIMESTAMP)}),
    "Pids": (_ONE, {1: ("processes", (PROCESS_INFO,))}),
    "Pause": (_ONE, EMPTY),
    "Resume": (_ONE, EMPTY),
    "Kill": ({**_PROCESS, 3: ("signal", UINT), 4: ("all", BOOL)}, EMPTY),
    "Exec": (EXEC, EMPTY),
    "ResizePty": ({**_PROCESS, 3: ("width", UINT), 4: ("height", UINT)}, EMPTY),
    "CloseIO": ({**_PROCESS, 3: ("stdin", BOOL)}, EMPTY),
    "Update": ({1: ("id", STRING), 2: ("resources", ANY), 3: ("annotations", MAP)}, EMPTY),
    "Wait": (_PROCESS, _ENDED),
    "Stats": (_ONE, {1: ("stats", ANY)}),
    "Connect": (_ONE, {1: ("shim_pid", UINT), 2: ("task_pid", UINT), 3: ("version", STRING)}),
    "Shutdown": ({1: ("id", STRING), 2: ("now", BOOL)}, EMPTY),
}
"""By name: what is asked and what is answered. Checkpoint is left out: it is not implemented."""

GREETING = {1: ("version", FIXED32), 2: ("generation", FIXED32), 3: ("nonce", BYTES)}
INTERFACE = {1: ("name", STRING), 2: ("mac", STRING), 3: ("mtu", UINT), 4: ("addresses", (STRING,))}
ROUTE = {
    1: ("destination", STRING), 2: ("gateway", STRING), 3: ("interface", STRING), 4: ("metric", UINT),
    5: ("source", STRING), 6: ("onlink", BOOL),
}  # fmt: skip
NEIGHBOUR = {1: ("address", STRING), 2: ("mac", STRING), 3: ("interface", STRING)}
CONFIGURE = {
    1: ("hostname", STRING), 2: ("interfaces", (INTERFACE,)), 3: ("routes", (ROUTE,)),
    4: ("neighbours", (NEIGHBOUR,)), 5: ("sysctls", MAP), 6: ("shared_pid", BOOL), 7: ("share_tag", STRING),
    8: ("now", INT), 9: ("shm_bytes", UINT),
}  # fmt: skip
OOM = {1: ("container_id", STRING), 2: ("cgroup", STRING), 3: ("kills", UINT)}
EVENT = {1: ("at", INT), 2: ("oom", OOM)}
INFO = {
    1: ("kernel", STRING), 2: ("agent_version", STRING), 3: ("crun_version", STRING), 4: ("generation", UINT),
    5: ("initrd_at", INT), 6: ("init_at", INT), 7: ("agent_at", INT), 8: ("ready_at", INT),
    9: ("uptime", INT), 10: ("now", INT),
}  # fmt: skip

GUEST_CALLS: dict[str, tuple[dict[int, Any], dict[int, Any]]] = {
    "Configure": (CONFIGURE, EMPTY),
    "Read": (
        {**_PROCESS, 3: ("stream", UINT), 4: ("connection", UINT), 5: ("offset", UINT), 6: ("max", UINT),
         7: ("wait", UINT)},
        {1: ("data", BYTES), 2: ("eof", BOOL)},
    ),
    "Write": ({**_PROCESS, 3: ("connection", UINT), 4: ("data", BYTES)}, {1: ("accepted", UINT)}),
    "Dial": ({1: ("network", STRING), 2: ("port", UINT), 3: ("path", STRING)}, {1: ("connection", UINT)}),
    "CloseStream": ({1: ("connection", UINT), 2: ("sending", BOOL)}, EMPTY),
    "Memory": (
        {1: ("online", BOOL)},
        {1: ("total", UINT), 2: ("available", UINT), 3: ("free", UINT), 4: ("agent", UINT)},
    ),
    "Cpus": ({1: ("online", BOOL)}, {1: ("present", UINT), 2: ("online", UINT)}),
    "Events": (
        {1: ("cursor", UINT), 2: ("wait", UINT)},
        {1: ("events", (EVENT,)), 2: ("cursor", UINT), 3: ("lost", UINT)},
    ),
    "Info": (EMPTY, INFO),
    "Disk": ({1: ("lun", UINT)}, {1: ("major", UINT), 2: ("minor", UINT)}),
    "Written": (
        _ONE, {1: ("bytes", UINT), 2: ("inodes", UINT), 3: ("size", UINT), 4: ("most_inodes", UINT)},
    ),
    "Users": (_ONE, {1: ("passwd", BYTES), 2: ("group", BYTES)}),
    "Poweroff": (EMPTY, EMPTY),
}  # fmt: skip
