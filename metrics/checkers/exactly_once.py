"""Acknowledged means present exactly once: what clients were told against what the target's final dump holds.

all operations under one key        in the dump    verdict
one ok                              once           fine (with the amount that was asked)
                                    never          lost
                                    more often     duplicate
none ok, one without known outcome  never          did not happen
                                    once           recovered
                                    more often     duplicate
all certainly failed                at least once  ghost
no operation                        at least once  ghost
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, zip_longest
from typing import TYPE_CHECKING, Annotated, Any, Final

from pydantic import Field

from metrics.checkers.checker import CHECKERS
from metrics.findings import Finding, Grade, count

if TYPE_CHECKING:
    from metrics.dumps import Dump, Effect
    from metrics.evidence import Evidence
    from metrics.operations import Flags, Ints, Operations

WRONG: Final = ("lost", "duplicate", "ghost", "wrong_amount")
_TOLD_MAX: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Accounts:
    """What became of every key; `wrong` names the keys of each kind of wrong."""

    acknowledged: int
    recovered: int
    did_not_happen: int
    unkeyed: int
    effects: int
    wrong: Mapping[str, Sequence[str | None]]


@CHECKERS.register("exactly_once")
@dataclass(frozen=True, slots=True, kw_only=True)
class ExactlyOnce:
    """Every acknowledged operation is in the dump exactly once by its key, with its amount, and nothing else is.

    Operations of unknown outcome are resolved by their key: there once is recovered, absent did not happen.
    """

    dump: str
    operations: Annotated[list[str], Field(min_length=1)]

    @property
    def title(self) -> str:
        """The name of the finding."""
        return f"exactly_once:{self.dump}"

    def check(self, evidence: "Evidence") -> Finding:
        """Compares keys of the whole history, warm-up included, with the dump."""
        from metrics.soundness import history_doubts, record_complete

        dump = evidence.dumps.get(self.dump)
        if dump is None or dump.problem is not None:
            reason = dump.problem if dump else f"there is none of that name; there are: {_names(evidence)}"
            return Finding(
                name=self.title, grade=Grade.UNKNOWN, detail=f"The dump {self.dump!r} is unusable: {reason}."
            )
        operations = evidence.operations
        operations = operations.take(operations.f.equals(*self.operations))
        accounts = compare(operations, dump, frozenset(self.operations))
        doubts = history_doubts(evidence)
        if not accounts.acknowledged:
            doubts.append("no operation was acknowledged")
        if accounts.unkeyed:
            doubts.append(f"{count(accounts.unkeyed, 'acknowledged operation')} carried no key")
        sound = record_complete(evidence) and evidence.own_target
        if not sound and accounts.wrong["ghost"]:
            doubts.append("effects that nobody is known to have asked for may belong to operations outside this record")
        judged = [name for name in WRONG if sound or name != "ghost"]
        wrong = sum(len(accounts.wrong[name]) for name in judged)
        return Finding(
            name=self.title,
            grade=Grade.FAIL if wrong else Grade.PASS,
            value=wrong,
            limit=0,
            unit="keys",
            witness=_witnesses(evidence, operations, dump, self.operations, accounts),
            detail=_sentence(accounts),
        ).doubted(doubts)


def compare(operations: "Operations", dump: "Dump", kinds: frozenset[str]) -> Accounts:
    """Resolves every key; `operations` are those of these kinds only."""
    import numpy as np

    from metrics.dumps import effects_of
    from metrics.history import INFO, OK

    names, codes, outcome = operations.key.names, operations.key.codes, operations.outcome
    keyed = codes >= 0
    asked, ok, unknown = (np.zeros(len(names), dtype=np.bool_) for _ in range(3))
    asked[codes[keyed]] = True
    ok[codes[keyed & (outcome == OK)]] = True
    unknown[codes[keyed & (outcome == INFO)]] = True
    unknown &= ~ok

    effects = effects_of(dump, kinds)
    code_of: dict[str | None, int] = {name: code for code, name in enumerate(names)}
    place = np.fromiter((code_of.get(effect.key, -1) for effect in effects), dtype=np.int64, count=len(effects))
    if len(names):
        place[~asked[place]] = -1  # a key that other kinds of operation used is none of these
    known = place >= 0
    times = np.bincount(place[known], minlength=len(names))
    effect_at = np.zeros(len(names), dtype=np.int64)
    effect_at[place[known]] = np.flatnonzero(known)

    once = (ok | unknown) & (times == 1)
    strongest = keyed & np.where(ok[codes], outcome == OK, outcome == INFO) if len(names) else keyed
    agreed = _agreed(
        operations, np.flatnonzero(strongest & once[codes]).tolist() if len(names) else [], effects, effect_at
    )
    wrong_amount = once.copy()
    wrong_amount[agreed] = False

    def named(which: "Flags") -> list[str | None]:
        return [names[code] for code in np.flatnonzero(which).tolist()]

    unasked = [effects[number].key for number in np.flatnonzero(~known).tolist()]
    return Accounts(
        acknowledged=int(ok.sum()),
        recovered=int((unknown & (times == 1)).sum()),
        did_not_happen=int((unknown & (times == 0)).sum()),
        unkeyed=int((~keyed & (outcome == OK)).sum()),
        effects=len(effects),
        wrong={
            "lost": named(ok & (times == 0)),
            "duplicate": named((ok | unknown) & (times > 1)),
            "ghost": [*named(asked & ~ok & ~unknown & (times > 0)), *dict.fromkeys(unasked)],
            "wrong_amount": named(wrong_amount),
        },
    )


def _agreed(
    operations: "Operations", positions: Iterable[int], effects: "Sequence[Effect]", effect_at: "Ints"
) -> list[int]:
    """The keys of which one of these operations asked for just what its effect is."""
    asked = _Asked(operations)
    # Lists, because single elements of an array cost several times more.
    codes, at = operations.key.codes.tolist(), effect_at.tolist()
    return [codes[place] for place in positions if asked.agrees(place, effects[at[codes[place]]])]


class _Asked:
    """What operations asked for; each distinct text is parsed once."""

    def __init__(self, operations: "Operations") -> None:
        self._operations = operations
        self._amounts: dict[int, Any] = {}
        self._codes = operations.asked.codes.tolist()
        self._kinds = operations.f.codes.tolist()

    def agrees(self, position: int, effect: "Effect") -> bool:
        """Whether the operation asked for just this effect; what says no amount cannot disagree."""
        if self._operations.f.names[self._kinds[position]] != effect.f:
            return False
        amount = self._amount(self._codes[position])
        return amount is None or effect.amount is None or bool(amount == effect.amount)

    def _amount(self, code: int) -> Any:
        from metrics.dumps import amount_in
        from metrics.witnesses import parsed

        if code not in self._amounts:
            self._amounts[code] = None if code < 0 else amount_in(parsed(self._operations.asked.names[code]))
        return self._amounts[code]


def _names(evidence: "Evidence") -> str:
    return ", ".join(evidence.dumps) or "none"


def _sentence(accounts: Accounts) -> str:
    wrong = ", ".join(f"{len(accounts.wrong[name])} {name.replace('_', ' ')}" for name in WRONG if accounts.wrong[name])
    kept = (
        f"{count(accounts.acknowledged, 'acknowledged operation')} against {count(accounts.effects, 'effect')}; of "
        f"those with unknown outcome {accounts.recovered} had happened and {accounts.did_not_happen} had not."
    )
    return f"{wrong[0].upper()}{wrong[1:]}. {kept}" if wrong else kept


def _witnesses(
    evidence: "Evidence", operations: "Operations", dump: "Dump", kinds: Sequence[str], accounts: Accounts
) -> list[dict[str, Any]]:
    """The first few wrong keys with their operations and effects; one of each kind of wrong before a second of any."""
    from metrics.dumps import effects_of
    from metrics.witnesses import WITNESSES_MAX, told

    rounds = zip_longest(*([(name, key) for key in accounts.wrong[name]] for name in WRONG))
    cases = list(islice((case for one_of_each in rounds for case in one_of_each if case), WITNESSES_MAX))
    effects = effects_of(dump, frozenset(kinds)) if cases else []
    return [
        {
            "wrong": name,
            "key": key,
            "operations": [
                told(evidence, operations, int(position))
                for position in ([] if key is None else operations.key.equals(key).nonzero()[0][:_TOLD_MAX])
            ],
            "effects": [dict(effect.row) for effect in effects if effect.key == key][:_TOLD_MAX],
        }
        for name, key in cases
    ]
