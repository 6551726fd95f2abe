"""Text that is not attended to is text that changes nothing: the user's prompt would be ignored."""

from typing import cast

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.config import PRESETS
from model.interaction import CAFI
from model.network import TVIDerain
from model.prompts import Prompt
from model.restorer import Restorer


def tokens_of(count: int, width: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(1, count, width, generator=generator), torch.ones(1, count, dtype=torch.bool)


def picture(height: int, width: int, seed: int = 0) -> Tensor:
    return torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(seed))


def cafis(network: TVIDerain) -> list[CAFI]:
    return [cast(CAFI, module) for module in network.interaction.values()]


def attention_maps(network: TVIDerain, rainy: Tensor, tokens: Tensor, mask: Tensor) -> list[Tensor]:
    """The attention (B, heads, T, H, W) of every level while the network restores."""
    maps: list[Tensor] = []

    def look(module: nn.Module, given: tuple[Tensor, Tensor, Tensor]) -> None:
        maps.append(cast(CAFI, module).attention(*given))

    hooks = [cafi.register_forward_pre_hook(look) for cafi in cafis(network)]
    with torch.no_grad():
        network.restore_once(rainy, tokens, mask)
    for hook in hooks:
        hook.remove()
    return maps


def build_cafi(width: int = 16, text_width: int = 12, heads: int = 4) -> CAFI:
    torch.manual_seed(0)
    return CAFI(width=width, text_width=text_width, heads=heads, norm=nn.Identity(), block=nn.Identity())


def test_three_levels_interact_with_the_text(preset: TVIDerain):
    assert len(cafis(preset)) == 3


def test_attention_varies_over_tokens_and_over_pixels(preset: TVIDerain):
    tokens, mask = tokens_of(7, preset.config.text.width)
    maps = attention_maps(preset.eval(), picture(32, 48), tokens, mask)
    assert len(maps) == 3
    for attention in maps:
        torch.testing.assert_close(attention.sum(2), torch.ones_like(attention.sum(2)))
        assert attention.std(dim=2).mean() > 1e-3, "the same weight on every token"
        assert attention.flatten(3).std(dim=3).mean() > 1e-4, "the same attention at every pixel"


def test_trained_attention_varies_over_tokens_and_over_pixels(shipped: Restorer, rainy: Tensor):
    features = shipped.encode([Prompt(degradation="a photo with heavy rain streaks slanting to the right")])
    image = rainy[None, :, :96, :96].float() / 255
    for attention in attention_maps(shipped.network, image, features.tokens, features.mask):
        assert attention.std(dim=2).mean() > 0.01, "the same weight on every token"
        assert attention.flatten(3).std(dim=3).mean() > 0.001, "the same attention at every pixel"


def test_queries_and_keys_learn(preset: TVIDerain):
    tokens, mask = tokens_of(5, preset.config.text.width)
    rainy = picture(32, 40)
    (preset(rainy, tokens, mask) - picture(32, 40, seed=1)).abs().mean().backward()
    for cafi in cafis(preset):
        for name, layer in (("query", cafi.query), ("key", cafi.key), ("value", cafi.value)):
            gradient = layer.weight.grad
            assert gradient is not None
            per_head = gradient.unflatten(0, (cafi.heads, -1)).flatten(1).norm(dim=1)
            assert per_head.min() > 0, f"a head whose {name} gets no gradient"


def test_folding_equals_textbook_attention():
    cafi = build_cafi()
    tokens, _ = tokens_of(6, 12)
    mask = torch.tensor([[True, True, False, True, True, False]])
    x = torch.randn(1, 16, 5, 7, generator=torch.Generator().manual_seed(1))

    def heads(features: Tensor) -> Tensor:
        return features.unflatten(-1, (4, 4)).transpose(1, 2)

    pixels = x.flatten(2).transpose(1, 2)
    q, k, v = heads(cafi.query(pixels)), heads(cafi.key(tokens)), heads(cafi.value(tokens))
    read = F.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None, None, :])
    read = cafi.out(read.transpose(1, 2).flatten(2)).transpose(1, 2).unflatten(2, (5, 7))
    expected = x + cafi.fuse(torch.cat((x, read), dim=1))
    torch.testing.assert_close(cafi(x, tokens, mask), expected, atol=1e-5, rtol=1e-5)


def test_padded_tokens_change_nothing(preset: TVIDerain):
    preset.eval()
    tokens, mask = tokens_of(4, preset.config.text.width)
    garbage, _ = tokens_of(3, preset.config.text.width, seed=9)
    longer = torch.cat((tokens, garbage * 100), dim=1)
    padded = torch.cat((mask, torch.zeros(1, 3, dtype=torch.bool)), dim=1)
    rainy = picture(24, 24)
    with torch.no_grad():
        torch.testing.assert_close(
            preset(rainy, longer, padded), preset(rainy, tokens, mask), atol=1e-6, rtol=0
        )


def test_another_text_gives_another_picture(preset: TVIDerain):
    preset.eval()
    rainy = picture(24, 24)
    with torch.no_grad():
        one, other = (preset(rainy, *tokens_of(4, preset.config.text.width, seed=seed)) for seed in (0, 1))
    assert (one - other).abs().max() > 1e-5


def test_each_image_of_a_batch_reads_its_own_text():
    torch.manual_seed(0)
    network = TVIDerain(PRESETS["s"]).eval()
    rainy = torch.cat([picture(24, 32, seed) for seed in range(3)])
    single = [tokens_of(count, 128, seed=count) for count in (2, 5, 3)]
    tokens, mask = torch.zeros(3, 5, 128), torch.zeros(3, 5, dtype=torch.bool)
    for i, (own, _) in enumerate(single):
        tokens[i, : own.shape[1]] = own
        mask[i, : own.shape[1]] = True
    with torch.no_grad():
        together = network(rainy, tokens, mask)
        for i, (own, own_mask) in enumerate(single):
            alone = network(rainy[i : i + 1], own, own_mask)
            torch.testing.assert_close(together[i : i + 1], alone, atol=1e-5, rtol=0)


def test_heads_must_divide_the_width():
    with pytest.raises(ValueError, match="not divisible by 3 heads"):
        build_cafi(width=16, heads=3)
