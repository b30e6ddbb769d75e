"""Acknowledged means present exactly once: what clients were told against what the target's final dump holds.

all operations under one key        in the dump    verdict
one ok                              once           fine (with the amount that was asked)
                                    never          lost; wrong_account if another account has it
                                    more often     duplicate
none ok, one without known outcome  never          did not happen
                                    once           recovered
                                    more often     duplicate
all certainly failed                at least once  ghost
no operation                        at least once  ghost

Services keep keys apart by account: where both the operation and the effect name one, key and account together count
as the key. A target that was there before the run holds effects of others too, so there the last line is left out.
"""

from collections.abc import Mapping, Sequence
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

WRONG: Final = ("lost", "duplicate", "ghost", "wrong_amount", "wrong_account")
_TOLD_MAX: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Accounts:
    """What became of every key; `wrong` names the keys of each kind of wrong, `foreign` counts others' effects."""

    acknowledged: int
    recovered: int
    did_not_happen: int
    unkeyed: int
    effects: int
    foreign: int
    wrong: Mapping[str, Sequence[str | None]]


@CHECKERS.register("exactly_once")
@dataclass(frozen=True, slots=True, kw_only=True)
class ExactlyOnce:
    """Each acknowledged operation is in the dump exactly once by its key, with amount and account; nothing else is.

    Operations of unknown outcome are resolved by their key: there once is recovered, absent did not happen. Unknown
    when one of `operations` was never acknowledged.
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
        accounts = compare(operations, dump, frozenset(self.operations), own_target=evidence.own_target)
        doubts = history_doubts(evidence)
        granted = operations.f.take(operations.ok)
        doubts += [f"no {f} was acknowledged" for f in dict.fromkeys(self.operations) if not granted.equals(f).any()]
        if accounts.unkeyed:
            doubts.append(f"{count(accounts.unkeyed, 'acknowledged operation')} carried no key")
        sound = record_complete(evidence)
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


def compare(operations: "Operations", dump: "Dump", kinds: frozenset[str], *, own_target: bool) -> Accounts:
    """Resolves every key; `operations` are those of these kinds only.

    On a target of its own a run answers for every effect, on another only for what it asked for.
    """
    import numpy as np

    from metrics.dumps import effects_of
    from metrics.history import INFO, OK

    effects = effects_of(dump, kinds)
    asked = _Asked(operations)
    codes, identities = _identities(operations, asked, {it.key for it in effects if it.account is None})
    outcome, keyed = operations.outcome, codes >= 0
    ok, unknown = (np.zeros(len(identities), dtype=np.bool_) for _ in range(2))
    ok[codes[keyed & (outcome == OK)]] = True
    unknown[codes[keyed & (outcome == INFO)]] = True
    unknown &= ~ok

    code_of = {identity: code for code, identity in enumerate(identities)}
    place = np.fromiter((_place(effect, code_of) for effect in effects), dtype=np.int64, count=len(effects))
    known = place >= 0
    times = np.bincount(place[known], minlength=len(identities))
    effect_at = np.zeros(len(identities), dtype=np.int64)
    effect_at[place[known]] = np.flatnonzero(known)

    once = (ok | unknown) & (times == 1)
    positions = np.flatnonzero(keyed)
    of = codes[positions]
    strongest = np.where(ok[of], outcome[positions] == OK, outcome[positions] == INFO)
    wrong_amount = once.copy()
    # Lists, because single elements of an array cost several times more.
    at, code = effect_at.tolist(), codes.tolist()
    for position in positions[strongest & once[of]].tolist():
        if asked.agrees(position, effects[at[code[position]]]):
            wrong_amount[code[position]] = False

    others = [effects[number].key for number in np.flatnonzero(~known).tolist()]
    other_keys = frozenset(others)
    elsewhere = np.fromiter((key in other_keys for key, _ in identities), dtype=np.bool_, count=len(identities))
    # What is elsewhere may be an earlier run's, so there only what must be somewhere is known to be misplaced.
    misplaced = (ok | unknown if own_target else ok) & (times == 0) & elsewhere

    def named(which: "Flags") -> list[str | None]:
        return [identities[code][0] for code in np.flatnonzero(which).tolist()]

    moved = frozenset(named(misplaced))
    unasked = [key for key in others if key not in moved]
    return Accounts(
        acknowledged=int(ok.sum()),
        recovered=int((unknown & (times == 1)).sum()),
        did_not_happen=int((unknown & (times == 0) & ~misplaced).sum()),
        unkeyed=int((~keyed & (outcome == OK)).sum()),
        effects=len(effects) - (0 if own_target else len(unasked)),
        foreign=0 if own_target else len(unasked),
        wrong={
            "lost": named(ok & (times == 0) & ~misplaced),
            "duplicate": named((ok | unknown) & (times > 1)),
            "ghost": [*named(~ok & ~unknown & (times > 0)), *(dict.fromkeys(unasked) if own_target else ())],
            "wrong_amount": named(wrong_amount),
            "wrong_account": named(misplaced),
        },
    )


_Identity = tuple[str, str | int | None]
"""A key, and the account in which it counts; None where that is not known on both sides."""


def _identities(operations: "Operations", asked: "_Asked", unowned: set[str | None]) -> "tuple[Ints, list[_Identity]]":
    """For each operation which identity it has, -1 without a key; under `unowned` keys accounts do not matter."""
    import numpy as np

    key, text = operations.key, operations.asked
    accounts: dict[str | int | None, int] = {None: 0}
    account_of_text = np.zeros(len(text.names) + 1, dtype=np.int64)  # the entry more at the end answers for code -1
    for code in np.unique(text.codes[text.codes >= 0]).tolist():
        account_of_text[code] = accounts.setdefault(asked.account(code), len(accounts))
    account = account_of_text[text.codes]
    anybody = np.zeros(len(key.names) + 1, dtype=np.bool_)
    anybody[key.codes[(account == 0) | key.where(unowned.__contains__)]] = True
    account[anybody[key.codes]] = 0
    keyed = key.codes >= 0
    used, place = np.unique(key.codes[keyed] * len(accounts) + account[keyed], return_inverse=True)
    codes = np.full(len(operations), -1, dtype=np.int64)
    codes[keyed] = place
    names = list(accounts)
    return codes, [(key.names[one // len(accounts)], names[one % len(accounts)]) for one in used.tolist()]


def _place(effect: "Effect", code_of: Mapping[_Identity, int]) -> int:
    """Whose effect it is; -1 for nobody's."""
    if effect.key is None:
        return -1
    return code_of.get((effect.key, effect.account), code_of.get((effect.key, None), -1))


