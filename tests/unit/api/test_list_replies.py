"""Lists joined from encoded elements are the same bytes as a message with those elements."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from crib.api.list_replies import PART_BYTES, EncodedList, element, parts
from crib.api.translate import containers
from crib.model.container import ContainerRecord, ContainerState
from crib.stubs.runtime.v1 import api_pb2 as pb
from tests.unit.api.fake_node import container


def test_a_joined_list_is_the_encoded_message() -> None:
    rows = [container(number) for number in range(300)]
    message = pb.ListContainersResponse(containers=[containers.encode(row) for row in rows])
    joined = EncodedList(containers.encode).whole(rows)
    assert pb.ListContainersResponse.FromString(joined) == message


@given(st.lists(st.integers(0, 300_000), max_size=6))
def test_elements_of_any_size_are_framed_right(sizes: list[int]) -> None:
    messages = [pb.Container(id="x" * size) for size in sizes]
    joined = b"".join(element(message) for message in messages)
    assert list(pb.ListContainersResponse.FromString(joined).containers) == messages


def test_a_record_is_encoded_once_and_again_when_it_changes() -> None:
    encoded: list[ContainerRecord] = []

    def encode(record: ContainerRecord) -> pb.Container:
        encoded.append(record)
        return containers.encode(record)

    lists = EncodedList(encode)
    rows = [container(1), container(2)]
    lists.whole(rows)
    lists.some(rows[:1])
    assert len(encoded) == 2
    lists.whole([container(1, state=ContainerState.EXITED), rows[1]])
    assert len(encoded) == 3


def test_what_is_gone_is_forgotten() -> None:
    lists = EncodedList(containers.encode)
    lists.whole([container(number) for number in range(10)])
    lists.whole([container(3)])
    assert len(lists._kept) == 1


def test_parts_are_bounded_and_hold_everything_in_order() -> None:
    elements = [bytes([number]) * (PART_BYTES // 3) for number in range(10)]
    found = list(parts(elements))
    assert b"".join(found) == b"".join(elements)
    assert all(len(part) < 2 * PART_BYTES for part in found)
    assert list(parts([])) == []
