"""The slow, obvious twin of everything the engine computes: PyTorch hooks on the untouched Hugging Face model.

One forward pass per edit set, nothing packed, nothing reused. An edit is (layer, component, positions, picks, op,
value). `positions`: None is every token. `picks`: a head or several, for `mlp_post` neurons; None is all of them.
Values are numbers or tensors of shape [positions, width] or [batch, positions, width], where width is that of all
picks side by side; of `q_input`, `k_input`, `v_input` it is d_model, the same for each head. `embed` is of layer 0,
`final` of layer -1.
"""

from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch

import reference_attention
from reference_names import names_of

ORDER = ("z", "attn_out", "resid_mid", "mlp_in", "mlp_post", "mlp_out", "resid_post")
"""Components with a module of each block to hook, in the order in which a token meets them."""
IN_ATTENTION = ("q", "k", "v", "head_q", "head_k", "head_v", "pattern")
"""`head_q`, `head_k`, `head_v`: one per query head, where edits of ports end up."""
PORTS = {"q_input": "q", "k_input": "k", "v_input": "v"}
OPS = {
    "replace": lambda old, new: new,
    "add": lambda old, new: old + new,
    "scale": lambda old, new: old * new,
}


def first_tensor(value):
    return value[0] if isinstance(value, tuple) else value


def with_first(value, tensor):
    return (tensor, *value[1:]) if isinstance(value, tuple) else tensor


def changed(tensor, positions, picks, op, value):
    """A changed copy of a component of shape [batch, token, unit, width]; units are heads or neurons."""
    out = tensor.clone()
    positions = range(out.shape[1]) if positions is None else positions
    picks = range(out.shape[2]) if picks is None else [picks] if isinstance(picks, int) else picks
    for row, position in enumerate(positions):
        for number, unit in enumerate(picks):
            columns = slice(number * out.shape[3], (number + 1) * out.shape[3])
            new = value if isinstance(value, int | float) else value[..., row, columns]
            out[:, position, unit] = OPS[op](out[:, position, unit], new)
    return out


