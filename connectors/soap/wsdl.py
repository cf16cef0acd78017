"""What a WSDL says about a text-argument service, read by zeep: operation -> soapAction, arguments, address.

zeep only reads here; calls go through our own client (charsets, limits and time-outs are ours). A WSDL that is missing or
broken is not the end: such services are regular, so the profile's bare settings carry the calls, and a warning says so.

zeep and what it brings (requests among them) are loaded by the thread that reads a WSDL: the start does not wait for them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import msgspec
from lxml import etree
from yarl import URL

from connectors.soap.envelope import Call, SoapVersion
from connectors.soap.typed import TypedOperation
from connectors.soap.xml import XmlError, decode, drop_prolog

MAX_WSDL_BYTES = 5_000_000


class WsdlError(Exception):
    """The WSDL could not be fetched or says nothing usable. The text names the place and what to check."""


class Service(msgspec.Struct, frozen=True, kw_only=True):
    """The calls that a WSDL offers, by operation, and the address that its port names (None: it names none).

    `typed`: the same operations, for those who build and read by types.
    """

    address: str | None
    calls: dict[str, Call]
    typed: dict[str, TypedOperation] = {}


class BareService(msgspec.Struct, frozen=True, kw_only=True):
    """A service known only by convention; `soap_action` may contain {namespace} and {operation}."""

    namespace: str
    soap_action: str = "{namespace}/{operation}"
    version: SoapVersion = SoapVersion.V11
    qualified: bool = True

    def call(self, operation: str, arguments: Sequence[str]) -> Call:
        """The call of `operation` as the convention has it."""
        in_namespace = f"{{{self.namespace}}}" if self.namespace else ""
        return Call(
            operation=in_namespace + operation,
            arguments={name: (in_namespace if self.qualified else "") + name for name in arguments},
            soap_action=self.soap_action.format(namespace=self.namespace, operation=operation),
            version=self.version,
        )


async def load_service(
    source: str, session: aiohttp.ClientSession, *, timeout_s: float = 10.0
) -> tuple[Service, bytes]:
    """Read the WSDL at `source`, a file or an http(s) URL, off the event loop; also its bytes. Raises WsdlError."""
    data = await _download(source, session, timeout_s) if is_url(source) else await asyncio.to_thread(_read, source)
    return await asyncio.to_thread(read_service, data, source), data


def read_service(data: bytes, source: str) -> Service:
    """Read a WSDL's bytes. Operations whose arguments are elements of one sequence are taken. Raises WsdlError.

    Imports over the network are refused; imported files are read from the folder of a WSDL that is itself a file.
    """
    import zeep.exceptions

    try:
        drop_prolog(decode(data).text)
    except XmlError as error:
        raise WsdlError(f"{_place(source)}: {error}") from None
    failure: Exception | None = None
    for strict in (True, False):  # some generators leave small things out; lax parsing comes second
        settings = zeep.Settings(
            strict=strict, forbid_dtd=True, forbid_entities=True, forbid_external=True, xml_huge_tree=False
        )
        try:
            location = source if is_url(source) else str(Path(source).resolve())  # zeep makes paths absolute
            return _service(_document(location, data, settings))
        except (
            zeep.exceptions.Error,
            etree.LxmlError,
            OSError,
            LookupError,
            AttributeError,
            TypeError,
            ValueError,
            RuntimeError,
        ) as e:
            failure = e  # zeep lets Python's own errors out where a WSDL's references dangle, or go round in a circle
    raise WsdlError(f"{_place(source)}: not a WSDL that can be read ({type(failure).__name__})") from failure


def _document(location: str, data: bytes, settings: Any) -> Any:
    from zeep.wsdl import Document

    document: Any = Document  # its annotations ask for a class where an instance of the transport is meant
    return document(location, _Folder(location, data), settings=settings)


def _service(document: Any) -> Service:
    from zeep.wsdl.bindings.soap import Soap11Binding, Soap12Binding

    calls: dict[str, Call] = {}
    address: str | None = None
    typed: dict[str, TypedOperation] = {}
    for service in document.services.values():
        for port in service.ports.values():
            binding: Any = port.binding
            if not isinstance(binding, Soap11Binding | Soap12Binding):
                continue
            version = SoapVersion.V12 if isinstance(binding, Soap12Binding) else SoapVersion.V11
            operations: dict[str, Any] = binding.all()  # type: ignore[no-untyped-call]
            found = {n: c for n, op in operations.items() if (c := _call(op, version)) is not None}
            if found and not calls:  # the first port wins: servers list 1.1 before 1.2
                calls, address = found, port.binding_options.get("address")
                typed = {name: TypedOperation(soap=operations[name]) for name in found}
    if not calls:
        raise ValueError("no operation with arguments")
    if address is not None:
        URL(address)  # raises ValueError for what is none: each call would fail by it
    return Service(address=address, calls=calls, typed=typed)


def _call(operation: Any, version: SoapVersion) -> Call | None:
    """Document-literal: the children of the wrapper. RPC: the parts, which have no namespace (WSDL 1.1 section 3.5)."""
    body: Any = getattr(operation.input, "body", None)
    elements = getattr(getattr(body, "type", None), "elements", [])
    if operation.style not in ("document", "rpc") or not elements:
        return None
    if not (operation.soapaction or "").isprintable():
        raise ValueError("a soapAction that no HTTP header can carry")
    return Call(
        operation=str(body.qname),
        arguments={name: str(element.qname) for name, element in elements},
        soap_action=operation.soapaction or "",
        version=version,
    )


class _Folder:
    """zeep's transport, cut down: the WSDL itself, and files beside it. Nothing else can be loaded."""

    def __init__(self, source: str, data: bytes) -> None:
        self._source, self._data = source, data

    def load(self, url: str) -> bytes:
        if url == self._source:
            return self._data
        if is_url(self._source):
            raise OSError("a WSDL from the network may not import")
        path = Path(url.removeprefix("file://")).resolve()
        if path.parent != Path(self._source).resolve().parent:
            raise OSError("an import outside the WSDL's folder")
        data = _read(str(path))
        drop_prolog(decode(data).text)
        return data


