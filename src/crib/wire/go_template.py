"""The part of Go's text/template that templates of CNI configurations use (no I/O).

Text, comments, trim markers, `{{.}}`, `{{.Field}}`, `{{$.Field}}`, `{{$x}}`, `{{if}}` and `{{range}}` with
`{{else}}`, `{{else if}}` and `{{end}}`, and range's variables (`{{range $i, $x := .List}}`). A value is a
text or a list of texts. Whatever else is met is refused with its line. Source: text/template's documentation.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

TEMPLATE_BYTES = 1 << 16
OUTPUT_CHARACTERS = 1 << 20
NESTING = 16
STEPS = 100_000

_SPACE = " \t\r\n"
_NAME = r"[^\W\d]\w*"
_OPERAND = re.compile(rf"\.|\.({_NAME})|\$\.({_NAME})|\$({_NAME})")
_RANGE = re.compile(rf"(?:\$({_NAME})\s*(?:,\s*\$({_NAME})\s*)?:=\s*)?(\S+)")

_SHOWN = 60

_Scalar: TypeAlias = str | int
_Value: TypeAlias = str | int | Sequence[str]
_Dot: TypeAlias = str | Mapping[str, str | Sequence[str]]


class MalformedTemplate(ValueError):
    """The template is not of the part that is understood, or does not fit its fields; names the line."""


@dataclass(frozen=True, slots=True)
class _Token:
    """Text as it stands, or what is between the braces of an action."""

    line: int
    text: str
    is_action: bool = False


@dataclass(frozen=True, slots=True)
class _Operand:
    line: int
    text: str


@dataclass(slots=True)
class _If:
    condition: _Operand
    then: list[_Node] = field(default_factory=list)
    otherwise: list[_Node] = field(default_factory=list)


@dataclass(slots=True)
class _Range:
    over: _Operand
    index: str
    item: str
    then: list[_Node] = field(default_factory=list)
    otherwise: list[_Node] = field(default_factory=list)


_Node: TypeAlias = str | _Operand | _If | _Range


def render(text: str, fields: Mapping[str, str | Sequence[str]]) -> str:
    """The template with its fields filled in. Raises MalformedTemplate."""
    if len(text.encode("utf-8", "surrogatepass")) > TEMPLATE_BYTES:
        raise MalformedTemplate(f"the template has more than {TEMPLATE_BYTES} bytes")
    nodes = _Parser(list(_tokens(text))).parse()
    renderer = _Renderer(fields)
    renderer.run(nodes, fields, {})
    return "".join(renderer.parts)


def _tokens(text: str) -> Iterator[_Token]:
    position, trim = 0, False
    while True:
        start = text.find("{{", position)
        line = text.count("\n", 0, position) + 1
        chunk = text[position:] if start < 0 else text[position:start]
        if trim:
            chunk = chunk.lstrip(_SPACE)
        if start < 0:
            yield _Token(line, chunk)
            return
        line = text.count("\n", 0, start) + 1
        inside = start + 2
        if text[inside : inside + 1] == "-" and text[inside + 1 : inside + 2] in set(_SPACE):
            chunk = chunk.rstrip(_SPACE)
            inside += 2
        yield _Token(line, chunk)
        is_comment = text.startswith("/*", inside)
        body, position = _comment(text, inside, line) if is_comment else _action(text, inside, line)
        trim = len(body) > 1 and body[-1] == "-" and body[-2] in _SPACE
        if not is_comment:
            yield _Token(line, (body[:-1] if trim else body).strip(_SPACE), is_action=True)


def _action(text: str, inside: int, line: int) -> tuple[str, int]:
    end = text.find("}}", inside)
    if end < 0:
        raise MalformedTemplate(f"line {line}: an action without its }}}}")
    return text[inside:end], end + 2


def _comment(text: str, inside: int, line: int) -> tuple[str, int]:
    """What is left of the braces behind the comment: nothing, or a trim marker."""
    end = text.find("*/", inside + 2)
    if end < 0:
        raise MalformedTemplate(f"line {line}: a comment without its */")
    closing = text.find("}}", end + 2)
    rest = text[end + 2 : closing] if closing >= 0 else "?"
    if rest and not (len(rest) == 2 and rest[0] in _SPACE and rest[1] == "-"):
        raise MalformedTemplate(f"line {line}: a comment that does not end its action")
    return rest, closing + 2


class _Parser:
    def __init__(self, tokens: list[_Token]) -> None:
        self._tokens = tokens
        self._next = 0
        self._variables: list[str] = []
        self._depth = 0

    def parse(self) -> list[_Node]:
        nodes, ending = self._nodes()
        if ending is not None:
            raise MalformedTemplate(
                f"line {ending.line}: {{{{{ending.text}}}}} without an if or range before it"
            )
        return nodes

    def _nodes(self) -> tuple[list[_Node], _Token | None]:
        """What comes before the next end or else, and that; None at the end of the template."""
        nodes: list[_Node] = []
        while self._next < len(self._tokens):
            token = self._tokens[self._next]
            self._next += 1
            if not token.is_action:
                nodes.append(token.text)
                continue
            word, rest = _words(token.text)
            if word in {"end", "else"}:
                return nodes, token
            if word in {"if", "range"}:
                nodes.append(self._block(token, word, rest))
            else:
                nodes.append(self._operand(token, token.text))
        return nodes, None

    def _block(self, opening: _Token, word: str, rest: str) -> _Node:
        self._depth += 1
        if self._depth > NESTING:
            raise MalformedTemplate(f"line {opening.line}: more than {NESTING} blocks within each other")
        block: _If | _Range
        if word == "if":
            block = _If(self._operand(opening, rest))
            block.then, ending = self._nodes()
        else:
            block, declared = self._range(opening, rest)
            self._variables += declared
            block.then, ending = self._nodes()
            del self._variables[len(self._variables) - len(declared) :]
        if ending is not None and ending.text != "end":
            ending = self._otherwise(block, ending)
        if ending is None:
            raise MalformedTemplate(f"line {opening.line}: {word} without its end")
        if ending.text != "end":
            raise _not_understood(ending)
        self._depth -= 1
        return block

    def _otherwise(self, block: _If | _Range, ending: _Token) -> _Token | None:
        """The block's else; the token that ends the block."""
        rest = ending.text.removeprefix("else").strip(_SPACE)
        if not rest:
            block.otherwise, last = self._nodes()
            return last
        word, condition = _words(rest)
        if word != "if" or isinstance(block, _Range):
            raise _not_understood(ending)
        block.otherwise = [self._block(ending, "if", condition)]
        return _Token(ending.line, "end", is_action=True)  # one end closes the whole chain

    def _range(self, token: _Token, rest: str) -> tuple[_Range, list[str]]:
        match = _RANGE.fullmatch(rest)
        if match is None:
            raise _not_understood(token)
        first, second, over = match.groups()
        index, item = (first, second) if second else ("", first or "")
        block = _Range(self._operand(token, over), index, item)
        return block, [name for name in (index, item) if name]

    def _operand(self, token: _Token, text: str) -> _Operand:
        match = _OPERAND.fullmatch(text)
        if match is None:
            raise _not_understood(token)
        if match[3] and match[3] not in self._variables:
            raise MalformedTemplate(f"line {token.line}: variable ${match[3]} is not defined")
        return _Operand(token.line, text)


