"""What a listener counts, beginning at 0: of a series that begins with its first event Prometheus cannot see that event."""

from __future__ import annotations

from monitoring import metrics


class ListenerMeters:
    """The series of one listener. `refused`, `ended` and `handshake_failed` take the reasons that `metrics` lists."""

    def __init__(self, hospital: str, connector: str) -> None:
        self.labels = labels = {"hospital": hospital, "connector": connector}
        self.open = metrics.mllp_connections.labels(**labels)
        self.throttled = metrics.mllp_throttled.labels(**labels)
        self._refused = {r: metrics.mllp_connections_refused.labels(**labels, reason=r) for r in metrics.MLLP_REFUSED}
        self._ended = {r: metrics.mllp_connections_ended.labels(**labels, reason=r) for r in metrics.MLLP_ENDED}
        self._failed = {
            r: metrics.mllp_handshakes_failed.labels(**labels, reason=r) for r in metrics.MLLP_HANDSHAKES_FAILED
        }
        self._renewed = {r: metrics.tls_files.labels(**labels, result=r) for r in metrics.TLS_FILES}

    def refused(self, reason: str) -> None:
        self._refused[reason].inc()

    def ended(self, reason: str) -> None:
        self._ended[reason].inc()

    def handshake_failed(self, reason: str) -> None:
        self._failed[reason].inc()

    def renewed(self, good: bool) -> None:
        """The files of a certificate have changed."""
        self._renewed["taken" if good else "not_taken"].inc()
