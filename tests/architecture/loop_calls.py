"""What may block the event loop, found in the source: a call graph by names, from all that runs on the loop.

On the loop runs every `async def`, and every function that is called or handed on by what runs there, unless
it is handed to threads (`Threads.run`, a thread of its own, or a function that hands its parameter to those).
A name is followed through imports, methods of `self`, annotations and what constructors assign. Where the
type of an object is not known, a call means every method of that name, unless builtin types have one too.
"""

from __future__ import annotations

import ast
import asyncio
import collections
import logging
import pathlib
import re
import socket
import sqlite3
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path

FILE_CALLS = """
    open stat lstat fstat access listdir scandir walk fwalk read pread readv preadv write pwrite writev
    pwritev mkdir makedirs rmdir removedirs remove unlink rename renames replace link symlink readlink chmod
    chown lchown fchmod fchown utime truncate ftruncate fsync fdatasync sync statvfs fstatvfs getxattr
    setxattr listxattr removexattr mkfifo mknod sendfile copy_file_range posix_fadvise posix_fallocate chdir
    fchdir system popen waitpid wait wait3 wait4 waitid
"""
PATH_CALLS = "exists lexists isfile isdir islink ismount getsize getmtime getctime realpath samefile"
KERNEL_CALLS = """
    mount umount2 open_tree move_mount fsconfig_create fsmount mount_setattr openat2 syncfs start_writeback
    inotify_add_watch
"""
OTHER_CALLS = """
    open io.open time.sleep socket.getaddrinfo socket.gethostbyname socket.create_connection pwd.getpwnam
    pwd.getpwuid pwd.getpwall grp.getgrnam grp.getgrgid grp.getgrall
"""
PRIMITIVES = frozenset(
    (
        *(f"os.{name}" for name in FILE_CALLS.split()),
        *(f"os.path.{name}" for name in PATH_CALLS.split()),
        *(f"crib.host.libc.{name}" for name in KERNEL_CALLS.split()),
        *OTHER_CALLS.split(),
    )
)
"""Functions that wait for a file system, a process, a name or the clock."""
MODULES = ("shutil.", "subprocess.", "tempfile.", "glob.", "ctypes.CDLL")
"""Beginnings of such functions' names."""
WAITING_METHODS = """
    read_text write_text read_bytes write_bytes iterdir rglob is_dir is_file is_symlink touch symlink_to
    hardlink_to execute executemany executescript commit rollback backup
"""
METHODS = frozenset(WAITING_METHODS.split())
"""Methods that wait, of whatever object that is none of ours: paths, directory entries, databases."""
RUNNERS = frozenset(("on_own_thread", "_in_thread"))
"""Functions whose arguments run on threads, besides the `run` of Threads and threading.Thread."""
POOL = frozenset(("asyncio.to_thread", "to_thread", "run_in_executor"))
"""Ways to asyncio's own threads, which have no limit, and which the end of the loop waits for."""
CLASSES_OF_THREADS = re.compile(r"OURS|FOREIGN|PROGRAMS|RECORDS|_?threads?|_?[A-Z_]*THREADS")
KINDS = (
    *(str, bytes, bytearray, list, dict, set, tuple, int, memoryview, collections.deque, collections.Counter),
    *(socket.socket, pathlib.Path, re.Pattern, re.Match, logging.Logger, sqlite3.Connection, sqlite3.Cursor),
    *(asyncio.Future, asyncio.Task, asyncio.Event, asyncio.Lock, asyncio.Queue, asyncio.AbstractEventLoop),
    *(asyncio.Transport, asyncio.Protocol, asyncio.StreamReader, asyncio.StreamWriter),
)
BUILTIN = frozenset(name for kind in KINDS for name in dir(kind))
"""Names that a method of an unknown object may have without being ours."""

AnyFunction = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass
class Function:
    """One function of the source, and what it calls."""

    name: str
    node: AnyFunction
    module: Module
    owner: Class | None
    outer: Function | None
    inner: dict[str, Function] = field(default_factory=dict)
    calls: dict[str, int] = field(default_factory=dict)
    """Functions that it calls or hands on, each with a line."""
    blocks: dict[str, int] = field(default_factory=dict)
    """What it calls that blocks, each with a line."""
    threaded: frozenset[str] = frozenset()
    """Its parameters that it runs on threads only."""

    @property
    def is_async(self) -> bool:
        return isinstance(self.node, ast.AsyncFunctionDef)

    @property
    def parameters(self) -> list[ast.arg]:
        arguments = self.node.args
        return [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]


