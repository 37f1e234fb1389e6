"""Every path of ours, born here: from the two roots and an id.

DATA (/var/lib/crib)                      STATE (/run/crib, gone after a reboot)
├── crib.db        pods, containers, volumes├── crib.sock
├── images.db      images                 ├── metrics.sock
├── audit.jsonl    who changed what       │
├── probe-N.erofs  a tiny layer, for tries │
├── kept/          NAMESPACE_NAME.json   │
├── reserve        room for a full disk   ├── records.db        pods, containers, as they are in this boot
├── layers/        DIFFID.erofs or .dir   ├── lock
├── staging/       the worker's, half-made├── layers/HEX       mounted layers (private)
├── volumes/ID     what lasts of a volume  ├── volumes/ID       what is mounted of a volume
├── snapshots/ID   of volumes              │
└── containers/ID  upper/ work/           ├── exits/ID         conmon's exit files
                                          ├── s/SHORT/         conmon's sockets (short: 107 bytes)
                                          ├── shims/           sockets of shims; HANDLER.* are ours
                                          ├── sandboxes/ID     a tmpfs: ns/net ns/ipc ns/uts, shm/, etc files
                                          └── containers/ID    config.json, rootfs/, pid files
"""

from __future__ import annotations

from dataclasses import dataclass

from crib.model.ids import ContainerId, Digest, SandboxId, digest_hex


