"""Small transformers with weights set by code, whose circuits are known, and scores of methods against them."""

from .catalogue import CONSTRUCTED as CONSTRUCTED
from .catalogue import constructed as constructed
from .constructed import Constructed as Constructed
from .truth import edge_auc as edge_auc
from .truth import node_auc as node_auc
