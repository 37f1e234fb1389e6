"""A container's bundle, made in its pod for any runtime: root, volumes, config.json.

Host paths and devices may lie on file systems that do not answer: they are looked at in threads for these.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from crib.backends.bundle.bundles import BundleNote, Bundles
from crib.backends.bundle.cdi import CdiRegistry
from crib.backends.bundle.host_resources import (
    ForeignLook,
    check_added_mounts,
    check_log,
    find_devices,
    find_node_devices,
    find_node_mounts,
    make_log_directory,
    prepare_mount_sources,
    read_seccomp_profile,
)
from crib.backends.bundle.id_maps import PodIdMap, locked_options, mounts_inside, pod_id_map
from crib.backends.bundle.io_classes import read_blockio_classes, read_rdt_classes
from crib.backends.bundle.labels import Labels
from crib.backends.bundle.mount_targets import Landing, Placed, check_landings, check_places
from crib.backends.bundle.rootfs import (
    check_mount_points,
    make_directories,
    mount_root,
    read_facts,
)
from crib.backends.bundle.spec_files import HookFiles
from crib.backends.bundle.volumes import Stacks, Volumes
from crib.backends.environment import HandlerEnvironment, SharedLayers
from crib.backends.pods.cgroup_names import CgroupNames
from crib.backends.pods.files import pod_paths, write_hosts
from crib.backends.pods.oom import OomKills
from crib.host.threads import FOREIGN, Job, Overdue
from crib.model.container import ContainerRecord
from crib.model.edits import ContainerEdits
from crib.model.errors import Unavailable
from crib.model.ids import ContainerId
from crib.model.sandbox import NamespaceMode, ProcessIdentity
from crib.ocispec.container import (
    container_document,
    container_spec,
    made_mounts,
    runs_hooks_at_delete,
    shares_pids,
)
from crib.ocispec.inputs import ContainerInputs
from crib.ocispec.process import process_args
from crib.ocispec.security import volume_label
from crib.ocispec.selinux import file_label
from crib.ports.containers import CreateRequest
from crib.wire import oci_runtime as oci

ReadyFilter = Callable[[ContainerInputs], str]
"""See ContainerInputs.seccomp_filter; empty where there is none."""


@dataclass(frozen=True, slots=True)
class MadeBundle:
    """What a runtime may be started with; `landings` are looked at when it has mounted all."""

    spec: oci.Spec
    landings: Sequence[Landing]


@dataclass(frozen=True, slots=True)
class _Laid:
    """A root that is mounted, and what the spec is made from."""

    note: BundleNote
    root: str
    idmap: PodIdMap | None
    files: str
    """The label of its files."""
    inputs: ContainerInputs
    spec: oci.Spec


class ContainerBundles:
    """Makes bundles. The container's delete removes half-made ones."""

    def __init__(
        self,
        environment: HandlerEnvironment,
        bundles: Bundles,
        layers: SharedLayers,
        oom: OomKills,
        ready_filter: ReadyFilter,
    ) -> None:
        self._env = environment
        self._names: CgroupNames = CgroupNames.of(environment.settings)
        self._paths = environment.paths
        self._bundles = bundles
        self._layers = layers
        self._oom = oom
        self._ready_filter = ready_filter
        self._labels = Labels(environment.paths, environment.host)
        self.adapt()

    def adapt(self) -> None:
        """What is made of the settings of the environment is made anew."""
        settings = self._env.settings
        self._volumes = Volumes(self._paths, self._layers, settings)
        self._cdi = CdiRegistry(settings.cdi_spec_dirs)
        self._hooks = HookFiles(settings.oci_hooks_dirs)

    async def make(self, request: CreateRequest, late: Callable[[], None]) -> MadeBundle:
        """Mount and write all of it. `late` is called when the thread comes back after its limit."""
        record, look = request.record, ForeignLook()
        layers = await self._layers.acquire(record.layers)
        security = record.config.security
        await self._labels.load_default_profile(security.apparmor, privileged=security.privileged)
        stacks = await self._volumes.acquire(record)
        job = replace(self._foreign("preparing its root", record), stop=look.stop, late=late)
        try:
            if request.adjust is None:
                return await FOREIGN.run(job, self._make, request, layers, stacks, look)
            laid = await FOREIGN.run(job, self._lay_out, request, layers, stacks, look)
            edits = await request.adjust(container_document(laid.inputs, laid.spec))
            return await FOREIGN.run(job, self._finish, request, laid, edits, look)
        except Overdue as error:
            raise Unavailable(f"{error}{look.where}", field=look.field) from error

    async def check_started(self, request: CreateRequest, made: MadeBundle, first: ProcessIdentity) -> None:
        """Once the runtime has mounted all: look where the mounts lie, and let go of their sources."""
        record = request.record
        if made.landings and not self._env.facts.own_kernel:  # or its mounts are not to be seen from here
            job = self._foreign("looking at its mounts", record)
            await FOREIGN.run(job, check_landings, made.landings, f"/proc/{first.pid}")
        if request.sandbox.config.user_namespace is not None:
            job = self._foreign("letting go of its volumes", record)
            await FOREIGN.run(job, self._volumes.let_go, record.id)

    def _foreign(self, what: str, record: ContainerRecord) -> Job:
        limit = self._env.settings.verb_timeout
        return Job(f"create of container {record.id}: {what}", owner=record.sandbox_id, limit=limit)

    def _make(
        self, request: CreateRequest, layers: Sequence[str], stacks: Stacks, look: ForeignLook
    ) -> MadeBundle:
        return self._finish(request, self._lay_out(request, layers, stacks, look), (), look)

    def _lay_out(
        self, request: CreateRequest, layers: Sequence[str], stacks: Stacks, look: ForeignLook
    ) -> _Laid:
        record, config = request.record, request.record.config
        look.at_all(record, self._env.options.containers)
        cgroup = self._names.below(self._names.pod(request.sandbox), record.id)
        own_pids = config.security.namespaces.pid == NamespaceMode.CONTAINER
        if record.log_path:
            check_log(record.log_path, "log_path")
        note = BundleNote(
            self._env.facts.name,
            cgroup,
            shared_pids=not own_pids,
            log_path=record.log_path,
            new_log=bool(record.log_path) and not os.path.lexists(record.log_path),
            pod=request.sandbox.id,
            oom_kills=self._oom.before(cgroup),
        )
        self._bundles.make(record.id, note)
        idmap = pod_id_map(self._paths, request.sandbox)
        level = self._labels.level(request.sandbox.id)
        files = file_label(config, request.sandbox.config, self._env.host, level)
        self._labels.check_known(files)  # the mount would only say EINVAL
        root = mount_root(self._paths, record.id, layers, idmap, files)
        check_mount_points(root)
        self._volumes.mount_images(record.id, stacks, idmap, files)
        write_hosts(self._paths, request.sandbox)
        self._labels.label_pod(request.sandbox)
        inputs = self.gather(request, root)
        look.go_on()
        return _Laid(note, root, idmap, files, inputs, container_spec(inputs))

    def _edited(self, laid: _Laid, edits: tuple[ContainerEdits, ...]) -> _Laid:
        """With what plugins have made of it."""
        if not edits:
            return laid
        inputs = replace(laid.inputs, edits=(*laid.inputs.edits, *map(self._cdi.with_devices, edits)))
        spec = container_spec(inputs)
        for one in edits:
            check_added_mounts(one)
        note, asked = replace(laid.note, shared_pids=shares_pids(spec)), spec.linux.cgroups_path
        if asked != inputs.cgroups_path:
            note = replace(note, cgroup=self._names.moved(self._names.pod(inputs.sandbox), asked))
        if note != laid.note:
            self._bundles.write_note(ContainerId(inputs.id), note)
        return replace(laid, note=note, inputs=inputs, spec=spec)

    def _finish(
        self, request: CreateRequest, laid: _Laid, edits: tuple[ContainerEdits, ...], look: ForeignLook
    ) -> MadeBundle:
        record, config = request.record, request.record.config
        laid = self._edited(laid, edits)
        root, idmap, inputs, spec = laid.root, laid.idmap, laid.inputs, laid.spec
        self._labels.check_known(spec.process.selinux_label)
        document = container_document(inputs, spec)
        placed = Placed(
            mounts=made_mounts(inputs, spec),
            devices=[device.path for device in spec.linux.devices],
            contents=self._volumes.contents(record, root, inputs),
        )
        landings = check_places(root, config, placed)
        look.go_on()
        if runs_hooks_at_delete(inputs, spec):
            self._bundles.write_note(record.id, replace(laid.note, poststop=True))
        # Only now, when nothing more can be refused: these last longer than the container.
        prepare_mount_sources(config, self._env.settings.missing_host_path)
        self._volumes.prepare(record, idmap, volume_label(inputs))
        look.go_on()
        if record.log_path:
            make_log_directory(os.path.dirname(record.log_path), "log_path")
        make_directories(root, spec.process.cwd, self._volumes.plain(request.image), idmap)
        self._volumes.fill(root, inputs.declared_volumes, laid.files)
        self._bundles.write_spec(record.id, document)
        return MadeBundle(spec, landings)

    def gather(self, request: CreateRequest, root: str) -> ContainerInputs:
        """All that the recipe needs to know. It only reads: explanations are made from it too."""
        config, options = request.record.config, self._env.options
        target = config.security.namespaces.target_id
        # A kernel of the pod's own has none of the host's devices.
        withhold = options.privileged_without_host_devices or self._env.facts.own_kernel
        inputs = ContainerInputs(
            id=request.record.id,
            config=config,
            sandbox=request.sandbox,
            image=request.image,
            host=self._env.inner_host,
            handler=self._env.facts,
            rootfs=read_facts(root, process_args(config, request.image)[0]),
            pod=pod_paths(self._paths, request.sandbox),
            root=root,
            cgroups_path=self._names.oci_path(self._names.pod(request.sandbox), request.record.id),
            target_pid=self._bundles.first_pid(ContainerId(target)) if target else 0,
            devices=find_devices(config, withhold=withhold),
            node_mounts=find_node_mounts(options.containers),
            node_devices=find_node_devices(options.containers),
            default_seccomp=self._env.default_seccomp,
            options=options,
            base_spec=self._env.base_spec,
            cdi=self._cdi.edits(config),
            hook_rules=self._hooks.rules(),
            edits=tuple(map(self._cdi.with_devices, request.edits)),
            blockio_classes=read_blockio_classes(self._env.settings.blockio_config_file),
            rdt_classes=read_rdt_classes(),
            device_ownership=self._env.settings.device_ownership_from_security_context,
            seccomp_profile=read_seccomp_profile(config.security.seccomp),
            profiles=self._labels.loaded_profiles(
                config.security.apparmor, privileged=config.security.privileged
            ),
            selinux_level=self._labels.level(request.sandbox.id),
            pids_limit=self._env.settings.pids_limit,
            default_hostname=socket.gethostname(),
            mount_sources=self._volumes.sources(request.record, request.sandbox),
            declared_volumes=self._volumes.declared(request.record, root, request.image),
        )
        if request.sandbox.config.user_namespace is not None:
            inputs = self._with_mount_facts(inputs)
        return replace(inputs, seccomp_filter=self._ready_filter(inputs))

    def _with_mount_facts(self, inputs: ContainerInputs) -> ContainerInputs:
        """What a runtime in a user namespace does not see of its own about the sources of mounts."""
        sources = [mount.host_path for mount in inputs.config.mounts]
        forgets = not self._env.facts.recursive_binds
        return replace(
            inputs,
            locked_options=locked_options([*sources, *(mount.source for mount in inputs.node_mounts)]),
            submounts=mounts_inside(sources) if forgets else (),
        )
