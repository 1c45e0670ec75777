"""patchflow-web's page in headless Chromium, against the real server and a scripted one."""

import io
import pathlib
import re
import time
import urllib.parse
import zipfile

import grpc
import harness
import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import expect, sync_playwright
from scripted_service import refusal, serving
from web_program import running

CHROMIUM = [pathlib.Path("/usr/bin") / name for name in ("chromium-headless-shell", "chromium")]
STAR = "a big yellow star in the centre on a dark blue background"


@pytest.fixture(scope="module")
def browser():
    found = [path for path in CHROMIUM if path.exists()]
    if not found and "\nID=debian\n" not in pathlib.Path("/etc/os-release").read_text():
        pytest.skip("this distribution has no Chromium as a package")
    assert found, f"none of {', '.join(map(str, CHROMIUM))}: deploy/setup --tests installs one"
    with sync_playwright() as playwright:
        # The tests may run as root, for whom Chromium has no sandbox.
        chromium = playwright.chromium.launch(executable_path=found[0], args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def url(installed, server):
    with running(installed, server.address) as address:
        yield address


@pytest.fixture
def open_page(browser):
    """Opens pages that load nothing from elsewhere, and have no error in their console."""
    contexts, faults = [], []

    def open_at(url: str, path: str = "/", context=None):
        if context is None:
            context = browser.new_context(viewport={"width": 1360, "height": 900})
            contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(20_000)
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
        page.on("request", lambda request: foreign(url, request.url))
        page.goto(url + path)
        return page

    def foreign(own: str, asked: str):
        if not asked.startswith(("data:", own + "/")):
            faults.append(f"it asks {asked}")

    yield open_at
    for context in contexts:
        context.close()
    assert faults == []


def draw(page, prompt: str, **fields):
    page.get_by_label("What should it show?").fill(prompt)
    for name, value in fields.items():
        page.locator(f"#{name}").fill(str(value))
    page.keyboard.press("Control+Enter")


def test_a_picture_is_drawn_with_its_parameters_and_timings(open_page, url, tmp_path):
    page = open_page(url)
    expect(page.locator("#server-text")).to_have_text(re.compile("shapes-256 · cpu · float32 · serial"))
    assert page.locator("#steps").input_value() == "20" and page.locator("#width").input_value() == "256"
    draw(page, STAR, seed=7, steps=12)
    expect(page.locator("#meter-text")).to_have_text(re.compile(r"Step \d+ of 12"))
    picture = page.get_by_role("img", name=STAR)
    expect(picture).to_be_visible()
    expect(page.get_by_role("status")).to_have_text(re.compile(f"{STAR}: Done in"))  # No preview any more.
    assert picture.evaluate("image => [image.naturalWidth, image.naturalHeight]") == [256, 256]
    parameters, timings = page.locator("#parameters"), page.locator("#timings")
    expect(parameters).to_contain_text("Seed7")
    expect(parameters).to_contain_text("Steps12")
    expect(timings).to_contain_text(re.compile(r"Drawing\d+(\.\d+)? m?s"))

    with page.expect_download() as download:
        page.get_by_role("link", name="Save").click()
    with Image.open(download.value.path()) as image:
        assert image.size == (256, 256) and image.text["seed"] == "7" and image.text["prompt"] == STAR
    shot = Image.open(io.BytesIO(page.screenshot(path=tmp_path / "page.png")))
    # The picture is on the screen: its blue is what the canvas is full of.
    box = page.locator("#picture").bounding_box()
    red, green, blue = shot.convert("RGB").getpixel((int(box["x"] + 20), int(box["y"] + 20)))
    assert blue > 60 and blue > 2 * red and blue > 1.5 * green


def test_it_can_be_used_with_the_keyboard_alone(open_page, url):
    page = open_page(url)
    expect(page.locator("#server")).to_have_attribute("data-state", "ready")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the picture")).to_be_focused()
    page.keyboard.press("Tab")
    page.keyboard.type("a red circle")
    for _ in range(20):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.id") == "steps":
            break
    page.keyboard.type("6")
    for _ in range(20):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.textContent").startswith("Draw"):
            break
    page.keyboard.press("Enter")
    expect(page.get_by_role("img", name="a red circle")).to_be_visible()
    expect(page.locator("#parameters")).to_contain_text("Steps6")


def test_errors_are_said_in_words_beside_their_settings(open_page, url):
    page = open_page(url)
    expect(page.locator("#server")).to_have_attribute("data-state", "ready")
    draw(page, "  ")
    expect(page.locator("#prompt")).to_have_accessible_description("Say in a few words what to draw.")
    draw(page, "a red circle", width=100, steps=0)
    expect(page.get_by_role("alert")).to_contain_text("Some settings can't be used")
    expect(page.locator("#width")).to_have_accessible_description("100 is not a multiple of 16")
    expect(page.locator("#width")).to_be_focused()
    expect(page.locator("#steps")).to_have_accessible_description(re.compile("0 is less than 1"))
    expect(page.locator("#steps")).to_have_attribute("aria-invalid", "true")
    draw(page, "a red circle", width=256, steps=2)
    expect(page.get_by_role("img", name="a red circle")).to_be_visible()
    expect(page.locator("#width")).not_to_have_attribute("aria-invalid", "true")


def test_the_queue_shows_who_waits_and_what_is_cancelled(open_page, url):
    page = open_page(url)
    expect(page.locator("#server")).to_have_attribute("data-state", "ready")
    draw(page, "a red circle", steps=200)
    expect(page.locator("#meter-text")).to_have_text(re.compile("Step [1-9]"))
    draw(page, "a green square", steps=2)
    draw(page, "a blue heart", steps=3)
    rows = page.locator("#jobs button")
    expect(rows).to_have_count(3)
    expect(rows.nth(0)).to_contain_text("1 request before yours")
    expect(rows.nth(1)).to_contain_text("Next in the queue")
    expect(page.locator("#queue-count")).to_have_text("3 open")
    rows.nth(2).click()
    expect(rows.nth(2)).to_have_attribute("aria-current", "true")
    page.get_by_role("button", name="Cancel").click()
    expect(rows.nth(2)).to_contain_text("Cancelled")
    expect(rows.nth(0)).to_contain_text("Done in")
    expect(rows.nth(1)).to_contain_text("Done in")
    rows.nth(1).click()
    expect(page.get_by_role("img", name="a green square")).to_be_visible()


def test_several_pictures_and_their_settings_again(open_page, url):
    page = open_page(url)
    expect(page.locator("#server")).to_have_attribute("data-state", "ready")
    draw(page, "a red circle", steps=2, count=2, seed=40)
    page.get_by_role("button", name="Picture 2, seed 41").click()
    expect(page.locator("#parameters")).to_contain_text("Seed41")
    page.locator("#seed").fill("")
    page.get_by_role("button", name="Use these settings").click()
    assert page.locator("#seed").input_value() == "41" and page.locator("#count").input_value() == "1"
    second = page.locator("#picture").get_attribute("src")
    page.keyboard.press("Control+Enter")
    expect(page.locator("#jobs button").nth(0)).to_contain_text("Done in")
    # The same pixels, and the same parameters within the file: the same bytes.
    assert page.locator("#picture").get_attribute("src") == second


def test_closing_the_page_stops_the_work_unless_it_shall_go_on(open_page, url, server, browser):
    pb, _ = harness.api()
    context = browser.new_context()
    page = open_page(url, context=context)
    expect(page.locator("#server")).to_have_attribute("data-state", "ready")

    def begin(steps: int, keep: bool) -> str:
        with page.expect_request("**/api/generations") as sent:
            page.locator("#keep").evaluate(f"box => {{ box.checked = {str(keep).lower()}; }}")
            draw(page, "a red circle", steps=steps)
        expect(page.locator("#meter-text")).to_have_text(re.compile("Step [1-9]"))
        return sent.value.post_data_json["request_id"]

    def ended(request_id: str) -> int:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            got = server.stub.GetGeneration(pb.GetGenerationRequest(request_id=request_id), timeout=10)
            if got.state not in (pb.STATE_QUEUED, pb.STATE_RUNNING):
                return got.state
            time.sleep(0.05)
        raise TimeoutError(request_id)

    stopped = begin(200, keep=False)
    page.close()
    assert ended(stopped) == pb.STATE_CANCELLED
    page = open_page(url, context=context)
    expect(page.locator("#jobs button")).to_have_count(0)
    kept = begin(25, keep=True)
    page.close()
    page = open_page(url, context=context)
    expect(page.get_by_role("img", name="a red circle")).to_be_visible()
    assert ended(kept) == pb.STATE_SUCCEEDED
    context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_in_any_state(open_page, url, scheme):
    page = open_page(url)
    page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
    expect(page.locator("#server")).to_have_attribute("data-state", "ready")
    page.locator("summary").click()

    def check(state: str):
        found = Axe().run(page).response["violations"]
        assert not found, (state, [(each["id"], [node["html"] for node in each["nodes"]]) for each in found])

    check("empty")
    draw(page, "a red circle", steps=0)
    expect(page.get_by_role("alert")).to_contain_text("can't be used")
    check("refused")
    draw(page, "a red circle", steps=200)
    expect(page.locator("#meter-text")).to_have_text(re.compile("Step [1-9]"))
    check("running")
    page.keyboard.press("Escape")
    expect(page.locator("#jobs button").nth(0)).to_contain_text("Cancelled")
    draw(page, "a red circle", steps=2, count=2)
    expect(page.get_by_role("img", name="a red circle")).to_be_visible()
    check("done")


def models_answer():
    pb, _ = harness.api()
    answer = pb.ListModelsResponse()
    model = answer.models.add(name="scripted", ready=True, schedulers=["euler"], formats=[1, 2, 3], device="cpu")
    model.defaults.CopyFrom(pb.ModelDefaults(width=64, height=64, steps=4, guidance_scale=2, scheduler="euler"))
    model.limits.CopyFrom(pb.ModelLimits(min_size=16, max_size=512, size_multiple=16, max_count=4, max_steps=100))
    return answer


def png(colour: str) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (64, 64), colour).save(file, "PNG")
    return file.getvalue()


