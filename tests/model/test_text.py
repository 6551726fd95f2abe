"""The text tower must stay what it was pretrained to be; only its adapters and the projection may learn."""

from pathlib import Path
from typing import Any, cast

import open_clip
import pytest
import torch
from torch import Tensor, nn

from model.checkpoint_folders import CheckpointError
from model.config import TextConfig
from model.prompts import Prompt
from model.text import TaIlBlock, TextEncoder
from model.weights import build_text_encoder, load_clip

SENTENCE = "a photo with heavy rain streaks slanting to the left"
OTHER = "remove the rain only and keep the haze"


def blocks(encoder: TextEncoder) -> list[TaIlBlock]:
    return [block for block in encoder.blocks if isinstance(block, TaIlBlock)]


def tower_tokens(encoder: TextEncoder, ids: Tensor) -> Tensor:
    """What the projection is given: the tower's token features after its final norm."""
    seen: list[Tensor] = []
    hook = encoder.project.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    encoder(ids)
    hook.remove()
    return seen[0]


def wake(encoder: TextEncoder) -> None:
    """Gives the adapters something to say, as training does."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for block in blocks(encoder):
            for adapter in (block.after_attention, block.beside_mlp):
                for parameter in adapter.up.parameters():
                    parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)


def test_two_registered_adapters_in_every_block(encoder: TextEncoder):
    assert len(blocks(encoder)) == len(encoder.blocks) > 0
    named = dict(encoder.named_parameters())
    for i in range(len(encoder.blocks)):
        for place in ("after_attention", "beside_mlp"):
            for layer in ("norm", "down", "up"):
                assert named[f"blocks.{i}.{place}.{layer}.weight"].requires_grad


def test_adapters_share_no_weights(encoder: TextEncoder):
    pointers = [
        parameter.data_ptr()
        for block in blocks(encoder)
        for adapter in (block.after_attention, block.beside_mlp)
        for parameter in adapter.parameters()
    ]
    assert len(set(pointers)) == len(pointers)


def test_bottleneck_is_a_quarter_of_the_width(encoder: TextEncoder):
    width = encoder.token_embedding.embedding_dim
    for block in blocks(encoder):
        assert block.after_attention.down.weight.shape == (width // 4, width)
        assert block.beside_mlp.up.weight.shape == (width, width // 4)


def test_adapters_are_the_identity_at_the_start(encoder: TextEncoder):
    width = encoder.token_embedding.embedding_dim
    x = torch.randn(2, 9, width, generator=torch.Generator().manual_seed(0)).double()
    mask = torch.full((9, 9), float("-inf")).triu(1).double()
    for block in blocks(encoder.double()):
        torch.testing.assert_close(block(x, mask), block.block(x, attn_mask=mask))


@pytest.mark.parametrize("name", ["compact", "ViT-B-32", "ViT-B-32-quickgelu"])
def test_untrained_encoder_equals_open_clips_own(name: str, weights: Path):
    """The order of layers, the causal mask, the activation and the positions are the tower's."""
    torch.manual_seed(0)
    if name == "compact":
        clip = load_clip(weights / "degradation-clip")
        tower, tokenizer = clip.model, clip.tokenizer
    else:
        config = open_clip.get_model_config(name)
        assert config is not None
        config["text_cfg"] = {**config["text_cfg"], "layers": 2}
        config["vision_cfg"] = {**config["vision_cfg"], "layers": 1}
        tower, tokenizer = open_clip.CLIP(**config).eval(), open_clip.get_tokenizer(name)
    ids = tokenizer([SENTENCE, OTHER, "rain"])
    with torch.no_grad():
        expected = cast(Any, tower).encode_text(ids)
        ours = TextEncoder(tower, tokenizer, width=32, bottleneck=0.25)
        tokens = tower_tokens(ours, ids)
        pooled = tokens[torch.arange(3), ids.argmax(-1)] @ cast(Any, tower).text_projection
    torch.testing.assert_close(pooled, expected, atol=1e-5, rtol=1e-5)


def test_awake_adapters_change_the_features(encoder: TextEncoder):
    ids = encoder.tokenizer([SENTENCE])
    with torch.no_grad():
        before = encoder(ids).tokens
        for place in ("after_attention", "beside_mlp"):
            adapter = getattr(blocks(encoder)[0], place)
            nn.init.normal_(adapter.up.weight, std=0.1)
            after = encoder(ids).tokens
            assert (after - before).abs().max() > 1e-3, f"{place} has no effect"
            nn.init.zeros_(adapter.up.weight)


