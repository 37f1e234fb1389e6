"""The disks of the guests: each a Debian with a kernel, made once from packages and wheels, and kept.

An image is a directory below `store()`: `disk.raw` (ext4, sparse), `vmlinuz` and `initrd` for direct kernel
boot, the key that its root account lets in, and the key of its ssh server. Its name ends in a digest of what
it is made from: when that changes, another image is made. Needs root: a system is set up in a chroot.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
MAKING = 2
"""Raised when images are made in another way: those that are there do not serve any more then."""
CHECKOUT = "/root/crib"
"""Where a guest has the checkout; its virtual environment is below that already."""
DISK_GIB = 12
"""Size of a guest's file system. The file is sparse: an image takes what it holds."""
NEEDED_GIB = 6
"""What must be free on the host's disk to make an image."""
KEPT_DAYS = 14
"""Images that nobody used for as long are removed when another is made."""
PROGRAMS = "qemu-system-x86 qemu-utils mmdebstrap e2fsprogs openssh-client zstd"
"""Packages that the lab needs on the host."""
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
NEWEST_GLIBC = 36
"""Wheels are looked for up to manylinux_2_36: Debian 12 has glibc 2.36."""


class LabError(Exception):
    """What the lab cannot do, for whoever called it: one line, and below it what a program said."""


class OutOfTime(LabError):
    """The time that the caller had is up."""


@dataclass(frozen=True)
class Recipe:
    """What a guest is made from. `python` is the release's `python3`, for which wheels are taken."""

    name: str
    suite: str
    python: str
    packages: tuple[str, ...] = ()
    kernel: str = ""
    selinux: bool = False


_BASE = (
    "systemd", "systemd-sysv", "dbus", "udev", "kmod", "linux-image-cloud-amd64", "initramfs-tools", "zstd",
    "openssh-server", "ca-certificates", "python3", "python3-venv",
)  # fmt: skip
_CRIB = (
    "crun", "runc", "conmon", "catatonit", "libnftables1", "nftables", "busybox-static", "iproute2",
    "iptables", "containernetworking-plugins", "docker-registry", "erofs-utils", "e2fsprogs", "xfsprogs",
    "procps", "attr", "git", "tmux", "strace", "apparmor", "containerd", "sqlite3",
)  # fmt: skip
PACKAGES = (*_BASE, *_CRIB)
"""Of every guest."""
_TRIXIE = ("criu",)
"""Debian 12's cannot do what checkpoints need."""
_SELINUX = ("selinux-policy-default", "policycoreutils", "selinux-utils", "attr", "auditd")

_KEEPER = """
(allow container_system_domain unconfined_t (fd (use)))
(allow container_system_domain unconfined_t (fifo_file (append getattr ioctl lock read write)))
(allow container_system_domain unconfined_t (process (sigchld)))
(allow unconfined_t container_domain (process2 (nnp_transition nosuid_transition)))
"""
"""SELinux: what containers may do with the daemon that started them. Debian's policy has the types of
containers, but knows no daemon of ours: cribd is started unconfined there.
"""

RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe("trixie", "trixie", "3.13", _TRIXIE),
        Recipe("bookworm", "bookworm", "3.11"),
        Recipe(
            "selinux",
            "trixie",
            "3.13",
            (*_TRIXIE, *_SELINUX),
            "lsm=landlock,yama,selinux selinux=1 enforcing=1",
            selinux=True,
        ),
    )
}

_MASKED = (
    "apt-daily.timer", "apt-daily-upgrade.timer", "fstrim.timer", "e2scrub_all.timer", "man-db.timer",
    "dpkg-db-backup.timer", "systemd-networkd-wait-online.service", "serial-getty@ttyS0.service",
    "getty@tty1.service",
    # tests keep their roots in /tmp, and the kernel mounts EROFS from no file of a tmpfs
    "tmp.mount",
)  # fmt: skip
_DISABLED = ("docker-registry.service", "containerd.service")
"""Services of packages that are here for their programs."""

