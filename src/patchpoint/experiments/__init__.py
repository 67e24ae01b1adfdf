"""The laboratory of causal tracing: named experiments over files of facts, each one function."""

from .basic import fresh_noise as fresh_noise
from .basic import gaussian as gaussian
from .basic import random_embedding as random_embedding
from .basic import reverse as reverse
from .basic import rome as rome
from .basic import severed as severed
from .basic import shuffle as shuffle
from .basic import token_swap as token_swap
from .basic import wrong_direction as wrong_direction
from .calibrate import calibrate as calibrate
from .catalogue import EXPERIMENTS as EXPERIMENTS
from .compare import compare_models as compare_models
from .compare import short_long as short_long
from .condition import Work as Work
from .levels import vary_noise as vary_noise
from .prefixes import fact_position as fact_position
from .prefixes import prefix as prefix
from .repeat import repeat as repeat
from .result import Measured as Measured
from .result import Result as Result
from .settings import FactSettings as FactSettings
