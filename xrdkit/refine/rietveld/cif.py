"""Which structure of a CIF is meant, ``file.cif#block``, and what it says of symmetry."""

import re
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np

from xrdkit.crystal import read_cif
from xrdkit.refine.rietveld.metric import CELL, possible

if TYPE_CHECKING:
    import gemmi
    from pymatgen.core import Structure

ATOMS = ("_atom_site_fract_x", "_atom_site.fract_x")
SHOWN = 10  # names of blocks in an error
MOST_OPERATIONS = 192  # of a space group in a conventional cell


def file_and_block(source: str | Path) -> tuple[Path, str]:
    """File and data block (empty where none is named) of ``file.cif#block``."""
    whole = Path(source)
    if whole.is_file():
        return whole, ""
    file, _, block = str(source).rpartition("#")
    path = Path(file or source)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}; check the name and the folder")
    return path, block


def structure_block(source: str | Path) -> "gemmi.cif.Block | None":
    """The data block that has the structure; None where the file is no CIF or has none.

    A file of several structures is an error unless the block is named, and so is a CIF that
    cannot be read: what another reader makes of half a file is not what was meant.
    """
    from gemmi import cif

    path, name = file_and_block(source)
    try:
        blocks = list(cif.read(str(path)))
    except (RuntimeError, ValueError, IndexError) as error:
        heading = re.search(rb"(?im)^data_", path.read_bytes())
        if heading or name or path.suffix.lower() == ".cif":
            why = str(error).replace(str(path), path.name)
            raise ValueError(f"{path.name} is not a CIF ({why}); correct it") from error
        return None
    found = [b for b in blocks if any(len(b.find_values(item)) for item in ATOMS)]
    chosen = [b for b in found if b.name == name] if name else found
    if len(chosen) == 1 or not found:
        return chosen[0] if chosen else None
    said = f"has no structure '{name[:40]}' but" if name else "has several structures,"
    names = ", ".join(b.name[:40] for b in found[:SHOWN])
    names += f" and {len(found) - SHOWN} more" * (len(found) > SHOWN)
    raise ValueError(
        f"{path.name} {said} {names}; choose one as in {path.name}#{found[0].name[:40]}"
    )


def cif_structure(source: str | Path) -> "Structure":
    """All atoms of the structure of a CIF, without its space group."""
    from gemmi import cif

    block = structure_block(source)
    if block is None:
        return read_cif(str(file_and_block(source)[0]))
    document = cif.Document()
    document.add_copied_block(block)
    with TemporaryDirectory() as folder:
        alone = str(Path(folder) / "structure.cif")
        document.write_file(alone)  # not as text: comments of old files are no UTF-8
        return read_cif(alone)


def refuse_gaps(block: "gemmi.cif.Block", name: str) -> None:
    """Refuse a structure without a cell or a coordinate, which gemmi takes for 1 or 0."""
    from gemmi import cif

    items = [f"_cell_{'length' if name in 'abc' else 'angle'}_{name}" for name in CELL]
    words = [block.find_value(item) or "?" for item in items]
    if not possible(np.array([cif.as_number(word) for word in words])):
        raise ValueError(
            f"the cell of {name} is {', '.join(words)}; give a, b, c in Å and α, β, γ in ° "
            "that make a cell"
        )
    for axis in "xyz":
        if not len(block.find_values(f"_atom_site_fract_{axis}")):
            raise ValueError(f"atoms of {name} have no fractional {axis}; give it")


def stated_group(small: "gemmi.SmallStructure", name: str) -> "gemmi.SpaceGroup | None":
    """The space group that a CIF states, by its operations if it lists them.

    None where nothing is stated, or operations that are a group in none of the tables.
    """
    import gemmi

    if len(small.symops) < 2:
        return small.spacegroup or gemmi.find_spacegroup_by_name(small.spacegroup_hm)
    try:
        listed = [gemmi.Op(text).wrap() for text in small.symops]
    except (RuntimeError, ValueError) as error:
        raise ValueError(
            f"symmetry operations of {name} cannot be read ({error}); correct them, or "
            "give the space group's symbol alone"
        ) from error
    found = gemmi.find_spacegroup_by_ops(gemmi.GroupOps(listed))
    named = gemmi.find_spacegroup_by_name(small.spacegroup_hm)
    if found and named and found.number != named.number:
        raise ValueError(
            f"{name} says {small.spacegroup_hm}, its symmetry operations are those of "
            f"{found.hm}; leave one of them out"
        )
    known = {op.triplet() for op in listed[:MOST_OPERATIONS]}
    products = (a * b for a in listed for b in listed)
    if found is None and not all(p.wrap().triplet() in known for p in products):
        raise ValueError(
            f"the {len(listed)} symmetry operations of {name} are not a group; correct "
            "them, or give the space group's symbol alone"
        )
    return found
