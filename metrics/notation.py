"""Histories in a notation that fits the eye, for tests and examples: one line, one operation.

    # f     key amount account   intended start, duration   outcome
    deposit a   500              @1.000 +0.012 ok portal-1
    deposit d   500    ann       @1.000 +0.012 ok
    redeem  b   200              @1.5   +0.4   info !timeout x2
    deposit c                    @2
    probe                        @1.02  +0.002 ok
    balance                      @3 ~3.2 +0.1  ok

`@` is the intended start in seconds, `~` the actual one where it was later, `+` the time from the actual start to
the completion; an operation without one never completed. After the outcome come, in any order, who answered
(`portal-1@v2`), `!error`, `xN` tries on the wire, and `replayed`. `#` begins a comment.
"""

import json
import re
from collections.abc import Iterable
from typing import Final

from metrics.history import FAIL, INFO, INVOKE, OK, PROBE, Row

_OUTCOMES: Final = {"ok": OK, "fail": FAIL, "info": INFO}
_TIME: Final = re.compile(r"\d+(\.\d+)?")
_TRIES: Final = re.compile(r"x\d+")


def rows_of(text: str, *, writer: int = 0) -> list[Row]:
    """The rows of the operations, two each (one without completion), in order of time.

    Raises:
        ValueError: a line that cannot be read, with its number.
    """
    rows: list[Row] = []
    for number, line in enumerate(text.splitlines(), start=1):
        words = line.partition("#")[0].split()
        if words:
            try:
                rows += _operation(words, index=(writer << 40) + number)
            except ValueError as error:
                raise ValueError(f"line {number}: {line.strip()!r}: {error}") from error
    return sorted(rows, key=lambda row: (row.t_ns, row.index, row.type))


def _operation(words: list[str], *, index: int) -> Iterable[Row]:
    start = next((place for place, word in enumerate(words) if word.startswith("@")), None)
    if start is None or not 1 <= start <= 4:
        raise ValueError("expected `f [key [amount [account]]] @intended ...`")
    f = words[0]
    key, amount, account = [*words[1:start], None, None, None][:3]
    of_whom = {} if account is None else {"account": account}
    asked = None if amount is None else json.dumps({"amount": int(amount), **of_whom}, separators=(",", ":"))
    rest = words[start:]
    intended_ns = _ns(rest.pop(0), "@")
    start_ns = _ns(rest.pop(0), "~") if rest and rest[0].startswith("~") else intended_ns
    invoke = Row(index, start_ns, intended_ns, index, INVOKE, f, key, asked, None, None, 0)
    if not rest:
        return [invoke]
    end_ns = start_ns + _ns(rest.pop(0), "+")
    if not rest or rest[0] not in _OUTCOMES:
        raise ValueError(f"expected one of {', '.join(_OUTCOMES)} after the duration")
    outcome = _OUTCOMES[rest.pop(0)]
    error = next((word[1:] for word in rest if word.startswith("!")), None)
    answered = '{"replayed":true}' if "replayed" in rest else None
    tries = next((int(word[1:]) for word in rest if _TRIES.fullmatch(word)), 0 if f == PROBE else 1)
    nodes = [w for w in rest if not w.startswith("!") and w != "replayed" and not _TRIES.fullmatch(w)]
    node = nodes[0] if nodes else None
    return [invoke, Row(index, end_ns, intended_ns, index, outcome, f, key, answered, error, node, tries)]


def _ns(word: str, mark: str) -> int:
    if not word.startswith(mark) or not _TIME.fullmatch(word[1:]):
        raise ValueError(f"expected {mark}SECONDS, got {word!r}")
    return round(float(word[1:]) * 1e9)
