"""Templates of CNI configurations: what is filled in, what is refused and where."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crib.wire.go_template import (
    NESTING,
    OUTPUT_CHARACTERS,
    TEMPLATE_BYTES,
    MalformedTemplate,
    render,
)

FIELDS = {
    "PodCIDR": "10.1.0.0/24",
    "PodCIDRRanges": ["10.1.0.0/24", "fd00::/64"],
    "Routes": ["0.0.0.0/0", "::/0"],
}

USUAL = """{{- /*gotype: of some package*/ -}}
{
  "cniVersion": "0.3.1",
  "name": "pods",
  "plugins": [{
    "type": "ptp",
    {{/* what is said here }} is for people */}}
    "ipam": {
      "type": "host-local",
      "ranges": [{{range $i, $range := .PodCIDRRanges}}{{if $i}}, {{end}}[{"subnet": "{{$range}}"}]{{end}}],
      "routes": [{{range $i, $route := .Routes}}{{if $i}}, {{end}}{"dst": "{{$route}}"}{{end}}]
    }
  }]
}
"""


def test_the_usual_template_makes_a_configuration() -> None:
    ipam = json.loads(render(USUAL, FIELDS))["plugins"][0]["ipam"]
    assert ipam["ranges"] == [[{"subnet": "10.1.0.0/24"}], [{"subnet": "fd00::/64"}]]
    assert ipam["routes"] == [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]


@pytest.mark.parametrize(
    ("template", "output"),
    [
        ("", ""),
        ("plain } text {", "plain } text {"),
        ("{{.PodCIDR}}", "10.1.0.0/24"),
        ("{{ .PodCIDR }}", "10.1.0.0/24"),
        ("{{\n.PodCIDR\t}}", "10.1.0.0/24"),
        ("{{$.PodCIDR}}", "10.1.0.0/24"),
        ("{{.Routes}}", "[0.0.0.0/0 ::/0]"),
        ("{{range .Routes}}<{{.}}>{{end}}", "<0.0.0.0/0><::/0>"),
        ("{{range $x := .Routes}}<{{$x}}>{{end}}", "<0.0.0.0/0><::/0>"),
        ("{{range $i,$x:=.Routes}}{{$i}}={{$x}};{{end}}", "0=0.0.0.0/0;1=::/0;"),
        ("{{range .Routes}}{{$.PodCIDR}} {{end}}", "10.1.0.0/24 10.1.0.0/24 "),
        ("{{range .None}}a{{else}}b{{end}}", "b"),
        ("{{if .None}}a{{else}}b{{end}}", "b"),
        ("{{if .Empty}}a{{end}}", ""),
        ("{{if .Empty}}a{{else if .None}}b{{else if .Routes}}c{{else}}d{{end}}e", "ce"),
        ("{{if .Empty}}a{{else if .None}}b{{else}}d{{end}}e", "de"),
        ("{{if .Routes}}{{if .Empty}}a{{else}}b{{end}}c{{else}}d{{end}}", "bc"),
        ("{{range $i, $x := .Routes}}{{range $i, $x := $.Routes}}{{$i}}{{end}}{{$i}}{{end}}", "010011"),
        ("a \n {{- .PodCIDR -}} \t\r\n b", "a10.1.0.0/24b"),
        ("a {{.PodCIDR -}} b", "a 10.1.0.0/24b"),
        ("a {{- .PodCIDR}} b", "a10.1.0.0/24 b"),
        ("a {{- if .Routes -}} b {{- end -}} c", "abc"),
        ("a {{- /* x */ -}} b", "ab"),
        ("a {{/* x\n}} y */}} b", "a  b"),
        ("{{/**/}}", ""),
    ],
)
def test_a_template_is_filled_in_as_by_go(template: str, output: str) -> None:
    assert render(template, {**FIELDS, "None": [], "Empty": ""}) == output


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{{len .Routes}}", "line 1: {{len .Routes}} is not understood"),
        ("\n\n{{ .PodCIDR | printf }}", "line 3: {{.PodCIDR | printf}} is not understood"),
        ('{{"text"}}', "not understood"),
        ("{{with .Routes}}{{end}}", "{{with .Routes}} is not understood"),
        ("{{$x := .PodCIDR}}", "not understood"),
        ("{{.Pod.CIDR}}", "not understood"),
        ("{{}}", "not understood"),
        ("{{- -}}", "not understood"),
        ("{{-3}}", "not understood"),
        ("{{$}}", "not understood"),
        ("{{if}}a{{end}}", "not understood"),
        ("{{if .Routes .PodCIDR}}a{{end}}", "not understood"),
        ("{{range $a, $b, $c := .Routes}}{{end}}", "not understood"),
        ("{{range $a, $b = .Routes}}{{end}}", "not understood"),
        ("{{range .Routes}}a{{else if .Routes}}b{{end}}", "not understood"),
        ("{{if .Routes}}a{{else}}b{{else}}c{{end}}", "{{else}} is not understood"),
        ("{{if .Routes}}a{{end if}}", "{{end if}} is not understood"),
        ("{{if .Routes}}a{{else something}}b{{end}}", "not understood"),
        ("{{break}}", "not understood"),
        ("{{end}}", "line 1: {{end}} without an if or range"),
        ("a\n{{else}}", "line 2: {{else}} without an if or range"),
        ("a\n{{if .Routes}}\n", "line 2: if without its end"),
        ("{{range .Routes}}{{if .}}{{end}}", "line 1: range without its end"),
        ("{{if .Routes}}a{{else if .Routes}}b{{else}}c", "without its end"),
        ("a {{ .PodCIDR", "line 1: an action without its }}"),
        ("\n{{/* never ends }}", "line 2: a comment without its */"),
        ("{{/* a */ }}", "line 1: a comment that does not end its action"),
        ("{{/* a */", "a comment that does not end its action"),
        ("{{/* a */ .PodCIDR}}", "a comment that does not end its action"),
        ("{{ /* a */}}", "not understood"),
        ("{{$x}}", "line 1: variable $x is not defined"),
        ("{{range $x := .Routes}}{{end}}{{$x}}", "variable $x is not defined"),
        ("\n{{.Podcidr}}", "line 2: there is no field Podcidr, only PodCIDR, PodCIDRRanges, Routes"),
        ("{{range .PodCIDR}}{{end}}", "range over .PodCIDR, which is not a list"),
        ("{{range $i, $x := .Routes}}{{range $i}}{{end}}{{end}}", "range over $i"),
        ("{{range .Routes}}{{.PodCIDR}}{{end}}", "within a range use $.PodCIDR"),
        ("{{.}}", "line 1: . outside of a range"),
    ],
)
def test_whatever_else_is_met_is_refused_with_its_line(template: str, words: str) -> None:
    with pytest.raises(MalformedTemplate) as refused:
        render(template, FIELDS)
    assert words in str(refused.value)


def test_a_long_action_is_shown_by_its_beginning() -> None:
    with pytest.raises(MalformedTemplate) as refused:
        render("{{" + "x" * 5000 + "}}", FIELDS)
    assert len(str(refused.value)) < 200


def test_a_template_has_bounds_in_size_nesting_output_and_steps() -> None:
    with pytest.raises(MalformedTemplate, match="bytes"):
        render("é" * (TEMPLATE_BYTES // 2 + 1), FIELDS)
    deep = NESTING + 1
    with pytest.raises(MalformedTemplate, match="within each other"):
        render("{{if .Routes}}" * deep + "{{end}}" * deep, FIELDS)
    assert render("{{if .Routes}}" * NESTING + "{{end}}" * NESTING, FIELDS) == ""
    with pytest.raises(MalformedTemplate, match="characters"):
        render("{{.A}}" * 3, {"A": "a" * (OUTPUT_CHARACTERS // 2)})
    many = {"A": ["a"] * 10}
    with pytest.raises(MalformedTemplate, match="steps"):
        render("{{range $.A}}" * NESTING + "{{end}}" * NESTING, many)


def test_a_chain_of_many_else_ifs_is_bounded_too() -> None:
    with pytest.raises(MalformedTemplate, match="within each other"):
        render("{{if .E}}" + "{{else if .E}}" * 500 + "{{end}}", {"E": ""})


@given(st.text())
def test_text_without_braces_stays_as_it_is(text: str) -> None:
    text = text.replace("{{", "")
    if "{{" not in text:
        assert render(text, FIELDS) == text


PIECES = (
    *("{{", "}}", "{{- ", " -}}", "/*", "*/", "if ", "range ", "else", "end", "$i", ", ", "$x", " := ", "."),
    *(".Routes", ".PodCIDR", " ", "\n", "a", "{{end}}", "{{else}}", "{{if .Routes}}", "{{.PodCIDR}}"),
    *("{{range $i, $x := .Routes}}", "{{$i}}", "{{$x}}"),
)


@given(
    st.lists(
        st.sampled_from(PIECES),
        max_size=25,
    )
)
def test_any_pieces_make_a_text_or_are_refused(pieces: list[str]) -> None:
    try:
        assert isinstance(render("".join(pieces), FIELDS), str)
    except MalformedTemplate:
        pass


@given(st.lists(st.from_regex(r"[0-9a-f:./]{1,20}", fullmatch=True), max_size=5))
def test_the_usual_list_is_json_for_any_ranges(ranges: list[str]) -> None:
    template = '[{{range $i, $range := .R}}{{if $i}}, {{end}}[{"subnet": "{{$range}}"}]{{end}}]'
    assert json.loads(render(template, {"R": ranges})) == [[{"subnet": text}] for text in ranges]
