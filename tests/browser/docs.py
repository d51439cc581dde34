"""The documentation in a real browser: pages are built, opened as files are served, looked at, searched.

    python tests/browser/docs.py [OUT = runs/browser/docs]

Run by ``make browser``. It builds the site, fails on whatever a page cannot load or a script complains of, finds a word
by the search, and leaves a screenshot of three pages in OUT, for somebody to look at.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from playwright.sync_api import expect, sync_playwright

ROOT = Path(__file__).resolve().parents[2]
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
OFFLINE = "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1"
PAGES = {"": "weft", "operators/mutualformer/": "mutualformer", "howto/machines/": "Several processes"}
"""Address and what its heading says: the README, a page from docstrings with formulas, a how-to."""


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


def main(out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    program = next(found for name in BROWSERS if (found := shutil.which(name)))
    with tempfile.TemporaryDirectory() as site, sync_playwright() as playwright:
        build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", site]
        subprocess.run(build, cwd=ROOT, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}, check=True)
        server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=site))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        root = f"http://127.0.0.1:{server.server_port}/"
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox", OFFLINE])
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        wrong: list[str] = []
        page.on("requestfailed", lambda request: wrong.append(f"{request.url}: {request.failure}"))
        page.on("response", lambda found: wrong.append(f"{found.url}: {found.status}") if found.status >= 400 else None)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        for address, heading in PAGES.items():
            page.goto(root + address, wait_until="load")
            expect(page.locator("h1").first).to_contain_text(heading)
            page.screenshot(path=out / f"{address.strip('/').replace('/', '-') or 'home'}.png")
        page.get_by_placeholder("Search").fill("mutualformer")
        expect(page.locator(".md-search-result__item").first).to_be_visible()
        page.screenshot(path=out / "search.png")
        browser.close()
        server.shutdown()
    assert not wrong, wrong
    sys.stdout.write(f"{len(PAGES)} pages and the search are in {out}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/browser/docs"))
