"""The forms of a result: every one that is offered works, and others are refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import typer

from crib.cli import forms
from crib.cli.forms import Format
from crib.cli.jsonpath import JsonPath, JsonPathError
from crib.cli.output import Listing, document
from crib.cli.session import ending
from crib.cli.tables import TableColumn

PODS: list[dict[str, Any]] = [
    {"id": "a" * 64, "metadata": {"name": "web", "attempt": 0}, "size": "5", "list": [1, 2, 3]},
    {"id": "b" * 64, "metadata": {"name": "db", "attempt": 1}, "size": "15", "labels": {"a.b/c": "x"}},
]


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{.items[*].metadata.name}", "web db"),
        ("{[*].metadata.name}", "web db"),
        ("[0].metadata.name", "web"),
        ('{range .items[*]}{.metadata.name}{"\\t"}{.size}{"\\n"}{end}', "web\t5\ndb\t15\n"),
        ('{[?(@.metadata.name=="db")].size}', "15"),
        ("{[?(@.metadata.attempt>0)].metadata.name}", "db"),
        ("{[?(@.labels)].metadata.name}", "db"),
        ("{..name}", "web db"),
        ("{[-1].metadata.attempt}", "1"),
        ("{[0].list[1:]}", "2 3"),
        ("{[*].labels['a.b/c']}", "x"),
        ("{[*].labels.a\\.b/c}", "x"),
        ("{[0].metadata}", '{"name": "web", "attempt": 0}'),
        ("before {.nothing} after", "before  after"),
        ("{[0].list[9]}{[0].size[0]}{[0].id.x}", ""),
    ],
)
def test_a_template_takes_what_it_names(template: str, text: str) -> None:
    assert JsonPath(template).written(PODS) == text


@pytest.mark.parametrize(
    ("template", "problem"),
    [
        ("{.a", "'{.a' has no closing brace"),
        ("{end}", "{end} without {range}"),
        ("{range .a}x", "{range} without {end}"),
        ("{.a[}", "'.a[' is not understood: unexpected end of query"),
        ("{[?(@.a==)]}", "'[?(@.a==)]' is not understood: unexpected ')'"),
        ("{.a b}", "'.a b' is not understood: unexpected token 'b'"),
    ],
)
def test_what_is_no_template_is_told_where(template: str, problem: str) -> None:
    with pytest.raises(JsonPathError) as raised:
        JsonPath(template)
    assert str(raised.value) == problem


def listing() -> Listing:
    return Listing(
        (TableColumn("NAME"), TableColumn("ATTEMPT", wide=True)),
        [("web", "0"), ("db", "1")],
        ids=[str(pod["id"]) for pod in PODS],
        names=["default/web", "default/db"],
        documents=PODS,
    )


@pytest.mark.parametrize(
    ("form", "text"),
    [
        ("table", "NAME\nweb\ndb\n"),
        ("wide", "NAME   ATTEMPT\nweb    0\ndb     1\n"),
        ("name", "default/web\ndefault/db\n"),
        ("jsonpath={[*].size}", "5 15"),
        ('go-template={{range .items}}{{.metadata.name}} {{.size}}{{"\\n"}}{{end}}', "web 5\ndb 15\n"),
        ("custom-columns=POD:.metadata.name,LIST:list[*],L:{.labels}",
         'POD   LIST     L\nweb   1,2,3    <none>\ndb    <none>   {"a.b/c": "x"}\n'),
    ],
)  # fmt: skip
def test_a_list_has_every_form(form: str, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    listing().show(forms.parse(form, forms._LIST))
    assert capsys.readouterr().out == text


def test_a_list_of_ids_is_for_programs(capsys: pytest.CaptureFixture[str]) -> None:
    listing().show(Format.WIDE, quiet=True)
    assert capsys.readouterr().out.split() == ["a" * 64, "b" * 64]
    listing().show(Format.JSON)
    assert json.loads(capsys.readouterr().out) == PODS


def test_a_templates_values_have_no_control_characters(capsys: pytest.CaptureFixture[str]) -> None:
    document({"a": "x\x1b[31m"}, forms.parse('jsonpath={.a}{"\\n"}', forms._REPORT))
    assert capsys.readouterr().out == "x?[31m\n"


def test_a_go_template_may_be_in_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "names"
    path.write_text("{{range .}}{{.metadata.name}};{{end}}")
    document(PODS, forms.parse(f"go-template-file={path}", forms._LIST))
    assert capsys.readouterr().out == "web;db;"


def test_a_go_template_that_does_not_fit_is_told_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    form = forms.parse("go-template={{.size.x}}", forms._REPORT)
    assert ending(lambda: document({"size": "5"}, form)) == 1
    assert capsys.readouterr().err == "crib: line 1: .size.x of a text (within a range use $.x)\n"


@pytest.mark.parametrize(
    ("form", "offered", "problem"),
    [
        ("wide", forms._REPORT, "'wide' is not one of table, json, yaml, jsonpath=TEMPLATE"),
        ("table", forms._DOCUMENT, "'table' is not one of yaml, json, jsonpath=TEMPLATE"),
        ("jsonpath=", forms._DOCUMENT, "'jsonpath=' is not one of yaml, json, jsonpath=TEMPLATE"),
        (
            "go-template",
            forms._DOCUMENT,
            "'go-template' is not one of yaml, json, jsonpath=TEMPLATE, go-template=",
        ),
        ("go-template={{.id}", forms._LIST, "go-template: line 1: an action without its }}"),
        ("go-template-file=/nowhere", forms._LIST, "go-template-file: /nowhere: No such file or directory"),
        ("jsonpath={", forms._LIST, "jsonpath: '{' has no closing brace"),
        ("custom-columns=A", forms._LIST, "custom-columns: 'A' is not TITLE:PATH"),
        (
            "custom-columns=A:.x[",
            forms._LIST,
            "custom-columns: '.x[' is not understood: unexpected end of query",
        ),
    ],
)
def test_a_form_that_is_not_offered_is_refused(form: str, offered: tuple[Format, ...], problem: str) -> None:
    with pytest.raises(typer.BadParameter) as raised:
        forms.parse(form, offered)
    assert problem in raised.value.message
