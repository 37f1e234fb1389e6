"""A plugin's life, name and events as values."""

from __future__ import annotations

import itertools

import pytest

from crib.backends.nri.lives import MAX_NAME, Breach, PluginName, following
from crib.backends.nri.moments import ALL, REFUSABLE, WITHOUT_OLDER_FORM, Moment, checked_mask, subscribed
from crib.model.plugin_status import PluginState

WAY = [
    PluginState.CONNECTED,
    PluginState.REGISTERED,
    PluginState.CONFIGURED,
    PluginState.SYNCHRONIZING,
    PluginState.READY,
]


def test_a_life_goes_one_way_and_ends_from_everywhere() -> None:
    allowed = {*itertools.pairwise(WAY), *((state, PluginState.GONE) for state in WAY)}
    for state, wanted in itertools.product([*WAY, PluginState.GONE], repeat=2):
        if (state, wanted) in allowed:
            assert following(state, wanted) is wanted
        else:
            with pytest.raises(Breach, match=f"it cannot become {wanted} while it is {state}"):
                following(state, wanted)


@pytest.mark.parametrize("index", ["", "1", "001", "1a", "-1", "１２", "10\n"])
def test_an_index_is_two_digits(index: str) -> None:
    with pytest.raises(ValueError, match="plugin_idx must be two digits"):
        PluginName.checked(index, "logger")


@pytest.mark.parametrize("base", ["", "a b", "a/b", "é", "a\n", "x" * (MAX_NAME + 1)])
def test_a_name_has_the_characters_that_nri_allows(base: str) -> None:
    with pytest.raises(ValueError, match="plugin_name must be"):
        PluginName.checked("10", base)


def test_plugins_are_asked_by_index_and_then_by_name() -> None:
    names = ["90-a", "10-z", "10-a", "00-x", "10-a.b+c_d-e"]
    assert [str(name) for name in sorted(map(PluginName.of_file, names))] == [
        "00-x",
        "10-a",
        "10-a.b+c_d-e",
        "10-z",
        "90-a",
    ]


@pytest.mark.parametrize("file", ["logger", "README", "1-a", "10_a", "10-"])
def test_a_file_that_is_not_named_for_a_plugin_is_none(file: str) -> None:
    with pytest.raises(ValueError, match=r"IDX-NAME|plugin_"):
        PluginName.of_file(file)


def test_a_configuration_is_looked_for_with_the_index_first() -> None:
    assert PluginName("10", "logger").configurations == ("10-logger.conf", "logger.conf")


def test_no_mask_means_everything() -> None:
    assert checked_mask(0) == ALL == (1 << 14) - 1
    assert list(subscribed(ALL)) == list(Moment)


def test_a_mask_is_the_sum_of_its_events() -> None:
    mask = checked_mask((1 << 3) | (1 << 13))
    assert list(subscribed(mask)) == [Moment.CREATE_CONTAINER, Moment.VALIDATE_CONTAINER_ADJUSTMENT]


@pytest.mark.parametrize("mask", [1 << 14, 1 << 30, -1])
def test_events_that_do_not_exist_are_refused(mask: int) -> None:
    with pytest.raises(ValueError, match="events that do not exist"):
        checked_mask(mask)


def test_each_event_has_the_call_of_its_name() -> None:
    assert Moment.POST_UPDATE_POD_SANDBOX.call == "PostUpdatePodSandbox"
    assert Moment.VALIDATE_CONTAINER_ADJUSTMENT.call == "ValidateContainerAdjustment"
    assert len({moment.call for moment in Moment}) == len(Moment)


def test_what_has_an_answer_has_no_older_form() -> None:
    assert {moment.call for moment in WITHOUT_OLDER_FORM} == {
        "CreateContainer",
        "UpdateContainer",
        "StopContainer",
        "UpdatePodSandbox",
        "ValidateContainerAdjustment",
    }
    assert not {moment for moment in REFUSABLE if moment.name.startswith("POST")}