def _read(source: str) -> bytes:
    try:
        with Path(source).open("rb") as file:
            data = file.read(MAX_WSDL_BYTES + 1)
    except OSError as error:
        raise WsdlError(f"{source}: {error.strerror or error}") from None
    if len(data) > MAX_WSDL_BYTES:
        raise WsdlError(f"{source}: larger than {MAX_WSDL_BYTES} bytes")
    return data


async def _download(url: str, session: aiohttp.ClientSession, timeout_s: float) -> bytes:
    try:
        async with session.get(url, timeout=aiohttp.ClientTimeout(total=timeout_s), allow_redirects=False) as reply:
            data = await reply.content.read(1)
            async for chunk in reply.content.iter_chunked(65536):
                data += chunk
                if len(data) > MAX_WSDL_BYTES:
                    raise WsdlError(f"{_place(url)}: larger than {MAX_WSDL_BYTES} bytes")
            if reply.status != 200:
                raise WsdlError(f"{_place(url)}: HTTP {reply.status}")
            return data
    except (aiohttp.ClientError, TimeoutError) as error:
        raise WsdlError(f"{_place(url)}: {type(error).__name__}") from error


def is_url(source: str) -> bool:
    """Whether a WSDL is fetched, and no file."""
    return urlsplit(source).scheme in ("http", "https")


def _place(source: str) -> str:
    """A source as it may be logged: without the user, password or query that a URL can hold."""
    if not is_url(source):
        return source
    parts = urlsplit(source)
    return f"{parts.scheme}://{parts.hostname}:{parts.port or ''}{parts.path}"
