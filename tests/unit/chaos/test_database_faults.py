"""What an experiment may not write about faults on a database, and whom they take."""

from random import Random
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from chaos.faults.connected import Applications
from chaos.faults.fault import FAULTS, Fault, NotThereError, RoleShape, requirement_of
from chaos.parameters import written_as
from chaos.targets.backends import Backend, Rights, own_name

_OF_ALL = sorted(name for name in FAULTS if name.startswith("pg_"))
_ROLES = {
    "postgres": RoleShape(name="postgres", zones={"postgres-1": None}),
    "theirs": RoleShape(name="theirs", zones={"theirs-1": None}, external=True),
}


def built(name: str, **parameters: Any) -> Fault:
    """A fault as an experiment would write it; what is not given is as in its example."""
    fault: Fault = TypeAdapter(written_as(FAULTS[name])).validate_python(parameters)
    return fault


def backend(pid: int, application: str, user: str = "portal") -> Backend:
    """A backend of a client."""
    return Backend(pid=pid, user=user, application=application, began=str(pid), statement=None)


@pytest.mark.parametrize(
    ("name", "written", "told"),
    [
        ("pg_terminate", {"dsn": "postgresql://127.0.0.1/x", "application": "a"}, "String should match pattern"),
        ("pg_terminate", {"dsn": "postgres.dsn"}, "application"),
        ("pg_terminate", {"dsn": "postgres.dsn", "application": "a", "every": "1s"}, "every and for belong together"),
        ("pg_cancel", {"dsn": "postgres.dsn", "application": "a", "count": 1, "percent": "50%"}, "keep one"),
        ("pg_cancel", {"dsn": "postgres.dsn", "application": "a", "every": 1, "for": "1s"}, "expected a duration"),
        ("pg_pause", {"dsn": "postgres.dsn", "application": "a", "count": 0}, "greater than or equal to 1"),
        ("pg_lock", {"dsn": "postgres.dsn"}, "expected exactly one of table, row, advisory; got none"),
        ("pg_lock", {"dsn": "postgres.dsn", "table": "a", "advisory": 1}, "got table and advisory"),
        ("pg_lock", {"dsn": "postgres.dsn", "table": "a", "mode": "exclusiv"}, "'access exclusive'"),
        ("pg_lock", {"dsn": "postgres.dsn", "advisory": 1, "mode": "share"}, "mode belongs to table"),
        ("pg_lock", {"dsn": "postgres.dsn", "advisory": 2**63}, "64 bits"),
        ("pg_lock", {"dsn": "postgres.dsn", "table": "a; drop table b"}, "String should match pattern"),
        ("pg_lock", {"dsn": "postgres.dsn", "row": "select 1"}, "locks nothing"),
        ("pg_connections", {"dsn": "postgres.dsn", "leave": -1}, "greater than or equal to 0"),
        ("pg_crash", {"dsn": "postgres.dsn", "how": "kill"}, "'postmaster', 'immediate' or 'backend'"),
        ("pg_crash", {"dsn": "postgres.dsn", "how": "backend"}, "needs the application"),
        ("pg_crash", {"dsn": "postgres.dsn", "application": "a"}, "application belongs to how: backend"),
        (
            "pg_crash",
            {"dsn": "postgres.dsn", "how": "backend", "application": "a", "restart_after": "1s"},
            "goes on by itself",
        ),
    ],
)
def test_what_does_not_make_sense_is_refused_with_why(name: str, written: dict[str, Any], told: str) -> None:
    """Each is read as the parameters of an entry would be."""
    with pytest.raises(ValidationError, match=told):
        built(name, **written)


@pytest.mark.parametrize("name", _OF_ALL)
def test_a_role_that_is_not_there_is_told_with_those_that_are(name: str) -> None:
    """Planned on a target without it."""
    fault = built(name, **{**FAULTS[name].example, "dsn": "postgrs.admin_dsn"})
    with pytest.raises(NotThereError, match=r"no role 'postgrs'. Known: postgres, theirs"):
        fault.choose(_ROLES, frozenset(), Random(1))  # noqa: S311
    assert requirement_of(fault, _ROLES).outputs == ("postgrs.admin_dsn",)


@pytest.mark.parametrize("name", ["pg_crash", "pg_pause"])
def test_a_fault_on_processes_takes_the_server_and_only_ours(name: str) -> None:
    """While another fault has it, or where others run it, it is refused."""
    fault = built(name, **FAULTS[name].example)
    assert fault.choose(_ROLES, frozenset(), Random(1)) == ("postgres-1",)  # noqa: S311
    with pytest.raises(ValueError, match="in the hands of another fault"):
        fault.choose(_ROLES, frozenset({"postgres-1"}), Random(1))  # noqa: S311
    with pytest.raises(NotThereError, match="external"):
        built(name, **{**FAULTS[name].example, "dsn": "theirs.dsn"}).choose(_ROLES, frozenset(), Random(1))  # noqa: S311


@pytest.mark.parametrize(
    ("more", "taken"), [({}, [1, 2, 4]), ({"count": 2}, [1, 2]), ({"percent": 0.5}, [1]), ({"percent": 0.01}, [1])]
)
def test_the_longest_connected_of_the_application_are_taken(more: dict[str, Any], taken: list[int]) -> None:
    """Four backends in the order of their coming, one of another application."""
    listed = [backend(1, "till-1"), backend(2, "till-2"), backend(3, "other"), backend(4, "till-1")]
    whom = Applications(dsn="postgres.dsn", application="till-*", **more)
    assert [it.pid for it in whom.pick(listed)] == taken
    assert whom.pick([]) == []


def test_rights_matter_only_for_strangers() -> None:
    """One's own backends need no grant; a superuser needs none at all."""
    mine, theirs = backend(1, "till", user="portal"), backend(2, "till", user="owner")
    role = Rights(name="portal", superuser=False, sees=False, ends=True)
    assert role.lacking([mine]) is None
    told = role.lacking([mine, theirs])
    assert told is not None
    assert "of owner" in told
    assert "grant pg_read_all_stats to portal" in told
    assert Rights(name="portal", superuser=True, sees=False, ends=False).lacking([theirs]) is None


def test_the_name_of_a_connection_fits_and_carries_fault_and_run() -> None:
    """PostgreSQL keeps 63 bytes of it; two runs of one long name differ at their ends."""
    first, second = (own_name("pg_connections-100", f"{'x' * 60}-{number}") for number in (1, 2))
    assert first.startswith("holdfast pg_connections-100 ")
    assert len(first) <= 63
    assert first != second
