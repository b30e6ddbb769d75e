"""The dashboard in a real browser: what a customer sees while the service works, closes, reopens and breaks."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.integration.platform.browser import Page, open_browser
from tests.integration.platform.customers import Customer, log_in, send, until
from tests.integration.platform.operations import Company, Operator, open_company, operate
from tests.integration.platform.stage import Platform


@pytest.fixture(scope="module")
def company(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Company]:
    """The platform with its settler and its maintenance process, for this module alone: it has windows."""
    with open_company(tmp_path_factory.mktemp("dashboard")) as company:
        yield company


@pytest.fixture
def platform(company: Company) -> Platform:
    """The company as customers know it."""
    return Platform(
        stage=company.stage,
        postgres=company.postgres,
        portals=company.portals,
        balancer=company.balancer,
        customers=company.customers,
    )


@pytest.fixture
async def operator(company: Company, session: aiohttp.ClientSession) -> AsyncIterator[Operator]:
    """An operator who leaves nothing behind."""
    async with operate(company, session) as operator:
        yield operator


@pytest.fixture
async def page(platform: Platform, tmp_path: Path) -> AsyncIterator[Page]:
    """The dashboard through the balancer, in a browser of the test's own; its console must stay without complaints."""
    async with open_browser(tmp_path) as page:
        await page.open(f"{platform.url}/")
        yield page
        assert page.complaints == []


async def enter(page: Page, platform: Platform, number: int) -> dict[str, str]:
    """Logs a customer in by the form, with the keyboard alone, and waits for the balance."""
    row = platform.customers[number]
    await page.tab_to("email")
    await page.type(row["email"])
    await page.press("Tab")
    await page.type(row["password"])
    await page.press("Enter")
    await page.until("document.getElementById('balance').dataset.state === 'current'")
    return row


async def shows(page: Page, element: str, text: str, *, within_s: float = 20.0) -> None:
    """Waits until an element that is seen contains a text; thin spaces count as spaces."""
    content = f"document.getElementById('{element}')"
    await page.until(
        f"{content}.checkVisibility() && {content}.textContent.replaceAll('\\u202f', ' ').includes({text!r})",
        within_s=within_s,
    )


async def test_a_customer_sees_deposits_from_elsewhere_as_they_happen(
    platform: Platform, session: aiohttp.ClientSession, page: Page
) -> None:
    """Logs in, then pays in by the API: the balance on the page follows, with its scale, and is announced."""
    await enter(page, platform, 0)
    await shows(page, "balance", "10 000.00")
    elsewhere = await log_in(session, platform, 0)
    await elsewhere.order("deposits", {"amount": 1_234})
    await shows(page, "balance", "10 012.34")
    await shows(page, "said", "Balance 10 012.34")
    await shows(page, "balance-note", "True of transfer")
    assert await page.text("account") == platform.customers[0]["account"]


async def test_everything_can_be_done_by_keyboard(platform: Platform, page: Page) -> None:
    """Tab, Enter and typing alone: log in, pay in, redeem, look at the redemptions, log out."""
    assert await page.focused() == "email"
    await enter(page, platform, 1)
    assert await page.focused() == "dashboard-title"
    for field, amount, said in (("deposit", "12,50", "12.50 was paid in."), ("redeem", "2.5", "2.50 was queued as")):
        await page.tab_to(f"{field}-amount")
        await page.type(amount)
        await page.press("Enter")
        await shows(page, f"{field}-result", said)
    await shows(page, "redemptions", "2.50")
    await page.tab_to("redemptions-frame")
    await page.tab_to("log-out")
    await page.press("Enter")
    await page.until("document.getElementById('entrance').checkVisibility()")
    assert await page.focused() == "email"
    assert await page.evaluate("document.body.innerText.includes('10 0')") is False


