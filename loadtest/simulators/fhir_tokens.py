"""The token server beside the simulated FHIR server: OAuth 2.0 client credentials, by a secret or by a signed assertion.

An assertion is judged as SMART Backend Services demands: RS384 or ES384, a `kid` that the client's JWKS has, `iss` and `sub` its
id, `aud` this very endpoint, an end at most five minutes ahead, a `jti` that was not seen before.
"""

from __future__ import annotations

import base64
import itertools
import json
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote_plus

import jwt
from aiohttp import web

ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
ALGORITHMS = ["RS384", "ES384"]


class TokenDesk:
    """Gives tokens that end, and knows them again."""

    def __init__(
        self,
        client_id: str = "hisbridge",
        *,
        secret: str | None = None,
        jwks: Callable[[], dict[str, Any]] | None = None,
        expires_in: Any = 300,
    ) -> None:
        """`jwks` gives the client's public keys as they are published now. `expires_in` is told as it is, None: not at all."""
        self.client_id, self.secret, self.jwks, self.expires_in = client_id, secret, jwks, expires_in
        self.algorithms = ALGORITHMS
        self.lets_in = True
        self.given: list[str] = []
        self.asked: list[dict[str, str]] = []
        self.refusals: list[web.Response] = []
        self.kids: list[str] = []
        self._good: dict[str, float] = {}
        self._seen: set[str] = set()
        self._numbers = itertools.count(1)

    def is_good(self, authorization: str | None) -> bool:
        """Whether a request with this header is let in."""
        kind, _, value = (authorization or "").partition(" ")
        return self.lets_in and kind == "Bearer" and self._good.get(value, 0.0) > time.monotonic()

    def expire(self) -> None:
        """Every token given so far is over."""
        self._good.clear()

    async def configuration(self, request: web.Request) -> web.Response:
        """`[base]/.well-known/smart-configuration`."""
        return web.json_response(
            {
                "token_endpoint": self._endpoint(request),
                "token_endpoint_auth_methods_supported": ["private_key_jwt"],
                "token_endpoint_auth_signing_alg_values_supported": self.algorithms,
                "grant_types_supported": ["client_credentials"],
                "capabilities": ["client-confidential-asymmetric"],
            }
        )

    async def token(self, request: web.Request) -> web.Response:
        """The token endpoint."""
        form = {name: str(value) for name, value in (await request.post()).items()}
        self.asked.append(form | {"authorization": request.headers.get("Authorization", "")})
        if self.refusals:
            return self.refusals.pop(0)
        if form.get("grant_type") != "client_credentials":
            return _error("unsupported_grant_type")
        if not (self._knows_secret(request, form) or self._knows_assertion(request, form)):
            return _error("invalid_client", 401)
        value = f"token-{next(self._numbers)}"
        self.given.append(value)
        life_s = max(1.0, float(self.expires_in)) if str(self.expires_in).isdigit() else 300.0
        self._good[value] = time.monotonic() + life_s
        told = {} if self.expires_in is None else {"expires_in": self.expires_in}
        return web.json_response(
            {"access_token": value, "token_type": "bearer", "scope": form.get("scope", ""), **told},
            headers={"Cache-Control": "no-store"},
        )

    def _knows_secret(self, request: web.Request, form: dict[str, str]) -> bool:
        if self.secret is None:
            return False
        kind, _, value = request.headers.get("Authorization", "").partition(" ")
        if kind == "Basic":
            name, _, secret = base64.b64decode(value).decode().partition(":")
            return (unquote_plus(name), unquote_plus(secret)) == (self.client_id, self.secret)
        return (form.get("client_id"), form.get("client_secret")) == (self.client_id, self.secret)

    def _knows_assertion(self, request: web.Request, form: dict[str, str]) -> bool:
        if self.jwks is None or form.get("client_assertion_type") != ASSERTION_TYPE:
            return False
        text = form.get("client_assertion", "")
        try:
            head = jwt.get_unverified_header(text)
            key = next(key for key in self.jwks()["keys"] if key["kid"] == head["kid"])
            claims = jwt.decode(
                text,
                jwt.PyJWK.from_json(json.dumps(key)).key,
                algorithms=[key["alg"]],
                audience=self._endpoint(request),
                issuer=self.client_id,
                options={"require": ["exp", "iss", "sub", "aud", "jti"]},
            )
        except (jwt.PyJWTError, StopIteration, KeyError, ValueError):
            return False
        fresh = claims["jti"] not in self._seen and claims["exp"] - time.time() <= 300
        self._seen.add(claims["jti"])
        self.kids.append(head["kid"])
        return fresh and claims["sub"] == self.client_id and head["alg"] in self.algorithms and head["typ"] == "JWT"

    @staticmethod
    def _endpoint(request: web.Request) -> str:
        return f"{request.scheme}://{request.host}/oauth2/token"


def _error(code: str, status: int = 400) -> web.Response:
    return web.json_response({"error": code}, status=status)
