"""What an operator sets for a SOAP connector, and what a SOAP profile's `connection` holds."""

from __future__ import annotations

import codecs
from typing import Annotated, Any

import msgspec

from connectors.config import ConnectorOptions
from connectors.soap.envelope import SoapVersion
from mappings.profile import Profile


class Options(ConnectorOptions, frozen=True, kw_only=True):
    """`[hospital.<id>.connector.<name>]` with `protocol = "soap"`. One of `endpoint` and `wsdl` must be set.

    - `endpoint`: the URL to POST to; wins over the WSDL's address.
    - `wsdl`: a file or URL; left out, the profile's namespace and argument are used as they are.
    - `settings`: replaces entries of the profile's `connection` (hospital number, operator id ...).
    - `max_connections`: TCP connections to the HIS at most, by default `his_concurrency`; `keepalive_s`: how long an idle one
      is kept. Keep it below the server's own: a request on a connection that the server has just closed ends in doubt.
    - `ca_file`: PEM file of the authority that signed the hospital's certificate.
    - `send_traceparent`: tell the HIS the trace of a call (W3C Trace Context), for one that is traced itself.
    """

    endpoint: str | None = None
    wsdl: str | None = None
    settings: dict[str, Any] = {}
    max_connections: Annotated[int, msgspec.Meta(ge=1)] | None = None
    keepalive_s: float = 15.0
    ca_file: str | None = None
    send_traceparent: bool = False


class Connection(msgspec.Struct, frozen=True, kw_only=True):
    """The entries of `connection` that the connector itself understands; all others are the profile's own.

    - `namespace`, `argument`, `soap_action`, `soap_version`, `argument_qualified`: the service where no WSDL says better.
    - `cdata`: send the document in a CDATA section, for servers that do not unescape.
    - `encoding`: of requests; a character it lacks makes the request fail as `charset`.
    - `reply_root`: the root element of a reply's document; junk around it is skipped.
    - `concurrency`: calls at a time within one read that needs several; at most half of `his_concurrency`, so that writes go on.
    The keys of connectors/soap/rules.py stand beside these.
    """

    namespace: str
    argument: str = "XMLRequest"
    argument_qualified: bool = True
    soap_action: str = "{namespace}/{operation}"
    soap_version: SoapVersion = SoapVersion.V11
    cdata: bool = False
    encoding: str = "utf-8"
    reply_root: str = "Response"
    concurrency: int = 4


def read_connection(profile: Profile, settings: dict[str, Any]) -> tuple[Connection, dict[str, Any]]:
    """The profile's connection with the site's settings over it, typed and as a plain dictionary. Raises ProfileError."""
    merged = profile.connection | settings
    try:
        connection = msgspec.convert(merged, Connection)
        codecs.lookup(connection.encoding)
        connection.soap_action.format(namespace="", operation="")
    except (msgspec.ValidationError, LookupError, ValueError) as error:
        profile.fail("connection", str(error))
    return connection, merged