async def test_every_control_has_a_name_and_the_page_its_landmarks(page: Page) -> None:
    """Reads the browser's own accessibility tree: no nameless control, landmarks, and headings without a gap."""
    await page.call("Accessibility.enable")
    nodes = [node for node in (await page.call("Accessibility.getFullAXTree"))["nodes"] if not node["ignored"]]
    named = {(node["role"]["value"], node.get("name", {}).get("value", "")) for node in nodes}
    roles = [role for role, _ in named]
    assert not [one for one in named if one[0] in {"button", "textbox", "link", "region"} and not one[1]]
    assert {"banner", "main", "contentinfo", "status"} <= set(roles)
    levels = await page.evaluate("[...document.querySelectorAll('h1, h2, h3')].map((one) => Number(one.tagName[1]))")
    assert levels.count(1) == 1
    assert all(level - before <= 1 for before, level in pairwise([0, *levels])), levels
    assert {("textbox", "E-mail"), ("textbox", "Password"), ("button", "Log in")} <= named


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_text_can_be_read_against_its_ground(platform: Platform, page: Page, scheme: str) -> None:
    """Computes the contrast of every visible text in both colour schemes: at least 4.5 to 1 (WCAG 2.2 AA)."""
    await page.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    await enter(page, platform, 2)
    assert await page.evaluate(_CONTRAST) == []


_CONTRAST = """
(() => {
  const numbers = (colour) => (colour.match(/[0-9.]+/g) ?? []).map(Number);
  const light = (rgb) => {
    const [r, g, b] = rgb.map((c) => (c / 255 <= 0.04045 ? c / 255 / 12.92 : ((c / 255 + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = (element) => {
    for (let at = element; at !== null; at = at.parentElement) {
      const colour = numbers(getComputedStyle(at).backgroundColor);
      if (colour.length === 3 || colour[3] === 1) { return colour.slice(0, 3); }
    }
    return [255, 255, 255];
  };
  const poor = [];
  for (const element of document.body.querySelectorAll("*")) {
    const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim() !== "");
    if (!own || !element.checkVisibility()) { continue; }
    const ink = light(numbers(getComputedStyle(element).color).slice(0, 3));
    const paper = light(ground(element));
    const ratio = (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05);
    if (ratio < 4.5) { poor.push(`${element.id || element.tagName}: ${ratio.toFixed(2)}`); }
  }
  return poor;
})()
"""


async def test_a_wrong_password_is_told_and_the_field_has_the_focus(platform: Platform, page: Page) -> None:
    """Enters a wrong password: the reason is shown as an alert, the password's field is marked and has the focus."""
    await page.tab_to("email")
    await page.type(platform.customers[3]["email"])
    await page.press("Tab")
    await page.type("wrong")
    await page.press("Enter")
    await shows(page, "log-in-problem", "E-mail or password is wrong.")
    assert await page.focused() == "password"
    assert await page.evaluate("document.getElementById('password').getAttribute('aria-invalid')") == "true"
    # The browser itself notes every 401 in its console.
    assert [one for one in page.complaints if "401" not in one] == []
    page.complaints.clear()


async def test_an_amount_that_is_none_is_refused_on_the_page(platform: Platform, page: Page) -> None:
    """Enters what is no amount: told at the field, and nothing is sent."""
    await enter(page, platform, 3)
    for text in ("0", "-5", "1.234", "ten", ""):
        await page.evaluate("document.getElementById('deposit-amount').value = ''")
        await page.tab_to("deposit-amount")
        await page.type(text)
        await page.press("Enter")
        await shows(page, "deposit-result", "Enter an amount above zero with at most 2 decimals")
        assert await page.focused() == "deposit-amount"
    await shows(page, "balance", "10 000.00")