@dataclass
class Class:
    name: str
    node: ast.ClassDef
    module: Module
    methods: dict[str, Function] = field(default_factory=dict)
    attributes: dict[str, ast.expr] = field(default_factory=dict)
    """Annotation, or the value that a constructor gives."""

    @property
    def is_protocol(self) -> bool:
        return any("Protocol" in ast.unparse(base) for base in self.node.bases)


@dataclass
class Module:
    name: str
    imports: dict[str, str] = field(default_factory=dict)
    functions: dict[str, Function] = field(default_factory=dict)
    classes: dict[str, Class] = field(default_factory=dict)


@dataclass(frozen=True)
class Finding:
    """A function on the loop that blocks, why, and how the loop comes to it."""

    function: str
    call: str
    line: int
    way: tuple[str, ...]

    def __str__(self) -> str:
        return f"{' → '.join(self.way)}: {self.call} (line {self.line})"


class Source:
    """All functions below a package's directory, but for the rooms in `without`."""

    def __init__(self, root: Path, package: str, without: Collection[str] = ()) -> None:
        self.modules: dict[str, Module] = {}
        self.functions: dict[str, Function] = {}
        self.classes: dict[str, Class] = {}
        self.ground = f"{package}.host."
        for path in sorted(root.rglob("*.py")):
            dotted = ".".join((package, *path.relative_to(root).with_suffix("").parts)).removesuffix(
                ".__init__"
            )
            if not any(f"{dotted}.".startswith(f"{package}.{room}.") for room in without):
                self._add_module(dotted, ast.parse(path.read_text()))
        self._implementers: dict[str, list[Class]] = {}
        self._by_method: dict[str, list[Function]] = {}
        for kind in self.classes.values():
            if not kind.is_protocol:
                for name, method in kind.methods.items():
                    self._by_method.setdefault(name, []).append(method)
        self._link()

    def findings(self, cut: Collection[str] = ()) -> list[Finding]:
        """All that blocks on the loop; what only functions in `cut` lead to is not looked at."""
        blocking = self._blocking_ground()
        ways: dict[str, tuple[str, ...]] = {}
        waiting: collections.deque[tuple[str, tuple[str, ...]]] = collections.deque(
            (name, (name,)) for name, one in self.functions.items() if one.is_async and name not in cut
        )
        while waiting:
            name, way = waiting.popleft()
            if name in ways:
                continue
            ways[name] = way
            for callee in self.functions[name].calls:
                # What the ground does for others is their doing; what it does by itself is its own.
                below = callee.startswith(self.ground) and not name.startswith(self.ground)
                if callee not in ways and callee not in cut and not (below and callee in blocking):
                    waiting.append((callee, (*way, callee)))
        found = []
        for name, way in ways.items():
            one = self.functions[name]
            calls = dict(one.blocks)
            if not name.startswith(self.ground):
                calls |= {callee: line for callee, line in one.calls.items() if callee in blocking}
            found += [Finding(name, call, line, way) for call, line in calls.items()]
        return found

    def _blocking_ground(self) -> set[str]:
        """Functions of the ground that block, or call one that does."""
        ground = {name: one for name, one in self.functions.items() if name.startswith(self.ground)}
        blocking = {name for name, one in ground.items() if one.blocks and not one.is_async}
        while True:
            more = {
                name
                for name, one in ground.items()
                if name not in blocking and not one.is_async and not blocking.isdisjoint(one.calls)
            }
            if not more:
                return blocking
            blocking |= more

    def _add_module(self, dotted: str, tree: ast.Module) -> None:
        module = self.modules[dotted] = Module(dotted)
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    module.imports[alias.asname or alias.name.partition(".")[0]] = (
                        alias.name if alias.asname else alias.name.partition(".")[0]
                    )
            elif isinstance(node, ast.ImportFrom) and node.module:
                for alias in node.names:
                    module.imports[alias.asname or alias.name] = f"{node.module}.{alias.name}"
        for statement in tree.body:
            if isinstance(statement, AnyFunction):
                one = self._add_function(statement, module, None, None)
                module.functions[statement.name] = one
            elif isinstance(statement, ast.ClassDef):
                self._add_class(statement, module)

    def _add_class(self, node: ast.ClassDef, module: Module) -> None:
        kind = Class(f"{module.name}.{node.name}", node, module)
        module.classes[node.name] = self.classes[kind.name] = kind
        for statement in node.body:
            if isinstance(statement, AnyFunction):
                kind.methods[statement.name] = self._add_function(statement, module, kind, None)
            elif isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
                kind.attributes[statement.target.id] = statement.annotation
        for method in kind.methods.values():
            for node_inside in ast.walk(method.node):
                self._note_attribute(kind, method, node_inside)

    @staticmethod
    def _note_attribute(kind: Class, method: Function, node: ast.AST) -> None:
        targets: list[ast.expr]
        if isinstance(node, ast.AnnAssign):
            targets, value = [node.target], node.annotation
        elif isinstance(node, ast.Assign):
            targets, value = node.targets, node.value
        else:
            return
        annotations = {one.arg: one.annotation for one in method.parameters if one.annotation is not None}
        for target in targets:
            if isinstance(target, ast.Attribute) and _last_name(target.value) == "self":
                if isinstance(value, ast.Name) and value.id in annotations:
                    value = annotations[value.id]
                kind.attributes.setdefault(target.attr, value)

    def _add_function(
        self,
        node: AnyFunction,
        module: Module,
        owner: Class | None,
        outer: Function | None,
    ) -> Function:
        within = outer.name if outer else owner.name if owner else module.name
        one = Function(f"{within}.{node.name}", node, module, owner, outer)
        self.functions[one.name] = one
        for inner in _own_functions(node):
            one.inner[inner.name] = self._add_function(inner, module, owner, one)
        return one

    def _link(self) -> None:
        """Walk again through whoever calls a function of which more parameters go to threads only."""
        stale = list(self.functions.values())
        while stale:
            before = [one.threaded for one in stale]
            for one in stale:
                Walk(self, one).go()
            changed = {one.name for one, was in zip(stale, before, strict=True) if one.threaded != was}
            stale = [one for one in self.functions.values() if not changed.isdisjoint(one.calls)]

    def methods_called(self, name: str) -> list[Function]:
        """What a call of a method means when nothing is known of the object."""
        return [] if name in BUILTIN or name.startswith("__") else self._by_method.get(name, [])

    def method(self, kind: Class, name: str) -> list[Function]:
        """The method of a class or of what it inherits from; of a protocol that of whoever has one."""
        if kind.is_protocol:
            return [one.methods[name] for one in self._like(kind)] if name in kind.methods else []
        if name in kind.methods:
            return [kind.methods[name]]
        bases = (self.resolve_class(base, kind.module) for base in kind.node.bases)
        return next((found for base in bases if base and (found := self.method(base, name))), [])

    def _like(self, protocol: Class) -> list[Class]:
        """The classes that have all methods of a protocol."""
        if protocol.name not in self._implementers:
            self._implementers[protocol.name] = [
                one
                for one in self.classes.values()
                if not one.is_protocol
                and all(
                    name in one.methods and one.methods[name].is_async == method.is_async
                    for name, method in protocol.methods.items()
                )
            ]
        return self._implementers[protocol.name]

    def resolve_class(self, expression: ast.expr | None, module: Module) -> Class | None:
        """The class of ours that an annotation or a constructor's name means."""
        match expression:
            case ast.Name(id=name):
                return module.classes.get(name) or self.classes.get(module.imports.get(name, ""))
            case ast.Attribute(value=ast.Name(id=name), attr=attribute):
                return self.classes.get(f"{module.imports.get(name, '')}.{attribute}")
            case ast.BinOp(left=left, right=right):
                return self.resolve_class(left, module) or self.resolve_class(right, module)
            case ast.Constant(value=str(text)):
                return self.resolve_class(ast.parse(text, mode="eval").body, module)
            case ast.Subscript(value=value, slice=inner) if _last_name(value) in {
                "Final",
                "Optional",
                "type",
            }:
                return self.resolve_class(inner, module)
            case ast.Subscript(value=value):
                return self.resolve_class(value, module)
        return None


