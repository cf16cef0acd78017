"""What a SOAP profile's `connection.server` holds: the calls that the HIS makes to us, and how they are answered."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

import msgspec

from connectors.soap.forms import Form, Packing
from connectors.soap.seals import CipherSpec, SignSpec

MAX_NAME = 200


class Outcome(StrEnum):
    """What a call has come to. Each may have words of its own in `answer.words`; else it has those that stand behind it.

    - DONE: stored, and applied right after that, or set aside for a person: a failure would make the HIS repeat for ever.
    - DUPLICATE: the same call is stored already (DONE).
    - REFUSED: cannot be stored, whatever is repeated.
    - RETRY: could not be stored now: the HIS is to repeat it (REFUSED).
    - UNREADABLE: the document cannot be read (REFUSED).
    - UNSIGNED: no signature, a wrong one, or wrong credentials (REFUSED).
    - STALE: its time is too long ago, or ahead, or absent (REFUSED).
    - UNKNOWN_TRADE: nothing in the profile takes it (REFUSED).
    - NOT_FOUND: a question about what we do not have (REFUSED).
    """

    DONE = "done"
    DUPLICATE = "duplicate"
    REFUSED = "refused"
    RETRY = "retry"
    UNREADABLE = "unreadable"
    UNSIGNED = "unsigned"
    STALE = "stale"
    UNKNOWN_TRADE = "unknown_trade"
    NOT_FOUND = "not_found"


class LayerSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A document around another one, which it reads as `document`.

    `cipher` encrypts the inner one first; `sign` signs the values of the tree's own elements; `cdata` names elements whose text
    stands in a CDATA section.
    """

    tree: Any
    prolog: str = ""
    cdata: tuple[str, ...] = ()
    cipher: CipherSpec | None = None
    sign: SignSpec | None = None


class OpeningSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A place in a document whose text is a document: decrypted by `cipher`, read by `form`, and then an element there."""

    path: str
    form: Form = Form.XML
    root: str = "Document"
    fragment: bool | str = False
    packing: Packing | None = None
    cipher: CipherSpec | None = None


class TradeSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the code of the trade is: at a path of the document, or in an argument; without both it is the operation."""

    path: str | None = None
    argument: str | None = None


class FreshSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A call is taken only within `within_s` of its time. `at` is a field as record maps have them: {from: PATH, via: ...}.

    `required: false`: one without a time is taken all the same, for peers of which only some say it.
    """

    at: dict[str, Any]
    within_s: Annotated[float, msgspec.Meta(gt=0)] = 300.0
    required: bool = True


class AnswerSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The answer's document: a request tree, in which what `words` has for the outcome can be read, and `outcome`, `trade`,
    `operation`, `id`, `now`, and what `echo` took from the call as `call.NAME`. `layers` stand around it, innermost first.
    """

    tree: Any
    words: dict[Outcome, dict[str, str]]
    form: Form = Form.XML
    packing: Packing | None = None
    prolog: str = ""
    layers: tuple[LayerSpec, ...] = ()


class QuestionSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A trade that asks something. `ask`: a record map that gives one RefundQuestion; `tree`: the answer's document in place of
    `answer.tree`, which reads `refunds` besides, a list of RefundState.
    """

    ask: dict[str, Any]
    tree: Any


class ServerSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the HIS calls, and how it is answered.

    The service, as the WSDL at `?wsdl` tells it
    - `operations`: their arguments, by name and in order; all of them are strings. `service`: its name. `path`: of the URL.
    - `namespace`: the connection's, unless given. `soap_action`, `qualified`: see Connection.
    - `result`: the element of the answer; `encoding`: of the answer.
    - `understood`: namespaces of SOAP headers that may be passed over though they must be understood.
    The call
    - `argument` carries the document; without it the operation's element is the document, with its arguments as elements.
    - `form`, `root`, `packing`, `fragment`: how the document is read, as replies are.
    - `credentials`: arguments that must be equal to a secret, by the secret's name.
    - `sign`: the signature over the document's own elements, which must hold before anything else is looked at.
    - `opens`: documents inside it.
    - `trade`: see TradeSpec; `id`: paths of what the HIS calls this call, the first that is there.
    - `fresh`: see FreshSpec. `volatile`: paths of what is another in a repeat (a time, a nonce), left out when repeats are found.
    - `finds`: paths of `order_no` and `mrn`, by which a call is found that could not be mapped.
    The answer
    - `questions`: by trade; what they tell is for who can show who it is: `sign` or `credentials` must be there.
    - `echo`: values of the call that `answer` repeats, by name; only of a call whose signature held.
    """

    operations: dict[str, tuple[str, ...]]
    answer: AnswerSpec
    service: str = "HisbridgeService"
    path: str = "/"
    namespace: str | None = None
    soap_action: str = "{namespace}/{operation}"
    qualified: bool = True
    result: str = "{operation}Result"
    encoding: str = "utf-8"
    understood: tuple[str, ...] = ()
    argument: str | None = None
    form: Form = Form.XML
    root: str = "Request"
    packing: Packing | None = None
    fragment: bool | str = False
    credentials: dict[str, str] = {}
    sign: SignSpec | None = None
    opens: tuple[OpeningSpec, ...] = ()
    trade: TradeSpec = TradeSpec()
    id: tuple[str, ...] = ()
    fresh: FreshSpec | None = None
    volatile: tuple[str, ...] = ()
    finds: dict[str, tuple[str, ...]] = {}
    echo: dict[str, str] = {}
    questions: dict[str, QuestionSpec] = {}

    @property
    def guarded(self) -> bool:
        """Whether a call shows who makes it."""
        return self.sign is not None or bool(self.credentials)

    def result_of(self, operation: str) -> str:
        """The element that carries the answer of an operation."""
        return self.result.format(operation=operation)