async def test_a_planned_window_is_announced_with_a_countdown(page: Page, operator: Operator) -> None:
    """Plans one 26 business hours ahead, without a log-in: start, countdown and schedule; moved and cancelled, too."""
    await shows(page, "no-windows", "None is planned.")
    number = await operator.plan(hours_ahead=26.5, minutes=45)
    await shows(page, "window-title", "Maintenance is planned")
    await shows(page, "countdown-label", "Begins in")
    await shows(page, "countdown", "1 d 2 h")
    await page.until("document.querySelectorAll('#windows li').length === 1")
    later = (await operator.row(number))["planned_start"] + timedelta(hours=24)
    moved = await operator.ask(
        "POST", f"windows/{number}/move", {"starts_at": later.isoformat(), "reason": "late parts"}
    )
    assert moved.status == 200, moved
    await shows(page, "countdown", "2 d 2 h")
    await shows(page, "windows", "plan 2")
    await operator.ask("POST", f"windows/{number}/cancel", {"reason": "not needed"})
    await page.until("!document.getElementById('window').checkVisibility()")
    await shows(page, "no-windows", "None is planned.")


async def test_the_page_is_honest_through_a_window(platform: Platform, page: Page, operator: Operator) -> None:
    """A whole window. Closed: no number, why, and until when; a redemption is taken meanwhile, with its place.

    Reopened: no old number as current, while the test keeps the sessions from being synchronised; then the balance
    after the redemption, which was settled.
    """
    await enter(page, platform, 4)
    number = await operator.closed()
    await shows(page, "service", "Closed for maintenance")
    await shows(page, "said", "Closed")
    await shows(page, "balance", "Closed for now")
    await shows(page, "countdown-label", "Open again in")
    assert 0 < seconds(await page.text("countdown")) <= 30  # 30 business minutes at a rate of 60
    # By itself: the stream has nothing to tell meanwhile but its sign of life, every five seconds.
    assert await page.evaluate(_CHANGES_IN_FOUR_SECONDS % "countdown") >= 2
    assert "10\u202f000" not in await page.evaluate("document.body.innerText")
    await page.tab_to("redeem-amount")
    await page.type("30")
    await page.press("Enter")
    await shows(page, "redeem-result", "30.00 was queued as number")
    await shows(page, "redemptions", "queued, place 1, expected by")
    async with operator.owner.transaction():
        await operator.owner.execute("lock table differing_account")
        reply = await operator.ask("POST", f"windows/{number}/finish", {"reason": "all done"})
        assert reply.status == 200, reply
        await shows(page, "balance", "Synchronising with the ledger")
        await shows(page, "service", "Open")
        assert not {"10\u202f000", "9\u202f970"} & set((await page.evaluate("document.body.innerText")).split())
    await shows(page, "balance", "9 970.00")
    await shows(page, "redemptions", "settled")


_CHANGES_IN_FOUR_SECONDS = """
new Promise((done) => {
  let count = 0;
  const observer = new MutationObserver(() => { count += 1; });
  observer.observe(document.getElementById("%s"), { childList: true, characterData: true, subtree: true });
  setTimeout(() => done(count), 4000);
})
"""


def seconds(text: str) -> int:
    """The seconds of a countdown below a minute."""
    number, unit = text.split()
    assert unit == "s", text
    return int(number)


async def test_an_order_without_an_answer_is_sent_again_with_its_key_over_a_reload(
    platform: Platform, page: Page, session: aiohttp.ClientSession
) -> None:
    """The browser loses every answer to a deposit, and the page is reloaded: the money is paid in once.

    The request reaches the service each time; the browser's own network layer fails it on the way back.
    """
    await enter(page, platform, 5)
    elsewhere = await log_in(session, platform, 5)
    lost = await lose_answers(page, "*/v1/deposits")
    await page.tab_to("deposit-amount")
    await page.type("7")
    await page.press("Enter")
    await shows(page, "deposit-result", "sent again until it is")
    await asyncio.wait_for(lost.wait(), 5)
    assert (await elsewhere.balance())["balance"] == 1_000_700
    await page.call("Fetch.disable")
    await page.call("Page.reload")
    await shows(page, "deposit-result", "7.00 was paid in.")
    assert (await elsewhere.balance())["balance"] == 1_000_700
    page.complaints.clear()  # the browser notes the answers that it lost


