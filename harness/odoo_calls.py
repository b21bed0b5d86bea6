"""Calls of Odoo's models, and the two protocols that carry them: XML-RPC, and JSON-2, which follows it in Odoo 22."""

from __future__ import annotations

import json
import math
import re
import xmlrpc.client
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from enum import Enum
from typing import Any, ClassVar

from harness import wire
from harness.wire import Check, Reply, Slot, Template


class Expect(Enum):
    """What every good result of a call holds; each protocol knows how that looks in its replies."""

    ROWS = "a record, or any other struct"
    NEW_ID = "the id of a new record"
    TRUE = "true"


@dataclass(frozen=True, slots=True)
class Text:
    """Expected somewhere in the result. ValueError: characters that are not written alike in XML and JSON."""

    text: str

    def __post_init__(self) -> None:
        if not self.text.isprintable() or set('<>&"\\') & set(self.text):
            raise ValueError(f"Text({self.text!r}) looks different in XML and JSON; expect a plain word")

    def pattern(self) -> re.Pattern[bytes]:
        return re.compile(re.escape(self.text.encode()))


@dataclass(frozen=True, eq=False)
class Call:
    """A method of a model, the same in every protocol. ids and arguments may hold `Slot`s at any depth.

    ids: the records it is called on, [] for none of them, None for a method of the model itself (@api.model).
    arguments: by name. case tells apart uses of one method.
    """

    model: str
    method: str
    arguments: Mapping[str, object] = field(default_factory=dict)
    _: KW_ONLY
    ids: Sequence[object] | Slot | None = None
    case: str | None = None
    expect: Expect | Text
    check: Check | None = None

    @property
    def endpoint(self) -> str:
        return f"odoo {self.model}.{self.method}" + (f" [{self.case}]" if self.case else "")


def positional(call: Call) -> tuple[list[object], dict[str, object]]:
    """args and kwargs as Odoo's call_kw takes them: the ids come first, and of `create` it looks at args[0] itself.

    The values of `create` go as a list even if there is one record, so that every protocol answers with a list of ids.
    A `Slot` for all of vals_list must therefore be given a list. ValueError: `ids` among the arguments.
    """
    if "ids" in call.arguments:
        raise ValueError("'ids' among the arguments; give ids=")
    kwargs = dict(call.arguments)
    args: list[object] = [] if call.ids is None else [call.ids]
    if call.method == "create" and "vals_list" in kwargs:
        values = kwargs.pop("vals_list")
        args.append([values] if isinstance(values, Mapping) else values)
    return args, kwargs


@dataclass(frozen=True)
class XmlRpc:
    """POST /xmlrpc/2/… at host (`127.0.0.1:8069`) as one user; a password, and no log-in, goes with every call.

    keep_alive: Odoo itself closes every connection after its reply; a proxy before it may not.
    """

    request_type: ClassVar[str] = "XML-RPC"
    host: str
    database: str
    uid: int
    password: str = field(repr=False)
    keep_alive: bool = False

    def encode(self, call: Call) -> Template:
        """InputError: something in the call cannot be written."""
        with wire.encoding(call.endpoint):
            login = (self.database, self.uid, self.password)
            params = (*login, call.model, call.method, *positional(call))
            return self._template(call.endpoint, "object", "execute_kw", params, _in_xml(call.expect), call.check)

    def authenticate(self, login: str) -> Template:
        """A log-in with the password, as clients make it that do not know their uid. The result is the uid."""
        endpoint = "odoo common.authenticate"
        with wire.encoding(endpoint):
            params: tuple[object, ...] = (self.database, login, self.password, {})
            return self._template(endpoint, "common", "authenticate", params, _in_xml(Expect.NEW_ID), None)

    def outcome(self, reply: Reply, expect: re.Pattern[bytes]) -> str:
        """The name of what happened. Odoo answers faults with HTTP 200, hence the look inside; a reply is parsed only
        when it is a fault, because parsing costs more CPU than the request itself."""
        if reply.failure is not None:
            return reply.failure
        if reply.status != 200:
            return f"http:{reply.status}"
        body = reply.body
        if body.find(b"<fault>", 0, 200) >= 0:
            return _fault_name(body)
        if not body.endswith(_XML_ENDS):
            return "body"
        return wire.OK if expect.search(body) else "unexpected"

    def result(self, reply: Reply) -> Any:
        """The value of a reply whose outcome is ok. ValueError: it is damaged after all."""
        try:
            (value,), _method = xmlrpc.client.loads(reply.body, use_builtin_types=True)
        except Exception as error:  # expat and the unmarshaller raise many kinds on a damaged reply
            raise ValueError(f"no XML-RPC reply: {type(error).__name__}") from error
        return value

    def _template(
        self,
        endpoint: str,
        service: str,
        method: str,
        params: tuple[object, ...],
        expect: re.Pattern[bytes],
        check: Check | None,
    ) -> Template:
        document = _xml(tuple(wire.plain(params, wire.mark)), method)
        return wire.http_template(
            endpoint,
            [f"POST /xmlrpc/2/{service}".encode()],
            {"Host": self.host, "Content-Type": "text/xml"},
            wire.cut(document, xml_value, b"<value><string>", b"</string></value>\n"),
            keep_alive=self.keep_alive,
            expect=expect,
            check=check,
        )


