"""Access tokens from a token server: OAuth 2.0 client credentials (RFC 6749 section 4.4), by a secret or by a signed assertion.

The assertion is that of SMART Backend Services (SMART App Launch 2.x, "Backend Services", "Client Authentication: Asymmetric"):
a JWT of a few minutes with `iss` and `sub` the client's id, `aud` the token endpoint, and a `jti` of its own. The endpoint is
that of the settings, else the one that `[base]/.well-known/smart-configuration` names; a secret goes only to the former.
"""

from __future__ import annotations

import asyncio
import base64
import re
import time
import uuid
from collections.abc import Awaitable, Callable, Sequence
from time import monotonic
from typing import Any
from urllib.parse import quote_plus

import aiohttp
import msgspec
from yarl import URL

from connectors.fhir.auth import Token, TokenRefused
from connectors.fhir.secrets import Secret
from connectors.fhir.signing_keys import SigningKey, publish, read_keys
from connectors.retry_after import retry_after_s
from connectors.tls import TLSContext
from monitoring.logs import get_logger

log = get_logger(__name__)

ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
TIMEOUT_S = 10.0
MAX_BYTES = 100_000
ASSERTION_S = 240  # SMART: at most five minutes; the rest is for clocks that differ
DISCOVERY_S = 3600.0
DEFAULT_S, LEAST_S, MOST_S = 300.0, 1.0, 86_400.0  # of a token whose end nobody tells, or whose end cannot be
MARGIN_S, MARGIN_SHARE = 30.0, 0.2  # renewed so long before its end, or this share of its life if that is less
_TOKEN = re.compile(r"[A-Za-z0-9._~+/=-]{1,50000}")  # RFC 6750 section 2.1
_ERROR = re.compile(r"[a-z_]{1,40}")

Form = dict[str, str]
Proof = Callable[[str], Awaitable[tuple[Form, dict[str, str]]]]
"""Who we are, for a token endpoint: fields of the form, and headers. Raises TokenRefused."""


class TokenServer:
    """Asks one token server. `fetch` is for `connectors.fhir.auth.Tokens`."""

    def __init__(self, endpoint: Discovery | str, proof: Proof, scope: str, http: TokenHttp) -> None:
        self._endpoint, self._proof, self._scope, self._http = endpoint, proof, scope, http

    async def fetch(self) -> Token:
        """A new token. Raises TokenRefused."""
        if isinstance(self._endpoint, str):
            return await self._ask(self._endpoint)
        try:
            return await self._ask(await self._endpoint.find())
        except TokenRefused:
            self._endpoint.forget()
            raise

    async def close(self) -> None:
        """Close every connection. Idempotent."""
        await self._http.close()

    async def _ask(self, address: str) -> Token:
        fields, headers = await self._proof(address)
        form = {"grant_type": "client_credentials", **({"scope": self._scope} if self._scope else {}), **fields}
        began = monotonic()
        status, body, reply = await self._http.ask("POST", address, "the token server", headers=headers, form=form)
        if status != 200:
            told = body.get("error")
            code = f": {told}" if isinstance(told, str) and _ERROR.fullmatch(told) else ""
            wait_s = retry_after_s(reply.get("Retry-After"), reply.get("Date"))
            raise TokenRefused(f"the token server says HTTP {status}{code}", wait_s)
        return _token(body, began)


def _token(body: dict[str, Any], began: float) -> Token:
    """RFC 6749 section 5.1. Raises TokenRefused."""
    value, kind = body.get("access_token"), body.get("token_type")
    if not isinstance(value, str) or not _TOKEN.fullmatch(value):
        raise TokenRefused("the token server's answer has no access_token that HTTP can carry")
    if not isinstance(kind, str) or kind.lower() != "bearer":
        raise TokenRefused("the token server gave a token that is no bearer token")
    life_s = _seconds(body.get("expires_in"))
    margin_s = min(MARGIN_S, life_s * MARGIN_SHARE)
    return Token(value=value, began_at=began, renew_at=began + life_s - margin_s, ends_at=began + life_s)


def _seconds(told: Any) -> float:
    """`expires_in`, which some servers write as a string."""
    if isinstance(told, str) and told.isascii() and told.isdigit():
        told = int(told[:10])
    if isinstance(told, bool) or not isinstance(told, int | float) or told != told:
        return DEFAULT_S
    return float(min(max(told, LEAST_S), MOST_S))


