"""`crib diff`: what differs between manifests and what runs."""

from __future__ import annotations

import itertools
from dataclasses import asdict
from typing import TYPE_CHECKING

from crib.cli.forms import is_table
from crib.cli.output import document, table
from crib.cli.run import plans_of
from crib.cli.tables import Shortening, TableColumn
from crib.client.workloads.differences import Difference, fields
from crib.client.workloads.differences import differences as find_differences
from crib.manifest.plan import Dirs

if TYPE_CHECKING:
    from collections.abc import Callable

    from crib.cli.session import CliSession
    from crib.cli.workload_options import DiffOptions
    from crib.manifest.plan import PodPlan

SECRET = "(secret)"  # noqa: S105  # what is shown instead of one
_COLUMNS = ("POD", "CONTAINER", TableColumn("FIELD", cut=Shortening.PATH), "MANIFEST", "RUNNING")
_NONE = "-"


async def diff(session: CliSession, options: DiffOptions) -> int:
    """Compare, show, and give the exit code: 0 if nothing differs, else 1."""
    extra = options.extra or ()
    plans = plans_of(session, options.manifests, extra, new_uid=_uids()).pods
    hidden = plans_of(session, options.manifests, extra, hide_secrets=True, new_uid=_uids()).pods
    found: list[Difference] = []
    async with session.connect() as connection:
        for plan, shown in zip(plans, hidden, strict=True):
            secret = _secret_fields(plan, shown)
            told = await find_differences(connection, plan, Dirs(session.pods_dir))
            found += [_hidden(one) if (one.container, one.field) in secret else one for one in told]
    if not is_table(options.output):
        document([asdict(one) for one in found], options.output)
    elif found:
        rows = [(d.pod, d.container or _NONE, d.field, _cell(d.wanted), _cell(d.found)) for d in found]
        table(_COLUMNS, rows)
    return int(bool(found))


def _uids() -> Callable[[], str]:
    """The same ones at each reading; they are in no answer."""
    numbers = itertools.count(1)
    return lambda: f"00000000-0000-4000-8000-{next(numbers):012}"


def _secret_fields(plan: PodPlan, shown: PodPlan) -> set[tuple[str, str]]:
    """Container and field of whatever is another without its Secrets."""
    found = set()
    for one, other in zip(plan.every_container(), shown.every_container(), strict=True):
        real, hidden = fields(one.config), fields(other.config)
        found |= {
            (one.name, name) for name in real.keys() | hidden.keys() if real.get(name) != hidden.get(name)
        }
    for volume, masked in zip(plan.volumes, shown.volumes, strict=True):
        for file, hidden_file in zip(volume.files, masked.files, strict=True):
            if file.content != hidden_file.content:
                found.add(("", f"volumes[{volume.name}].{file.path}"))
    return found


def _hidden(one: Difference) -> Difference:
    def masked(value: str | None) -> str | None:
        return None if value is None else SECRET

    return Difference(one.pod, one.container, one.field, masked(one.wanted), masked(one.found))


def _cell(value: str | None) -> str:
    if value is None:
        return _NONE
    return value if len(value) <= 60 else f"{value[:57]}..."
