"""Loading, architecture families, tokens."""
