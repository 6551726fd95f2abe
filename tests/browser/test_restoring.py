"""The page's whole path. Were this wrong, somebody with a rainy photograph would not get it back without the
rain, or not the one that the page shows."""

from __future__ import annotations

import base64
import re
import subprocess
from collections.abc import Callable, Generator
from io import BytesIO
from pathlib import Path
from zipfile import ZipFile

import httpx
import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from playwright.sync_api import Page, Request, expect

from app import heic
from app.main import create_app
from app.settings import Settings
from model.checkpoint_folders import default_weights_dir
from tests.browser.conftest import CAT, COFFEE, Open, restored
from tests.service.conftest import running

Write = Callable[..., Path]


def posts(page: Page) -> list[str]:
    """Records which endpoints are posted to from now on."""
    seen: list[str] = []

    def note(request: Request) -> None:
        if request.method == "POST":
            seen.append(request.url.rsplit("/", 1)[-1])

    page.on("request", note)
    return seen


def download(page: Page, path: Path, button: str = "#download") -> Path:
    with page.expect_download() as waiting:
        page.locator(button).click()
    target = path / waiting.value.suggested_filename
    waiting.value.save_as(target)
    return target


def shown(page: Page) -> npt.NDArray[np.int64]:
    """The restored picture on the page, (H, W, 3)."""
    url = page.evaluate(
        """() => {
          const image = document.getElementById("after");
          const canvas = document.createElement("canvas");
          [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
          canvas.getContext("2d").drawImage(image, 0, 0);
          return canvas.toDataURL("image/png");
        }"""
    )
    return pixels(BytesIO(base64.b64decode(url.split(",")[1])))


def pixels(file: Path | BytesIO) -> npt.NDArray[np.int64]:
    """The samples of a picture, (H, W, 3)."""
    with Image.open(file) as image:
        return np.asarray(image.convert("RGB")).astype(np.int64)


class TestWaysIn:
    def test_a_picked_photograph_comes_back_as_the_service_restores_it(
        self, visit: Open, service_url: str, tmp_path: Path
    ) -> None:
        page = visit(service_url)
        seen = posts(page)
        page.on("filechooser", lambda chooser: chooser.set_files(CAT))
        page.get_by_role("button", name="Choose photographs").click()
        restored(page)
        answer = httpx.post(f"{service_url}/derain", files={"image": CAT.read_bytes()}, timeout=180)
        saved = download(page, tmp_path)
        assert saved.name == "cat-moderate-rain-derained.jpg"
        assert saved.read_bytes() == answer.content
        expect(page.locator("#facts")).to_contain_text("384 × 256")
        # what was seen, and how surely, is what the service says
        seen_by_service = httpx.post(
            f"{service_url}/perceive", files={"image": CAT.read_bytes()}, timeout=180
        ).json()
        expect(page.locator("#said")).to_have_text(seen_by_service["prompt"])
        rain = round(100 * seen_by_service["types"]["rain"])
        expect(page.locator("#perception .meters > div").first).to_have_text(re.compile(rf"rain\s*{rain} %"))
        assert [page.locator("#legend dt").nth(i).text_content() for i in range(5)] == [
            "Upload",
            "Decode and look",
            "Queue",
            "Network",
            "Encode",
        ]
        assert re.fullmatch(r"[\d.]+ m?s", page.locator("#total").text_content() or "")
        assert seen == ["derain"], "it is sent once"

    def test_photographs_can_be_dropped_anywhere(self, visit: Open, service_url: str) -> None:
        page = visit(service_url)
        session = page.context.new_cdp_session(page)
        for kind in ("dragEnter", "dragOver"):
            session.send("Input.dispatchDragEvent", drag(kind, CAT, COFFEE))
        expect(page.locator("#drop")).to_be_visible()
        session.send("Input.dispatchDragEvent", drag("drop", CAT, COFFEE))
        expect(page.locator("#drop")).to_be_hidden()
        expect(page.locator("#jobs li[data-state=done]")).to_have_count(2)
        restored(page)
        expect(page.locator("#name")).to_have_text(CAT.name)
        page.get_by_role("button", name=re.compile(f"^{COFFEE.name}")).click()
        expect(page.locator("#name")).to_have_text(COFFEE.name)
        page.wait_for_function("() => document.getElementById('work').getBoundingClientRect().top >= 0")

    def test_a_folder_that_is_dropped_is_refused_in_words(
        self, visit: Open, service_url: str, tmp_path: Path
    ) -> None:
        page = visit(service_url)
        session = page.context.new_cdp_session(page)
        for kind in ("dragEnter", "dragOver", "drop"):
            session.send("Input.dispatchDragEvent", drag(kind, tmp_path))
        expect(page.locator("#refusal")).to_contain_text("Folders are not taken")

    def test_a_photograph_can_be_pasted(self, visit: Open, service_url: str) -> None:
        page = visit(service_url)
        page.context.grant_permissions(["clipboard-read", "clipboard-write"], origin=service_url)
        page.evaluate(
            "async () => { const canvas = new OffscreenCanvas(120, 80);"
            " canvas.getContext('2d').fillRect(0, 0, 60, 80);"
            " const blob = await canvas.convertToBlob({ type: 'image/png' });"
            " await navigator.clipboard.write([new ClipboardItem({ 'image/png': blob })]); }"
        )
        page.keyboard.press("Control+v")
        restored(page)
        expect(page.locator("#facts")).to_contain_text("120 × 80")

    def test_a_sample_is_restored_and_not_asked_for_twice(self, visit: Open, service_url: str) -> None:
        page = visit(service_url)
        seen = posts(page)
        sample = page.get_by_role("button", name="Dandelions in rain")
        sample.dblclick()
        restored(page)
        expect(page.locator("#jobs li")).to_have_count(1)
        assert seen.count("derain") == 1