def colour_of(page) -> list[int]:
    return page.locator("#picture").evaluate("""image => {
        const canvas = Object.assign(document.createElement("canvas"), { width: 1, height: 1 });
        const context = canvas.getContext("2d");
        context.drawImage(image, 0, 0, 1, 1);
        return [...context.getImageData(0, 0, 1, 1).data].slice(0, 3);
    }""")


def test_previews_give_way_to_the_picture(open_page, installed):
    seen = []

    def previewing(script, _):
        yield from script.accepted()
        for step, colour in ((1, "teal"), (3, "orange")):
            yield from script.steps(step)
            yield from script.preview(step, colour)
            wait_for(lambda: step in seen)
        yield from script.image(0, png("purple"))
        yield from script.completed()

    with serving(previewing, models=models_answer()) as (address, service), running(installed, address) as url:
        page = open_page(url)
        draw(page, "a scripted thing")
        preview = page.get_by_role("img", name="Preview of: a scripted thing")
        for step, colour in ((1, [0, 128, 128]), (3, [255, 165, 0])):
            expect(page.locator("#meter-text")).to_have_text(f"Step {step} of 4")
            expect(preview).to_be_visible()
            wait_for(lambda: colour_of(page) == colour)
            seen.append(step)
        expect(page.get_by_role("img", name="a scripted thing", exact=True)).to_be_visible()
        wait_for(lambda: colour_of(page) == [128, 0, 128])
        assert service.streams[0][1].stream.preview_every_steps == 1


