"""Restorer: the one front door of `model`: images and prompts in, restored images of the same kind out."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from model.checkpoint_folders import NETWORK, CheckpointError, read_config
from model.depth import LEVELS, to_uint8
from model.lanes import Item, Lanes, Value, even_parts
from model.network import TVIDerain
from model.perception import Perceived, Perception
from model.prompts import Prompt
from model.text import TextFeatures, pad_features
from model.tiles import Tiling, continued, pixels, restore_by_tiles
from model.weights import load_clip, load_network, parameter_count

CPU_WINDOW = 720
"""Side of a tile and its halo in pixels on a CPU: a larger one would spend less on halos, but its largest
activations (64 channels of float32 over a quarter of 720x720) would be more than `memory.LARGEST_KEPT`."""

MOST_AT_ONCE = 4 * CPU_WINDOW**2
"""Pixels that a CPU of many cores computes at once at most, which bounds the memory of activations."""

LENGTH_STEP = 8
"""Token features are padded to a multiple of so many: in bfloat16 a CPU compiles code for every length and
size that it meets, and keeps it (10 MB for a length at 256x256)."""

TILE = 1024
"""Side of a tile in pixels, its halo not counted, on a GPU, and for networks with a statistic over the image,
where a tile is not as the whole."""

UNBOUNDED_HALO = 64
"""Pixels of context around a tile of a network whose receptive field is the whole image."""


@dataclass(frozen=True, slots=True)
class CacheInfo:
    """Text cache statistics, as `functools` reports them."""

    hits: int
    misses: int
    currsize: int


class NonFiniteError(RuntimeError):
    """The network's output holds NaN or infinity, in float32 as well."""


MIN_TILE = 64
"""Side of the smallest tile in pixels, its halo not counted, that is tried where memory does not suffice."""


class AbandonedError(RuntimeError):
    """Nobody waits for the images any more, so their restoration was given up."""