class TokenHttp:
    """The HTTP of token servers: sessions of their own, so that a token never waits behind the calls that wait for it."""

    def __init__(self, tls: TLSContext | None) -> None:
        self._tls = tls
        self._session: aiohttp.ClientSession | None = None

    async def ask(
        self, method: str, address: str, whom: str, *, headers: dict[str, str], form: Form | None = None
    ) -> tuple[int, dict[str, Any], dict[str, str]]:
        """Status, JSON object ({} where there is none) and headers of the reply. No redirect is followed. Raises TokenRefused."""
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=2), cookie_jar=aiohttp.DummyCookieJar(), trust_env=False
            )
        how: dict[str, Any] = {} if self._tls is None else {"ssl": await self._tls.current()}
        try:
            async with self._session.request(
                method,
                URL(address),
                data=form,
                headers={"Accept": "application/json", **headers},
                timeout=aiohttp.ClientTimeout(total=TIMEOUT_S),
                allow_redirects=False,
                **how,
            ) as reply:
                data = await _read(reply, whom)
                return reply.status, _object(data), dict(reply.headers)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            kind = "no answer in time" if isinstance(error, TimeoutError) else type(error).__name__
            raise TokenRefused(f"{whom}: {kind}") from None

    async def close(self) -> None:
        """Close every connection. Idempotent."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()


async def _read(reply: aiohttp.ClientResponse, whom: str) -> bytes:
    data = b""
    async for chunk in reply.content.iter_chunked(16_384):
        data += chunk
        if len(data) > MAX_BYTES:
            raise TokenRefused(f"{whom}: an answer larger than {MAX_BYTES} bytes")
    return data


def _object(data: bytes) -> dict[str, Any]:
    try:
        found = msgspec.json.decode(data)
    except (msgspec.DecodeError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


class SecretProof:
    """A client's id and secret: as Basic, or in the form (RFC 6749 section 2.3.1)."""

    def __init__(self, client_id: str, secret: Secret, *, in_form: bool) -> None:
        self._client_id, self._secret, self._in_form = client_id, secret, in_form

    async def __call__(self, endpoint: str) -> tuple[Form, dict[str, str]]:
        secret = await _from_file(self._secret.read)
        if self._in_form:
            return {"client_id": self._client_id, "client_secret": secret}, {}
        pair = f"{quote_plus(self._client_id)}:{quote_plus(secret)}"
        return {}, {"Authorization": f"Basic {base64.b64encode(pair.encode()).decode()}"}


class AssertionProof:
    """A signed assertion. The keys are read anew for each, so that a new one is used without a restart."""

    def __init__(
        self, client_id: str, key_files: Sequence[str], *, jwks_url: str | None = None, jwks_file: str | None = None
    ) -> None:
        """`jwks_url` is told in the header (`jku`); `jwks_file`: where to write the public keys. Raises ValueError."""
        self._client_id, self._files, self._jwks_file = client_id, tuple(key_files), jwks_file
        self._header = {} if jwks_url is None else {"jku": jwks_url}
        self.keys: list[SigningKey] = read_keys(self._files)

    async def __call__(self, endpoint: str) -> tuple[Form, dict[str, str]]:
        await self.renew()
        claims = {
            "iss": self._client_id,
            "sub": self._client_id,
            "aud": endpoint,
            "exp": int(time.time()) + ASSERTION_S,
            "jti": str(uuid.uuid4()),
        }
        signed = await asyncio.to_thread(self.keys[-1].sign, claims, typ="JWT", **self._header)
        return {"client_assertion_type": ASSERTION_TYPE, "client_assertion": signed}, {}

    async def renew(self) -> None:
        """Take what is in the files now, and publish it; keys that are no good leave those that we have."""
        try:
            self.keys = await asyncio.to_thread(read_keys, self._files)
        except ValueError as error:
            log.error("fhir_signing_keys_not_taken", reason=str(error))
        if self._jwks_file is None:
            return
        try:
            await asyncio.to_thread(publish, self.keys, self._jwks_file)
        except OSError as error:
            log.error("fhir_jwks_not_written", file=self._jwks_file, reason=error.strerror or type(error).__name__)


class Discovery:
    """The token endpoint that `[base]/.well-known/smart-configuration` names; read again after an hour, and after a failure."""

    def __init__(self, base_url: str, http: TokenHttp, algorithm: Callable[[], str]) -> None:
        self._base = URL(base_url.rstrip("/") + "/")
        self._http, self._algorithm = http, algorithm
        self._found: tuple[str, float] | None = None

    def forget(self) -> None:
        """Read it again at the next."""
        self._found = None

    async def find(self) -> str:
        """Its address. Raises TokenRefused."""
        if self._found is not None and monotonic() < self._found[1]:
            return self._found[0]
        where = "smart-configuration"
        status, body, _ = await self._http.ask(
            "GET", str(self._base.join(URL(".well-known/smart-configuration"))), where, headers={}
        )
        endpoint = body.get("token_endpoint")
        if status != 200 or not isinstance(endpoint, str):
            raise TokenRefused(f"{where}: HTTP {status} without a token_endpoint: set token_url")
        self._check(endpoint, body.get("token_endpoint_auth_signing_alg_values_supported"))
        self._found = endpoint, monotonic() + DISCOVERY_S
        return endpoint

    def _check(self, endpoint: str, algorithms: Any) -> None:
        try:
            url = URL(endpoint)
        except ValueError:
            url = URL()
        if url.scheme not in ("http", "https") or not url.host or url.user is not None:
            raise TokenRefused("smart-configuration: its token_endpoint is no address")
        if self._base.scheme == "https" and url.scheme != "https":
            raise TokenRefused("smart-configuration: its token_endpoint is without TLS")
        if isinstance(algorithms, list) and algorithms and self._algorithm() not in algorithms:
            raise TokenRefused(f"smart-configuration: the server does not take {self._algorithm()}: use another key")


async def _from_file(read: Callable[[], str]) -> str:
    try:
        return await asyncio.to_thread(read)
    except ValueError as error:
        raise TokenRefused(str(error)) from None
