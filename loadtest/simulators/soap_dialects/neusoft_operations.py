"""The operations of the simulated Neusoft-style service: their typed arguments, the port's verb behind each, and their WSDL.

Most of them nobody has a use for here: they stand in the WSDL, as they do at a hospital, and are answered like unknown services.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

NAMESPACE = "http://service.his.neusoft.com/"

_TYPES = {
    "date": re.compile(r"\d{4}-\d\d-\d\d"),
    "dateTime": re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)?"),
    "decimal": re.compile(r"[+-]?\d+(\.\d+)?"),
    "int": re.compile(r"[+-]?\d+"),
    "string": re.compile(r".*", re.DOTALL),
}
_HEAD = "hospCode userCode"


@dataclass(frozen=True)
class Operation:
    """`verb`: of the port, by which the switchboard names faults; None for what nobody calls.

    `arguments`: name to (type, required).
    """

    verb: str | None
    arguments: dict[str, tuple[str, bool]]

    def wrong(self, given: dict[str, str]) -> str | None:
        """Which argument is not of its type, is missing, or is not known."""
        for name, text in given.items():
            known = self.arguments.get(name)
            if known is None or not _TYPES[known[0]].fullmatch(text):
                return name
        return next((name for name, (_, needed) in self.arguments.items() if needed and name not in given), None)


def _operation(verb: str | None, arguments: str) -> Operation:
    """`name` is a string that must be there, `name:type` one of another type, `name?` one that need not be there."""
    known = {}
    for word in f"{_HEAD} {arguments}".split():
        name, _, kind = word.removesuffix("?").partition(":")
        known[name] = (kind or "string", not word.endswith("?"))
    return Operation(verb, known)


_CALLED = {
    "testConnection": ("ping", ""),
    "getDeptList": ("fetch_departments", "deptType?"),
    "getDoctList": ("fetch_practitioners", "deptCode"),
    "getSchemaList": ("fetch_schedules", "beginDate:date endDate:date deptCode doctCode?"),
    "getSchemaTimeList": ("fetch_slots", "schemaId seeDate:date noonCode:int"),
    "getStopSchemaList": ("fetch_stops", "beginDate:date endDate:date deptCode?"),
    "getPatientInfo": ("find_patient", "cardNo? mcardNo? idCardType? idenNo? name?"),
    "createPatient": (
        "create_patient",
        "name sexCode birthday:date? idCardType idenNo mcardNo? homeTel? home? linkmanName? linkmanIdenNo?",
    ),
    "lockSource": ("lock_slot", "orderNo cardNo schemaId timeId? seeDate:date noonCode:int beginTime? endTime?"),
    "unlockSource": ("unlock_slot", "orderNo lockId?"),
    "bookRegister": (
        "book",
        "orderNo cardNo schemaId timeId? seeDate:date noonCode:int beginTime? endTime? totCost:decimal",
    ),
    "cancelBook": ("cancel_registration", "orderNo bookId?"),
    "payRegister": (
        "register",
        "orderNo cardNo lockId? bookId? payMode totCost:decimal tradeNo? payTime:dateTime?",
    ),
    "returnRegister": (
        "cancel_registration",
        "orderNo clinicCode? refundNo? tradeNo? refundCost:decimal? reason?",
    ),
    "checkIn": ("check_in", "orderNo cardNo clinicCode?"),
    "getRegisterInfo": ("fetch_registration", "orderNo cardNo? clinicCode?"),
    "getRecipeList": ("fetch_bills", "cardNo beginDate:date? endDate:date?"),
    "getRecipeDetail": ("fetch_bill_items", "cardNo recipeNo"),
    "prePayRecipe": ("presettle_bill", "cardNo recipeNo totCost:decimal payMode"),
    "payRecipe": (
        "settle_bill",
        "orderNo cardNo recipeNo prePayNo? payMode totCost:decimal tradeNo payTime:dateTime",
    ),
    "getPayInfo": ("fetch_settlement", "orderNo cardNo recipeNo tradeNo?"),
    "getCheckBill": ("fetch_statement", "billDate:date payMode?"),
    "getLisReportList": ("fetch_reports", "cardNo beginDate:date endDate:date"),
    "getLisReportDetail": ("fetch_report", "cardNo reportNo"),
    "getPacsReportList": ("fetch_reports", "cardNo beginDate:date endDate:date"),
    "getPacsReportDetail": ("fetch_report", "cardNo reportNo"),
}
_OTHERS = {
    "getHospInfo": "",
    "getDeptTypeList": "",
    "getDoctInfo": "doctCode",
    "getRegLevelList": "",
    "getPactList": "",
    "getPayModeList": "",
    "getDrugPriceList": "spellCode? pageNo:int pageSize:int",
    "getUndrugPriceList": "spellCode? pageNo:int pageSize:int",
    "updatePatient": "cardNo homeTel? home?",
    "bindMcard": "cardNo mcardNo mcardType",
    "changeMcard": "cardNo oldMcardNo newMcardNo",
    "lossMcard": "cardNo mcardNo",
    "getAccountInfo": "cardNo",
    "accountPrepay": "orderNo cardNo prepayCost:decimal payMode tradeNo payTime:dateTime",
    "accountReturn": "orderNo cardNo returnCost:decimal payMode",
    "getAccountDetail": "cardNo beginDate:date endDate:date",
    "getInpatientInfo": "patientNo? idenNo?",
    "inpatientPrepay": "orderNo inpatientNo prepayCost:decimal payMode tradeNo payTime:dateTime",
    "getInpatientPrepayList": "inpatientNo",
    "getInpatientFeeList": "inpatientNo beginDate:date endDate:date",
    "getInpatientFeeDetail": "inpatientNo feeDate:date",
    "getInpatientDailyBill": "inpatientNo feeDate:date",
    "getQueueInfo": "clinicCode",
    "getWaitingList": "deptCode doctCode? seeDate:date noonCode:int",
    "getDrugWindow": "recipeNo",
    "getInvoiceInfo": "invoiceNo",
    "getInvoiceDetail": "invoiceNo",
    "getEInvoice": "invoiceNo",
    "getDiagnoseList": "clinicCode",
    "getRecipeHistory": "cardNo beginDate:date endDate:date",
    "getMedicalRecord": "clinicCode",
    "getBedInfo": "deptCode",
    "getOperationSchedule": "deptCode operateDate:date",
    "saveSatisfaction": "clinicCode score:int remark?",
}
OPERATIONS = {name: _operation(*called) for name, called in _CALLED.items()}
OPERATIONS |= {name: _operation(None, arguments) for name, arguments in _OTHERS.items()}


# --- WSDL 1.1, document/literal wrapped, as a JAX-WS stack writes it -----------------------------------------------------


def wsdl(address: str) -> str:
    """The WSDL of all operations; each returns one string."""
    elements = "".join(_elements(name, operation) for name, operation in OPERATIONS.items())
    messages = "".join(
        f'<wsdl:message name="{name}"><wsdl:part element="tns:{name}" name="parameters"/></wsdl:message>\n'
        for operation in OPERATIONS
        for name in (operation, f"{operation}Response")
    )
    ports = "".join(
        f'<wsdl:operation name="{name}"><wsdl:input message="tns:{name}"/>'
        f'<wsdl:output message="tns:{name}Response"/></wsdl:operation>\n'
        for name in OPERATIONS
    )
    bindings = "".join(
        f'<wsdl:operation name="{name}"><soap:operation soapAction="" style="document"/>'
        '<wsdl:input><soap:body use="literal"/></wsdl:input><wsdl:output><soap:body use="literal"/></wsdl:output>'
        "</wsdl:operation>\n"
        for name in OPERATIONS
    )
    return f"""<?xml version="1.0" encoding="UTF-8"?>
