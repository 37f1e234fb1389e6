"""One layer from a registry: its blob comes into a spool, a thread writes the layer from there, and who sent
wrong bytes is found out.

The digest is the judge of resumed bytes, too: when they are wrong everything is fetched once more. Wrong
bytes of several hosts are nobody's, so from then on one host at a time has to bring all.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from crib.backends.images.messages import LayerTerms
from crib.backends.images.worker.connections import host_name
from crib.backends.images.worker.documents import FoundLayer
from crib.backends.images.worker.download import BlobClient, BlobDownload, SharedRate, TransferTerms
from crib.backends.images.worker.free_space import require_free
from crib.backends.images.worker.layers import LayerClaims, LayerError, LayerFacts, LayerOptions, write_layer
from crib.backends.images.worker.shares import Crowded, Writers
from crib.backends.images.worker.spool import Spool, SpoolClosed, Starved
from crib.model.errors import CribError, Exhausted
from crib.model.image_settings import TransferSettings
from crib.model.registry import RegistryHost
from crib.tasks.keeper import HANDS

Report = Callable[[str, int, str], None]
"""Told the stage, the bytes of the blob that are here, and the host."""


@dataclass(frozen=True, slots=True)
class LayerJob:
    """A layer to be written to `temporary` by one of the `writers`."""

    layer: FoundLayer
    terms: LayerTerms
    temporary: str
    writers: Writers
    report: Report

    @property
    def limits(self) -> TransferSettings:
        return self.terms.transfer

    @property
    def claims(self) -> LayerClaims:
        return LayerClaims(self.layer.blob_digest or "", self.layer.size, self.layer.diff_id)

    @property
    def options(self) -> LayerOptions:
        limits, mounting = self.limits, self.terms.mounting
        return LayerOptions(
            block_size=mounting.block_size,
            max_bytes=limits.max_layer_bytes,
            max_ratio=limits.max_ratio,
            sync=True,
            drop_cache=mounting.direct_io,
            min_free=limits.min_free,
            memory=self.writers.memory,
        )

    def check_size(self) -> None:
        """LayerError for a blob that is larger than what it may unpack to."""
        if self.layer.size > self.limits.max_layer_bytes:
            raise LayerError(
                f"layer {self.layer.blob_digest} has {self.layer.size} bytes,"
                f" images.max_layer_bytes is {self.limits.max_layer_bytes}"
            )

    def check_space(self, needed: int) -> None:
        """Exhausted when so many bytes do not fit."""
        name = self.layer.blob_digest or self.layer.diff_id
        require_free(".", needed, self.limits.min_free, f"layer {name}")


class PulledLayer:
    """One layer on its way from `client`; `spool_name` replaces the name of the blob's own spool."""

    def __init__(
        self, job: LayerJob, client: BlobClient, bandwidth: SharedRate, spool_name: str = ""
    ) -> None:
        self._job = job
        self._client = client
        self._spool_name = spool_name
        self._terms = TransferTerms(job.limits, bandwidth, self._told)
        self._hosts = list(client.blob_hosts())
        self._alone = False
        self._wrong: list[str] = []

    async def fetch(self) -> LayerFacts:
        """The layer, written; its blob is gone then. What has come is kept when hosts failed or we were
        cancelled."""
        job = self._job
        assert job.layer.blob_digest is not None
        self._spool = spool = Spool(
            job.layer.blob_digest, job.layer.size, job.limits.min_free, self._spool_name
        )
        keep = False
        try:
            job.check_size()
            # The layer takes about as much as its blob at least.
            job.check_space(2 * spool.size - spool.resumed)
            job.report("downloading", spool.received, "")
            return await self._attempts()
        except (asyncio.CancelledError, CribError) as error:
            keep = not isinstance(error, Exhausted) and not self._spool_name
            raise
        finally:
            spool.close(keep=keep)

    async def _attempts(self) -> LayerFacts:
        while True:
            hosts = self._hosts[:1] if self._alone else self._hosts
            download = BlobDownload(self._client, self._spool, self._terms, hosts)
            try:
                return await self._attempt(download)
            except LayerError as error:
                if await asyncio.to_thread(self._spool.is_right):
                    raise
                self._blame(download.used, error)
                self._spool.reset(empty=True)
            except CribError as error:
                if isinstance(error, Exhausted):
                    raise
                if self._alone and len(self._hosts) > 1:
                    self._wrong.append(str(error))
                    del self._hosts[0]
                    self._spool.reset(empty=True)
                elif self._wrong:
                    raise LayerError("; ".join((*self._wrong, str(error)))) from error
                else:
                    raise

    def _blame(self, used: list[RegistryHost], error: LayerError) -> None:
        """Leave out who sent wrong bytes; raises when nobody is left."""
        names = ", ".join(map(host_name, used))
        if self._spool.resumed:
            return
        if len(used) > 1:
            self._alone = True
            self._hosts.sort(key=lambda host: host not in used)
            return
        self._wrong.append(f"{names or 'nobody'}: {error}")
        self._hosts = [host for host in self._hosts if host not in used]
        if not self._hosts or not used:
            raise LayerError("; ".join(self._wrong)) from error

    async def _attempt(self, download: BlobDownload) -> LayerFacts:
        writing = HANDS.part("writing a layer", self._written())
        try:
            if not await _while(writing, download.run()):
                # It says why it ended before all had come.
                return await writing
            self._job.report("writing", self._spool.received, "")
            return await writing
        except BaseException:
            writing.cancel()
            # The thread must have let go of its files before anybody is told.
            await asyncio.wait([writing])
            _ = writing.cancelled() or writing.exception()
            # It may have ended at the moment that it was told to stop.
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._job.temporary)
            raise
        finally:
            self._spool.reset(empty=False)

    async def _written(self) -> LayerFacts:
        """The layer, written while its blob comes if a place is free, else when the blob is whole."""
        writers = self._job.writers
        if await writers.take_free():
            try:
                return await self._in_place()
            except (Starved, Crowded):
                pass
            finally:
                writers.give()
        await self._spool.whole.wait()
        return await writers.write_whole(self._in_place)

    async def _in_place(self) -> LayerFacts:
        job, spool = self._job, self._spool
        return await job.writers.run(lambda: _write_from(spool, job), spool.stop, job.temporary)

    def _told(self, host: str) -> None:
        self._job.report("downloading", self._spool.received, host)


async def _while(work: asyncio.Future[LayerFacts], companion: Awaitable[None]) -> bool:
    """Await `companion`, but not longer than `work` lasts; whether it came to its end."""
    try:
        async with asyncio.timeout(None) as scope:

            def stop(_: object) -> None:
                with contextlib.suppress(RuntimeError):  # already left
                    scope.reschedule(asyncio.get_running_loop().time())

            work.add_done_callback(stop)
            await companion
    except SpoolClosed:
        return False
    except TimeoutError:
        if not scope.expired():
            raise
        return False
    finally:
        work.remove_done_callback(stop)
    return True


def _write_from(spool: Spool, job: LayerJob) -> LayerFacts:
    chunks = spool.chunks(job.writers.wanted)
    try:
        facts = write_layer(chunks, job.temporary, job.claims, job.options, spool.check)
    except (Starved, Crowded):
        # It is read again when it is whole.
        raise
    except BaseException:
        spool.leave()
        raise
    spool.leave()
    return facts
