"""Every failure that may leave the daemon, as one tree; `api.errors` maps each to a gRPC code.

    CribError                  code
    ├── InvalidRequest         INVALID_ARGUMENT     the caller's request is wrong; `field` names where
    ├── NotFound               NOT_FOUND            the id or name is not known here
    ├── AlreadyExists          ALREADY_EXISTS       the name is taken by something different
    ├── WrongState             FAILED_PRECONDITION  the noun is in a state that does not allow the verb
    ├── Exhausted              RESOURCE_EXHAUSTED   a limit of ours or of the host was reached
    ├── TimedOut               DEADLINE_EXCEEDED    a time-out that the caller named has passed
    ├── Unavailable            UNAVAILABLE          not now: starting, stopping, or a peer is away
    ├── Aborted                ABORTED              an administrator gave up on the verb
    ├── NotBuilt               UNIMPLEMENTED        this daemon does not offer it
    └── Broken                 INTERNAL             the host, a program or a file did not do as it must

Messages are lower-case without a full stop and say what was tried and on which id or path. `reason` is
one of the CRI's own words (cri-api pkg/errors, e.g. `RegistryUnavailable`) that the kubelet looks for.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum, auto


class FieldOf(Enum):
    """What the path of a field begins in."""

    OWN = auto()
    """The noun that the verb makes or changes: the config of a pod or of a container, resources, an image."""
    POD = auto()
    """The config of the pod, where the verb is about something else."""
    REQUEST = auto()
    """The request itself: the path is whole."""


class CribError(Exception):
    """The root of the tree; never raised itself.

    `field` is the path of the CRI field that is to blame, if any. It is relative to its noun, such as
    `linux.resources.cpu_quota` of a container's config. `api` knows where the noun is in a request.
    """

    def __init__(self, message: str, *, field: str = "", of: FieldOf = FieldOf.OWN, reason: str = "") -> None:
        super().__init__(message)
        self.problem = message
        self.field = field
        self.of = of
        self.reason = reason

    @property
    def message(self) -> str:
        """The problem, with the field before it."""
        return f"{self.field}: {self.problem}" if self.field else self.problem

    def __str__(self) -> str:
        return f"{self.reason}: {self.message}" if self.reason else self.message


@contextmanager
def below(path: str, *, pod: str = "") -> Iterator[None]:
    """Prefix the fields of errors within: their noun is at `path`, the config of its pod at `pod`.

    Each caller of a verb that several have joined gets its own error.
    """
    try:
        yield
    except CribError as error:
        place = {FieldOf.OWN: path, FieldOf.POD: pod}.get(error.of, "")
        if not (error.field and place):
            raise
        placed = copy.copy(error)
        placed.field = f"{place}.{error.field}"
        raise placed from error


class InvalidRequest(CribError):
    """The request is wrong; `field` says where."""


class NotFound(CribError):
    """An id, name or image reference that is not known here."""


class AlreadyExists(CribError):
    """The name is taken by something that differs; the message names the difference."""


class WrongState(CribError):
    """The verb is not legal in the state that the noun is in (see `lifecycle`)."""


class Exhausted(CribError):
    """A limit (ours or the host's) was reached; the message names the limit."""


class TimedOut(CribError):
    """A time-out that the caller set has passed."""


class Unavailable(CribError):
    """Not possible now; trying again later may succeed."""


class Aborted(CribError):
    """The verb or its object was abandoned; the message has the reason."""


class NotBuilt(CribError):
    """This daemon does not offer it."""


class Broken(CribError):
    """The host, a program or a file did not do what it must; the cause is in the message."""


NO_PROGRAM = 127
CANNOT_RUN = 126
"""Exit codes as a shell has them: there is no such program, or it is there and cannot be executed."""


class CannotExecute(Broken):
    """A command has not begun, because of its program. `code` is one of the two, `words` the runtime's."""

    def __init__(self, what: str, words: str, code: int) -> None:
        super().__init__(f"{what}: {words}")
        self.words = words
        self.code = code

    def __reduce__(self) -> tuple[type[CannotExecute], tuple[str, str, int]]:
        return type(self), (self.problem.removesuffix(f": {self.words}"), self.words, self.code)


REGISTRY_UNAVAILABLE = "RegistryUnavailable"
SIGNATURE_VALIDATION_FAILED = "SignatureValidationFailed"
RRO_UNSUPPORTED = "RROUnsupported"
IMAGE_VOLUME_MOUNT_FAILED = "ImageVolumeMountFailed"
