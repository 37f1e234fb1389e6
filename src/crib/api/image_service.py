"""runtime.v1.ImageService: which decoding, verb and encoding make up each call."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from crib.api.calls import Answer, Call, Parts, Read, Verb, nothing
from crib.api.list_replies import EncodedList
from crib.api.translate import images, info
from crib.api.translate.images import ImageQuery, PullImage
from crib.engine.node import Node
from crib.model.image import ImageRecord
from crib.stubs.runtime.v1 import api_pb2 as pb

NAME = "runtime.v1.ImageService"


class ImageService:
    """Images on this node."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._images: EncodedList[ImageRecord] = EncodedList(images.encode)

    def calls(self) -> dict[str, Call]:
        """Every call by its name."""
        return {
            "ListImages": Read(pb.ListImagesRequest, images.decode_list, self._list),
            "StreamImages": Parts(pb.StreamImagesRequest, images.decode_list, self._stream),
            "ImageStatus": Verb(pb.ImageStatusRequest, images.decode_status, self._status),
            "PullImage": Verb(pb.PullImageRequest, images.decode_pull, self._pull),
            "RemoveImage": Verb(pb.RemoveImageRequest, images.decode_remove, self._remove),
            "ImageFsInfo": Verb(pb.ImageFsInfoRequest, nothing, self._fs_info),
        }

    def _chosen(self, wanted: str) -> Iterable[ImageRecord]:
        """All images, or the one that is named."""
        if not wanted:
            return self._node.images.list()
        record = self._node.images.status(wanted)
        return () if record is None else (record,)

    def _list(self, wanted: str) -> Answer:
        rows = self._chosen(wanted)
        return self._images.some(rows) if wanted else self._images.whole(rows)

    def _stream(self, wanted: str) -> Iterator[Answer]:
        return self._images.parts(self._chosen(wanted))

    async def _status(self, query: ImageQuery) -> Answer:
        """Empty, and no error, when the image is not here (CRI ImageStatus)."""
        record = self._node.images.status(query.image)
        if record is None:
            return pb.ImageStatusResponse()
        answer = pb.ImageStatusResponse(image=images.encode(record))
        if query.verbose:
            documents = await self._node.images.documents(record)
            for key, text in info.of_image(record, documents).items():
                answer.info[key] = text
        return answer

    async def _pull(self, wanted: PullImage) -> Answer:
        record = await self._node.images.pull(wanted.order, wanted.pod)
        return pb.PullImageResponse(image_ref=record.id)

    async def _remove(self, image: str) -> Answer:
        await self._node.images.remove(image)
        return pb.RemoveImageResponse()

    async def _fs_info(self, _: None) -> Answer:
        of_images, of_containers = await self._node.images.fs_usage()
        return pb.ImageFsInfoResponse(
            image_filesystems=[images.encode_usage(of_images)],
            container_filesystems=[images.encode_usage(of_containers)],
        )
