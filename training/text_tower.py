"""The compact CLIP's text tower learns, from sentences alone, what they ask for; its image tower stays.

CLIP knows English. The compact one has seen nothing but descriptions of degradations, and no adapter makes a
tower that does not tell "keep the rain" from "remove the rain" into one that does. Perception loses nothing:
the sentences that it compares pictures with keep their embeddings.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from model.checkpoint_folders import CLIP
from model.perception import DEGRADATIONS
from model.prompts import DENSITIES, DIRECTIONS
from model.spelling import WORDS
from model.weights import VOCABULARY, CompactCLIP, compact_clip, load_clip, write_checkpoint
from training.descriptions import Attributes, canonical
from training.sentences import MEANINGS, Saying, SentenceRun, batches
from training.train import copy_into, descend, join_peers
from training.vocabulary import write_vocabulary, write_words

DETAIL, KEPT = 0.15, 2.0
"""Weights of telling density and direction, and of the embeddings that are to stay, beside the meaning."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TowerConfig(SentenceRun):
    """A run of the text tower."""

    steps: int = 1000
    batch: int = 128
    learning_rate: float = 8e-4
    warmup_steps: int = 60
    ema: float = 0.995
    weight_decay: float = 0.02
    merges: int | None = None
    """How many a new vocabulary is to have; None keeps the tower's own."""


class SentenceClassifier(nn.Module):
    """A classifier of sentences, of their end-of-text token: meaning, density, direction (0: not said)."""

    def __init__(self, clip: nn.Module) -> None:
        super().__init__()
        self.clip = cast(Any, clip)
        width = self.clip.token_embedding.embedding_dim
        self.sizes = (len(MEANINGS), len(DENSITIES) + 1, len(DIRECTIONS) + 1)
        self.head = nn.Linear(width, sum(self.sizes))

    def end_of_text(self, ids: Tensor) -> Tensor:
        """The end-of-text token after the last norm: ids (B, L) -> (B, W)."""
        clip, last = self.clip, ids.argmax(-1)
        length = int(last.max()) + 1
        x = clip.token_embedding(ids[:, :length]) + clip.positional_embedding[:length]
        x = clip.ln_final(clip.transformer(x, attn_mask=clip.attn_mask[:length, :length]))
        return x[torch.arange(len(ids)), last]

    def forward(self, ids: Tensor) -> tuple[Tensor, ...]:
        return self.head(self.end_of_text(ids)).float().split(self.sizes, dim=-1)


def truth(sayings: list[Saying]) -> tuple[Tensor, Tensor, Tensor]:
    """Places of meaning, density and direction, (B,) each; -100 for the latter two where no rain is
    described."""

    def place(values: tuple[str, ...], value: str | None) -> int:
        return 0 if value is None else values.index(value) + 1

    meanings = [MEANINGS.index(one.meaning) for one in sayings]
    details: list[tuple[int, int]] = []
    for one in sayings:
        named = one.asked.described
        rainy = named is not None and named.kind in ("rain", "rain and haze")
        details.append(
            (place(DENSITIES, named.density), place(DIRECTIONS, named.direction))
            if named is not None and rainy
            else (-100, -100)
        )
    density, direction = torch.tensor(details).unbind(1)
    return torch.tensor(meanings), density, direction