_FILES = {
    "etc/fstab": "/dev/vda / ext4 defaults 0 0\n",
    "etc/hosts": "127.0.0.1 localhost\n::1 localhost\n",
    "etc/resolv.conf": "nameserver 10.0.2.3\n",
    # fixed in qemu's user network; a lease would cost a second of each boot
    "etc/systemd/network/10-guest.network": (
        "[Match]\nName=en* eth*\nDriver=virtio_net\n"
        "[Network]\nAddress=10.0.2.15/24\nGateway=10.0.2.2\nIPv6AcceptRA=no\nLinkLocalAddressing=no\n"
    ),
    "etc/ssh/sshd_config.d/guest.conf": (
        "PermitRootLogin prohibit-password\nUsePAM no\nUseDNS no\nMaxSessions 100\n"
    ),
    # whoever booted the guest waits for this line on the second serial line
    "etc/systemd/system/guest-ready.service": (
        "[Unit]\nAfter=ssh.service systemd-networkd.service\n[Service]\nType=oneshot\n"
        "ExecStart=/bin/sh -c 'echo ready >/dev/ttyS1'\n[Install]\nWantedBy=multi-user.target\n"
    ),
    "root/.profile": f"PATH={CHECKOUT}/.venv/bin:$PATH\n",
}
_INITRAMFS = {
    # a small one, quick to unpack where each instruction is emulated
    "etc/initramfs-tools/conf.d/guest": "MODULES=list\nCOMPRESS=zstd\nFSTYPE=ext4\n",
    "usr/share/initramfs-tools/modules.d/guest": "virtio_pci\nvirtio_blk\next4\ncrc32c_generic\n",
}


@dataclass(frozen=True)
class Image:
    """A guest's disk and what boots it. `recipe.kernel` are words for the kernel's command line."""

    recipe: Recipe
    directory: Path

    @property
    def disk(self) -> Path:
        return self.directory / "disk.raw"

    @property
    def key(self) -> Path:
        return self.directory / "key"


def store() -> Path:
    """Where images are kept: CRIB_GUESTS, or else crib/guests in the user's cache, or in /var/cache."""
    chosen = os.environ.get("CRIB_GUESTS")
    return (
        Path(chosen) if chosen else Path(os.environ.get("XDG_CACHE_HOME") or "/var/cache", "crib", "guests")
    )


def recipe(name: str) -> Recipe:
    if name not in RECIPES:
        raise LabError(f"there is no guest {name}: the lab has {', '.join(RECIPES)}")
    return RECIPES[name]


def image(name: str) -> Image:
    """The image of this guest, made now if there is none of what it would be made from today.

    One at a time makes it, others wait. Raises LabError: not root, no program, no space, a step failed.
    """
    made_from = recipe(name)
    directory = store() / f"{name}-{stamp(made_from)}"
    if not (directory / "made.json").exists():
        _check_host()
        store().mkdir(parents=True, exist_ok=True)
        with one_at_a_time(name):
            if not (directory / "made.json").exists():
                _make(made_from, directory)
                _forget_old(directory)
    os.utime(directory)
    return Image(made_from, directory)


def stamp(made_from: Recipe) -> str:
    """A digest of the recipe, the lock file, and what pyproject.toml says of the package."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    parts: tuple[str, ...] = (
        f"{MAKING} {DISK_GIB} {made_from} {_BASE} {_CRIB} {_MASKED} {_DISABLED} {_FILES} {_INITRAMFS}",
        (ROOT / "requirements-dev.lock").read_text(),
        json.dumps([project["project"], project["build-system"]], sort_keys=True),
    )
    if made_from.selinux:
        parts += (_KEEPER,)
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]


def require(*programs: str) -> None:
    """Raises LabError if one of these is not installed."""
    missing = [name for name in programs if shutil.which(name) is None]
    if missing:
        raise LabError(f"{', '.join(missing)} not found: apt-get install {PROGRAMS}")


def _check_host() -> None:
    if os.geteuid() != 0:
        raise LabError("a guest's image is made in a chroot, which needs root")
    if (machine := platform.machine()) != "x86_64":
        raise LabError(f"a guest's image is made in a chroot of x86-64, and this machine is {machine}")
    require("mmdebstrap", "unshare", "mkfs.ext4", "ssh-keygen", "chroot")
    place = next(parent for parent in (store(), *store().parents) if parent.exists())
    free = shutil.disk_usage(place).free / 2**30
    if free < NEEDED_GIB:
        raise LabError(
            f"an image needs {NEEDED_GIB} GiB, and {place} has {free:.1f} GiB free "
            "(CRIB_GUESTS names another place)"
        )


@contextlib.contextmanager
def one_at_a_time(name: str) -> Iterator[None]:
    """Whoever makes something of this guest, alone."""
    with open(store() / f"{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _make(made_from: Recipe, directory: Path) -> None:
    began = time.monotonic()
    print(f"making the image of {made_from.name} in {directory} (once; some minutes)", file=sys.stderr)
    with tempfile.TemporaryDirectory(prefix=f".{made_from.name}-", dir=store()) as scratch:
        work = Path(scratch)
        root, result = work / "root", work / "image"
        result.mkdir()
        _bootstrap(made_from, root)
        _configure(made_from, root, result)
        _install_wheels(made_from, root, work / "wheels")
        if made_from.selinux:
            _label(root)
        _write_disk(root, result)
        took = round(time.monotonic() - began)
        (result / "made.json").write_text(json.dumps({"suite": made_from.suite, "seconds": took}) + "\n")
        shutil.rmtree(directory, ignore_errors=True)
        result.rename(directory)
    print(f"made it in {took} s", file=sys.stderr)


_APART = ("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")
"""Before a program that mounts /proc and /sys below a new system. Killed, it takes its processes and mounts
along, so that nothing of the host is removed with the half-made system.
"""


def _bootstrap(made_from: Recipe, root: Path) -> None:
    """The release's packages, from where this host has its own from."""
    early = [
        f'mkdir -p "$(dirname "$1"/{path})" && printf %s {shlex.quote(text)} >"$1"/{path}'
        for path, text in _INITRAMFS.items()
    ]
    main, security = _mirrors()
    _step(
        *_APART,
        "mmdebstrap",
        "--mode=root",
        "--quiet",
        "--variant=minbase",
        f"--include={','.join(dict.fromkeys((*PACKAGES, *made_from.packages)))}",
        *(f"--aptopt={line}" for line in _apt_options()),
        '--aptopt=Acquire::Languages "none"',
        "--dpkgopt=path-exclude=/usr/share/man/*",
        "--dpkgopt=path-exclude=/usr/share/locale/*",
        "--dpkgopt=force-unsafe-io",
        *(f"--essential-hook={line}" for line in early),
        made_from.suite,
        str(root),
        f"deb {main} {made_from.suite} main",
        f"deb {main} {made_from.suite}-updates main",
        f"deb {security} {made_from.suite}-security main",
    )


