"""Writing one image layer as an EROFS file while its blob arrives; synchronous, for the image worker.

The file, with 512-byte blocks: the tar byte for byte at 4096, then sparse members expanded, then the
metadata, and the superblock at 1024. With 4096-byte blocks (kernels before 6.4): only the data of members,
each padded to 4096, in the tar's place. Data is written once, in the order in which it arrives.

One thread inflates and reads the tar; hashing and writing have a thread each, and run beside it because both
release the interpreter's lock for their whole piece.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

from crib.backends.images.rest_digest import RestDigest
from crib.backends.images.worker.inflate import RATIO_GRACE, InflateError, Inflater
from crib.backends.images.worker.layer_file import LayerFile, Padded, StageThread, Verbatim, rounded
from crib.backends.images.worker.shares import Memory
from crib.wire.erofs import BLOCK_SIZES, DATA_OFFSET, SUPERBLOCK_OFFSET, Metadata, metadata
from crib.wire.erofs_tree import Inode, LayerTree, LayoutError
from crib.wire.tar import MAX_MEMBERS, TarError, TarReader
from crib.wire.tar_member import Member
from crib.wire.tar_records import Extent

MAX_CPU_SECONDS = 900.0
"""Of the thread that reads a layer: inflating, its tar, its tree. 64 GiB of everyday content take a third."""
MAX_SPARSE_EXTENTS = 1 << 20
"""Runs of data in all sparse files of one layer."""
_EXTENT_COST = 150
"""Bytes of memory that a run of data of a sparse file takes (CPython 3.11, measured); a file takes as much
beside."""
_LOOK_EVERY = 256
"""Members or extents between two looks at whether to go on."""

_PIECE = 1 << 20
_DIGESTS = ("sha256", "sha384", "sha512")


class LayerError(ValueError):
    """The blob is not the layer it should be, or breaks a limit; nothing is left of it."""


class TooMuchMemory(LayerError):
    """Reading the layer takes more memory than one layer may have."""


@dataclass(frozen=True, slots=True)
class LayerClaims:
    """What the manifest and the image config say of a layer; an empty digest or None is not checked.

    Digests are ``algorithm:hex`` (OCI image specification, descriptor). ``size`` is the blob's, in bytes.
    """

    blob_digest: str = ""
    size: int | None = None
    diff_id: str = ""


@dataclass(frozen=True, slots=True)
class LayerOptions:
    """How to write a layer, and its limits.

    ``max_bytes`` bounds the unpacked tar and, apart from that, the expanded sparse members. ``max_ratio``:
    beyond ``RATIO_GRACE`` the unpacked bytes may be at most so many times the blob's size (the claimed one,
    else what was read so far).
    ``sync``: fsync the file before returning (the directory is the caller's). ``drop_cache``: give the page
    cache back then, for mounts that read past it. ``absolute_names``: names that
    begin with "/" are taken from the layer's root, as they are in images of kaniko, ko and Paketo; a name is
    only data of a tree of our own, so it leads nowhere. ``min_free``: bytes that stay free on the disk.
    ``max_cpu_seconds``: CPU time, so that neither a slow host nor a busy node counts. ``memory``: what this
    layer shares with the others that are written.
    """

    block_size: int = 512
    max_bytes: int = 128 << 30
    max_ratio: int = 100
    max_members: int = MAX_MEMBERS
    sync: bool = False
    drop_cache: bool = False
    absolute_names: bool = True
    min_free: int = 0
    max_cpu_seconds: float = MAX_CPU_SECONDS
    memory: Memory = field(default_factory=Memory)


@dataclass(frozen=True, slots=True)
class LayerFacts:
    """A layer's file as it was written; sizes in bytes, digests as ``algorithm:hex``.

    ``data_size``, ``data_digest`` and ``rest_digest`` are those of ``model.image.Layer``.
    """

    blob_digest: str
    diff_id: str
    blob_size: int
    tar_size: int
    file_size: int
    inodes: int
    data_size: int
    data_digest: str
    rest_digest: str


def write_layer(
    source: Iterable[bytes],
    path: str,
    claims: LayerClaims,
    options: LayerOptions | None = None,
    check: Callable[[], None] = lambda: None,
) -> LayerFacts:
    """Write the layer whose blob comes from ``source`` (tar, gzip or zstd) to ``path``, which must not exist.

    Raises LayerError when the blob is damaged, breaks a limit or is not what ``claims`` says; OSError with
    the file name for the disk; Crowded for want of memory that other layers have; whatever ``source`` raises,
    and ``check``, which is called every now and then.
    In every such case there is no file afterwards.
    """
    options = options or LayerOptions()
    if options.block_size not in BLOCK_SIZES:
        raise ValueError(f"block size {options.block_size}, must be one of {BLOCK_SIZES}")
    # Not inside the try: a file that was there before is not ours to remove.
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        try:
            file = LayerFile(descriptor, path, min_free=options.min_free, early=options.sync)
            return _write(_LayerWriter(file, claims, options, check), source)
        except (TarError, LayoutError, InflateError) as error:
            raise LayerError(f"layer {claims.blob_digest or path}: {error}") from error
        finally:
            os.close(descriptor)
    except BaseException as error:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        _let_go(error)
        raise


def _write(writer: _LayerWriter, source: Iterable[bytes]) -> LayerFacts:
    try:
        return writer.write(source)
    finally:
        writer.leave()


def _let_go(error: BaseException | None) -> None:
    """Have no frame of this error hold the layer's tree: whoever keeps the error, or is in a cycle with it,
    would keep that, too."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__context__


class _LayerWriter:
    def __init__(
        self, file: LayerFile, claims: LayerClaims, options: LayerOptions, check: Callable[[], None]
    ) -> None:
        self._check = check
        self._ends = time.thread_time() + options.max_cpu_seconds
        self._file = file
        self._claims = claims
        self._options = options
        self._label = f"layer {claims.blob_digest}" if claims.blob_digest else "layer"
        self._blob_hash = _hasher(claims.blob_digest)
        self._tar_hash = _hasher(claims.diff_id)
        self._blob_size = 0
        self._tar_size = 0
        self._inflater = Inflater()
        self._reader = TarReader(options.max_members)
        self._tree = LayerTree(absolute=options.absolute_names, max_inodes=options.max_members)
        self._sparse: list[tuple[Inode, Member]] = []
        self._extents = 0
        self._memory = 0
        self._placement = Padded() if options.block_size > 512 else Verbatim()
        # The tar's own digest says all where the file holds it as it is.
        self._data_hash = self._tar_hash if options.block_size == 512 else hashlib.sha256()

    def write(self, source: Iterable[bytes]) -> LayerFacts:
        with StageThread("layer-hash") as hashing, StageThread("layer-write") as writing:
            for piece in _gathered(self._unpacked(source, hashing)):
                self._tar_size += len(piece)
                self._check_growth()
                hashing.put(self._tar_hash.update, piece)
                self._take(piece, hashing, writing)
            hashing.finish()
            blob_digest, diff_id = self._verified()
            self._reader.end()
            writing.finish()
        data_end = self._placement.written
        offset = self._expand_sparse()
        layout = metadata(self._tree.root, rounded(offset), self._options.block_size)
        rest_digest = self._finish(layout, data_end)
        return LayerFacts(
            blob_digest=blob_digest,
            diff_id=diff_id,
            blob_size=self._blob_size,
            tar_size=self._tar_size,
            file_size=layout.file_size,
            inodes=layout.inodes,
            data_size=data_end - DATA_OFFSET,
            data_digest=f"{self._data_hash.name}:{self._data_hash.hexdigest()}",
            rest_digest=rest_digest,
        )

    def _unpacked(self, source: Iterable[bytes], hashing: StageThread) -> Iterator[bytes]:
        unhashed = b""
        for data in source:
            # Data of which nothing comes costs time, too.
            self._look()
            self._blob_size += len(data)
            if self._claims.size is not None and self._blob_size > self._claims.size:
                raise LayerError(
                    f"{self._label}: the blob has more than the {self._claims.size} bytes claimed"
                )
            pieces = self._inflater.feed(data)
            # The inflater knows the format once it was asked for the first piece.
            first = next(pieces, None)
            unhashed += data
            if self._inflater.format:
                if self._hashes_blob():
                    hashing.put(self._blob_hash.update, unhashed)
                unhashed = b""
            if first is not None:
                yield first
            yield from pieces
        if self._claims.size is not None and self._blob_size != self._claims.size:
            raise LayerError(
                f"{self._label}: the blob has {self._blob_size} bytes, {self._claims.size} are claimed"
            )
        yield from self._inflater.end()
        if self._hashes_blob():
            hashing.put(self._blob_hash.update, unhashed)

    def _look(self) -> None:
        """Whether to go on, with what the tree takes by now."""
        self._check()
        if time.thread_time() > self._ends:
            raise LayerError(
                f"{self._label}: reading it takes more than {self._options.max_cpu_seconds:g} s of CPU time"
            )
        self._claim(self._tree.memory + (self._extents + len(self._sparse)) * _EXTENT_COST)

    def _claim(self, needed: int) -> None:
        memory = self._options.memory
        if needed > memory.most:
            raise TooMuchMemory(
                f"{self._label}: its files, names, extended attributes and sparse maps take more than the"
                f" {memory.most} bytes of memory that one layer may have (images.worker_memory)"
            )
        memory.change(self._memory, needed)
        self._memory = needed

    def leave(self) -> None:
        """Others may have the memory."""
        self._claim(0)

    def _hashes_blob(self) -> bool:
        """A plain tar is hashed once: its digest is its diff id."""
        return self._inflater.format != "tar" or self._blob_hash.name != self._tar_hash.name

    def _check_growth(self) -> None:
        if self._tar_size > self._options.max_bytes:
            raise LayerError(f"{self._label}: it unpacks to more than {self._options.max_bytes} bytes")
        blob_size = self._claims.size if self._claims.size is not None else self._blob_size
        allowed = max(RATIO_GRACE, self._options.max_ratio * blob_size)
        if self._tar_size > allowed:
            raise LayerError(
                f"{self._label}: {blob_size} bytes unpack to more than {allowed},"
                f" the ratio {self._options.max_ratio} is the limit"
            )

    def _take(self, piece: bytes, hashing: StageThread, writing: StageThread) -> None:
        """Read the headers in this piece of the tar, and have its data written."""
        for number, member in enumerate(self._reader.receive_data(piece), 1):
            if number % _LOOK_EVERY == 0:
                self._look()
            offset = self._placement.place(member)
            node = self._tree.add(member, offset)
            if node is not None and member.sparse is not None:
                self._add_sparse(node, member, member.sparse)
        self._look()
        at = self._placement.written
        data = self._placement.data(piece)
        if data:
            writing.put(partial(self._file.write, at), data)
            if self._data_hash is not self._tar_hash:
                hashing.put(self._data_hash.update, data)

    def _add_sparse(self, node: Inode, member: Member, extents: Sequence[Extent]) -> None:
        self._sparse.append((node, member))
        self._extents += len(extents)
        if self._extents > MAX_SPARSE_EXTENTS:
            raise LayerError(f"{self._label}: its sparse files have more than {MAX_SPARSE_EXTENTS} extents")

    def _verified(self) -> tuple[str, str]:
        claims = self._claims
        diff_id = f"{self._tar_hash.name}:{self._tar_hash.hexdigest()}"
        blob_digest = (
            f"{self._blob_hash.name}:{self._blob_hash.hexdigest()}" if self._hashes_blob() else diff_id
        )
        if claims.blob_digest and blob_digest != claims.blob_digest:
            raise LayerError(f"{self._label}: the blob's digest is {blob_digest}")
        if claims.diff_id and diff_id != claims.diff_id:
            raise LayerError(f"{self._label}: it unpacks to {diff_id}, claimed is {claims.diff_id}")
        return blob_digest, diff_id

    def _expand_sparse(self) -> int:
        """Write sparse members out behind the data, holes as holes; return where the data ends."""
        end = self._placement.written
        expanded = 0
        for node, member in self._sparse:
            expanded += member.size
            if expanded > self._options.max_bytes:
                raise LayerError(
                    f"{self._label}: its sparse files expand to more than {self._options.max_bytes} bytes"
                )
            source = node.offset
            node.offset = start = rounded(end)
            for number, extent in enumerate(member.sparse or ()):
                if number % _LOOK_EVERY == 0:
                    self._look()
                self._file.copy(source, start + extent.offset, extent.length)
                source += extent.length
            end = start + member.size
        return end

    def _finish(self, layout: Metadata, data_end: int) -> str:
        """Make the file whole; the digest of all of it that is not data."""
        self._file.write(layout.offset, layout.body)
        self._file.write(SUPERBLOCK_OFFSET, layout.superblock)
        rest = RestDigest()
        rest.add(0, b"".join(self._file.read(0, DATA_OFFSET)))
        for start, length in self._file.windows(data_end, layout.file_size):
            rest.add(start, b"".join(self._file.read(start, length)))
        if self._options.sync:
            self._file.sync()
        if self._options.drop_cache:
            self._file.drop_cache()
        return rest.value


def _hasher(digest: str) -> hashlib._Hash:
    algorithm = digest.partition(":")[0] if digest else "sha256"
    if algorithm not in _DIGESTS:
        raise LayerError(f"layer {digest}: digest algorithm {algorithm!r} is not one of {_DIGESTS}")
    return hashlib.new(algorithm)


def _gathered(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The same bytes in pieces of about 1 MiB, so that threads hand over few."""
    waiting: list[bytes] = []
    size = 0
    for piece in pieces:
        waiting.append(piece)
        size += len(piece)
        if size >= _PIECE:
            yield b"".join(waiting) if len(waiting) > 1 else piece
            waiting = []
            size = 0
    if waiting:
        yield b"".join(waiting)
