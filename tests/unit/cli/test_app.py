"""The program's edges: usage, exit codes, one line for every failure."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from crib.cli import app, output
from crib.cli.forms import Format
from crib.cli.session import DEFAULT_PODS_DIR, say

COMMANDS = [
    ["run", "FILE"],
    ["stop", "x"],
    ["rm", "x"],
    ["pods"],
    ["ps"],
    ["logs", "x"],
    ["exec", "x", "--", "ls", "-l"],
    ["attach", "x"],
    ["forward", "x", "80"],
    ["cp", "x:/y", "z"],
    ["inspect", "x"],
    ["timeline", "x"],
    ["timeline", "--compare", "x", "y"],
    ["events"],
    ["top"],
    ["stats"],
    ["df"],
    ["why", "x"],
    ["images"],
    ["pull", "x"],
    ["import", "FILE"],
    ["rmi", "x"],
    ["registry", "explain", "x"],
    ["network", "list"],
    ["network", "inspect", "x"],
    ["network", "check"],
    ["network", "gc"],
    ["network", "remove"],
    ["image", "check"],
    ["image", "export", "NEW", "x"],
    ["info"],
    ["conform"],
    ["bench"],
    ["bench", "pull", "x"],
]


def name_of(words: list[str]) -> str:
    return " ".join(words[:2] if words[0] in ("registry", "image", "network", "bench") else words[:1])


@pytest.mark.parametrize("words", COMMANDS, ids=map(name_of, COMMANDS))
def test_every_command_says_in_one_line_that_nobody_answers(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = tmp_path / "pod.yaml"
    manifest.write_text(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {containers: [{name: a, image: b}]}\n"
    )
    files = {"FILE": str(manifest), "NEW": f"{tmp_path}/new.tar"}
    words = [files.get(word, word) for word in words]
    failed = 125 if words[0] in ("exec", "attach") else 1  # not what a program may end with
    assert app._ending(["--endpoint", f"{tmp_path}/none", *words]) == failed
    expected = (
        f"crib: no runtime answers at unix://{tmp_path}/none: "
        "no such socket; is cribd running? (--endpoint, CRIB_ENDPOINT)\n"
    )
    assert capsys.readouterr().err == expected


@pytest.mark.parametrize("words", COMMANDS, ids=map(name_of, COMMANDS))
def test_every_command_has_a_help_of_whole_sentences(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert app._ending([*name_of(words).split(), "--help"]) == 0
    assert "." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["pods", "--nonsense"], "No such option: --nonsense (see crib pods --help)"),
        (["nonsense"], "there is no command 'nonsense' (see crib --help)"),
        (["exec"], "Missing argument 'POD|CONTAINER'. (see crib exec --help)"),
        (
            ["inspect", "x", "-o", "table"],
            "Invalid value for '--output' / '-o': 'table' is not one of yaml, json, jsonpath=TEMPLATE, "
            "go-template=TEMPLATE (see crib inspect --help)",
        ),
        (["image"], "Missing command. (see crib image --help)"),
        (["bench", "-n", "3", "pull", "x"], "put the options of crib bench pull after pull"),
        (["bench", "pull"], "Missing argument 'IMAGE'. (see crib bench pull --help)"),
        (["pull", "--user", "me", "x"], "--user NAME and --password-stdin must be given together"),
        (["pull", "--password-stdin", "x"], "--user NAME and --password-stdin must be given together"),
        (
            ["pull", "--user", "me", "--password-stdin", "--identity-token-stdin", "x"],
            "give a password or an identity token, not both",
        ),
        (
            ["pull", "--identity-token-stdin", "x", "reg.example/y"],
            "credentials are for one registry, not for docker.io and reg.example",
        ),
        (["pull", "--platform", "arm64", "x"], "platform 'arm64' is not OS/ARCH or OS/ARCH/VARIANT"),
        (["pull", "--watch", "x", "y"], "--watch follows one pull: name exactly one image"),
        (
            ["pull", "--watch", "--platform", "a/b", "x"],
            "--watch starts no pull, so it takes no platform and no credentials",
        ),
        (
            ["exec", "-i", "--timeout", "3", "x", "ls"],
            "--timeout and --sync work only without --stdin and --tty",
        ),
        (
            ["attach", "--detach-keys", "up", "x"],
            "detach key 'up' is neither one character nor ctrl- with a letter",
        ),
        (
            ["forward", "x", "http"],
            "'http' is not PORT, LOCAL:PORT, udp:PORT or unix:CONTAINER:/PATH",
        ),
        (["forward", "x", "70000:80"], "'70000:80': 70000 is not a port number"),
        (["cp", "a", "b"], "one side must be POD:PATH, the other a local path or -"),
        (["cp", "a:/b", "c:/d"], "one side must be POD:PATH, the other a local path or -"),
        (["cp", ":/b", "."], "':/b' is not POD:PATH"),
        (["rm"], "name the pods to remove, or use --all"),
    ],
)
def test_wrong_usage_is_one_line_and_two(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert app._ending(words) == 2
    assert capsys.readouterr().err == f"crib: {message}\n"


def test_the_version_is_the_packages(capsys: pytest.CaptureFixture[str]) -> None:
    assert app._ending(["--version"]) == 0
    assert capsys.readouterr().out.startswith("crib 0.")


def test_a_bad_endpoint_and_a_missing_manifest_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert app._ending(["-e", "tcp://1.2.3.4:5", "pods"]) == 1
    assert app._ending(["run", f"{tmp_path}/none.yaml"]) == 1
    (tmp_path / "bytes").write_bytes(b"\xff\xfe")
    assert app._ending(["run", f"{tmp_path}/bytes"]) == 1
    assert capsys.readouterr().err.splitlines() == [
        "crib: endpoint 'tcp://1.2.3.4:5' is neither unix:///PATH nor an absolute path",
        f"crib: cannot read {tmp_path}/none.yaml: No such file or directory",
        f"crib: {tmp_path}/bytes is not UTF-8 text",
    ]


def test_the_default_pods_dir_is_absolute() -> None:
    assert DEFAULT_PODS_DIR.startswith("/")


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0s"), (59, "59s"), (60, "1m"), (7200, "2h"), (200_000, "2d"), (4e8, "12y")]
)
def test_an_age_is_in_its_largest_unit(seconds: float, text: str) -> None:
    assert output.age(1, 1 + int(seconds * 1e9)) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (5 << 20, "5.0 MiB"), (3 << 40, "3.0 TiB")],
)
def test_a_size_is_in_its_largest_unit(count: int, text: str) -> None:
    assert output.size(count) == text


def test_documents_are_json_or_yaml(capsys: pytest.CaptureFixture[str]) -> None:
    output.document({"a": ["ü"]}, Format.JSON)
    output.document({"a": ["ü"]}, Format.YAML)
    assert capsys.readouterr().out == '{\n  "a": [\n    "ü"\n  ]\n}\na:\n- ü\n'


# What a terminal obeys: ESC, DEL, CSI as U+009B, the next line as U+0085, the direction of text (U+202E).
ODD = "a\x1b[31m\x7f\x9b31m\x85\u202e\U000e0001ü"


@pytest.mark.parametrize("form", [Format.JSON, Format.YAML])
def test_documents_have_no_control_character_and_mean_the_same(
    form: Format, capsys: pytest.CaptureFixture[str]
) -> None:
    """Terminal escape injection by what images and containers say of themselves."""
    output.document({"a": [ODD]}, form)
    text = capsys.readouterr().out
    assert all(line.isprintable() for line in text.split("\n"))
    read = json.loads if form is Format.JSON else yaml.safe_load
    assert read(text) == {"a": [ODD]}


def test_lines_for_people_have_no_control_character(capsys: pytest.CaptureFixture[str]) -> None:
    say(f"tab\t{ODD}")
    output.tell(f"tab\t{ODD}")
    written = capsys.readouterr()
    assert written.err == written.out == "tab a?[31m??31m???ü\n"
