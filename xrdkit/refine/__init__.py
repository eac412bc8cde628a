"""Refinement: many candidates at once (batch), and the final engines."""
