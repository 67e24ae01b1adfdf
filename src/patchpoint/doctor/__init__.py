"""The doctor: is what we compute on this model what the model computes? Measured, once per model."""

from .examine import examine as examine
from .keeping import verdict_of as verdict_of
from .verdict import Check as Check
from .verdict import Verdict as Verdict
