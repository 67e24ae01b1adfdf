"""Every constructed model by name."""

from collections.abc import Callable

from patchpoint.errors import UnknownName

from .constructed import Constructed
from .induction import induction
from .lookup import lookup
from .two_paths import redundant, two_paths

CONSTRUCTED: dict[str, Callable[..., Constructed]] = {
    "induction": induction,
    "lookup": lookup,
    "two-path": two_paths,
    "redundant": redundant,
}
"""By name, a function of `n_prompts`, `noise` and `seed`."""


def constructed(name: str, *, n_prompts: int = 16, noise: float = 0.0, seed: int = 0) -> Constructed:
    """One of CONSTRUCTED with `n_prompts` pairs of prompts, drawn from `seed` as the idle nodes' weights are.

    `noise`: idle nodes write that many times what random weights would, in units of the stream's features.
    Raises UnknownName and InvalidArgument.
    """
    if name not in CONSTRUCTED:
        raise UnknownName("constructed model", name, CONSTRUCTED)
    return CONSTRUCTED[name](n_prompts=n_prompts, noise=noise, seed=seed)
