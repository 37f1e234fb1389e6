"""Finding out whether the host's own firewall drops what pods send beyond the host.

Accepting a packet in our table does not help: each chain on the forward hook has a say. So a chain of another
table that drops by default (iptables' FORWARD as Docker sets it, ufw) is named, never changed. One in whose
table a rule names the bridge or its range counts as set up on purpose. What iptables' older
kernel interface holds (iptables-legacy) cannot be seen from here.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any

from crib.host.nftables import Nftables

_FAMILIES = {"ip": {4}, "ip6": {6}, "inet": {4, 6}}


def dropped_by(nftables: Nftables, own_table: str, versions: Collection[int], marks: Collection[str]) -> str:
    """The first such chain for one of the IP `versions`, as FAMILY TABLE CHAIN; empty if there is none."""
    chains = nftables.run("list chains", table=own_table, what="list chains")
    for chain in (item["chain"] for item in chains if isinstance(item.get("chain"), dict)):
        if is_dropping(chain, own_table, versions):
            family, table = chain["family"], chain["table"]
            objects = nftables.run(f"list table {family} {table}", table=table, what="list table")
            if not names_any(objects, marks):
                return f"{family} {table} {chain['name']}"
    return ""


def is_dropping(chain: dict[str, Any], own_table: str, versions: Collection[int]) -> bool:
    """Whether a chain (libnftables-json(5)) of another table drops by default what is forwarded."""
    return (
        chain.get("hook") == "forward"
        and chain.get("policy") == "drop"
        and chain.get("table") != own_table
        and not _FAMILIES.get(str(chain.get("family")), set()).isdisjoint(versions)
    )


def names_any(objects: list[dict[str, Any]], marks: Collection[str]) -> bool:
    """Whether a rule among the objects names one of the marks (an interface, a network's address)."""
    rules = [json.dumps(item["rule"].get("expr")) for item in objects if isinstance(item.get("rule"), dict)]
    return any(f'"{mark}"' in rule for rule in rules for mark in marks)
