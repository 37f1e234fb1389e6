"""The arguments of cribd's program, and what it does where no daemon runs: `--check` and `--wipe`.

Each of the two tells what it finds or removes as lines of JSON: the messages that a daemon would stream.
"""

from __future__ import annotations

import argparse
from collections.abc import AsyncIterator

from crib.api.translate.upkeep import encode_finding, encode_wiped, json_line
from crib.model.errors import Broken
from crib.model.finding import WIPE_KINDS, Finding, Wiped, WipeOrder

_WIPED = frozenset({"pods", "network"})
"""Where no kind is named."""


def options(version: str, config: str) -> argparse.Namespace:
    """What this program was started with; `config` is the usual place of the configuration."""
    parser = argparse.ArgumentParser("cribd", description="Kubernetes container runtime (CRI) daemon.")
    parser.add_argument("--config", default=config, help=f"TOML file (default {config}; it may be missing)")
    parser.add_argument(
        "--check-config", action="store_true", help="tell all that is wrong with the configuration, then end"
    )
    parser.add_argument(
        "--default-config", action="store_true", help="print one with every key commented out, then end"
    )
    parser.add_argument("--version", action="version", version=version)
    _add_jobs(parser)
    return parser.parse_args()


def _add_jobs(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--wipe",
        nargs="*",
        metavar="KIND",
        choices=WIPE_KINDS,
        help="with no cribd running: remove all of these kinds, then end, with a line of JSON for each thing "
        f"({', '.join(WIPE_KINDS)}; without one: pods, network)",
    )
    parser.add_argument("--dry-run", action="store_true", help="with --wipe: only show what would be removed")
    parser.add_argument(
        "--check",
        action="store_true",
        help="with no cribd running: check everything, a line of JSON for each finding, then end with 0 when "
        "nothing is wrong (any more), 1 when something is, 2 when it could not be looked at",
    )
    parser.add_argument("--repair", action="store_true", help="with --check: repair what can be repaired")
    parser.add_argument(
        "--quick", action="store_true", help="with --check: do not read the content of layers"
    )


def wipe_order(options: argparse.Namespace) -> WipeOrder:
    """What the arguments ask for; whoever asks so has no daemon, and means what runs as well."""
    return WipeOrder(frozenset(options.wipe) or _WIPED, dry=options.dry_run, force=True)


async def tell_findings(findings: AsyncIterator[Finding]) -> int:
    """Tell them; the exit code: 1 when something is wrong still."""
    is_left = False
    async for found in findings:
        is_left |= found.is_left
        print(json_line(encode_finding(found)), flush=True)
    return int(is_left)


async def tell_wiped(items: AsyncIterator[Wiped]) -> None:
    """Tell them; Broken with the problems of what is still there."""
    problems = []
    async for wiped in items:
        problems += [wiped.problem] if wiped.problem else []
        print(json_line(encode_wiped(wiped)), flush=True)
    if problems:
        raise Broken("; ".join(problems))
