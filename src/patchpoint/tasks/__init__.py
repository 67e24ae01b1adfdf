"""Prompts with roles and answers."""
