"""Settings from TOML: strict, with file, line and nearest key in every refusal."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from types import UnionType
from typing import Any, cast, get_args, get_origin

import pytest

from crib.config import MAX_BYTES, ConfigError, load, parse
from crib.config.views import path_is_live
from crib.model.image_settings import ImagePolicy
from crib.model.keys import fields_of, is_part, keys_of, unwrapped
from crib.model.settings import (
    DEFAULT_CAPABILITIES,
    ContainerDefaults,
    HandlerSettings,
    Settings,
)

DOCUMENT = Path(__file__).parents[3] / "docs" / "configuration.md"


def test_no_file_gives_the_defaults(tmp_path: Path) -> None:
    assert load(str(tmp_path / "config.toml")) == Settings()


def test_a_named_file_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        load(str(tmp_path / "config.toml"), required=True)


def test_every_kind_of_value_is_taken() -> None:
    settings = parse(
        """
        data = "/data"
        verb_timeout = 5
        default_handler = "runc"
        [log]
        level = "debug"
        [network]
        mode = "bridge"
        cni_bin_dirs = ["/a", "/b"]
        [images.mirrors]
        "docker.io" = ["http://mirror:5000"]
        [[images.policy]]
        match = "reg.example/*"
        action = "signed"
        keys = ["/etc/crib/a.pub"]
        [[images.policy]]
        action = "reject"
        audit = true
        [handlers.runc]
        path = "/usr/sbin/runc"
        args = ["--systemd-cgroup"]
        """
    )
    assert settings.data == "/data"
    assert (settings.verb_timeout, type(settings.verb_timeout)) == (5.0, float)
    assert settings.log.level == "debug"
    assert settings.network.cni_bin_dirs == ("/a", "/b")
    assert settings.network.subnet == Settings().network.subnet
    assert settings.images.registries.mirrors == {"docker.io": ("http://mirror:5000",)}
    assert settings.images.trust.policy == (
        ImagePolicy("reg.example/*", "signed", ("/etc/crib/a.pub",)),
        ImagePolicy("*", "reject", audit=True),
    )
    assert settings.handlers == {"runc": HandlerSettings("/usr/sbin/runc", ("--systemd-cgroup",))}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('dta = "/x"', "c.toml:1: unknown key dta, did you mean data?"),
        ('\n[network]\nmood = "cni"', "c.toml:3: unknown key network.mood, did you mean network.mode?"),
        ('network.mood = "cni"', "c.toml:1: unknown key network.mood, did you mean network.mode?"),
        ("# network\n[netwrk]\n", "c.toml:2: unknown key netwrk, did you mean network?"),
        ("[zzzzzz]\n", "c.toml:1: unknown key zzzzzz"),
        ('\n[handlers.crun]\n"pth" = "/x"', "c.toml:3: unknown key handlers.crun.pth"),
        ("handlers = {crun = {pth = 1}}", "c.toml:1: unknown key handlers.crun.pth"),
        ("data = 1", "c.toml:1: data must be a string"),
        ("log_files = 1", "c.toml:1: log_files is 1, and must be at least 2"),
        ("log_size_max = 100", "log_size_max is 100: it must be 0 or at least 65536"),
        ('verb_timeout = "5"', "c.toml:1: verb_timeout must be a number"),
        ("verb_timeout = true", "c.toml:1: verb_timeout must be a number"),
        ("verb_timeout = nan", "c.toml:1: verb_timeout is nan"),
        ("verb_timeout = inf", "c.toml:1: verb_timeout must be a finite number"),
        ("[images]\nparallel_layers = 1.5", "c.toml:2: images.parallel_layers must be an integer"),
        ("[images]\nparallel_layers = 0", "c.toml:2: images.parallel_layers is 0, and must be at least 1"),
        ("log = 3", "c.toml:1: log must be a table"),
        ("[images]\ninsecure = 'x'", "c.toml:2: images.insecure must be an array"),
        ("[images]\ninsecure = [1]", "c.toml:2: images.insecure must be a string"),
        ("[images.mirrors]\nx = 1", "c.toml:2: images.mirrors.x must be an array"),
        ("[log]\nlevel = 'loud'", "c.toml:2: log.level is 'loud', and must be one of 'debug'"),
        ("[images]\nblock_size = 1024", "c.toml:2: images.block_size is 1024"),
        ("data = 'relative'", "c.toml:1: data is 'relative', and must be an absolute path"),
        ("state = '/run/../x'", "c.toml:1: state is '/run/../x'"),
        ("socket = 'x.sock'", "c.toml:1: socket is 'x.sock', and must be an absolute path"),
        ('data = "/a\\u0000"', "c.toml:1: data has control characters"),
        ("[network]\nbridge = 'a-name-that-is-long'", "c.toml:2: network.bridge is"),
        ("[network]\nsubnet = '10.88.0.1/16'", "c.toml:2: network.subnet is"),
        ("[handlers.'A b']\n", "c.toml:1: handlers.A b: the name must be an RFC"),
        (
            "[handlers.crun]\ncni_conf_dir = 'net.d'",
            "c.toml:2: handlers.crun.cni_conf_dir is 'net.d', and must",
        ),
        ("default_handler = 'kata'", "c.toml:1: default_handler is 'kata', which is not one of the handlers"),
        (f"socket = '/{'x' * 110}'", "more than 107 bytes"),
        ("data = '/run/crib'", "data and state are the same directory"),
        ("[images]\nhosts_dirs = ['x']", "c.toml:2: images.hosts_dirs is 'x', and must be an absolute path"),
        ("[images]\nprepull = ['No Name']", "images.prepull is 'No Name', and must be an image name"),
        ("[images]\nmount_method = 'copy'", "c.toml:2: images.mount_method is 'copy', and must be one of"),
        ("[[images.policy]]\naction = 'maybe'", "c.toml:2: images.policy.action is 'maybe', and must be one"),
        *(
            (
                f"[[images.policy]]\nmatch = '{match}'",
                f"c.toml:2: images.policy.match is '{match}', and must be a pattern for an image's",
            )
            for match in (
                *("", "busybox", "library/busybox", "docker.io/busybox", "registry.example", "registry/*"),
                *("docker.io/library/busybox:1", "docker.io/library/busybox:*", "*:latest", "*/BusyBox"),
                *(
                    "https://registry.example/*",
                    "registry.example/Team/*",
                    "*BusyBox*",
                    "[0:0*",
                    "*.example:/*",
                ),
            )
        ),
        ("[[images.policy]]\nmtch = 'x'", "c.toml:2: unknown key images.policy.mtch, did you mean"),
        ("[[images.policy]]\naction = 'signed'", "images.policy '*' has the action 'signed' and 0 keys"),
        ("[[images.policy]]\nkeys = ['/a.pub']", "images.policy '*' has the action 'accept' and 1 keys"),
        ("[streaming]\ntls = 'files'", 'streaming.cert_file is required with streaming.tls = "files"'),
        ("[streaming]\ntls = 'files'\ncert_file = '/c'", "streaming.key_file is required with"),
        ("[streaming]\nkey_file = '/k'", "streaming.key_file is set, but used only with"),
        ("[streaming]\nclient_ca_file = '/c'", "streaming.client_ca_file is set, but streaming.tls is"),
        ("[metrics]\nlisten = '0.0.0.0:9641'", "others than this machine reach: that needs metrics.remote"),
        ("[metrics]\nlisten = '[fd00::1]:9641'", "others than this machine reach: that needs metrics.remote"),
        *(
            (f"[metrics]\nlisten = '{place}'", "must be `unix`, unix:PATH or an IP address with a port")
            for place in (
                *("localhost:9641", "127.0.0.1", "127.0.0.1:0", "127.0.0.1:65536", "::1:9641", ":9641"),
                *("unix:metrics.sock", "[127.0.0.1:9641", "tcp:/x", "127.0.0.1:96²"),
            )
        ),
        *(
            (f"[tracing]\nendpoint = '{place}'", "must be HOST:PORT or unix:PATH, without a scheme")
            for place in ("http://a:4317", "collector", "collector:0", "unix:x", "a/b:4317", "[::1:4317")
        ),
        ("[tracing]\nsampling_rate_per_million = 1000001", "must be 0 to 1000000"),
        ("[images]\ngc_high = 70", "images.gc_low is 80 and images.gc_high 70"),
        ("[images]\ngc_high = 101", "images.gc_low is 80 and images.gc_high 101"),
        (
            "[containers]\numsk = '022'",
            "c.toml:2: unknown key containers.umsk, did you mean containers.umask?",
        ),
        ("[handlers.a.containers]\numsk = ''", "c.toml:2: unknown key handlers.a.containers.umsk, did you"),
        (
            "[containers]\ncapabilities = ['CAP_KILL']",
            "c.toml:2: containers.capabilities is 'CAP_KILL', and must",
        ),
        ("[containers]\ndevices = ['/etc']", "c.toml:2: containers.devices is '/etc', and must be HOST["),
        ("[containers]\ndevices = ['/dev/a::x']", "('x' is not made of r, w and m)"),
        ("[containers.env]\n'A=B' = ''", "c.toml:2: containers.env.A=B: the name must be a variable name"),
        ("[[containers.mounts]]\nsource = 'x'", "c.toml:2: containers.mounts.source is 'x', and must be an"),
        ("[[containers.mounts]]\nsource = '/x'", "containers.mounts: each needs a source, and a destination"),
        (
            "[containers]\nseccomp_profile = 'x'",
            "c.toml:2: containers.seccomp_profile is 'x', and must be an",
        ),
        (
            "[containers]\nshm_size = 100",
            "c.toml:2: containers.shm_size is 100, and must be a number of bytes",
        ),
        ("[containers.sysctls]\n'kernel.panic' = '1'", "containers.sysctls.kernel.panic: the name must be a"),
        (
            "[containers.sysctls]\nnet.core.x = '1'",
            "c.toml:2: containers.sysctls.net: the name must be a sysctl",
        ),
        (
            "[containers.sysctls]\n'net.x' = 'é'",
            "c.toml:2: containers.sysctls.net.x is 'é', and must be one line",
        ),
        ("[containers]\ntimezone = '../passwd'", "c.toml:2: containers.timezone is '../passwd', and must be"),
        (
            "[containers]\ntimezone = 'Europe/Nowhere'",
            "and must be local or a time zone that exists below",
        ),
        (
            "[containers.ulimits]\nnofiles = '1'",
            "c.toml:2: containers.ulimits.nofiles: the name must be one of",
        ),
        ("[containers.ulimits]\nnofile = '2:1'", "('2:1' has a soft limit above the hard one)"),
        (
            "[containers.ulimits]\nnofile = '-1'",
            "c.toml:2: containers.ulimits.nofile is '-1', and must be SOFT:",
        ),
        ("[containers]\numask = '0999'", "c.toml:2: containers.umask is '0999', and must be a umask"),
        (
            "[handlers.a.containers]\numask = '1777'",
            "c.toml:2: handlers.a.containers.umask is '1777', and must",
        ),
        ("data = ", "c.toml:1: Invalid value"),
        ("data = '/a'\ndata = '/b'", "c.toml:2: Cannot overwrite a value"),
    ],
)
def test_a_wrong_configuration_is_refused_with_its_place(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(text, "c.toml")
    assert message in re.sub(r"(c\.toml:\d+):\d+:", r"\1:", str(caught.value))  # columns are below


def test_what_a_handler_says_of_containers_is_laid_over_what_the_node_says() -> None:
    settings = parse(
        """
        [containers]
        umask = "027"
        capabilities = ["KILL"]
        ulimits = {core = "0", nofile = "1:2"}
        [handlers.crun]
        [handlers.other.containers]
        capabilities = []
        ulimits = {nofile = "3"}
        """
    )
    assert settings.handlers["crun"].containers == settings.containers
    other = settings.handlers["other"].containers
    assert (other.umask, other.capabilities) == ("027", ())
    assert other.ulimits == {"core": "0", "nofile": "3"}
    assert parse("containers.umask = '077'").handlers["crun"].containers.umask == "077"


def test_two_mounts_of_the_node_have_two_places() -> None:
    mount = '[[containers.mounts]]\nsource = "/a"\ndestination = "/b{}"\n'
    with pytest.raises(ConfigError, match="mounts: /b is the destination of more than one"):
        parse(mount.format("") + mount.format("/"))


def test_later_files_replace_only_the_keys_that_they_name(tmp_path: Path) -> None:
    (tmp_path / "conf.d").mkdir()
    (tmp_path / "config.toml").write_text('data = "/one"\n[network]\nmode = "bridge"\nmtu = 1400\n')
    (tmp_path / "conf.d" / "20-b.toml").write_text('data = "/three"\n')
    (tmp_path / "conf.d" / "10-a.toml").write_text('data = "/two"\n[network]\nmtu = 9000\n')
    (tmp_path / "conf.d" / "ignored.txt").write_text("nonsense")
    settings = load(str(tmp_path / "config.toml"))
    assert settings.data == "/three"
    assert (settings.network.mode, settings.network.mtu) == ("bridge", 9000)


def test_a_refusal_names_the_file_in_conf_d(tmp_path: Path) -> None:
    (tmp_path / "conf.d").mkdir()
    wrong = tmp_path / "conf.d" / "10-a.toml"
    wrong.write_text("\ndata = 1\n")
    with pytest.raises(ConfigError, match=re.escape(f"{wrong}:2:1: data must be a string")):
        load(str(tmp_path / "config.toml"))


def test_a_file_is_bounded_and_must_be_text(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_bytes(b"#" * (MAX_BYTES + 1))
    with pytest.raises(ConfigError, match="larger than"):
        load(str(path))
    path.write_bytes(b"\xff")
    with pytest.raises(ConfigError, match="not UTF-8"):
        load(str(path))


def keys(kind: Any, prefix: str = "") -> list[tuple[str, Any]]:
    """Every dotted key and its default."""
    found: list[tuple[str, Any]] = []
    for field in dataclasses.fields(kind):
        hint, _ = unwrapped(fields_of(kind)[field.name])
        name = f"{prefix}{field.name}"
        if is_part(fields_of(kind)[field.name]):
            found += keys(hint, prefix)
        elif hint is ContainerDefaults and prefix:
            found.append((name, "the node's"))
        elif dataclasses.is_dataclass(hint):
            found += keys(hint, f"{name}.")
        elif get_origin(hint) is not tuple and dataclasses.is_dataclass((get_args(hint) or (0, 0))[-1]):
            found += keys(get_args(hint)[-1], f"{name}.NAME.")
        elif dataclasses.is_dataclass((get_args(hint) or (0,))[0]):
            found += keys(get_args(hint)[0], f"{name}.")
        else:
            default = field.default if field.default is not dataclasses.MISSING else field.default_factory()  # type: ignore[operator]  # a field without default has a factory
            found.append((name, default))
    return found


def shown(default: Any) -> str:
    """A default as the document writes it."""
    if default == DEFAULT_CAPABILITIES:
        return "docker's fourteen"
    if default == "the node's":
        return str(default)
    if isinstance(default, str):
        return f'`"{default}"`'
    if isinstance(default, tuple):
        return "`[" + ", ".join(f'"{item}"' for item in default) + "]`"
    if isinstance(default, dict):
        return "`{}`"
    return f"`{default}`"


def word(kind: Any) -> str:
    """A type as the document calls it."""
    kind = unwrapped(kind)[0]
    if isinstance(kind, UnionType):
        return "value"
    if get_origin(kind) is tuple:
        return f"array of {word(get_args(kind)[0])}s"
    if get_origin(kind) is not None:
        inner = word(get_args(kind)[1])
        return "table of arrays" if inner.startswith("array") else f"table of {inner}s"
    return {str: "string", int: "integer", float: "number", bool: "true or false"}.get(kind, "table")


def type_of(name: str) -> str:
    kind: Any = Settings
    for part in name.split("."):
        kind = unwrapped(kind)[0]
        if get_origin(kind) is tuple:
            kind = unwrapped(get_args(kind)[0])[0]
        kind = keys_of(cast(Any, kind))[part] if dataclasses.is_dataclass(kind) else get_args(kind)[1]
    return word(kind)


def takes(name: str) -> str:
    """How a change of this key comes to hold."""
    path = tuple(name.split("."))
    if path[:2] in (("containers", "mounts"), ("images", "policy")):  # an array of tables changes as a whole
        path = path[:2]
    return "reload" if path_is_live(path) else "restart"


@pytest.mark.parametrize(("name", "default"), keys(Settings))
def test_every_key_is_documented_with_its_default_and_what_a_change_takes(name: str, default: Any) -> None:
    rows = [row for row in DOCUMENT.read_text().splitlines() if row.startswith(f"| `{name}` |")]
    assert len(rows) == 1, f"docs/configuration.md has {len(rows)} rows for {name}"
    cells = [cell.strip() for cell in rows[0].split("|")[2:5]]
    assert cells == [type_of(name), shown(default), takes(name)]


def test_the_document_lists_no_key_that_is_gone() -> None:
    listed = re.findall(r"^\| `([a-zA-Z0-9_.]+)` \|", DOCUMENT.read_text(), re.M)
    assert sorted(listed) == sorted(name for name, _ in keys(Settings))


@pytest.mark.parametrize(
    ("listen", "place"),
    [
        ("unix", "unix:/run/crib/metrics.sock"),
        ("unix:/a/b", "unix:/a/b"),
        ("127.1.2.3:9641", "127.1.2.3:9641"),
        ("[::1]:9641", "[::1]:9641"),
        ("", ""),
    ],
)
def test_metrics_are_read_where_the_settings_say(listen: str, place: str) -> None:
    assert parse(f"[metrics]\nlisten = '{listen}'").metrics_place == place


def test_metrics_that_other_machines_read_must_be_allowed() -> None:
    assert parse("[metrics]\nlisten = '0.0.0.0:9641'\nremote = true").metrics_place == "0.0.0.0:9641"


@pytest.mark.parametrize("place", ["localhost:4317", "10.0.0.1:4317", "[::1]:4317", "unix:/run/otel.sock"])
def test_a_collector_may_be_anywhere(place: str) -> None:
    assert parse(f"[tracing]\nendpoint = '{place}'").tracing.endpoint == place


@pytest.mark.parametrize("page", ["configuration", "handlers", "k3s", "no-kubelet", "images"])
def test_the_examples_in_the_documents_are_valid(page: str) -> None:
    examples = re.findall(r"```toml\n(.*?)```", (DOCUMENT.parent / f"{page}.md").read_text(), re.S)
    ours = [text for text in examples if not re.search(r"^\[host|^server = |^\[\[registry", text, re.M)]
    assert ours
    for example in ours:
        assert parse(example) != Settings()
