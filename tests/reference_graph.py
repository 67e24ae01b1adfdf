"""The slow, obvious twin of graph runs: node after node on the untouched Hugging Face model, by hooks.

Many graphs of one prompt pair at once, one per place of the batch, and each by the definition: a port reads the
corrupted stream plus, for every kept sender, what it writes now less what it wrote in the corrupted run. A node is
asked for its output by running the whole model with that input in the stream's place and looking at the node.
"""

import torch

import reference
from reference import names_of


@torch.no_grad()
def final_resid(hf, clean, corrupt, kept, parallel=False):
    """[graph, d_model], what the logits read; kept: bool [graph, sender, port]. Prompts are token ids."""
    n_layers, n_heads = hf.config.num_hidden_layers, hf.config.num_attention_heads
    stream, written = as_run(hf, corrupt, n_layers)
    batch = len(kept)
    now = [as_run(hf, clean, n_layers)[1][0].expand(batch, -1, -1)]

    def heard(port, place):
        """[graph, token, d_model], what a port reads; `place` is where the corrupted stream is taken from."""
        total = stream[place].expand(batch, -1, -1).clone()
        for sender, out in enumerate(now):
            total += kept[:, sender, port, None, None] * (out - written[sender])
        return total

    port = 0
    for layer in range(n_layers):
        inputs = [
            [heard(port + 3 * head + part, (layer, "resid_pre")) for part in range(3)]
            for head in range(n_heads)
        ]
        port += 3 * n_heads
        z = torch.stack([mixture(hf, clean, layer, head, *inputs[head]) for head in range(n_heads)], dim=2)
        if not parallel:
            now += heads_out(hf, layer, z)
        mlp_in = heard(port, (layer, "mlp_in"))
        port += 1
        if parallel:
            now += heads_out(hf, layer, z)
        edit = (layer, "mlp_in", None, None, "replace", mlp_in)
        now.append(reference.activations(hf, clean, [(layer, "mlp_out")], [edit], batch)[layer, "mlp_out"])
    return heard(port, (n_layers - 1, "resid_post"))[:, -1]


def as_run(hf, ids, n_layers):
    """A plain run: streams by place [1, token, d_model], and what each sender writes, in order."""
    read = ("resid_pre", "mlp_in", "z", "mlp_out", "resid_post")
    found = reference.activations(hf, ids, [(k, name) for k in range(n_layers) for name in read])
    written = [found[0, "resid_pre"]]
    for layer in range(n_layers):
        z = found[layer, "z"].unflatten(-1, (hf.config.num_attention_heads, -1))
        written += [*heads_out(hf, layer, z), found[layer, "mlp_out"]]
    return found, written


def mixture(hf, ids, layer, head, *inputs):
    """z of one head, [graph, token, d_head], from its inputs for queries, keys and values."""
    batch, edits = len(inputs[0]), []
    for name, x in zip(("head_q", "head_k", "head_v"), inputs, strict=True):
        edit = (layer, "resid_pre", None, None, "replace", x)
        found = reference.activations(hf, ids, [(layer, name)], [edit], batch)[layer, name]
        found = found.unflatten(-1, (hf.config.num_attention_heads, -1))[:, :, head]
        edits.append((layer, name, None, head, "replace", found))
    z = reference.activations(hf, ids, [(layer, "z")], edits, batch)[layer, "z"]
    return z.unflatten(-1, (hf.config.num_attention_heads, -1))[:, :, head]


def heads_out(hf, layer, z):
    """What each head adds to the stream, from z [graph, token, head, d_head]."""
    names = names_of(hf)
    block = hf.get_submodule(names.blocks)[layer]
    projection = block.get_submodule(names.projection)
    nothing = projection(torch.zeros_like(z).flatten(2))
    shares = []
    for head in range(z.shape[2]):
        alone = torch.zeros_like(z)
        alone[:, :, head] = z[:, :, head]
        shares.append(projection(alone.flatten(2)) - nothing)
    if names.attn_added is not None:
        whole = projection(z.flatten(2))
        factor = block.get_submodule(names.attn_added)(whole) / whole
        shares = [share * factor for share in shares]
    return [share * getattr(hf.config, "residual_multiplier", 1.0) for share in shares]


@torch.no_grad()
def logits(hf, clean, final):
    """[graph, vocab] from final streams [graph, d_model]."""
    last = hf.config.num_hidden_layers - 1
    edit = (last, "resid_post", None, None, "replace", final[:, None].expand(-1, len(clean), -1))
    return reference.logits(hf, clean, [edit], len(final))
