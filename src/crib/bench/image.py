"""An image from the host's static busybox, so that a node without a registry can be measured.

python -m crib.bench.image demo.tar localhost/demo:latest && crib import demo.tar
"""

from __future__ import annotations

import hashlib
import io
import json
import platform
import shutil
import sys
import tarfile

APPLETS = (
    "sh",
    "sleep",
    "true",
    "cat",
    "echo",
    "date",
    "ls",
    "ps",
    "env",
    "id",
    "mkdir",
    "httpd",
    "wget",
    "tail",
    "head",
    "seq",
    "kill",
    "sync",
    "test",
    "mount",
    "df",
    "dd",
    "nc",
)
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


def _member(name: str, kind: bytes, mode: int) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.mode = kind, mode
    return member


def _layer(busybox: bytes) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name in ("bin", "etc", "proc", "sys", "dev", "root"):
            tar.addfile(_member(name, tarfile.DIRTYPE, 0o755))
        tar.addfile(_member("tmp", tarfile.DIRTYPE, 0o1777))
        passwd = b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"
        for name, content, mode in (("bin/busybox", busybox, 0o755), ("etc/passwd", passwd, 0o644)):
            member = _member(name, tarfile.REGTYPE, mode)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
        for applet in APPLETS:
            member = _member(f"bin/{applet}", tarfile.SYMTYPE, 0o777)
            member.linkname = "busybox"
            tar.addfile(member)
    return out.getvalue()


def write_archive(path: str, name: str, busybox: str | None = None) -> None:
    """Write a docker-archive with one layer. FileNotFoundError when there is no busybox on this host."""
    program = busybox or shutil.which("busybox")
    if program is None:
        raise FileNotFoundError(2, "no busybox on this host", "busybox")
    with open(program, "rb") as file:
        layer = _layer(file.read())
    machine = platform.machine()
    config = json.dumps(
        {
            "architecture": _ARCHITECTURES.get(machine, machine),
            "os": "linux",
            "config": {"Cmd": ["/bin/sh"], "Env": ["PATH=/bin"]},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
        },
        sort_keys=True,
    ).encode()
    config_name = f"{hashlib.sha256(config).hexdigest()}.json"
    manifest = json.dumps([{"Config": config_name, "RepoTags": [name], "Layers": ["layer.tar"]}]).encode()
    with tarfile.open(path, "w") as tar:
        for member_name, content in (
            (config_name, config),
            ("layer.tar", layer),
            ("manifest.json", manifest),
        ):
            member = _member(member_name, tarfile.REGTYPE, 0o644)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python -m crib.bench.image ARCHIVE NAME")
    write_archive(sys.argv[1], sys.argv[2])
