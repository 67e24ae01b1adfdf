"""Heads' own inputs: what each head projects of its own copy of the stream, before the norm."""

from collections.abc import Callable

from torch import Tensor

from patchpoint.models.families import Block, Rotary

READERS: dict[str, Callable[[Block, Tensor, Rotary | None], Tensor]] = {
    "q": lambda block, x, angles: block.port_q(x, angles),
    "k": lambda block, x, angles: block.port_k(x, angles),
    "v": lambda block, x, angles: block.port_v(x),
}
"""Queries, keys or values, [row, head, d_head], from inputs [row, head, d_model]."""
INPUTS = {"q": "q_input", "k": "k_input", "v": "v_input"}
"""The component that is the input."""