<wsdl:definitions xmlns:xsd="http://www.w3.org/2001/XMLSchema" xmlns:wsdl="http://schemas.xmlsoap.org/wsdl/"
 xmlns:soap="http://schemas.xmlsoap.org/wsdl/soap/" xmlns:tns="{NAMESPACE}" name="HisService" targetNamespace="{NAMESPACE}">
<wsdl:types><xsd:schema elementFormDefault="unqualified" targetNamespace="{NAMESPACE}">
{elements}</xsd:schema></wsdl:types>
{messages}<wsdl:portType name="HisService">
{ports}</wsdl:portType>
<wsdl:binding name="HisServiceSoapBinding" type="tns:HisService">
<soap:binding style="document" transport="http://schemas.xmlsoap.org/soap/http"/>
{bindings}</wsdl:binding>
<wsdl:service name="HisService"><wsdl:port binding="tns:HisServiceSoapBinding" name="HisServicePort">
<soap:address location="{address}"/></wsdl:port></wsdl:service>
</wsdl:definitions>
"""


def _elements(name: str, operation: Operation) -> str:
    arguments = "".join(
        f'<xsd:element{"" if needed else " minOccurs=" + chr(34) + "0" + chr(34)} name="{argument}" type="xsd:{kind}"/>'
        for argument, (kind, needed) in operation.arguments.items()
    )
    answer = '<xsd:element minOccurs="0" name="return" type="xsd:string"/>'
    return "".join(
        f'<xsd:element name="{element}"><xsd:complexType><xsd:sequence>{inside}</xsd:sequence></xsd:complexType></xsd:element>\n'
        for element, inside in ((name, arguments), (f"{name}Response", answer))
    )
