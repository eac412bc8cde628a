"""Cells from lines: Bravais lattices, trial search, figures of merit, extinctions."""
