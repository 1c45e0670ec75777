#!/usr/bin/env python3
"""Makes client/web/page.png: the page with the bundled model. patchflow_client must be in PYTHONPATH."""

import os
import pathlib
import re
import sys
import tempfile

TOP = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(TOP / "tests")]

import harness  # noqa: E402
from PIL import Image  # noqa: E402
from playwright.sync_api import expect, sync_playwright  # noqa: E402
from test_web_page import CHROMIUM, draw  # noqa: E402
from web_program import running  # noqa: E402

with harness.Server([harness.Group(harness.BUNDLED)]) as server, sync_playwright() as playwright:
    server.wait_ready()
    with running(os.environ.get("PYTHONPATH", ""), server.address) as url:
        browser = playwright.chromium.launch(executable_path=CHROMIUM[0], args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1380, "height": 980})
        page.goto(url)
        expect(page.locator("#server")).to_have_attribute("data-state", "ready")
        draw(page, "a big yellow star in the centre and a small cat in the bottom left corner on a dark blue background",
             seed=7)
        expect(page.locator("#jobs button").nth(0)).to_contain_text("Done in")
        draw(page, "a red heart on a white background", seed=3, steps=100)
        expect(page.locator("#meter-text")).to_have_text(re.compile("Step [1-9]"))
        draw(page, "a green tree and a yellow sun", seed=4, steps=20)
        page.locator("#jobs button").last.click()
        expect(page.locator("#timings")).to_be_visible()
        with tempfile.NamedTemporaryFile(suffix=".png") as shot:
            page.screenshot(path=shot.name)
            # A palette: half of the bytes, and no difference to be seen.
            Image.open(shot.name).convert("RGB").quantize(200).save(TOP / "client" / "web" / "page.png", optimize=True)
        browser.close()
