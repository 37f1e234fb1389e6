"""The CNI configuration that is written from a template when the kubelet tells the node's pod ranges.

The template's fields are those of containerd, so that its templates serve here unchanged: `.PodCIDR` is the
first range, `.PodCIDRRanges` are all, `.Routes` the default route of each family that they have.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from ipaddress import ip_network

from crib.backends.failures import failure, trying
from crib.backends.network.pod_ranges import FIELD, ranges_of
from crib.host.directories import make_directory
from crib.host.files import atomic_write
from crib.model.errors import Broken, InvalidRequest
from crib.wire import cni
from crib.wire.go_template import TEMPLATE_BYTES, MalformedTemplate, render

FILE_NAME = "10-crib.conflist"
_SETTING = "network.cni_conf_template"
_DEFAULT_ROUTES = {4: "0.0.0.0/0", 6: "::/0"}


def fields_of(ranges: Sequence[str]) -> Mapping[str, str | Sequence[str]]:
    """What a template may name. Raises InvalidRequest naming the CRI field of a bad range, or of none."""
    texts = ranges_of(",".join(ranges))
    if not texts:
        raise InvalidRequest("no range", field=FIELD)
    families = {ip_network(text).version for text in texts}
    routes = [route for family, route in _DEFAULT_ROUTES.items() if family in families]
    return {"PodCIDR": texts[0], "PodCIDRRanges": texts, "Routes": routes}


def write_conf(template: str, conf_dir: str, ranges: Sequence[str]) -> bool:
    """Write FILE_NAME into `conf_dir`, made if it is missing; False if the file is so already.

    It is synced, which may block for long. Raises Broken naming the setting and the template, and
    InvalidRequest for a bad range.
    """
    fields = fields_of(ranges)
    try:
        conf = render(_read(template, TEMPLATE_BYTES).decode("utf-8"), fields).encode()
        cni.parse_network(conf)
    except OSError as error:
        raise failure(f"{_SETTING} {template}: cannot be read", error) from error
    except cni.MalformedCni as error:
        raise Broken(f"{_SETTING} {template}: its output is not a network: {error}") from error
    except (MalformedTemplate, UnicodeDecodeError) as error:
        raise Broken(f"{_SETTING} {template}: {error}") from error
    path = os.path.join(conf_dir, FILE_NAME)
    with trying(f"{_SETTING} {template}: write {path}"):
        if _has(path, conf):
            return False
        make_directory(conf_dir, 0o755)
        atomic_write(path, conf, 0o644, sync=True)
    return True


def _read(path: str, limit: int) -> bytes:
    """The file, with one byte more than the limit if it is longer."""
    with open(path, "rb") as file:
        return file.read(limit + 1)


def _has(path: str, content: bytes) -> bool:
    try:
        return _read(path, len(content)) == content
    except FileNotFoundError:
        return False
