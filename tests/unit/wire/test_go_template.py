"""Templates of CNI configurations and of results: what is filled in, what is refused and where."""

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
    Template,
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


PODS = {
    "items": [
        {"name": "web", "state": {"ready": True, "restarts": 3}, "labels": {"b": "2", "a": "1"}, "load": 0.5},
        {"name": "db", "state": {"ready": False, "restarts": 0}, "labels": {}, "secret": "aGVsbG8="},
    ]
}


@pytest.mark.parametrize(
    ("template", "output"),
    [
        ("{{len .items}}", "2"),
        ('{{range .items}}{{.name}}{{"\\n"}}{{end}}', "web\ndb\n"),
        ("{{range .items}}{{.name}}:{{.state.ready}} {{end}}", "web:true db:false "),
        ("{{(index .items 0).name}}", "web"),
        ("{{(index .items 0).labels.a}}", "1"),
        ('{{index .items 1 "name"}}', "db"),
        ('{{index (index .items 0).labels "b"}}', "2"),
        ("{{range $key, $value := (index .items 0).labels}}{{$key}}={{$value}},{{end}}", "a=1,b=2,"),
        ("{{(index .items 0).labels}}", "map[a:1 b:2]"),
        ("{{(index .items 0).state}} {{(index .items 0).load}}", "map[ready:true restarts:3] 0.5"),
        ("{{.nothing}} {{.nothing.at.all}}", "<no value> <no value>"),
        ("{{range .nothing}}a{{else}}none{{end}}", "none"),
        ("{{with .nothing}}a{{else}}b{{end}}", "b"),
        ("{{with .nothing}}a{{else with .items}}{{len .}}{{end}}", "2"),
        ("{{with index .items 0}}{{.name}} of {{len $.items}}{{end}}", "web of 2"),
        ("{{$n := 0}}{{range .items}}{{$n = .state.restarts}}{{break}}{{end}}{{$n}}", "3"),
        ('{{range .items}}{{if eq .name "web"}}{{continue}}{{end}}{{.name}}{{end}}', "db"),
        ("{{range $i := .items}}{{$i.name}} {{end}}", "web db "),
        ("{{range 3}}{{.}}{{end}}", "012"),
        ('{{if and (gt (len .items) 1) (not .nothing)}}yes{{end}}{{or .nothing "no"}}', "yesno"),
        ("{{and 1 0 (index .items 99)}} {{or 0 2 (index .items 99)}}", "0 2"),
        ('{{eq "a" "b" "a"}} {{ne 1 2}} {{lt 1 2}}', "true true true"),
        ("{{le 2 2}} {{gt 1 2}} {{ge 1.5 1}}", "true false true"),
        ('{{"a" | printf "%s-%s" "b"}}', "b-a"),
        ('{{printf "%-6s|%6s|%03d|%x|%q|%v|%t|%.2f|%%" "ab" "cd" 7 255 "e" .nothing true 1.5}}',
         'ab    |    cd|007|ff|"e"|<nil>|true|1.50|%'),
        ('{{printf "%s %s" "a"}}{{printf "a" 1}}', "a %!s(MISSING)a%!(EXTRA 1)"),
        ('{{print "a" 1 2 "b"}}{{println 1 "c"}}', "a1 2b1 c\n"),
        ("{{`a\\n`}}{{'a'}}{{0x10}}{{-3}}{{1e3}}", "a\\n9716-31000"),
        ('{{"}}"}}{{"\\u00e9\\t\\x41"}}', "}}\u00e9\tA"),
        ("{{base64decode (index .items 1).secret}}", "hello"),
        ('{{exists .items 0 "name"}} {{exists .items 7}}', "true false"),
        ('{{join (split "a,b" ",") "-"}} {{upper "x"}}{{lower "Y"}}', "a-b Xy"),
        ("{{json (index .items 0).labels}}", '{"b":"2","a":"1"}'),
        ('{{html "<a>"}} {{urlquery "a b"}} {{slice "hello" 1 3}}', "&lt;a&gt; a+b el"),
        ("{{nil}}{{true}}", "<no value>true"),
    ],
)  # fmt: skip
def test_values_as_json_has_them_are_walked_compared_and_printed_as_by_go(template: str, output: str) -> None:
    assert Template(template).written(PODS) == output  # type: ignore[arg-type]  # as it comes


