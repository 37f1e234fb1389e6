"""`[handlers.NAME]`, but for what it says of containers."""

from __future__ import annotations

import re

from crib.config.values import Rules, absolute_or_none

_NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")


def _name(text: str) -> str:
    return "" if _NAME.fullmatch(text) else "an RFC 1123 label"


RULES: Rules = {
    "handlers": _name,
    "handlers.*.base_spec": absolute_or_none,
    "handlers.*.cni_conf_dir": absolute_or_none,
}
