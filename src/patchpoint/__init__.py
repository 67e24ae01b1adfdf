"""A workbench for causal experiments inside transformer language models."""
