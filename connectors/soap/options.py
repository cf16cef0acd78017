"""What an operator sets for a SOAP connector, and what a SOAP profile's `connection` holds."""

from __future__ import annotations

import codecs
import re
import typing
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from connectors.config import ConnectorOptions
from connectors.soap.envelope import SoapVersion
from connectors.soap.forms import Form, Packing
from connectors.soap.seals import SignSpec
from connectors.soap.served import LayerSpec, OpeningSpec, ServerSpec
from mappings.profile import Profile

MAX_SECRET_BYTES = 10_000
_NAME = re.compile(r"[^\W\d][\w.-]*")


class Transport(StrEnum):
    """How the arguments travel: in a SOAP envelope, in the URL of an HTTP GET, or in the form of an HTTP POST."""

    SOAP = "soap"
    GET = "get"
    FORM = "form"


class Options(ConnectorOptions, frozen=True, kw_only=True):
    """`[hospital.<id>.connector.<name>]` with `protocol = "soap"`. One of `endpoint`, `wsdl` and `listen_port` must be set.

    - `endpoint`: the URL to POST to; wins over the WSDL's address.
    - `wsdl`: a file or URL; left out, the profile's namespace and argument are used as they are.
    - `settings`: replaces entries of the profile's `connection` (hospital number, operator id ...).
    - `max_connections`: TCP connections to the HIS at most, by default `his_concurrency`; `keepalive_s`: how long an idle one
      is kept. Keep it below the server's own: a request on a connection that the server has just closed ends in doubt.
    - `secret_files`: files with the keys and passwords that the profile names, by those names; white space around is dropped.
    - `ca_file`: PEM file of the authority that signed the hospital's certificate; `tls_client_cert_file`,
      `tls_client_key_file`: ours, for mutual TLS.
    - `wsse_key_file`, `wsse_cert_file`: PEM files of the key and the certificate by which `security.sign` of the profile signs.
    - `wsse_his_cert_file`: PEM file of the HIS's certificate: only replies that are signed by its key (WS-Security, X.509) are
      believed. By SHA-1 only where the profile's `security.method` is rsa-sha1.
    - `listen_host`, `listen_port`: ours, for what the HIS calls (`connection.server` of the profile); 0 lets the system choose,
      without `listen_port` nothing can be told to us. `public_url`: the address that our WSDL tells, where it is another one.
    - `allow`: addresses and networks that may connect, empty: all. `max_connections_from_his` in all,
      `max_connections_per_peer` of one address. `request_timeout_s`: a request that began must end within it;
      `idle_timeout_s`: a connection without one is closed.
    - `tls_cert_file`, `tls_key_file`: PEM files of the listener; with them it speaks TLS only. `tls_client_ca_file`: the
      authorities of which the HIS must show a certificate.
    - `send_traceparent`: tell the HIS the trace of a call (W3C Trace Context), for one that is traced itself.
    """

    endpoint: str | None = None
    wsdl: str | None = None
    settings: dict[str, Any] = {}
    max_connections: Annotated[int, msgspec.Meta(ge=1)] | None = None
    keepalive_s: float = 15.0
    secret_files: dict[str, str] = {}
    ca_file: str | None = None
    tls_client_cert_file: str | None = None
    tls_client_key_file: str | None = None
    wsse_key_file: str | None = None
    wsse_cert_file: str | None = None
    wsse_his_cert_file: str | None = None
    listen_host: str = "127.0.0.1"
    listen_port: Annotated[int, msgspec.Meta(ge=0, le=65535)] | None = None
    public_url: str | None = None
    allow: list[str] = []
    max_connections_from_his: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 32
    max_connections_per_peer: Annotated[int, msgspec.Meta(ge=1, le=1000)] | None = None
    request_timeout_s: Annotated[float, msgspec.Meta(gt=0, le=86_400)] = 30.0
    idle_timeout_s: Annotated[float, msgspec.Meta(gt=0, le=86_400)] = 60.0
    tls_cert_file: str | None = None
    tls_key_file: str | None = None
    tls_client_ca_file: str | None = None
    send_traceparent: bool = False


class SecuritySpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """WS-Security of what is sent (OASIS WSS 1.1).

    A UsernameToken: `username`, which may name an entry of the connection; `password` names a secret, `digest` sends it as
    PasswordDigest. `timestamp_s`: a Timestamp that ends after so many seconds. `sign`: body and timestamp are signed with the key
    and the certificate that the settings name (`wsse_key_file`, `wsse_cert_file`), by `method`, rsa-sha256 or rsa-sha1.
    """

    username: str | None = None
    password: str | None = None
    digest: bool = False
    timestamp_s: Annotated[int, msgspec.Meta(ge=1, le=86_400)] | None = None
    sign: bool = False
    method: Literal["rsa-sha256", "rsa-sha1"] = "rsa-sha256"


class Connection(msgspec.Struct, frozen=True, kw_only=True):
    """The entries of `connection` that the connector itself understands; all others are the profile's own.

    The call
    - `namespace`, `soap_action`, `soap_version`, `argument_qualified`: the service where no WSDL says better.
    - `operation`: the one operation for all trades, whatever verbs name; without it each verb's own is called.
    - `arguments`: names and what each carries, as a request tree; `argument` is short for one that carries the document.
    - `transport`: soap, get or form. `encoding`: of requests; a character it lacks makes the request fail as `charset`.
      `encoding_label`: what envelope and HTTP header call it, where that is another name: gb2312 for what is GBK.
    - `cdata`: arguments stand in CDATA sections, for servers that do not unescape.
    - `header`: elements of the SOAP header, by `{namespace}name`; `security`: see SecuritySpec.
    The request's document
    - `form`: xml, json or packed, with `packing`; `prolog`: what stands before it, as it is.
    - `layers`: documents around it, innermost first: see LayerSpec.
    The reply
    - `reply_argument`: the element of the answer that has it, where it is not the first.
    - `reply_form`, `reply_packing`; `reply_root`: the root of its tree; in XML junk around it is skipped, and with
      `reply_fragment` several elements stand under it: true, or the name of the first of them, before which junk is skipped.
    - `reply_sign`: the signature over its own elements, which must hold; `opens`: documents inside it: see OpeningSpec.
    - `concurrency`: calls at a time within one read that needs several; at most half of `his_concurrency`, so that writes go on.
    - `server`: what the HIS calls at our side: see ServerSpec.
    The keys of connectors/soap/rules.py stand beside these.
    """

    namespace: str
    operation: str | None = None
    argument: str = "XMLRequest"
    arguments: dict[str, Any] = {}
    argument_qualified: bool = True
    soap_action: str = "{namespace}/{operation}"
    soap_version: SoapVersion = SoapVersion.V11
    transport: Transport = Transport.SOAP
    encoding: str = "utf-8"
    encoding_label: Annotated[str, msgspec.Meta(pattern="^[A-Za-z][A-Za-z0-9._-]{1,39}$")] | None = None
    cdata: bool = False
    header: dict[str, Any] = {}
    security: SecuritySpec | None = None
    form: Form = Form.XML
    packing: Packing | None = None
    prolog: str = ""
    layers: tuple[LayerSpec, ...] = ()
    reply_argument: str | None = None
    reply_form: Form = Form.XML
    reply_root: str = "Response"
    reply_fragment: bool | str = False
    reply_packing: Packing | None = None
    reply_sign: SignSpec | None = None
    opens: tuple[OpeningSpec, ...] = ()
    concurrency: int = 4
    server: ServerSpec | None = None

    @property
    def label(self) -> str:
        """What the encoding is called in envelope and HTTP header."""
        return self.encoding_label or self.encoding

    @property
    def named_arguments(self) -> dict[str, Any]:
        """The arguments, in order, as a request tree."""
        return self.arguments or {self.argument: {"from": "document"}}


