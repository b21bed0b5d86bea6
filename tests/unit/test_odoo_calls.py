"""A call means the same in both protocols, is written exactly, and its replies get bounded names."""

import json
import xmlrpc.client
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import InputError
from harness.odoo_calls import Call, Expect, Json2, Text, XmlRpc
from harness.wire import Reply, Request, Slot

XML = XmlRpc("127.0.0.1:8069", "dairy", 2, "pässword <&>")
JSON = Json2("127.0.0.1:8069", "dairy", "s3cret")
PROTOCOLS = (XML, JSON)

TRACEBACK = """Traceback (most recent call last):
  File "/odoo/models.py", line 1, in call
    return 1 / 0
ValueError: before

During handling of the above exception, another exception occurred:

Traceback (most recent call last):
  File "/odoo/sql_db.py", line 2, in execute
    self._obj.execute(query)
psycopg2.errors.UndefinedColumn: column "x" does not exist
LINE 1: SELECT x
        ^
"""


def body(request: Request) -> bytes:
    head, _, body = request.message.partition(b"\r\n\r\n")
    assert head.endswith(b"\r\nContent-Length: %d" % len(body))
    return body


def called(request: Request) -> tuple[str, str, list[Any], dict[str, Any]]:
    """model, method, args and kwargs of an XML-RPC call."""
    params, method = xmlrpc.client.loads(body(request))
    assert method == "execute_kw"
    assert params[:3] == ("dairy", 2, "pässword <&>")
    return params[3:]


# --- what is sent --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "xml", "json_body"),
    [
        (
            Call("m", "search_read", {"domain": [["a", "=", 1]], "limit": 5}, expect=Expect.ROWS),
            ([], {"domain": [["a", "=", 1]], "limit": 5}),
            {"domain": [["a", "=", 1]], "limit": 5},
        ),
        (
            Call("m", "write", {"vals": {"a": 1}, "context": {"lang": "bn_BD"}}, ids=(7,), expect=Expect.TRUE),
            ([[7]], {"vals": {"a": 1}, "context": {"lang": "bn_BD"}}),
            {"ids": [7], "vals": {"a": 1}, "context": {"lang": "bn_BD"}},
        ),
        (Call("m", "check", ids=[], expect=Expect.TRUE), ([[]], {}), {"ids": []}),
        (
            Call("m", "create", {"vals_list": {"a": None}}, expect=Expect.NEW_ID),
            ([[{"a": None}]], {}),
            {"vals_list": {"a": None}},
        ),
        (
            Call("m", "create", {"vals_list": [{"a": 1}, {"a": 2}], "context": {}}, expect=Expect.NEW_ID),
            ([[{"a": 1}, {"a": 2}]], {"context": {}}),
            {"vals_list": [{"a": 1}, {"a": 2}], "context": {}},
        ),
    ],
)
def test_where_arguments_go(call: Call, xml: tuple[object, object], json_body: object) -> None:
    assert called(XML.encode(call).fill({})) == ("m", call.method, *xml)
    assert json.loads(body(JSON.encode(call).fill({}))) == json_body


TEXT = st.text(
    st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\ufffe\uffff") | st.sampled_from("\r\n\t&<>")
)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**31), 2**31 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=8,
)


@given(fixed=VALUES, value=VALUES, ids=st.lists(st.integers(1, 2**31 - 1), max_size=3))
def test_filling_equals_encoding_the_values_in_place(fixed: object, value: object, ids: list[int]) -> None:
    def call(value: object, ids: Any) -> Call:
        arguments = {"vals": {"a": value, "b": [fixed, [value]]}, "c & d": fixed}
        return Call("farm.animal", "write", arguments, ids=ids, expect=Expect.TRUE)

    slotted, in_place = call(Slot("value"), Slot("ids")), call(value, ids)
    for protocol in PROTOCOLS:
        filled = protocol.encode(slotted).fill({"value": value, "ids": ids})
        assert filled.message == protocol.encode(in_place).fill({}).message
    args, kwargs = called(XML.encode(slotted).fill({"value": value, "ids": ids}))[2:]
    assert (args, kwargs) == ([ids], in_place.arguments)
    assert json.loads(body(filled)) == {"ids": ids, **in_place.arguments}


