"""One reply of many schedules, as a DHC hospital gives it in a string, and with the same data as typed elements."""

from __future__ import annotations

import datetime as dt
from xml.sax.saxutils import escape

ROWS = 500
NAMESPACE = "http://tempuri.org"
OPERATION = "QueryAdmSchedule"
_ENVELOPE = "http://schemas.xmlsoap.org/soap/envelope/"
_TYPES = {
    "ScheduleItemCode": "string",
    "ServiceDate": "date",
    "SessionCode": "string",
    "SessionName": "string",
    "StartTime": "string",
    "EndTime": "string",
    "DepartmentCode": "string",
    "DepartmentName": "string",
    "DoctorCode": "string",
    "DoctorName": "string",
    "DoctorTitle": "string",
    "DoctorSessType": "string",
    "Fee": "decimal",
    "RegFee": "decimal",
    "CheckupFee": "decimal",
    "AvailableNumStr": "string",
    "TimeRangeFlag": "string",
    "ScheduleStatus": "string",
    "AvailableTotalNum": "int",
    "AvailableLeftNum": "int",
    "AdmitAddress": "string",
}


def packed_reply(rows: int = ROWS) -> bytes:
    """The document in a string, as the dialect has it."""
    document = f"<Response>{_document(rows)}</Response>"
    return _enveloped(escape(document))


def typed_reply(rows: int = ROWS) -> bytes:
    """The same elements, as the parts of the operation's result."""
    return _enveloped(_document(rows))


def typed_wsdl() -> str:
    """The WSDL that types them."""
    fields = "".join(f'<xs:element name="{name}" type="xs:{kind}"/>' for name, kind in _TYPES.items())
    return f"""<?xml version="1.0" encoding="UTF-8"?>
<definitions xmlns="http://schemas.xmlsoap.org/wsdl/" xmlns:soap="http://schemas.xmlsoap.org/wsdl/soap/"
 xmlns:tns="{NAMESPACE}" xmlns:xs="http://www.w3.org/2001/XMLSchema" targetNamespace="{NAMESPACE}" name="His">
<types><xs:schema targetNamespace="{NAMESPACE}" elementFormDefault="qualified">
<xs:complexType name="Schedule"><xs:sequence>{fields}</xs:sequence></xs:complexType>
<xs:complexType name="Schedules"><xs:sequence>
 <xs:element name="Schedule" type="tns:Schedule" minOccurs="0" maxOccurs="unbounded"/>
</xs:sequence></xs:complexType>
<xs:complexType name="Response"><xs:sequence>
 <xs:element name="ResultCode" type="xs:string"/><xs:element name="ResultContent" type="xs:string"/>
 <xs:element name="RecordCount" type="xs:int"/><xs:element name="Schedules" type="tns:Schedules"/>
</xs:sequence></xs:complexType>
<xs:element name="{OPERATION}"><xs:complexType><xs:sequence>
 <xs:element name="XMLRequest" type="xs:string"/>
</xs:sequence></xs:complexType></xs:element>
<xs:element name="{OPERATION}Response"><xs:complexType><xs:sequence>
 <xs:element name="{OPERATION}Result" type="tns:Response"/>
</xs:sequence></xs:complexType></xs:element>
</xs:schema></types>
<message name="in"><part name="parameters" element="tns:{OPERATION}"/></message>
<message name="out"><part name="parameters" element="tns:{OPERATION}Response"/></message>
<portType name="HisPort"><operation name="{OPERATION}"><input message="tns:in"/><output message="tns:out"/></operation></portType>
<binding name="HisBinding" type="tns:HisPort"><soap:binding transport="http://schemas.xmlsoap.org/soap/http"/>
<operation name="{OPERATION}"><soap:operation soapAction="{NAMESPACE}/{OPERATION}"/>
<input><soap:body use="literal"/></input><output><soap:body use="literal"/></output></operation></binding>
<service name="His"><port name="HisPort" binding="tns:HisBinding"><soap:address location="http://127.0.0.1:9/"/></port></service>
</definitions>
"""


def _document(rows: int) -> str:
    schedules = "".join(_schedule(number) for number in range(rows))
    return (
        f"<ResultCode>0</ResultCode><ResultContent>成功</ResultContent><RecordCount>{rows}</RecordCount>"
        f"<Schedules>{schedules}</Schedules>"
    )


def _schedule(number: int) -> str:
    day = dt.date(2026, 1, 5) + dt.timedelta(days=number % 14)
    morning = number % 2 == 0
    values = {
        "ScheduleItemCode": f"{100 + number % 40}||{number}",
        "ServiceDate": day.isoformat(),
        "SessionCode": "S" if morning else "X",
        "SessionName": "上午" if morning else "下午",
        "StartTime": "08:00" if morning else "14:00",
        "EndTime": "11:30" if morning else "17:30",
        "DepartmentCode": f"{100 + number % 40}",
        "DepartmentName": "心血管内科门诊",
        "DoctorCode": f"D{number % 120}",
        "DoctorName": "李明",
        "DoctorTitle": "主任医师",
        "DoctorSessType": "专家号",
        "Fee": "50.00",
        "RegFee": "1.00",
        "CheckupFee": "49.00",
        "AvailableNumStr": "5,6,7,8,9,10",
        "TimeRangeFlag": "Y",
        "ScheduleStatus": "N",
        "AvailableTotalNum": "20",
        "AvailableLeftNum": "6",
        "AdmitAddress": "门诊楼2层",
    }
    return "<Schedule>" + "".join(f"<{name}>{values[name]}</{name}>" for name in _TYPES) + "</Schedule>"


def _enveloped(inside: str) -> bytes:
    result = f"<{OPERATION}Result>{inside}</{OPERATION}Result>"
    return (
        f'<?xml version="1.0" encoding="UTF-8"?><s:Envelope xmlns:s="{_ENVELOPE}"><s:Body>'
        f'<{OPERATION}Response xmlns="{NAMESPACE}">{result}</{OPERATION}Response></s:Body></s:Envelope>'
    ).encode()
