"""Models spread over devices or offloaded (`device_map`): their weights, brought to one device while in use.

Everything is computed on the device where the embedding runs. A block's weights come there when the engine reaches
the block and go when it leaves; a sweep does that once per block for all its variants.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel


def is_spread(hf: PreTrainedModel) -> bool:
    """Whether transformers has placed the model by a `device_map`."""
    return getattr(hf, "hf_device_map", None) is not None


def main_device(hf: PreTrainedModel) -> torch.device:
    """Where the embedding runs, and everything is computed."""
    hook = _placing_hook(hf.get_input_embeddings()) if is_spread(hf) else None
    if hook is None or hook.execution_device is None:
        device: torch.device = hf.device
        return device
    place = hook.execution_device
    return torch.device("cuda", place) if isinstance(place, int) else torch.device(place)


def stored_weight(module: nn.Module, name: str, tensor: Tensor) -> Tensor:
    """A weight's values, wherever they are kept: an offloaded one is only a shape in its module."""
    if tensor.device.type != "meta":
        return tensor
    hook = _placing_hook(module)
    if hook is None or hook.weights_map is None:
        return tensor
    value: Tensor = hook.weights_map[name]
    return value


@contextmanager
def at_hand(
    root: nn.Module, device: torch.device, without: frozenset[nn.Module] = frozenset()
) -> Iterator[None]:
    """All weights of a module on one device, as they are stored again afterwards.

    Meanwhile its submodules run as if they had never been spread. `without`: submodules to leave alone.
    """
    with ExitStack() as stack:
        for module in _modules(root, without):
            if "forward" in vars(module) and hasattr(module, "_old_forward"):
                stack.callback(setattr, module, "forward", module.forward)
                module.forward = module._old_forward  # type: ignore[assignment]
            holders: tuple[dict[str, Any], ...] = (module._parameters, module._buffers)
            for held in holders:
                for name, tensor in list(held.items()):
                    if tensor is not None and tensor.device != device:
                        stack.callback(held.__setitem__, name, tensor)
                        held[name] = _brought(module, name, tensor, device)
        yield


def _brought(module: nn.Module, name: str, tensor: Tensor, device: torch.device) -> Any:
    value = stored_weight(module, name, tensor).to(device)
    return nn.Parameter(value, requires_grad=False) if isinstance(tensor, nn.Parameter) else value


def _modules(root: nn.Module, without: frozenset[nn.Module]) -> Iterator[nn.Module]:
    if root in without:
        return
    yield root
    for child in root.children():
        yield from _modules(child, without)


def _placing_hook(module: nn.Module) -> Any:
    """Accelerate's hook that knows where a module's weights are kept, if it has one."""
    hook = getattr(module, "_hf_hook", None)
    for candidate in getattr(hook, "hooks", (hook,)):
        if hasattr(candidate, "weights_map"):
            return candidate
    return None
