"""A real Chromium, and pages in it that notice every error."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Browser, ConsoleMessage, Page, async_playwright, expect

from tests import require

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--use-fake-ui-for-media-stream",
    "--use-fake-device-for-media-stream",
]


def without_priorities(path: str, directory: Path) -> str:
    """A start of Chromium that hardly changes scheduling priorities, as it may where tests run as root.

    On Linux 6.18 with two processors its processes, niced up and down as pages come and go, have held both for good:
    nothing else ran, not even the limits of the tests. At 5, its own level for a hidden page, and without the
    capability for a higher one there is nothing left to change.
    """
    setpriv = shutil.which("setpriv")
    if setpriv is None or os.geteuid() != 0:
        return path
    wrapper = directory / "chromium"
    wrapper.write_text(
        f'#!/bin/sh\nexec nice -n 5 {setpriv} --bounding-set=-sys_nice --inh-caps=-sys_nice {path} "$@"\n'
    )
    wrapper.chmod(0o755)
    return str(wrapper)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def chromium(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Browser]:
    path = without_priorities(require.browser(), tmp_path_factory.mktemp("browser"))
    expect.set_options(timeout=15_000)
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        await browser.close()


class Tab:
    """One page in a context of its own. `errors` are what the page reported, network failures left out: a server that
    goes away is part of some tests."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.errors: list[str] = []
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("console", self._heard)

    def _heard(self, message: ConsoleMessage) -> None:
        expected = ("Failed to load resource", "WebSocket connection to")
        if message.type == "error" and not message.text.startswith(expected):
            self.errors.append(message.text)


@pytest_asyncio.fixture(loop_scope="module")
async def tab(chromium: Browser) -> AsyncIterator[Callable[..., Any]]:
    """`await tab(url, **context_options)`; at the end no page may have reported an error."""
    opened: list[Tab] = []

    async def open_tab(url: str, *, before: str = "", **options: Any) -> Page:
        context = await chromium.new_context(**{"viewport": {"width": 1440, "height": 900}, **options})
        context.set_default_timeout(15_000)
        if before:
            await context.add_init_script(before)
        page = await context.new_page()
        opened.append(Tab(page))
        await page.goto(url)
        return page

    yield open_tab
    errors = [error for each in opened for error in each.errors]
    for each in opened:
        await each.page.context.close()
    assert errors == []


@pytest.fixture
def shots(tmp_path: Path) -> Path:
    """Where screenshots go: STREAMWATCH_SCREENSHOTS, else the test's own directory."""
    directory = Path(os.environ.get("STREAMWATCH_SCREENSHOTS") or tmp_path)
    directory.mkdir(parents=True, exist_ok=True)
    return directory


@pytest.fixture(scope="session")
def axe(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The source of axe-core, fetched by npm for this run alone."""
    directory = tmp_path_factory.mktemp("axe")
    command = ["npm", "install", "--prefix", str(directory), "--no-audit", "--ignore-scripts", "axe-core@4"]
    try:
        subprocess.run(command, check=True, capture_output=True, timeout=60)
    except (OSError, subprocess.SubprocessError) as error:
        pytest.skip(f"needs axe-core, which npm could not fetch: {error}")
    return (directory / "node_modules/axe-core/axe.min.js").read_text(encoding="utf-8")
