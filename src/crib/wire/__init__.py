"""Formats defined by others, as values: bytes in, values out, and back. No I/O, nothing async.

They keep their own names, so use them with their module (`oci_runtime.Spec`, `cdi.Device`). Hostile input is
refused within bounds, by an error of the module. Begin with `oci_runtime`, or with the format that you need:

* images: `oci_image`, `registry` and `simple_signing` from registries; `tar`, `tar_member`, `tar_records`
  and `tar_writer`; `erofs`, `erofs_inode`, `erofs_tree` and `erofs_reader` for layers on disk.
* containers: `oci_runtime`, `oci_features`, `oci_events`, `oci_hooks`, `cdi`, `conmon`, and `crilog` for
  their logs. `docker_streams`: bytes of processes from Docker's Engine.
* `checkpoint_archive`: what a checkpoint of a container is called and consists of. `volume_archive`: what an
  archive of a volume says of the volume.
* networks: `cni` and `cni_result`, `dns`.
* streams: `remotecommand` and `portforward`, over `spdy` or `channel_messages`.
* files of the administrator: `docker_config`, `hosts_toml` and `registries_conf` over `toml_table`,
  `go_template`.
* calls of gRPC: `http2`, and `rpc_codes` that they end with.
* calls to shims and node plugins: `ttrpc` and `ttrpc_calls`, and `mux` below them for plugins.
* `blockio_config`: classes of block I/O.
* `kept`: pods that are kept up, between the daemon and its supervisor.
* `sqlite_file`: what is left in a damaged database. `oom_log`: what the kernel logs when it kills.
"""
