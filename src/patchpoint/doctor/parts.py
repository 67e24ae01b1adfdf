"""Checks of what is inside: who sees whom, what the stream is made of, what the readings mean."""

import torch
from torch import Tensor

from patchpoint.engine import Batch, Edit, Run, Site
from patchpoint.models.families import Block

from .exam import (
    Exam,
    Finding,
    gap,
    largest_gap,
    logits_of,
    per_prompt,
    relative_gap,
)
from .plain import on_cpu
from .sites import layers_of


def causality(exam: Exam) -> Finding:
    """Tokens before the last one when the last is another token, and when an edit changes it."""
    model, spare = exam.model, exam.prompts[0]
    others = tuple((*ids[:-1], next(i for i in (*ids, *spare) if i != ids[-1])) for ids in exam.prompts)
    edits = [Edit(Site(layer, "resid_pre", -1), "scale", -3.0) for layer in layers_of(model)]
    changed = [model.run(Batch(others)), model.run(Batch(exam.prompts), edits=edits)]
    error = max(_moved_before_last(exam, run) for run in changed)
    return exam.of_logits(error * exam.spread)


def _moved_before_last(exam: Exam, run: Run) -> float:
    """Largest difference before each prompt's last token: logits in their spread, states relative."""
    errors = [
        gap(new[:-1], old[:-1]) / exam.spread for new, old in zip(logits_of(run), exam.logits, strict=True)
    ]
    for layer in range(exam.model.n_layers):
        for component in ("resid_post", "k", "v"):
            new, old = (_flat(each, component, layer) for each in (run, exam.base))
            errors += [
                relative_gap(mine[:-1], theirs[:-1])
                for mine, theirs in zip(per_prompt(run, new), per_prompt(run, old), strict=True)
            ]
    return max(errors)


def stream(exam: Exam) -> Finding:
    """resid_pre + attn_out + mlp_out of every layer against what the plain model's block puts out."""
    errors, base = [], exam.base
    for layer in range(exam.model.n_layers):
        total = sum(
            (_flat(base, name, layer) for name in ("attn_out", "mlp_out")), _flat(base, "resid_pre", layer)
        )
        theirs = [plain.blocks[layer] for plain in exam.plain]
        errors += [relative_gap(a, b) for a, b in zip(per_prompt(base, total), theirs, strict=True)]
    return exam.of_stream(max(errors))


@torch.no_grad()
def heads(exam: Exam) -> Finding:
    """The sum of what single heads write, and the output bias, against what attention writes."""
    errors = []
    for layer in layers_of(exam.model):
        z = exam.base.rows("z", layer)[exam.base.packing.rows(exam.longest)]
        with exam.model.block(layer) as block:
            shares, whole = on_cpu(block.heads_out(z)), on_cpu(block.attn_out(z))
            left = whole - shares.sum(1)
            bias_share = _bias_share(block, z, whole, left)
        errors.append(relative_gap(left, bias_share, shares.abs().sum(1) + whole.abs()))
    return exam.of_sums(max(errors))


def _bias_share(block: Block, z: Tensor, whole: Tensor, left: Tensor) -> Tensor:
    """What the output projection's bias adds, from what the heads' shares leave of the whole.

    Where a norm behind attention divides by the size of the whole sum, the bias' share is a multiple, per
    token, of what attention writes when all heads write nothing.
    """
    alone = on_cpu(block.attn_out(torch.zeros_like(z)))
    doubled = on_cpu(block.attn_out(2 * z))
    linear = gap(doubled - alone, 2 * (whole - alone)) < 0.05 * float(whole.abs().max())
    if linear or not alone.any():
        return alone
    return (left * alone).sum(-1, keepdim=True) / alone.square().sum(-1, keepdim=True) * alone


@torch.no_grad()
def lens(exam: Exam) -> Finding:
    """Our final norm and unembedding on the plain model's last stream against its logits."""
    like = exam.base.resid[-1]
    streams = [plain.blocks[-1].to(like) for plain in exam.plain]
    with exam.model.ends() as adapter:
        read = [adapter.unembed(adapter.final(stream), slice(None)) for stream in streams]
    return exam.of_logits(largest_gap([on_cpu(one) for one in read], [plain.logits for plain in exam.plain]))


def pattern(exam: Exam) -> Finding:
    """Attention probabilities: rows sum to 1, nothing behind the token itself, times v they are z."""
    base, errors = exam.base, [0.0]
    for layer in layers_of(exam.model):
        block = exam.model.adapter.blocks[layer]
        each = [per_prompt(base, on_cpu(base.rows(name, layer))) for name in ("pattern", "v", "z")]
        for probabilities, v, z in zip(*each, strict=True):
            n_tokens = len(v)
            own = probabilities[..., :n_tokens].transpose(0, 1)
            errors += [gap(own.sum(-1), torch.ones(own.shape[:2])), float(own.triu(1).abs().max())]
            errors.append(gap(probabilities[..., n_tokens:], torch.zeros(1)))
            values = v.repeat_interleave(block.n_heads // v.shape[1], 1).transpose(0, 1)
            mixed = (own @ values).transpose(0, 1)
            errors.append(
                relative_gap(mixed.flatten(1), z.flatten(1), v.flatten(1).abs().amax(0, keepdim=True))
            )
    return exam.of_sums(max(errors))


def _flat(run: Run, component: str, layer: int) -> Tensor:
    return on_cpu(run.rows(component, layer)).flatten(1)