@dataclass(frozen=True, slots=True)
class Paths:
    """`data` survives a reboot, `state` need not."""

    data: str
    state: str

    @property
    def database(self) -> str:
        return f"{self.data}/crib.db"

    @property
    def image_database(self) -> str:
        return f"{self.data}/images.db"

    @property
    def dumps(self) -> str:
        """What the daemon was at when it got SIGUSR1."""
        return f"{self.state}/dumps"

    @property
    def audit(self) -> str:
        """Unless the settings name another file."""
        return f"{self.data}/audit.jsonl"

    @property
    def kept(self) -> str:
        """Units of pods that are kept up."""
        return f"{self.data}/kept"

    @property
    def guest(self) -> str:
        """Kernel and root of virtual machines, as `crib vm build` writes them."""
        return f"{self.data}/vm"

    @property
    def boot_records(self) -> str:
        return f"{self.state}/records.db"

    @property
    def scratch_records(self) -> str:
        """A copy of the database, while a disk that takes nothing is read."""
        return f"{self.state}/crib.db.copy"

    @property
    def scratch_images(self) -> str:
        return f"{self.state}/images.db.copy"

    @property
    def reserve(self) -> str:
        return f"{self.data}/reserve"

    def probe(self, block_size: int) -> str:
        """The tiny layer that each start mounts, to see how layers can be mounted here."""
        return f"{self.data}/probe-{block_size}.erofs"

    @property
    def locks(self) -> tuple[str, ...]:
        """Held by the daemon: neither root may have two."""
        return (f"{self.data}/lock", f"{self.state}/lock")

    @property
    def directories(self) -> tuple[str, ...]:
        """Made at start, for root only. Staging is made by the worker's owner, with the worker's rights."""
        return (
            self.layers,
            self.network,
            self.writable_layers,
            self.layer_mounts,
            self.dumps,
            self.kept,
            self.volumes,
            self.volume_snapshots,
            self.volume_mounts,
            self.exits,
            self.sandboxes,
            self.containers,
            self.monitor_sockets,
            self.runtime_root,
            self.shims,
        )

    @property
    def layers(self) -> str:
        return f"{self.data}/layers"

    @property
    def staging(self) -> str:
        return f"{self.data}/staging"

    @property
    def network(self) -> str:
        """Kept results of CNI plugins: they must outlive a reboot, as the plugins' own files do."""
        return f"{self.data}/network"

    @property
    def volumes(self) -> str:
        """What lasts of volumes, each by its id (model.volumes has the paths below)."""
        return f"{self.data}/volumes"

    @property
    def volume_snapshots(self) -> str:
        return f"{self.data}/snapshots"

    @property
    def volume_mounts(self) -> str:
        """What is staged and published of volumes in this boot."""
        return f"{self.state}/volumes"

    @property
    def layer_mounts(self) -> str:
        return f"{self.state}/layers"

    @property
    def exits(self) -> str:
        return f"{self.state}/exits"

    @property
    def sandboxes(self) -> str:
        return f"{self.state}/sandboxes"

    @property
    def containers(self) -> str:
        return f"{self.state}/containers"

    @property
    def writable_layers(self) -> str:
        return f"{self.data}/containers"

    @property
    def monitor_sockets(self) -> str:
        return f"{self.state}/s"

    @property
    def runtime_root(self) -> str:
        """The OCI runtime's own state (crun --root)."""
        return f"{self.state}/runtime"

    @property
    def infra_root(self) -> str:
        """Root of the infra processes of pods that share their pids: one static program."""
        return f"{self.state}/infra"

    def monitor_link(self, container: ContainerId) -> str:
        """conmon's link to the bundle, through which the attach socket is reached in under 107 bytes."""
        return f"{self.monitor_sockets}/{container[:20]}"

    @property
    def shims(self) -> str:
        """Sockets of shims, and of ours for them."""
        return f"{self.state}/shims"

    def shim_events(self, handler: str) -> str:
        """The socket that takes the events of a handler's shims."""
        return f"{self.shims}/{handler}.events"

    def shim_output(self, handler: str) -> str:
        """What was read of its containers' output and is in no log yet."""
        return f"{self.shims}/{handler}.output"

    def layer_file(self, diff_id: Digest) -> str:
        return f"{self.layers}/{digest_hex(diff_id)}.erofs"

    def layer_directory(self, diff_id: Digest) -> str:
        """The layer unpacked, on hosts without EROFS; it is there only when it is whole."""
        return f"{self.layers}/{digest_hex(diff_id)}.dir"

    def layer_mount(self, diff_id: Digest) -> str:
        """Short on purpose: the options of one overlay mount must fit into a page on older kernels."""
        return f"{self.layer_mounts}/{digest_hex(diff_id)[:20]}"

    def sandbox(self, sandbox: SandboxId) -> str:
        return f"{self.sandboxes}/{sandbox}"

    def namespace(self, sandbox: SandboxId, kind: str) -> str:
        """`kind` as under /proc/PID/ns: net, ipc, uts, user, pid."""
        return f"{self.sandboxes}/{sandbox}/ns/{kind}"

    def shm(self, sandbox: SandboxId) -> str:
        return f"{self.sandboxes}/{sandbox}/shm"

    def pod_handler(self, sandbox: SandboxId) -> str:
        """A file with the name of the handler that made it."""
        return f"{self.sandbox(sandbox)}/handler"

    def infra(self, sandbox: SandboxId) -> str:
        """The bundle of its infra process."""
        return f"{self.sandbox(sandbox)}/infra"

    def etc(self, sandbox: SandboxId, name: str) -> str:
        """`name` is one of hosts, hostname, resolv.conf."""
        return f"{self.sandboxes}/{sandbox}/{name}"

    def container(self, container: ContainerId) -> str:
        """The OCI bundle."""
        return f"{self.containers}/{container}"

    def rootfs(self, container: ContainerId) -> str:
        return f"{self.containers}/{container}/rootfs"

    def writable_layer(self, container: ContainerId) -> str:
        """Holds `upper` and `work` of the container's overlay."""
        return f"{self.writable_layers}/{container}"

    def disk(self, container: ContainerId) -> str:
        """What the container writes to, where it runs in a machine of its own: a file with an ext4."""
        return f"{self.writable_layer(container)}/disk"

    def checkpoint(self, container: ContainerId) -> str:
        """What is being saved of a container; nothing of it stays when that is over."""
        return f"{self.writable_layer(container)}/checkpoint"

    def restored_images(self, container: ContainerId) -> str:
        """CRIU's images of a container that is to be restored, until it is."""
        return f"{self.writable_layer(container)}/restore"

    def image_volumes(self, container: ContainerId) -> str:
        """Where the images that a container has as volumes are mounted, by number."""
        return f"{self.containers}/{container}/volumes"

    def declared_volumes(self, container: ContainerId) -> str:
        """The directories behind what the image declares as VOLUME, by number; they go with the container."""
        return f"{self.writable_layers}/{container}/volumes"

    def exit_file(self, container: ContainerId) -> str:
        return f"{self.exits}/{container}"