def drag(kind: str, *files: Path) -> dict[str, object]:
    """A drag of files from outside the browser, over the middle of the page."""
    data = {"items": [], "files": [str(file) for file in files], "dragOperationsMask": 1}
    return {"type": kind, "x": 400, "y": 300, "data": data}


class TestSentences:
    def test_a_sentence_is_asked_and_another_one_after_it(self, visit: Open, service_url: str) -> None:
        page = visit(service_url)
        seen = posts(page)
        page.get_by_label("What should go?").fill("remove the rain  lightly")
        page.set_input_files("#files", COFFEE)
        restored(page)
        expect(page.locator("#said-title")).to_have_text("What you asked")
        expect(page.locator("#said")).to_have_text("remove the rain lightly")
        lightly = shown(page)
        page.get_by_role("button", name="completely remove the rain").click()
        again = page.get_by_role("button", name="Restore again")
        again.dblclick()
        expect(page.locator("#said")).to_have_text("completely remove the rain")
        restored(page)
        taken = [np.abs(picture - pixels(COFFEE)).mean() for picture in (lightly, shown(page))]
        assert taken[1] > 1.3 * taken[0], "more of the rain is gone"
        expect(page.locator("#jobs li")).to_have_count(2)
        # back to the first, which is not restored anew
        page.get_by_role("button", name=re.compile("lightly.*, restored")).click()
        expect(page.locator("#said")).to_have_text("remove the rain lightly")
        assert page.locator("#jobs [aria-current=true]").count() == 1
        assert seen.count("derain") == 2, "a photograph with a sentence is asked for once"

    def test_where_no_rain_was_seen_it_can_be_removed_anyway(
        self, visit: Open, service_url: str, write: Write
    ) -> None:
        page = visit(service_url)
        page.set_input_files("#files", write(Image.new("RGB", (96, 64), "teal"), "dry.png"))
        expect(page.locator("#note-text")).to_contain_text("It saw no rain")
        page.get_by_role("button", name="Remove the rain anyway").click()
        expect(page.locator("#said")).to_have_text("remove the rain")


@pytest.fixture(scope="class")
def two_networks_url(tmp_path_factory: pytest.TempPathFactory) -> Generator[str]:
    """A service with the shipped small network under two names."""
    weights, shipped = tmp_path_factory.mktemp("weights"), default_weights_dir()
    for name, of in (("degradation-clip",) * 2, ("tvi-derain-s",) * 2, ("other", "tvi-derain-s")):
        (weights / name).symlink_to(shipped / of)
    with running(create_app(Settings(weights_dir=weights))) as url:
        yield url


