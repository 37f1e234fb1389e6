"""`[streaming]`."""

from __future__ import annotations

from crib.config.values import Rules, absolute_or_none, at_least, ip_address, one_of
from crib.model.settings import StreamingSettings

RULES: Rules = {
    "streaming.address": ip_address,
    "streaming.port": at_least(0),
    "streaming.tls": one_of("off", "files", "self-signed"),
    "streaming.cert_file": absolute_or_none,
    "streaming.key_file": absolute_or_none,
    "streaming.client_ca_file": absolute_or_none,
    "streaming.token_time": at_least(1),
    "streaming.creation_timeout": at_least(0.1),
    "streaming.idle_timeout": at_least(0),
    "streaming.max_connections": at_least(1),
    "streaming.max_streams": at_least(4),
    "streaming.attach_replay": at_least(0),
}


def check_streaming(settings: StreamingSettings) -> None:
    """Each file has a use where it is named, and is named where it is needed; else ValueError."""
    with_files = settings.tls == "files"
    for key in ("cert_file", "key_file"):
        if bool(getattr(settings, key)) != with_files:
            needs = "is needed" if with_files else "is named, but used only"
            raise ValueError(f'streaming.{key} {needs} with streaming.tls = "files"')
    if settings.client_ca_file and settings.tls == "off":
        raise ValueError('streaming.client_ca_file is named, but streaming.tls is "off"')
