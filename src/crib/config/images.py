"""`[images]` and the rules of `[[images.policy]]`."""

from __future__ import annotations

from crib.config.values import Rules, absolute, absolute_or_none, at_least, image_name, image_pattern, one_of
from crib.model.settings import ImageSettings

RULES: Rules = {
    "images.hosts_dirs": absolute,
    "images.registries_conf": absolute_or_none,
    "images.auth_file": absolute_or_none,
    "images.parallel_layers": at_least(1),
    "images.parallel_ranges": at_least(1),
    "images.worker_memory": at_least(0),
    "images.pull_linger": at_least(0),
    "images.stall_timeout": at_least(0.1),
    "images.stall_bytes": at_least(1),
    "images.min_rate": at_least(0),
    "images.dead_host_time": at_least(0),
    "images.bandwidth": at_least(0),
    "images.partial_time": at_least(0),
    "images.partial_bytes": at_least(0),
    "images.max_layer_bytes": at_least(1),
    "images.max_ratio": at_least(1),
    "images.min_free": at_least(0),
    "images.block_size": one_of(0, 512, 4096),
    "images.mount_method": one_of("auto", "file", "loop", "directory"),
    "images.prepull": image_name,
    "images.import_dir": absolute_or_none,
    "images.gc_high": at_least(0),
    "images.gc_low": at_least(0),
    "images.gc_min_age": at_least(0),
    "images.policy.match": image_pattern,
    "images.policy.action": one_of("accept", "reject", "digest", "signed"),
    "images.policy.keys": absolute,
    "images.verifiers": absolute,
    "images.verifier_timeout": at_least(0.1),
}


def check_images(settings: ImageSettings) -> None:
    """What more than one key decides; ValueError."""
    if settings.gc_high > 100 or (settings.gc_high and settings.gc_low >= settings.gc_high):
        raise ValueError(
            f"images.gc_low is {settings.gc_low} and images.gc_high {settings.gc_high}: they are percents,"
            " and the low one must be below the high one"
        )
    for rule in settings.policy:
        if (rule.action == "signed") != bool(rule.keys):
            raise ValueError(
                f"images.policy {rule.match!r} has the action {rule.action!r} and {len(rule.keys)} keys:"
                " signed needs at least one, the others take none"
            )
