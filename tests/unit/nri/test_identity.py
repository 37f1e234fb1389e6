"""Where a plugin's name and index come from."""

from __future__ import annotations

import pytest

from crib.nri.identity import DEFAULT_SOCKET, NriError, PluginIdentity, identity_of
from crib.nri.running import PluginOptions, options_of

TOLD = {"NRI_PLUGIN_NAME": "told", "NRI_PLUGIN_IDX": "20"}


@pytest.mark.parametrize(
    ("name", "index", "program", "environment", "identity"),
    [
        ("", "", "/opt/nri/plugins/10-pin", {}, "10-pin"),
        ("", "", "10-with-dashes.py", {}, "10-with-dashes.py"),
        ("given", "", "10-pin", {}, "10-given"),
        ("", "30", "/usr/bin/pin", {}, "30-pin"),
        ("given", "30", "pin", {}, "30-given"),
        ("", "", "/opt/nri/plugins/10-pin", TOLD, "20-told"),
        ("given", "", "10-pin", TOLD, "20-given"),
        ("given", "30", "10-pin", TOLD, "30-given"),
    ],
)
def test_what_is_given_goes_before_the_runtimes_word_and_that_before_the_programs_name(
    name: str, index: str, program: str, environment: dict[str, str], identity: str
) -> None:
    assert str(identity_of(name, index, program, environment)) == identity


@pytest.mark.parametrize(
    ("name", "index", "program", "reason"),
    [
        ("", "", "pin", "no index: give one, or name the executable NN-pin"),
        ("mine", "", "1-pin", "no index: give one, or name the executable NN-mine"),
        ("mine", "1", "pin", "plugin index '1': it has two digits"),
        ("mine", "1a", "pin", "plugin index '1a': it has two digits"),
        ("my plugin", "10", "pin", "plugin name 'my plugin': it has letters, digits"),
        ("", "", "10-", "plugin name '': it has letters"),
    ],
)
def test_what_no_runtime_would_register_is_refused(name: str, index: str, program: str, reason: str) -> None:
    with pytest.raises(NriError, match=reason):
        identity_of(name, index, program, {})


def test_a_command_line_says_how_the_runtime_is_reached() -> None:
    identity = PluginIdentity("pin", "10")
    assert options_of(["10-pin"], {}) == PluginOptions(identity, DEFAULT_SOCKET)
    given = options_of(["pin", "--name=a", "--idx=05", "--socket=/run/x.sock", "--reconnect"], {})
    assert given == PluginOptions(PluginIdentity("a", "05"), "/run/x.sock", None, True)
    assert options_of(["pin"], {**TOLD, "NRI_PLUGIN_SOCKET": "3"}).descriptor == 3
    with pytest.raises(NriError, match="NRI_PLUGIN_SOCKET=three: this is no descriptor"):
        options_of(["pin"], {**TOLD, "NRI_PLUGIN_SOCKET": "three"})
