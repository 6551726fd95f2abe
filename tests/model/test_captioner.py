"""What the captioner says becomes the semantic prompt: it must be what its model says, each time."""

from __future__ import annotations

import json
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import open_clip
import pytest
import torch
from PIL import Image
from torch import Tensor

from model.captioner import LONGEST, Captioner
from model.checkpoint_folders import CheckpointError


def picture(seed: int, height: int = 50, width: int = 70) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, 4, 5, generator=generator) * 255
    return torch.nn.functional.interpolate(coarse, (height, width))[0].to(torch.uint8)


@pytest.fixture(scope="module")
def captioner(coca: Path) -> Captioner:
    return Captioner.from_source(f"local-dir:{coca}", device="cpu")


def test_a_picture_gets_the_same_sentence_each_time_and_another_gets_another(captioner: Captioner):
    said = [captioner.caption(picture(seed)) for seed in range(4)]
    assert len(set(said)) > 1
    assert all(said)
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(captioner.caption, map(picture, range(4)))) == said


def test_every_word_is_the_likeliest_after_those_before(captioner: Captioner, coca: Path):
    """Against one pass of open_clip over the whole sentence, with its own preprocessing."""
    model, preprocess = open_clip.create_model_from_pretrained(f"local-dir:{coca}")  # pyright: ignore
    image = picture(0)
    pixels = preprocess(Image.fromarray(image.permute(1, 2, 0).numpy()))[None]  # pyright: ignore
    said = captioner.words(image)
    assert 0 < len(said) <= LONGEST - 2
    text = torch.tensor([[49406, *said]])
    with torch.inference_mode():
        scores = model.eval()(pixels, text, output_labels=False)["logits"][0]
        scores[:4, 49407] = -torch.inf
    assert scores.argmax(-1)[: len(said)].tolist() == said


def test_pixels_may_lie_in_memory_as_they_like(captioner: Captioner):
    image = picture(1)
    interleaved = image.permute(1, 2, 0).contiguous().permute(2, 0, 1)
    assert captioner.caption(interleaved) == captioner.caption(image)
    assert captioner.caption(image[:, :1, :1]) is not None


def test_weights_are_read_when_they_are_needed(coca: Path, tmp_path: Path):
    (tmp_path / "open_clip_config.json").write_bytes((coca / "open_clip_config.json").read_bytes())
    captioner = Captioner.from_source(f"local-dir:{tmp_path}")
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        captioner.load()
    (tmp_path / "model.safetensors").write_bytes((coca / "open_clip_model.safetensors").read_bytes())
    captioner.load()
    assert captioner.caption(picture(0))


def test_a_pickle_of_anything_but_tensors_is_not_run(coca: Path, tmp_path: Path):
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path.touch, (tmp_path / "sprung",))  # pyright: ignore

    (tmp_path / "open_clip_config.json").write_bytes((coca / "open_clip_config.json").read_bytes())
    with (tmp_path / "model.pth").open("wb") as file:
        pickle.dump(Trap(), file)
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        Captioner.from_source(f"local-dir:{tmp_path}").load()
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        ("coca_ViT-XXL:nowhere.pt", "neither a file nor one of coca_ViT-B-32's tags"),
        ("nowhere.pt", "neither a file nor one of coca_ViT-B-32's tags"),
        ("coca_ViT-L-14:nowhere.pt", "neither a file nor one of coca_ViT-L-14's tags"),
    ],
)
def test_a_source_that_cannot_be_is_refused_at_once(source: str, complaint: str):
    with pytest.raises(CheckpointError, match=complaint):
        Captioner.from_source(source)


def test_a_model_that_writes_nothing_is_refused(coca: Path, tmp_path: Path):
    described = json.loads((coca / "open_clip_config.json").read_text())
    described["model_cfg"].pop("multimodal_cfg")
    for tower in ("vision_cfg", "text_cfg"):
        described["model_cfg"][tower]["output_tokens"] = False
    (tmp_path / "open_clip_config.json").write_text(json.dumps(described))
    clip = open_clip.create_model(f"local-dir:{tmp_path}")
    torch.save(clip.state_dict(), tmp_path / "model.pth")
    with pytest.raises(CheckpointError, match="not a CoCa model"):
        Captioner.from_source(f"local-dir:{tmp_path}").load()
