"""Follows one stream and holds the server to its rules."""

from __future__ import annotations

import hashlib
import re

import grpc
from patchflow.v1 import image_generation_pb2 as pb

from .errors import DataLoss
from .events import Accepted, Completed, Event, Image, Preview, Progress
from .request import Format

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


def _broken(message: str) -> DataLoss:
    return DataLoss(grpc.StatusCode.DATA_LOSS, f"the server's stream is broken: {message}")


class StreamChecker:
    """One stream, from its first message to its end. Holds no more than one image. DataLoss says what is broken."""

    def __init__(self, request_id: str, *, images: bool = True):
        self._request_id = request_id
        self._images = images
        self._sequence = 0
        self._to_come = 0
        self._done = 0
        self._header: pb.ImageHeader | None = None
        self._bytes = bytearray()
        self.accepted = False
        self.completed = False

    def take(self, message: pb.GenerateImagesResponse) -> Event | None:
        """The event that this message brings or completes."""
        self._check_order(message)
        kind = message.WhichOneof("event")
        if kind == "accepted":
            if self.accepted:
                raise _broken("Accepted comes twice")
            self.accepted = True
            self._to_come = message.accepted.effective.count if self._images else 0
            return Accepted.of(message.request_id, message.accepted)
        if kind == "progress":
            return Progress.of(message.progress)
        if kind == "preview":
            preview = message.preview
            return Preview(preview.image_index, preview.step, Format(preview.format), preview.data)
        if kind == "image_header":
            self._begin(message.image_header)
        elif kind == "image_chunk":
            return self._add(message.image_chunk)
        elif kind == "completed":
            if self._header is not None or self._done != self._to_come:
                raise _broken(f"Completed after {self._done} of {self._to_come} images")
            self.completed = True
            return Completed.of(message.completed)
        return None  # An event of a later API is passed over.

    def finish(self) -> None:
        """The stream ended with OK."""
        if not self.completed:
            raise _broken("it ended without Completed")

    def _check_order(self, message: pb.GenerateImagesResponse) -> None:
        if not _REQUEST_ID.fullmatch(message.request_id):
            raise _broken(f"request_id {message.request_id!r} is not 1 to 64 of [A-Za-z0-9._-]")
        if message.request_id != self._request_id:
            raise _broken(f"a message of request {message.request_id!r} instead of {self._request_id!r}")
        if self.accepted and message.sequence <= self._sequence:
            raise _broken(f"sequence {message.sequence} after {self._sequence}")
        if self.completed:
            raise _broken("a message after Completed")
        if not self.accepted and message.WhichOneof("event") != "accepted":
            raise _broken("the first message is not Accepted")
        self._sequence = message.sequence

    def _begin(self, header: pb.ImageHeader) -> None:
        if self._header is not None:
            raise _broken(f"image {header.image_index} begins within image {self._header.image_index}")
        if header.image_index != self._done or self._done >= self._to_come:
            raise _broken(f"image {header.image_index} begins, image {self._done} of {self._to_come} is next")
        if header.total_bytes == 0:
            raise _broken(f"image {header.image_index} has no bytes")
        self._header, self._bytes = header, bytearray()

    def _add(self, chunk: pb.ImageChunk) -> Image | None:
        header = self._header
        if header is None or chunk.image_index != header.image_index:
            raise _broken(f"a chunk of image {chunk.image_index} without its header")
        if chunk.offset != len(self._bytes):
            raise _broken(f"image {chunk.image_index}: a chunk at offset {chunk.offset} after {len(self._bytes)} bytes")
        self._bytes += chunk.data
        if len(self._bytes) > header.total_bytes:
            raise _broken(f"image {chunk.image_index}: more than its {header.total_bytes} bytes")
        if len(self._bytes) < header.total_bytes:
            return None
        data = bytes(self._bytes)
        if hashlib.sha256(data).digest() != header.sha256:
            raise _broken(f"image {chunk.image_index}: the SHA-256 of its bytes is not the header's")
        self._header, self._bytes = None, bytearray()
        self._done += 1
        return Image(
            header.image_index, Format(header.format), header.width, header.height, header.seed, header.sha256, data
        )
