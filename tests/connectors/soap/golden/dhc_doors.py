"""The doors of a DHC hospital, for the golden tests: an operation for each trade (self-service), one for all (gateway, ESB)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lxml import etree

from mappings.canonical import (
    Schedule,
    ScheduleStatus,
    Session,
)
from tests.connectors.soap.golden.cases import (
    DAY,
    call_of,
    texts,
)
from tests.connectors.soap.soap_hospital import (
    CannedPeer,
    canned,
)


@dataclass(frozen=True)
class Door:
    """How one of them is called (DOMAIN facts 1).

    `operations`: by trade, where there is not one for all. `arguments`: the document's is the last.
    """

    profile: str
    namespace: str
    operation: str
    arguments: tuple[str, ...]
    soap_action: str
    operations: dict[str, str] | None = None

    def canned(self, *replies: Any, **given: Any) -> Any:
        """A connector to a hospital that says only this."""
        return canned(*replies, profile=self.profile, **given)

    def sent(self, peer: CannedPeer, n: int = -1) -> tuple[str, dict[str, Any]]:
        """The trade and the document of a request, after a look at its envelope."""
        headers, call = call_of(peer, n)
        assert [child.tag for child in call] == [f"{{{self.namespace}}}{name}" for name in self.arguments]
        document = etree.fromstring(call[-1].text or "")
        assert document.tag == "Request"
        told = texts(document)
        trade = str(told["TradeCode"])
        operation = self.operations[trade] if self.operations else self.operation
        assert headers["SOAPAction"] == f'"{self.soap_action}.{operation}"'
        assert call.tag == f"{{{self.namespace}}}{operation}"
        assert [child.text for child in list(call)[:-1]] == [trade] * (len(call) - 1)
        return trade, told

    def __str__(self) -> str:
        return self.profile


SELF_SERVICE = Door(
    profile="dhc",
    namespace="http://tempuri.org",
    operation="QueryAdmSchedule",
    arguments=("XMLRequest",),
    soap_action="http://tempuri.org/SelfRegService",
    operations={
        "1004": "QueryAdmSchedule",
        "1012": "QueryDepartment",
        "1013": "QueryDoctor",
        "10041": "QueryScheduleTimeInfo",
        "1107": "QueryStopDoctor",
        "3300": "GetPatInfo",
        "3014": "SavePatientCard",
        "10015": "LockOrder",
        "10016": "UnLockOrder",
        "1000": "BookService",
        "1101": "OPRegister",
        "1301": "OPAllocAutoReport",
        "1001": "CancelOrder",
        "1003": "OPRegReturn",
        "1108": "QueryRegStatus",
        "CheckCharge": "CheckCharge",
    }
    | dict.fromkeys(("4902", "4904", "4905", "4906", "9999"), "ZZJCommonPay"),
)
GATEWAY = Door(
    profile="dhc_gateway",
    namespace="http://tempuri.org",
    operation="CommonMethod",
    arguments=("funCode", "input"),
    soap_action="http://tempuri.org/DHC.Gateway",
)
ESB = Door(
    profile="dhc_esb",
    namespace="http://www.dhcc.com.cn",
    operation="HIPMessageServer",
    arguments=("input1", "input2"),
    soap_action="http://www.dhcc.com.cn/DHC.Published.PUB0001.BS.PUB0001",
)
DOORS = [SELF_SERVICE, GATEWAY, ESB]


def done(inside: str = "", code: str = "0") -> str:
    """A reply that says yes."""
    return f"<Response><ResultCode>{code}</ResultCode><ResultContent>成功</ResultContent>{inside}</Response>"


def failed(code: str, text: str, place: str = "ResultContent") -> str:
    """A reply that says no; the text stands in this element."""
    return f"<Response><ResultCode>{code}</ResultCode><{place}>{text}</{place}></Response>"


def called(peer: CannedPeer, n: int = -1) -> tuple[str, etree._Element]:
    """The operation and the document of a request to self-service."""
    SELF_SERVICE.sent(peer, n)
    _, call = call_of(peer, n)
    return etree.QName(call).localname, etree.fromstring(call[-1].text or "")


PLAN = (
    "<ScheduleItemCode>100||7</ScheduleItemCode><ServiceDate>2026-01-05</ServiceDate><SessionCode>S</SessionCode>"
    "<SessionName>上午</SessionName><StartTime>08:00</StartTime><EndTime>11:30</EndTime><DepartmentCode>100</DepartmentCode>"
    "<DepartmentName>内科</DepartmentName><DoctorCode>D1</DoctorCode><DoctorName>李明</DoctorName><DoctorTitle/>"
    "<DoctorSessType>副高号</DoctorSessType><Fee>7</Fee><RegFee>1</RegFee><CheckupFee>6</CheckupFee>"
    "<AvailableNumStr>5,6,7</AvailableNumStr><TimeRangeFlag>Y</TimeRangeFlag><ScheduleStatus>N</ScheduleStatus>"
    "<AvailableTotalNum>20</AvailableTotalNum><AvailableLeftNum>3</AvailableLeftNum><AdmitAddress>2楼</AdmitAddress>"
)
PLANS = f"<RecordCount>1</RecordCount><Schedules><Schedule>{PLAN}</Schedule></Schedules>"
SCHEDULE = Schedule(
    id="100||7",
    date=DAY,
    session=Session.AM,
    department_id="100",
    department_name="内科",
    practitioner_id="D1",
    practitioner_name="李明",
    clinic_type="副高号",
    fee_fen=700,
    status=ScheduleStatus.OPEN,
    location="2楼",
    his_refs={
        "time_ranges": "Y",
        "session_code": "S",
        "free_numbers": "5,6,7",
        "start_time": "08:00",
        "end_time": "11:30",
    },
)
DEPARTMENTS = (
    "<Departments><Department><DepartmentCode>100</DepartmentCode><DepartmentName>內科</DepartmentName></Department>"
    "</Departments>"
)


WHO = {"ExtOrgCode": "", "ClientType": "", "HospitalId": "2", "ExtUserID": "HISBRIDGE"}
