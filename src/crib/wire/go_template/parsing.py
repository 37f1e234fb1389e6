"""From the text of a template to its nodes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeAlias

from crib.wire.go_template.actions import Kind, MalformedTemplate, Piece, Word, pieces, unquoted, words
from crib.wire.go_template.values import FUNCTIONS, Value

NESTING = 16
"""Blocks, or parentheses, within each other."""
_CONSTANTS: dict[str, Value] = {"true": True, "false": False, "nil": None}


@dataclass(frozen=True, slots=True)
class Literal:
    """A value that the template has itself."""

    value: Value


@dataclass(frozen=True, slots=True)
class Lookup:
    """`.a.b`, `$.a`, `$x.a` or `(…).a`: where it begins, and the fields below."""

    base: str | Pipeline
    """Empty: dot. `$` and a name: a variable."""
    fields: tuple[str, ...]

    def __str__(self) -> str:
        base = self.base if isinstance(self.base, str) else "(…)"
        return base + "".join(f".{name}" for name in self.fields) or "."


@dataclass(frozen=True, slots=True)
class Call:
    """A function with its arguments; that of the pipeline before it comes last."""

    name: str
    arguments: tuple[Operand, ...]


Operand: TypeAlias = Literal | Lookup


@dataclass(frozen=True, slots=True)
class Pipeline:
    """Commands, each with the value of the one before, and the variables that take the last value."""

    piece: Piece
    commands: tuple[Operand | Call, ...]
    variables: tuple[str, ...] = ()
    declares: bool = True


@dataclass(slots=True)
class Block:
    """`if`, `with` or `range`."""

    word: str
    pipeline: Pipeline
    then: list[Node] = field(default_factory=list)
    otherwise: list[Node] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Leave:
    """`break` or `continue`."""

    word: str


Node: TypeAlias = str | Pipeline | Block | Leave


class Parser:
    """One template."""

    def __init__(self, text: str) -> None:
        self._pieces = list(pieces(text))
        self._next = 0
        self._variables: list[str] = []
        self._depth = 0
        self._ranges = 0

    def parse(self) -> list[Node]:
        """Its nodes. MalformedTemplate."""
        nodes, ending = self._nodes()
        if ending is not None:
            raise MalformedTemplate(
                f"line {ending.line}: {{{{{ending.text}}}}} without an if or range before it"
            )
        return nodes

    def _nodes(self) -> tuple[list[Node], Piece | None]:
        """What comes before the next end or else, and that; None at the end of the template."""
        nodes: list[Node] = []
        while self._next < len(self._pieces):
            piece = self._pieces[self._next]
            self._next += 1
            if not piece.is_action:
                nodes.append(piece.text)
                continue
            found = words(piece)
            first = found[0].text if found and found[0].kind is Kind.NAME else ""
            if first in {"end", "else"}:
                return nodes, piece
            if first in {"if", "with", "range"}:
                nodes.append(self._block(piece, found))
            elif first in {"break", "continue"}:
                if len(found) > 1 or not self._ranges:
                    raise piece.not_understood()
                nodes.append(Leave(first))
            else:
                nodes.append(self._pipeline(piece, found))
        return nodes, None

    @contextmanager
    def _deeper(self, piece: Piece) -> Iterator[None]:
        self._depth += 1
        if self._depth > NESTING:
            raise MalformedTemplate(f"line {piece.line}: more than {NESTING} blocks within each other")
        yield
        self._depth -= 1

    def _block(self, opening: Piece, found: list[Word]) -> Block:
        word, known = found[0].text, len(self._variables)
        with self._deeper(opening):
            block = Block(word, self._pipeline(opening, found[1:], in_range=word == "range"))
            self._ranges += word == "range"
            block.then, ending = self._nodes()
            self._ranges -= word == "range"
            if ending is not None and ending.text != "end":
                block.otherwise, ending = self._otherwise(block, ending)
            if ending is None:
                raise MalformedTemplate(f"line {opening.line}: {word} without its end")
            if ending.text != "end":
                raise ending.not_understood()
        del self._variables[known:]
        return block

    def _otherwise(self, block: Block, ending: Piece) -> tuple[list[Node], Piece | None]:
        """The block's else, and what ends the block."""
        found = words(ending)[1:]
        if not found:
            return self._nodes()
        if block.word == "range" or found[0].text != block.word:
            raise ending.not_understood()
        inner = self._block(ending, found)  # one end closes the whole chain
        return [inner], Piece(ending.line, "end", is_action=True)

    def _pipeline(self, piece: Piece, found: list[Word], *, in_range: bool = False) -> Pipeline:
        variables, declares, rest = _declared(found, in_range=in_range)
        commands, after = self._commands(piece, rest)
        if after:
            raise piece.not_understood(f"unexpected {after[0].text!r}")
        for name in variables:
            if declares:
                self._variables.append(name)
            else:
                self._check_variable(piece, name)
        return Pipeline(piece, commands, variables, declares)

    def _commands(self, piece: Piece, found: list[Word]) -> tuple[tuple[Operand | Call, ...], list[Word]]:
        """Commands up to the end or a closing parenthesis, and what follows."""
        commands: list[Operand | Call] = []
        while True:
            command, found = self._command(piece, found)
            if commands and not isinstance(command, Call):
                raise piece.not_understood("what comes after | must be a function")
            commands.append(command)
            if not found or found[0].text != "|":
                return tuple(commands), found
            found = found[1:]

    def _command(self, piece: Piece, found: list[Word]) -> tuple[Operand | Call, list[Word]]:
        if found and found[0].kind is Kind.NAME and found[0].text not in _CONSTANTS:
            name, found = found[0].text, found[1:]
            if name not in FUNCTIONS:
                raise piece.not_understood(f"there is no function {name}")
            arguments: list[Operand] = []
            while found and found[0].text not in {"|", ")"}:
                argument, found = self._operand(piece, found)
                arguments.append(argument)
            return Call(name, tuple(arguments)), found
        operand, found = self._operand(piece, found)
        if found and found[0].text not in {"|", ")"}:
            raise piece.not_understood(f"unexpected {found[0].text!r}")
        return operand, found

    def _operand(self, piece: Piece, found: list[Word]) -> tuple[Operand, list[Word]]:
        if not found:
            raise piece.not_understood("a value is missing")
        first, rest = found[0], found[1:]
        if first.kind in {Kind.DOT, Kind.FIELD}:
            base: str | Pipeline = ""
            rest = found if first.kind is Kind.FIELD else rest
        elif first.kind is Kind.VARIABLE:
            self._check_variable(piece, first.text)
            base = first.text
        elif first.text == "(" and first.kind is Kind.SIGN:
            with self._deeper(piece):
                commands, rest = self._commands(piece, rest)
            if not rest or rest[0].text != ")":
                raise piece.not_understood("a parenthesis is not closed")
            base, rest = Pipeline(piece, commands), rest[1:]
        else:
            return Literal(_constant(piece, first)), rest
        fields: list[str] = []
        while (
            rest
            and first.kind is not Kind.DOT
            and rest[0].kind is Kind.FIELD
            and (rest[0].is_close or rest is found)
        ):
            fields.append(rest[0].text[1:])
            rest = rest[1:]
        return Lookup(base, tuple(fields)), rest

    def _check_variable(self, piece: Piece, name: str) -> None:
        if name != "$" and name not in self._variables:
            raise MalformedTemplate(f"line {piece.line}: variable {name} is not defined")


