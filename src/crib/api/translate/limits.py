"""How much a request may hold: counts and lengths, each far above what a kubelet sends.

They bound the memory of one request, and of what is kept as long as its pod or container exists. Every user
of the socket is root anyway: these limits stop mistakes and loops. docs/configuration.md lists them.
`api.server.RECEIVE_LIMIT` bounds the message itself.
"""

from __future__ import annotations

# Lengths.
MAX_NAME = 253
"""Bytes of a Kubernetes object's name (RFC 1123 subdomain)."""
MAX_ID = 128
"""Characters taken for an id or the beginning of one; ours have 64."""
MAX_PATH = 4095
"""Bytes of a path that the kernel takes (PATH_MAX without its NUL)."""
MAX_PATH_PART = 255
"""Bytes of one name in a path (NAME_MAX)."""
MAX_PATH_DEPTH = 256
"""Names in a path: directories are made, and looked for, one by one."""
MAX_WORD = 1 << 20
"""Bytes of a command's word, and of an environment variable's name or value: a ConfigMap has at most as many.
What execve(2) takes is less, and depends on the machine: there the start fails, in the kernel's words."""
MAX_LINE = 2048
"""Bytes of a word in resolv.conf, of a mount option, a part of an SELinux label or a device's name."""
MAX_KEY = 4096
"""Characters of a label's or annotation's key."""
MAX_REFERENCE = 4096
"""Characters of an image name; `model.image.parse_reference` decides whether it is valid."""
MAX_SECRET = 64 << 10
"""Characters of a field of AuthConfig."""
MAX_VALUE = 4096
"""Bytes of a sysctl's or a cgroup file's value, and of a list of processors."""

# Sums.
MAX_TEXT = 1 << 20
"""Bytes that labels and annotations may take together: they are listed and sent in every event."""
MAX_CONFIG = 8 << 20
"""Bytes of one encoded PodSandboxConfig or ContainerConfig, which is kept as long as its pod or container."""

# Counts.
MAX_MOUNTS = 2_000
MAX_MOUNT_OPTIONS = 64
MAX_ENVS = 50_000
"""A namespace with 5,000 services has 35,000 variables for them."""
MAX_WORDS = 50_000
"""Words of a command and its arguments."""
MAX_DEVICES = 1_000
"""Of each kind: devices, CDI devices."""
MAX_LABELS = 20_000
"""Of each kind: labels, annotations."""
MAX_SELECTOR = 1_000
"""Labels that a filter asks for."""
MAX_PORTS = 5_000
MAX_DNS = 256
"""Of each kind: servers, search domains, options; a pod of Kubernetes has at most 3, 32 and a few."""
MAX_SYSCTLS = 1_000
MAX_GROUPS = 1024
"""As many as the groups of one process may be (`ocispec.user`)."""
MAX_CAPABILITIES = 256
"""Names in one list; Linux has 41."""
MAX_HIDDEN_PATHS = 1_000
"""Of each kind: masked paths, read-only paths."""
MAX_ID_MAPPINGS = 340
"""Lines of a uid_map (user_namespaces(7))."""
MAX_UNIFIED = 256
MAX_HUGEPAGE_LIMITS = 64
MAX_STREAM_PORTS = 1_000
"""Ports of one PortForward, targets of one Forward."""
MAX_IMAGE_NAMES = 100
"""Names that an import gives."""
MAX_IMAGES = 1_000
"""Images of one check or export."""
MAX_PODS = 10_000
"""Pods of one check of networks."""
MAX_CHECKPOINTED = 256
"""Containers of one CheckpointPod or RestorePod."""
