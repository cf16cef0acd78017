"""The SOAP dialects that the simulated hospital speaks, by name."""

from __future__ import annotations

from loadtest.simulators.soap_dialects.dhc import Esb, Gateway, SelfService
from loadtest.simulators.soap_dialects.speaking import Dialect

DIALECTS: dict[str, type[Dialect]] = {"dhc": SelfService, "dhc_gateway": Gateway, "dhc_esb": Esb}
