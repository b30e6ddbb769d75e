"""Chromium without a screen, driven over its DevTools protocol."""

import asyncio
import itertools
import json
import os
import subprocess
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import aiohttp
import pytest

# The program itself comes first: what stands on the path is often a script around it that needs more than is there.
_PROGRAMS: Final = (
    "/usr/lib/chromium/chromium",
    "/usr/lib/chromium-browser/chromium-browser",
    "/opt/google/chrome/chrome",
    "/usr/bin/chromium",
)
Handler = Callable[[dict[str, Any]], Coroutine[Any, Any, None]]
_KEYS: Final = {
    "Tab": {"key": "Tab", "code": "Tab", "windowsVirtualKeyCode": 9},
    "Enter": {"key": "Enter", "code": "Enter", "windowsVirtualKeyCode": 13, "text": "\r"},
}


def chromium() -> str:
    """The browser's program; skips the test without one, and fails it in CI, where there must be one."""
    for program in _PROGRAMS:
        if os.access(program, os.X_OK):
            return program
    said = "no Chromium on this machine: `make tools` installs it"
    if os.environ.get("CI"):
        pytest.fail(said)
    pytest.skip(said)


@dataclass(slots=True, kw_only=True, eq=False)
class Page:
    """One tab: `complaints` are the errors and warnings that its console was given."""

    socket: aiohttp.ClientWebSocketResponse
    complaints: list[str] = field(default_factory=list)
    _handlers: dict[str, Handler] = field(default_factory=dict)
    _tasks: set[asyncio.Future[None]] = field(default_factory=set)
    _numbers: "itertools.count[int]" = field(default_factory=itertools.count)
    _answers: dict[int, asyncio.Future[Any]] = field(default_factory=dict)

    async def read(self) -> None:
        """Takes what the browser says until the connection ends."""
        async for message in self.socket:
            said = json.loads(message.data)
            if "id" in said:
                self._answers.pop(said["id"]).set_result(said)
            elif said["method"] == "Runtime.exceptionThrown":
                self.complaints.append(json.dumps(said["params"]["exceptionDetails"]))
            elif said["method"] == "Runtime.consoleAPICalled" and said["params"]["type"] in {"error", "warning"}:
                self.complaints.append(json.dumps(said["params"]["args"]))
            elif said["method"] == "Log.entryAdded" and said["params"]["entry"]["level"] in {"error", "warning"}:
                entry = said["params"]["entry"]
                self.complaints.append(f"{entry['text']} {entry.get('url', '')}")
            elif said["method"] in self._handlers:
                task = asyncio.ensure_future(self._handlers[said["method"]](said["params"]))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    def on(self, event: str, handler: Handler) -> None:
        """Has `handler` called with the parameters of each such event."""
        self._handlers[event] = handler

    async def call(self, method: str, **parameters: Any) -> Any:
        """What the browser answers to one command."""
        number = next(self._numbers)
        self._answers[number] = asyncio.get_running_loop().create_future()
        await self.socket.send_json({"id": number, "method": method, "params": parameters})
        said = await asyncio.wait_for(self._answers[number], 40)
        assert "error" not in said, (method, said)
        return said["result"]

    async def evaluate(self, expression: str) -> Any:
        """What a JavaScript expression gives in the page."""
        result = await self.call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True, userGesture=True
        )
        assert "exceptionDetails" not in result, (expression, result["exceptionDetails"])
        return result["result"].get("value")

    async def until(self, expression: str, *, within_s: float = 20.0) -> Any:
        """Waits until the expression is true in the page, looking at each frame; gives its value.

        Fails with what the page shows.
        """
        waiting = (
            "new Promise((done) => { const end = performance.now() + %d; const look = () => {"
            " let value; try { value = %s; } catch { value = false; }"
            " if (value || performance.now() > end) { done(value); } else { setTimeout(look, 16); } }; look(); })"
        )
        value = await self.evaluate(waiting % (within_s * 1000, expression))
        assert value, (expression, await self.evaluate("document.body.innerText"), self.complaints)
        return value

    async def open(self, url: str) -> None:
        """Goes to an address and waits until its scripts have run."""
        await self.call("Page.navigate", url=url)
        await self.until(f"location.href.startsWith({json.dumps(url)}) && document.readyState === 'complete'")

    async def press(self, key: str, *, times: int = 1) -> None:
        """Presses a key and lets it go."""
        for _ in range(times):
            await self.call("Input.dispatchKeyEvent", type="keyDown", **_KEYS[key])
            await self.call("Input.dispatchKeyEvent", type="keyUp", **_KEYS[key])

    async def type(self, text: str) -> None:
        """Types into what has the focus."""
        await self.call("Input.insertText", text=text)

    async def text(self, element: str) -> str:
        """The text of the element with this id."""
        return str(await self.evaluate(f"document.getElementById({json.dumps(element)}).textContent.trim()"))

    async def focused(self) -> str:
        """The id of what has the focus, or its text where it has none."""
        return str(await self.evaluate("document.activeElement.id || document.activeElement.textContent.trim()"))

    async def tab_to(self, element: str) -> None:
        """Presses Tab until an element has the focus; it must be reached within one round."""
        for _ in range(30):
            if await self.focused() == element:
                return
            await self.press("Tab")
        raise AssertionError(f"the keyboard does not reach {element}")


@asynccontextmanager
async def open_browser(folder: Path) -> AsyncIterator[Page]:
    """A browser of its own with its data in `folder`, one empty tab; ended by its own pid."""
    command = (
        *(chromium(), "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"),
        *(f"--user-data-dir={folder}", "--remote-debugging-port=0", "--lang=en-GB", "--mute-audio"),
        *("--disable-background-networking", "--disable-component-update", "about:blank"),
    )
    browser = _start(command, folder / "chromium.log")
    try:
        port = await _port(folder, browser)
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"http://127.0.0.1:{port}/json") as response,
        ):
            tabs = [tab for tab in await response.json() if tab["type"] == "page"]
            async with session.ws_connect(tabs[0]["webSocketDebuggerUrl"], max_msg_size=0) as socket:
                page = Page(socket=socket)
                reading = asyncio.create_task(page.read())
                for domain in ("Page", "Runtime", "Log", "Network"):
                    await page.call(f"{domain}.enable")
                yield page
                reading.cancel()
                await asyncio.gather(reading, return_exceptions=True)
    finally:
        browser.terminate()
        await asyncio.to_thread(browser.wait, 10)


def _start(command: tuple[str, ...], log: Path) -> "subprocess.Popen[bytes]":
    with log.open("wb") as file:
        return subprocess.Popen(command, stdout=file, stderr=file, stdin=subprocess.DEVNULL)


async def _port(folder: Path, browser: "subprocess.Popen[bytes]") -> int:
    file = folder / "DevToolsActivePort"
    async with asyncio.timeout(30):
        while not (file.exists() and (text := file.read_text(encoding="ascii")).count("\n")):
            assert browser.poll() is None, (folder / "chromium.log").read_text(encoding="utf-8", errors="replace")
            await asyncio.sleep(0.02)  # another process's file: no event can be awaited
    return int(text.splitlines()[0])
