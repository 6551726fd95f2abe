"""Whoever runs the network elsewhere (another runtime, another device) needs a graph that takes any size."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor
from torch.export import Dim

from model.config import PRESETS, InteractionConfig, NetworkConfig, RestorationConfig
from model.network import TVIDerain

SMALL_TRANSFORMER = replace(
    PRESETS["paper"],
    restoration=RestorationConfig(
        block="transformer",
        stem_stride=1,
        widths=(8, 16),
        encoder_blocks=(1, 1),
        decoder_widths=(16,),
        decoder_blocks=(1,),
        heads=(1, 2),
        expansion=2.66,
    ),
    interaction=InteractionConfig(strides=(2,), heads=(2,)),
)
"""Every layer of the paper's preset, few and narrow: exporting the whole takes minutes."""


def inputs(
    config: NetworkConfig, batch: int, size: tuple[int, int], count: int
) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(count)
    mask = torch.ones(batch, count, dtype=torch.bool)
    mask[-1, count // 2 + 1 :] = False
    tokens = torch.randn(batch, count, config.text.width, generator=generator)
    return torch.rand(batch, 3, *size, generator=generator), tokens, mask


@pytest.mark.parametrize("config", [PRESETS["s"], SMALL_TRANSFORMER], ids=["s", "transformer"])
@pytest.mark.filterwarnings("ignore")
def test_exported_network_takes_any_batch_size_and_text(config: NetworkConfig, tmp_path: Path):
    torch.manual_seed(0)
    network = TVIDerain(config).eval()
    network.fold()
    program = torch.onnx.export(
        network,
        inputs(config, 2, (40, 56), 9),
        input_names=["rainy", "tokens", "mask"],
        output_names=["restored"],
        dynamic_shapes=(
            {0: Dim.DYNAMIC, 2: Dim.DYNAMIC, 3: Dim.DYNAMIC},
            {0: Dim.DYNAMIC, 1: Dim.DYNAMIC},
            {0: Dim.DYNAMIC, 1: Dim.DYNAMIC},
        ),
        dynamo=True,
        verbose=False,
    )
    assert program is not None
    path = tmp_path / "network.onnx"
    program.save(path)
    onnx.checker.check_model(path, full_check=True)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for batch, size, count in ((1, (40, 56), 9), (1, (1, 1), 1), (3, (7, 13), 4), (2, (65, 24), 24)):
        rainy, tokens, mask = inputs(config, batch, size, count)
        (restored,) = session.run(
            None, {"rainy": rainy.numpy(), "tokens": tokens.numpy(), "mask": mask.numpy()}
        )
        with torch.no_grad():
            expected = network(rainy, tokens, mask).numpy()
        np.testing.assert_allclose(np.asarray(restored), expected, atol=1e-5)
