"""What `crib setup --write` offers to write: for crictl, and for the kubelet's unit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from crib.model.settings import Settings
from crib.setup.host import HostView
from crib.setup.kubelet import CRICTL, endpoint, has_unit, takes_extra_arguments

DROP_IN = "/etc/systemd/system/kubelet.service.d/20-crib.conf"


@dataclass(frozen=True, slots=True)
class Offer:
    """A file as it is, and as it would be."""

    path: str
    before: str
    after: str
    then: str = ""
    """What to run afterwards."""


def offers(host: HostView, settings: Settings) -> Iterator[Offer]:
    """Those that would change."""
    for offer in (_crictl(host, settings), _drop_in(host, settings)):
        if offer is not None and offer.before != offer.after:
            yield offer


def _crictl(host: HostView, settings: Settings) -> Offer:
    """Other lines of the file stay."""
    before, keys = host.text(CRICTL), ("runtime-endpoint", "image-endpoint")
    kept = [line for line in before.splitlines() if line.partition(":")[0].strip() not in keys]
    lines = [*(f"{key}: {endpoint(settings)}" for key in keys), *(kept or ["timeout: 10"])]
    return Offer(CRICTL, before, "\n".join(lines) + "\n")


def _drop_in(host: HostView, settings: Settings) -> Offer | None:
    """cribd before the kubelet; and its socket, where the unit passes more arguments on."""
    if not has_unit(host):
        return None
    lines = ["# written by crib setup --write", "[Unit]", "Wants=cribd.service", "After=cribd.service"]
    if takes_extra_arguments(host):
        flag = f"--container-runtime-endpoint={endpoint(settings)}"
        lines += ["", "[Service]", f'Environment="KUBELET_EXTRA_ARGS={flag}"']
    text = "\n".join(lines) + "\n"
    return Offer(DROP_IN, host.text(DROP_IN), text, "systemctl daemon-reload && systemctl restart kubelet")