def _mirrors() -> tuple[str, str]:
    """Debian's archive and its security archive, as the host's apt has them, or CRIB_GUEST_MIRROR."""
    chosen = os.environ.get("CRIB_GUEST_MIRROR")
    found = {
        "Debian": "http://deb.debian.org/debian",
        "Debian-Security": "http://deb.debian.org/debian-security",
    }
    if chosen:
        found["Debian"] = chosen
    elif shutil.which("apt-get"):
        listed = subprocess.run(
            ["apt-get", "indextargets", "--format", "$(ORIGIN)\t$(LABEL)\t$(REPO_URI)"],
            capture_output=True, text=True, check=False,
        ).stdout  # fmt: skip
        for line in sorted(set(listed.splitlines())):
            origin, label, address = line.split("\t")
            if origin == "Debian" and label in found:
                found[label] = address
    return found["Debian"], found["Debian-Security"]


def _apt_options() -> list[str]:
    """The host's settings of how to fetch (proxies, certificates, checks), line by line."""
    if shutil.which("apt-config") is None:
        return []
    dumped = subprocess.run(["apt-config", "dump"], capture_output=True, text=True, check=False).stdout
    wanted = ("Acquire::http", "Acquire::https", "Acquire::Check", "Acquire::Retries")
    return [
        line.rstrip(";")
        for line in dumped.splitlines()
        if line.startswith(wanted) and not line.endswith(' "";')
    ]


def _configure(made_from: Recipe, root: Path, result: Path) -> None:
    """What makes it a guest: its network, its doors, and nothing that runs by itself."""
    for path, text in {**_FILES, "etc/hostname": f"{made_from.name}\n"}.items():
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.unlink(missing_ok=True)
        file.write_text(text)
    # that was for the making: packages that are installed in the guest come whole, and safely
    (root / "etc/dpkg/dpkg.cfg.d/99mmdebstrap").unlink()
    for name in _MASKED:
        (root / "etc/systemd/system" / name).unlink(missing_ok=True)
        (root / "etc/systemd/system" / name).symlink_to("/dev/null")
    _in(root, "systemctl", "disable", *_DISABLED)
    _in(root, "systemctl", "enable", "ssh.service", "systemd-networkd.service", "guest-ready.service")
    for old in (root / "etc/ssh").glob("ssh_host_*"):
        old.unlink()
    host_key = root / "etc/ssh/ssh_host_ed25519_key"
    for key in (result / "key", host_key):
        _step("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "guest", "-f", str(key))
    (result / "known_hosts").write_text(f"guest {host_key.with_suffix('.pub').read_text()}")
    doors = root / "root/.ssh"
    doors.mkdir(mode=0o700, exist_ok=True)
    shutil.copy(result / "key.pub", doors / "authorized_keys")
    for name, pattern in (("vmlinuz", "vmlinuz-*"), ("initrd", "initrd.img-*")):
        (found,) = (root / "boot").glob(pattern)
        shutil.copy(found, result / name)


def _install_wheels(made_from: Recipe, root: Path, wheels: Path) -> None:
    """The project's locked dependencies, in the virtual environment that script/setup would make there."""
    tag = f"cp{made_from.python.replace('.', '')}"
    platforms = [f"manylinux_2_{minor}_x86_64" for minor in range(5, NEWEST_GLIBC + 1)]
    _step(
        _python_with_pip(), "-m", "pip", "download", "--quiet", "--disable-pip-version-check",
        "--only-binary=:all:", "--no-deps", "--require-hashes", "--dest", str(wheels),
        "--requirement", str(ROOT / "requirements-dev.lock"), "--implementation", "cp",
        "--python-version", made_from.python, "--abi", tag, "--abi", "abi3", "--abi", "none",
        *(f"--platform={name}" for name in (*platforms, "manylinux2014_x86_64", "linux_x86_64", "any")),
    )  # fmt: skip
    checkout = root / CHECKOUT.lstrip("/")
    for name in checkout_files():
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, checkout / name)
    moved = checkout / "wheels"
    wheels.rename(moved)
    pip = (f"{CHECKOUT}/.venv/bin/python", "-m", "pip", "install", "--quiet", "--no-deps", "--no-index")
    _in(root, "python3", "-m", "venv", f"{CHECKOUT}/.venv")
    lock = f"{CHECKOUT}/requirements-dev.lock"
    _in(root, *pip, f"--find-links={CHECKOUT}/wheels", "--require-hashes", "--requirement", lock)
    _in(root, *pip, "--no-build-isolation", "--editable", CHECKOUT)
    shutil.rmtree(moved)
    _compile(root, checkout)


