"""Checks of logits: ours against the plain model's, padded, in batches, and on another device."""

import copy

import psutil
import torch
from torch import nn

from patchpoint.engine import Batch, Model
from patchpoint.engine.memory import GIB
from patchpoint.models.families import adapter_for
from patchpoint.models.placement import is_spread

from .exam import Exam, Finding, Skip, largest_gap, logits_of
from .plain import left_padded

SHARE_OF_FREE = 0.8
"""Most of the free memory that a copy of the model may take."""


def parity(exam: Exam) -> Finding:
    """All prompts in one packed run of ours against each alone through the plain model, every token."""
    return exam.of_logits(largest_gap(exam.logits, [plain.logits for plain in exam.plain]))


def padding(exam: Exam) -> Finding | Skip:
    """The plain model's batch padded on the left, with mask and positions, against our run without pads."""
    if rotates_by_length(exam.model, len(exam.prompts[exam.longest])):
        return Skip("its rotary angles depend on the length of the whole batch")
    return exam.of_logits(largest_gap(left_padded(exam.model, exam.prompts), exam.logits))


def rotates_by_length(model: Model, n_tokens: int) -> bool:
    """Whether a token's rotary angles are others in a longer prompt, as some scalings have it."""
    with model.ends() as adapter:
        short, long = adapter.rotary(2), adapter.rotary(n_tokens)
    return short is not None and long is not None and not torch.equal(short.cos[1], long.cos[1])


def batch(exam: Exam) -> Finding:
    """The two shortest prompts by themselves, and the longest alone, against the same in the packed run."""
    longest = exam.model.run(Batch((exam.prompts[exam.longest],)))
    apart = [*logits_of(exam.short), *logits_of(longest)]
    numbers = (*exam.by_length[:2], exam.longest)
    return exam.of_logits(largest_gap(apart, [exam.logits[number] for number in numbers]))


def device(exam: Exam) -> Finding | Skip:
    """The same run of ours on a copy of the model on the CPU."""
    model = exam.model
    if on_the_cpu(model):
        return Skip("the model is on the CPU")
    if is_spread(model.hf):
        return Skip("the model is spread over devices, for want of room for it on one")
    size = sum(tensor.nbytes for tensor in (*model.hf.parameters(), *model.hf.buffers()))
    free = psutil.virtual_memory().available
    if size > SHARE_OF_FREE * free:
        return Skip(f"a copy takes {size / GIB:.1f} GiB, the CPU has {free / GIB:.1f} GiB free")
    mine = exam.logits
    return exam.of_logits(largest_gap(mine, logits_of(copied_to_cpu(model).run(Batch(exam.prompts)))))


def on_the_cpu(model: Model) -> bool:
    """Whether there is no other device to compare with it."""
    return model.device.type == "cpu"


def copied_to_cpu(model: Model) -> Model:
    """The same model with its weights on the CPU; the given one stays as it is, where it is."""
    # What the copy is told to have copied already, it takes as it is: no second set of weights on the device.
    memo: dict[int, object] = {}
    for parameter in model.hf.parameters():
        memo[id(parameter)] = nn.Parameter(parameter.detach().cpu(), requires_grad=False)
    for buffer in model.hf.buffers():
        memo[id(buffer)] = buffer.detach().cpu()
    hf = copy.deepcopy(model.hf, memo)
    assert all(tensor.device == torch.device("cpu") for tensor in hf.parameters())
    return Model(hf, model.tokenizer, adapter_for(hf), model.name)
