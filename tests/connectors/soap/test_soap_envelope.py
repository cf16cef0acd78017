"""Envelopes as SOAP 1.1 and 1.2 have them."""

from __future__ import annotations

import pytest
from lxml import etree

from connectors.soap.envelope import Call, Fault, SoapVersion, http_headers, read_envelope, write_envelope
from connectors.soap.xml import HtmlPage, XmlError

CALL = Call(operation="{urn:h}Lock", arguments={"XMLRequest": "{urn:h}XMLRequest"}, soap_action="urn:h/Lock")
V12 = Call(
    operation="{urn:h}Lock", arguments={"XMLRequest": "XMLRequest"}, soap_action="urn:h/Lock", version=SoapVersion.V12
)
E11 = "http://schemas.xmlsoap.org/soap/envelope/"
E12 = "http://www.w3.org/2003/05/soap-envelope"


def _in(body: str, namespace: str = E11) -> str:
    return f'<s:Envelope xmlns:s="{namespace}"><s:Header/><s:Body>{body}</s:Body></s:Envelope>'


@pytest.mark.parametrize(
    ("call", "argument", "namespace"), [(CALL, "{urn:h}XMLRequest", E11), (V12, "XMLRequest", E12)]
)
def test_argument_holds_the_document_as_text(call: Call, argument: str, namespace: str) -> None:
    root = etree.fromstring(write_envelope(call, {"XMLRequest": "<a>张&amp;</a>"}))
    assert root.tag == f"{{{namespace}}}Envelope"
    assert root.findtext(f"{{{namespace}}}Body/{{urn:h}}Lock/{argument}") == "<a>张&amp;</a>"


def test_argument_stands_in_cdata_when_the_server_wants_it() -> None:
    call = Call(operation="Lock", arguments={"XMLRequest": "XMLRequest"}, soap_action="", cdata=True)
    assert b"<XMLRequest><![CDATA[<a>1</a>]]></XMLRequest>" in write_envelope(call, {"XMLRequest": "<a>1</a>"})


def test_envelope_is_in_its_encoding_and_says_so() -> None:
    data = write_envelope(CALL, {"XMLRequest": "张"}, encoding="gbk")
    assert data.startswith(b'<?xml version="1.0" encoding="gbk"?>')
    assert "张".encode("gbk") in data
    with pytest.raises(UnicodeEncodeError):
        write_envelope(CALL, {"XMLRequest": "镕"}, encoding="gb2312")


def test_envelope_has_its_label_when_the_peer_calls_the_encoding_by_another_name() -> None:
    data = write_envelope(CALL, {"XMLRequest": "镕"}, encoding="gbk", label="gb2312")
    assert data.startswith(b'<?xml version="1.0" encoding="gb2312"?>')
    assert b"\xe9F" in data  # 镕 is E9 46 in GBK, and not in GB 2312


def test_headers_carry_the_action_where_each_version_wants_it() -> None:
    assert http_headers(CALL) == {"Content-Type": "text/xml; charset=utf-8", "SOAPAction": '"urn:h/Lock"'}
    assert http_headers(V12) == {"Content-Type": 'application/soap+xml; charset=utf-8; action="urn:h/Lock"'}


@pytest.mark.parametrize("namespace", [E11, E12])
@pytest.mark.parametrize(
    ("body", "text"),
    [
        ("<r><x>&lt;Response/&gt;</x></r>", "<Response/>"),
        ("<r><x><![CDATA[<Response/>]]></x></r>", "<Response/>"),
        ("<r><x><Response><a>1</a></Response></x></r>", "<Response><a>1</a></Response>"),
        ('<r xmlns="urn:h"><x><Response><a>1</a></Response></x></r>', "<Response><a>1</a></Response>"),
        ("<r><x/></r>", ""),
        ("<r/>", ""),
    ],
)
def test_result_is_given_as_text(body: str, text: str, namespace: str) -> None:
    assert read_envelope(_in(body, namespace)) == text


def test_fault_is_read_in_both_versions() -> None:
    v11 = "<s:Fault><faultcode>s:Client.Auth</faultcode><faultstring>no\n user</faultstring></s:Fault>"
    assert read_envelope(_in(v11)) == Fault(code="Client.Auth", text="no user")
    v12 = (
        "<s:Fault><s:Code><s:Value>s:Receiver</s:Value><s:Subcode><s:Value>x:Deep</s:Value></s:Subcode></s:Code>"
        "<s:Reason><s:Text>down</s:Text></s:Reason></s:Fault>"
    )
    assert read_envelope(_in(v12, E12)) == Fault(code="Receiver", text="down")


@pytest.mark.parametrize(
    ("code", "callers"), [("Client", True), ("Client.Auth", True), ("Sender", True), ("Server", False), ("", False)]
)
def test_fault_says_who_is_blamed(code: str, callers: bool) -> None:
    assert Fault(code=code, text="").is_callers is callers


@pytest.mark.parametrize("text", ["<a/>", _in(""), f'<s:Envelope xmlns:s="{E11}"/>', "text"])
def test_envelope_is_refused_when_it_is_none(text: str) -> None:
    with pytest.raises(XmlError):
        read_envelope(text)


def test_html_is_told_apart() -> None:
    with pytest.raises(HtmlPage):
        read_envelope("\n<!DOCTYPE HTML PUBLIC '-//W3C//DTD'><HTML></HTML>")
