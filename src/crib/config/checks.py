"""Checks across keys, which no bound of a single key can make.

Each yields the key to change, and what is wrong.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Iterator

from crib.config.places import Path
from crib.model.docker_settings import DockerSettings
from crib.model.image_settings import TrustSettings, UpkeepSettings
from crib.model.settings import (
    ContainerDefaults,
    HandlerSettings,
    MetricsSettings,
    Settings,
    StreamingSettings,
)
from crib.model.shim_settings import RUNC, ShimSettings, option_problems, runtime_problem
from crib.model.vm_settings import VmSettings

MAX_SOCKET_PATH = 107
"""Bytes of a unix socket's path (unix(7), sun_path less its NUL)."""
MIN_LOG_SIZE = 64 << 10
"""Bytes that a container's log must have before it is rotated: a few of the longest entries."""

Wrong = Iterator[tuple[Path, str]]


def check(settings: Settings) -> Wrong:
    """Make all of these checks."""
    yield from _check_node(settings)
    yield from _check_containers(settings.containers, ("containers",))
    for name, handler in settings.handlers.items():
        yield from _check_kind(handler, ("handlers", name))
        if handler.containers.mounts != settings.containers.mounts:
            yield from _check_containers(handler.containers, ("handlers", name, "containers"))
    yield from _check_garbage(settings.images.upkeep)
    yield from _check_policy(settings.images.trust)
    yield from _check_streaming(settings.streaming)
    yield from _check_metrics(settings.metrics)


def _check_node(settings: Settings) -> Wrong:
    if settings.default_handler not in settings.handlers:
        yield (
            ("default_handler",),
            f"default_handler is {settings.default_handler!r}, which is not one of the handlers"
            f" ({', '.join(sorted(settings.handlers)) or 'none'})",
        )
    if len(os.fsencode(settings.socket_path)) > MAX_SOCKET_PATH:
        key = "socket" if settings.socket else "state"
        text = f"socket {settings.socket_path} has a path of more than {MAX_SOCKET_PATH} bytes"
        yield (key,), text
    if 0 < settings.log_size_max < MIN_LOG_SIZE:
        text = f"log_size_max is {settings.log_size_max}: it must be 0 or at least {MIN_LOG_SIZE}"
        yield ("log_size_max",), text
    if settings.data == settings.state:
        yield ("data",), "data and state are the same directory"


def _check_kind(handler: HandlerSettings, table: Path) -> Wrong:
    """Keys that only some kinds have. What other packages' kinds make of them is their own affair."""
    name, shim = ".".join(map(str, table)), handler.shim
    if handler.kind in ("oci", "vm"):
        for key in ("runtime", "options"):
            if getattr(shim, key):
                yield (*table, key), f'{name}.{key} is set, but used only with {name}.kind = "shim"'
    if handler.kind in ("oci", "shim", "docker") and handler.vm != VmSettings():
        yield (*table, "vm"), f'{name}.vm is set, but used only with {name}.kind = "vm"'
    if handler.kind in ("shim", "vm"):
        for key in ("path", "args"):
            if getattr(handler, key):
                yield (*table, key), f'{name}.{key} is set, but not used with {name}.kind = "{handler.kind}"'
    if handler.kind in ("oci", "shim", "vm") and handler.docker != DockerSettings():
        yield (*table, "docker"), f'{name}.docker is set, but used only with {name}.kind = "docker"'
    if handler.kind == "docker":
        yield from _check_docker(handler, table)
    if handler.kind == "vm":
        yield from _check_vm(handler, table)
    if handler.kind == "shim":
        yield from _check_shim(shim, table)


def _check_vm(handler: HandlerSettings, table: Path) -> Wrong:
    """What a machine of each pod decides by itself cannot be chosen."""
    name = ".".join(map(str, table))
    for key, value in (
        ("sandbox_container", handler.sandbox_container),
        ("sandbox_service", handler.shim.sandbox_service),
    ):
        if value == "never":
            yield (*table, key), f'{name}.{key} is "never", but with {name}.kind = "vm" each pod is a machine'
    if "/" in handler.vm.qemu and not handler.vm.qemu.startswith("/"):
        yield (*table, "vm", "qemu"), f"{name}.vm.qemu must be an absolute path, or a name found on PATH"


