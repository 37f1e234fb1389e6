"""The files that a pod's containers share: hosts, hostname, resolv.conf."""

from __future__ import annotations

import contextlib
import errno
import os
import socket

from crib.backends.bundle.id_maps import own, pod_id_map
from crib.backends.known_processes import is_alive
from crib.host.files import atomic_write
from crib.model.errors import InvalidRequest
from crib.model.paths import Paths
from crib.model.sandbox import DnsConfig, SandboxConfig, SandboxRecord
from crib.ocispec.inputs import PodPaths

_HOST_FILE_LIMIT = 1 << 20
_MAX_HOSTNAME = 64
_MAX_LINES = 1000


def check_pod_files(config: SandboxConfig) -> None:
    """Refuse what cannot be written: names and DNS entries are single words, as the files' format has it."""
    if len(os.fsencode(config.hostname)) > _MAX_HOSTNAME or _not_a_word(config.hostname):
        raise InvalidRequest(
            f"{config.hostname[:80]!r} is not one word of at most {_MAX_HOSTNAME} bytes",
            field="hostname",
        )
    dns = config.dns or DnsConfig()
    for part, values in (("servers", dns.servers), ("searches", dns.searches), ("options", dns.options)):
        if len(values) > _MAX_LINES:
            raise InvalidRequest(f"more than {_MAX_LINES} entries", field=f"dns_config.{part}")
        for position, value in enumerate(values):
            if not value or _not_a_word(value):
                raise InvalidRequest(f"{value!r} is not one word", field=f"dns_config.{part}[{position}]")


def _not_a_word(text: str) -> bool:
    return any(char.isspace() or char == "\0" for char in text)


def write_pod_files(paths: Paths, record: SandboxRecord) -> None:
    """Write all three below the sandbox's directory, which exists."""
    config = record.config
    hostname = socket.gethostname() if config.host_network else config.hostname
    _write(paths, record, "hostname", f"{hostname}\n".encode())
    _write(paths, record, "resolv.conf", _resolv_conf(config.dns or DnsConfig(), record.resolver))
    write_hosts(paths, record)


def write_hosts(paths: Paths, record: SandboxRecord) -> None:
    """Write the hosts file if it is not there as it should be.

    The pod's addresses are known only after the network is. A pod that has filled its files keeps the one
    that it has: its containers can still be started again.
    """
    wanted = _host_file("/etc/hosts") if record.config.host_network else _hosts(record)
    path = paths.etc(record.id, "hosts")
    is_there = False
    with contextlib.suppress(FileNotFoundError), open(path, "rb") as file:
        is_there = True
        if file.read(_HOST_FILE_LIMIT) == wanted:
            return
    try:
        _write(paths, record, "hosts", wanted)
    except OSError as error:
        if error.errno != errno.ENOSPC or not is_there:
            raise


def _write(paths: Paths, record: SandboxRecord, name: str, content: bytes) -> None:
    path = paths.etc(record.id, name)
    atomic_write(path, content)
    own(path, pod_id_map(paths, record))


def _hosts(record: SandboxRecord) -> bytes:
    lines = ["127.0.0.1\tlocalhost", "::1\tlocalhost ip6-localhost ip6-loopback", "ff02::1\tip6-allnodes"]
    addresses = record.network.addresses if record.network is not None else ()
    if record.config.hostname:
        lines += [f"{address}\t{record.config.hostname}" for address in addresses]
    return ("\n".join(lines) + "\n").encode()


def _resolv_conf(dns: DnsConfig, resolver: DnsConfig | None) -> bytes:
    if not (dns.servers or dns.searches or dns.options):
        hosts = _host_file("/etc/resolv.conf")
        return hosts if resolver is None else _asked_first(resolver, hosts)
    lines = [f"nameserver {server}" for server in dns.servers]
    if dns.searches:
        lines.append("search " + " ".join(dns.searches))
    if dns.options:
        lines.append("options " + " ".join(dns.options))
    return ("\n".join(lines) + "\n").encode()


def _asked_first(resolver: DnsConfig, hosts: bytes) -> bytes:
    """The host's resolv.conf(5) with the network's servers and domains before its own.

    The C library asks only the first three servers of a file, in turn. So the host's own stay behind ours,
    for the time that ours do not answer.
    """
    rest: list[bytes] = []
    searches = list(resolver.searches)
    for line in hosts.splitlines():
        words = line.split()
        if words and words[0] in (b"search", b"domain"):
            searches += [word.decode("utf-8", "replace") for word in words[1:]]
        else:
            rest.append(line)
    first = [f"nameserver {server}".encode() for server in resolver.servers]
    if searches:
        first.append(("search " + " ".join(dict.fromkeys(searches))).encode())
    return b"\n".join([*first, *rest]) + b"\n"


def _host_file(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(_HOST_FILE_LIMIT)
    except FileNotFoundError:
        return b""


def pod_paths(paths: Paths, sandbox: SandboxRecord) -> PodPaths:
    """What the pod has ready for the specs of its containers."""
    infra = sandbox.infra
    return PodPaths(
        hosts=paths.etc(sandbox.id, "hosts"),
        hostname=paths.etc(sandbox.id, "hostname"),
        resolv_conf=paths.etc(sandbox.id, "resolv.conf"),
        shm=paths.shm(sandbox.id),
        net_namespace=paths.namespace(sandbox.id, "net"),
        ipc_namespace=paths.namespace(sandbox.id, "ipc"),
        uts_namespace=paths.namespace(sandbox.id, "uts"),
        user_namespace=paths.namespace(sandbox.id, "user") if sandbox.config.user_namespace else "",
        pid_namespace=f"/proc/{infra.pid}/ns/pid" if infra and is_alive(infra) else "",
    )
