"""What Kubernetes knows in a Pod (core v1, 1.36): used, refused with a reason, or noted as without effect.

Refused is what would change what the pod does without anybody saying so. Noted is what has no effect on one
node, or what only says how a kubelet should look after a pod that runs.
"""

from __future__ import annotations

from crib.manifest.fields import Shape

_KUBELET = "it needs a kubelet"
_NO_SCHEDULER = "no effect: there is no scheduler here"
_API = "it needs a Kubernetes API server"
_NOT_YET = "crib run does not do it yet"
_WINDOWS = "crib runs Linux pods only"


def _shape(used: str, refused: dict[str, str] | None = None, noted: dict[str, str] | None = None) -> Shape:
    return Shape(frozenset(used.split()), refused or {}, noted or {})


def _each(names: str, reason: str) -> dict[str, str]:
    return dict.fromkeys(names.split(), reason)


DOCUMENT = _shape(
    "apiVersion kind metadata spec",
    noted={"status": "ignored: it is what a cluster said of the pod"},
)
LIST = _shape("apiVersion kind items", noted={"metadata": "ignored"})
TEMPLATE = _shape("metadata spec")
METADATA = _shape(
    "name namespace labels annotations uid generateName",
    {},
    _each(
        "creationTimestamp deletionTimestamp deletionGracePeriodSeconds resourceVersion generation "
        "managedFields selfLink finalizers ownerReferences",
        "ignored: an API server's own field",
    ),
)
POD_SPEC = _shape(
    "containers initContainers volumes restartPolicy terminationGracePeriodSeconds activeDeadlineSeconds "
    "hostNetwork hostPID hostIPC shareProcessNamespace securityContext hostname dnsPolicy dnsConfig "
    "runtimeClassName hostUsers os serviceAccountName serviceAccount subdomain setHostnameAsFQDN "
    "hostnameOverride hostAliases imagePullSecrets",
    {
        "ephemeralContainers": _API,
        "resourceClaims": _KUBELET,
        "resources": f"pod-level resources: {_NOT_YET}",
        "workloadRef": _API,
        "schedulingGates": _API,
    },
    {
        **_each(
            "nodeSelector nodeName affinity schedulerName tolerations priorityClassName priority overhead "
            "preemptionPolicy topologySpreadConstraints",
            _NO_SCHEDULER,
        ),
        "readinessGates": "no effect: nobody asks whether the pod is ready",
        "automountServiceAccountToken": "no effect: there are no tokens here",
        "enableServiceLinks": "no effect: there are no services here",
    },
)
CONTAINER = _shape(
    "name image imagePullPolicy command args env envFrom workingDir ports resources volumeMounts "
    "securityContext stdin stdinOnce tty lifecycle restartPolicy restartPolicyRules livenessProbe "
    "readinessProbe startupProbe",
    {
        "volumeDevices": "block volumes: they need a kubelet",
    },
    {
        "terminationMessagePath": "no effect: nobody reads the message",
        "terminationMessagePolicy": "no effect: nobody reads the message",
        "resizePolicy": "no effect: crib run does not resize",
    },
)
ENV = _shape("name value valueFrom")
VALUE_FROM = _shape("configMapKeyRef secretKeyRef fieldRef resourceFieldRef", {"fileKeyRef": _NOT_YET})
KEY_REF = _shape("name key optional")
FIELD_REF = _shape("fieldPath apiVersion")
RESOURCE_REF = _shape("containerName resource divisor")
ENV_FROM = _shape("prefix configMapRef secretRef")
OBJECT_REF = _shape("name optional")
LOCAL_REF = _shape("name")
PORT = _shape("name containerPort hostPort protocol hostIP")
LIFECYCLE = _shape("stopSignal postStart preStop")
HOOK = _shape("exec httpGet sleep", {"tcpSocket": "Kubernetes has never run it as a hook"})
PROBE = _shape(
    "exec httpGet tcpSocket grpc initialDelaySeconds timeoutSeconds periodSeconds successThreshold "
    "failureThreshold terminationGracePeriodSeconds"
)
EXEC = _shape("command")
HTTP_GET = _shape("port path scheme host httpHeaders")
HTTP_HEADER = _shape("name value")
TCP_SOCKET = _shape("port host")
GRPC = _shape("port service")
SLEEP = _shape("seconds")
RESTART_RULE = _shape("action exitCodes")
EXIT_CODES = _shape("operator values")
RESOURCES = _shape("requests limits", {"claims": _KUBELET})
VOLUME_MOUNT = _shape(
    "name mountPath readOnly subPath subPathExpr mountPropagation recursiveReadOnly bindMountOptions"
)
CONTAINER_SECURITY = _shape(
    "runAsUser runAsGroup runAsNonRoot privileged readOnlyRootFilesystem capabilities "
    "allowPrivilegeEscalation seccompProfile appArmorProfile seLinuxOptions procMount",
    {"windowsOptions": _WINDOWS},
)
POD_SECURITY = _shape(
    "runAsUser runAsGroup runAsNonRoot supplementalGroups supplementalGroupsPolicy sysctls seccompProfile "
    "appArmorProfile seLinuxOptions fsGroup fsGroupChangePolicy",
    {
        "seLinuxChangePolicy": _KUBELET,
        "windowsOptions": _WINDOWS,
    },
)
CAPABILITIES = _shape("add drop")
PROFILE = _shape("type localhostProfile")
SELINUX = _shape("user role type level")
HOST_ALIAS = _shape("ip hostnames")
SYSCTL = _shape("name value")
DNS = _shape("nameservers searches options")
DNS_OPTION = _shape("name value")
POD_OS = _shape("name")
_STORAGE = (
    "awsElasticBlockStore azureDisk azureFile cephfs cinder csi ephemeral fc flexVolume flocker "
    "gcePersistentDisk gitRepo glusterfs iscsi nfs photonPersistentDisk portworxVolume "
    "quobyte rbd scaleIO storageos vsphereVolume"
)
VOLUME = _shape(
    "name emptyDir hostPath image configMap secret downwardAPI projected persistentVolumeClaim",
    _each(_STORAGE, _KUBELET),
)
CONFIG_MAP_VOLUME = _shape("name items defaultMode optional")
SECRET_VOLUME = _shape("secretName items defaultMode optional")
DOWNWARD_VOLUME = _shape("items defaultMode")
PROJECTED_VOLUME = _shape("sources defaultMode")
PROJECTED_SOURCE = _shape(
    "configMap secret downwardAPI",
    {"clusterTrustBundle": _API, "podCertificate": _API},
    {"serviceAccountToken": "left out: there is no API server to give a token"},
)
PROJECTED_OBJECT = _shape("name items optional")
PROJECTED_DOWNWARD = _shape("items")
KEY_TO_PATH = _shape("key path mode")
DOWNWARD_ITEM = _shape("path fieldRef resourceFieldRef mode")
CLAIM_VOLUME = _shape("claimName readOnly")
EMPTY_DIR = _shape("medium sizeLimit")
HOST_PATH = _shape("path type")
IMAGE_VOLUME = _shape("reference pullPolicy")
CONFIG_MAP = _shape("apiVersion kind metadata data binaryData immutable")
SECRET = _shape("apiVersion kind metadata data stringData type immutable")
CLAIM = _shape("apiVersion kind metadata spec", noted={"status": "ignored"})
_NO_STORAGE_CLASS = "no effect: a named volume is a directory of this node"
CLAIM_SPEC = _shape(
    "accessModes resources volumeMode",
    {"dataSource": _API, "dataSourceRef": _API},
    _each("storageClassName volumeName selector volumeAttributesClassName", _NO_STORAGE_CLASS),
)
_NO_CONTROLLER = "no effect: there are no controllers here"
DEPLOYMENT = _shape(
    "replicas template",
    noted=_each(
        "selector strategy minReadySeconds revisionHistoryLimit paused progressDeadlineSeconds",
        _NO_CONTROLLER,
    ),
)
REPLICA_SET = _shape("replicas template", noted=_each("selector minReadySeconds", _NO_CONTROLLER))
STATEFUL_SET = _shape(
    "replicas template serviceName volumeClaimTemplates ordinals",
    noted=_each(
        "selector podManagementPolicy updateStrategy revisionHistoryLimit minReadySeconds "
        "persistentVolumeClaimRetentionPolicy",
        _NO_CONTROLLER,
    ),
)
DAEMON_SET = _shape(
    "template", noted=_each("selector updateStrategy minReadySeconds revisionHistoryLimit", _NO_CONTROLLER)
)
JOB = _shape(
    "template parallelism completions completionMode suspend activeDeadlineSeconds backoffLimit "
    "ttlSecondsAfterFinished",
    noted=_each(
        "selector manualSelector backoffLimitPerIndex maxFailedIndexes podFailurePolicy successPolicy "
        "podReplacementPolicy managedBy scheduling",
        _NO_CONTROLLER,
    ),
)
CRON_JOB = _shape(
    "jobTemplate schedule",
    noted=_each(
        "timeZone startingDeadlineSeconds concurrencyPolicy suspend successfulJobsHistoryLimit "
        "failedJobsHistoryLimit",
        _NO_CONTROLLER,
    ),
)
