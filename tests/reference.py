"""The slow, obvious twin of everything the engine computes: PyTorch hooks on the untouched Hugging Face model.

One forward pass per edit set, nothing packed, nothing reused. An edit is (layer, component, positions, head, op,
value); values are numbers or tensors of shape [len(positions), width] or [batch, len(positions), width].
"""

from contextlib import ExitStack, contextmanager

import torch

LAYERS = {"gpt2": "transformer.h", "gpt_neo": "transformer.h", "gptj": "transformer.h"}
LAYERS |= {"gpt_neox": "gpt_neox.layers", "opt": "model.decoder.layers"}
PROJECTION = {"gpt2": "attn.c_proj", "gpt_neo": "attn.attention.out_proj", "gptj": "attn.out_proj"}
PROJECTION |= {"gpt_neox": "attention.dense", "opt": "self_attn.out_proj", "phi": "self_attn.dense"}
MLP_END = {"gpt2": "mlp.c_proj", "gpt_neo": "mlp.c_proj", "gptj": "mlp.fc_out", "phi": "mlp.fc2"}
MLP_END |= {"gpt_neox": "mlp.dense_4h_to_h", "opt": "fc2"}
POST_NORMED = ("gemma2", "olmo2")


def module_of(hf, layer, component):
    """(module, True to hook its input, False its output) at which a component can be read and changed."""
    family = hf.config.model_type
    block = hf.get_submodule(LAYERS.get(family, "model.layers"))[layer]
    if component == "embed":
        return hf.get_input_embeddings(), False
    if component == "resid_pre":
        return block, True
    if component == "resid_post":
        return block, False
    if component == "z":
        return block.get_submodule(PROJECTION.get(family, "self_attn.o_proj")), True
    if component in ("attn_out", "resid_mid"):
        name = (
            "post_attention_layernorm"
            if family in POST_NORMED
            else PROJECTION.get(family, "self_attn.o_proj")
        )
        return block.get_submodule(name), False
    assert component == "mlp_out"
    name = "post_feedforward_layernorm" if family in POST_NORMED else MLP_END.get(family, "mlp.down_proj")
    return block.get_submodule(name), False


def first_tensor(value):
    return value[0] if isinstance(value, tuple) else value


def with_first(value, tensor):
    return (tensor, *value[1:]) if isinstance(value, tuple) else tensor


def edited(hf, tensor, batch, positions, head, op, value):
    """A changed copy of a component of shape [batch, token, width] (or the same, flattened)."""
    out = tensor.clone().reshape(batch, -1, tensor.shape[-1])
    columns = slice(None)
    if head is not None:
        d_head = tensor.shape[-1] // hf.config.num_attention_heads
        columns = slice(head * d_head, (head + 1) * d_head)
    for index, position in enumerate(positions):
        new = value if isinstance(value, int | float) else value[..., index, :]
        if op == "replace":
            out[:, position, columns] = new
        elif op == "add":
            out[:, position, columns] += new
        else:
            out[:, position, columns] *= new
    return out.reshape(tensor.shape)


@contextmanager
def hooked(hf, batch, edits, taken=None):
    """Edits in force; `taken` maps (layer, component) to None and is filled with what was there after them."""
    with ExitStack() as stack:
        streams = {}
        for layer, component, *change in edits:
            module, at_input = module_of(hf, layer, component)
            if component == "resid_mid":
                block = module_of(hf, layer, "resid_pre")[0]

                def remember(module, args, layer=layer):
                    streams[layer] = first_tensor(args)

                stack.callback(block.register_forward_pre_hook(remember).remove)

            def change_input(module, args, change=change):
                return (edited(hf, args[0], batch, *change), *args[1:])

            def change_output(module, args, output, change=change, layer=layer, component=component):
                now = first_tensor(output)
                if component == "resid_mid":
                    stream = streams[layer].reshape(now.shape)
                    return with_first(output, edited(hf, stream + now, batch, *change) - stream)
                return with_first(output, edited(hf, now, batch, *change))

            handle = (
                module.register_forward_pre_hook(change_input)
                if at_input
                else module.register_forward_hook(change_output)
            )
            stack.callback(handle.remove)
        for layer, component in taken or ():
            module, at_input = module_of(hf, layer, component)

            def keep_input(module, args, key=(layer, component)):
                taken[key] = args[0].detach().clone().reshape(batch, -1, args[0].shape[-1])

            def keep_output(module, args, output, key=(layer, component)):
                now = first_tensor(output)
                taken[key] = now.detach().clone().reshape(batch, -1, now.shape[-1])

            handle = (
                module.register_forward_pre_hook(keep_input)
                if at_input
                else module.register_forward_hook(keep_output)
            )
            stack.callback(handle.remove)
        yield


@torch.no_grad()
def logits(hf, ids, edits=(), batch=1):
    """Logits of the last token, [batch, vocab], for one prompt run `batch` times."""
    with hooked(hf, batch, edits):
        return hf(torch.tensor([list(ids)] * batch)).logits[:, -1].float()


@torch.no_grad()
def activations(hf, ids, places, edits=(), batch=1):
    """{(layer, component): [batch, token, width]} of one prompt run `batch` times."""
    taken = dict.fromkeys(places)
    with hooked(hf, batch, edits, taken):
        hf(torch.tensor([list(ids)] * batch))
    return taken


def read(final_logits, metric, correct, incorrect=None):
    if metric == "logit":
        return final_logits[:, correct]
    if metric == "logit_diff":
        return final_logits[:, correct] - final_logits[:, incorrect]
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
        layers = [layer]
        if state != "resid":
            layers = [
                k for k in range(layer - window // 2, layer - window // 2 + window) if 0 <= k < n_layers
            ]
        exchange = [
            (k, component, [token], None, "replace", source[k, component][:, [token]]) for k in layers
        ]
        values[token, layer] = read(logits(hf, ids, base + exchange, samples), metric, correct, incorrect)
    return values
