"""Exec, Attach and PortForward: checked here, served at the URL that they answer with."""

from __future__ import annotations

from collections.abc import Callable

from crib.api.calls import Answer, Call, Read, Verb
from crib.api.translate import streams as translate
from crib.api.translate.streams import AttachOrder, ExecOrder, ForwardOrder
from crib.engine.streams.verbs import Streams
from crib.model.errors import CannotExecute
from crib.stubs.node.v1 import node_pb2
from crib.stubs.runtime.v1 import api_pb2 as pb

UrlFor = Callable[[str, str], str]
"""Makes the URL of a kind of stream (exec, attach, portforward) and a token."""


class StreamCalls:
    """The three calls of the CRI, and crib's own."""

    def __init__(self, streams: Streams, url_for: UrlFor) -> None:
        self._streams = streams
        self._url_for = url_for

    def calls(self) -> dict[str, Call]:
        """Those of the CRI, by their names."""
        return {
            "Exec": Read(pb.ExecRequest, translate.decode_exec, self._exec),
            "Attach": Read(pb.AttachRequest, translate.decode_attach, self._attach),
            "PortForward": Read(pb.PortForwardRequest, translate.decode_port_forward, self._port_forward),
        }

    def own_calls(self) -> dict[str, Call]:
        """Those of crib.v1.Node."""
        return {
            "ExecAs": Read(node_pb2.ExecAsRequest, translate.decode_exec_as, self._exec_as),
            "ExecDetached": Verb(
                node_pb2.ExecDetachedRequest, translate.decode_exec_detached, self._exec_detached
            ),
            "Forward": Read(node_pb2.ForwardRequest, translate.decode_forward, self._forward),
        }

    def _exec(self, wanted: ExecOrder) -> Answer:
        return pb.ExecResponse(url=self._exec_url(wanted))

    def _exec_as(self, wanted: ExecOrder) -> Answer:
        return node_pb2.ExecAsResponse(url=self._exec_url(wanted))

    async def _exec_detached(self, wanted: ExecOrder) -> Answer:
        try:
            await self._streams.exec_detached(wanted.container, wanted.process)
        except CannotExecute as error:
            return node_pb2.ExecDetachedResponse(exit_code=error.code, message=error.words)
        return node_pb2.ExecDetachedResponse()

    def _exec_url(self, wanted: ExecOrder) -> str:
        return self._url_for("exec", self._streams.issue_exec(wanted.container, wanted.process))

    def _attach(self, wanted: AttachOrder) -> Answer:
        token = self._streams.issue_attach(wanted.container, wanted.streams)
        return pb.AttachResponse(url=self._url_for("attach", token))

    def _port_forward(self, wanted: ForwardOrder) -> Answer:
        return pb.PortForwardResponse(url=self._forward_url(wanted))

    def _forward(self, wanted: ForwardOrder) -> Answer:
        return node_pb2.ForwardResponse(url=self._forward_url(wanted))

    def _forward_url(self, wanted: ForwardOrder) -> str:
        return self._url_for("portforward", self._streams.issue_forward(wanted.sandbox, wanted.connections))
