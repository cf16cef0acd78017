"""What a listener counts, beginning at 0.

Of a series that begins with its first event Prometheus cannot see that event.
"""

from __future__ import annotations

from connectors.tls_files import FilesMeter
from monitoring import metrics


class ListenerMeters:
    """The series of one listener. `refused`, `ended` and `handshake_failed` take the reasons that `metrics` lists."""

    def __init__(self, hospital: str, connector: str) -> None:
        self.labels = labels = {"hospital": hospital, "connector": connector}
        self.open = metrics.mllp_connections.labels(**labels)
        self.throttled = metrics.mllp_throttled.labels(**labels)
        self.renewed = FilesMeter(hospital, connector, "listener")
        self._refused = {r: metrics.mllp_connections_refused.labels(**labels, reason=r) for r in metrics.MLLP_REFUSED}
        self._ended = {r: metrics.mllp_connections_ended.labels(**labels, reason=r) for r in metrics.MLLP_ENDED}
        self._failed = {
            r: metrics.mllp_handshakes_failed.labels(**labels, reason=r) for r in metrics.MLLP_HANDSHAKES_FAILED
        }

    def refused(self, reason: str) -> None:
        self._refused[reason].inc()

    def ended(self, reason: str) -> None:
        self._ended[reason].inc()

    def handshake_failed(self, reason: str) -> None:
        self._failed[reason].inc()
