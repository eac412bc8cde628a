"""Structure tables as one compact file to train from, in Niggli or in standard cells.

``pack`` needs spglib, once; ``load_packed`` reads with torch and safetensors alone.
"""

import json
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from xrdkit.canonical import canonical, unimodular
from xrdkit.files import write_whole
from xrdkit.space_group import crystal_system
from xrdkit.types import Crystals

if TYPE_CHECKING:
    from xrdkit.dataset import Table

FORMAT, KIND = 1, "xrdkit structures"
PARTS = {"lattice", "frac", "numbers", "counts", "names", "settings", "starts"}
MOST_ATOMS = 255  # of a packed crystal
SAME_METRIC = 5e-3  # of the mean squared edge: how far a setting's metric may be off
U_ISO = 0.006  # Å², as everywhere without a measured one
SYSTEMS = tuple(crystal_system(last) for last in (2, 15, 74, 142, 167, 194, 230))


@dataclass(frozen=True)
class Packed:
    """Crystals in Niggli cells with their names and other settings of the same cells.

    ``settings`` are indices into ``UNIMODULAR``; those of crystal i are rows
    ``starts[i]`` to ``starts[i + 1]``. They keep the metric: a' = M a, x' = x M⁻¹.
    ``standard`` ones are in the one description of ``xrdkit.canonical``, and have no other.
    """

    ids: tuple[str, ...]
    crystals: Crystals
    settings: Int[Tensor, " settings"]
    starts: Int[Tensor, " one_more"]
    standard: bool = False

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        return f"Packed({len(self):,} structures, {len(self.crystals.numbers):,} atoms)"

    def to(self, device: torch.device | str) -> "Packed":
        """The same on another device."""
        moved = (self.crystals, self.settings, self.starts)
        return Packed(self.ids, *(part.to(device) for part in moved), self.standard)


UNIMODULAR = torch.from_numpy(unimodular())


def pack(
    table: "Table", path: str | Path, *, standard: bool = False, system: str = "all"
) -> Path:
    """Write the ordered crystals of a table; those with mixed sites are left out.

    In Niggli cells with their settings, or in the ``standard`` description of each; those
    of one crystal ``system``, as "cubic", or all.
    """
    tensors = _tensors(table, standard, system)
    header = {"format": FORMAT, "kind": KIND, "structures": len(tensors["counts"])}
    header |= {"standard": standard}
    return write_whole(
        path, lambda part: save_file(tensors, part, {"xrdkit": json.dumps(header)})
    )


def packed_of(table: "Table", *, standard: bool = False, system: str = "all") -> Packed:
    """The ordered crystals of a table, without a file; others are left out."""
    return _packed(_tensors(table, standard, system), standard)


def _tensors(table: "Table", standard: bool, system: str) -> dict[str, Tensor]:
    """What a file holds of a table."""
    whole = [i for i in _ordered(table) if system in ("all", _system(table, i))]
    if not whole:
        raise ValueError(
            f"none of {len(table)} structures is {system}; give a table with such, or one "
            f"of all, {', '.join(SYSTEMS)}"
        )
    if standard:
        found = {i: canonical(*table.arrays(i)) for i in whole}
        whole = [i for i in whole if found[i]]
        parts = [found[i][1:] for i in whole]
    else:
        parts = [niggli(*table.arrays(i)) for i in whole]
    lattices, fracs, numbers = zip(*parts, strict=True)
    counts = torch.tensor([len(n) for n in numbers])
    tensors = {
        "lattice": torch.tensor(np.array(lattices)).float(),
        "frac": torch.tensor(np.concatenate(fracs)).float(),
        "numbers": torch.tensor(np.concatenate(numbers)).to(torch.uint8),
        "counts": counts.to(torch.uint8),
        "names": torch.tensor(list("\n".join(table.ids[i] for i in whole).encode())).to(
            torch.uint8
        ),
    }
    one = torch.zeros(len(whole), dtype=torch.int16), torch.arange(len(whole) + 1)
    own = one if standard else settings_of(tensors["lattice"])
    return tensors | dict(zip(("settings", "starts"), own, strict=True))