_HANDED_ON = ast.Lambda | ast.Name | ast.Attribute


class Walk:
    """Through the body of one function."""

    def __init__(self, source: Source, function: Function) -> None:
        self._source = source
        self._function = function
        self._module = function.module
        self._types: dict[str, Class | None] = {}
        self._used: set[str] = set()
        at: Function | None = function
        while at is not None:
            for one in at.parameters:
                self._types.setdefault(one.arg, source.resolve_class(one.annotation, self._module))
            at = at.outer
        if function.owner is not None:
            self._types["self"] = self._types["cls"] = function.owner

    def go(self) -> None:
        one = self._function
        one.calls, one.blocks = {}, {}
        for statement in one.node.body:
            self._visit(statement)
        callables = [
            each.arg
            for each in one.parameters
            if each.annotation and "Callable" in ast.unparse(each.annotation)
        ]
        one.threaded = frozenset(name for name in callables if name not in self._names_used())

    def _names_used(self) -> set[str]:
        """Names that are used on the loop, by the functions within too that are not for threads."""
        used = set(self._used)
        for inner in self._function.inner.values():
            if inner.name in self._function.calls:
                walk = Walk(self._source, inner)
                walk.go()
                used |= walk._names_used()
        return used

    def _visit(self, node: ast.AST) -> None:
        if isinstance(node, AnyFunction | ast.ClassDef):
            for decorator in node.decorator_list:
                self._visit(decorator)
            return  # its body counts where it is called or handed on
        if isinstance(node, ast.Call):
            self._call(node)
            return
        if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
            self._types[node.targets[0].id] = self._type(node.value)
        if isinstance(node, ast.withitem) and isinstance(node.optional_vars, ast.Name):
            self._types[node.optional_vars.id] = self._type(node.context_expr)
        if isinstance(node, ast.Name | ast.Attribute):
            self._mention(node)
        for child in ast.iter_child_nodes(node):
            self._visit(child)

    def _mention(self, node: ast.Name | ast.Attribute) -> None:
        """A function that is handed on may be called by whoever gets it."""
        if isinstance(node, ast.Name):
            self._used.add(node.id)
        if isinstance(node.ctx, ast.Load):
            for callee in self._ours(node, guess=False):
                self._function.calls.setdefault(callee.name, node.lineno)

    def _call(self, node: ast.Call) -> None:
        name = self._dotted(node.func)
        if name in PRIMITIVES or name.startswith(MODULES) or _last_name(node.func) in POOL:
            self._function.blocks.setdefault(name or _last_name(node.func), node.lineno)
        on_threads = self._is_runner(node.func, name)
        callees = [] if on_threads else self._ours(node.func, guess=True)
        if not callees and isinstance(node.func, ast.Attribute) and node.func.attr in METHODS:
            self._function.blocks.setdefault(f".{node.func.attr}", node.lineno)
        for callee in callees:
            self._function.calls.setdefault(callee.name, node.lineno)
        self._visit(node.func)
        for argument, parameter in self._arguments(node, callees):
            if not on_threads and parameter not in {each for one in callees for each in one.threaded}:
                self._visit(argument)
            elif not isinstance(argument, _HANDED_ON):
                self._visit_but_functions(argument)

    def _visit_but_functions(self, node: ast.expr) -> None:
        """An argument for threads is worked out here: what it calls counts, what it hands on does not."""
        if isinstance(node, ast.Call) and self._dotted(node.func).endswith("partial"):
            for argument in node.args[1:]:
                self._visit_but_functions(argument)
        elif isinstance(node, ast.Call):
            self._visit(node)
        else:
            for child in ast.iter_child_nodes(node):
                if isinstance(child, ast.expr) and not isinstance(
                    child, ast.Lambda | ast.Name | ast.Attribute
                ):
                    self._visit_but_functions(child)

    @staticmethod
    def _arguments(node: ast.Call, callees: list[Function]) -> Iterator[tuple[ast.expr, str]]:
        """Arguments with the names of the parameters that they are for, where these are known."""
        names = [one.arg for one in callees[0].parameters] if callees else []
        if names[:1] in (["self"], ["cls"]):
            names = names[1:]
        for number, argument in enumerate(node.args):
            yield argument, names[number] if number < len(names) else ""
        for keyword in node.keywords:
            yield keyword.value, keyword.arg or ""

    def _is_runner(self, function: ast.expr, name: str) -> bool:
        if name == "threading.Thread" or _last_name(function) in RUNNERS | POOL:
            return True
        if not isinstance(function, ast.Attribute) or function.attr != "run":
            return False
        return CLASSES_OF_THREADS.fullmatch(_last_name(function.value)) is not None

    def _dotted(self, node: ast.expr) -> str:
        """The full name of a function of another package; empty for what is none."""
        if isinstance(node, ast.Name):
            return self._module.imports.get(node.id, node.id)
        if isinstance(node, ast.Attribute):
            before = self._dotted(node.value) if isinstance(node.value, ast.Name | ast.Attribute) else ""
            return f"{before}.{node.attr}" if before else ""
        return ""

    def _ours(self, node: ast.expr, *, guess: bool) -> list[Function]:
        """The functions of ours that a name or attribute may mean."""
        if isinstance(node, ast.Name):
            at: Function | None = self._function
            while at is not None:
                if node.id in at.inner:
                    return [at.inner[node.id]]
                at = at.outer
            if node.id in self._module.functions:
                return [self._module.functions[node.id]]
            kind = self._module.classes.get(node.id)
            return self._of_path(self._module.imports.get(node.id, "")) if kind is None else self._made(kind)
        if not isinstance(node, ast.Attribute):
            return []
        if found := self._of_path(self._dotted(node)):
            return found
        if _is_super(node.value) and self._function.owner is not None:
            bases = (
                self._source.resolve_class(base, self._module) for base in self._function.owner.node.bases
            )
            return [one for base in bases if base for one in self._source.method(base, node.attr)]
        kind = self._type(node.value)
        if kind is not None:
            return self._source.method(kind, node.attr)
        return self._source.methods_called(node.attr) if guess and not self._is_foreign(node) else []

    def _is_foreign(self, node: ast.Attribute) -> bool:
        return self._dotted(node).partition(".")[0] in {
            name.partition(".")[0] for name in self._module.imports.values() if not name.startswith("crib")
        }

    def _of_path(self, path: str) -> list[Function]:
        if path in self._source.functions:
            return [self._source.functions[path]]
        return self._made(self._source.classes[path]) if path in self._source.classes else []

    def _made(self, kind: Class) -> list[Function]:
        return [
            *self._source.method(kind, "__init__"),
            *self._source.method(kind, "__post_init__"),
            *self._source.method(kind, "__enter__"),
        ]

    def _type(self, node: ast.expr) -> Class | None:
        """The class of ours that a value is of, if that can be told."""
        match node:
            case ast.Name(id=name):
                return self._types.get(name)
            case ast.Await(value=value):
                return self._type(value)
            case ast.Attribute(value=value, attr=attribute):
                kind = self._type(value)
                return None if kind is None else self._attribute(kind, attribute)
            case ast.Call(func=function):
                if (kind := self._source.resolve_class(function, self._module)) is not None:
                    return kind
                found = self._ours(function, guess=False)
                return self._source.resolve_class(found[0].node.returns, found[0].module) if found else None
            case ast.BoolOp(values=values):
                return next((kind for value in values if (kind := self._type(value))), None)
            case ast.IfExp(body=body, orelse=other):
                return self._type(body) or self._type(other)
        return None

    def _attribute(self, kind: Class, name: str) -> Class | None:
        if name in kind.methods:  # a property
            return self._source.resolve_class(kind.methods[name].node.returns, kind.module)
        value = kind.attributes.get(name)
        if value is None:
            bases = (self._source.resolve_class(base, kind.module) for base in kind.node.bases)
            return next((found for base in bases if base and (found := self._attribute(base, name))), None)
        if isinstance(value, ast.Call):
            return self._source.resolve_class(value.func, kind.module)
        return self._source.resolve_class(value, kind.module)


def _is_super(node: ast.expr) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "super"


def _last_name(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def _own_functions(node: ast.AST) -> Iterator[AnyFunction]:
    """Functions that are defined in a function's body, but not those within them."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, AnyFunction):
            yield child
        elif not isinstance(child, ast.Lambda | ast.ClassDef):
            yield from _own_functions(child)