class TestNetworks:
    def test_another_network_can_be_chosen(self, visit: Open, two_networks_url: str) -> None:
        page = visit(two_networks_url)
        options = page.locator("#model option")
        expect(options).to_have_count(2)
        assert options.all_text_contents() == [
            "tvi-derain-s, 2.3 million weights (usual)",
            "other, 2.3 million weights",
        ]
        expect(page.get_by_label("Network")).to_have_value("")
        page.locator("#files").set_input_files(CAT)
        restored(page)
        expect(page.locator("#facts")).to_contain_text("tvi-derain-s")
        expect(page.locator("#curl")).not_to_contain_text("model=")

        page.get_by_label("Network").select_option("other")
        page.get_by_role("button", name="Restore again").click()
        expect(page.locator("#facts")).to_contain_text("other")
        expect(page.locator("#curl")).to_contain_text("-F model=other")
        expect(page.locator("#jobs li[data-state=done]")).to_have_count(2)

    def test_where_there_is_one_there_is_nothing_to_choose(self, visit: Open, strict_url: str) -> None:
        page = visit(strict_url)  # who may not even ask what there is sees nothing of it either
        expect(page.locator("#network")).to_be_hidden()


class TestResult:
    def test_the_command_does_the_same_in_a_shell(
        self, visit: Open, service_url: str, tmp_path: Path
    ) -> None:
        page = visit(service_url)
        page.context.grant_permissions(["clipboard-read", "clipboard-write"], origin=service_url)
        awkward = tmp_path / """it's a "rainy"; day, $HOME & `id` @.jpg"""
        awkward.write_bytes(COFFEE.read_bytes())
        page.get_by_label("What should go?").fill("@remove; the 'rain' $(lightly) <now")
        page.locator("#format").evaluate(
            "select => { select.value = 'png'; select.dispatchEvent(new Event('change')) }"
        )
        page.set_input_files("#files", awkward)
        restored(page)
        page.get_by_role("button", name="Copy").click()
        expect(page.get_by_role("button", name="Copied")).to_be_visible()
        command = page.evaluate("navigator.clipboard.readText()")
        subprocess.run(["sh", "-c", command], cwd=tmp_path, check=True, capture_output=True, timeout=180)
        (made,) = tmp_path.glob("*-derained.png")
        assert made.name == awkward.stem + "-derained.png"
        assert made.read_bytes() == download(page, tmp_path / "downloads").read_bytes()

    def test_it_is_downloaded_in_the_format_chosen(
        self, visit: Open, service_url: str, tmp_path: Path
    ) -> None:
        page = visit(service_url)
        seen = posts(page)
        page.set_input_files("#files", CAT)
        restored(page)
        page.get_by_label("Format of the download").select_option("PNG")
        saved = download(page, tmp_path)
        assert saved.suffix == ".png"
        assert (Image.open(saved).format, Image.open(saved).size) == ("PNG", (384, 256))
        # the same picture, before it was made a JPEG
        assert np.abs(pixels(saved) - shown(page)).mean() < 3
        download(page, tmp_path)
        assert seen.count("derain") == 2, "what is there is not asked for again"

    def test_all_that_were_restored_are_downloaded_in_one_file(
        self, visit: Open, service_url: str, tmp_path: Path
    ) -> None:
        page = visit(service_url)
        page.set_input_files("#files", CAT)
        restored(page)
        expect(page.locator("#download-all")).to_be_hidden()
        kept = download(page, tmp_path)
        (broken := tmp_path / "no-picture.jpg").write_bytes(b"no picture")
        page.get_by_label("What should go?").fill("leave it unchanged")
        page.get_by_role("button", name="Restore again").click()
        page.set_input_files("#files", [COFFEE, broken])
        expect(page.locator("#jobs li[data-state=done]")).to_have_count(3)
        expect(page.locator("#jobs li[data-state=failed]")).to_have_count(1)
        with ZipFile(download(page, tmp_path, "#download-all")) as archive:
            assert archive.testzip() is None
            assert sorted(archive.namelist()) == [
                "cat-moderate-rain-derained-2.jpg",
                "cat-moderate-rain-derained.jpg",
                "coffee-heavy-rain-derained.jpg",
            ]
            assert archive.read(kept.name) == kept.read_bytes()
            assert archive.read("cat-moderate-rain-derained-2.jpg") != kept.read_bytes()

    @pytest.mark.parametrize("name", ["rain.tif", "rain.heic"])
    def test_what_browsers_do_not_show_is_restored_all_the_same(
        self, visit: Open, service_url: str, write: Write, tmp_path: Path, name: str
    ) -> None:
        assert heic.is_readable(), "the extra heif is among those of the tests"
        page = visit(service_url)
        page.set_input_files("#files", write(Image.open(CAT), name))
        restored(page)
        expect(page.locator("#note-text")).to_contain_text("This browser does not show")
        assert page.locator("#after").evaluate("image => image.naturalWidth") == 384
        expect(page.locator("#comparison")).to_be_hidden()
        saved = download(page, tmp_path)
        assert Image.open(saved).format == {".tif": "TIFF", ".heic": "HEIF"}[saved.suffix]


