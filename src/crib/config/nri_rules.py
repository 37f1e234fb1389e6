"""Settings of node plugins in other runtimes' words. The protocol is the same, and most of them are, too."""

from __future__ import annotations

from crib.config.carrying import Put, Rules, seconds, through, to

_VALIDATOR = {
    "reject_oci_hook_adjustment": "reject_oci_hooks",
    "reject_runtime_default_seccomp_adjustment": "reject_runtime_default_seccomp",
    "reject_unconfined_seccomp_adjustment": "reject_unconfined_seccomp",
    "reject_custom_seccomp_adjustment": "reject_custom_seccomp",
    "reject_namespace_adjustment": "reject_namespaces",
    "reject_sysctl_adjustment": "reject_sysctls",
    "required_plugins": "required_plugins",
    "tolerate_missing_plugins_annotation": "tolerate_missing_annotation",
}


def _disabled(value: bool, names: tuple[str, ...], put: Put) -> str:
    put(("nri", "enable"), not value)
    return ""


def containerd(plugin: tuple[str, ...]) -> Rules:
    """Of the table `plugin` (containerd's docs/NRI.md)."""
    return {
        (*plugin, "disable"): _disabled,
        (*plugin, "disable_connections"): to("nri", "disable_connections"),
        (*plugin, "socket_path"): to("nri", "socket"),
        (*plugin, "plugin_path"): to("nri", "plugin_dir"),
        (*plugin, "plugin_config_path"): to("nri", "plugin_config_dir"),
        (*plugin, "plugin_registration_timeout"): through(seconds, "nri", "registration_timeout"),
        (*plugin, "plugin_request_timeout"): through(seconds, "nri", "request_timeout"),
        (*plugin, "default_validator", "enable"): to("nri", "validator", "enable"),
        **{
            (*plugin, "default_validator", theirs): to("nri", "validator", ours)
            for theirs, ours in _VALIDATOR.items()
        },
    }


def crio() -> Rules:
    """Of crio.conf(5), CRIO.NRI."""
    table = ("crio", "nri")
    return {
        (*table, "enable_nri"): to("nri", "enable"),
        (*table, "nri_disable_connections"): to("nri", "disable_connections"),
        (*table, "nri_listen"): to("nri", "socket"),
        (*table, "nri_plugin_dir"): to("nri", "plugin_dir"),
        (*table, "nri_plugin_config_dir"): to("nri", "plugin_config_dir"),
        (*table, "nri_plugin_registration_timeout"): through(seconds, "nri", "registration_timeout"),
        (*table, "nri_plugin_request_timeout"): through(seconds, "nri", "request_timeout"),
        (*table, "default_validator", "nri_enable_default_validator"): to("nri", "validator", "enable"),
        **{
            (*table, "default_validator", f"nri_validator_{theirs}"): to("nri", "validator", ours)
            for theirs, ours in _VALIDATOR.items()
        },
    }
