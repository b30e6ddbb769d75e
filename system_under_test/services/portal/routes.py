"""The table of all routes; each area of the portal has its own part of it."""

from typing import Final

from system_under_test.services.portal import events, money, operations, pages, public, push, redemptions, sessions
from system_under_test.services.portal.route import Route

ROUTES: Final[tuple[Route, ...]] = (
    *sessions.ROUTES,
    *money.ROUTES,
    *redemptions.ROUTES,
    *events.ROUTES,
    *push.ROUTES,
    *public.ROUTES,
    *operations.ROUTES,
    *pages.ROUTES,
)