def test_only_adapters_projection_and_own_tokens_learn(encoder: TextEncoder):
    wake(encoder)
    prompts = [Prompt(degradation=SENTENCE, semantic="a street"), Prompt()]
    features = encoder.encode(prompts)
    (features.tokens.square() * features.mask[..., None]).sum().backward()
    learned = ("after_attention.", "beside_mlp.", "project.")
    for name, parameter in encoder.named_parameters():
        if name in ("null", "semantic") or any(part in name for part in learned):
            assert parameter.requires_grad, f"{name} cannot learn"
            if name != "null":  # at zero, its square has no slope
                assert parameter.grad is not None, f"{name} gets no gradient"
                assert parameter.grad.abs().max() > 0, f"{name} gets no gradient"
        else:
            assert not parameter.requires_grad, f"{name} of the frozen tower may learn"
            assert parameter.grad is None, f"{name} of the frozen tower gets a gradient"


def test_null_token_learns(encoder: TextEncoder):
    encoder.encode([Prompt()]).tokens.sum().backward()
    assert encoder.null.grad is not None
    assert encoder.null.grad.abs().min() > 0


def test_causal_mask_is_kept(encoder: TextEncoder):
    wake(encoder)
    ids = encoder.tokenizer([SENTENCE])
    end = int(ids.argmax(-1))
    changed = ids.clone()
    changed[0, end - 1] = ids[0, 1]
    with torch.no_grad():
        before, after = encoder(ids).tokens, encoder(changed).tokens
    torch.testing.assert_close(after[:, : end - 1], before[:, : end - 1], atol=1e-6, rtol=0)
    assert (after[:, end - 1 :] - before[:, end - 1 :]).abs().amin(1).max() > 1e-3


@pytest.mark.parametrize("blank", [None, "", "  \n"])
def test_no_prompt_is_the_null_token_alone(encoder: TextEncoder, blank: str | None):
    nn.init.normal_(encoder.null)
    features = encoder.encode([Prompt(degradation=blank, semantic=blank)])
    assert features.mask.tolist() == [[True]]
    assert torch.equal(features.tokens[0, 0], encoder.null)


def test_every_prompt_starts_with_the_null_token(encoder: TextEncoder):
    nn.init.normal_(encoder.null)
    features = encoder.encode([Prompt(degradation=SENTENCE)])
    assert torch.equal(features.tokens[0, 0], encoder.null)
    assert int(features.mask.sum()) == 1 + int(encoder.tokenizer([SENTENCE]).argmax()) + 1


@pytest.mark.parametrize("semantic", [None, "a street"])
def test_what_is_too_long_keeps_its_beginning_and_its_end(encoder: TextEncoder, semantic: str | None):
    limit = encoder.positional_embedding.shape[0]
    long = " ".join(["rain", "mist"] * limit)
    with torch.no_grad():
        features = encoder.encode([Prompt(degradation=long, semantic=semantic)])
        own = encoder(encoder.tokenizer([long])).tokens[0]
    assert features.tokens.shape[1] == limit
    assert torch.equal(features.tokens[0, 1:-1], own[: limit - 2])
    assert torch.equal(features.tokens[0, -1], own[-1])


def test_neighbours_in_a_batch_do_not_matter(encoder: TextEncoder):
    wake(encoder)
    with torch.no_grad():
        together = encoder.encode([Prompt(degradation="rain"), Prompt(), Prompt(degradation=SENTENCE)])
        for i, prompt in enumerate([Prompt(degradation="rain"), Prompt(), Prompt(degradation=SENTENCE)]):
            alone = encoder.encode([prompt])
            own = together.tokens[i][together.mask[i]]
            torch.testing.assert_close(own, alone.tokens[0], atol=1e-5, rtol=0)


def test_semantic_prompt_is_told_from_degradation(encoder: TextEncoder):
    nn.init.normal_(encoder.semantic)
    with torch.no_grad():
        as_degradation = encoder.encode([Prompt(degradation="rain")]).tokens[0, 1:]
        as_semantic = encoder.encode([Prompt(semantic="rain")]).tokens[0, 1:]
        both = encoder.encode([Prompt(degradation="rain", semantic="rain")]).tokens[0, 1:]
    torch.testing.assert_close(as_semantic, as_degradation + encoder.semantic, atol=1e-5, rtol=0)
    torch.testing.assert_close(both, torch.cat((as_degradation, as_semantic)), atol=1e-5, rtol=0)


def test_long_unknown_and_foreign_words_are_harmless(encoder: TextEncoder):
    texts = ["rain " * 500, "zxqv 12345 !?", "убери дождь 雨を消して 🌧️", "<b>&nbsp;</b>", "\x00"]
    with torch.no_grad():
        features = encoder.encode([Prompt(degradation=text) for text in texts])
    assert torch.isfinite(features.tokens).all()
    assert features.tokens.shape[1] <= 1 + encoder.positional_embedding.shape[0]


def test_checkpoint_leaves_the_frozen_tower_out(encoder: TextEncoder):
    learned = {name for name, parameter in encoder.named_parameters() if parameter.requires_grad}
    assert set(encoder.learned_state()) == learned


def test_an_unknown_tower_is_refused(weights: Path):
    with pytest.raises(
        CheckpointError, match=r"'nonsense' is neither a folder under .* nor an open_clip model"
    ):
        build_text_encoder(TextConfig(clip="nonsense"), weights)
