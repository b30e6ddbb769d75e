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

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import TYPE_CHECKING, Annotated, Any, Final

from pydantic import Field

from metrics.checkers.checker import CHECKERS
from metrics.findings import Finding, Grade, count

if TYPE_CHECKING:
    from metrics.dumps import Dump, Effect
    from metrics.evidence import Evidence
    from metrics.operations import Operations

WRONG: Final = ("lost", "duplicate", "ghost", "wrong_amount")


@dataclass(frozen=True, slots=True, kw_only=True)
class Accounts:
    """What became of every key; each list holds (key, positions of its operations, its effects)."""

    acknowledged: int = 0
    recovered: int = 0
    did_not_happen: int = 0
    unkeyed: int = 0
    effects: int = 0
    wrong: Mapping[str, list[tuple[str | None, Sequence[int], Sequence["Effect"]]]] = field(
        default_factory=lambda: {name: [] for name in WRONG}
    )


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
            witness=_witnesses(evidence, operations, accounts),
            detail=_sentence(accounts),
        ).doubted(doubts)


def compare(operations: "Operations", dump: "Dump", kinds: frozenset[str]) -> Accounts:
    """Resolves every key; `operations` are those of these kinds only."""
    from metrics.dumps import effects_of
    from metrics.history import INFO, OK

    present: dict[str | None, list[Effect]] = {}
    effects = effects_of(dump, kinds)
    for effect in effects:
        present.setdefault(effect.key, []).append(effect)
    accounts: dict[str, list[int]] = {}
    unkeyed = 0
    outcomes = operations.outcome.tolist()
    asked = _Asked(operations)
    for position, code in enumerate(operations.key.codes.tolist()):
        if code < 0:
            unkeyed += outcomes[position] == OK
        else:
            accounts.setdefault(operations.key.names[code], []).append(position)
    wrong: dict[str, list[tuple[str | None, Sequence[int], Sequence[Effect]]]] = {name: [] for name in WRONG}
    acknowledged = recovered = absent = 0
    for key, positions in accounts.items():
        found = present.pop(key, [])
        told = {outcomes[position] for position in positions}
        case = (key, positions, found)
        if OK not in told and INFO not in told:
            if found:
                wrong["ghost"].append(case)
            continue
        acknowledged += OK in told
        recovered += OK not in told and len(found) == 1
        absent += OK not in told and not found
        if OK in told and not found:
            wrong["lost"].append(case)
        elif len(found) > 1:
            wrong["duplicate"].append(case)
        elif found and not asked.agree([p for p in positions if outcomes[p] == max_told(told)], found[0]):
            wrong["wrong_amount"].append(case)
    wrong["ghost"] += [(key, (), found) for key, found in present.items()]
    return Accounts(
        acknowledged=acknowledged,
        recovered=recovered,
        did_not_happen=absent,
        unkeyed=unkeyed,
        effects=len(effects),
        wrong=wrong,
    )


def max_told(told: set[int]) -> int:
    """The outcome that says most about an effect: ok, and without one info."""
    from metrics.history import INFO, OK

    return OK if OK in told else INFO


class _Asked:
    """What operations asked for; each distinct text is parsed once."""

    def __init__(self, operations: "Operations") -> None:
        self._operations = operations
        self._amounts: dict[int, Any] = {}
        self._codes = operations.asked.codes.tolist()
        self._kinds = operations.f.codes.tolist()

    def agree(self, positions: Sequence[int], effect: "Effect") -> bool:
        """Whether one of the operations asked for just this effect; what says no amount cannot disagree."""
        return any(self._agrees(position, effect) for position in positions)

    def _agrees(self, position: int, effect: "Effect") -> bool:
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


def _witnesses(evidence: "Evidence", operations: "Operations", accounts: Accounts) -> list[dict[str, Any]]:
    from metrics.witnesses import WITNESSES_MAX, told

    # One of each kind of wrong comes before the second of any.
    rounds = zip_longest(*([(name, case) for case in accounts.wrong[name]] for name in WRONG))
    cases = [case for one_of_each in rounds for case in one_of_each if case is not None]
    return [
        {
            "wrong": name,
            "key": key,
            "operations": [told(evidence, operations, position) for position in positions[:3]],
            "effects": [dict(effect.row) for effect in effects[:3]],
        }
        for name, (key, positions, effects) in cases[:WITNESSES_MAX]
    ]
