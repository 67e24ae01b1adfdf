"""Circuit discovery: which heads and MLPs do a task, by exchanging or removing them one at a time."""

from .ablation import ABLATIONS as ABLATIONS
from .ablation import ablate_nodes as ablate_nodes
from .ablation import ablate_nodes_by_prompt as ablate_nodes_by_prompt
from .patching import patch_components as patch_components
from .patching import patch_components_by_prompt as patch_components_by_prompt
from .patching import patch_heads as patch_heads
from .patching import patch_heads_by_prompt as patch_heads_by_prompt
