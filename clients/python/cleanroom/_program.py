"""The program's commands `verify`, `measure` and `explain`, with their results as objects."""

from __future__ import annotations

import json
import os
from typing import Any, cast

from . import _errors, _native

PathLike = str | os.PathLike[str]


class Report(dict[str, Any]):
    """What a command found: the members that it prints with `--json`."""

    passed: bool
    """Nothing failed. Questions that were not asked are in the report as such."""

    partial: bool
    """Nothing failed, and something was not asked about."""


def verify(
    address: str,
    *,
    policy: PathLike = "trust.toml",
    policy_sha256: str | None = None,
    key: PathLike = "cleanroom.key",
    model: str | None = None,
    proxy: str | None = None,
) -> Report:
    """Judges the clean room at `address` against your policy, and reports each check. Only a challenge is sent.

    Raises `NotProven`, with the report as its `verdict`, when something failed a check; so a result that nobody
    looks at is no mistake. Raises `Failure` when nothing was judged.
    """
    arguments = ["verify", address, "--policy", policy, "--key", key]
    for option, value in (("--policy-sha256", policy_sha256), ("--model", model), ("--proxy", proxy)):
        if value is not None:
            arguments += [option, value]
    report = _run(arguments)
    if not report.passed:
        error = _errors.NotProven(f"the clean room at {address} was refused: {report.get('code')}")
        error.code, error.reach = str(report.get("code")), "never-sent"
        error.verdict, error.cleanroom = dict(report), None
        raise error
    return report


def measure(image: PathLike) -> Report:
    """The PCRs of an enclave image file. Raises `Failure` when the image is refused."""
    return _run(["measure", image])


def explain(file: PathLike) -> Report:
    """What is in an enclave image or an attestation document, and its faults. It judges nothing."""
    return _run(["explain", file])


def _run(arguments: list[PathLike]) -> Report:
    try:
        ran = _native.run([os.fspath(argument) for argument in arguments]).wait()
    except _native.Failed as error:
        raise _errors.failure(error) from None
    outcome, text = cast(tuple[int, str], ran)
    report = Report(json.loads(text))
    report.passed, report.partial = outcome in (0, 3), outcome == 3
    return report
