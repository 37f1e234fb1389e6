"""The program behind `crib setup`: one JSON document with findings, and with what could be written."""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import os
import sys
from collections.abc import Sequence

from crib.config import DEFAULT_PATH, ConfigError, read
from crib.config.faults import Fault
from crib.config.views import checked
from crib.model.settings import Settings
from crib.setup import kernel, kubelet, network, programs, storage
from crib.setup.files import offers
from crib.setup.host import HostView, SetupFinding, ok, problem


async def findings(host: HostView, settings: Settings) -> list[SetupFinding]:
    """Everything that can be told of a host, for these settings."""
    return [
        *kernel.look(host, settings),
        *[one async for one in programs.look(host, settings)],
        *network.look(host, settings),
        *storage.look(host, settings),
        *kubelet.look(host, settings),
    ]


def of_configuration(file: str) -> tuple[Settings, list[SetupFinding]]:
    """The settings to judge by, and what there is to say of them; for faulty ones the defaults."""
    try:
        found = read(file, required=file != DEFAULT_PATH, environment=os.environ)
    except ConfigError as error:
        return Settings(), [_fault(fault) for fault in error.faults]
    return found.settings, [ok("configuration", "files", line) for line in checked(found)]


def _fault(fault: Fault) -> SetupFinding:
    return problem("configuration", fault.place, fault.text, "mend it; crib config check looks again")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser("crib setup")
    parser.add_argument("--file", default=DEFAULT_PATH)
    parser.add_argument("--root", default="/", help="another root directory, for tests")
    options = parser.parse_args(arguments)
    host = HostView(options.root)
    settings, found = of_configuration(options.file)
    found += asyncio.run(findings(host, settings))
    document = {
        "findings": [dataclasses.asdict(one) for one in found],
        "offers": [dataclasses.asdict(one) for one in offers(host, settings)],
    }
    print(json.dumps(document))
    return 0


if __name__ == "__main__":
    sys.exit(main())