class _Asked:
    """What operations asked for; each distinct text is parsed once."""

    def __init__(self, operations: "Operations") -> None:
        self._operations = operations
        self._values: dict[int, Any] = {}
        self._codes = operations.asked.codes.tolist()
        self._kinds = operations.f.codes.tolist()

    def agrees(self, position: int, effect: "Effect") -> bool:
        """Whether the operation asked for just this effect; what says no amount cannot disagree."""
        from metrics.dumps import amount_in

        if self._operations.f.names[self._kinds[position]] != effect.f:
            return False
        code = self._codes[position]
        amount = None if code < 0 else amount_in(self._value(code))
        return amount is None or effect.amount is None or bool(amount == effect.amount)

    def account(self, code: int) -> str | int | None:
        """The account that a text names."""
        from metrics.dumps import account_in

        return account_in(self._value(code))

    def _value(self, code: int) -> Any:
        from metrics.witnesses import parsed

        if code not in self._values:
            self._values[code] = parsed(self._operations.asked.names[code])
        return self._values[code]


def _names(evidence: "Evidence") -> str:
    return ", ".join(evidence.dumps) or "none"


def _sentence(accounts: Accounts) -> str:
    wrong = ", ".join(f"{len(accounts.wrong[name])} {name.replace('_', ' ')}" for name in WRONG if accounts.wrong[name])
    kept = (
        f"{count(accounts.acknowledged, 'acknowledged operation')} against {count(accounts.effects, 'effect')}; of "
        f"those with unknown outcome {accounts.recovered} had happened and {accounts.did_not_happen} had not."
    )
    if accounts.foreign:
        kept += f" Left out: {count(accounts.foreign, 'effect')} of others; the target was there before this run."
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
