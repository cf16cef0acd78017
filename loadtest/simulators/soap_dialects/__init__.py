"""The SOAP dialects that the simulated hospital speaks, by name."""

from __future__ import annotations

from loadtest.simulators.soap_dialects.bsoft import BSoft
from loadtest.simulators.soap_dialects.dhc import Esb, Gateway, SelfService
from loadtest.simulators.soap_dialects.jkt12320 import PubService
from loadtest.simulators.soap_dialects.jkt12320_calls import Calls
from loadtest.simulators.soap_dialects.neusoft import Neusoft
from loadtest.simulators.soap_dialects.pipe import Pipe
from loadtest.simulators.soap_dialects.speaking import Caller, Dialect
from loadtest.simulators.soap_dialects.zoesoft import Zoesoft
from loadtest.simulators.soap_dialects.zysoft import Zysoft

DIALECTS: dict[str, type[Dialect]] = {
    "dhc": SelfService,
    "dhc_gateway": Gateway,
    "dhc_esb": Esb,
    "bsoft": BSoft,
    "zoesoft": Zoesoft,
    "jkt12320": PubService,
    "pipe": Pipe,
    "neusoft": Neusoft,
    "zysoft": Zysoft,
}

CALLERS: dict[str, type[Caller]] = {"jkt12320": Calls}
"""Those of them that call the other side."""