def _system(table: "Table", row: int) -> str:
    """The crystal system of a row of a table."""
    return crystal_system(table.space_groups[row])


def _ordered(table: "Table") -> list[int]:
    """Rows of a table without partly occupied sites, small enough to be packed."""
    starts = np.array(table.starts)
    occupancy = table.crystals.occupancy.numpy()
    whole = [
        i
        for i, (low, high) in enumerate(pairwise(starts))
        if high - low <= MOST_ATOMS and occupancy[low:high].min() >= 1
    ]
    if not whole:
        raise ValueError(
            f"none of {len(table)} structures is ordered with at most {MOST_ATOMS} atoms; "
            "give a table with such"
        )
    return whole


def niggli(
    lattice: Float[np.ndarray, "3 3"],
    frac: Float[np.ndarray, "atoms 3"],
    numbers: Int[np.ndarray, " atoms"],
) -> tuple[
    Float[np.ndarray, "3 3"], Float[np.ndarray, "atoms 3"], Int[np.ndarray, " atoms"]
]:
    """The crystal in its Niggli cell, atoms sorted by atomic number; edges in Å."""
    from xrdkit.space_group import quiet_spglib

    with quiet_spglib() as spglib:
        reduced = spglib.niggli_reduce(lattice)
    if reduced is None:
        raise ValueError(f"the cell {lattice.tolist()} Å cannot be reduced; check its rows")
    order = np.argsort(numbers, kind="stable")
    moved = np.mod(frac @ lattice @ np.linalg.inv(reduced), 1)
    return reduced, moved[order], numbers[order]


def settings_of(
    lattice: Float[Tensor, "crystals 3 3"],
) -> tuple[Int[Tensor, " settings"], Int[Tensor, " one_more"]]:
    """Indices of the unimodular matrices that keep each metric, and where each starts."""
    metric = (lattice @ lattice.mT).double()
    matrix = UNIMODULAR.double()
    terms = torch.einsum("mij,mkl->mikjl", matrix, matrix).reshape(-1, 9).float()
    found, counts = [], []
    for part in metric.split(256):
        scale = part.diagonal(dim1=-2, dim2=-1).mean(-1)[:, None, None, None]
        flat = part.reshape(-1, 9).float()
        other = (flat @ terms.T).reshape(len(part), len(matrix), 3, 3)
        off = (other - flat.reshape(-1, 1, 3, 3)).abs() / scale.float()
        same = off.amax((-1, -2)) < SAME_METRIC
        found.append(torch.nonzero(same)[:, 1].to(torch.int16))
        counts.append(same.sum(1))
    ends = torch.cat(counts).cumsum(0)
    return torch.cat(found), torch.cat([ends.new_zeros(1), ends])


def load_packed(path: str | Path) -> Packed:
    """Read what ``pack`` wrote."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; give a file written by pack")
    try:
        with safe_open(path, "pt") as file:
            header = json.loads((file.metadata() or {}).get("xrdkit", "{}"))
            if header.get("kind") != KIND:
                raise ValueError(f"{path} holds no packed structures; give a file of pack")
            if header.get("format", 0) > FORMAT:
                raise ValueError(
                    f"{path} has format {header['format']}, this xrdkit reads up to "
                    f"{FORMAT}; update xrdkit"
                )
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, json.JSONDecodeError) as error:
        raise ValueError(
            f"{path} is truncated or not a safetensors file ({error}); pack it again"
        ) from error
    if lacking := sorted(PARTS - set(tensors)):
        raise ValueError(f"{path} lacks {', '.join(lacking)}; pack the structures again")
    return _packed(tensors, bool(header.get("standard", False)))


def _packed(tensors: dict[str, Tensor], standard: bool) -> Packed:
    counts = tensors["counts"].long()
    atoms = len(tensors["numbers"])
    crystals = Crystals(
        tensors["lattice"],
        tensors["frac"],
        tensors["numbers"].long(),
        torch.ones(atoms),
        torch.full((atoms,), U_ISO),
        torch.repeat_interleave(counts),
    )
    ids = tuple(bytes(tensors["names"].tolist()).decode().split("\n"))
    return Packed(ids, crystals, tensors["settings"], tensors["starts"], standard)
