"""A template filled in from values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from crib.wire.go_template.actions import MalformedTemplate
from crib.wire.go_template.parsing import (
    Block,
    Call,
    Leave,
    Literal,
    Lookup,
    Node,
    Operand,
    Parser,
    Pipeline,
)
from crib.wire.go_template.values import (
    FUNCTIONS,
    OUTPUT_CHARACTERS,
    Value,
    WrongValue,
    is_true,
    kind_of,
    written,
)

STEPS = 100_000
"""Nodes and calls that a template may take."""


class Template:
    """A template, read once and filled in for any number of values."""

    def __init__(self, text: str, *, strict: bool = False) -> None:
        """`strict`: a field that is not there is an error, else it is nothing. MalformedTemplate."""
        self._nodes = Parser(text).parse()
        self._strict = strict

    def written(self, value: Value) -> str:
        """The text. MalformedTemplate where the template does not fit the value."""
        renderer = _Renderer(value, strict=self._strict)
        renderer.run(self._nodes, value)
        return "".join(renderer.parts)


def render(text: str, fields: Mapping[str, Value]) -> str:
    """The template with its fields filled in, all of which must be there. MalformedTemplate."""
    return Template(text, strict=True).written(fields)


class _Left(Exception):
    """A range is left, or goes on with its next value."""

    def __init__(self, word: str) -> None:
        super().__init__(word)
        self.word = word


class _Renderer:
    def __init__(self, root: Value, *, strict: bool) -> None:
        self.parts: list[str] = []
        self._strict = strict
        self._variables: list[tuple[str, Value]] = [("$", root)]
        self._length = 0
        self._steps = 0

    def run(self, nodes: list[Node], dot: Value) -> None:
        """Fill in the nodes of one block; its variables end with it."""
        known = len(self._variables)
        try:
            for node in nodes:
                self._step()
                if isinstance(node, str):
                    self._write(node)
                elif isinstance(node, Pipeline):
                    value = self._pipeline(node, dot)
                    if not node.variables:
                        self._write(written(value))
                elif isinstance(node, Leave):
                    raise _Left(node.word)
                else:
                    self._block(node, dot)
        finally:
            del self._variables[known:]

    def _step(self) -> None:
        self._steps += 1
        if self._steps > STEPS:
            raise MalformedTemplate(f"the template takes more than {STEPS} steps")

    def _block(self, block: Block, dot: Value) -> None:
        known = len(self._variables)
        if block.word == "range":
            self._range(block, dot)
        else:
            value = self._pipeline(block.pipeline, dot)
            inner = value if block.word == "with" and is_true(value) else dot
            self.run(block.then if is_true(value) else block.otherwise, inner)
        del self._variables[known:]

    def _range(self, block: Block, dot: Value) -> None:
        pipeline = block.pipeline
        over = self._pipeline(pipeline, dot, sets=False)
        pairs = self._pairs(over, pipeline)
        if not pairs:
            self.run(block.otherwise, dot)
        for key, item in pairs:
            known = len(self._variables)
            values = (item,) if len(pipeline.variables) == 1 else (key, item)
            for name, value in zip(pipeline.variables, values, strict=False):
                self._set(name, value, declares=pipeline.declares)
            try:
                self.run(block.then, item)
            except _Left as left:
                if left.word == "break":
                    break
            finally:
                del self._variables[known:]

    def _pairs(self, over: Value, pipeline: Pipeline) -> list[tuple[Value, Value]]:
        if isinstance(over, Mapping):
            return [(key, over[key]) for key in sorted(over)]
        if isinstance(over, Sequence) and not isinstance(over, str):
            return list(enumerate(over))
        if over is None:
            return []
        if isinstance(over, int) and not isinstance(over, bool) and not self._strict:
            return [(number, number) for number in range(min(over, STEPS))]
        shown = pipeline.commands[-1]
        name = shown if isinstance(shown, Lookup) else kind_of(over)
        raise MalformedTemplate(f"line {pipeline.piece.line}: range over {name}, which is not a list")

    def _pipeline(self, pipeline: Pipeline, dot: Value, *, sets: bool = True) -> Value:
        value: Value = None
        for place, command in enumerate(pipeline.commands):
            self._step()
            before = (Literal(value),) if place else ()
            try:
                if isinstance(command, Call):
                    value = self._call(command, (*command.arguments, *before), dot)
                else:
                    value = self._operand(command, dot)
            except WrongValue as error:
                raise MalformedTemplate(f"line {pipeline.piece.line}: {error}") from None
        for name in pipeline.variables if sets else ():
            self._set(name, value, declares=pipeline.declares)
        return value

    def _set(self, name: str, value: Value, *, declares: bool) -> None:
        if declares:
            self._variables.append((name, value))
            return
        place = max(at for at, (known, _) in enumerate(self._variables) if known == name)
        self._variables[place] = (name, value)

    def _call(self, call: Call, arguments: tuple[Operand, ...], dot: Value) -> Value:
        function = FUNCTIONS[call.name]
        if function is None:
            return self._decided(call.name, arguments, dot)
        values = [self._operand(argument, dot) for argument in arguments]
        try:
            found = function(*values)
        except TypeError:
            raise WrongValue(f"{call.name} does not take {len(values)} values") from None
        if isinstance(found, str) and len(found) > OUTPUT_CHARACTERS:
            raise WrongValue(f"{call.name} makes more than {OUTPUT_CHARACTERS} characters")
        return found

    def _decided(self, name: str, arguments: tuple[Operand, ...], dot: Value) -> Value:
        if not arguments:
            raise WrongValue(f"{name} needs a value")
        value: Value = None
        for argument in arguments:
            value = self._operand(argument, dot)
            if is_true(value) == (name == "or"):
                break
        return value

    def _operand(self, operand: Operand, dot: Value) -> Value:
        if isinstance(operand, Literal):
            return operand.value
        if isinstance(operand.base, Pipeline):
            value = self._pipeline(operand.base, dot)
        elif operand.base:
            value = next(found for name, found in reversed(self._variables) if name == operand.base)
        else:
            value = dot
        for name in operand.fields:
            value = self._field(value, name, operand)
        return value

    def _field(self, value: Value, name: str, operand: Lookup) -> Value:
        if isinstance(value, Mapping):
            if name not in value and self._strict:
                raise WrongValue(f"there is no field {name}, only {', '.join(value)}")
            return value.get(name)
        if not self._strict and value is None:
            return None
        if (
            not self._strict
            and name == "items"
            and isinstance(value, Sequence)
            and not isinstance(value, str)
        ):
            return value  # kubectl's lists are in a field; ours are lists
        hint = f" (within a range use $.{name})" if not operand.base else ""
        raise WrongValue(f"{operand} of {kind_of(value)}{hint}")

    def _write(self, text: str) -> None:
        self._length += len(text)
        if self._length > OUTPUT_CHARACTERS:
            raise MalformedTemplate(f"the output has more than {OUTPUT_CHARACTERS} characters")
        self.parts.append(text)
