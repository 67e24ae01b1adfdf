"""From edits as written to changes of single prompts: checked once, at the door."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING

from torch import Tensor

from patchpoint.errors import InvalidArgument, PromptError

from .sites import COMPONENTS, KV_HEADS, PER_HEAD, PORTS, Edit, Site
from .sources import source_of

if TYPE_CHECKING:
    from .model import Model

STAGES = tuple(component for component in COMPONENTS if component != "resid_pre")
"""Where an edit acts, in the order a token meets them. `resid_pre` of layer k is `resid_post` of layer k - 1."""
BEFORE_MIXING = (*PORTS, "q", "k", "v", "pattern")
"""Stages up to attention: what changes here is mixed into other tokens in the same block."""
READ_BY_LATER_TOKENS = ("k_input", "v_input", "k", "v")


@dataclass(frozen=True, eq=False, slots=True)
class Change:
    """One edit on one prompt: in which block it acts (-1: before block 0), at which stage, on which tokens."""

    layer: int
    stage: str
    edit: Edit
    prompt: int
    positions: tuple[int, ...]
    picks: tuple[int, ...]
    """Which of the edit's value rows belong to `positions`."""
    n_tokens: int
    """Length of the prompt."""

    @property
    def entry(self) -> int:
        """The block behind which a stream that makes this change first must be at hand."""
        return self.layer - 1 if self.stage in BEFORE_MIXING else self.layer

    def only(self, wanted: Callable[[int], bool]) -> "Change":
        """This change on those of its tokens that are wanted."""
        kept = [i for i, p in enumerate(self.positions) if wanted(p)]
        if len(kept) == len(self.positions):
            return self
        positions, picks = tuple(self.positions[i] for i in kept), tuple(self.picks[i] for i in kept)
        return replace(self, positions=positions, picks=picks)


def resolve(model: "Model", edit: Edit, prompt: int, lengths: Sequence[int]) -> Change:
    """The change an edit makes to one prompt; InvalidArgument or PromptError when it cannot be made."""
    site, n_tokens = edit.site, lengths[prompt]
    if not -model.n_layers <= site.layer < model.n_layers:
        raise InvalidArgument(f"layer {site.layer} of {site}: the model has layers 0 to {model.n_layers - 1}")
    if site.layer < 0:
        site = replace(site, layer=site.layer + model.n_layers)
        edit = replace(edit, site=site)
    _check_place(model, site)
    positions = _positions(site, prompt, n_tokens)
    _check_value(model, edit, prompt, lengths, len(positions))
    picks = _first(len(positions))
    if site.component == "resid_pre":
        return Change(site.layer - 1, "resid_post", edit, prompt, positions, picks, n_tokens)
    layer = -1 if site.component == "embed" else site.layer
    return Change(layer, site.component, edit, prompt, positions, picks, n_tokens)


@cache
def _first(n: int) -> tuple[int, ...]:
    """0 ... n - 1, one tuple for all who ask."""
    return tuple(range(n))


def _positions(site: Site, prompt: int, n_tokens: int) -> tuple[int, ...]:
    """A site's positions in one prompt, counted from 0."""
    if site.positions is None:
        return _first(n_tokens)
    given = site.positions if isinstance(site.positions, tuple) else (site.positions,)
    positions = tuple(p + n_tokens if p < 0 else p for p in given)
    for asked, p in zip(given, positions, strict=True):
        if not 0 <= p < n_tokens:
            raise PromptError(
                f"position {asked} of edit {site} is outside prompt {prompt}, which has {n_tokens} tokens"
            )
    if len(set(positions)) != len(positions):
        raise InvalidArgument(f"positions {given} name a token of prompt {prompt} twice")
    return positions


def check_together(model: "Model", edits: Iterable[Edit]) -> None:
    """Refuse edits of one layer that speak of keys or values both by group and by query head."""
    touched = {(edit.site.layer % model.n_layers, edit.site.component) for edit in edits}
    for layer, component in touched:
        if component in KV_HEADS and (layer, f"{component}_input") in touched:
            raise InvalidArgument(
                f"edits of {component} (one per key/value head) and of {component}_input (one per query head) "
                f"meet in layer {layer}; give one of the two"
            )


def _check_place(model: "Model", site: Site) -> None:
    block = model.adapter.blocks[site.layer]
    if site.component == "resid_mid" and block.parallel:
        raise InvalidArgument(
            f"{model.name} runs attention and MLP in parallel, so it has no resid_mid; use resid_pre or resid_post"
        )
    if site.component == "final" and site.layer != model.n_layers - 1:
        raise InvalidArgument(f"final belongs to the last layer, got layer={site.layer}; give layer=-1")
    if site.component == "mlp_post" and block.d_mlp is None:
        raise InvalidArgument(
            f"layer {site.layer} of {model.name} shares its MLP among experts and has no mlp_post; "
            "use mlp_in or mlp_out"
        )
    name, many = _picked_from(model, site)
    if site.picked is not None and not 0 <= min(site.picked) <= max(site.picked) < many:
        raise InvalidArgument(f"{name} {site.picked} of {site}: the layer has {name}s 0 to {many - 1}")


def _picked_from(model: "Model", site: Site) -> tuple[str, int]:
    """What a site's numbers name, and how many of it there are."""
    block = model.adapter.blocks[site.layer]
    if site.component == "mlp_post":
        return "neuron", block.d_mlp or 0
    if site.component in KV_HEADS:
        return "key/value head", block.n_kv_heads
    return "head", block.n_heads


def width_of(model: "Model", site: Site, n_tokens: int) -> int:
    """Numbers per token at a site of a prompt of `n_tokens` tokens."""
    block = model.adapter.blocks[site.layer]
    if site.component == "embed":
        return model.d_embed
    if site.component == "final":
        width: int = model.hf.get_output_embeddings().weight.shape[1]
        return width
    each = {"pattern": n_tokens, "mlp_post": 1, **dict.fromkeys(("q", "k", "v", "z"), block.d_head)}
    if site.component not in each:
        return model.d_model
    many = _picked_from(model, site)[1] if site.picked is None else len(site.picked)
    return many * each[site.component]


def _check_value(model: "Model", edit: Edit, prompt: int, lengths: Sequence[int], n_positions: int) -> None:
    value = edit.value
    if isinstance(value, int | float):
        return
    if not isinstance(value, Tensor):
        source_of(value).check(edit.site, prompt, lengths)
        return
    if value.shape[-1] != (width := width_of(model, edit.site, lengths[prompt])):
        raise InvalidArgument(f"edit {edit.site} has values of width {value.shape[-1]}, the site has {width}")
    if value.ndim >= 2 and value.shape[-2] != n_positions:
        raise InvalidArgument(
            f"edit {edit.site} has values for {value.shape[-2]} tokens, but changes {n_positions}"
        )
    if value.ndim == 3 and value.shape[0] != len(lengths):
        raise InvalidArgument(
            f"edit {edit.site} has values for {value.shape[0]} prompts, but there are {len(lengths)}"
        )


def has_heads(component: str) -> bool:
    """Whether a component's rows are [head, width] (neurons count as heads one number wide)."""
    return component in PER_HEAD or component == "mlp_post"
