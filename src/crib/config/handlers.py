"""`[handlers.NAME]`."""

from __future__ import annotations

from crib.config.values import Rules, absolute_or_none

RULES: Rules = {
    "handlers.*.base_spec": absolute_or_none,
    "handlers.*.cni_conf_dir": absolute_or_none,
}
