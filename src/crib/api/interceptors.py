"""What every call passes through: request id, readiness, log, error mapping.

A call that only reads memory and whose request is here is answered at once, without a task.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable

from google.protobuf.message import DecodeError

from crib.api.calls import Answer, Call, Parts, Read, Stream, Verb
from crib.api.changes import CHANGES, Changes
from crib.api.errors import shorten, status_of
from crib.api.open_calls import CallName, OpenCall
from crib.api.requests import Requests
from crib.model.errors import Broken, CribError
from crib.model.tallies import CallFigures
from crib.rpc.call import GrpcCall
from crib.rpc.codes import CallerGone, CallRefused, Code
from crib.rpc.server import Handler, Method
from crib.tasks.calls import CallUnderWay, enter
from crib.tasks.lanes import note_call, stand_back
from crib.tasks.spans import Tracer, enter_span, parse_parent

_log = logging.getLogger(__name__)

AGENT_LIMIT = 200
"""Characters of a caller's name for itself that count."""
_numbers = itertools.count(1)

ALWAYS = frozenset(("Version", "Check", "Watch"))
"""What is answered also while the gate is shut: Version, and questions after the daemon's health."""


class ReadinessGate:
    """Shut until recovery has finished after a start."""

    def __init__(self) -> None:
        self._reason = "crib is starting"
        self.is_shut = False
        """For good."""
        self.watchers: list[Callable[[], None]] = []
        """Called at each change."""

    @property
    def reason(self) -> str:
        return self._reason

    def open(self) -> None:
        self._change("")

    def shut(self, reason: str) -> None:
        """From now on answer every call with UNAVAILABLE and this text."""
        self.is_shut = True
        self._change(reason)

    def _change(self, reason: str) -> None:
        self._reason = reason
        for watcher in self.watchers:
            watcher()


class Door:
    """Turns calls into handlers for grpc."""

    def __init__(self, gate: ReadinessGate, changes: Changes) -> None:
        self.figures = CallFigures()
        self.tracer: Tracer | None = None
        """None: nothing is traced."""
        self._gate = gate
        self._changes = changes
        self._requests = Requests()

    def method(self, name: str, call: Call, service: str = "") -> Method:
        """`name` is the method's, e.g. `PullImage`, and `service` the one that has it, for traces."""
        called = CallName(service, name)
        always = name in ALWAYS
        if isinstance(call, Stream | Parts):
            return Method(self._stream(called, call, always=always))
        if isinstance(call, Read) and name not in CHANGES:
            return Method(
                self._unary(called, call, always=always), at_once=self._read(called, call, always=always)
            )
        return Method(self._unary(called, call, always=always))

    def _read(self, called: CallName, call: Read, *, always: bool) -> Callable[[GrpcCall, bytes], bytes]:
        gate, run, decode, parse = self._gate, call.run, call.decode, call.request.FromString
        figures = self.figures

        def answer(context: GrpcCall, request: bytes) -> bytes:
            if gate.reason and not always:
                figures.refused(called.method, _refuse(context, Code.UNAVAILABLE, gate.reason))
                return b""
            current = self._begin(called, context)
            opened = OpenCall(current, figures)
            try:
                encoded = _encoded(run(decode(parse(request))))
            except Exception as error:
                _fail(current, error, context)
                return b""
            else:
                _done(current)
                return encoded
            finally:
                opened.end()

        return answer

    def _unary(self, called: CallName, call: Read | Verb, *, always: bool) -> Handler:
        gate, take, decode, parse = self._gate, self._requests.take, call.decode, call.request.FromString
        changes, figures = self._changes if called.method in CHANGES else None, self.figures
        reading = call.run if isinstance(call, Read) else None
        verb = call.run if isinstance(call, Verb) else None

        async def handle(context: GrpcCall) -> bytes:
            if gate.reason and not always:
                figures.refused(called.method, _refuse(context, Code.UNAVAILABLE, gate.reason))
                return b""
            current, message, answer = self._begin(called, context), None, None
            opened = OpenCall(current, figures)
            try:
                message = parse(await take(context))
                if changes is not None:
                    await changes.begin(current, message, context)
                if reading is not None:
                    answer = reading(decode(message))
                else:
                    assert verb is not None
                    await stand_back()  # else all calls of a crowd are looked at before the next call begins
                    answer = await verb(decode(message))
                encoded = _encoded(answer)
            except (Exception, asyncio.CancelledError) as error:
                _fail(current, error, context)
                return b""
            else:
                _done(current)
                return encoded
            finally:
                opened.end()
                if changes is not None:
                    changes.end(current, message, answer)

        return handle

    def _stream(self, called: CallName, call: Stream | Parts, *, always: bool) -> Handler:
        gate, take, decode, parse = self._gate, self._requests.take, call.decode, call.request.FromString
        changes, figures = self._changes if called.method in CHANGES else None, self.figures

        async def handle(context: GrpcCall) -> None:
            if gate.reason and not always:
                figures.refused(called.method, _refuse(context, Code.UNAVAILABLE, gate.reason))
                return
            current, message = self._begin(called, context), None
            opened = OpenCall(current, figures, is_stream=True)
            try:
                message = parse(await take(context))
                has_begun = changes is not None and await changes.begin(current, message, context)
                value = decode(message)
                if isinstance(call, Parts):
                    for part in call.run(value):
                        await context.write(_encoded(part))
                else:
                    async for answer in call.run(value):
                        if answer is not None:
                            await context.write(_encoded(answer))
                        elif not has_begun:
                            await context.send_head()
            except (Exception, asyncio.CancelledError) as error:
                _fail(current, error, context)
            else:
                _done(current)
            finally:
                opened.end()
                if changes is not None:
                    changes.end(current, message)

        return handle

    def _begin(self, called: CallName, context: GrpcCall) -> CallUnderWay:
        """A call is taken up, and gets a request id."""
        call, parent = CallUnderWay(f"{next(_numbers):x}", called.method), None
        for key, value in context.metadata:
            if key == "user-agent":  # gRPC knows nothing more about the peer of a unix socket
                call.agent = value[:AGENT_LIMIT]
            elif key == "traceparent" and (parent := parse_parent(value)) is not None:
                call.trace = parent.trace
        if context.timer is not None:
            call.ends = context.timer.when()  # the loop's clock is the monotonic one
        if self.tracer is not None and (span := self.tracer.begin(called.title, parent)) is not None:
            call.trace, call.span = span.trace, span
            span.attributes |= {"rpc.system": "grpc", "rpc.service": called.service}
            enter_span(span)
        enter(call)
        note_call()
        _log.debug("%s", call.verb)
        return call


