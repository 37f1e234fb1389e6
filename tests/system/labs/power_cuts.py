"""The machine ends under a cribd."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from dataclasses import replace
from typing import Any

import msgspec

from crib.host.mounts import unmount_tree
from crib.model.container import ContainerRecord
from crib.model.sandbox import SandboxRecord
from crib.model.volumes import VolumeRecord
from tests.system.labs.daemon import Cribd
from tests.system.labs.leftovers import kill_processes, remove_cgroups, remove_network


def power_cut(cribd: Cribd) -> None:
    """What a reboot does: no process, mount, interface, rule or cgroup is left, nor what lay in /run."""
    cribd.written()
    cribd.kill()
    kill_processes(cribd.root, cribd.cgroup)
    unmount_tree(str(cribd.root))
    remove_cgroups(cribd.cgroup)
    remove_network(cribd.bridge)
    shutil.rmtree(cribd.state)
    decode = msgspec.msgpack.decode
    with closing(sqlite3.connect(cribd.database)) as database:
        kinds: tuple[tuple[str, Any], ...] = (
            ("sandboxes", SandboxRecord),
            ("containers", ContainerRecord),
            ("volumes", VolumeRecord),
        )
        for table, kind in kinds:
            for id_, blob in database.execute(f"SELECT id, record FROM {table}").fetchall():
                record = decode(blob, type=kind)
                if not isinstance(record, ContainerRecord):
                    record = replace(record, boot_id="of-the-boot-before")
                values = (msgspec.msgpack.encode(record), id_)
                database.execute(f"UPDATE {table} SET record = ? WHERE id = ?", values)
        database.commit()
