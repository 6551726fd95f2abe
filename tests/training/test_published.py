"""The sets of the paper as they are published: a rainy image joined to another scene spoils all that
follows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from model.captioner import Captioner
from model.metrics import psnr
from model.restorer import Restorer
from training.captions import SemanticPrompts, await_captions, caption_of, caption_pairs, read_captions
from training.evaluate import evaluate_set
from training.export import export_run
from training.pairs import PairsError, find_sets
from training.published import PublishedPairs, read_training_data, training_sets
from training.scenes import DataError
from training.train import Batches, Stage, TrainConfig, train

SIZE = (48, 40)
WEIGHTS = Path(__file__).resolve().parents[2] / "weights"


def scene(seed: int) -> Image.Image:
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 200, (4, 5, 3), dtype=np.uint8))
    return coarse.resize(SIZE, Image.Resampling.BICUBIC)


def rained(clean: Image.Image, seed: int) -> Image.Image:
    rng = np.random.default_rng(1000 + seed)
    layer = (rng.random((1, SIZE[0])) < 0.15) * np.full((SIZE[1], 1), 50)
    return Image.fromarray((np.array(clean).astype(int) + layer[..., None]).clip(0, 255).astype(np.uint8))


def save(image: Image.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


def rain200h(root: Path, count: int) -> None:
    for i in range(1, count + 1):
        save(scene(i), root / "norain" / f"norain-{i}.png")
        save(rained(scene(i), i), root / "rain" / "X2" / f"norain-{i}x2.png")


def rain200l(root: Path, count: int) -> None:
    for i in range(1, count + 1):
        save(scene(i), root / "norain" / f"norain-{i}.png")
        save(rained(scene(i), i), root / "rain" / f"norain-{i}x2.png")


def rain100h(root: Path, count: int) -> None:
    for i in range(1, count + 1):
        save(scene(i), root / f"norain-{i:03}.png")
        save(rained(scene(i), i), root / f"rain-{i:03}.png")
        save(rained(scene(99), i), root / f"rainstreak-{i:03}.png")


def rain800(root: Path, count: int) -> None:
    for i in range(1, count + 1):
        both = Image.new("RGB", (2 * SIZE[0], SIZE[1]))
        both.paste(scene(i), (0, 0))
        both.paste(rained(scene(i), i), (SIZE[0], 0))
        save(both, root / f"{i}.png")


def rain1400(root: Path, count: int) -> None:
    for i in range(1, count + 1):
        save(scene(i), root / "ground_truth" / f"{i}.png")
        for k in range(1, 15):
            save(rained(scene(i), 20 * i + k), root / "rainy_image" / f"{i}_{k}.png")


LAYOUTS: dict[str, tuple[Callable[[Path, int], None], int]] = {
    "rain_data_test_Heavy": (rain200h, 1),
    "rain_data_test_Light": (rain200l, 1),
    "rain_heavy_test": (rain100h, 1),
    "training": (rain800, 1),
    "testing": (rain1400, 14),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_rainy_image_finds_its_own_clean_one(tmp_path: Path, name: str):
    write, versions = LAYOUTS[name]
    write(tmp_path / name, 12)
    for root in (tmp_path, tmp_path / name):
        (found,) = find_sets(root)
        assert found.name == name
        assert len(found.pairs) == 12 * versions
    for pair in found.pairs:
        rainy, clean = pair.read()
        added = rainy.int() - clean.int()
        assert added.min() >= 0, pair.name
        assert added.max() <= 50, pair.name
        assert added.max() > 0, pair.name


def test_a_rainy_image_without_its_original_is_named(tmp_path: Path):
    rain1400(tmp_path, 3)
    (tmp_path / "ground_truth" / "2.png").unlink()
    with pytest.raises(PairsError, match=r"14 without a clean original, for example '2_1\.png'"):
        find_sets(tmp_path)


def test_all_versions_of_a_scene_are_on_one_side_of_the_split(tmp_path: Path):
    rain1400(tmp_path / "training", 40)
    kept, held = read_training_data(tmp_path), read_training_data(tmp_path, validation=True)
    assert not kept.photographs
    scenes: list[set[str]] = []
    for side in (kept, held):
        assert isinstance(side.pairs, PublishedPairs)
        scenes.append({pair.clean.path.stem for pair in side.pairs.pairs})
    assert scenes[0].isdisjoint(scenes[1])
    assert scenes[0] | scenes[1] == {str(i) for i in range(1, 41)}
    assert scenes[1], "nothing was held out: more scenes are needed for this test"


def test_pairs_beyond_the_memory_are_read_again(tmp_path: Path):
    rain200h(tmp_path, 6)
    (found,) = find_sets(tmp_path)
    pairs = PublishedPairs(found.pairs, memory=2 * 6 * SIZE[0] * SIZE[1])
    for index in range(6):
        assert torch.equal(pairs[index], torch.cat(found.pairs[index].read()))
    assert len(pairs.kept) == 2


def test_captions_reach_the_prompts_of_their_own_pairs(tmp_path: Path):
    rain1400(tmp_path / "training", 20)
    table = tmp_path / "captions.csv"
    table.write_text("file,caption\n" + "".join(f"{i}.jpg,scene number {i}\n" for i in range(1, 21)))
    data = read_training_data(tmp_path, captions=[read_captions(table)])
    batches = Batches(data, TrainConfig(steps=1, pairs=1.0), torch.device("cpu"), 0)
    crops = batches.crops(0, Stage(until=1, crop=16, batch=6))
    assert len(crops.photographs) == 0
    _, wanted = batches.make(0, crops)
    assert [prompt.semantic for prompt in wanted.prompts] == crops.captions
    pairs = data.pairs
    assert isinstance(pairs, PublishedPairs)
    for pair, caption in zip(pairs.pairs, data.captions, strict=True):
        assert caption == f"scene number {pair.clean.path.stem}"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [("name,caption\n1,rain\n", "no columns"), ("file,caption\nother.jpg,rain\n", "no caption names")],
)
def test_captions_that_cannot_be_used_are_refused(tmp_path: Path, text: str, complaint: str):
    rain200h(tmp_path / "set", 12)
    (tmp_path / "captions.csv").write_text(text)
    with pytest.raises(DataError, match=complaint):
        read_training_data(tmp_path / "set", captions=[read_captions(tmp_path / "captions.csv")])


def test_a_folder_of_neither_kind_is_refused(tmp_path: Path):
    with pytest.raises(DataError, match="no paired sets"):
        read_training_data(tmp_path)


PAPER = ("rain_data_test_Heavy", "rain_data_test_Light", "training", "testing")
"""Rain200H, Rain200L, Rain800 and Rain1400."""


@pytest.mark.parametrize("name", PAPER)
def test_every_set_of_the_paper_trains_resumes_and_is_measured(tmp_path: Path, coca: Path, name: str):
    """By the code that `derain train` and `derain evaluate` run, with captions from CoCa."""
    write, versions = LAYOUTS[name]
    root, out, weights = tmp_path / name, tmp_path / "run", tmp_path / "weights"
    write(root, 20 if versions == 1 else 3)
    source = f"local-dir:{coca}"
    config = TrainConfig(
        steps=2, weights=str(WEIGHTS), captioner=source, stages=(Stage(until=1, crop=16, batch=2),), threads=1
    )
    for steps in (2, 3):
        last = train(replace(config, steps=steps), root, out)
        assert torch.load(last, weights_only=True)["step"] == steps
    weights.mkdir()
    (weights / "degradation-clip").symlink_to(WEIGHTS / "degradation-clip")
    export_run(out, weights / "small", weights=WEIGHTS)

    (found,) = find_sets(root)
    captioner = Captioner.from_source(source, "cpu")
    written = read_captions(out / "captions.csv")
    trained_on = training_sets(root)[0].pairs
    for pair in trained_on:
        assert written[f"{name}/{pair.name}"] == captioner.caption(pair.rainy.read())
    assert len(set(written.values())) > 1

    restorer = Restorer.from_checkpoint(weights / "small", device="cpu", precision="float32")
    result = evaluate_set(restorer, found, semantic=SemanticPrompts({}, captioner), limit=2)
    for pair, measured in zip(found.pairs, result.pairs, strict=False):
        rainy, clean = pair.read()
        assert measured.caption == captioner.caption(rainy)
        assert measured.input.psnr == psnr(rainy, clean)


def test_a_captioner_goes_on_where_it_was_interrupted_and_never_sees_the_clean_image(
    tmp_path: Path, coca: Path
):
    rain200h(tmp_path / "set", 6)
    sets = find_sets(tmp_path / "set")
    for pair in sets[0].pairs:
        pair.clean.path.write_bytes(b"the truth")
    captioner, path = Captioner.from_source(f"local-dir:{coca}", "cpu"), tmp_path / "captions.csv"
    whole = caption_pairs(sets, captioner, path)
    text = path.read_text()
    assert await_captions(sets, path) == whole

    lines = text.splitlines(keepends=True)
    path.write_text("".join(lines[:3]).replace(lines[1].split(",")[1], "kept as it is\n"))
    assert "kept as it is" in caption_pairs(sets, captioner, path).values()
    assert path.read_text().splitlines()[2:] == text.splitlines()[2:]


def test_captions_of_one_set_are_not_taken_for_those_of_another(tmp_path: Path):
    (tmp_path / "captions.csv").write_text(
        "file,caption\nheavy/norain-1x2.png,in a storm\nlight/norain-1x2.png,in a drizzle\nlight/2.png,\n"
    )
    captions = read_captions(tmp_path / "captions.csv")
    for name in ("heavy", "light"):
        rain200h(tmp_path / name, 1)
    heavy, light = (find_sets(tmp_path / name)[0] for name in ("heavy", "light"))
    assert caption_of(captions, heavy, heavy.pairs[0]) == "in a storm"
    assert caption_of(captions, light, light.pairs[0]) == "in a drizzle"
    assert captions["light/2"] == ""


def test_what_is_said_of_the_clean_image_is_not_used_to_measure(tmp_path: Path):
    rain1400(tmp_path / "testing", 1)
    (found,) = find_sets(tmp_path)
    prompts = SemanticPrompts({"1": "what only the original shows", "1_2": "what the rainy image shows"})
    said = {pair.name: prompts.of(found, pair, pair.rainy.read()) for pair in found.pairs}
    assert said.pop("1_2") == "what the rainy image shows"
    assert set(said.values()) == {None}
