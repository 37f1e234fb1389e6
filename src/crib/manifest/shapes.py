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
    "hostnameOverride hostAliases imagePullSecrets resources overhead",
    {
        "ephemeralContainers": _API,
        "resourceClaims": _KUBELET,
        "workloadRef": _API,
        "schedulingGates": _API,
    },
    {
        **_each(
            "nodeSelector nodeName affinity schedulerName tolerations priorityClassName priority "
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
    "volumeDevices securityContext stdin stdinOnce tty lifecycle restartPolicy restartPolicyRules "
    "livenessProbe readinessProbe startupProbe",
    {},
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
VOLUME_DEVICE = _shape("name devicePath")
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
_REFUSED_STORAGE = {
    **_each(
        "fc iscsi nfs",
        "crib mounts none itself: use a CSI driver, or a hostPath where the node has it mounted",
    ),
    **_each(
        "awsElasticBlockStore azureDisk azureFile cinder gcePersistentDisk portworxVolume vsphereVolume",
        "Kubernetes itself leaves it to a CSI driver: use csi",
    ),
    **_each(
        "cephfs flocker glusterfs photonPersistentDisk quobyte rbd scaleIO storageos",
        "Kubernetes has removed it",
    ),
    "flexVolume": "its drivers are programs of a kubelet: use a CSI driver",
}
VOLUME = _shape(
    "name emptyDir hostPath image configMap secret downwardAPI projected persistentVolumeClaim ephemeral csi",
    {
        **_REFUSED_STORAGE,
        "gitRepo": "Kubernetes has disabled it: clone in an init container",
    },
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
EPHEMERAL_VOLUME = _shape("volumeClaimTemplate")
CLAIM_TEMPLATE = _shape("metadata spec")
CLAIM_TEMPLATE_METADATA = _shape(
    "labels annotations",
    _each("name namespace", "the volume is called POD-VOLUME, after the pod and its volume"),
    {"creationTimestamp": "ignored: an API server's own field"},
)
CSI_VOLUME = _shape("driver readOnly fsType volumeAttributes nodePublishSecretRef")
EMPTY_DIR = _shape("medium sizeLimit")
HOST_PATH = _shape("path type")
IMAGE_VOLUME = _shape("reference pullPolicy")
CONFIG_MAP = _shape("apiVersion kind metadata data binaryData immutable")
SECRET = _shape("apiVersion kind metadata data stringData type immutable")
CLAIM = _shape("apiVersion kind metadata spec", noted={"status": "ignored"})
CLAIM_SPEC = _shape(
    "accessModes resources volumeMode storageClassName dataSource dataSourceRef volumeName",
    {"selector": "crib does not choose among volumes: name one by volumeName"},
    {"volumeAttributesClassName": "no effect: parameters are those of the storage class"},
)
CLAIM_RESOURCES = _shape("requests limits")
DATA_SOURCE = _shape("apiGroup kind name")
DATA_SOURCE_REF = _shape(
    "apiGroup kind name",
    {"namespace": "a volume is made of one of its own namespace"},
)
SNAPSHOT = _shape("apiVersion kind metadata spec", noted={"status": "ignored"})
SNAPSHOT_SPEC = _shape(
    "source",
    noted={"volumeSnapshotClassName": "no effect: the volume's own kind takes the snapshot"},
)
SNAPSHOT_SOURCE = _shape(
    "persistentVolumeClaimName",
    {"volumeSnapshotContentName": "crib knows snapshots by their names: leave the document out"},
)
PERSISTENT_VOLUME = _shape("apiVersion kind metadata spec", noted={"status": "ignored"})
PERSISTENT_VOLUME_SPEC = _shape(
    "accessModes capacity claimRef csi hostPath local mountOptions storageClassName volumeMode",
    _REFUSED_STORAGE,
    {
        "nodeAffinity": _NO_SCHEDULER,
        "persistentVolumeReclaimPolicy": "no effect: what crib did not make stays",
        "volumeAttributesClassName": "no effect: parameters are those of the storage class",
    },
)
LOCAL_VOLUME = _shape("path fsType")
CLAIM_REF = _shape("name namespace", noted=_each("apiVersion fieldPath kind resourceVersion uid", "ignored"))
CSI_PERSISTENT = _shape(
    "driver volumeHandle readOnly fsType volumeAttributes",
    _each(
        "controllerExpandSecretRef controllerPublishSecretRef nodeExpandSecretRef nodePublishSecretRef "
        "nodeStageSecretRef",
        "the secrets of a volume that outlives pods are files of its class: crib volume create --class",
    ),
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
    "ttlSecondsAfterFinished backoffLimitPerIndex maxFailedIndexes podFailurePolicy successPolicy "
    "podReplacementPolicy",
    noted=_each("selector manualSelector managedBy scheduling", _NO_CONTROLLER),
)
FAILURE_POLICY = _shape("rules")
FAILURE_RULE = _shape("action onExitCodes onPodConditions")
EXIT_CODES = _shape("containerName operator values")
POD_CONDITION = _shape("type status")
SUCCESS_POLICY = _shape("rules")
SUCCESS_RULE = _shape("succeededIndexes succeededCount")
CRON_JOB = _shape(
    "jobTemplate schedule",
    noted=_each(
        "timeZone startingDeadlineSeconds concurrencyPolicy suspend successfulJobsHistoryLimit "
        "failedJobsHistoryLimit",
        _NO_CONTROLLER,
    ),
)
