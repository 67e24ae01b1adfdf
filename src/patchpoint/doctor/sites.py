"""The sites whose edits are checked, and how far an edit moves the logits."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from patchpoint.engine import COMPONENTS, Edit, Model, Run, Site, Variant, sweep
from patchpoint.engine.sites import PER_HEAD, PORTS

OWN_LAYER = {"embed": 0, "final": -1}
"""Components that are not in every layer."""


def layers_of(model: Model) -> tuple[int, ...]:
    """The first, a middle and the last layer."""
    return tuple(sorted({0, model.n_layers // 2, model.n_layers - 1}))


def present(model: Model, layer: int) -> list[str]:
    """The components that a layer has."""
    block = model.adapter.blocks[layer]
    absent = {"resid_mid"} if block.parallel else set()
    if block.d_mlp is None:
        absent.add("mlp_post")
    return [name for name in COMPONENTS if name not in absent]


def whole_sites(model: Model) -> Iterator[Site]:
    """Every component of `layers_of`, at all tokens and heads; the embedding and the final norm once."""
    layers = layers_of(model)
    for layer in layers:
        for name in present(model, layer):
            if name not in OWN_LAYER or layer == layers[0]:
                yield Site(OWN_LAYER.get(name, layer), name)


def small_sites(model: Model) -> Iterator[Site]:
    """The same at one token each, and in one head where there are any."""
    for number, site in enumerate(whole_sites(model)):
        head = number % model.adapter.blocks[site.layer].n_kv_heads if site.component in PER_HEAD else None
        yield replace(site, positions=_token(site, model, number), head=head)


def scattered_sites(model: Model) -> Iterator[Site]:
    """Every component once, each at one token, in different layers, so that all of them reach the logits."""
    layers = layers_of(model)
    for number, name in enumerate(COMPONENTS):
        # Keys of key/value heads and of query heads are not edited in one layer.
        layer = layers[-1] if name in PORTS else layers[number % max(1, len(layers) - 1)]
        if name in present(model, layer):
            site = Site(OWN_LAYER.get(name, layer), name)
            yield replace(site, positions=_token(site, model, number))


def _token(site: Site, model: Model, number: int) -> int:
    """The last token where no other can reach the logits, else the last or one of the first two."""
    at_the_end = site.component == "final" or site.layer == model.n_layers - 1
    return -1 if at_the_end or number % 3 == 2 else number % 3


def distances(
    base: Run, variants: Sequence[Variant | Edit], target: Tensor | None = None
) -> Float[Tensor, " variant"]:
    """Largest difference of a final logit from `target` (default: the base's), per swept variant.

    A thousandth of the mean difference is added: in low precision different logits can have equal largest ones.
    """
    swept = sweep(base, variants, _distance_to(base.logits if target is None else target))
    return torch.from_numpy(swept.values).amax(1)


def _distance_to(target: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    def distance(logits: Tensor, prompts: Tensor) -> Tensor:
        off = (logits - target[prompts].float()).abs()
        return off.amax(-1) + 1e-3 * off.mean(-1)

    return distance
