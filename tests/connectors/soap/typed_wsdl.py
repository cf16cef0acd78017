"""The WSDL of a typed service, as Java and .NET stacks write them: as many operations as are wanted, all alike but one."""

from __future__ import annotations

from pathlib import Path

NAMESPACE = "urn:his"

_TYPES = """
<xs:element name="{name}"><xs:complexType><xs:sequence>
  <xs:element name="deptCode" type="xs:string"/><xs:element name="beginDate" type="xs:date"/>
  <xs:element name="pageSize" type="xs:int" minOccurs="0"/><xs:element name="query" type="tns:Query" minOccurs="0"/>
</xs:sequence></xs:complexType></xs:element>
<xs:element name="{name}Response"><xs:complexType><xs:sequence>
  <xs:element name="return" type="tns:Answer"/>
</xs:sequence></xs:complexType></xs:element>
"""
_PARTS = """
<message name="{name}"><part name="parameters" element="tns:{name}"/></message>
<message name="{name}Response"><part name="parameters" element="tns:{name}Response"/></message>
"""
_PORT = """
<operation name="{name}"><input message="tns:{name}"/><output message="tns:{name}Response"/></operation>
"""
_BINDING = """
<operation name="{name}"><soap:operation soapAction="urn:{name}"/>
<input><soap:body use="literal"/></input><output><soap:body use="literal"/></output></operation>
"""
_WSDL = """<?xml version="1.0" encoding="UTF-8"?>
<definitions xmlns="http://schemas.xmlsoap.org/wsdl/" xmlns:soap="http://schemas.xmlsoap.org/wsdl/soap/"
 xmlns:tns="{namespace}" xmlns:xs="http://www.w3.org/2001/XMLSchema" targetNamespace="{namespace}" name="His">
<types><xs:schema targetNamespace="{namespace}" elementFormDefault="{form}">
<xs:complexType name="Query"><xs:sequence>
  <xs:element name="word" type="xs:string" maxOccurs="unbounded"/><xs:element name="exact" type="xs:boolean"/>
</xs:sequence></xs:complexType>
<xs:complexType name="Dept"><xs:sequence>
  <xs:element name="code" type="xs:string"/><xs:element name="name" type="xs:string" nillable="true"/>
  <xs:element name="opened" type="xs:dateTime" minOccurs="0"/><xs:element name="fee" type="xs:decimal" minOccurs="0"/>
</xs:sequence></xs:complexType>
<xs:complexType name="Answer"><xs:sequence>
  <xs:element name="returnCode" type="xs:int"/><xs:element name="returnDesc" type="xs:string" minOccurs="0"/>
  <xs:element name="dept" type="tns:Dept" minOccurs="0" maxOccurs="unbounded"/>
</xs:sequence></xs:complexType>
{types}
</xs:schema></types>
{messages}
<portType name="HisPort">{ports}</portType>
<binding name="HisBinding" type="tns:HisPort"><soap:binding transport="http://schemas.xmlsoap.org/soap/http"/>{bindings}</binding>
<service name="His"><port name="HisPort" binding="tns:HisBinding"><soap:address location="{address}"/></port></service>
</definitions>
"""


def write_wsdl(file: Path, address: str, *, operations: int = 2, qualified: bool = True) -> Path:
    """A WSDL with `getDepts` and so many others."""
    names = ["getDepts", *(f"operation{n}" for n in range(1, operations))]
    parts = {
        key: "".join(text.format(name=name) for name in names)
        for key, text in (("types", _TYPES), ("messages", _PARTS), ("ports", _PORT), ("bindings", _BINDING))
    }
    form = "qualified" if qualified else "unqualified"
    file.write_text(_WSDL.format(namespace=NAMESPACE, form=form, address=address, **parts), "utf-8")
    return file
