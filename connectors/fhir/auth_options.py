"""What an operator sets for how we are let in at a FHIR server, and what is made of it."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Literal
from urllib.parse import urlsplit

from connectors.config import ConnectorOptions
from connectors.fhir.auth import Auth, NoAuth, Shown, Tokens
from connectors.fhir.secrets import Secret
from connectors.fhir.tokens import AssertionProof, Discovery, SecretProof, TokenHttp, TokenServer
from connectors.tls import TLSContext, client_context
from connectors.tls_files import FilesMeter
from monitoring import metrics

# The settings that each way reads, beyond those that all of them do.
_READS = {
    "none": (),
    "basic": ("username", "password_file", "password_env"),
    "bearer": ("token_file", "token_env"),
    "client_credentials": (
        "token_url", "client_id", "client_secret_file", "client_secret_env", "client_auth", "scope",
    ),
    "smart": ("token_url", "client_id", "scope", "signing_key_files", "jwks_file", "jwks_url"),
}  # fmt: skip


class AuthOptions(ConnectorOptions, frozen=True, kw_only=True):
    """How we are let in at a FHIR server; secrets stand in files or in the environment, never in the settings themselves.

    - `auth`: none, basic, bearer, client_credentials (OAuth 2.0, by a secret) or smart (SMART Backend Services, by a signed
      assertion). Left out: bearer where there is a `token_file` or `token_env`, else none.
    - `username` with `password_file` or `password_env`: basic. `token_file` or `token_env`: bearer.
    - `token_url`: the token server; smart finds it by `[base]/.well-known/smart-configuration` where it is left out. `client_id`,
      and `scope`, as in "system/*.rs". `client_secret_file` or `client_secret_env`; `client_auth`: basic or form.
    - `signing_key_files`: private keys of smart, PEM or JWK, RSA (RS384) or P-384 (ES384). The last one signs, all are published.
      `jwks_file`: where to write the public keys, for a web server to publish; `jwks_url`: where they are, for the token server.
    - `ca_file`: PEM file of the authority that signed the server's certificate; `tls_client_cert_file`, `tls_client_key_file`:
      ours, for mutual TLS. Renewed files serve the next connection.
    """

    auth: Literal["none", "basic", "bearer", "client_credentials", "smart"] | None = None
    username: str | None = None
    password_file: str | None = None
    password_env: str | None = None
    token_file: str | None = None
    token_env: str | None = None
    token_url: str | None = None
    client_id: str | None = None
    client_secret_file: str | None = None
    client_secret_env: str | None = None
    client_auth: Literal["basic", "form"] = "basic"
    scope: str = ""
    signing_key_files: list[str] = []
    jwks_file: str | None = None
    jwks_url: str | None = None
    ca_file: str | None = None
    tls_client_cert_file: str | None = None
    tls_client_key_file: str | None = None


def make_tls(options: AuthOptions, base_url: str, where: dict[str, str]) -> TLSContext | None:
    """The client's context; None where the system's is enough. Raises ValueError, BadTLSFiles."""
    ours = options.ca_file, options.tls_client_cert_file, options.tls_client_key_file
    if not any(ours):
        return None
    if options.tls_client_key_file is not None and options.tls_client_cert_file is None:
        raise ValueError("tls_client_key_file needs tls_client_cert_file")
    if urlsplit(base_url).scheme != "https":
        raise ValueError("ca_file and tls_client_cert_file are of TLS, and base_url is without it")
    return client_context(
        ca_file=options.ca_file,
        cert_file=options.tls_client_cert_file,
        key_file=options.tls_client_key_file,
        on_renewed=FilesMeter(**where, side="client"),
        where=where,
    )


def make_auth(options: AuthOptions, base_url: str, tls: TLSContext | None, where: dict[str, str]) -> Auth:
    """What the client shows. `where`: hospital and connector. Raises ValueError for settings that are no good."""
    kind = options.auth or ("bearer" if options.token_file or options.token_env else "none")
    _check_unused(options, kind)
    if kind == "none":
        return NoAuth()
    if kind == "bearer":
        token = Secret("token", options.token_file, options.token_env)
        return Shown(lambda: f"Bearer {token.read()}")
    if kind == "basic":
        return Shown(_basic(options))
    if options.client_id is None:
        raise ValueError(f"auth = {kind!r} needs client_id")
    if options.token_url is not None:
        _check_token_url(options.token_url, base_url)
    server = _secret_server(options, options.client_id, tls) if kind == "client_credentials" else None
    return _tokens(server or _smart_server(options, options.client_id, base_url, tls), where)


def _check_unused(options: AuthOptions, kind: str) -> None:
    """What would be left aside in silence is a mistake: another way was meant, or a secret lies about."""
    for names in _READS.values():
        for name in names:
            if name not in _READS[kind] and getattr(options, name) != getattr(_DEFAULTS, name):
                raise ValueError(f"{name} is not used with auth = {kind!r}")


_DEFAULTS = AuthOptions(protocol="fhir", profile="")


def _check_token_url(token_url: str, base_url: str) -> None:
    url = urlsplit(token_url)
    if url.scheme not in ("http", "https") or not url.hostname or url.username is not None:
        raise ValueError("token_url: an address, as in https://his.example/oauth2/token")
    if url.scheme == "http" and urlsplit(base_url).scheme == "https":
        raise ValueError("token_url is without TLS, and base_url is not")


def _basic(options: AuthOptions) -> Callable[[], str]:
    username, password = options.username, Secret("password", options.password_file, options.password_env)
    if not username or ":" in username:  # RFC 7617 section 2
        raise ValueError("username: a name without a colon")
    return lambda: f"Basic {base64.b64encode(f'{username}:{password.read()}'.encode()).decode()}"


def _secret_server(options: AuthOptions, client_id: str, tls: TLSContext | None) -> TokenServer:
    if options.token_url is None:
        raise ValueError("auth = 'client_credentials' needs token_url: a secret goes nowhere else")
    secret = Secret("client_secret", options.client_secret_file, options.client_secret_env)
    secret.read()
    proof = SecretProof(client_id, secret, in_form=options.client_auth == "form")
    return TokenServer(options.token_url, proof, options.scope, TokenHttp(tls))


def _smart_server(options: AuthOptions, client_id: str, base_url: str, tls: TLSContext | None) -> TokenServer:
    if not options.signing_key_files:
        raise ValueError("auth = 'smart' needs signing_key_files")
    if not options.scope:
        raise ValueError("auth = 'smart' needs a scope, as in 'system/*.rs system/Appointment.cruds'")
    http = TokenHttp(tls)
    proof = AssertionProof(client_id, options.signing_key_files, jwks_url=options.jwks_url, jwks_file=options.jwks_file)
    endpoint = options.token_url or Discovery(base_url, http, lambda: proof.keys[-1].algorithm)
    return TokenServer(endpoint, proof, options.scope, http)


def _tokens(server: TokenServer, where: dict[str, str]) -> Tokens:
    counted = {ok: metrics.fhir_tokens.labels(**where, result=r) for ok, r in ((True, "given"), (False, "not_given"))}
    return Tokens(server.fetch, on_fetched=lambda ok: counted[ok].inc(), where=where, close=server.close)
