from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crib.model.container import ContainerSecurity
from crib.model.errors import InvalidRequest
from crib.model.facts import RootfsFacts
from crib.model.image import ImageConfig
from crib.ocispec.user import MAX_ID, container_user, parse_group, parse_passwd
from tests.unit.ocispec.inputs_for_tests import GROUP, PASSWD

ROOTFS = RootfsFacts(PASSWD, GROUP)


def user(image: str = "", **security: object) -> tuple[int, int, tuple[int, ...]]:
    context = ContainerSecurity(**security)  # type: ignore[arg-type]
    found = container_user(context, ImageConfig(user=image), ROOTFS)
    return found.uid, found.gid, found.additional_gids


@pytest.mark.parametrize(
    ("image", "security", "expected"),
    [
        ("", {}, (0, 0, (0,))),
        ("alice", {}, (1000, 1001, (1001, 10, 29))),
        ("1000", {}, (1000, 1001, (1001, 10, 29))),
        ("77", {}, (77, 0, (0,))),
        ("alice:wheel", {}, (1000, 10, (10, 29))),
        ("77:88", {}, (77, 88, (88,))),
        (":wheel", {}, (0, 10, (10,))),
        ("alice", {"run_as_user": 5}, (5, 0, (0,))),
        ("alice", {"run_as_user": 0}, (0, 0, (0,))),
        ("root", {"run_as_username": "alice"}, (1000, 1001, (1001, 10, 29))),
        ("root", {"run_as_username": "alice", "run_as_group": 7}, (1000, 7, (7, 10, 29))),
        ("", {"run_as_user": 1000, "supplemental_groups": (500, 10)}, (1000, 1001, (1001, 10, 29, 500))),
        (
            "",
            {"run_as_user": 1000, "supplemental_groups": (500,), "supplemental_groups_policy": 1},
            (1000, 1001, (1001, 500)),
        ),
    ],
)
def test_user_and_groups_are_found(
    image: str, security: dict[str, object], expected: tuple[int, int, tuple[int, ...]]
) -> None:
    assert user(image, **security) == expected


@pytest.mark.parametrize(
    ("image", "security", "field"),
    [
        ("", {"run_as_group": 1}, "run_as_group"),
        ("", {"run_as_user": -1}, "run_as_user"),
        ("", {"run_as_user": MAX_ID + 1}, "run_as_user"),
        ("", {"run_as_user": 1, "run_as_group": 1 << 32}, "run_as_group"),
        ("", {"run_as_username": "nobody-here"}, "run_as_username"),
        ("", {"supplemental_groups": (1, -5)}, "supplemental_groups[1]"),
        ("4294967296", {}, "image config User"),
        ("-1", {}, "image config User"),
        ("alice:nosuch", {}, "image config User"),
        ("big", {}, "image config User"),
        ("99999999999999999999:0", {}, "image config User"),
    ],
)
def test_ids_out_of_range_and_unknown_names_are_refused(
    image: str, security: dict[str, object], field: str
) -> None:
    """CVE-2024-40635: a number that overflows must never end up as root."""
    with pytest.raises(InvalidRequest) as caught:
        user(image, **security)
    assert caught.value.field.endswith(field)


def test_names_of_odd_bytes_are_found_and_lines_with_too_much_in_them_are_read() -> None:
    name = b"\xff\xfeodd name;$(x)".decode("utf-8", "surrogateescape")
    passwd = f"{name}:x:7:8:a:b:c:d:e\r\n" + "x" * 500_000 + "\n:x:0:0::/:\n+::::::\nlate:x:9:9::/:"
    members = ",".join([*(f"u{number}" for number in range(100_000)), name])
    facts = RootfsFacts(passwd, f"many:x:50:{members}\nother:x:51:{name},\nbad:x:-1:{name}\n")
    found = container_user(ContainerSecurity(run_as_username=name), ImageConfig(), facts)
    assert (found.uid, found.gid, found.additional_gids) == (7, 8, (8, 50, 51))
    assert container_user(ContainerSecurity(run_as_username="late"), ImageConfig(), facts).uid == 9
    for nobody in ("", "+", "x"):
        if nobody:
            with pytest.raises(InvalidRequest, match="not in the container's /etc/passwd"):
                container_user(ContainerSecurity(run_as_username=nobody), ImageConfig(), facts)


@given(st.text(alphabet=":,\n\r0123456789-ab\udcff", max_size=200))
def test_any_text_is_read_without_error_and_within_bounds(text: str) -> None:
    for entry in parse_passwd(text):
        assert 0 <= entry.uid <= MAX_ID
        assert 0 <= entry.gid <= MAX_ID
    for group in parse_group(text):
        assert 0 <= group.gid <= MAX_ID