async def lose_answers(page: Page, pattern: str) -> asyncio.Event:
    """Lets requests through and fails their answers; the event is set with the first."""
    lost = asyncio.Event()

    async def fail(parameters: dict[str, Any]) -> None:
        lost.set()
        await page.call("Fetch.failRequest", requestId=parameters["requestId"], errorReason="ConnectionReset")

    page.on("Fetch.requestPaused", fail)
    await page.call("Fetch.enable", patterns=[{"urlPattern": pattern, "requestStage": "Response"}])
    return lost


async def test_a_lost_connection_is_shown_and_comes_back_by_itself(
    platform: Platform, page: Page, session: aiohttp.ClientSession
) -> None:
    """Takes the browser off the network: the number is called old. Back again: current, with what happened since."""
    await enter(page, platform, 6)
    elsewhere = await log_in(session, platform, 6)
    offline = {"latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
    await page.call("Network.emulateNetworkConditions", offline=True, **offline)
    await cut_streams(platform)
    await shows(page, "balance-note", "Not current")
    await shows(page, "balance", "Was 10 000.00")
    await elsewhere.order("deposits", {"amount": 100})
    await page.call("Network.emulateNetworkConditions", offline=False, **offline)
    await shows(page, "balance", "10 001.00", within_s=20)
    await page.until("document.getElementById('balance').dataset.state === 'current'")
    page.complaints.clear()  # the browser notes each request that it could not make


async def cut_streams(platform: Platform) -> None:
    """Has both nodes drain and start again, one after the other: their streams end."""
    for node in platform.portals:
        assert await asyncio.to_thread(node.end) == 0
        node.start()
        async with asyncio.timeout(15):
            await until(partial(asyncio.to_thread, node.answers, "/readyz"), bool)
    async with asyncio.timeout(10):
        await until(lambda: asyncio.to_thread(platform.balancer.answers, "/v1/status"), bool)


async def test_the_files_are_served_with_type_validator_and_policy(
    platform: Platform, session: aiohttp.ClientSession
) -> None:
    """Gets each through the balancer: its type, no script from elsewhere, and 304 for what the client has."""
    for path, kind in (
        ("/", "text/html"),
        ("/web/dashboard.css", "text/css"),
        ("/web/dashboard.js", "text/javascript"),
        ("/web/stream.js", "text/javascript"),
        ("/web/format.js", "text/javascript"),
        ("/web/icon.svg", "image/svg+xml"),
    ):
        async with session.get(f"{platform.url}{path}") as response:
            assert (response.status, response.content_type) == (200, kind)
            text = await response.text()
            assert "http:" not in text.replace("http://www.w3.org/2000/svg", "")
            assert "https:" not in text
            policy = response.headers["Content-Security-Policy"]
            assert "default-src 'none'" in policy
            assert "unsafe" not in policy
            assert response.headers["X-Content-Type-Options"] == "nosniff"
            assert response.headers["Cache-Control"] == "no-cache"
            tag = response.headers["ETag"]
        again = await send(session, "GET", f"{platform.url}{path}", headers={"If-None-Match": tag})
        assert (again.status, again.body) == (304, "")
    missing = await send(session, "GET", f"{platform.url}/web/../settings.py")
    assert missing.status == 404


async def test_a_session_that_was_ended_elsewhere_leads_back_to_the_entrance(platform: Platform, page: Page) -> None:
    """Takes the page's own token and logs out with it by the API: the page says so and shows no money."""
    await enter(page, platform, 7)
    token = await page.evaluate("JSON.parse(sessionStorage.getItem('savings.session')).token")
    async with aiohttp.ClientSession() as elsewhere:
        saver = Customer(session=elsewhere, url=platform.url, token=token, account="")
        left = await send(
            elsewhere, "DELETE", f"{saver.url}/v1/sessions/current", headers={"Authorization": f"Bearer {token}"}
        )
        assert left.status == 204
    await shows(page, "log-in-problem", "Your session has ended.")
    assert "10\u202f000" not in await page.evaluate("document.body.innerText")
