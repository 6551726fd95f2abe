"""The text encoder E: a frozen open_clip text tower tuned by textual-aware intra-layer (TaIl) adapters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.prompts import Prompt

Tokenizer = Callable[[list[str]], Tensor]
"""Sentences -> ids (B, L), the end-of-text id being the largest, zeros after it (open_clip's tokenizers)."""


@dataclass(frozen=True, slots=True)
class TextFeatures:
    """Token features (B, T, D) and a mask (B, T), true where a token is."""

    tokens: Tensor
    mask: Tensor


class TaIlAdapter(nn.Module):
    """A textual-aware intra-layer adapter's change: up(act(down(norm(x)))), (B, L, W) -> (B, L, W), zero at
    first.
    """

    def __init__(self, width: int, bottleneck: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.down = nn.Linear(width, bottleneck)
        self.up = nn.Linear(bottleneck, width)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.up(F.gelu(self.down(self.norm(x))))


class TaIlBlock(nn.Module):
    """A frozen block of the text tower with two adapters: one after its attention, one parallel to its
    MLP.
    """

    def __init__(self, block: nn.Module, width: int, bottleneck: int) -> None:
        super().__init__()
        self.block = block
        self.after_attention = TaIlAdapter(width, bottleneck)
        self.beside_mlp = TaIlAdapter(width, bottleneck)

    def forward(self, x: Tensor, attn_mask: Tensor | None) -> Tensor:
        block = cast(Any, self.block)  # open_clip's ResidualAttentionBlock
        attended = attend(block.attn, block.ln_1(x), attn_mask)
        x = x + block.ls_1(attended + self.after_attention(attended))
        return x + block.ls_2(block.mlp(block.ln_2(x))) + self.beside_mlp(x)


def attend(attention: nn.MultiheadAttention, x: Tensor, attn_mask: Tensor | None) -> Tensor:
    """Self-attention by `attention`'s weights, (B, L, W) -> (B, L, W), as in evaluation mode.

    The module itself multiplies its transposed input as L products with copies of the frozen weights, which
    takes a sixth of a training step.
    """
    batch, length, width = x.shape
    qkv = F.linear(x.reshape(-1, width), cast(Tensor, attention.in_proj_weight), attention.in_proj_bias)
    heads = cast(int, attention.num_heads)
    q, k, v = qkv.view(batch, length, 3, heads, -1).permute(2, 0, 3, 1, 4)
    mask = None if attn_mask is None else attn_mask.to(q.dtype)
    read = F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).reshape(-1, width)
    return attention.out_proj(read).view(batch, length, width)


class TextEncoder(nn.Module):
    """E: prompts -> token features (B, T, D). Only the adapters, the projection and the own tokens learn.

    The tower keeps its causal mask and its activation. Token features are taken after the tower's final norm
    and projected to D channels. Each prompt starts with the learned null token, which alone stands for "no
    prompt"; a learned offset marks the tokens of the semantic prompt.
    """

    def __init__(self, tower: nn.Module, tokenizer: Tokenizer, *, width: int, bottleneck: float) -> None:
        """
        Args:
            tower: open_clip's CLIP or its text tower: token_embedding, positional_embedding, transformer,
            ln_final. tokenizer: the tower's own.
            width: channels D of the token features.
            bottleneck: adapter width over tower width.
        """
        super().__init__()
        source = cast(Any, tower)
        self.tokenizer = tokenizer
        self.token_embedding: nn.Embedding = source.token_embedding
        self.positional_embedding: nn.Parameter = source.positional_embedding
        self.ln_final: nn.Module = source.ln_final
        self.register_buffer("causal_mask", source.attn_mask, persistent=False)
        tower_width = self.token_embedding.embedding_dim
        resblocks = cast(Sequence[nn.Module], source.transformer.resblocks)
        for parameter in self.frozen_parameters(resblocks):
            parameter.requires_grad_(False)
        self.blocks = nn.ModuleList(
            TaIlBlock(block, tower_width, int(tower_width * bottleneck)) for block in resblocks
        )
        self.project = nn.Linear(tower_width, width)
        self.null = nn.Parameter(torch.zeros(width))
        self.semantic = nn.Parameter(torch.zeros(width))

    def frozen_parameters(self, resblocks: Sequence[nn.Module]) -> list[nn.Parameter]:
        """The tower's own parameters, which never learn."""
        modules: list[nn.Module] = [self.token_embedding, self.ln_final, *resblocks]
        return [self.positional_embedding, *(p for module in modules for p in module.parameters())]

    def learned_state(self) -> dict[str, Tensor]:
        """The state that this encoder adds to its frozen tower: adapters, projection, null and semantic
        token.
        """
        frozen = ("token_embedding.", "positional_embedding", "ln_final.")
        state = self.state_dict()
        return {k: v for k, v in state.items() if not k.startswith(frozen) and ".block." not in k}

    def forward(self, ids: Tensor) -> TextFeatures:
        """ids (B, L) -> features (B, L, D) with a mask up to and including the end-of-text token."""
        length = int(ids.argmax(dim=-1).max()) + 1
        ids = ids[:, :length]
        x = self.token_embedding(ids) + self.positional_embedding[:length]
        causal_mask = cast(Tensor | None, self.causal_mask)
        if causal_mask is not None:
            causal_mask = causal_mask[:length, :length]
        for block in self.blocks:
            x = block(x, causal_mask)
        positions = torch.arange(length, device=ids.device)
        return TextFeatures(self.project(self.ln_final(x)), positions <= ids.argmax(dim=-1, keepdim=True))

    def encode(self, prompts: Sequence[Prompt]) -> TextFeatures:
        """Prompts -> token features (B, T, D): null token, degradation tokens, semantic tokens, padding.

        T is at most the tower's context length (24 with the compact CLIP). Of what is longer the
        beginning counts, each sentence by its first tokens and its end-of-text token; a caption has the room
        that the degradation prompt leaves.
        """
        device = self.null.device
        sentences = [(p.degradation or "").strip() for p in prompts] + [
            (p.semantic or "").strip() for p in prompts
        ]
        spoken = sorted({sentence for sentence in sentences if sentence})
        rows: dict[str, Tensor] = {}
        if spoken:
            features = self(self.tokenizer(spoken).to(device))
            rows = {s: features.tokens[i][features.mask[i]] for i, s in enumerate(spoken)}
        sequences: list[Tensor] = []
        for degradation, semantic in zip(sentences[: len(prompts)], sentences[len(prompts) :], strict=True):
            parts: list[Tensor] = []
            if degradation:
                parts.append(rows[degradation])
            if semantic:
                parts.append(rows[semantic] + self.semantic)
            sequence = self.null[None]
            for features in parts:
                room = self.positional_embedding.shape[0] - len(sequence)
                if room > 0:
                    sequence = torch.cat((sequence, features[:-1][: room - 1], features[-1:]))
            sequences.append(sequence)
        return pad_features(sequences)


class NoText(nn.Module):
    """The place of E in the twin without text: a single zero token, whatever is said."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("token", torch.zeros(1, 1, width), persistent=False)

    def learned_state(self) -> dict[str, Tensor]:
        """Nothing is learned."""
        return {}

    def encode(self, prompts: Sequence[Prompt]) -> TextFeatures:
        """Prompts -> (B, 1, D) zeros."""
        tokens = cast(Tensor, self.token).expand(len(prompts), -1, -1)
        return TextFeatures(tokens, tokens.new_ones(tokens.shape[:2], dtype=torch.bool))


def pad_features(sequences: Sequence[Tensor], multiple: int = 1) -> TextFeatures:
    """Token features (T_i, D) of single prompts, zero-padded to one batch, of a length that is a multiple of
    this.
    """
    lengths = torch.tensor([len(s) for s in sequences], device=sequences[0].device)
    tokens = nn.utils.rnn.pad_sequence(list(sequences), batch_first=True)
    tokens = F.pad(tokens, (0, 0, 0, -tokens.shape[1] % multiple))
    return TextFeatures(tokens, torch.arange(tokens.shape[1], device=tokens.device) < lengths[:, None])
