"""The native half: `src/`."""

import os
from collections.abc import Callable, Sequence

VERSION: str

Headers = list[tuple[bytes, bytes]]
Wake = Callable[[], object]

class Failed(Exception):
    args: tuple[str, str]

class Pending:
    def wait(self, timeout: float | None = None) -> object: ...
    def take(self) -> object: ...
    def cancel(self) -> None: ...

class Proof:
    def proven(self) -> str: ...
    def receipt(self) -> str | None: ...

class Answer:
    status: int
    headers: Headers
    whole: bytes | None
    proof: Proof
    def next(self, wake: Wake | None = None) -> Pending: ...
    def close(self) -> None: ...

class Problem:
    code: str
    message: str
    reach: str
    refused: bool
    def verdict(self) -> str | None: ...
    def response(self, path: str) -> tuple[int, Headers, bytes]: ...

class Channel:
    model: str
    partner: str
    def __init__(
        self,
        addresses: Sequence[str],
        *,
        policy: str | os.PathLike[str],
        policy_sha256: str | None,
        key: str | os.PathLike[str],
        model: str | None,
        proxy: str | None,
        receipts: str | os.PathLike[str] | None,
        record: str | os.PathLike[str] | None,
    ) -> None: ...
    def prove(self, wake: Wake | None = None) -> Pending: ...
    def send(
        self, method: str, path: str, headers: Headers, body: bytes, wake: Wake | None = None
    ) -> Pending: ...

def run(arguments: Sequence[str | os.PathLike[str]]) -> Pending: ...