def _check_shim(shim: ShimSettings, table: Path) -> Wrong:
    name = ".".join(map(str, table))
    if not shim.runtime:
        yield (*table, "kind"), f'{name}.runtime is required with {name}.kind = "shim", such as "{RUNC}"'
    elif problem := runtime_problem(shim.runtime):
        yield (*table, "runtime"), f"{name}.runtime: {problem}"
    else:
        for key, text in option_problems(shim.runtime, shim.options).items():
            yield (*table, "options", key), f"{name}.options.{key} {text}"


def _check_docker(handler: HandlerSettings, table: Path) -> Wrong:
    """What the Engine decides by itself cannot be chosen."""
    name, plain = ".".join(map(str, table)), HandlerSettings()
    keys = ("path", "args", "base_spec", "privileged_without_host_devices", "sandbox_container")
    for key in keys:
        if getattr(handler, key) != getattr(plain, key):
            yield (*table, key), f'{name}.{key} is set, but not used with {name}.kind = "docker"'
    for key in ("runtime", "options", "sandbox_service"):
        if getattr(handler.shim, key) != getattr(plain.shim, key):
            yield (*table, key), f'{name}.{key} is set, but used only with {name}.kind = "shim"'


def _check_containers(settings: ContainerDefaults, table: Path) -> Wrong:
    path = (*table, "mounts")
    name = ".".join(map(str, path))
    for number, mount in enumerate(settings.mounts):
        if not mount.source or os.path.normpath(mount.destination) in (".", "/"):
            yield (*path, number), f"{name}: each needs a source, and a destination that is not the root"
    places = [os.path.normpath(mount.destination) for mount in settings.mounts]
    for number, place in enumerate(places):
        if place in places[:number]:
            yield (*path, number), f"{name}: {place} is the destination of more than one"


def _check_garbage(settings: UpkeepSettings) -> Wrong:
    if settings.gc_high > 100 or (settings.gc_high and settings.gc_low >= settings.gc_high):
        yield (
            ("images", "gc_high"),
            f"images.gc_low is {settings.gc_low} and images.gc_high {settings.gc_high}: they are percentages,"
            " and gc_low must be below gc_high",
        )


def _check_policy(settings: TrustSettings) -> Wrong:
    for number, rule in enumerate(settings.policy):
        if (rule.action == "signed") != bool(rule.keys):
            yield (
                ("images", "policy", number),
                f"images.policy {rule.match!r} has the action {rule.action!r} and {len(rule.keys)} keys:"
                " signed needs at least one, the others take none",
            )


def _check_metrics(settings: MetricsSettings) -> Wrong:
    """What it tells is for this node's people: pods reach the host's other addresses."""
    address = settings.listen.rpartition(":")[0].strip("[]")
    is_tcp = settings.listen and not settings.listen.startswith("unix")
    if is_tcp and not settings.remote and not ipaddress.ip_address(address).is_loopback:
        yield (
            ("metrics", "listen"),
            f"metrics.listen is {settings.listen}, which others than this machine reach:"
            " that needs metrics.remote = true",
        )


def _check_streaming(settings: StreamingSettings) -> Wrong:
    """A file that is named is used, and a file that is needed is named."""
    with_files = settings.tls == "files"
    for key in ("cert_file", "key_file"):
        if bool(getattr(settings, key)) != with_files:
            needs = "is required" if with_files else "is set, but used only"
            at = "tls" if with_files else key
            yield ("streaming", at), f'streaming.{key} {needs} with streaming.tls = "files"'
    if settings.client_ca_file and settings.tls == "off":
        text = 'streaming.client_ca_file is set, but streaming.tls is "off"'
        yield ("streaming", "client_ca_file"), text
