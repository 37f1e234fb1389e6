"""`crib generate`: a manifest of a pod that is here."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import yaml

from crib.cli.forms import Format
from crib.cli.output import document
from crib.cli.session import say
from crib.client import lookup
from crib.client.workloads.generating import manifest_of
from crib.client.workloads.site import read_site

if TYPE_CHECKING:
    from crib.cli.session import CliSession
    from crib.cli.workload_options import GenerateOptions


async def generate(session: CliSession, options: GenerateOptions) -> None:
    """Write the documents to standard output; as JSON they are a List."""
    async with session.connect() as connection:
        pod = await lookup.find_pod(connection, options.pod)
        site = read_site(session.pods_dir)
        found = await manifest_of(connection, pod, site, secrets=options.show_secrets)
    secrets = [volume for volume in found[0]["spec"].get("volumes", ()) if "secret" in volume]
    if secrets and not options.show_secrets:
        names = ", ".join(volume["secret"]["secretName"] for volume in secrets)
        say(f"note: not written: Secret {names}; give it with crib run --from, or use --show-secrets")
    if options.output is not Format.YAML:
        value = found[0] if len(found) == 1 else {"apiVersion": "v1", "kind": "List", "items": found}
        document(value, options.output)
        return
    # control characters are escaped, as a terminal would obey them
    print(yaml.safe_dump_all(json.loads(json.dumps(found)), sort_keys=False), end="")
