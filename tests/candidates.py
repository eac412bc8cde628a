"""Candidates made from structures, right or disturbed, for several tests."""

from dataclasses import replace

import numpy as np
import torch
from pymatgen.core import Structure

from xrdkit.crystal import U_ISO, standard_cell, symmetry_of
from xrdkit.refine.block import STRAINS, current_frac, current_lattice, pack
from xrdkit.types import Candidate, Crystals


def candidate_of(structure: Structure, prior: float = 0.0) -> Candidate:
    """A structure in its standard primitive cell, with the symmetry spglib finds."""
    cell = standard_cell(
        structure.lattice.matrix, structure.frac_coords, np.array(structure.atomic_numbers)
    )
    n = len(cell.numbers)
    crystal = Crystals(
        torch.tensor(cell.lattice, dtype=torch.float32)[None],
        torch.tensor(cell.frac, dtype=torch.float32),
        torch.tensor(cell.numbers, dtype=torch.long),
        torch.ones(n),
        torch.full((n,), U_ISO),
        torch.zeros(n, dtype=torch.long),
    )
    symmetry = symmetry_of(cell.space_group, cell.lattice, cell.frac, cell.numbers)
    return Candidate(crystal, symmetry, structure.composition.reduced_formula, prior)


def moved(candidate: Candidate, strain: float, shift: float, seed: int) -> Candidate:
    """Strained by ± ``strain`` and shifted by ± ``shift`` Å along each free direction."""
    block = pack([candidate], 2.0)
    signs = torch.Generator().manual_seed(seed)
    amount = torch.full_like(block.values, shift)
    amount[:, :STRAINS] = strain
    amount *= torch.randint(0, 2, amount.shape, generator=signs) * 2 - 1
    block = replace(block, values=amount)
    crystal = replace(
        candidate.crystal, lattice=current_lattice(block), frac=current_frac(block)[0]
    )
    return replace(candidate, crystal=crystal)
