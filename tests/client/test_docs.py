"""Every example of docs/client.md runs, against a real service."""

import re
import shutil
from pathlib import Path

import pytest
from PIL import Image

from app.client import connection

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = re.findall(r"```python\n(.*?)```", (ROOT / "docs/client.md").read_text(), re.DOTALL)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: str(EXAMPLES.index(example)))
def test_an_example_runs(
    example: str, small_url: str, photos: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with Image.open(photos[0]) as image:
        image.convert("RGB").save("rainy.jpg")
    Path("photos").mkdir()
    for name in ("one.jpg", "two.jpg"):
        shutil.copy("rainy.jpg", Path("photos") / name)
    exec(example.replace(connection.URL, small_url).replace("Derain()", f"Derain({small_url!r})"), {})
    for path in Path("restored").glob("*"):
        with Image.open(path) as image:
            image.load()
