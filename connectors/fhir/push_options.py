"""What an operator sets for what a FHIR server tells us: our listener, and the Subscriptions that we ask it for."""

from __future__ import annotations

from typing import Annotated

import msgspec

from connectors.fhir.auth_options import AuthOptions


class PushOptions(AuthOptions, frozen=True, kw_only=True):
    """What the server may send to us (Subscriptions), for a connector that listens.

    - `listen_host`, `listen_port`: ours; 0 lets the system choose, without `listen_port` nothing can be told to us.
      `public_url`: the address that the server calls, and tells its notifications to; its path is the one that we answer at.
    - `notify_secret_file` or `notify_secret_env`: the server shows this secret, as `Authorization: Bearer ...`. Or it shows a
      certificate, see `tls_client_ca_file`. One of the two there must be.
    - `subscribe`: names of the profile's `connection.subscriptions`, which the server is asked for at the start and which are
      looked after. `subscriptions_every_s`: how often.
    - `allow`: addresses and networks that may connect, empty: all. `max_connections_from_his` in all,
      `max_connections_per_peer` of one address. `request_timeout_s`: a request that began must end within it;
      `idle_timeout_s`: a connection without one is closed.
    - `tls_cert_file`, `tls_key_file`: PEM files of the listener; with them it speaks TLS only. `tls_client_ca_file`: the
      authorities of which the server must show a certificate.
    """

    base_url: str
    listen_host: str = "127.0.0.1"
    listen_port: Annotated[int, msgspec.Meta(ge=0, le=65535)] | None = None
    public_url: str | None = None
    notify_secret_file: str | None = None
    notify_secret_env: str | None = None
    subscribe: list[str] = []
    subscriptions_every_s: Annotated[float, msgspec.Meta(gt=0, le=86_400)] = 60.0
    allow: list[str] = []
    max_connections_from_his: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 32
    max_connections_per_peer: Annotated[int, msgspec.Meta(ge=1, le=1000)] | None = None
    request_timeout_s: Annotated[float, msgspec.Meta(gt=0, le=86_400)] = 30.0
    idle_timeout_s: Annotated[float, msgspec.Meta(gt=0, le=86_400)] = 60.0
    tls_cert_file: str | None = None
    tls_key_file: str | None = None
    tls_client_ca_file: str | None = None
