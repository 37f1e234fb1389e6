"""Manifests as people write them, on a real daemon: run, compared, generated, replaced and removed."""

# ruff: noqa: E501  # a manifest's lines

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.system.labs.daemon import IMAGE, Cribd, crib, running_cribd

pytestmark = [pytest.mark.root, pytest.mark.system]

EVERYTHING = f"""\
apiVersion: v1
kind: ConfigMap
metadata: {{name: settings}}
data: {{colour: red, app.conf: "level = 7\\n"}}
---
apiVersion: v1
kind: Secret
metadata: {{name: login}}
stringData: {{password: hunter2}}
---
apiVersion: v1
kind: Service
metadata: {{name: web}}
spec: {{selector: {{app: web}}, ports: [{{port: 80}}]}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: web}}
spec:
  replicas: 1
  selector: {{matchLabels: {{app: web}}}}
  template:
    metadata: {{labels: {{app: web}}}}
    spec:
      terminationGracePeriodSeconds: 0
      hostname: box
      subdomain: shop
      hostAliases: [{{ip: 192.0.2.1, hostnames: [db, db.lan]}}]
      securityContext: {{fsGroup: 2000}}
      containers:
      - name: app
        image: {IMAGE}
        command: [sh, -c, "echo $(COLOUR) > /data/colour; exec sleep 1000"]
        env:
        - {{name: COLOUR, valueFrom: {{configMapKeyRef: {{name: settings, key: colour}}}}}}
        - {{name: PASSWORD, valueFrom: {{secretKeyRef: {{name: login, key: password}}}}}}
        - {{name: IP, valueFrom: {{fieldRef: {{fieldPath: status.podIP}}}}}}
        - {{name: MEMORY, valueFrom: {{resourceFieldRef: {{resource: limits.memory, divisor: 1Mi}}}}}}
        resources: {{limits: {{cpu: 500m, memory: 32Mi}}}}
        securityContext: {{runAsUser: 1000, runAsGroup: 1000, allowPrivilegeEscalation: false, capabilities: {{drop: [ALL]}}}}
        volumeMounts:
        - {{name: conf, mountPath: /conf}}
        - {{name: conf, mountPath: /etc/app.conf, subPath: app.conf}}
        - {{name: all, mountPath: /all}}
        - {{name: data, mountPath: /data}}
        - {{name: tmp, mountPath: /tmp/x, subPath: a/b}}
      volumes:
      - {{name: conf, configMap: {{name: settings}}}}
      - name: all
        projected:
          defaultMode: 0400
          sources:
          - secret: {{name: login}}
          - downwardAPI: {{items: [{{path: labels, fieldRef: {{fieldPath: metadata.labels}}}}]}}
      - {{name: data, persistentVolumeClaim: {{claimName: colours}}}}
      - {{name: tmp, emptyDir: {{medium: Memory, sizeLimit: 1Mi}}}}
"""
QUESTIONS = """\
echo "$COLOUR $PASSWORD $MEMORY"
[ "$IP" = "$(hostname -i)" ] && echo same
hostname; grep -c 'box.shop.default.svc.cluster.local' /etc/hosts; grep db.lan /etc/hosts
cat /conf/colour /etc/app.conf; readlink /conf/colour
cat /all/password; echo; cat /all/labels; echo; stat -L -c %a:%g /all/password
cat /data/colour; stat -c %g:%A /tmp/x; touch /tmp/x/mine && echo written
grep -c ' /all tmpfs' /proc/mounts; id -G
"""
ANSWERS = """\
red hunter2 32
same
box
1
192.0.2.1	db	db.lan
redlevel = 7
..data/colour
hunter2
app="web"
440:2000
red
2000:drwxrwsrwx
written
1
1000 2000
"""


@pytest.fixture(scope="module")
def cribd() -> Iterator[Cribd]:
    with running_cribd() as daemon:
        yield daemon


@pytest.fixture
def pods(cribd: Cribd, tmp_path: Path) -> Iterator[Path]:
    """Where pods' files are; what a story leaves running is removed."""
    before = cribd.leftovers()
    directory = tmp_path / "pods"
    yield directory
    crib(cribd, directory, "rm", "--all", "--force")
    crib(cribd, directory, "volume", "prune", "--all", "--yes")
    cribd.settle(before)


def write(pods: Path, text: str) -> str:
    path = pods.parent / "pod.yaml"
    path.write_text(text)
    return str(path)


