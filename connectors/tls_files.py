"""What is told of certificate files, beginning at 0: Prometheus cannot see the first event of a series that begins with it."""

from __future__ import annotations

from monitoring import metrics


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
