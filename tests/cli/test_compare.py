"""`derain compare`: figures that can be held against published ones, and a picture of what they say."""

import json
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms
from skimage.color import rgb2ycbcr
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from typer.testing import CliRunner, Result

from app.cli import cli
from app.comparison import GAP

PAIRS = Path(__file__).resolve().parent.parent / "data/pairs"
RAINY = PAIRS / "input/dogs-heavy-rain.jpg"
CLEAN = PAIRS / "target/dogs-heavy-rain.jpg"


def compare(*arguments: str | Path, stdin: bytes | None = None) -> Result:
    return CliRunner().invoke(cli, ["compare", *map(str, arguments)], input=stdin)


def samples(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def luma(path: Path) -> np.ndarray:
    return np.round(rgb2ycbcr(samples(path))[..., 0])


@pytest.fixture
def nearer(tmp_path: Path) -> Path:
    """Half of the way from rainy to clean."""
    mean = (samples(RAINY).astype(int) + samples(CLEAN)) // 2
    Image.fromarray(mean.astype(np.uint8)).save(tmp_path / "nearer.png")
    return tmp_path / "nearer.png"


def test_the_figures_are_those_of_the_field(tmp_path: Path, nearer: Path) -> None:
    result = compare(RAINY, nearer, "--reference", CLEAN, "--json")
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert (told["output"], told["reference"]) == (None, {"path": str(CLEAN)})
    for name, path in (("rainy", RAINY), ("restored", nearer)):
        assert told[name]["path"] == str(path)
        psnr = peak_signal_noise_ratio(luma(CLEAN), luma(path), data_range=255)
        ssim = structural_similarity(
            luma(CLEAN), luma(path), data_range=255, gaussian_weights=True, use_sample_covariance=False
        )
        assert told[name]["psnr"] == pytest.approx(psnr, abs=1e-6)
        assert told[name]["ssim"] == pytest.approx(ssim, abs=2e-3)  # skimage counts the borders as well
    table = compare(RAINY, nearer, "--reference", CLEAN)
    assert f"{told['restored']['psnr']:.2f} dB" in table.stdout


def test_the_same_picture_twice_has_no_psnr_in_json(tmp_path: Path) -> None:
    told = json.loads(compare(RAINY, CLEAN, "--reference", CLEAN, "--json").stdout)
    assert told["restored"] == {"path": str(CLEAN), "psnr": None, "ssim": 1.0}


def test_the_picture_shows_all_side_by_side_with_their_labels(tmp_path: Path, nearer: Path) -> None:
    result = compare(RAINY, nearer, "--reference", CLEAN, "-o", tmp_path / "new/all.png")
    assert result.exit_code == 0, result.output
    sheet = samples(tmp_path / "new/all.png")
    height, width, _ = samples(RAINY).shape
    for place, path in enumerate((RAINY, nearer, CLEAN)):
        left = GAP + place * (width + GAP)
        assert np.array_equal(sheet[GAP : GAP + height, left : left + width], samples(path)), path
        label = sheet[GAP + height :, left : left + width]
        assert (label < 128).any(), "nothing is written under it"
    assert (sheet[:GAP] == 255).all()


def test_labels_of_small_pictures_are_not_cut(tmp_path: Path) -> None:
    Image.new("RGB", (16, 12), "grey").save(tmp_path / "small.png")
    small = tmp_path / "small.png"
    assert compare(small, small, "--reference", small, "-o", tmp_path / "all.png").exit_code == 0
    sheet = samples(tmp_path / "all.png")
    assert (sheet[:, -GAP:] == 255).all()
    assert sheet.shape[1] > 3 * 80


def test_the_colour_profile_goes_along(tmp_path: Path) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for name in ("a.png", "b.png"):
        Image.new("RGB", (32, 32), "grey").save(tmp_path / name, icc_profile=profile)
    assert compare(tmp_path / "a.png", tmp_path / "b.png", "-o", tmp_path / "both.jpg").exit_code == 0
    with Image.open(tmp_path / "both.jpg") as image:
        assert image.info["icc_profile"] == profile


def test_one_image_may_come_and_the_picture_may_go_through_a_pipe(nearer: Path) -> None:
    result = compare(RAINY, "-", "-o", "-", stdin=nearer.read_bytes())
    assert result.exit_code == 0, result.stderr
    with Image.open(BytesIO(result.stdout_bytes)) as image:
        assert (image.format, image.width) == ("PNG", 2 * samples(RAINY).shape[1] + 3 * GAP)


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["a.png", "b.png"], 2, "say where to"),
        (["-", "-", "-o", "c.png"], 2, "standard input"),
        (["a.png", "a.png", "-o", "c.gif"], 2, "ending"),
        (["a.png", "a.png", "-o", "b.png"], 2, "--overwrite"),
        (["a.png", "a.png", "-o", "-", "--json"], 2, "--json"),
        (["a.png", "b.png", "-o", "c.png"], 1, "a.png is 24x20, b.png is 20x24"),
        (["a.png", "nowhere.png", "-o", "c.png"], 1, "nowhere.png: No such file"),
        (["a.png", "text.png", "-o", "c.png"], 1, "text.png: not an image"),
        (["tiny.png", "tiny.png", "--reference", "tiny.png"], 1, "11x11"),
    ],
)
def test_what_cannot_be_compared_is_told_in_one_line(
    arguments: list[str], status: int, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, size in (("a.png", (24, 20)), ("b.png", (20, 24)), ("tiny.png", (10, 40))):
        Image.new("RGB", size).save(name)
    Path("text.png").write_text("text")
    result = compare(*arguments)
    assert result.exit_code == status
    assert said in result.stderr
    assert result.stderr.count("\n") == 1
    assert not Path("c.png").exists()
