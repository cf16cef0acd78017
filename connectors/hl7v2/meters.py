"""What a listener counts, and what is told of certificate files, beginning at 0.

Of a series that begins with its first event Prometheus cannot see that event.
"""

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

    def refused(self, reason: str) -> None:
        self._refused[reason].inc()

    def ended(self, reason: str) -> None:
        self._ended[reason].inc()

    def handshake_failed(self, reason: str) -> None:
        self._failed[reason].inc()


class FilesMeter:
    """The certificate files of one side of a connector; it is told after each change whether they were taken."""

    def __init__(self, hospital: str, connector: str, side: str) -> None:
        """`side`: listener or client."""
        labels = {"hospital": hospital, "connector": connector}
        self._renewed = {r: metrics.tls_files.labels(**labels, result=r) for r in metrics.TLS_FILES}
        self._not_taken = metrics.tls_files_not_taken.labels(**labels, side=side)
        self._not_taken.set(0)

    def __call__(self, taken: bool) -> None:
        self._renewed["taken" if taken else "not_taken"].inc()
        self._not_taken.set(0 if taken else 1)