def _declared(found: list[Word], *, in_range: bool) -> tuple[tuple[str, ...], bool, list[Word]]:
    """The variables before := or =, whether they are new, and the rest."""
    texts = [word.text for word in found[:4]]
    names = [
        word.text if word.kind is Kind.VARIABLE and len(word.text) > 1 else "" for word in (found + found)[:3]
    ]
    if len(found) > 1 and names[0] and texts[1] in {":=", "="}:
        return (names[0],), texts[1] == ":=", found[2:]
    if in_range and len(found) > 3 and names[0] and names[2] and texts[1] == "," and texts[3] in {":=", "="}:
        return (names[0], names[2]), texts[3] == ":=", found[4:]
    return (), True, found


def _constant(piece: Piece, word: Word) -> Value:
    try:
        if word.kind is Kind.TEXT:
            return unquoted(word.text)
        if word.kind is Kind.CHAR:
            return ord(unquoted(word.text))
        if word.kind is Kind.NUMBER:
            is_whole = word.text.lstrip("+-").isdigit() or "x" in word.text.lower()
            return int(word.text, 0 if "x" in word.text.lower() else 10) if is_whole else float(word.text)
    except (ValueError, TypeError) as error:
        raise piece.not_understood(str(error)) from None
    if word.kind is Kind.NAME and word.text in _CONSTANTS:
        return _CONSTANTS[word.text]
    raise piece.not_understood(f"unexpected {word.text!r}")
