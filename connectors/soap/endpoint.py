"""Where a hospital's SOAP service is and how its operations are called: the WSDL where it can be read, else bare settings."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import aiohttp
import msgspec
import structlog

from connectors.soap import wsdl_cache
from connectors.soap.envelope import Call
from connectors.soap.typed import TypedOperation
from connectors.soap.wsdl import BareService, Service, WsdlError, is_url, load_service, read_service
from monitoring.trace_context import nobodys

log = structlog.get_logger(__name__)

RETRY_S = 60.0
FIRST_WAIT_S = 3.0


class Endpoint:
    """Answers `address` and `call_of(operation)`; reads the WSDL in the background and again after a failure.

    `address` given by the operator overrides the WSDL's: such addresses are often of a machine behind a gateway.
    """

    def __init__(
        self, *, hospital_id: str, connector: str, wsdl: str | None, address: str | None, bare: BareService, cdata: bool
    ) -> None:
        if wsdl is None and address is None:
            raise ValueError(f"hospital {hospital_id}, connector {connector}: set `endpoint` or `wsdl`")
        if address is None and wsdl is not None and not is_url(wsdl) and not Path(wsdl).is_file():
            raise ValueError(
                f"wsdl: there is no file {wsdl}, and without it no address to call: correct it, or set `endpoint`"
            )
        self._wsdl, self._address, self._bare, self._cdata = wsdl, address, bare, cdata
        self._log = log.bind(hospital=hospital_id, connector=connector)
        self._service: Service | None = None
        self._loading: asyncio.Task[None] | None = None
        self._tried_at: float | None = None
        self._told: set[str] = set()
        self._kept = wsdl_cache.file_of(hospital_id, connector, wsdl) if wsdl is not None and is_url(wsdl) else None
        self._is_kept = False  # what is used was kept: the real one is still looked for

    def load(self, session: aiohttp.ClientSession, operations: Iterable[str]) -> None:
        """Start reading the WSDL unless it has been read, is being read, or failed less than RETRY_S ago."""
        if self._wsdl is None or (self._service is not None and not self._is_kept):
            return
        if self._loading is not None and not self._loading.done():
            return
        if self._tried_at is not None and time.monotonic() - self._tried_at < RETRY_S:
            return
        self._tried_at = time.monotonic()
        work = self._load(self._wsdl, session, sorted(set(operations)))
        self._loading = asyncio.create_task(work, context=nobodys())

    async def ready(self, timeout_s: float) -> None:
        """Wait for a first reading under way, FIRST_WAIT_S at most; a slow or dead server must not hold up a call."""
        if self._loading is not None and not self._loading.done():
            await asyncio.wait([self._loading], timeout=min(timeout_s, FIRST_WAIT_S))

    async def _load(self, source: str, session: aiohttp.ClientSession, operations: list[str]) -> None:
        try:
            service, data = await load_service(source, session)
        except WsdlError as error:
            await self._fall_back(source, str(error), operations)
            return
        if self._kept is not None and (failure := await asyncio.to_thread(wsdl_cache.keep, self._kept, data)):
            self._log.warning("wsdl_not_kept", reason=failure)
        self._is_kept = False
        self._use(service, operations)

    async def _fall_back(self, source: str, reason: str, operations: list[str]) -> None:
        """To the WSDL that was read last, or to the profile's settings; the real one is tried again after RETRY_S."""
        if self._service is not None:
            return  # the kept one is in use, and that has been said
        service = await self._read_kept(source)
        if service is None:
            self._log.warning("wsdl_unreadable", reason=reason, fallback="the profile's bare settings")
            return
        self._log.warning("wsdl_unreadable", reason=reason, fallback=f"the one that was read last: {self._kept}")
        self._is_kept = True
        self._use(service, operations)

    async def _read_kept(self, source: str) -> Service | None:
        data = None if self._kept is None else await asyncio.to_thread(wsdl_cache.read, self._kept)
        if data is None:
            return None
        try:
            return await asyncio.to_thread(read_service, data, source)
        except WsdlError:
            return None

    def _use(self, service: Service, operations: list[str]) -> None:
        missing = [name for name in operations if name not in service.calls]
        if missing:
            self._log.warning("wsdl_lacks_operations", operations=missing, fallback="the profile's bare settings")
        self._service = service

    @property
    def address(self) -> str:
        """Where to POST: the operator's, else the WSDL's, else the WSDL's own URL without its query."""
        if self._address is not None:
            return self._address
        if self._service is not None and self._service.address:
            return self._service.address
        return (self._wsdl or "").partition("?")[0]

    def call_of(self, operation: str, arguments: Sequence[str]) -> Call:
        """How to call `operation` with these arguments. A WSDL that knows others is not followed, and that is said once."""
        found = self._service.calls.get(operation) if self._service is not None else None
        call = None if found is None else _with_arguments(found, arguments)
        if found is not None and call is None and operation not in self._told:
            self._told.add(operation)
            self._log.warning(
                "wsdl_has_other_arguments",
                operation=operation,
                wsdl=list(found.arguments),
                profile=list(arguments),
                fallback="the profile's bare settings",
            )
        call = call or self._bare.call(operation, arguments)
        return msgspec.structs.replace(call, cdata=True) if self._cdata else call

    def typed_of(self, operation: str) -> TypedOperation | None:
        """The operation as the WSDL types it; None without a WSDL that has it."""
        return None if self._service is None else self._service.typed.get(operation)

    async def close(self) -> None:
        """Stop a reading under way."""
        if self._loading is not None and not self._loading.done():
            self._loading.cancel()
            await asyncio.wait([self._loading])


def _with_arguments(call: Call, arguments: Sequence[str]) -> Call | None:
    """The WSDL's call for the profile's arguments: by name, or a single one by its place; None where they do not fit."""
    if len(arguments) == len(call.arguments) == 1:
        return msgspec.structs.replace(call, arguments={arguments[0]: next(iter(call.arguments.values()))})
    return call if set(arguments) <= set(call.arguments) else None
