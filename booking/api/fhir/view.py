"""For whom, when and under which address resources are shown."""

from __future__ import annotations

import datetime as dt
from typing import NamedTuple

from booking.api.fhir.seen import SeenReports
from booking.settings import Hospital


class View(NamedTuple):
    """One request's view of a hospital; `now_ms` by the store's clock, `base` absolute, `scopes` the key's."""

    hospital: Hospital
    client_id: str
    now_ms: int
    base: str
    scopes: frozenset[str] = frozenset()
    seen: SeenReports | None = None
    """Where reports are noted that were looked at, for the record of reads."""

    @property
    def zone(self) -> dt.tzinfo:
        return self.hospital.zone

    @property
    def today(self) -> dt.date:
        return dt.datetime.fromtimestamp(self.now_ms / 1000, self.zone).date()

    @property
    def horizon(self) -> dt.date:
        """The last day that the hospital releases."""
        return self.today + dt.timedelta(days=self.hospital.horizon_days)

    @property
    def origin(self) -> str:
        """The address of the API itself."""
        return self.base.partition("/fhir/R4")[0]
