"""Calls that were made to a fake runtime, and what is to happen to those to come."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio

if TYPE_CHECKING:
    from google.protobuf.message import Message

    _Interceptor = grpc.aio.ServerInterceptor[Any, Any]
else:
    _Interceptor = grpc.aio.ServerInterceptor  # generic for type checkers only


@dataclass(frozen=True, slots=True)
class AskedCall:
    """One call: its name, such as `RunPodSandbox`, and its request."""

    name: str
    request: Message


@dataclass(slots=True)
class CallRule:
    """What happens to a call before the runtime sees it: it waits, or fails, or both in this order."""

    call: str
    code: str = ""
    """Name of the gRPC code with which it fails; empty: it does not."""
    message: str = ""
    seconds: float = 0.0
    times: int | None = None
    """How often that is done; None is always."""
    held: bool = False
    """Wait until `release`."""
    _gate: asyncio.Event | None = field(default=None, repr=False)
    _loop: asyncio.AbstractEventLoop | None = field(default=None, repr=False)

    def release(self) -> None:
        """Let those that wait go on, and hold no more. From any thread."""
        self.held = False
        if self._loop is not None and self._gate is not None:
            self._loop.call_soon_threadsafe(self._gate.set)

    async def apply(self, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        """Wait, and abort the call where it is to fail."""
        if self.held:
            self._loop = asyncio.get_running_loop()
            self._gate = self._gate or asyncio.Event()
            if self.held:  # a release from another thread may have come before there was a gate
                await self._gate.wait()
        if self.seconds:
            await asyncio.sleep(self.seconds)
        if self.code:
            await context.abort(
                grpc.StatusCode[self.code], self.message or f"{self.call} fails, as it was told"
            )


class CallRules(_Interceptor):
    """Notes every call, and applies the first rule for it that has times left."""

    def __init__(self) -> None:
        self.asked: list[AskedCall] = []
        self.rules: list[CallRule] = []

    def add(self, rule: CallRule) -> CallRule:
        """One more rule. It comes into force when the earlier ones for its call have no times left."""
        self.rules.append(rule)
        return rule

    async def intercept_service(
        self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: Any
    ) -> Any:
        """gRPC's way in: the handler of one call, with our own work before it."""
        handler = await continuation(handler_call_details)
        name = handler_call_details.method.rpartition("/")[2]
        if handler is None:
            return None
        if handler.response_streaming:
            return grpc.unary_stream_rpc_method_handler(
                self._streaming(name, handler.unary_stream),
                handler.request_deserializer,
                handler.response_serializer,
            )
        return grpc.unary_unary_rpc_method_handler(
            self._single(name, handler.unary_unary),
            handler.request_deserializer,
            handler.response_serializer,
        )

    def _single(self, name: str, answer: Callable[[Any, Any], Awaitable[Any]]) -> Any:
        async def behave(request: Any, context: Any) -> Any:
            await self._before(name, request, context)
            try:
                return await answer(request, context)
            except NotImplementedError:
                await _not_offered(name, context)

        return behave

    def _streaming(self, name: str, answer: Callable[[Any, Any], AsyncIterator[Any]]) -> Any:
        async def behave(request: Any, context: Any) -> AsyncIterator[Any]:
            await self._before(name, request, context)
            try:
                messages = answer(request, context)
            except NotImplementedError:
                await _not_offered(name, context)
            async for message in messages:
                yield message

        return behave

    async def _before(self, name: str, request: Any, context: Any) -> None:
        self.asked.append(AskedCall(name, request))
        for rule in self.rules:
            if rule.call == name and rule.times != 0:
                if rule.times is not None:
                    rule.times -= 1
                await rule.apply(context)
                return


async def _not_offered(name: str, context: Any) -> None:
    """As a runtime without this call; the stubs' own answer makes noise in the log."""
    await context.abort(grpc.StatusCode.UNIMPLEMENTED, f"method {name} not implemented")