class _Renderer:
    def __init__(self, fields: Mapping[str, str | Sequence[str]]) -> None:
        self.parts: list[str] = []
        self._fields = fields
        self._length = 0
        self._steps = 0

    def run(self, nodes: list[_Node], dot: _Dot, variables: Mapping[str, _Scalar]) -> None:
        for node in nodes:
            self._steps += 1
            if self._steps > STEPS:
                raise MalformedTemplate(f"the template takes more than {STEPS} steps")
            if isinstance(node, str):
                self._write(node)
            elif isinstance(node, _Operand):
                value = self._value(node, dot, variables)
                self._write(str(value) if isinstance(value, str | int) else f"[{' '.join(value)}]")
            elif isinstance(node, _If):
                chosen = node.then if self._value(node.condition, dot, variables) else node.otherwise
                self.run(chosen, dot, variables)
            else:
                self._run_range(node, dot, variables)

    def _run_range(self, node: _Range, dot: _Dot, variables: Mapping[str, _Scalar]) -> None:
        over = self._value(node.over, dot, variables)
        if isinstance(over, str | int):
            raise MalformedTemplate(
                f"line {node.over.line}: range over {node.over.text}, which is not a list"
            )
        if not over:
            self.run(node.otherwise, dot, variables)
        for index, item in enumerate(over):
            inner = {**variables, node.index: index, node.item: item}
            self.run(node.then, item, inner)

    def _value(self, operand: _Operand, dot: _Dot, variables: Mapping[str, _Scalar]) -> _Value:
        text = operand.text
        if text.startswith("$") and not text.startswith("$."):
            return variables[text[1:]]
        if text == ".":
            if isinstance(dot, str):
                return dot
            raise MalformedTemplate(f"line {operand.line}: . outside of a range is not a value")
        source = self._fields if text.startswith("$") else dot
        name = text.rpartition(".")[2]
        if isinstance(source, str):
            raise MalformedTemplate(f"line {operand.line}: {text} of a text (within a range use $.{name})")
        if name not in source:
            raise MalformedTemplate(
                f"line {operand.line}: there is no field {name}, only {', '.join(source)}"
            )
        return source[name]

    def _write(self, text: str) -> None:
        self._length += len(text)
        if self._length > OUTPUT_CHARACTERS:
            raise MalformedTemplate(f"the output has more than {OUTPUT_CHARACTERS} characters")
        self.parts.append(text)


def _words(text: str) -> tuple[str, str]:
    """The first word of an action and what follows it."""
    word = re.match(r"\w*", text)
    length = word.end() if word else 0
    return text[:length], text[length:].strip(_SPACE)


def _not_understood(token: _Token) -> MalformedTemplate:
    shown = token.text if len(token.text) <= _SHOWN else f"{token.text[:_SHOWN]}…"
    return MalformedTemplate(f"line {token.line}: {{{{{shown}}}}} is not understood")
