"""Files and the environment together: all faults at once, and where each setting comes from."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from crib.config import ConfigError, Configuration, parse, read, renamed
from crib.config.document import Document
from crib.config.renamed import Renamed
from crib.config.variables import variables
from crib.config.views import checked, differences, path_is_live, shown, values
from crib.model.docker_settings import DockerSettings
from crib.model.keys import fields_of, followed
from crib.model.settings import HandlerSettings, Settings


def configuration(text: str, **environment: str) -> Configuration:
    return Configuration([Document("c.toml", text, Settings)], environment, "c.toml")


def faults(text: str, **environment: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        configuration(text, **environment)
    assert str(caught.value).splitlines() == [str(fault) for fault in caught.value.faults]
    return [str(fault) for fault in caught.value.faults]


def test_all_faults_are_told_at_once_each_with_line_and_column() -> None:
    found = faults(
        'dta = "/x"\n'
        "verb_timeout = 0\n"
        "[network]\n"
        '  mood = "cni"\n'
        "cni_bin_dirs = [\n"
        '  "/a",\n'
        "  7,\n"
        "]\n"
        "[images]\n"
        'policy = [{match = "*"}, {action = "maybe"}]\n'
    )
    assert found == [
        "c.toml:1:1: unknown key dta, did you mean data?",
        "c.toml:2:1: verb_timeout is 0, and must be at least 0.1",
        "c.toml:4:3: unknown key network.mood, did you mean network.mode?",
        "c.toml:7:3: network.cni_bin_dirs must be a string",
        "c.toml:10:27: images.policy.action is 'maybe', and must be one of 'accept', 'reject', 'digest',"
        " 'signed'",
    ]


def test_checks_across_keys_name_the_line_of_the_key_to_change() -> None:
    found = faults('log_size_max = 1\n[images]\ngc_high = 70\n[streaming]\ntls = "files"\n')
    assert found == [
        "c.toml:1:1: log_size_max is 1: it must be 0 or at least 65536",
        "c.toml:3:1: images.gc_low is 80 and images.gc_high 70: they are percentages, and gc_low must be"
        " below gc_high",
        'c.toml:5:1: streaming.cert_file is required with streaming.tls = "files"',
        'c.toml:5:1: streaming.key_file is required with streaming.tls = "files"',
    ]
    assert faults("gc = 1", CRIBD_LOG_SIZE_MAX="1") == ["c.toml:1:1: unknown key gc"]
    assert faults("", CRIBD_LOG_SIZE_MAX="1") == [
        "CRIBD_LOG_SIZE_MAX: log_size_max is 1: it must be 0 or at least 65536"
    ]


def test_faults_of_several_files_are_told_together(tmp_path: Path) -> None:
    (tmp_path / "conf.d").mkdir()
    main, second, third = (tmp_path / name for name in ("config.toml", "conf.d/1.toml", "conf.d/2.toml"))
    main.write_text("data = 1\n")
    second.write_bytes(b"\xff")
    third.write_text("= 1\n")
    with pytest.raises(ConfigError) as caught:
        read(str(main))
    assert [fault.place for fault in caught.value.faults] == [str(second), f"{main}:1:1", f"{third}:1:1"]


def test_what_is_nested_too_deeply_is_a_fault() -> None:
    assert faults(f"x = {'[' * 5000}{']' * 5000}") == ["c.toml: arrays or tables are nested too deeply"]


def test_each_key_tells_where_it_comes_from() -> None:
    found = configuration(
        '[log]\nlevel = "debug"\n[images.mirrors]\n"docker.io" = ["https://m"]\n'
        "[containers]\numask = '027'\n[handlers.a]\n[handlers.a.containers]\n"
        "shm_size = 4096\n[handlers.crun]\n",
        CRIBD_NETWORK_MTU="1400",
    )
    keys = {one.key: one for one in shown(found)}
    origins = {key: one.origin for key, one in keys.items() if one.origin}
    assert origins == {
        "log.level": "c.toml:2:1",
        'images.mirrors."docker.io"': "c.toml:4:1",
        "containers.umask": "c.toml:6:1",
        "handlers.a.containers.shm_size": "c.toml:9:1",
        "network.mtu": "CRIBD_NETWORK_MTU",
    }
    assert (keys["network.mtu"].value, keys["network.mtu"].default) == ("1400", "0")
    assert keys["handlers.a.containers.shm_size"].default == str(64 << 20)
    assert keys["handlers.a.path"].default == '""'
    assert found.origin(("handlers", "a", "containers", "umask")) == "c.toml:6:1"


def test_a_variable_wins_over_every_file_and_is_as_strict() -> None:
    found = configuration(
        'data = "/file"',
        CRIBD_DATA="/variable",
        CRIBD_VERB_TIMEOUT="5",
        CRIBD_NETWORK_REPAIR="true",
        CRIBD_CDI_SPEC_DIRS='["/a", "/b"]',
        CRIBD_IMAGES_MIRRORS='{ "docker.io" = ["https://m"] }',
        CRIB_ENDPOINT="is none of the daemon's",
    ).settings
    assert (found.data, found.verb_timeout, found.network.repair) == ("/variable", 5.0, True)
    assert found.cdi_spec_dirs == ("/a", "/b")
    assert found.images.registries.mirrors == {"docker.io": ("https://m",)}


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("CRIBD_LOG_LEVL", "debug", "sets no key, did you mean CRIBD_LOG_LEVEL?"),
        ("CRIBD_", "", "sets no key"),
        ("CRIBD_NICE", "5", "nice is 5, and must be -20 to 0"),
        ("CRIBD_NICE", "", "nice must be one value as in a file, and is ''"),
        ("CRIBD_NICE", "-1\nx = 2", "nice must be one value as in a file, and is '-1\\nx = 2'"),
        ("CRIBD_NETWORK_REPAIR", "yes", "network.repair must be one value as in a file, and is 'yes'"),
        ("CRIBD_NETWORK_REPAIR", "1", "network.repair must be true or false"),
        ("CRIBD_LOG_LEVEL", "loud", "log.level is 'loud', and must be one of"),
    ],
)
def test_a_wrong_variable_is_refused_by_its_name(name: str, text: str, problem: str) -> None:
    assert faults("", **{name: text})[0].startswith(f"{name}: {problem}")


def test_no_two_keys_have_the_same_variable() -> None:
    paths = [path for path, _ in values(Settings()) if path[0] != "handlers"]
    assert sorted(variables().values()) == sorted(paths)


def test_an_old_name_still_counts_and_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(renamed, "RENAMED", {("network", "bridge_mtu"): Renamed(("network", "mtu"), "0.9")})
    monkeypatch.setattr("crib.config.document.RENAMED", renamed.RENAMED)
    found = configuration("[network]\n  bridge_mtu = 1400\n")
    assert found.settings.network.mtu == 1400
    assert [str(one) for one in found.deprecated] == [
        "c.toml:2:3: network.bridge_mtu is called network.mtu since crib 0.9"
    ]
    assert found.origin(("network", "mtu")) == "c.toml:2:3"
    assert faults("[network]\nbridge_mtu = -1\n") == ["c.toml:2:1: network.mtu is -1, and must be at least 0"]
    assert faults("[network]\nbridge_mtu = 1400\nmtu = 1\n") == [
        "c.toml:2:1: network.bridge_mtu is the old name of network.mtu, which is set too: remove one"
    ]
    assert list(checked(found))[1].endswith("since crib 0.9; the old name still counts")


def test_every_old_name_leads_to_a_key_that_there_is() -> None:
    known = {path for path, _ in values(Settings())}
    assert all(one.now in known and old not in known for old, one in renamed.RENAMED.items())


def test_a_check_says_what_it_looked_at() -> None:
    assert list(checked(configuration("", CRIBD_DATA="/x"))) == ["c.toml: ok", "CRIBD_DATA: ok"]
    assert list(checked(Configuration([]))) == ["no file and no variable: the defaults hold"]


def test_differences_are_told_by_key() -> None:
    before, after = parse("pids_limit = 5"), parse("[images.mirrors]\n'a.b' = ['https://m']\n[handlers.crun]")
    assert [(one.key, one.before, one.after) for one in differences(before, after)] == [
        ('images.mirrors."a.b"', "", '["https://m"]'),
        ("pids_limit", "5", "0"),
    ]


def test_of_other_settings_a_reload_takes_exactly_what_is_live() -> None:
    old = parse("")
    new = parse(
        """
        data = "/other"
        verb_timeout = 5
        [log]
        level = "debug"
        [network]
        mtu = 1400
        repair = true
        [images]
        gc_high = 90
        worker_user = "daemon"
        mirrors = { "docker.io" = ["https://m"] }
        [containers]
        umask = "077"
        seccomp_profile = "/x"
        [handlers.crun]
        path = "/x"
        annotations = ["a"]
        [handlers.runc]
        """
    )
    held = followed(old, new)
    taken = {one.key for one in differences(old, held)}
    left = {one.key for one in differences(held, new)}
    assert left == {
        *("data", "network.mtu", "images.worker_user", "containers.seccomp_profile", "handlers.crun.path"),
        "handlers.runc.containers.seccomp_profile",  # it is a new one's own, whatever the node's still is
    }
    assert taken == {
        *("verb_timeout", "log.level", "network.repair", "images.gc_high", "containers.umask"),
        *('images.mirrors."docker.io"', "handlers.crun.annotations"),
        *(f"handlers.runc.{name}" for name in ("path", "args", "annotations", "base_spec", "kind")),
        *("handlers.runc.cni_conf_dir", "handlers.runc.privileged_without_host_devices"),
        *("handlers.runc.sandbox_container", "handlers.runc.containers.seccomp_profile"),
        *("handlers.runc.runtime", "handlers.runc.sandbox_service"),
        *(f"handlers.runc.docker.{name}" for name in fields_of(DockerSettings)),
    }
    assert held.handlers["crun"] == HandlerSettings(annotations=("a",), containers=held.containers)
    assert followed(new, old).handlers.keys() == {"crun"}


def test_what_is_live_is_told_of_every_key_as_a_reload_does_it() -> None:
    live = {path for path, _ in values(Settings()) if path_is_live(path)}
    assert ("images", "mirrors") in live
    assert ("handlers", "crun", "annotations") in live
    assert not live & {("data",), ("images", "prepull"), ("handlers", "crun", "path"), ("network", "mode")}
    assert path_is_live(("handlers", "x", "containers", "umask"))
    assert not path_is_live(("handlers", "x", "containers", "seccomp_profile"))
    assert len(live) > 60, sorted(itertools.chain(live))
