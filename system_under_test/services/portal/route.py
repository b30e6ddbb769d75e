"""One operation of the portal as data: it is served, described, counted and initialised from this."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from pydantic import BaseModel

from system_under_test.services.portal.admission import Rank

Method = Literal["GET", "POST", "PUT", "DELETE"]
BODY_CODES: Final = (400, 408, 413, 415)
UNAVAILABLE: Final = (500, 503)


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One operation. `business` routes are what customers come for: they count as in flight and may be shed.

    Those of a low `rank` are shed first. `answer` is what a success says as JSON, `media_type` what it is where it says
    something else. `parameters` are those of the path and the query, as OpenAPI describes them. A `stream` lasts as
    long as its client likes: it is counted, but has no duration.
    """

    method: Method
    path: str
    operation: str
    summary: str
    codes: tuple[int, ...]
    body: type[BaseModel] | None = None
    answer: type[BaseModel] | None = None
    media_type: str | None = None
    authenticated: bool = False
    keyed: bool = False
    parameters: tuple[Mapping[str, Any], ...] = ()
    business: bool = True
    stream: bool = False
    rank: Rank = Rank.READ


UNOBSERVED: Final = frozenset({"/healthz", "/readyz", "/metrics"})
"""Asked by machines several times a second: neither logged nor counted."""
