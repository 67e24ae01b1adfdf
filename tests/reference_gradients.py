"""Gradients by autograd through the untouched Hugging Face model, whole graph and all: the slow, obvious twin.

`metric` is a function of the last token's logits [vocab]. `stream`, where given, takes the place of what block 0
reads, [token, d_model]. Prompts run one by one.
"""

from contextlib import ExitStack, contextmanager

import torch

import reference_attention
from reference import first_tensor, names_of, with_first

PARTS = ("q", "k", "v")


def blocks_of(hf):
    return hf.get_submodule(names_of(hf).blocks)


def node_gradients(hf, ids, metric, stream=None):
    """{(layer, component): [token, width]} for embed, resid_pre, z, attn_out, mlp_in and mlp_out; heads side by side.

    No `mlp_in` where the MLP shares the attention's norm.
    """
    seen, names, gain = {}, names_of(hf), getattr(hf.config, "residual_multiplier", 1.0)

    def keep(key, tensor, weight=1.0):
        # A copy: only what goes on from here counts. Returned as another one: what follows may work in place.
        copy = tensor.clone() if tensor.requires_grad else tensor.clone().requires_grad_()
        copy.retain_grad()
        seen[key] = (copy, weight)
        return copy.clone()

    def before(key):
        return lambda module, args: (keep(key, args[0]), *args[1:])

    def behind(key, weight):
        return lambda module, args, out: with_first(out, keep(key, first_tensor(out), weight))

    with ExitStack() as stack:
        handles = [hf.get_input_embeddings().register_forward_hook(behind((0, "embed"), 1.0))]
        if stream is not None:
            handles.append(
                blocks_of(hf)[0].register_forward_pre_hook(
                    lambda module, args: (stream[None].to(args[0].dtype), *args[1:])
                )
            )
        for k, block in enumerate(blocks_of(hf)):
            handles.append(block.register_forward_pre_hook(before((k, "resid_pre"))))
            part = block.get_submodule
            handles.append(part(names.projection).register_forward_pre_hook(before((k, "z"))))
            added = part(names.attn_added or names.projection)
            handles.append(added.register_forward_hook(behind((k, "attn_out"), gain)))
            if getattr(block, names.mlp_norm, None) is not None:
                handles.append(part(names.mlp_norm).register_forward_pre_hook(before((k, "mlp_in"))))
            added = part(names.mlp_added or names.down)
            handles.append(added.register_forward_hook(behind((k, "mlp_out"), gain)))
        for handle in handles:
            stack.callback(handle.remove)
        metric(hf(torch.tensor([list(ids)])).logits[0, -1]).backward()
    hf.zero_grad()
    zero = torch.zeros_like
    return {
        key: (zero(t) if t.grad is None else t.grad / weight).reshape(len(ids), -1)
        for key, (t, weight) in seen.items()
    }


@contextmanager
def heads_visited(hf, layer, visit, stream=None, at=0):
    """`visit(name, heads)` in one layer's attention; `stream` [batch, token, d_model] is what block `at` reads."""
    present = {}

    def enter(k):
        def hook(module, args):
            present["layer"] = k
            return (stream.to(args[0].dtype), *args[1:]) if stream is not None and k == at else args

        return hook

    def at_layer(name, heads):
        return visit(name, heads) if present.get("layer") == layer else heads

    with reference_attention.opened(hf, at_layer), ExitStack() as stack:
        for k, block in enumerate(blocks_of(hf)):
            stack.callback(block.register_forward_pre_hook(enter(k)).remove)
        yield


def block_input(hf, ids, layer, stream=None):
    """What a block reads, [token, d_model]."""
    found = {}
    with ExitStack() as stack, torch.no_grad():
        if stream is not None:
            hook = blocks_of(hf)[0].register_forward_pre_hook(lambda module, args: (stream[None], *args[1:]))
            stack.callback(hook.remove)
        hook = blocks_of(hf)[layer].register_forward_pre_hook(lambda m, args: found.update(x=args[0].clone()))
        stack.callback(hook.remove)
        hf(torch.tensor([list(ids)]))
    return found["x"].reshape(len(ids), -1)


def port_gradients(hf, ids, layer, metric, stream=None):
    """{part: [token, head, d_model]}: d metric / d each head's own copy of the stream as read for q, k or v.

    Every head and part has a copy of its own as a leaf. A first pass, a batch of one entry per copy, computes
    whole blocks from them; of each entry only its own head's q, k or v is used in the second pass.
    """
    n_heads, found = hf.config.num_attention_heads, {}
    here = block_input(hf, ids, layer, stream)
    leaf = here.expand(len(PARTS) * n_heads, *here.shape).clone().requires_grad_()

    def record(name, heads):
        found[name] = heads
        return heads

    with heads_visited(hf, layer, record, leaf, at=layer):
        hf(torch.tensor([list(ids)] * len(leaf)))
    own = {
        f"head_{part}": torch.stack([found[f"head_{part}"][p * n_heads + h, h] for h in range(n_heads)])[None]
        for p, part in enumerate(PARTS)
    }
    first = None if stream is None else stream[None]
    with heads_visited(hf, layer, lambda name, heads: own.get(name, heads), first):
        value = metric(hf(torch.tensor([list(ids)])).logits[0, -1])
    (gradient,) = torch.autograd.grad(value, leaf)
    by_part = gradient.unflatten(0, (len(PARTS), n_heads))
    return {part: by_part[p].transpose(0, 1) for p, part in enumerate(PARTS)}
