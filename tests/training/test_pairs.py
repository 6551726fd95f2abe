"""A pair that is read wrongly (swapped, shifted, of two scenes) makes every figure from it worthless."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from training.pairs import PairsError, find_sets


def picture(seed: int, height: int = 24, width: int = 40) -> Tensor:
    """A scene of its own: smooth shapes, so that halves of one picture do not look alike."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (4, 5, 3), dtype=np.uint8))
    return torch.from_numpy(np.array(coarse.resize((width, height)))).permute(2, 0, 1)


def rain(clean: Tensor, seed: int) -> Tensor:
    drops = (np.random.default_rng(seed).random(tuple(clean.shape[1:])) < 0.1) * 60
    return (clean + torch.from_numpy(drops)).clamp(0, 255).to(torch.uint8)


def write(path: Path, image: Tensor) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(path)


def write_set(folder: Path, names: list[str]) -> None:
    for i, name in enumerate(names):
        write(folder / "input" / name, rain(picture(i), i))
        write(folder / "target" / name, picture(i))


def test_input_and_target_folders(tmp_path: Path):
    write_set(tmp_path / "light", ["a.png", "b.png"])
    write_set(tmp_path / "heavy", ["c.png"])
    (tmp_path / "notes").mkdir()
    heavy, light = find_sets(tmp_path)
    assert (heavy.name, [p.name for p in heavy.pairs]) == ("heavy", ["c"])
    assert (light.name, [p.name for p in light.pairs]) == ("light", ["a", "b"])
    rainy, clean = light.pairs[1].read()
    assert torch.equal(clean, picture(1))
    assert torch.equal(rainy, rain(picture(1), 1))


def test_the_folder_may_be_the_set_itself(tmp_path: Path):
    write_set(tmp_path / "rain100l", ["a.png", "b.png"])
    (found,) = find_sets(tmp_path / "rain100l")
    assert found.name == "rain100l"
    assert len(found.pairs) == 2


def test_suffixes_may_differ(tmp_path: Path):
    write(tmp_path / "input" / "a.PNG", picture(0))
    write(tmp_path / "target" / "a.jpg", picture(0))
    (found,) = find_sets(tmp_path)
    assert found.pairs[0].clean.path.name == "a.jpg"


def test_side_by_side_is_clean_left_and_rainy_right(tmp_path: Path):
    scenes = [(rain(picture(i), i), picture(i)) for i in range(3)]
    for i, (rainy, clean) in enumerate(scenes):
        write(tmp_path / "rain800" / f"{i}.png", torch.cat((clean, rainy), dim=-1))
    (found,) = find_sets(tmp_path)
    assert found.name == "rain800"
    for pair, (rainy, clean) in zip(found.pairs, scenes, strict=True):
        read_rainy, read_clean = pair.read()
        assert torch.equal(read_rainy, rainy)
        assert torch.equal(read_clean, clean)


def test_single_photographs_are_no_pairs(tmp_path: Path):
    for i in range(12):
        write(tmp_path / "photos" / f"{i}.png", picture(i, 30, 80))
    with pytest.raises(PairsError, match=r"no paired sets in .*: expected input/ and target/"):
        find_sets(tmp_path)


def test_a_missing_partner_is_named(tmp_path: Path):
    write_set(tmp_path, ["a.png", "b.png"])
    (tmp_path / "target" / "b.png").unlink()
    with pytest.raises(PairsError, match="1 without a partner, for example 'b' only in input"):
        find_sets(tmp_path)


def test_one_name_twice_is_refused(tmp_path: Path):
    write_set(tmp_path, ["a.png"])
    write(tmp_path / "input" / "a.jpg", picture(0))
    with pytest.raises(PairsError, match="holds 'a' twice"):
        find_sets(tmp_path)


def test_an_empty_set_is_refused(tmp_path: Path):
    (tmp_path / "input").mkdir()
    (tmp_path / "target").mkdir()
    with pytest.raises(PairsError, match="holds no images"):
        find_sets(tmp_path)


def test_two_sizes_are_refused(tmp_path: Path):
    write(tmp_path / "input" / "a.png", picture(0, 24, 40))
    write(tmp_path / "target" / "a.png", picture(0, 24, 39))
    (found,) = find_sets(tmp_path)
    with pytest.raises(PairsError, match="two sizes: 40x24 and 39x24"):
        found.pairs[0].read()


@pytest.mark.parametrize("damage", ["not an image", "truncated"])
def test_a_damaged_file_is_named(tmp_path: Path, damage: str):
    write_set(tmp_path, ["a.png"])
    path = tmp_path / "input" / "a.png"
    path.write_bytes(b"rain" if damage == "not an image" else path.read_bytes()[:200])
    (found,) = find_sets(tmp_path)
    with pytest.raises(PairsError, match=r"input/a\.png cannot be read"):
        found.pairs[0].read()


def test_a_folder_that_is_not_there(tmp_path: Path):
    with pytest.raises(PairsError, match="is not a folder"):
        find_sets(tmp_path / "nowhere")