def test_a_deployment_has_its_config_its_secrets_its_volumes_and_knows_itself(
    cribd: Cribd, pods: Path
) -> None:
    path = write(pods, EVERYTHING)
    done = crib(cribd, pods, "run", path)
    assert done.returncode == 0, done.stderr
    assert "note: Service web is left out: crib runs pods\n" in done.stderr
    said = crib(cribd, pods, "exec", "web-0", "--", "sh", "-c", QUESTIONS)
    assert said.stdout == ANSWERS, said.stderr
    same = crib(cribd, pods, "diff", path)
    assert (same.returncode, same.stdout) == (0, ""), same.stdout + same.stderr

    changed = (
        EVERYTHING.replace("hunter2", "hunter3")
        .replace("colour: red", "colour: blue")
        .replace("500m", "250m")
    )
    other = crib(cribd, pods, "diff", write(pods, changed), "-o", "json")
    assert other.returncode == 1
    assert "hunter" not in other.stdout
    told = {
        (one["container"], one["field"]): (one["wanted"], one["found"]) for one in json.loads(other.stdout)
    }
    assert told["app", "envs[COLOUR]"] == ("blue", "red")
    assert told["app", "envs[PASSWORD]"] == ("(secret)", "(secret)")
    assert told["app", "linux.resources.cpuQuota"] == ("25000", "50000")
    assert told["", "volumes[conf].colour"] == ("blue", "red")
    assert told["", "volumes[all].password"] == ("(secret)", "(secret)")

    refused = crib(cribd, pods, "volume", "rm", "colours")
    assert (refused.returncode, "is used by pod default/web-0" in refused.stderr) == (1, True), refused.stderr
    (found,) = json.loads(crib(cribd, pods, "volume", "inspect", "colours", "-o", "json").stdout)
    assert crib(cribd, pods, "rm", "--force", "web-0").returncode == 0
    assert Path(found["uses"][0]["path"], "colour").read_text() == "red\n"
    pruned = crib(cribd, pods, "volume", "prune", "--all", "--yes")
    assert pruned.stdout.startswith("removed default/colours ("), pruned.stderr


def test_what_is_generated_of_a_pod_runs_as_the_same_pod(cribd: Cribd, pods: Path) -> None:
    assert crib(cribd, pods, "run", write(pods, EVERYTHING)).returncode == 0
    made = crib(cribd, pods, "generate", "web-0", "--show-secrets")
    assert made.returncode == 0, made.stderr
    kinds = [document["kind"] for document in yaml.safe_load_all(made.stdout)]
    assert kinds == ["Pod", "PersistentVolumeClaim", "ConfigMap", "Secret"]
    again = write(pods, made.stdout)
    same = crib(cribd, pods, "diff", again)
    # The CRI has no fsGroup, only a group that all processes are in; the domain is in a file of the pod.
    assert same.returncode == 0, same.stdout + same.stderr
    done = crib(cribd, pods, "run", "--replace", again)
    assert done.returncode == 0, done.stderr
    said = crib(cribd, pods, "exec", "web-0", "--", "sh", "-c", "cat /conf/colour /all/password /data/colour")
    assert said.stdout == "redhunter2red\n"
    quiet = crib(cribd, pods, "generate", "web-0")
    assert "hunter2" not in str([d for d in yaml.safe_load_all(quiet.stdout) if d["kind"] != "Pod"])
    assert "note: not written: Secret web-0-all" in quiet.stderr


def test_a_pod_runs_on_when_its_successor_cannot_be_pulled(cribd: Cribd, pods: Path) -> None:
    text = f"""\
apiVersion: v1
kind: Pod
metadata: {{name: keep}}
spec: {{terminationGracePeriodSeconds: 0, containers: [{{name: app, image: {IMAGE}, command: [sleep, "1000"]}}]}}
"""
    assert crib(cribd, pods, "run", write(pods, text)).returncode == 0
    before = json.loads(crib(cribd, pods, "pods", "-o", "json").stdout)
    done = crib(cribd, pods, "run", "--replace", write(pods, text.replace(IMAGE, "127.0.0.1:1/none:1")))
    assert done.returncode == 1
    assert json.loads(crib(cribd, pods, "pods", "-o", "json").stdout) == before
    assert crib(cribd, pods, "exec", "keep", "--", "echo", "here").stdout == "here\n"
