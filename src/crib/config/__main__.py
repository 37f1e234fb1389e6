"""What `crib config` does where no daemon runs: `python -m crib.config JOB`."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys

from crib.config import DEFAULT_PATH, ConfigError, Configuration, read
from crib.config.defaults import default_config
from crib.config.importing import import_from, report
from crib.config.schema import schema
from crib.config.views import checked, shown


def main() -> int:
    """The exit code: 1 for a faulty configuration."""
    parser = argparse.ArgumentParser("crib config")
    parser.add_argument("job", choices=("check", "default", "import", "schema", "show"))
    parser.add_argument("--file", default="")
    options = parser.parse_args()
    file = options.file or DEFAULT_PATH
    if options.job == "default":
        print(default_config(), end="")
        return 0
    if options.job == "schema":
        print(json.dumps(schema(), indent=2))
        return 0
    try:
        if options.job == "import":
            return _import(options.file)
        found = read(file, required=file != DEFAULT_PATH, environment=os.environ)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 1
    print(json.dumps(_shown(found)) if options.job == "show" else "\n".join(checked(found)))
    return 0


def _import(file: str) -> int:
    """Our file goes to the output, what became of each key beside it."""
    imported = import_from(file)
    print("\n".join(report(imported)), file=sys.stderr)
    print(imported.text, end="")
    return 1 if imported.faults else 0


def _shown(found: Configuration) -> dict[str, object]:
    return {
        "keys": [dataclasses.asdict(one) for one in shown(found)],
        "files": found.files,
        "deprecated": [str(fault) for fault in found.deprecated],
    }


if __name__ == "__main__":
    sys.exit(main())
