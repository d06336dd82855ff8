"""Agent and frontend prove to each other that they have the replica's secret, before either believes what is said.

    agent:    HELLO (who it is, a number)                                  PROOF
    frontend:                                CHALLENGE (a number, proof)          WELCOME, or REFUSED with the reason

A proof is the HMAC (RFC 2104, SHA-256) of the role, both random numbers and who the agent says it is, so neither can be
used again, nor by the other side, nor for another slot. Where no secret is given it proves nothing. It decides who
takes part; what is said afterwards is not encrypted.
"""

import hmac
import json
import secrets
from collections.abc import Mapping
from typing import Any, Final, Literal

from moe_runtime.errors import ProtocolError
from moe_runtime.group.connection import SMALL_BYTES, Connection, Kind, Message
from moe_runtime.group.membership import SECRET, GroupError

_NUMBER_BYTES: Final = 32
_BOUND: Final = ("number", "slot", "attempt", "plan", "protocol")
"""Fields of HELLO that proofs are made of."""
STRANGER: Final = f"the two have not been given the same {SECRET}; give it to all pods of the replica alike, or to none"


def join(connection: Connection, who: Mapping[str, Any], secret: str, timeout_s: float) -> None:
    """Be taken in by a frontend. Raises GroupError with the reason of one that refuses, or is not the replica's."""
    said = {**who, "number": _number()}
    connection.send_json(Kind.HELLO, 0, said)
    challenge = _expect(connection, Kind.CHALLENGE, timeout_s).json()
    number = str(challenge.get("number"))
    if not _holds(challenge, _proof(secret, "frontend", said, number)):
        raise GroupError(STRANGER)
    connection.send_json(Kind.PROOF, 0, {"proof": _proof(secret, "agent", said, number)})
    _expect(connection, Kind.WELCOME, timeout_s)


def knows_secret(connection: Connection, said: Mapping[str, Any], secret: str, timeout_s: float) -> bool:
    """Have an agent that has said who it is prove that it knows the secret. Raises ProtocolError, Disconnected."""
    number = _number()
    connection.send_json(Kind.CHALLENGE, 0, {"number": number, "proof": _proof(secret, "frontend", said, number)})
    answer = connection.receive(SMALL_BYTES, timeout_s)
    if answer.kind is not Kind.PROOF:
        raise ProtocolError(f"an agent said {answer.kind.name} before its proof")
    return _holds(answer.json(), _proof(secret, "agent", said, number))


def _expect(connection: Connection, kind: Kind, timeout_s: float) -> Message:
    answer = connection.receive(SMALL_BYTES, timeout_s)
    if answer.kind is kind:
        return answer
    raise GroupError(str(answer.json().get("reason", "it did not say why")))


def _number() -> str:
    return secrets.token_hex(_NUMBER_BYTES)


def _proof(secret: str, role: Literal["agent", "frontend"], said: Mapping[str, Any], number: str) -> str:
    text = json.dumps([role, number, *(said.get(field) for field in _BOUND)])
    return hmac.digest(secret.encode(errors="surrogateescape"), text.encode(), "sha256").hex()


def _holds(message: Mapping[str, Any], proof: str) -> bool:
    return hmac.compare_digest(str(message.get("proof")).encode(), proof.encode())
