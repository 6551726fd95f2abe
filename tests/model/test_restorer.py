"""The one front door: whatever goes in comes out in its own size and order, whoever else is being served."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from model.checkpoint_folders import NETWORK, CheckpointError, read_config
from model.metrics import psnr
from model.prompts import DENSITIES, DIRECTIONS, TYPES, Prompt, describe
from model.restorer import NonFiniteError, Restorer, choose_precision
from model.text import TextFeatures
from model.weights import load_network
from tests.model.conftest import PAIRS

HEAVY = Prompt(degradation="a photo with heavy rain streaks falling straight down")
UNCHANGED = Prompt(degradation="leave it unchanged")


@pytest.fixture
def own(weights: Path) -> Restorer:
    """A restorer that a test may change, without perception."""
    return build(weights, tile=64)


def build(
    weights: Path,
    *,
    precision: torch.dtype = torch.float32,
    tile: int | None = None,
    cached_prompts: int = 1024,
    stem_gain: float = 1.0,
) -> Restorer:
    folder = weights / "tvi-derain-s"
    network = load_network(folder, read_config(folder, NETWORK))
    with torch.no_grad():
        for parameter in network.stem.parameters():
            parameter.mul_(stem_gain)
    return Restorer(
        network,
        None,
        name="changed",
        device=torch.device("cpu"),
        precision=precision,
        tile=tile,
        cached_prompts=cached_prompts,
    )


def difference(one: Tensor, other: Tensor) -> int:
    return int((one.int() - other.int()).abs().max())


@pytest.mark.parametrize("name", ["cat-moderate-rain", "coffee-heavy-rain"])
def test_sides_that_are_no_multiples_cost_no_quality(shipped: Restorer, name: str):
    """Where the last row and column were repeated beyond the edges, half a decibel was lost."""
    rainy, clean = (
        torch.from_numpy(np.array(Image.open(PAIRS / part / f"{name}.jpg"))).permute(2, 0, 1)
        for part in ("input", "target")
    )
    height, width = rainy.shape[1] - 7, rainy.shape[2] - 7
    prompt = Prompt(degradation=shipped.perceive(rainy).prompt)
    whole, odd = (shipped.restore([image], [prompt])[0] for image in (rainy, rainy[:, :height, :width]))
    clean = clean[:, :height, :width]
    assert psnr(odd, clean) > psnr(whole[:, :height, :width], clean) - 0.2


@pytest.mark.parametrize("size", [(1, 1), (7, 13), (8, 8), (65, 33)])
def test_size_and_type_are_kept(shipped: Restorer, rainy: Tensor, size: tuple[int, int]):
    (restored,) = shipped.restore([rainy[:, : size[0], : size[1]]], [HEAVY])
    assert restored.dtype == torch.uint8
    assert restored.shape == (3, *size)


def test_images_of_one_padded_size_keep_their_order_and_sizes(shipped: Restorer, rainy: Tensor):
    sizes = ((60, 90), (64, 96), (57, 89))
    assert {shipped.padded_size(*size) for size in sizes} == {(64, 96)}
    images = [rainy[:, 40 * i :, 50 * i :][:, :height, :width] for i, (height, width) in enumerate(sizes)]
    prompts = [HEAVY, UNCHANGED, Prompt()]
    together = shipped.restore(images, prompts)
    for image, prompt, restored in zip(images, prompts, together, strict=True):
        (alone,) = shipped.restore([image], [prompt])
        assert restored.shape == image.shape
        assert difference(restored, alone) <= 1


def test_padded_size_is_the_next_multiple(shipped: Restorer):
    assert shipped.multiple == 8
    assert shipped.padded_size(1, 8) == (8, 8)
    assert shipped.padded_size(321, 481) == (328, 488)


def test_large_images_are_tiled_without_seams(own: Restorer, shipped: Restorer, rainy: Tensor):
    image = rainy[:, :140, :213]
    assert own.tiling.side == 64
    (tiled,) = own.restore([image], [HEAVY])
    (whole,) = shipped.restore([image], [HEAVY])
    assert tiled.shape == image.shape
    assert difference(tiled, whole) <= 1
    assert (tiled != whole).float().mean() < 1e-3


def test_batches_are_tiled_too(own: Restorer, rainy: Tensor):
    images = [rainy[:, :56, :200], rainy[:, 50:103, 100:299]]
    together = own.restore(images, [HEAVY, UNCHANGED])
    for image, prompt, restored in zip(images, (HEAVY, UNCHANGED), together, strict=True):
        (alone,) = own.restore([image], [prompt])
        assert difference(restored, alone) <= 1


@pytest.fixture
def two_cores() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("two_cores")
@pytest.mark.parametrize("count", [2, 5])
@pytest.mark.parametrize("in_place", [False, True])
def test_parts_of_a_batch_are_computed_side_by_side(
    weights: Path, shipped: Restorer, rainy: Tensor, count: int, in_place: bool
):
    images = [rainy[:, 8 * i :, 16 * i :][:, :45, :70].clone() for i in range(count)]
    prompts = [HEAVY, UNCHANGED, Prompt()][: min(count, 3)] + [HEAVY] * (count - 3)
    expected = [shipped.restore([image], [prompt])[0] for image, prompt in zip(images, prompts, strict=True)]
    restorer = build(weights)
    run = restorer._run  # pyright: ignore[reportPrivateUsage]
    together = threading.Barrier(2)
    batches: list[int] = []

    def meeting(batch: Tensor, features: TextFeatures) -> Tensor:
        batches.append(len(batch))
        if len(batches) <= 2:
            together.wait(30)
        return run(batch, features)

    restorer._run = meeting  # pyright: ignore[reportPrivateUsage]
    restored = restorer.restore(images, prompts, in_place=in_place)
    assert batches == {2: [1, 1], 5: [2, 2, 1]}[count]
    for i in range(count):
        assert difference(restored[i], expected[i]) <= 1
        assert (restored[i] is images[i]) is in_place


def test_bfloat16_is_within_a_level_of_float32_at_the_median(weights: Path, shipped: Restorer, rainy: Tensor):
    image = rainy[:, 100:196, 40:136]
    (exact,) = shipped.restore([image], [HEAVY])
    (rounded,) = build(weights, precision=torch.bfloat16).restore([image], [HEAVY])
    error = (exact.int() - rounded.int()).abs()
    assert error.median() <= 1
    assert error.max() > 0, "float32 was compared with itself"


def test_an_overflow_is_tried_once_more_in_float32(weights: Path, rainy: Tensor):
    image = rainy[:, :32, :32]
    loud = build(weights, precision=torch.float16, stem_gain=1e6)
    exact = build(weights, precision=torch.float32, stem_gain=1e6)
    features = loud.encode([HEAVY])
    with torch.no_grad(), torch.autocast("cpu", torch.float16):
        overflowed = loud.network(image[None].float() / 255, features.tokens, features.mask)
    assert not torch.isfinite(overflowed).all()
    assert torch.equal(loud.restore([image], [HEAVY])[0], exact.restore([image], [HEAVY])[0])


def test_what_is_not_finite_in_float32_either_is_said(weights: Path, rainy: Tensor):
    broken = build(weights, stem_gain=float("nan"))
    with pytest.raises(NonFiniteError):
        broken.restore([rainy[:, :16, :16]], [HEAVY])


def sixteen_bits(image: Tensor) -> Tensor:
    """The image with 16 bits a sample, its new low bits not empty."""
    fine = torch.randint(-128, 129, image.shape, generator=torch.Generator().manual_seed(0))
    return (image.int() * 257 + fine).clamp_(0, 65535).to(torch.uint16)


class TestSixteenBits:
    """Were these wrong, a photograph of 16 bits would come back with the steps of 8."""

    @pytest.mark.parametrize("size", [(57, 90), (140, 213)], ids=["whole", "tiled"])
    def test_it_is_restored_to_half_a_step_of_sixteen_bits(
        self, own: Restorer, rainy: Tensor, size: tuple[int, int]
    ):
        image = sixteen_bits(rainy[:, : size[0], : size[1]])
        (restored,) = own.restore([image], [HEAVY])
        assert restored.dtype == torch.uint16
        beyond = ((0, 0), (0, -size[0] % 8), (0, -size[1] % 8))
        padded = torch.from_numpy(np.pad(image.numpy(), beyond, mode="symmetric"))[None].float() / 65535
        with torch.inference_mode():
            features = own.encode([HEAVY])
            exact = own.network.restore(padded, features.tokens, features.mask)
        exact = exact[0, :, : size[0], : size[1]].clamp(0, 1) * 65535
        # a tile differs from the whole by the rounding of float32, a few millionths
        assert (restored.float() - exact).abs().max() < 2
        assert len(restored.int().unique()) > 4096, "the steps are those of 8 bits"

    def test_it_may_be_restored_over_itself(self, own: Restorer, rainy: Tensor):
        image = sixteen_bits(rainy[:, :140, :213])
        (expected,) = own.restore([image], [HEAVY])
        (written,) = own.restore([image], [HEAVY], in_place=True)
        assert written is image
        assert torch.equal(image, expected)

    def test_eight_and_sixteen_bits_in_one_batch_stay_what_they_are(self, shipped: Restorer, rainy: Tensor):
        eight = rainy[:, :60, :90]
        sixteen = sixteen_bits(rainy[:, 40:104, 50:146])
        prompts = [HEAVY, UNCHANGED]
        together = shipped.restore([eight, sixteen], prompts)
        assert [one.dtype for one in together] == [torch.uint8, torch.uint16]
        for image, prompt, restored, close in zip([eight, sixteen], prompts, together, (1, 257), strict=True):
            assert difference(restored, shipped.restore([image], [prompt])[0]) <= close

    def test_it_is_perceived_as_in_eight_bits(self, shipped: Restorer, rainy: Tensor):
        assert shipped.perceive(sixteen_bits(rainy)) == shipped.perceive(rainy)
        small = rainy[:, :40, :50]
        assert shipped.perceive(sixteen_bits(small)) == shipped.perceive(small)

    def test_other_samples_are_refused(self, shipped: Restorer, rainy: Tensor):
        with pytest.raises(ValueError, match=r"uint8 or uint16, not torch\.int32"):
            shipped.restore([rainy[:, :16, :16].int()], [HEAVY])


def test_misuse_is_refused(shipped: Restorer, rainy: Tensor):
    with pytest.raises(ValueError, match="one padded size"):
        shipped.restore([rainy[:, :16, :16], rainy[:, :16, :24]], [HEAVY, HEAVY])
    with pytest.raises(ValueError, match="one prompt for each"):
        shipped.restore([rainy[:, :16, :16]], [])
    with pytest.raises(ValueError, match="one prompt for each"):
        shipped.restore([], [])


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_said(weights: Path):
    with pytest.raises(RuntimeError, match="no GPU"):
        Restorer.from_checkpoint(weights / "tvi-derain-s", device="cuda")


def test_encoded_prompts_are_cached(own: Restorer, rainy: Tensor):
    image = rainy[:, :16, :16]
    own.restore([image], [HEAVY])
    own.restore([image, image], [HEAVY, UNCHANGED])
    info = own.text_cache_info()
    assert (info.hits, info.misses, info.currsize) == (1, 2, 2)


def test_sentences_of_many_lengths_need_code_for_few(own: Restorer, rainy: Tensor):
    """And what they are padded with says nothing."""
    sentence = "a photo with heavy rain streaks slanting to the left over an old town"
    ends = [at for at, letter in enumerate(sentence) if letter == " "]
    prompts = [Prompt(degradation=sentence[:end]) for end in ends]
    features = [own.encode([prompt]) for prompt in prompts]
    assert len({int(one.mask.sum()) for one in features}) > 10
    assert {one.tokens.shape[1] for one in features} <= {8, 16, 24}
    assert own.text is not None
    exact = own.text.encode(prompts[3:4])
    with torch.inference_mode():
        batch = rainy[None].float() / 255
        padded, unpadded = (own.network(batch, one.tokens, one.mask) for one in (features[3], exact))
    assert exact.tokens.shape != features[3].tokens.shape
    torch.testing.assert_close(padded, unpadded, atol=1e-5, rtol=0)


def test_the_cache_forgets_the_least_recently_used(weights: Path):
    restorer = build(weights, cached_prompts=2)
    for text in ("rain", "haze", "rain", "noise", "rain", "haze"):
        restorer.encode([Prompt(degradation=text)])
    info = restorer.text_cache_info()
    assert (info.hits, info.misses, info.currsize) == (2, 4, 2)


def test_a_cached_prompt_means_what_it_meant(own: Restorer):
    first = own.encode([HEAVY])
    own.encode([UNCHANGED])
    again = own.encode([UNCHANGED, HEAVY])
    assert torch.equal(again.tokens[1][again.mask[1]], first.tokens[0][first.mask[0]])


def test_perceived_probabilities_and_prompt(shipped: Restorer, rainy: Tensor):
    perceived = shipped.perceive(rainy)
    for scores, names in (
        (perceived.types, TYPES),
        (perceived.densities, DENSITIES),
        (perceived.directions, DIRECTIONS),
    ):
        assert tuple(scores) == names
        assert sum(scores.values()) == pytest.approx(1, abs=1e-5)
        assert min(scores.values()) >= 0
    likeliest = [
        max(scores, key=lambda name: scores[name])
        for scores in (perceived.types, perceived.densities, perceived.directions)
    ]
    assert perceived.prompt == describe(*likeliest)


@pytest.mark.parametrize("size", [(1, 1), (7, 300), (95, 97)])
def test_small_images_are_perceived(shipped: Restorer, rainy: Tensor, size: tuple[int, int]):
    assert shipped.perceive(rainy[:, : size[0], : size[1]]).prompt


def test_threads_perceive_without_disturbing_each_other(shipped: Restorer, rainy: Tensor):
    images = [rainy[:, 20 * i : 20 * i + 110, 30 * i : 30 * i + 120] for i in range(6)]
    alone = [shipped.perceive(image) for image in images]
    start = threading.Barrier(6)

    def perceive(image: Tensor):
        start.wait()
        return shipped.perceive(image)

    with ThreadPoolExecutor(6) as pool:
        together = list(pool.map(perceive, images))
    for one, other in zip(alone, together, strict=True):
        assert one.prompt == other.prompt
        assert one.types == pytest.approx(other.types, abs=1e-5)


def test_a_restorer_without_perception_says_so(own: Restorer, rainy: Tensor):
    with pytest.raises(RuntimeError, match="without a compact CLIP"):
        own.perceive(rainy)


def test_precisions():
    cpu = torch.device("cpu")
    assert choose_precision("bfloat16", cpu) == torch.bfloat16
    assert choose_precision("auto", torch.device("cuda")) == torch.bfloat16
    assert choose_precision("auto", cpu) in (torch.float32, torch.bfloat16)
    with pytest.raises(ValueError, match="unknown precision 'int8'"):
        choose_precision("int8", cpu)


def test_an_impossible_precision_is_no_damaged_checkpoint(weights: Path):
    with pytest.raises(ValueError, match="unknown precision"):
        Restorer.from_checkpoint(weights / "tvi-derain-s", device="cpu", precision="int8")


def test_no_checkpoint(tmp_path: Path):
    with pytest.raises(CheckpointError, match=r"config\.json is missing"):
        Restorer.from_checkpoint(tmp_path / "nothing")


class Memory:
    """Runs a restorer's network as long as there are no more pixels at once than memory has room for."""

    def __init__(self, restorer: Restorer, most: int, error: Exception) -> None:
        self.sizes: list[int] = []
        run = restorer._run  # pyright: ignore[reportPrivateUsage]

        def bounded(batch: Tensor, features: TextFeatures) -> Tensor:
            self.sizes.append(batch.shape[0] * batch.shape[2] * batch.shape[3])
            if self.sizes[-1] > most:
                raise error
            return run(batch, features)

        restorer._run = bounded  # pyright: ignore[reportPrivateUsage]


