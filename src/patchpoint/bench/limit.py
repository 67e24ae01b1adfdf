"""The least arithmetic of exact results: heatmaps of causal tracing, and one node at a time."""

from collections.abc import Iterable, Sequence

from patchpoint.engine import Model
from patchpoint.engine.cost import BlockCost, block_cost
from patchpoint.engine.graph.nodes import Node

ANSWERS = 2
"""Logits that a logit difference reads."""


def heatmap_flops(model: Model, n_tokens: int, first: int, samples: int) -> int:
    """Least floating-point operations of the exact restore heatmap of the residual stream.

    Every (token, layer) from the `first` corrupted token on, for every sample: blocks above the layer, tokens
    from the restored one on; at the first such block only the restored token has new q, k, v; at the last only
    the final token goes on; one softmax row. What must equal a run already made (the last layer) costs nothing.
    The clean run and the corrupted ones are included.
    """
    cost, n_layers = block_cost(model, 0), model.n_layers
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


def nodes_flops(model: Model, nodes: Iterable[Node], n_tokens: int, first: int) -> int:
    """Least floating-point operations of exchanging each node's output, one at a time, in one prompt.

    The outputs differ at tokens `first` ... n_tokens - 1, of which there are `changed`. A node of layer k costs

    - in layer k, for each changed token (in the last layer: for the final one), what is behind its output: for a
      head its own share of the output projection, and the MLP where that reads the stream after attention; for
      an MLP nothing;
    - in each layer above, up to the last but one, all of the block for each changed token, attention over all
      tokens before it;
    - in the last layer keys and values of the changed tokens, everything else for the final token alone;
    - the answers' two logits.

    The clean run (all tokens) and the one that outputs are taken from (changed tokens) are included, both with
    the final token alone from the last layer's queries on, and with their answers' logits.
    """
    costs = [block_cost(model, layer) for layer in range(model.n_layers)]
    logits = ANSWERS * 2 * model.d_model
    runs = sum(_blocks_from(costs, 0, n_tokens, start) + logits for start in (0, first))
    variants = sum(
        _behind_output(model, node, costs[node.layer], n_tokens - first)
        + _blocks_from(costs, node.layer + 1, n_tokens, first)
        + logits
        for node in nodes
    )
    return runs + variants


def _behind_output(model: Model, node: Node, cost: BlockCost, changed: int) -> int:
    if node.kind == "mlp":
        return 0
    block, d_model = model.adapter.blocks[node.layer], model.d_model
    mlp = 0 if block.parallel else cost.rest - 2 * block.n_heads * block.d_head * d_model
    return (changed if node.layer < model.n_layers - 1 else 1) * (2 * block.d_head * d_model + mlp)


def _blocks_from(costs: Sequence[BlockCost], layer: int, n_tokens: int, first: int) -> int:
    """All blocks from `layer` on, for the tokens from `first` on."""
    if layer == len(costs):
        return 0
    last = costs[-1]
    final = (n_tokens - first) * last.kv + last.q + last.rest + n_tokens * last.pair
    return sum(_rows_flops(cost, n_tokens, first) for cost in costs[layer:-1]) + final