@dataclass(frozen=True)
class Json2:
    """POST /json/2/MODEL/METHOD at host (`127.0.0.1:8069`) as the user whose key it is.

    keep_alive: as for XmlRpc.
    """

    request_type: ClassVar[str] = "JSON-2"
    host: str
    database: str
    key: str = field(repr=False)
    keep_alive: bool = False

    def encode(self, call: Call) -> Template:
        """InputError: something in the call cannot be written."""
        with wire.encoding(call.endpoint):
            positional(call)  # refuses what the other protocols would
            ids = {} if call.ids is None else {"ids": call.ids}
            return wire.http_template(
                call.endpoint,
                [f"POST /json/2/{call.model}/{call.method}".encode()],
                {
                    "Host": self.host,
                    "Authorization": f"bearer {self.key}",
                    "X-Odoo-Database": self.database,
                    "Content-Type": "application/json",
                },
                wire.json_parts({**ids, **call.arguments}),
                keep_alive=self.keep_alive,
                expect=_in_json(call.expect),
                check=call.check,
            )

    def outcome(self, reply: Reply, expect: re.Pattern[bytes]) -> str:
        """The name of what happened; errors have a status of their own and, unless a page, the exception's class."""
        if reply.failure is not None:
            return reply.failure
        if reply.status != 200:
            return f"http:{reply.status}" + _error_class(reply.body)
        if not wire.is_whole_json(reply.body):
            return "body"
        return wire.OK if expect.search(reply.body) else "unexpected"

    def result(self, reply: Reply) -> Any:
        """The value of a reply whose outcome is ok, as XmlRpc gives it. ValueError: it is damaged after all."""
        return json.loads(reply.body)


# --- XML -----------------------------------------------------------------------------------------------------------

# What XML 1.0 cannot carry in any form (section 2.2), and what needs no second look in text.
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_PLAIN_TEXT = re.compile(r"[ !-%'-;=?-~]*").fullmatch  # printable ASCII without & < >
_XML_ENDS = (b"</methodResponse>\n", b"</methodResponse>")
_INT_MIN, _INT_MAX = xmlrpc.client.MININT, xmlrpc.client.MAXINT

_FAULTS = {2: "UserError", 3: "AccessDenied", 4: "AccessError"}  # Odoo's faultString is the bare message for these
_EXCEPTION_LINE = re.compile(r"(?:\w+\.)*([A-Za-z_]\w{0,59})(?::|$)")

_XML_EXPECTED = {
    Expect.ROWS: re.compile(b"<struct>"),
    Expect.NEW_ID: re.compile(rb"<param>\s*<value>(?:<array><data>\s*<value>)?<int>[1-9]"),
    Expect.TRUE: re.compile(rb"<param>\s*<value><boolean>1</boolean>"),
}
_JSON_EXPECTED = {
    Expect.ROWS: re.compile(rb"\{"),
    Expect.NEW_ID: re.compile(rb"\A\[?[1-9]"),
    Expect.TRUE: re.compile(rb"\Atrue\Z"),
}


def xml_value(value: Any) -> bytes:
    """`<value>…</value>`, to the byte as the standard library writes it, which takes several times as long."""
    kind = type(value)
    if kind is str and _PLAIN_TEXT(value):
        return b"<value><string>%b</string></value>\n" % value.encode()
    if kind is int and _INT_MIN <= value <= _INT_MAX:
        return b"<value><int>%d</int></value>\n" % value
    if kind is float and math.isfinite(value):
        return f"<value><double>{value!r}</double></value>\n".encode()
    if kind is bool:
        return b"<value><boolean>%d</boolean></value>\n" % value
    return _xml((wire.plain(value),)).removeprefix(b"<params>\n<param>\n").removesuffix(b"</param>\n</params>\n")


def _xml(params: tuple[Any, ...], method: str | None = None) -> bytes:
    """The document that calls the method, or without one the element of the parameters."""
    try:
        text = xmlrpc.client.dumps(params, method, encoding="utf-8", allow_none=True)
    except OverflowError:
        raise ValueError("XML-RPC cannot carry an int of more than 32 bits; give a smaller one") from None
    if found := _NOT_XML.search(text):
        raise ValueError(f"XML 1.0 cannot carry U+{ord(found.group()):04X}; leave the character out")
    return text.replace("\r", "&#13;").encode()  # bare, a parser reads it as a line feed


def _fault_name(body: bytes) -> str:
    """`fault:CODE:CLASS`; never free text, which would make the set of outcomes unbounded and could hold data."""
    try:
        xmlrpc.client.loads(body)
    except xmlrpc.client.Fault as fault:
        if not isinstance(fault.faultCode, int):
            return "fault"
        return f"fault:{fault.faultCode}:{_FAULTS.get(fault.faultCode) or _raised(str(fault.faultString))}"
    except Exception:  # expat and the unmarshaller raise many kinds on a damaged reply
        return "body"
    return "body"


def _raised(traceback: str) -> str:
    """Class at the end of a Python traceback: the first line after its last frame, as messages can have many lines."""
    _, header, frames = traceback.rpartition("Traceback (most recent call last):\n")
    for line in frames.splitlines():
        if header and line.startswith(" "):
            continue
        found = _EXCEPTION_LINE.match(line)
        return found.group(1) if found else "Exception"
    return "Exception"


def _in_xml(expect: Expect | Text) -> re.Pattern[bytes]:
    return _XML_EXPECTED[expect] if isinstance(expect, Expect) else expect.pattern()


# --- JSON ----------------------------------------------------------------------------------------------------------


def _in_json(expect: Expect | Text) -> re.Pattern[bytes]:
    return _JSON_EXPECTED[expect] if isinstance(expect, Expect) else expect.pattern()


def _error_class(body: bytes) -> str:
    """`:CLASS` of a JSON-2 error; empty for anything else, such as an HTML page."""
    try:
        name = json.loads(body)["name"]
    except (ValueError, TypeError, LookupError):
        return ""
    found = wire.exception_class(name)
    return f":{found}" if found else ""