class Restorer:
    """A loaded network on its device, with padding, tiling, precision and a cache of encoded prompts.

    To be used by any number of threads at a time. On a CPU, each restores on as many cores as
    `torch.get_num_threads()` says there, and computes parts of a batch, and tiles, side by side on them.

    Attributes:
        out_of_memory: images and tiles so far that did not fit into memory and were cut into smaller tiles.
    """

    def __init__(
        self,
        network: TVIDerain,
        perception: Perception | None,
        *,
        name: str,
        device: torch.device,
        precision: torch.dtype,
        tile: int | None = None,
        cached_prompts: int = 1024,
    ) -> None:
        if network.text is None:
            raise ValueError("a restorer needs a network with its text encoder")
        self.name = name
        self.device = device
        self.precision = precision
        self.parameters = parameter_count(network)
        self.multiple = network.multiple
        self.tiling = default_tiling(network, device)
        if tile is not None:
            self.tiling = replace(self.tiling, side=tile)
        network.fold()
        network.eval().to(device)
        cast(Any, network).to(memory_format=torch.channels_last)
        self.network = network
        self.text = network.text
        self.perception = perception
        self._prompts: OrderedDict[Prompt, Tensor] = OrderedDict()
        self._cached_prompts = cached_prompts
        self._hits = self._misses = 0
        self.out_of_memory = 0
        self._lock = threading.Lock()
        self._lanes = Lanes(torch.get_num_threads()) if device.type == "cpu" else None

    @classmethod
    def from_checkpoint(cls, folder: Path, *, device: str = "auto", precision: str = "auto") -> Restorer:
        """Loads `folder` and the compact CLIP beside it.

        Args:
            folder: a restoration checkpoint, for example `weights/tvi-derain-s`.
            device: `auto` (a GPU where there is one), `cpu`, `cuda` or `cuda:N`.
            precision: `float32`, `bfloat16`, `float16`, or `auto`: bfloat16 on a GPU and on CPUs that
                compute in it, float32 elsewhere.

        Raises:
            CheckpointError: missing, damaged or not of the expected format.
            ValueError: a precision that is not known.
            RuntimeError: a device that is not there.
        """
        config = read_config(folder, NETWORK)
        network = load_network(folder, config)
        where = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
        if where.type == "cuda" and not torch.cuda.is_available():
            raise RuntimeError("PyTorch finds no GPU")  # without CUDA built in it would fail an assertion
        dtype = choose_precision(precision, where)
        perceiver = config.get("perception", network.config.text.clip)
        try:
            perception = Perception(load_clip(folder.parent / perceiver), where, dtype)
        except CheckpointError as error:
            if config.get("perception") is not None or network.config.text.pretrained is None:
                raise
            raise CheckpointError(f"{folder} names no compact CLIP to perceive with: {error}") from error
        return cls(network, perception, name=folder.name, device=where, precision=dtype)

    def padded_size(self, height: int, width: int) -> tuple[int, int]:
        """The size that an image is computed at: the next multiples of the network's own."""
        return self.tiling.padded(height), self.tiling.padded(width)

    def restore(
        self,
        images: Sequence[Tensor],
        prompts: Sequence[Prompt],
        *,
        in_place: bool = False,
        cancelled: Callable[[], bool] | None = None,
    ) -> list[Tensor]:
        """Restores images of one padded size.

        Images up to a tile with its halo are computed together, larger ones one after the other and tile by
        tile: memory is bounded by the tile, or by the batch of small images. Where it does not suffice for a
        single image or tile, that is cut into smaller ones.

        Args:
            images: uint8 or uint16 (3, H, W) on the CPU, full scale, all with the same `padded_size`, in any
                memory layout.
            prompts: one per image.
            in_place: write the results over the images. After an error they may be partly restored.
            cancelled: asked before the batch or each part of it, and between tiles, whether to give up; on a
                CPU by several threads.

        Returns:
            Images in the order given, each of its input's size and type and laid out in memory as that; the
            images themselves if `in_place`.

        Raises:
            ValueError: no image, mixed padded sizes, samples of another type, or a prompt missing.
            NonFiniteError: the network's output was not finite, even in float32.
            torch.OutOfMemoryError: memory does not suffice for all images together, or for the smallest tile.
            AbandonedError: `cancelled` said so.
        """
        if not images or len(images) != len(prompts):
            raise ValueError("give one prompt for each of at least one image")
        sizes = {self.padded_size(*image.shape[-2:]) for image in images}
        if len(sizes) > 1:
            raise ValueError(f"images of one batch must have one padded size, not {sorted(sizes)}")
        kinds = {image.dtype for image in images}
        if not kinds <= LEVELS.keys():
            raise ValueError(f"images are uint8 or uint16, not {', '.join(map(str, kinds - LEVELS.keys()))}")
        height, width = sizes.pop()

        def run(batch: Tensor, features: TextFeatures) -> Tensor:
            if cancelled is not None and cancelled():
                raise AbandonedError("nobody waits for these images any more")
            return self._run(batch, features)

        def run_within_memory(batch: Tensor, features: TextFeatures, tiling: Tiling) -> Tensor:
            try:
                return run(batch, features)
            except (RuntimeError, MemoryError) as error:
                smaller = tiling.halved()
                if not is_out_of_memory(error):
                    raise
                if len(batch) > 1 or smaller.side < MIN_TILE:
                    raise torch.OutOfMemoryError(str(error)) from None
            # outside of the handler, whose traceback holds what the network had computed
            with self._lock:
                self.out_of_memory += 1
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
            computed = torch.empty_like(batch)
            again = partial(run_within_memory, features=features, tiling=smaller)
            restore_by_tiles(batch[0], computed[0], again, smaller)
            return computed

        def features_of(part: slice) -> TextFeatures:
            return TextFeatures(features.tokens[part], features.mask[part])

        def restore_whole(part: slice) -> None:
            deepest = max((image.dtype for image in images[part]), key=LEVELS.__getitem__)
            batch = pixels(height, width, images=len(images[part]), dtype=deepest)
            for place, image in zip(batch, images[part], strict=True):
                continued(place, image)
            computed = run_within_memory(batch, features_of(part), self.tiling)
            for result, whole in zip(results[part], computed, strict=True):
                kept = whole[:, : result.shape[-2], : result.shape[-1]]
                result.copy_(to_uint8(kept) if result.dtype == torch.uint8 else kept)

        with torch.inference_mode():
            features = self.encode(prompts)
            results = list(images) if in_place else [torch.empty_like(image) for image in images]
            if self.tiling.fits(height, width):
                at_once = self._at_once(height, width)
                list(self._side_by_side(restore_whole, even_parts(len(images), at_once), at_once=at_once))
                return results
            tiles_side_by_side = partial(self._side_by_side, at_once=MOST_AT_ONCE // CPU_WINDOW**2)
            for i, image in enumerate(images):
                whole = partial(run_within_memory, features=features_of(slice(i, i + 1)), tiling=self.tiling)
                restore_by_tiles(image, results[i], whole, self.tiling, each=tiles_side_by_side)
            return results

    def _at_once(self, height: int, width: int) -> int:
        """How many parts of a batch of this padded size are computed side by side, as far as the calling
        thread's cores and memory go; 1 on a GPU, which computes a batch as one."""
        if self._lanes is None:
            return 1
        return max(1, min(torch.get_num_threads(), MOST_AT_ONCE // (height * width)))

    def _side_by_side(
        self, function: Callable[[Item], Value], items: Iterable[Item], *, at_once: int
    ) -> Iterable[Value]:
        return (
            map(function, items) if self._lanes is None else self._lanes.map(function, items, at_once=at_once)
        )

    def perceive(self, image: Tensor) -> Perceived:
        """What is wrong with a uint8 or uint16 image (3, H, W). Raises RuntimeError where no compact CLIP was
        loaded."""
        if self.perception is None:
            raise RuntimeError(f"{self.name} was loaded without a compact CLIP to perceive with")
        return self.perception(image)

    def healthy(self) -> bool:
        """Whether the device still computes. After some errors (of CUDA) nothing works until the process
        ends."""
        try:
            return torch.ones(8, device=self.device).sum().item() == 8
        except RuntimeError:
            return False

    def text_cache_info(self) -> CacheInfo:
        """Hits and misses of the cache of encoded prompts since loading."""
        with self._lock:
            return CacheInfo(self._hits, self._misses, len(self._prompts))

    def encode(self, prompts: Sequence[Prompt]) -> TextFeatures:
        """Token features of prompts, from the cache where they were seen before (least recently used go
        first).
        """
        with self._lock:
            found = {p: self._prompts[p] for p in prompts if p in self._prompts}
            for prompt in prompts:
                if prompt in found:
                    self._hits += 1
                    self._prompts.move_to_end(prompt)
                else:
                    self._misses += 1
        missing = [p for p in dict.fromkeys(prompts) if p not in found]
        if missing:
            features = self.text.encode(missing)
            for i, prompt in enumerate(missing):
                found[prompt] = features.tokens[i, features.mask[i]]
            with self._lock:
                for prompt in missing:
                    self._prompts[prompt] = found[prompt]
                while len(self._prompts) > self._cached_prompts:
                    self._prompts.popitem(last=False)
        return pad_features([found[p] for p in prompts], LENGTH_STEP)

    def _run(self, batch: Tensor, features: TextFeatures) -> Tensor:
        """(B, 3, H, W) -> the same type, once more in float32 if the result is not finite."""
        highest = LEVELS[batch.dtype]
        rainy = batch.to(self.device, non_blocking=True)
        rainy = rainy.to(torch.float32, memory_format=torch.channels_last).div_(highest)
        reduced = self.precision != torch.float32
        with torch.autocast(self.device.type, self.precision, enabled=reduced):
            restored = self.network.restore(rainy, features.tokens, features.mask)
        if not bool(torch.isfinite(restored).all()):
            if reduced:
                restored = self.network.restore(rainy, features.tokens, features.mask)
            if not bool(torch.isfinite(restored).all()):
                raise NonFiniteError("the network's output is not finite")
        return restored.float().mul_(highest).round_().clamp_(0, highest).to(batch.dtype).cpu()


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory did not suffice, on a GPU or on the host."""
    allocator = isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    return allocator or isinstance(error, (torch.OutOfMemoryError, MemoryError))


def default_tiling(network: TVIDerain, device: torch.device) -> Tiling:
    """Tiles that suit the device, with a halo as wide as the network sees."""
    radius = network.config.receptive_radius
    if radius is None:
        return Tiling(side=TILE, multiple=network.multiple, halo=UNBOUNDED_HALO)
    halo = radius + -radius % network.multiple
    side = max(CPU_WINDOW - 2 * halo, MIN_TILE) if device.type == "cpu" else TILE
    return Tiling(side=side, multiple=network.multiple, halo=halo)


def choose_precision(precision: str, device: torch.device) -> torch.dtype:
    """The dtype of a precision's name; `auto` is what the device computes fastest in. Raises ValueError."""
    known = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if precision in known:
        return known[precision]
    if precision != "auto":
        raise ValueError(f"unknown precision {precision!r}: choose auto, {', '.join(known)}")
    if device.type == "cuda":
        return torch.bfloat16
    return torch.bfloat16 if _computes_bfloat16() else torch.float32


def _computes_bfloat16() -> bool:
    """Whether this CPU has bfloat16 arithmetic (AVX512_BF16 or AMX); elsewhere it is emulated, several times
    slower.
    """
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
