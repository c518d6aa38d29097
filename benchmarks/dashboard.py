"""The dashboard in headless Chromium: first view, delay from publishing to the screen, long tasks with many streams.

    python -m benchmarks.dashboard --streams 100 --seconds 10

The service is the real server with scripted results, in the same process; the browser draws in software on the same
cores. "First view" is from the start of the navigation until twelve streams are shown live.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

from playwright.async_api import Browser, async_playwright

from benchmarks.machine import describe
from tests.e2e.conftest import FLAGS
from tests.e2e.roles import Role
from tests.e2e.scripted import Service
from tests.e2e.test_wall import FIRST_VIEW, LONG_TASKS, busy_seconds
from tests.e2e.waiting import until


def cast(count: int) -> list[Role]:
    return [Role(f"cam-{i}", f"Camera {i}", base=0.08 + 0.03 * (i % 9)) for i in range(1, count + 1)]


async def first_views(browser: Browser, url: str, repeats: int) -> list[float]:
    """Milliseconds; each in a context of its own, so that nothing is cached."""
    times = []
    for _ in range(repeats):
        context = await browser.new_context(viewport={"width": 1440, "height": 900})
        await context.add_init_script(FIRST_VIEW)
        page = await context.new_page()
        await page.goto(url)
        await until(page, "() => window.firstView")
        times.append(float(await page.evaluate("() => window.firstView")))
        await context.close()
    return times


async def delays(browser: Browser, service: Service, repeats: int) -> list[float]:
    """Milliseconds from publishing a score until the page shows it; the polling of the test adds up to 50."""
    page = await browser.new_page()
    await page.goto(service.url)
    await until(page, "() => document.querySelector('.tile')")
    times = []
    for i in range(repeats):
        shown = f"0.{20 + i}"
        began = time.perf_counter()
        service.script.publish("cam-1", float(shown))
        await page.locator(".tile .value", has_text=shown).first.wait_for()
        times.append((time.perf_counter() - began) * 1000)
    await page.close()
    return times


async def many_streams(browser: Browser, url: str, count: int, seconds: float) -> str:
    page = await browser.new_page(viewport={"width": 1440, "height": 900})
    await page.goto(url)
    await until(page, f"() => document.querySelectorAll('.tile[data-live=true]').length === {count}", within=60)
    await page.wait_for_timeout(2000)
    devtools = await page.context.new_cdp_session(page)
    await devtools.send("Performance.enable", {"timeDomain": "threadTicks"})
    before = await busy_seconds(devtools)
    tasks: list[int] = (await page.evaluate(LONG_TASKS, seconds * 1000))["tasks"]
    busy = (await busy_seconds(devtools) - before) / seconds
    await page.close()
    return (
        f"{count} streams at 2 a second, {seconds:g} s: the page's main thread takes {busy:.0%} of a core;"
        f" {len(tasks)} tasks longer than 50 ms, the longest {max(tasks, default=0)} ms"
    )


async def measure(args: argparse.Namespace, chromium: str, directory: Path) -> None:
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        async with Service(cast(12), directory) as service:
            views = await first_views(browser, service.url, args.repeats)
        print(f"first view of 12 streams: median {statistics.median(views):.0f} ms, worst {max(views):.0f} ms")
        async with Service(cast(1), directory, rate=0) as service:
            shown = sorted(await delays(browser, service, 30))
        print(f"published to shown: median {statistics.median(shown):.0f} ms, 95 % {shown[28]:.0f} ms")
        async with Service(cast(args.streams), directory, rate=2) as service:
            print(await many_streams(browser, service.url, args.streams, args.seconds))
        await browser.close()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        print("left out: there is no chromium on the PATH")
        return 0
    print(describe())
    with tempfile.TemporaryDirectory() as directory:
        asyncio.run(measure(args, chromium, Path(directory)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
