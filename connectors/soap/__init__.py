"""HIS that speak SOAP with one text argument: an XML document in a string (DHC self-service and its relatives)."""

from connectors.soap.connector import SoapConnector, create
from connectors.soap.options import Options

__all__ = ["Options", "SoapConnector", "create"]
