"""How much a request may hold: each list and text has a bound, and the docs tell it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.message import Message

from crib.api.translate import containers, images, limits, networks, node, sandboxes, streams
from crib.model.errors import InvalidRequest
from crib.stubs.node.v1 import node_pb2
from crib.stubs.runtime.v1 import api_pb2 as pb

DOCS = Path(__file__).resolve().parents[3] / "docs" / "configuration.md"


def pod() -> pb.RunPodSandboxRequest:
    return pb.RunPodSandboxRequest(config={"metadata": {"name": "web", "uid": "u", "namespace": "n"}})  # type: ignore[arg-type]


def container() -> pb.CreateContainerRequest:
    config = {"metadata": {"name": "c"}, "image": {"image": "i"}}
    return pb.CreateContainerRequest(pod_sandbox_id="abcd", config=config)  # type: ignore[arg-type]


POD, CONTAINER = (pod, sandboxes.decode_run), (container, containers.decode_create)
SECURITY, RESOURCES = "config.linux.security_context", "config.linux.resources"
USERNS = f"{SECURITY}.namespace_options.userns_options"
EXEC = (lambda: pb.ExecSyncRequest(container_id="abcd"), containers.decode_exec_sync)
STREAM_EXEC = (lambda: pb.ExecRequest(container_id="abcd"), streams.decode_exec)

LISTS: list[tuple[Any, str, int, Any]] = [
    (
        CONTAINER,
        "config.mounts",
        limits.MAX_MOUNTS,
        lambda n: {"container_path": f"/m{n}", "host_path": "/h"},
    ),
    (CONTAINER, "config.envs", limits.MAX_ENVS, lambda n: {"key": f"K{n}"}),
    (CONTAINER, "config.command", limits.MAX_WORDS, lambda n: "a"),
    (CONTAINER, "config.args", limits.MAX_WORDS, lambda n: "a"),
    (
        CONTAINER,
        "config.devices",
        limits.MAX_DEVICES,
        lambda n: {"container_path": f"/d{n}", "host_path": "/dev/null"},
    ),
    (CONTAINER, "config.CDI_devices", limits.MAX_DEVICES, lambda n: {"name": f"v.com/c=d{n}"}),
    (CONTAINER, "config.labels", limits.MAX_LABELS, None),
    (CONTAINER, "config.annotations", limits.MAX_LABELS, None),
    (
        CONTAINER,
        f"{RESOURCES}.hugepage_limits",
        limits.MAX_HUGEPAGE_LIMITS,
        lambda n: {"page_size": f"{n + 1}MB"},
    ),
    (CONTAINER, f"{RESOURCES}.unified", limits.MAX_UNIFIED, None),
    (CONTAINER, f"{SECURITY}.masked_paths", limits.MAX_HIDDEN_PATHS, lambda n: f"/m{n}"),
    (CONTAINER, f"{SECURITY}.readonly_paths", limits.MAX_HIDDEN_PATHS, lambda n: f"/m{n}"),
    (CONTAINER, f"{SECURITY}.supplemental_groups", limits.MAX_GROUPS, lambda n: n),
    (CONTAINER, f"{SECURITY}.capabilities.add_capabilities", limits.MAX_CAPABILITIES, lambda n: "KILL"),
    (CONTAINER, f"{SECURITY}.capabilities.drop_capabilities", limits.MAX_CAPABILITIES, lambda n: "KILL"),
    (
        CONTAINER,
        f"{SECURITY}.capabilities.add_ambient_capabilities",
        limits.MAX_CAPABILITIES,
        lambda n: "KILL",
    ),
    (POD, "config.port_mappings", limits.MAX_PORTS, lambda n: {"container_port": 1 + n}),
    (POD, "config.dns_config.servers", limits.MAX_DNS, lambda n: "1.1.1.1"),
    (POD, "config.dns_config.searches", limits.MAX_DNS, lambda n: "a.b"),
    (POD, "config.dns_config.options", limits.MAX_DNS, lambda n: "edns0"),
    (POD, "config.labels", limits.MAX_LABELS, None),
    (POD, "config.annotations", limits.MAX_LABELS, None),
    (POD, "config.linux.sysctls", limits.MAX_SYSCTLS, None),
    (POD, f"{SECURITY}.supplemental_groups", limits.MAX_GROUPS, lambda n: n),
    (EXEC, "cmd", limits.MAX_WORDS, lambda n: "a"),
    (STREAM_EXEC, "cmd", limits.MAX_WORDS, lambda n: "a"),
    (
        (lambda: pb.PortForwardRequest(pod_sandbox_id="abcd"), streams.decode_port_forward),
        "port",
        limits.MAX_STREAM_PORTS,
        lambda n: 80,
    ),
    (
        (lambda: node_pb2.ForwardRequest(pod_sandbox_id="abcd"), streams.decode_forward),
        "targets",
        limits.MAX_STREAM_PORTS,
        lambda n: "tcp:80",
    ),
    (
        (pb.ListContainersRequest, containers.decode_list),
        "filter.label_selector",
        limits.MAX_SELECTOR,
        None,
    ),
    ((pb.ListPodSandboxRequest, sandboxes.decode_list), "filter.label_selector", limits.MAX_SELECTOR, None),
    (
        (lambda: node_pb2.ImportImageRequest(path="/a"), node.decode_import),
        "names",
        limits.MAX_IMAGE_NAMES,
        lambda n: f"n{n}",
    ),
    ((node_pb2.CheckImagesRequest, node.decode_check), "images", limits.MAX_IMAGES, lambda n: "i"),
    (
        (node_pb2.CheckNetworksRequest, networks.decode_check),
        "pod_sandbox_ids",
        limits.MAX_PODS,
        lambda n: "ab",
    ),
]


def put(message: Message, path: str, count: int, element: Any) -> None:
    holder: Any = message
    *above, last = path.split(".")
    for name in above:
        holder = getattr(holder, name)
    values = getattr(holder, last)
    if element is None:
        known = "memory.k{}" if last == "unified" else "k{}"
        values.update({known.format(number): "" for number in range(count)})
        return
    for number in range(count):
        made = element(number)
        values.add(**made) if isinstance(made, dict) else values.append(made)


@pytest.mark.parametrize(
    ("call", "path", "most", "element"), LISTS, ids=[f"{c[1]}-{n}" for n, c in enumerate(LISTS)]
)
def test_a_list_may_be_as_long_as_its_limit_and_no_longer(
    call: Any, path: str, most: int, element: Any
) -> None:
    make, decode = call
    fits = make()
    put(fits, path, most, element)
    decode(fits)
    beyond = make()
    put(beyond, path, most + 1, element)
    with pytest.raises(InvalidRequest, match=f"has {most + 1} entries, more than {most}$") as caught:
        decode(beyond)
    assert caught.value.field == path


def test_the_maps_of_a_user_namespace_have_at_most_the_lines_that_linux_takes() -> None:
    request = container()
    mapping = {"host_id": 0, "container_id": 0, "length": 1}
    mount: Any = {"container_path": "/m", "host_path": "/h", "uidMappings": [mapping] * 341}
    request.config.mounts.add(**mount)
    with pytest.raises(InvalidRequest, match="341 entries, more than 340") as caught:
        containers.decode_create(request)
    assert caught.value.field == "config.mounts[0].uidMappings"


LONG = "x" * (limits.MAX_WORD + 1)


@pytest.mark.parametrize(
    ("call", "path", "text"),
    [
        (CONTAINER, "config.command", LONG),
        (CONTAINER, "config.args", LONG),
        (EXEC, "cmd", LONG),
        (CONTAINER, "config.metadata.name", "é" * 127),
        (CONTAINER, "config.log_path", "d/" * 256 + "0.log"),
        (CONTAINER, "config.log_path", "x" * 256),
        (CONTAINER, "config.working_dir", "/d" * 256),
        (CONTAINER, "config.image.image", "x" * 4097),
        (CONTAINER, "config.image.user_specified_image", "x" * 4097),
        (CONTAINER, f"{SECURITY}.run_as_username", "x" * 254),
        (CONTAINER, f"{RESOURCES}.cpuset_cpus", "0," * 2048 + "0"),
        (POD, "config.log_directory", "/d" * 256),
        (POD, "config.dns_config.servers", "x" * 2049),
        (POD, "config.metadata.uid", "x" * 254),
        ((pb.ListContainersRequest, containers.decode_list), "filter.id", "a" * 129),
        ((pb.ListPodSandboxRequest, sandboxes.decode_list), "filter.id", "a" * 129),
        ((pb.ListImagesRequest, images.decode_list), "filter.image.image", "a" * 4097),
    ],
)
def test_a_text_that_is_too_long_is_refused_with_its_field(call: Any, path: str, text: str) -> None:
    make, decode = call
    request = make()
    holder: Any = request
    *above, last = path.split(".")
    for name in above:
        holder = getattr(holder, name)
    if isinstance(getattr(holder, last), str):
        setattr(holder, last, text)
    else:
        getattr(holder, last).append(text)
    with pytest.raises(InvalidRequest, match=r"longer than|parts, more than") as caught:
        decode(request)
    assert caught.value.field == path
    assert len(str(caught.value)) < 300


def test_a_variable_may_hold_what_a_config_map_can() -> None:
    request = container()
    request.config.envs.add(key="K", value=b"x" * (limits.MAX_WORD - 1))
    containers.decode_create(request)
    request.config.envs[0].value += b"x"
    with pytest.raises(InvalidRequest, match=r"^config\.envs\[0\]: takes more than"):
        containers.decode_create(request)


def test_a_config_is_bounded_as_a_whole() -> None:
    request = container()
    for number in range(8):
        request.config.envs.add(key=f"K{number}", value=b"x" * (1 << 20))
    with pytest.raises(InvalidRequest, match=rf"takes \d+ bytes, more than {limits.MAX_CONFIG}$") as caught:
        containers.decode_create(request)
    assert caught.value.field == "config"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("cpu_quota", 999),
        ("cpu_quota", 1 << 44),
        ("cpu_period", 999),
        ("cpu_period", 1_000_001),
        ("cpu_period", -1),
        ("cpuset_cpus", "1-0"),
        ("cpuset_cpus", "0-999999"),
        ("cpuset_mems", "9999999999"),
    ],
)
def test_a_limit_that_no_kernel_takes_is_refused_with_its_field(name: str, value: object) -> None:
    request = container()
    setattr(request.config.linux.resources, name, value)
    with pytest.raises(InvalidRequest) as caught:
        containers.decode_create(request)
    assert caught.value.field == f"{RESOURCES}.{name}"


@pytest.mark.parametrize(("quota", "period"), [(0, 0), (-1, 0), (1000, 1000), ((1 << 44) - 1, 1_000_000)])
def test_quotas_that_the_kernel_takes_are_taken(quota: int, period: int) -> None:
    request = container()
    request.config.linux.resources.cpu_quota = quota
    request.config.linux.resources.cpu_period = period
    found = containers.decode_create(request).config.resources
    assert (found.cpu_quota, found.cpu_period) == (quota, period)


def test_the_docs_tell_every_limit() -> None:
    section = DOCS.read_text().partition("## Limits of requests")[2].partition("\n## ")[0]
    told = {int(number.replace(",", "")) for number in re.findall(r"\d[\d,]*", section)}
    names = [name for name in vars(limits) if name.startswith("MAX_")]
    assert [name for name in names if getattr(limits, name) not in told] == []
