"""The page of ``weft serve`` in a real browser, as a person uses it: type words, drop a photo, fill a row, click.

    python tests/browser/page.py [OUT = runs/browser]

Needs playwright and a Chromium or Chrome on PATH, so it is run by hand, by ``make browser``. It fits an aligner and a
classifier on a few made photos, serves both, and leaves screenshots of every step to be looked at in OUT.
"""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from playwright.sync_api import Page, expect, sync_playwright

from weft.data import load_dataset
from weft.models.outputs import png_bytes

ROWS = "rows=300"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
OFFLINE = "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1"
"""No name leads anywhere: what a page would fetch from the internet is missing."""
DROP = """([base64, target]) => {
  const bytes = Uint8Array.from(atob(base64), c => c.charCodeAt(0)), transfer = new DataTransfer()
  transfer.items.add(new File([bytes], "dropped.png", { type: "image/png" }))
  const box = document.querySelector(target)
  const how = { dataTransfer: transfer, bubbles: true, cancelable: true }
  for (const kind of ["dragover", "drop"]) box.dispatchEvent(new DragEvent(kind, how))
}"""


def weft(*words: object) -> None:
    code = f"from weft.cli import app; app({[*map(str, words)]!r})"
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


@contextmanager
def served(*words: object) -> Iterator[str]:
    """The address of a server."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    code = f"from weft.cli import app; app({['serve', *map(str, words), '--port', str(port)]!r})"
    server = subprocess.Popen([sys.executable, "-c", code])
    try:
        while True:
            assert server.poll() is None, "weft serve ended"
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health")
                break
            except OSError:
                time.sleep(0.1)
        yield f"http://127.0.0.1:{port}/"
    finally:
        server.terminate()
        server.wait(20)


def drop(page: Page, picture: bytes, target: str) -> None:
    """A file from the desktop, let go over a box."""
    import base64

    page.evaluate(DROP, [base64.b64encode(picture).decode(), target])


def search(page: Page, url: str, picture: bytes, out: Path) -> None:
    """Words find photos, a photo finds captions; one question at a time."""
    page.goto(url)
    expect(page.locator("#model")).to_have_text("AlignedModel")
    page.locator("#words").fill("a large red circle in the top left")
    page.get_by_role("button", name="Search").click()
    expect(page.locator("#hits img")).to_have_count(12)
    page.wait_for_function("[...document.querySelectorAll('#hits img')].every(i => i.complete && i.naturalWidth > 0)")
    page.screenshot(path=out / "1-words-find-photos.png", full_page=True)
    drop(page, picture, "label.drop")
    expect(page.locator("#words")).to_have_value("")
    expect(page.locator("label.drop").first).to_contain_text("dropped.png")
    expect(page.locator("#hits img")).to_have_count(0)
    expect(page.locator("#hits figcaption")).to_have_count(12)
    page.screenshot(path=out / "2-a-photo-finds-captions.png", full_page=True)


def predict(page: Page, url: str, picture: bytes, out: Path) -> None:
    """A row, its prediction and what each modality did; a mistake is said in words."""
    page.goto(url)
    page.locator("#field-sensor-").fill("[[0.1, oh")
    page.get_by_role("button", name="Predict").click()
    expect(page.get_by_role("alert")).to_contain_text("numbers are written as")
    page.locator("#field-sensor-").fill("[[1], [2, 3]]")
    page.get_by_role("button", name="Predict").click()
    expect(page.get_by_role("alert")).not_to_contain_text("numbers are written as")
    expect(page.get_by_role("alert")).not_to_be_empty()
    page.screenshot(path=out / "3-a-mistake.png", full_page=True)
    page.locator("#field-sensor-").fill("")
    page.get_by_role("button", name="Predict").click()
    expect(page.locator(".warnings li")).to_have_text("1 empty row answered as one of which nothing is known: 'row 0'")
    page.locator("#field-caption-").fill("a large red circle in the top left")
    page.locator("#file-image").set_input_files([{"name": "photo.png", "mimeType": "image/png", "buffer": picture}])
    page.get_by_role("button", name="Predict").click()
    expect(page.locator("#prediction")).to_contain_text("Prediction: ")
    expect(page.get_by_role("alert")).to_be_empty()
    shares = page.locator("#answer > div").last.locator(".bar span:first-child").all_text_contents()
    assert shares == ["image", "caption", "sensor"], shares
    page.screenshot(path=out / "4-a-row-and-its-shares.png", full_page=True)
    page.set_viewport_size({"width": 390, "height": 844})
    page.screenshot(path=out / "5-on-a-phone.png", full_page=True)
    expect(page.get_by_role("link", name="The interface of this server")).to_have_attribute("href", "docs")


def interface(page: Page, url: str, out: Path) -> None:
    """The interface without the internet: everything comes from this server, and a request can be sent by hand."""
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.set_viewport_size({"width": 1200, "height": 900})
    page.goto(url)
    page.get_by_role("link", name="The interface of this server").click()
    expect(page.locator("details")).to_have_count(8)
    predict = page.locator("details").first
    predict.locator("summary").click()
    expect(predict.locator("table").first).to_contain_text("explain")
    predict.get_by_role("textbox").fill('{"rows": {"caption": "a large red circle"}}')
    expect(predict.locator("pre").first).to_contain_text("curl")
    predict.get_by_role("button", name="Send").click()
    expect(predict.locator("pre").last).to_contain_text("probability")
    page.screenshot(path=out / "6-the-interface.png", full_page=True)
    elsewhere = [one for one in asked if not one.startswith((url, "data:"))]
    assert not elsewhere, elsewhere


def main(out: Path) -> None:
    browser = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if browser is None:
        sys.exit(f"no browser on PATH: install one of {', '.join(BROWSERS)}")
    out.mkdir(parents=True, exist_ok=True)
    photo = load_dataset("shapes", rows=300).modalities["image"].values[7]
    picture = png_bytes(np.asarray(photo))
    with tempfile.TemporaryDirectory() as name, sync_playwright() as play:
        place = Path(name)
        source = ("shapes", "--data", ROWS)
        common = (*source, "--store", place / "store", "--set", "epochs=8", "--quiet")
        weft("fit", *common, "--fusion", "gated", "--out", place / "model")
        pair = ("--modality", "image", "--modality", "caption")
        weft("fit", *common, "--fusion", "two-tower", *pair, "--out", place / "pairs")
        chrome = play.chromium.launch(executable_path=browser, args=["--no-sandbox", OFFLINE])
        page = chrome.new_page(viewport={"width": 1200, "height": 900})
        said: list[str] = []
        page.on("pageerror", lambda error: said.append(str(error)))
        with served(place / "pairs", "--source", *source) as url:
            search(page, url, picture, out)
        assert not said, said
        with served(place / "model") as url:
            predict(page, url, picture, out)
            interface(page, url, out)
        assert len(said) <= 1, said  # the page throws what the server refused, once
        chrome.close()
    sys.stdout.write(f"1 passed, 0 failed; look at {out}/*.png\n")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/browser"))