def read_connection(profile: Profile, settings: dict[str, Any]) -> tuple[Connection, dict[str, Any]]:
    """The profile's connection with the site's settings over it, typed and as a plain dictionary. Raises ProfileError."""
    merged = profile.connection | settings
    try:
        connection = msgspec.convert(merged, Connection)
    except msgspec.ValidationError as error:
        profile.fail(*_place_and_hint(error))
    _check_texts(profile, connection)
    if connection.form is Form.PACKED and connection.packing is None:
        profile.fail("connection.form", "form: packed needs `packing: {fields: SEPARATOR}`")
    if connection.reply_form is Form.PACKED and connection.reply_packing is None:
        profile.fail(
            "connection.reply_form", "reply_form: packed needs `reply_packing: {fields: SEPARATOR, names: [...]}`"
        )
    if connection.transport is not Transport.SOAP and (connection.header or connection.security):
        profile.fail("connection.transport", "only `transport: soap` has a header")
    if connection.form is Form.TYPED and connection.cdata:
        profile.fail("connection.cdata", "`form: typed` has no document that could stand in a CDATA section")
    if connection.security is not None and connection.security.sign and connection.cdata:
        profile.fail(
            "connection.cdata", "a signed envelope has no CDATA: what is signed would be written in another way"
        )
    return connection, merged


# msgspec says what kinds JSON has; who writes YAML knows them by other names.
_KINDS = {
    "`object`": "a mapping", "`array`": "a list", "`str`": "a text (in quotes, where it looks like a number)",
    "`bool`": "true or false", "`int`": "a whole number", "`float`": "a number",
}  # fmt: skip


def _place_and_hint(error: msgspec.ValidationError) -> tuple[str, str]:
    """The YAML path, and what is to stand there."""
    said, _, place = str(error).partition(" - at `$")
    place = place.rstrip("`")
    for kind, words in _KINDS.items():
        said = said.replace(kind, words)
    said = said.replace("Object missing required field", "it needs").replace("Object contains unknown field", "no key")
    kind_of = typing.get_type_hints(Connection).get(place.lstrip("."))
    words = f": one of {', '.join(kind_of)}" if isinstance(kind_of, type) and issubclass(kind_of, StrEnum) else ""
    return f"connection{place}", said + words


def _check_texts(profile: Profile, connection: Connection) -> None:
    """What is a text, and not any text. Raises ProfileError."""
    try:
        "".encode(connection.encoding)
        codecs.lookup(connection.encoding)
    except LookupError:
        hint = (
            f"no encoding {connection.encoding}: utf-8, gbk, gb18030 (with `encoding_label` for what the peer calls it)"
        )
        profile.fail("connection.encoding", hint)
    try:
        connection.soap_action.format(namespace="", operation="")
    except (LookupError, ValueError):
        profile.fail("connection.soap_action", "soap_action: a text that may hold {namespace} and {operation}")
    names = {"reply_root": connection.reply_root} | {f"opens[{n}].root": o.root for n, o in enumerate(connection.opens)}
    for key, name in names.items():
        if not _NAME.fullmatch(name):
            profile.fail(f"connection.{key}", f"{key.rpartition('.')[2]}: the name of an element, without / and prefix")


def read_secrets(files: dict[str, str]) -> dict[str, bytes]:
    """The secrets by their names. Raises ValueError, which names the file and never what is in it."""
    secrets = {}
    for name, path in files.items():
        try:
            with Path(path).open("rb") as file:
                data = file.read(MAX_SECRET_BYTES + 1).strip()
        except OSError as error:
            raise ValueError(f"secret_files.{name}: {path}: {error.strerror or error}") from None
        if not data or len(data) > MAX_SECRET_BYTES:
            raise ValueError(f"secret_files.{name}: {path}: empty, or larger than {MAX_SECRET_BYTES} bytes")
        secrets[name] = data
    return secrets