def train_text_tower(config: TowerConfig, source: Path, folder: Path) -> Path:
    """Trains the text tower of the compact CLIP in `source` on and writes all of it to `folder`.

    Networks that were trained with the former tower do not fit the new one; `training.distill` makes them.

    Args:
        config: the run.
        source: the folder of a compact CLIP.
        folder: where to write the new one; it may be `source`.

    Returns:
        `folder`.

    Raises:
        CheckpointError: `source` is missing or damaged.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    rank, world = join_peers(device)
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    clip = load_clip(source)
    canonicals = [canonical(Attributes(*degradation)) for degradation in DEGRADATIONS]
    with torch.no_grad():
        kept = cast(Any, clip.model).encode_text(clip.tokenizer(canonicals), normalize=True).to(device)
    with TemporaryDirectory() as temporary:
        vocabulary, words = Path(temporary) / VOCABULARY, Path(temporary) / WORDS
        write_words(words)
        if config.merges is None:
            shutil.copy(source / VOCABULARY, vocabulary)
            size = clip.settings["open_clip"]["text_cfg"]["vocab_size"]
        else:
            size = write_vocabulary(vocabulary, config.merges)
        clip = with_vocabulary(clip, Path(temporary), size)
        language = {path.name: path.read_bytes() for path in (vocabulary, words)}
    model = cast(Any, clip.model).to(device)
    ids = clip.tokenizer(canonicals).to(device)
    classifier = SentenceClassifier(model.train()).to(device)
    for parameter in (*model.visual.parameters(), model.logit_scale):
        parameter.requires_grad_(False)
    learned: list[Tensor] = [p for p in classifier.parameters() if p.requires_grad]
    decayed, plain = [p for p in learned if p.ndim > 1], [p for p in learned if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": config.weight_decay}, {"params": plain, "weight_decay": 0.0}],
        betas=(0.9, 0.98),
        fused=True,
    )
    average = [p.detach().clone() for p in learned]
    drawn = batches(clip.tokenizer, config.batch, seed=config.seed, rank=rank)
    right = 0.0
    bar = tqdm(range(config.steps), unit="step", mininterval=10, disable=rank > 0)
    for step in bar:
        for group in optimizer.param_groups:
            group["lr"] = config.rate(step)
        sayings = next(drawn)
        meaning, density, direction = (one.to(device) for one in truth(sayings))
        with torch.autocast(device.type, torch.bfloat16, enabled=config.bfloat16):
            meant, dense, directed = classifier(clip.tokenizer([one.text for one in sayings]).to(device))
            embedded = F.normalize((classifier.end_of_text(ids) @ model.text_projection).float(), dim=-1)
        loss = F.cross_entropy(meant, meaning) + KEPT * (embedded - kept).square().sum(1).mean()
        if (density >= 0).any():
            loss = loss + DETAIL * (F.cross_entropy(dense, density) + F.cross_entropy(directed, direction))
        descend(loss, optimizer, learned, average, world=world, ema=config.ema, step=step)
        right += 0.02 * ((meant.argmax(-1) == meaning).float().mean().item() - right)
        if step % 50 == 49:
            bar.set_postfix(loss=f"{loss.item():.3f}", right=f"{right:.1%}")
    copy_into(learned, average)
    model.eval()
    with torch.no_grad():
        restore_embeddings(model.text_projection, classifier.eval().end_of_text(ids), kept)
    if rank == 0:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in language.items():
            (folder / name).write_bytes(content)
        settings = {k: v for k, v in clip.settings.items() if k not in ("format", "kind", "sha256")}
        write_checkpoint(folder, CLIP, model.state_dict(), settings)
    return folder


@torch.no_grad()
def with_vocabulary(clip: CompactCLIP, folder: Path, size: int) -> CompactCLIP:
    """A compact CLIP with the vocabulary of `size` tokens in `folder`: those that it did not have get the
    mean of their two parts' embeddings."""
    architecture = clip.settings["open_clip"]
    text = architecture["text_cfg"] | {"vocab_size": size}
    changed = compact_clip(folder, clip.settings | {"open_clip": architecture | {"text_cfg": text}})
    state = cast(Any, clip.model).state_dict()
    places = cast(Any, clip.tokenizer).encoder
    embeddings = {token: state["token_embedding.weight"][place] for token, place in places.items()}
    tokenizer = cast(Any, changed.tokenizer)
    for first, second in tokenizer.bpe_ranks:
        embeddings.setdefault(first + second, (embeddings[first] + embeddings[second]) / 2)
    weight = torch.stack([embeddings[token] for token in tokenizer.encoder])
    cast(Any, changed.model).load_state_dict(state | {"token_embedding.weight": weight})
    return changed


def restore_embeddings(projection: Tensor, ends: Tensor, embeddings: Tensor) -> None:
    """Changes the projection (W, D), in place and as little as can be, so that the tokens `ends` (N, W), not
    more than W, have exactly these embeddings (N, D), of length 1."""
    lengths = (ends @ projection).norm(dim=-1, keepdim=True)
    wrong = (embeddings * lengths - ends @ projection).double()
    projection += (torch.linalg.pinv(ends.double()) @ wrong).to(projection.dtype)