WANT = [
    torch.OutOfMemoryError("CUDA out of memory"),
    RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 123 bytes"),
]


@pytest.mark.parametrize("error", WANT, ids=["GPU", "CPU"])
@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("tile", [128, 512], ids=["tiles", "whole"])
def test_where_memory_does_not_suffice_tiles_become_smaller_until_it_does(
    weights: Path, rainy: Tensor, error: Exception, in_place: bool, tile: int
) -> None:
    image = rainy[:, :250, :370].clone()
    (expected,) = build(weights).restore([image], [HEAVY])
    scarce = build(weights, tile=tile)
    memory = Memory(scarce, 240 * 240, error)
    (restored,) = scarce.restore([image], [HEAVY], in_place=in_place)
    assert difference(restored, expected) <= 1
    assert scarce.out_of_memory > 0
    assert max(memory.sizes) > 240 * 240, "the larger were tried"


def test_a_batch_for_which_memory_does_not_suffice_is_left_to_who_made_it(
    weights: Path, rainy: Tensor
) -> None:
    restorer = build(weights)
    Memory(restorer, 100 * 100, WANT[1])
    images = [rainy[:, :64, :96], rainy[:, 64:128, :96]] * (2 * torch.get_num_threads())
    with pytest.raises(torch.OutOfMemoryError):
        restorer.restore(images, [HEAVY] * len(images))
    assert restorer.out_of_memory == 0


def test_where_memory_does_not_even_suffice_for_the_smallest_tile_it_says_so(
    weights: Path, rainy: Tensor
) -> None:
    restorer = build(weights)
    Memory(restorer, 100, WANT[0])
    with pytest.raises(torch.OutOfMemoryError):
        restorer.restore([rainy[:, :250, :370]], [HEAVY])


def test_a_device_that_computes_is_healthy(shipped: Restorer) -> None:
    assert shipped.healthy()