class TestComparison:
    def position(self, page: Page) -> int:
        return int(page.get_by_role("slider").input_value())

    def uncovered(self, page: Page) -> float:
        """The share of the picture that shows it as it was."""
        clip = page.locator("#before").evaluate("image => image.style.clipPath")
        right = re.fullmatch(r"inset\(0px(?: ([\d.]+)px 0px 0px)?\)", clip)
        assert right, clip
        return 1 - float(right[1] or 0) / page.locator("#before").evaluate("image => image.clientWidth")

    @pytest.fixture
    def page(self, visit: Open, service_url: str) -> Page:
        page = visit(service_url, viewport={"width": 1200, "height": 800}, reduced_motion="reduce")
        page.set_input_files("#files", CAT)
        restored(page)
        expect(page.get_by_role("slider")).to_have_value("50")
        return page

    def test_the_mouse_moves_the_divider(self, page: Page) -> None:
        box = page.locator("#canvas").bounding_box()
        assert box is not None
        page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        page.mouse.down()
        page.mouse.move(box["x"] + box["width"] / 4, box["y"] + 20, steps=4)
        page.mouse.up()
        assert self.position(page) == pytest.approx(25, abs=1)
        assert self.uncovered(page) == pytest.approx(0.25, abs=0.01)
        page.mouse.move(box["x"] + box["width"] * 0.9, box["y"] + 20)
        assert self.position(page) == pytest.approx(25, abs=1), "only a drag moves it"

    def test_the_keyboard_moves_the_divider(self, page: Page) -> None:
        slider = page.get_by_role("slider")
        slider.focus()
        page.keyboard.press("ArrowRight")
        assert self.position(page) == 51
        page.keyboard.press("End")
        assert self.uncovered(page) == pytest.approx(1, abs=0.01)
        assert slider.get_attribute("aria-valuetext") == "100 % before, 0 % after"

    def test_zoomed_to_pixels_it_scrolls_and_the_divider_stays_in_sight(self, page: Page) -> None:
        page.get_by_role("radio", name="400 %").click()
        width = page.locator("#after").evaluate(
            "image => image.getBoundingClientRect().width * devicePixelRatio"
        )
        assert width == 4 * 384
        assert (
            page.locator("#after").evaluate("image => getComputedStyle(image).imageRendering") == "pixelated"
        )
        viewport = page.locator("#viewport")
        before = viewport.evaluate("view => view.scrollLeft")
        viewport.focus()
        page.keyboard.press("ArrowRight")
        page.wait_for_function(f"() => document.getElementById('viewport').scrollLeft > {before}")
        box = viewport.bounding_box()
        assert box is not None
        page.mouse.move(box["x"] + 100, box["y"] + 100)
        page.mouse.down()
        page.mouse.move(box["x"] + 60, box["y"] + 100, steps=4)
        page.mouse.up()
        assert self.position(page) == 50, "a drag moves the picture"
        handle = page.locator("#handle").bounding_box()
        assert handle is not None
        assert handle["x"] + handle["width"] / 2 == pytest.approx(box["x"] + box["width"] / 2, abs=10)
        page.get_by_role("radio", name="Fit").click()
        assert page.locator("#canvas").evaluate("c => c.offsetWidth <= c.parentElement.clientWidth")

    def test_a_finger_moves_the_divider_and_still_scrolls_the_page(
        self, visit: Open, service_url: str
    ) -> None:
        phone = {"width": 390, "height": 660}
        page = visit(
            service_url,
            viewport=phone,
            is_mobile=True,
            has_touch=True,
            device_scale_factor=2,
            reduced_motion="reduce",
        )
        page.set_input_files("#files", CAT)
        restored(page)
        box = page.locator("#canvas").bounding_box()
        assert box is not None
        y = box["y"] + box["height"] * 0.8
        swipe(page, (box["x"] + box["width"] * 0.3, y), (box["x"] + box["width"] * 0.8, y))
        page.wait_for_function("() => document.getElementById('divider').valueAsNumber > 70")
        moved = self.position(page)
        swipe(page, (box["x"] + 150, y), (box["x"] + 150, y - 120))
        page.wait_for_function("() => scrollY > 50")
        assert abs(self.position(page) - moved) < 15