def test_a_list_is_also_its_own_items_and_an_item_that_is_not_there_is_nothing() -> None:
    template = Template("{{range .items}}{{.name}};{{.age}} {{end}}{{range .}}{{.name}}{{end}}")
    assert template.written(PODS["items"]) == "web;<no value> db;<no value> webdb"  # type: ignore[arg-type]  # as it comes


@pytest.mark.parametrize(
    "template",
    [
        '{{$x := "0123456789"}}{{range 30}}{{$x = print $x $x}}{{end}}',
        '{{$x := "0123456789"}}{{range 30}}{{$x = printf "%s%s" $x $x}}{{end}}',
        '{{$x := split "0123456789" ""}}{{range 30}}{{$x = split (join $x "0123456789") ""}}{{end}}',
    ],
)
def test_no_text_on_the_way_grows_beyond_the_bound(template: str) -> None:
    with pytest.raises(MalformedTemplate, match="makes more than"):
        Template(template).written(None)


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{{}}", "not understood"),
        ('{{template "x"}}', "there is no function template"),
        (
            "\n\n{{ .PodCIDR | printer }}",
            "line 3: {{.PodCIDR | printer}} is not understood: there is no function",
        ),
        ("{{.PodCIDR | .Routes}}", "what comes after | must be a function"),
        ("{{len (.Routes}}", "a parenthesis is not closed"),
        ("{{len .Routes)}}", "unexpected ')'"),
        ('{{"\\q"}}', "an escape that is not known"),
        ('{{"\\U99999999"}}', "an escape that is no character"),
        ('{{"text}}', "unexpected"),
        ("{{..PodCIDR}}", "unexpected '.PodCIDR'"),
        ("{{.Pod.CIDR}}", "there is no field Pod, only"),
        ("{{.PodCIDR.A}}", "line 1: .PodCIDR.A of a text"),
        ("{{$x = .PodCIDR}}", "variable $x is not defined"),
        ("{{with $x := .PodCIDR}}{{end}}{{$x}}", "variable $x is not defined"),
        ("{{range $a, $b = .Routes}}{{end}}", "variable $a is not defined"),
        ("{{with .PodCIDR}}a{{else if .Routes}}b{{end}}", "not understood"),
        ("{{continue}}", "not understood"),
        ("{{len 3}}", "line 1: a number has no length"),
        ("{{len}}", "len does not take 0 values"),
        ("{{index .Routes 2}}", "index 2 is beyond the 2 of the list"),
        ("{{index .PodCIDR 0}}", "a text has no index '0'"),
        ("{{slice .PodCIDR 5 2}}", "5 to 2 is beyond"),
        ("{{lt 1 .PodCIDR}}", "a number and a text cannot be compared"),
        ("{{eq 1}}", "eq needs two values"),
        ("{{and}}", "and needs a value"),
        ('{{printf "%d" .PodCIDR}}', "%d does not write a text"),
        ('{{printf "%9999d" 1}}', "asks for more than 1000 characters"),
        ('{{base64decode "?"}}', "it is not base64"),
        ("{{range 3}}{{end}}", "range over a number, which is not a list"),
        ("{{- -}}", "not understood"),
        ("{{if}}a{{end}}", "not understood"),
        ("{{if .Routes .PodCIDR}}a{{end}}", "not understood"),
        ("{{range $a, $b, $c := .Routes}}{{end}}", "variable $a is not defined"),
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
    *(
        "{{range $i, $x := .Routes}}",
        "{{$i}}",
        "{{$x}}",
        "with ",
        "(",
        ")",
        "|",
        '"',
        "`",
        "index ",
        "0",
        "=",
    ),
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
