"""AppArmor profiles and SELinux labels here: read for the recipes, loaded, given out and put on files.

Nothing is done, and nothing is read, where the kernel has neither.
"""

from __future__ import annotations

import errno
import logging
import os
import secrets
import threading

from crib.backends.bundle.host_resources import read_seccomp_profile
from crib.backends.failures import failure, why
from crib.host import apparmor, selinux
from crib.host.files import atomic_write
from crib.host.processes import ProgramFailed, ToolMissing
from crib.host.threads import FOREIGN, Job
from crib.model.errors import Broken, InvalidRequest
from crib.model.facts import HostFacts
from crib.model.ids import SandboxId
from crib.model.paths import Paths
from crib.model.sandbox import ProfileType, SandboxRecord, SecurityProfile
from crib.ocispec.infra import PodConfinement, PodSecurityFacts, pod_confinement
from crib.ocispec.security import DEFAULT_PROFILE, wanted_profile
from crib.ocispec.selinux import CATEGORIES, PRIVILEGED_LEVEL, pod_labels, wanted_level

_log = logging.getLogger(__name__)

SYSTEM_TREES = ("/bin", "/boot", "/dev", "/etc", "/lib", "/lib32", "/lib64", "/proc", "/sbin", "/sys", "/usr")
"""Nothing at or below these is ever relabelled."""
SYSTEM_DIRECTORIES = (
    *("/", "/home", "/media", "/mnt", "/opt", "/root", "/run", "/srv", "/tmp", "/var"),  # noqa: S108 - refused
    *("/var/lib", "/var/log", "/var/run", "/var/tmp"),  # noqa: S108 - refused
)
"""Never relabelled themselves; a directory below may be."""
_LEVEL_FILE = "selinux-level"
_LEVEL_LIMIT = 256
_TRIES = 100_000

# A level is chosen and recorded under one lock for all handlers.
_levels_lock = threading.Lock()
_warned: set[str] = set()
_tried: set[str] = set()
"""Profiles of which this daemon gave the kernel its own text: one that is there may be an earlier one's."""
_given: set[str] = set()
"""Those that the kernel took."""