def test_heads() -> None:
    call = Call("farm.animal", "read", ids=[1], expect=Expect.ROWS)
    assert XML.encode(call).fill({}).message.partition(b"\r\nContent-Length")[0].split(b"\r\n") == [
        b"POST /xmlrpc/2/object HTTP/1.1",
        b"Host: 127.0.0.1:8069",
        b"Content-Type: text/xml",
        b"User-Agent: dairyperf",
        b"Accept-Encoding: identity",
        b"Connection: close",
    ]
    assert JSON.encode(call).fill({}).message.partition(b"\r\nContent-Length")[0].split(b"\r\n") == [
        b"POST /json/2/farm.animal/read HTTP/1.1",
        b"Host: 127.0.0.1:8069",
        b"Authorization: bearer s3cret",
        b"X-Odoo-Database: dairy",
        b"Content-Type: application/json",
        b"User-Agent: dairyperf",
        b"Accept-Encoding: identity",
        b"Connection: close",
    ]
    kept = XmlRpc("h", "d", 2, "p", keep_alive=True)
    assert b"\r\nConnection: keep-alive\r\n" in kept.encode(call).fill({}).message


def test_a_login() -> None:
    request = XML.authenticate("wörker").fill({})
    assert request.endpoint == "odoo common.authenticate"
    assert request.message.startswith(b"POST /xmlrpc/2/common HTTP/1.1\r\n")
    assert xmlrpc.client.loads(body(request)) == (("dairy", "wörker", "pässword <&>", {}), "authenticate")
    assert XML.outcome(xml_reply(7), request.expect) == "ok"
    assert XML.outcome(xml_reply(False), request.expect) == "unexpected"


def test_endpoints_have_cases_and_nothing_shows_a_secret() -> None:
    call = Call("farm.animal", "search_read", {"limit": Slot("limit")}, case="tag", expect=Expect.ROWS)
    for protocol in PROTOCOLS:
        template = protocol.encode(call)
        request = template.fill({"limit": 1})
        assert template.endpoint == request.endpoint == "odoo farm.animal.search_read [tag]"
        shown = repr((protocol, template, request))
        assert "word" not in shown
        assert "s3cret" not in shown


@pytest.mark.parametrize(
    "value", [2**31, -(2**31) - 1, [2**31], "\x00", ["\x1f"], {"\x0b": 1}, "\ufffe", "\ud800", b"x"]
)
def test_what_xml_rpc_cannot_carry(value: object) -> None:
    with pytest.raises(InputError, match=r"^odoo m\.n \[c\]: slot 'a': "):
        XML.encode(Call("m", "n", {"a": Slot("a")}, case="c", expect=Expect.TRUE)).fill({"a": value})
    with pytest.raises(InputError, match=r"^odoo m\.n: "):
        XML.encode(Call("m", "n", {"a": value}, expect=Expect.TRUE))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_ids_are_no_argument(protocol: XmlRpc | Json2) -> None:
    with pytest.raises(InputError, match=r"^odoo m\.n: 'ids' among the arguments; "):
        protocol.encode(Call("m", "n", {"ids": [1]}, expect=Expect.TRUE))


def test_a_text_must_look_the_same_everywhere() -> None:
    with pytest.raises(ValueError, match="a plain word"):
        Text("a&b")


# --- what comes back -----------------------------------------------------------------------------------------------


def reply(body: bytes, status: int = 200) -> Reply:
    return Reply(None, status, b"", body, len(body))


def xml_reply(value: object) -> Reply:
    return reply(xmlrpc.client.dumps((value,), methodresponse=True, allow_none=True).encode())


def json_reply(value: object) -> Reply:
    return reply(json.dumps(value, ensure_ascii=False).encode())


def fault(code: object, text: str) -> Reply:
    return reply(xmlrpc.client.dumps(xmlrpc.client.Fault(code, text), methodresponse=True).encode())  # type: ignore[arg-type]