def _compile(root: Path, checkout: Path) -> None:
    """Leave the modules of today's checkout compiled, which takes minutes where the CPU is emulated.

    Files are copied in anew for each guest, so what was compiled is known by its source, not by a time.
    """
    places = [f"{CHECKOUT}/{name}" for name in ("src", "tests")]
    _in(root, "python3", "-m", "compileall", "-q", "--invalidation-mode", "checked-hash", *places)
    for file in (
        file for name in ("src", "tests") for file in (checkout / name).rglob("*") if file.is_file()
    ):
        if file.suffix != ".pyc":
            file.unlink()


def checkout_files() -> list[str]:
    """The working tree as it is, committed or not, without what git ignores; names below ROOT."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    return [name for name in listed.split("\0") if name and os.path.lexists(ROOT / name)]


def _python_with_pip() -> str:
    for python in filter(shutil.which, (str(ROOT / ".venv" / "bin" / "python"), sys.executable)):
        asked = subprocess.run([python, "-m", "pip", "--version"], capture_output=True, check=False)
        if asked.returncode == 0:
            return python
    raise LabError("wheels for the guest are fetched by pip, which is not here: run script/setup --dev first")


def _label(root: Path) -> None:
    """Each file's SELinux label as the policy says, written from outside: the first boot enforces."""
    module = root / "root/keeper.cil"
    module.write_text(_KEEPER)
    _in(root, "semodule", "--noreload", "--store=default", "--install=/root/keeper.cil")
    module.unlink()
    contexts = "/etc/selinux/default/contexts/files/file_contexts"
    _in(root, "setfiles", "-F", "-e", "/proc", "-e", "/sys", "-e", "/dev", contexts, "/")


def _write_disk(root: Path, result: Path) -> None:
    disk = result / "disk.raw"
    with open(disk, "wb") as file:
        file.truncate(DISK_GIB << 30)
    # uninitialised tables cost writes of the guest's kernel later, and no space in a sparse file now
    _step(
        "mkfs.ext4",
        "-q",
        "-F",
        "-m",
        "0",
        "-E",
        "lazy_itable_init=0,lazy_journal_init=0",
        "-d",
        str(root),
        str(disk),
    )


def _forget_old(newest: Path) -> None:
    for other in store().glob(f"{newest.name.rpartition('-')[0]}-*"):
        if other != newest and time.time() - other.stat().st_mtime > KEPT_DAYS * 86_400:
            shutil.rmtree(other)


def _in(root: Path, *argv: str) -> None:
    """Run a program of the guest's system, in a chroot."""
    _step("chroot", str(root), "env", f"PATH={SYSTEM_PATH}", *argv)


def _step(*argv: str) -> None:
    """A program that must succeed, with nothing of the caller's environment but how to fetch things."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name == "PATH" or name.startswith("PIP_") or name.lower().endswith("_proxy")
    }
    done = subprocess.run(
        argv,
        env={**kept, "LC_ALL": "C.UTF-8", "HOME": "/root", "DEBIAN_FRONTEND": "noninteractive"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        tail = "\n".join(done.stdout.splitlines()[-20:])
        raise LabError(f"{argv[0]} failed (exit code {done.returncode}) in the making of an image:\n{tail}")