@dataclass
class Visit:
    """Called at every place that is hooked, with what is there; returns what is to be used instead."""

    batch: int
    edits: list
    taken: dict
    """(layer, component), filled with [batch, token, width] as it was after the edits."""
    layer: int = 0
    stream: torch.Tensor | None = None
    """What the present block reads."""

    def __call__(self, component, tensor, units=1):
        out = tensor.reshape(self.batch, -1, units, tensor.shape[-1] // units)
        for layer, name, *change in self.edits:
            if (layer, name) == (self.layer, component):
                out = changed(out, *change)
        if (self.layer, component) in self.taken:
            self.taken[self.layer, component] = out.detach().clone().flatten(2)
        return out.reshape(tensor.shape)

    def heads(self, component, heads):
        """The same for [batch, head, token, width]."""
        rows = heads.transpose(1, 2)
        return self(component, rows.flatten(2), rows.shape[2]).reshape(rows.shape).transpose(1, 2)

    def enter(self, layer, args):
        self.layer = layer
        self.stream = self("resid_pre", args[0]).clone()
        return (self.stream, *args[1:])


def hook(hf, block, component, visit):
    """Let `visit` see and change one component of one block."""
    names = names_of(hf)
    gain = getattr(hf.config, "residual_multiplier", 1.0)
    shared = (
        None if getattr(block, names.mlp_norm, None) is not None else block.get_submodule(names.attn_norm)
    )

    def z(module, args):
        return (visit("z", args[0], hf.config.num_attention_heads), *args[1:])

    def added(module, args, output):
        return with_first(output, visit(component, first_tensor(output) * gain) / gain)

    def resid_mid(module, args, output):
        # The block adds what attention returns to the tensor it was given: nothing is added to the new stream,
        # where a difference would be off by its rounding, which a norm of nearly equal numbers blows up.
        added = first_tensor(output)
        visit.stream.copy_(visit("resid_mid", visit.stream + added * gain))
        return with_first(output, torch.zeros_like(added))

    def mlp_in(module, args):
        stream = visit("mlp_in", args[0] if shared is None else visit.stream)
        return (stream if shared is None else shared.forward(stream), *args[1:])

    def mlp_post(module, args):
        return (visit("mlp_post", args[0], args[0].shape[-1]), *args[1:])

    def resid_post(module, args, output):
        return with_first(output, visit("resid_post", first_tensor(output)))

    before = {
        "z": (names.projection, z),
        "mlp_in": (names.mlp_norm if shared is None else names.mlp, mlp_in),
        "mlp_post": (names.down, mlp_post),
    }
    behind = {
        "attn_out": (names.attn_added or names.projection, added),
        "resid_mid": (names.attn_added or names.projection, resid_mid),
        "mlp_out": (names.mlp_added or names.down, added),
        "resid_post": ("", resid_post),
    }
    name, function = (before | behind)[component]
    module = block.get_submodule(name)
    register = module.register_forward_pre_hook if component in before else module.register_forward_hook
    return register(function)


def of_one_name(edit):
    """`resid_pre` of a block is `resid_post` of the one below: edits of both act in the order given."""
    layer, component, *change = edit
    return (layer - 1, "resid_post", *change) if component == "resid_pre" and layer else edit


@contextmanager
def hooked(hf, batch, edits, taken):
    """Edits in force, none of them of a port; `taken` is filled."""
    visit = Visit(batch, [of_one_name(edit) for edit in edits], taken)
    wanted = {(layer, component) for layer, component, *_ in (*visit.edits, *taken)}

    def embed(module, args, output):
        return visit("embed", output)

    def final(module, args):
        visit.layer = -1
        return (visit("final", args[0]),)

    with ExitStack() as stack:
        if any(component in IN_ATTENTION for _, component in wanted):
            stack.enter_context(reference_attention.opened(hf, visit.heads))
        handles = [
            hf.get_input_embeddings().register_forward_hook(embed),
            hf.get_output_embeddings().register_forward_pre_hook(final),
        ]
        for layer, block in enumerate(hf.get_submodule(names_of(hf).blocks)):
            handles.append(block.register_forward_pre_hook(lambda _, args, k=layer: visit.enter(k, args)))
            handles += [hook(hf, block, name, visit) for name in ORDER if (layer, name) in wanted]
        for handle in handles:
            stack.callback(handle.remove)
        yield


def without_ports(hf, ids, edits, batch):
    """Each edited port as a replacement of that head's queries, keys or values at the edited positions.

    What they are replaced by is what a first pass, in which the block's whole input stream is edited, finds there.
    """
    plain = [edit for edit in edits if edit[1] not in PORTS]
    replaced, n_heads = [], hf.config.num_attention_heads
    for layer, port in sorted({edit[:2] for edit in edits if edit[1] in PORTS}):
        below = plain + [edit for edit in edits if edit[1] in PORTS and edit[0] < layer]
        at_port = [edit for edit in edits if edit[:2] == (layer, port)]
        for head in sorted({head for edit in at_port for head in heads_of(edit, n_heads)}):
            mine = [edit for edit in at_port if head in heads_of(edit, n_heads)]
            stream = [(layer, "resid_pre", at, None, op, value) for _, _, at, _, op, value in mine]
            key = (layer, f"head_{PORTS[port]}")
            found = activations(hf, ids, [key], below + stream, batch)[key].unflatten(-1, (n_heads, -1))
            at = sorted({p % len(ids) for edit in mine for p in edit[2] or range(len(ids))})
            replaced.append((*key, at, head, "replace", found[:, at, head]))
    return plain + replaced


def heads_of(edit, n_heads):
    picks = edit[3]
    return range(n_heads) if picks is None else (picks,) if isinstance(picks, int) else picks


@torch.no_grad()
def logits(hf, ids, edits=(), batch=1):
    """Logits of the last token, [batch, vocab], for one prompt run `batch` times."""
    with hooked(hf, batch, without_ports(hf, ids, edits, batch), {}):
        return hf(torch.tensor([list(ids)] * batch)).logits[:, -1].float()


@torch.no_grad()
def activations(hf, ids, places, edits=(), batch=1):
    """{(layer, component): [batch, token, width]} of one prompt run `batch` times; heads lie side by side."""
    taken = dict.fromkeys(places)
    with hooked(hf, batch, without_ports(hf, ids, edits, batch), taken):
        hf(torch.tensor([list(ids)] * batch))
    return taken


def read(final_logits, metric, correct, incorrect=None, base=None):
    """One number per row of logits; `base` is the row that `kl` compares with."""
    if metric == "logit":
        return final_logits[:, correct]
    if metric == "logit_diff":
        return final_logits[:, correct] - final_logits[:, incorrect]
    if metric == "kl":
        p = base.softmax(-1)
        return (p * (p.log() - final_logits.log_softmax(-1))).sum(-1)
    rank = (final_logits > final_logits[:, [correct]]).sum(-1)
    if metric in ("rank", "top1"):
        return rank if metric == "rank" else rank == 0
    logprob = final_logits.log_softmax(-1)[:, correct]
    return final_logits.softmax(-1)[:, correct] if metric == "prob" else logprob


def trace(
    hf,
    ids,
    subject_span,
    noise,
    correct,
    *,
    state="resid",
    window=10,
    direction="restore",
    metric="prob",
    incorrect=None,
    sites=None,
):
    """Causal tracing by its definition: {(token, layer): [sample]} for all sites, or those asked for."""
    component = {"resid": "resid_post", "mlp": "mlp_out", "attn": "attn_out"}[state]
    n_layers, samples = hf.config.num_hidden_layers, len(noise)
    corruption = [(0, "embed", range(*subject_span), None, "add", noise)]
    places = [(layer, component) for layer in range(n_layers)]
    if direction == "restore":
        base, source = corruption, activations(hf, ids, places)
    else:
        base, source = [], activations(hf, ids, places, corruption, samples)
    values = {}
    for token, layer in sites or [(t, k) for t in range(len(ids)) for k in range(n_layers)]:
        first = layer if state == "resid" else layer - window // 2
        span = range(first, first + (1 if state == "resid" else window))
        exchange = [
            (k, component, [token], None, "replace", source[k, component][:, [token]])
            for k in span
            if 0 <= k < n_layers
        ]
        values[token, layer] = read(logits(hf, ids, base + exchange, samples), metric, correct, incorrect)
    return values
