"""What an experiment may not write about faults on requests, and what they need of the balancer."""

from random import Random
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from chaos.faults.fault import FAULTS, NotThereError, RoleShape, requirement_of
from chaos.faults.http_abort import HttpAbort
from chaos.faults.http_delay import HttpDelay
from chaos.parameters import written_as
from chaos.requirement import merge

_ROLES = {
    "balancer": RoleShape(name="balancer", zones={"balancer-1": None}),
    "theirs": RoleShape(name="theirs", zones={"theirs-1": None}, external=True),
}


def built(name: str, **parameters: Any) -> HttpAbort | HttpDelay:
    """A fault as an experiment would write it."""
    fault: HttpAbort | HttpDelay = TypeAdapter(written_as(FAULTS[name])).validate_python(parameters)
    return fault


@pytest.mark.parametrize(
    ("name", "written", "told"),
    [
        ("http_abort", {}, "admin"),
        ("http_abort", {"admin": "http://127.0.0.1:1"}, "String should match pattern"),
        ("http_abort", {"admin": "b.a", "status": 200}, "greater than or equal to 400"),
        ("http_abort", {"admin": "b.a", "percent": "0%"}, "greater than 0"),
        ("http_abort", {"admin": "b.a", "percent": 50}, "expected a share"),
        ("http_abort", {"admin": "b.a", "path": "v1"}, "String should match pattern"),
        ("false_health", {"admin": "b.a", "role": "portal", "says": "ill"}, "'well' or 'sick'"),
        ("false_health", {"admin": "b.a", "role": "portal"}, "says"),
        ("http_delay", {"admin": "b.a"}, "by"),
        ("http_delay", {"admin": "b.a", "by": 200}, "expected a duration"),
        ("http_delay", {"admin": "b.a", "by": "1h"}, "less than or equal to 600"),
        ("http_delay", {"admin": "b.a", "by": "1us"}, "greater than or equal to 0.001"),
    ],
)
def test_what_does_not_make_sense_is_refused_with_why(name: str, written: dict[str, Any], told: str) -> None:
    """Each is read as the parameters of an entry would be."""
    with pytest.raises(ValidationError, match=told):
        built(name, **written)


def test_the_balancer_is_started_with_a_filter_for_each_path_and_only_ours() -> None:
    """Faults on several paths need several variables, so they play in one run; who is external is left as it is."""
    whole = built("http_abort", admin="balancer.admin_url")
    some = built("http_delay", admin="balancer.admin_url", path="/v1/deposits", by="1s")
    assert merge(requirement_of(fault, _ROLES) for fault in (whole, some)).env == {
        "balancer": {"HTTP_FAULTS": "/", "HTTP_FAULTS_V1_DEPOSITS": "/v1/deposits"}
    }
    theirs = requirement_of(built("http_abort", admin="theirs.url"), _ROLES)
    assert (theirs.env, theirs.outputs) == ({}, ("theirs.url",))
    with pytest.raises(NotThereError, match="no role 'blancer'"):
        built("http_abort", admin="blancer.admin_url").choose(_ROLES, frozenset(), Random(1))  # noqa: S311


def test_settings_of_the_whole_are_those_that_envoy_knows_by_itself() -> None:
    """So an Envoy that others have configured with the plain filter can be used; others carry their path."""
    assert set(built("http_abort", admin="b.a").settings()) == {
        "fault.http.abort.abort_percent",
        "fault.http.abort.http_status",
    }
    assert built("http_delay", admin="b.a", by="1500ms", path="/v1/deposits", percent="0.5%").settings() == {
        "fault.http.v1.deposits.delay.fixed_duration_ms": "1500",
        "fault.http.v1.deposits.delay.fixed_delay_percent": '{"numerator": 5000, "denominator": "MILLION"}',
    }