class Labels:
    """What one handler asks of the host's two label systems."""

    def __init__(self, paths: Paths, host: HostFacts) -> None:
        self._paths = paths
        self._host = host

    async def load_default_profile(self, profile: SecurityProfile | None, *, privileged: bool) -> None:
        """Give the kernel our AppArmor profile if it is needed, and not there or from an earlier daemon.

        A failure is logged once: whether a container may do without it is the recipe's to say.
        """
        if self._host.apparmor and wanted_profile(profile, privileged=privileged) == DEFAULT_PROFILE:
            await self._give_default()

    async def bring_back(self, name: str) -> bool:
        """Whether the AppArmor profile `name` had gone from the kernel, and is there again. Only ours can be.

        Broken for another one that has gone.
        """
        if not self._host.apparmor or not name or name == "unconfined":
            return False
        if name == DEFAULT_PROFILE:
            return await self._give_default()
        try:
            if name in apparmor.loaded_profiles():
                return False
        except OSError as error:
            raise failure("the kernel's AppArmor profiles cannot be read", error) from error
        raise Broken(f"the AppArmor profile {name!r} is no longer loaded in the kernel")

    async def _give_default(self) -> bool:
        """Whether the kernel was given our profile."""
        try:
            missing = DEFAULT_PROFILE not in apparmor.loaded_profiles()
            if not missing and DEFAULT_PROFILE in _tried:
                return False
            _tried.add(DEFAULT_PROFILE)
            keeper = apparmor.own_profile()
            await apparmor.load_profile(apparmor.default_profile(DEFAULT_PROFILE, keeper=keeper))
        except (OSError, ProgramFailed) as error:
            words = f"{error}; install apparmor_parser" if isinstance(error, ToolMissing) else str(error)
            if words not in _warned:
                _warned.add(words)
                _log.warning("the AppArmor profile %s cannot be loaded: %s", DEFAULT_PROFILE, words)
            return False
        if missing and DEFAULT_PROFILE in _given:
            _log.warning(
                "loaded the AppArmor profile %s again, which had been removed: "
                "containers that ran under it are unconfined until they start again",
                DEFAULT_PROFILE,
            )
        else:
            _log.info("loaded the AppArmor profile %s", DEFAULT_PROFILE)
        _given.add(DEFAULT_PROFILE)
        return True

    def loaded_profiles(self, profile: SecurityProfile | None, *, privileged: bool) -> frozenset[str]:
        """The profile that a security context needs, if the kernel has it."""
        name = wanted_profile(profile, privileged=privileged)
        if not self._host.apparmor or not name:
            return frozenset()
        try:
            return apparmor.loaded_profiles() & {name}
        except OSError as error:
            raise failure("the kernel's AppArmor profiles cannot be read", error) from error

    def require_types(self) -> None:
        """Broken where SELinux is on and its policy has no types for containers: none could be made."""
        if not self._host.selinux:
            return
        for context in (self._host.selinux_process, self._host.selinux_file):
            if not selinux.is_known(context):
                raise Broken(
                    f"the SELinux policy of this host does not know {context}: install the types of "
                    "containers (container-selinux, or the module container of the reference policy), and "
                    "start cribd again"
                )

    def take_level(self, record: SandboxRecord) -> str:
        """The pod's level: the one that it asks for, else one that no other pod has.

        It is given back with the pod's directory. Safe to repeat.
        """
        if not self._host.selinux:
            return ""
        with _levels_lock:
            level = self.level(record.id)
            if not level:
                asked = wanted_level(record.config.security.selinux)
                level = asked or self._free_level()
                atomic_write(self._level_file(record.id), level.encode(), 0o600)
        return level

    def level(self, sandbox: SandboxId) -> str:
        """The level that the pod has; empty where SELinux is off."""
        if not self._host.selinux:
            return ""
        try:
            with open(self._level_file(sandbox), encoding="ascii") as file:
                return file.read(_LEVEL_LIMIT)
        except FileNotFoundError:
            return ""

    async def seccomp_profile(self, record: SandboxRecord) -> bytes | None:
        """Of the pod's own context; it may be a file anywhere on the host."""
        profile = record.config.security.seccomp
        if profile is None or profile.kind != ProfileType.LOCALHOST:
            return None
        job = Job(f"reading the seccomp profile {profile.localhost_ref}", owner=record.id)
        return await FOREIGN.run(job, read_seccomp_profile, profile)

    def confine(self, record: SandboxRecord, seccomp_profile: bytes | None) -> PodConfinement:
        """What the pod's security context comes to; see `pod_confinement`. Takes the pod's level. Blocks."""
        security = record.config.security
        facts = PodSecurityFacts(
            profiles=self.loaded_profiles(security.apparmor, privileged=security.privileged),
            selinux_level=self.take_level(record),
            seccomp_profile=seccomp_profile,
        )
        found = pod_confinement(record.config, self._host, facts)
        self.check_known(found.process_label, found.file_label)
        return found

    def label_pod(self, record: SandboxRecord) -> None:
        """Label what the pod's containers share: its files for /etc, and its /dev/shm."""
        _, label = pod_labels(record.config, self._host, self.level(record.id))
        if not label:
            return
        own = [self._paths.etc(record.id, name) for name in ("hosts", "hostname", "resolv.conf")]
        for path in (*own, self._paths.shm(record.id)):
            if os.path.exists(path):
                selinux.label_file(path, label)

    def label_for_all(self, path: str) -> None:
        """Label a tree that every pod may read, whatever its level: it has no category. Blocks."""
        if self._host.selinux:
            selinux.relabel_tree(path, self._host.selinux_file)

    def check_known(self, *contexts: str) -> None:
        """InvalidRequest for a context that the policy does not know."""
        for context in filter(None, contexts):
            if not selinux.is_known(context):
                raise InvalidRequest(
                    f"the SELinux policy of this host does not know {context}",
                    field="linux.security_context.selinux_options",
                )

    def _level_file(self, sandbox: SandboxId) -> str:
        return f"{self._paths.sandbox(sandbox)}/{_LEVEL_FILE}"

    def _free_level(self) -> str:
        taken = {PRIVILEGED_LEVEL}
        taken |= {self.level(SandboxId(name)) for name in os.listdir(self._paths.sandboxes)}
        for _ in range(_TRIES):
            low, high = sorted(secrets.randbelow(CATEGORIES) for _ in range(2))
            level = f"s0:c{low},c{high}"
            if low != high and level not in taken:
                return level
        raise Broken("no SELinux level is left for another pod")


def relabel_volume(path: str, label: str, field: str) -> None:
    """Label a volume for a container (CRI Mount.selinux_relabel); `label` may be empty, then nothing is done.

    Pods that share a volume must ask for the same level: the CRI has no word for more. The path is followed
    to where it really is. InvalidRequest, naming `field`, for what belongs to the system (CVE-2021-43816) and
    for what is too large. Blocks, at most for the bounds of `host.selinux.Bounds`.
    """
    if not label:
        return
    real = os.path.realpath(path)
    below = any(real == tree or real.startswith(f"{tree}/") for tree in SYSTEM_TREES)
    if below or real in SYSTEM_DIRECTORIES:
        raise InvalidRequest(f"{real} belongs to the system and is never relabelled", field=field)
    try:
        selinux.relabel_tree(real, label)
    except selinux.LabellingLimit as error:
        raise InvalidRequest(f"{real} cannot be relabelled: {why(error)}", field=field) from error
    except OSError as error:
        if error.errno == errno.EINVAL:
            raise InvalidRequest(
                f"the SELinux policy of this host does not know {label}", field=field
            ) from error
        raise failure(f"{real} cannot be relabelled", error, field=field) from error
