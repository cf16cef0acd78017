"""HL7 v2 over MLLP: the connector for hospitals that speak SIU, SRM, SQM, QBP, ADT, ORU, DFT and MFN."""

from connectors.hl7v2.connector import HL7v2Connector, create
from connectors.hl7v2.options import Options

__all__ = ["HL7v2Connector", "Options", "create"]
