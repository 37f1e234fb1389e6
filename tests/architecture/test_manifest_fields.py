"""The table of fields in docs/manifests.md is that of `crib.manifest.shapes`."""

from __future__ import annotations

from pathlib import Path

from crib.manifest import shapes
from crib.manifest.fields import Shape

PAGE = Path(__file__).parents[2] / "docs" / "manifests.md"
BEGIN, END = "<!-- fields: made from manifest/shapes.py -->\n\n", "\n<!-- end of fields -->"
TITLES = {
    "METADATA": "metadata",
    "POD_SPEC": "Pod: spec",
    "CONTAINER": "containers[], initContainers[]",
    "ENV": "env[]",
    "VALUE_FROM": "env[].valueFrom",
    "ENV_FROM": "envFrom[]",
    "PORT": "ports[]",
    "LIFECYCLE": "lifecycle",
    "HOOK": "lifecycle.postStart, preStop",
    "PROBE": "livenessProbe, readinessProbe, startupProbe",
    "RESOURCES": "resources",
    "VOLUME_MOUNT": "volumeMounts[]",
    "VOLUME_DEVICE": "volumeDevices[]",
    "CONTAINER_SECURITY": "securityContext of a container",
    "POD_SECURITY": "securityContext of a pod",
    "DNS": "dnsConfig",
    "HOST_ALIAS": "hostAliases[]",
    "VOLUME": "volumes[]",
    "EMPTY_DIR": "volumes[].emptyDir",
    "HOST_PATH": "volumes[].hostPath",
    "IMAGE_VOLUME": "volumes[].image",
    "CONFIG_MAP_VOLUME": "volumes[].configMap",
    "SECRET_VOLUME": "volumes[].secret",
    "DOWNWARD_VOLUME": "volumes[].downwardAPI",
    "PROJECTED_VOLUME": "volumes[].projected",
    "PROJECTED_SOURCE": "volumes[].projected.sources[]",
    "CLAIM_VOLUME": "volumes[].persistentVolumeClaim",
    "CLAIM_TEMPLATE_METADATA": "volumes[].ephemeral.volumeClaimTemplate.metadata",
    "CSI_VOLUME": "volumes[].csi",
    "CONFIG_MAP": "ConfigMap",
    "SECRET": "Secret",
    "CLAIM_SPEC": "PersistentVolumeClaim: spec, and that of a volumeClaimTemplate",
    "DATA_SOURCE_REF": "PersistentVolumeClaim: spec.dataSource, dataSourceRef",
    "SNAPSHOT_SPEC": "VolumeSnapshot: spec",
    "SNAPSHOT_SOURCE": "VolumeSnapshot: spec.source",
    "PERSISTENT_VOLUME_SPEC": "PersistentVolume: spec",
    "CLAIM_REF": "PersistentVolume: spec.claimRef",
    "LOCAL_VOLUME": "PersistentVolume: spec.local",
    "CSI_PERSISTENT": "PersistentVolume: spec.csi",
    "DEPLOYMENT": "Deployment: spec",
    "REPLICA_SET": "ReplicaSet, ReplicationController: spec",
    "STATEFUL_SET": "StatefulSet: spec",
    "DAEMON_SET": "DaemonSet: spec",
    "JOB": "Job: spec",
    "FAILURE_RULE": "Job: spec.podFailurePolicy.rules[]",
    "EXIT_CODES": "Job: spec.podFailurePolicy.rules[].onExitCodes",
    "POD_CONDITION": "Job: spec.podFailurePolicy.rules[].onPodConditions[]",
    "SUCCESS_RULE": "Job: spec.successPolicy.rules[]",
    "CRON_JOB": "CronJob: spec",
}
"""What a person calls each table of fields; those that hold no more than one honoured object are left out."""


def _reasons(fields: dict[str, str]) -> list[str]:
    by_reason: dict[str, list[str]] = {}
    for name, reason in fields.items():
        by_reason.setdefault(reason, []).append(name)
    return [
        f"{', '.join(f'`{name}`' for name in sorted(names))}: {reason}" for reason, names in by_reason.items()
    ]


def table() -> str:
    lines = []
    for name, title in TITLES.items():
        shape: Shape = getattr(shapes, name)
        lines.append(f"**{title}**\n")
        lines.append(f"* honoured: {', '.join(f'`{field}`' for field in sorted(shape.used))}")
        lines += [f"* noted: {text}" for text in _reasons(dict(shape.noted))]
        lines += [f"* refused: {text}" for text in _reasons(dict(shape.refused))]
        lines.append("")
    return "\n".join(lines)


def test_the_page_lists_every_field_as_the_code_takes_it() -> None:
    page = PAGE.read_text()
    found = page[page.index(BEGIN) + len(BEGIN) : page.index(END)]
    assert found == table(), f"put this between the marks of {PAGE.name}:\n{table()}"


def test_every_table_of_fields_with_a_reason_is_on_the_page() -> None:
    told = {name for name in TITLES if hasattr(shapes, name)}
    with_reasons = {
        name
        for name, shape in vars(shapes).items()
        if isinstance(shape, Shape) and (shape.noted or shape.refused)
    }
    assert with_reasons - told <= {"DOCUMENT", "LIST", "CLAIM", "SNAPSHOT", "PERSISTENT_VOLUME"}


def test_the_page_on_volumes_says_what_becomes_of_each_volume_of_kubernetes() -> None:
    page = (PAGE.parent / "volumes.md").read_text()
    rows = page[page.index("| volume | what crib does |") :].splitlines()[2:]
    told = {row.split("`")[1]: row.split("|")[2].strip() for row in rows if row.startswith("| `")}
    assert set(told) == (shapes.VOLUME.used - {"name"}) | set(shapes.VOLUME.refused)
    refused = {name for name, text in told.items() if text.startswith("refused: ")}
    assert refused == set(shapes.VOLUME.refused)
