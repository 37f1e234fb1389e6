"""What a node plugin answers: any message is refused by name, or becomes edits that a spec takes."""

from __future__ import annotations

from contextlib import suppress

from google.protobuf.message import DecodeError

from crib.backends.nri.translate_answers import create_answer
from crib.backends.nri.translate_validation import adjustment_message, owners_message
from crib.model.ids import ContainerId
from crib.ocispec.adjust import Answers
from crib.ocispec.adjust_owners import Contradiction, Owners
from crib.ocispec.edits import with_edits
from crib.ports.plugins import PluginRefused
from crib.stubs.nri.v1alpha1 import api_pb2 as pb
from crib.wire import oci_runtime as oci

_OWN = ContainerId("c" * 64)
_SPEC = oci.Spec(
    "1.2.0",
    oci.Process(oci.User(0, 0), ("/bin/sh",), "/", env=("A=1",)),
    oci.Root("/r"),
    oci.Linux(namespaces=(oci.Namespace("mount"), oci.Namespace("ipc"))),
    mounts=(oci.Mount("/proc", "proc", "proc"),),
)


def one_input(data: bytes) -> None:
    """The answer of one plugin, and the same of the next."""
    try:
        message = pb.CreateContainerResponse.FromString(data)
        answer = create_answer("10-a", message)
    except (DecodeError, PluginRefused):
        return
    answers = Answers(_OWN, creating=True)
    with suppress(Contradiction):
        answers.add(answer)
        answers.add(create_answer("20-b", message))
    spec = _SPEC
    for edits in answers.edits:
        spec = with_edits(spec, edits)
    assert oci.decode_spec(oci.encode(spec)) == spec
    adjustment_message(answers.edits).SerializeToString()
    owners_message(answers.owners.get(_OWN, Owners())).SerializeToString()
