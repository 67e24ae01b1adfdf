"""Gradients of a metric at every node and port, and attributions made of them."""

from .attribution import attribute_edges as attribute_edges
from .attribution import attribute_nodes as attribute_nodes
from .final import final_gradient as final_gradient
from .layers import layer_gradients as layer_gradients
