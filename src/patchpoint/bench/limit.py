"""The least arithmetic an exact heatmap takes, and the rate at which this machine multiplies matrices."""

import time
from dataclasses import dataclass

import torch

from patchpoint.engine import Model

RATE_SIZE = 2048
RATE_SECONDS = 1.0


@dataclass(frozen=True)
class BlockCost:
    """Floating-point operations of one block: per token for each part, per query-key pair for attention."""

    q: int
    kv: int
    rest: int
    """Output projection and MLP."""
    pair: int


def block_cost(model: Model) -> BlockCost:
    """Costs of the model's first block, from the sizes of its weight matrices."""
    block = model.adapter.blocks[0]
    d_model, width, kv_width = (
        model.d_model,
        block.n_heads * block.d_head,
        2 * block.n_kv_heads * block.d_head,
    )
    matrices = sum(p.numel() for p in block.layer.parameters() if p.ndim == 2)
    q, kv = 2 * d_model * width, 2 * d_model * kv_width
    return BlockCost(q, kv, 2 * matrices - q - kv, 4 * width)


def heatmap_flops(model: Model, n_tokens: int, first: int, samples: int) -> int:
    """Least floating-point operations of the exact restore heatmap of the residual stream.

    Every (token, layer) from the `first` corrupted token on, for every sample: blocks above the layer, tokens
    from the restored one on; at the first such block only the restored token has new q, k, v; at the last only
    the final token goes on; one softmax row. What must equal a run already made (the last layer) costs nothing.
    The clean run and the corrupted ones are included.
    """
    cost, n_layers = block_cost(model), model.n_layers
    softmax_row = 2 * model.d_model * model.d_vocab
    sites = sum(
        sum(
            _block_flops(cost, n_tokens, token, layer + 1, above, n_layers)
            for above in range(layer + 1, n_layers)
        )
        + softmax_row
        for token in range(first, n_tokens)
        for layer in range(n_layers - 1)
    )
    whole = n_layers * _rows_flops(cost, n_tokens, 0) + softmax_row
    corrupted = n_layers * _rows_flops(cost, n_tokens, first) + softmax_row
    return samples * (sites + corrupted) + whole


def _rows_flops(cost: BlockCost, n_tokens: int, token: int) -> int:
    """One block for all tokens from `token` on."""
    pairs = sum(range(token + 1, n_tokens + 1))
    return (n_tokens - token) * (cost.q + cost.kv + cost.rest) + pairs * cost.pair


def _block_flops(cost: BlockCost, n_tokens: int, token: int, entry: int, layer: int, n_layers: int) -> int:
    """One block of a run whose state at `token` was exchanged before block `entry`."""
    width = n_tokens - token
    new = 1 if layer == entry else width
    if layer < n_layers - 1:
        pairs = sum(range(token + 1, n_tokens + 1))
        return new * (cost.q + cost.kv) + width * cost.rest + pairs * cost.pair
    final_is_new = layer > entry or width == 1
    return final_is_new * cost.q + new * cost.kv + cost.rest + n_tokens * cost.pair


def matmul_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Floating-point operations per second of large square matrix products, sustained for a second."""
    a, b = (torch.randn(RATE_SIZE, RATE_SIZE, device=device, dtype=dtype) for _ in range(2))
    out = torch.empty_like(a)
    torch.mm(a, b, out=out)
    products, spent = 0, 0.0
    while spent < RATE_SECONDS:
        spent += _seconds_of_product(a, b, out)
        products += 1
    return 2 * RATE_SIZE**3 * products / spent


def _seconds_of_product(a: torch.Tensor, b: torch.Tensor, out: torch.Tensor) -> float:
    synchronize(a.device)
    begun = time.perf_counter()
    torch.mm(a, b, out=out)
    synchronize(a.device)
    return time.perf_counter() - begun


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what was asked, so that a clock reading means something."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