def test_a_full_queue_is_waited_for_and_a_refusal_said(open_page, installed):
    entries = [
        refusal(grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL", 1.0),
        lambda script, _: [*script.accepted(), *script.image(0, png("purple")), *script.completed()],
        refusal(grpc.StatusCode.PERMISSION_DENIED, "PERMISSION_DENIED", message="the token may not"),
    ]
    with serving(*entries, models=models_answer()) as (address, _), running(installed, address) as url:
        page = open_page(url)
        draw(page, "a scripted thing")
        expect(page.locator("#jobs button").nth(0)).to_contain_text("The queue is full; trying again")
        expect(page.get_by_role("img", name="a scripted thing")).to_be_visible()
        draw(page, "another")
        expect(page.get_by_role("alert")).to_have_text("This page may not do thatthe token may not")


def test_a_dead_server_is_said(open_page, installed):
    with running(installed, "127.0.0.1:1") as url:
        page = open_page(url, path="/static/icon.svg")
        answer = page.request.get(f"{url}/api/models")
        assert answer.status == 503 and answer.json()["title"] == "The server can't be reached"
        assert page.request.get(f"{url}/readyz").status == 503 and page.request.get(f"{url}/healthz").status == 200


def test_the_wheel_holds_all_that_the_page_loads(web_wheel):
    static = harness.TOP / "client" / "web" / "src" / "patchflow_web" / "static"
    with zipfile.ZipFile(web_wheel) as wheel:
        held = {name.removeprefix("patchflow_web/static/"): wheel.read(name) for name in wheel.namelist()}
    for file in static.iterdir():
        assert held[file.name] == file.read_bytes()
    loaded = re.findall(r'(?:src|href)="/static/([^"]+)"', held["index.html"].decode())
    loaded += re.findall(r'from "/static/([^"]+)"', held["page.js"].decode())
    assert {"page.js", "page.css", "icon.svg", "view.js"} <= set(loaded) <= set(held)


def test_foreign_pages_are_kept_out(open_page, url):
    page = open_page(url, path="/static/icon.svg")
    refused = page.request.post(f"{url}/api/generations", data="{}", headers={"content-type": "text/plain"})
    assert refused.status == 415
    port = urllib.parse.urlsplit(url).port
    assert page.request.get(f"{url}/", headers={"host": f"evil.example:{port}"}).status == 400
    headers = page.request.get(url).headers
    assert "default-src 'none'" in headers["content-security-policy"] and headers["x-content-type-options"] == "nosniff"


def wait_for(done, seconds: float = 15):
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.02)
