"""Waiting for what a page shows. Playwright's own `wait_for_function` evaluates text in the page, which the dashboard's
Content-Security-Policy forbids; `evaluate` goes past it."""

from __future__ import annotations

import asyncio
from typing import Any

from playwright.async_api import Page


async def until(page: Page, condition: str, arg: Any = None, within: float = 15.0) -> None:
    """`condition` is a JavaScript function of `arg`; fails with its text when it does not become true."""
    try:
        async with asyncio.timeout(within):
            while not await page.evaluate(condition, arg):
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise AssertionError(f"did not become true within {within:g} s: {condition}") from None
