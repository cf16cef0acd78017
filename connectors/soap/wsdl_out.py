"""The WSDL of our side, served at `?wsdl`: document/literal, wrapped, every argument a string (WSDL 1.1; WS-I BP 1.1).

Two ports say the same, for SOAP 1.1 and 1.2 (W3C note "WSDL 1.1 Binding Extension for SOAP 1.2").
"""

from __future__ import annotations

from lxml import etree

from connectors.soap.served import ServerSpec

_WSDL = "http://schemas.xmlsoap.org/wsdl/"
_XSD = "http://www.w3.org/2001/XMLSchema"
_SOAP = {"Soap": "http://schemas.xmlsoap.org/wsdl/soap/", "Soap12": "http://schemas.xmlsoap.org/wsdl/soap12/"}
_HTTP = "http://schemas.xmlsoap.org/soap/http"


def write_wsdl(spec: ServerSpec, namespace: str, address: str) -> bytes:
    """The document for a service at `address`."""
    names = {None: _WSDL, "xsd": _XSD, "tns": namespace, "soap": _SOAP["Soap"], "soap12": _SOAP["Soap12"]}
    root = etree.Element(f"{{{_WSDL}}}definitions", nsmap=names, name=spec.service, targetNamespace=namespace)  # type: ignore[arg-type]
    _types(etree.SubElement(root, f"{{{_WSDL}}}types"), spec, namespace)
    for operation in spec.operations:
        for message in (operation, f"{operation}Response"):
            part = etree.SubElement(root, f"{{{_WSDL}}}message", name=message)
            etree.SubElement(part, f"{{{_WSDL}}}part", name="parameters", element=f"tns:{message}")
    port_type = etree.SubElement(root, f"{{{_WSDL}}}portType", name=f"{spec.service}PortType")
    for operation in spec.operations:
        entry = etree.SubElement(port_type, f"{{{_WSDL}}}operation", name=operation)
        etree.SubElement(entry, f"{{{_WSDL}}}input", message=f"tns:{operation}")
        etree.SubElement(entry, f"{{{_WSDL}}}output", message=f"tns:{operation}Response")
    for suffix in _SOAP:
        _binding(root, spec, namespace, suffix)
    service = etree.SubElement(root, f"{{{_WSDL}}}service", name=spec.service)
    for suffix, soap in _SOAP.items():
        name = f"{spec.service}{suffix}"
        port = etree.SubElement(service, f"{{{_WSDL}}}port", name=name, binding=f"tns:{name}")
        etree.SubElement(port, f"{{{soap}}}address", location=address)
    return etree.tostring(root, encoding="utf-8", xml_declaration=True, pretty_print=True)


def _types(types: etree._Element, spec: ServerSpec, namespace: str) -> None:
    form = "qualified" if spec.qualified else "unqualified"
    schema = etree.SubElement(types, f"{{{_XSD}}}schema", targetNamespace=namespace, elementFormDefault=form)
    for operation, arguments in spec.operations.items():
        _element(schema, operation, arguments)
        _element(schema, f"{operation}Response", (spec.result_of(operation),))


def _element(schema: etree._Element, name: str, strings: tuple[str, ...]) -> None:
    element = etree.SubElement(schema, f"{{{_XSD}}}element", name=name)
    sequence = etree.SubElement(etree.SubElement(element, f"{{{_XSD}}}complexType"), f"{{{_XSD}}}sequence")
    for one in strings:
        etree.SubElement(sequence, f"{{{_XSD}}}element", name=one, type="xsd:string", minOccurs="0")


def _binding(root: etree._Element, spec: ServerSpec, namespace: str, suffix: str) -> None:
    soap, name = _SOAP[suffix], f"{spec.service}{suffix}"
    binding = etree.SubElement(root, f"{{{_WSDL}}}binding", name=name, type=f"tns:{spec.service}PortType")
    etree.SubElement(binding, f"{{{soap}}}binding", style="document", transport=_HTTP)
    for operation in spec.operations:
        entry = etree.SubElement(binding, f"{{{_WSDL}}}operation", name=operation)
        action = spec.soap_action.format(namespace=namespace, operation=operation)
        etree.SubElement(entry, f"{{{soap}}}operation", soapAction=action, style="document")
        for way in ("input", "output"):
            etree.SubElement(etree.SubElement(entry, f"{{{_WSDL}}}{way}"), f"{{{soap}}}body", use="literal")