def _encoded(answer: Answer) -> bytes:
    return answer if isinstance(answer, bytes) else answer.SerializeToString()


def _done(call: CallUnderWay) -> None:
    call.code = Code.OK.name
    if _log.isEnabledFor(logging.DEBUG):
        _log.debug("%s done in %.3f ms", call.verb, call.milliseconds)


def _refuse(context: GrpcCall, code: Code, text: str) -> str:
    """Answer with a code; its name."""
    context.set_status(code, text)
    return code.name


def _fail(call: CallUnderWay, error: BaseException, context: GrpcCall) -> None:
    """Answer with the error's code and text. A cancellation by the caller is raised again."""
    task, name = asyncio.current_task(), call.verb
    if isinstance(error, CallerGone):
        _log.debug("%s: the caller has gone", name)  # while it was written to
        raise error
    if isinstance(error, asyncio.CancelledError):
        if task is None or task.cancelling():
            _log.debug("%s: the caller has gone", name)
            raise error
        # the work was ended, not the waiting: only the daemon's own end does that
        code, text = Code.UNAVAILABLE, "crib is stopping"
    elif isinstance(error, CallRefused):
        code, text = error.code, f"{name}: {error}"
    elif isinstance(error, CribError):
        code, text = status_of(error, name)
    elif isinstance(error, TimeoutError):  # of what may hang: a file system, a program
        code, text = Code.UNAVAILABLE, shorten(f"{name}: {error}")
    elif isinstance(error, DecodeError):
        code, text = Code.INVALID_ARGUMENT, f"the request is not a message of {name}: {error}"
    else:
        _log.error("%s failed unexpectedly", name, exc_info=error)
        code = Code.INTERNAL
        text = shorten(f"{name}: {type(error).__name__}: {error} (request {call.request} in crib's log)")
    # what the host did wrong is for the administrator, what a caller did wrong for the caller
    level = logging.WARNING if isinstance(error, Broken) else logging.DEBUG
    _log.log(level, "%s answers %s after %.3f ms: %s", name, code.name, call.milliseconds, text)
    call.code, call.error = _refuse(context, code, text), text