@pytest.mark.parametrize(("protocol", "answer"), [(XML, xml_reply), (JSON, json_reply)])
@pytest.mark.parametrize(
    ("expect", "value", "good"),
    [
        (Expect.ROWS, [{"id": 1}], True),
        (Expect.ROWS, {"litres": 1.5}, True),
        (Expect.ROWS, [], False),
        (Expect.ROWS, False, False),
        (Expect.NEW_ID, [17], True),
        (Expect.NEW_ID, 17, True),
        (Expect.NEW_ID, [], False),
        (Expect.NEW_ID, 0, False),
        (Expect.NEW_ID, False, False),
        (Expect.NEW_ID, [{"id": 7}], False),
        (Expect.TRUE, True, True),
        (Expect.TRUE, False, False),
        (Expect.TRUE, 1, False),
        (Expect.TRUE, [True], False),
        (Text("mörning"), {"shifts": [{"shift": "mörning"}]}, True),
        (Text("mörning"), {"shifts": []}, False),
    ],
)
def test_expectations_mean_the_same_in_both(
    protocol: XmlRpc | Json2, answer: Callable[[object], Reply], expect: Expect | Text, value: object, good: bool
) -> None:
    request = protocol.encode(Call("m", "n", expect=expect)).fill({})
    assert protocol.outcome(answer(value), request.expect) == ("ok" if good else "unexpected")
    assert protocol.result(answer(value)) == value


ROWS = xml_reply([{"id": 1}]).body


@pytest.mark.parametrize(
    ("reply", "outcome"),
    [
        (reply(ROWS), "ok"),
        (reply(ROWS.rstrip()), "ok"),
        (reply(ROWS[:-10]), "body"),
        (reply(b""), "body"),
        (reply(ROWS, 503), "http:503"),
        (Reply("timeout", 0, b"", b"", 0), "timeout"),
        (Reply("short", 200, b"", ROWS, 9), "short"),
        (xml_reply(["<fault>"]), "unexpected"),
        (fault(1, TRACEBACK), "fault:1:UndefinedColumn"),
        (fault(1, "something else happened"), "fault:1:Exception"),
        (fault(1, "cannot marshal None"), "fault:1:Exception"),
        (fault(2, "Cow 17 is not yours"), "fault:2:UserError"),
        (fault(3, "Access Denied"), "fault:3:AccessDenied"),
        (fault(4, "You are not allowed"), "fault:4:AccessError"),
        (fault(99, "Cow 17: no"), "fault:99:Exception"),
        (fault("warning -- Cow 17", "text"), "fault"),
        (reply(fault(1, "x").body[:-40]), "body"),
    ],
)
def test_xmlrpc_outcome(reply: Reply, outcome: str) -> None:
    assert XML.outcome(reply, XML.encode(Call("m", "n", expect=Expect.ROWS)).expect) == outcome


def error(name: object) -> bytes:
    return json.dumps({"name": name, "message": "Cow 17 is not yours", "debug": TRACEBACK}).encode()


@pytest.mark.parametrize(
    ("reply", "outcome"),
    [
        (reply(b'[{"id": 1}]'), "ok"),
        (reply(b'[{"id": 1}'), "body"),
        (reply(b""), "body"),
        (Reply("reset", 0, b"", b"", 0), "reset"),
        (reply(error("odoo.exceptions.AccessError"), 403), "http:403:AccessError"),
        (reply(error("werkzeug.exceptions.Unauthorized"), 401), "http:401:Unauthorized"),
        (reply(error("builtins.KeyError"), 500), "http:500:KeyError"),
        (reply(error("Cow 17 is not yours"), 422), "http:422"),
        (reply(error(None), 422), "http:422"),
        (reply(b"[1]", 500), "http:500"),
        (reply(b"{}", 500), "http:500"),
        (reply(b"\xff", 500), "http:500"),
        (reply(b"<!doctype html><h1>Not Found</h1>", 404), "http:404"),
    ],
)
def test_json2_outcome(reply: Reply, outcome: str) -> None:
    assert JSON.outcome(reply, JSON.encode(Call("m", "n", expect=Expect.ROWS)).expect) == outcome


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("body", [b"", b"<methodResponse>", b"{", b"\xff\xfe"])
def test_a_damaged_result_is_a_value_error(protocol: XmlRpc | Json2, body: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        protocol.result(reply(body))
