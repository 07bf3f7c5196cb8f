"""What was proven before a request was sent, and the receipt of its answer."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from . import _native


@dataclass(frozen=True, repr=False)
class Receipt:
    """A receipt that the clean room's receipt key signed, verified against this session, request and answer."""

    payload: dict[str, Any]
    """What the receipt says: model, release, times, byte counts, finish state, commitments."""
    envelope: dict[str, Any]
    """The signed envelope (DSSE), for others to verify."""
    path: str | None
    """The file that it is kept in, if the channel keeps receipts."""

    def __repr__(self) -> str:
        return f"<receipt {self.payload.get('id')}>"


class Proof:
    """What was proven about the clean room that answers, before the request was sent."""

    def __init__(self, native: _native.Proof) -> None:
        self._native = native

    @cached_property
    def _proven(self) -> dict[str, Any]:
        proven: dict[str, Any] = json.loads(self._native.proven())
        return proven

    @property
    def image(self) -> str:
        """The name that your policy, or the release, gives to the image that booted."""
        return str(self._proven["image"])

    @property
    def tier(self) -> str:
        """Who vouches for the hardware: `production`, or `development` under a root of your own."""
        return str(self._proven["tier"])

    @property
    def model_sha256(self) -> str:
        """The identity of the model that answers, in hexadecimal."""
        return str(self._proven["model_sha256"])

    @property
    def transcript_sha384(self) -> str:
        """The digest by which receipts name the session, in hexadecimal."""
        return str(self._proven["transcript_sha384"])

    @property
    def release(self) -> dict[str, Any] | None:
        """What the authorities permit, if your policy pins their root."""
        release: dict[str, Any] | None = self._proven["release"]
        return release

    @property
    def verdict(self) -> dict[str, Any]:
        """Each check with its expected and its actual value, as `cleanroom --json verify` prints it."""
        verdict: dict[str, Any] = self._proven["verdict"]
        return verdict

    @property
    def receipt(self) -> Receipt | None:
        """The verified receipt of the answer. A stream has one when it has ended."""
        receipt = self._native.receipt()
        return None if receipt is None else Receipt(**json.loads(receipt))

    def __repr__(self) -> str:
        return f"<proof of {self.image!r} ({self.tier}), model {self.model_sha256}>"


def proof(of: object) -> Proof | None:
    """The proof behind an answer, a stream or an exception of one of the clients.

    `None` when there is none: nothing was sent then. Answers have the same as their attribute `cleanroom`.
    """
    found = getattr(of, "cleanroom", None)
    for holder in ("response", "http_response", "request"):
        if isinstance(found, Proof):
            break
        extensions = getattr(getattr(of, holder, None), "extensions", None) or {}
        found = extensions.get("cleanroom")
    if not isinstance(found, Proof):
        found = (getattr(of, "extensions", None) or {}).get("cleanroom")
    return found if isinstance(found, Proof) else None