def swipe(page: Page, start: tuple[float, float], end: tuple[float, float]) -> None:
    """One finger from here to there."""
    session = page.context.new_cdp_session(page)

    def touch(kind: str, x: float, y: float) -> None:
        points = [] if kind == "touchEnd" else [{"x": x, "y": y}]
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    touch("touchStart", *start)
    for step in range(1, 11):
        touch("touchMove", *(a + (b - a) * step / 10 for a, b in zip(start, end, strict=True)))
    touch("touchEnd", *end)


class TestPatience:
    def test_the_keyboard_alone_is_enough_from_the_first_moment_to_the_download(
        self, visit: Open, service_url: str
    ) -> None:
        page = visit(service_url)
        page.on("filechooser", lambda chooser: chooser.set_files(CAT))

        def tab_to(selector: str) -> None:
            for _ in range(40):
                page.keyboard.press("Tab")
                if page.evaluate("selector => document.activeElement.matches(selector)", selector):
                    return
            pytest.fail(f"{selector} cannot be reached with Tab")

        tab_to("#sentence")
        page.keyboard.type("remove the rain")
        tab_to("#choose")
        page.keyboard.press("Enter")
        restored(page)
        page.evaluate("document.activeElement.blur()")
        tab_to("#divider")
        page.keyboard.press("Home")
        assert page.get_by_role("slider").input_value() == "0"
        tab_to("[name=zoom]")
        page.keyboard.press("ArrowRight")
        expect(page.get_by_role("radio", name="100 %")).to_be_checked()
        tab_to("#format")
        page.keyboard.type("W")
        tab_to("#download")
        with page.expect_download() as waiting:
            page.keyboard.press("Enter")
        assert waiting.value.suggested_filename.endswith(".webp")
        tab_to("#copy")

    def test_a_slow_upload_shows_how_far_it_is_and_can_be_given_up(
        self, visit: Open, service_url: str
    ) -> None:
        page = visit(service_url)
        session = page.context.new_cdp_session(page)
        seen = posts(page)
        slow = {"offline": False, "latency": 20, "downloadThroughput": -1, "uploadThroughput": 20_000}
        session.send("Network.emulateNetworkConditions", slow)
        page.set_input_files("#files", CAT)  # 57 kB: three seconds
        page.wait_for_function(
            "() => /^Sending, [1-9]/.test(document.getElementById('progress-text').textContent)", polling=20
        )
        share = page.locator("#progress-bar").evaluate("bar => bar.value")
        assert 0 < share < 1
        page.get_by_role("button", name="Cancel").click()
        expect(page.locator("#problem-title")).to_have_text("Cancelled")
        session.send("Network.emulateNetworkConditions", slow | {"uploadThroughput": 200_000})
        page.get_by_role("button", name="Try again").dblclick()
        expect(page.locator("#jobs progress")).to_be_visible()
        restored(page)
        assert seen.count("derain") == 2, "once given up, once restored"
        expect(page.locator("#jobs li")).to_have_count(1)

    def test_a_photograph_of_fifty_megapixels_does_not_freeze_the_page(
        self, visit: Open, service_url: str, write: Write
    ) -> None:
        page = visit(service_url)
        session = page.context.new_cdp_session(page)
        session.send("Performance.enable", {"timeDomain": "threadTicks"})
        large = write(Image.linear_gradient("L").resize((8660, 5774)).convert("RGB"), "large.jpg", quality=80)

        def busy() -> float:
            """CPU seconds of the page's own thread."""
            metrics = session.send("Performance.getMetrics")["metrics"]
            return next(metric["value"] for metric in metrics if metric["name"] == "TaskDuration")

        started = busy()
        page.set_input_files("#files", large)
        expect(page.locator("#facts")).to_contain_text("8660 × 5774")
        page.wait_for_function("() => document.querySelector('#jobs canvas').width > 1")
        page.get_by_role("button", name="Cancel").click()
        assert busy() - started < 0.5
