"""Textbook structures of every crystal system, built by pymatgen, for several tests."""

import numpy as np
from pymatgen.core import Lattice, Structure
from pymatgen.symmetry.groups import sg_symbol_from_int_number

from xrdkit.crystal import from_structures
from xrdkit.dataset import Table


def cell(*parameters: float) -> Lattice:
    """Edges given once fill the rest; angles are 90° unless three follow."""
    if len(parameters) == 1:
        parameters *= 3
    return Lattice.from_parameters(*(*parameters, 90, 90, 90)[:6])


def hexagonal(a: float, c: float) -> Lattice:
    return Lattice.hexagonal(a, c)


def square(a: float, c: float) -> Lattice:
    return Lattice.tetragonal(a, c)


# fmt: off
SITES = {  # space group, cell, sites; the first origin choice where there are two
    "NaCl": (225, cell(5.640), [("Na", 0, 0, 0), ("Cl", .5, .5, .5)]),
    "CsCl": (221, cell(4.123), [("Cs", 0, 0, 0), ("Cl", .5, .5, .5)]),
    "ZnS": (216, cell(5.409), [("Zn", 0, 0, 0), ("S", .25, .25, .25)]),
    "CaF2": (225, cell(5.463), [("Ca", 0, 0, 0), ("F", .25, .25, .25)]),
    "Cu": (225, cell(3.615), [("Cu", 0, 0, 0)]),
    "W": (229, cell(3.165), [("W", 0, 0, 0)]),
    "SrTiO3": (221, cell(3.905), [("Sr", .5, .5, .5), ("Ti", 0, 0, 0), ("O", .5, 0, 0)]),
    "FeS2": (205, cell(5.417), [("Fe", 0, 0, 0), ("S", .385, .385, .385)]),
    "LaB6": (221, cell(4.157), [("La", 0, 0, 0), ("B", .1993, .5, .5)]),
    "Cr3Si": (223, cell(4.56), [("Si", 0, 0, 0), ("Cr", .25, 0, .5)]),
    "FeSi": (198, cell(4.489), [("Fe", .137, .137, .137), ("Si", .842, .842, .842)]),
    "NiAs": (194, hexagonal(3.62, 5.03), [("Ni", 0, 0, 0), ("As", 1/3, 2/3, .25)]),
    "ZnO": (186, hexagonal(3.25, 5.207), [("Zn", 1/3, 2/3, 0), ("O", 1/3, 2/3, .382)]),
    "CdI2": (164, hexagonal(4.24, 6.84), [("Cd", 0, 0, 0), ("I", 1/3, 2/3, .249)]),
    "Mg": (194, hexagonal(3.209, 5.211), [("Mg", 1/3, 2/3, .25)]),
    "BN": (194, hexagonal(2.504, 6.66), [("B", 1/3, 2/3, .25), ("N", 1/3, 2/3, .75)]),
    "AlB2": (191, hexagonal(3.005, 3.257), [("Al", 0, 0, 0), ("B", 1/3, 2/3, .5)]),
    "CaCu5": (191, hexagonal(5.082, 4.078),
              [("Ca", 0, 0, 0), ("Cu", 1/3, 2/3, 0), ("Cu", .5, 0, .5)]),
    "MgZn2": (194, hexagonal(5.22, 8.567),
              [("Mg", 1/3, 2/3, .062), ("Zn", 0, 0, 0), ("Zn", .83, .66, .25)]),
    "UCl3": (176, hexagonal(7.443, 4.321), [("U", 1/3, 2/3, .25), ("Cl", .386, .301, .25)]),
    "Al2O3": (167, hexagonal(4.759, 12.991), [("Al", 0, 0, .3521), ("O", .3064, 0, .25)]),
    "CaCO3": (167, hexagonal(4.99, 17.062),
              [("Ca", 0, 0, 0), ("C", 0, 0, .25), ("O", .257, 0, .25)]),
    "SiO2": (152, hexagonal(4.913, 5.405),
             [("Si", .4697, 0, 1/3), ("O", .4133, .2672, .2144)]),
    "FeTiO3": (148, hexagonal(5.088, 14.09),
               [("Fe", 0, 0, .3553), ("Ti", 0, 0, .1464), ("O", .3174, .0233, .2451)]),
    "CuFeO2": (166, hexagonal(3.035, 17.166),
               [("Cu", 0, 0, 0), ("Fe", 0, 0, .5), ("O", 0, 0, .1066)]),
    "LiNbO3": (161, hexagonal(5.148, 13.863),
               [("Nb", 0, 0, 0), ("Li", 0, 0, .279), ("O", .0476, .3433, .0633)]),
    "Bi2Te3": (166, hexagonal(4.385, 30.5),
               [("Bi", 0, 0, .4005), ("Te", 0, 0, 0), ("Te", 0, 0, .2097)]),
    "Si": (227, cell(5.431), [("Si", 0, 0, 0)]),
    "MgAl2O4": (227, cell(8.083), [("Mg", 0, 0, 0), ("Al", .625, .625, .625),
                                   ("O", .3874, .3874, .3874)]),
    "MgCu2": (227, cell(7.03), [("Mg", 0, 0, 0), ("Cu", .625, .625, .625)]),
    "TiO2 141": (141, square(3.785, 9.514), [("Ti", 0, 0, 0), ("O", 0, 0, .208)]),
    "CaWO4": (88, square(5.243, 11.374),
              [("W", 0, 0, 0), ("Ca", 0, 0, .5), ("O", .241, .151, .081)]),
    "ZrSiO4": (141, square(6.607, 5.982),
               [("Zr", 0, 0, 0), ("Si", 0, 0, .5), ("O", 0, .316, .0703)]),
    "TiO2": (136, square(4.594, 2.959), [("Ti", 0, 0, 0), ("O", .305, .305, 0)]),
    "CuFeS2": (122, square(5.29, 10.42),
               [("Cu", 0, 0, 0), ("Fe", 0, 0, .5), ("S", .257, .25, .125)]),
    "PbO": (129, square(3.976, 5.023), [("O", 0, 0, 0), ("Pb", 0, .5, .237)]),
    "MoSi2": (139, square(3.203, 7.855), [("Mo", 0, 0, 0), ("Si", 0, 0, .333)]),
    "K2NiF4": (139, square(4.006, 13.076),
               [("Ni", 0, 0, 0), ("K", 0, 0, .352), ("F", .5, 0, 0), ("F", 0, 0, .151)]),
    "CuAl2": (140, square(6.067, 4.877), [("Cu", 0, 0, .25), ("Al", .158, .658, 0)]),
    "PbTiO3": (99, square(3.90, 4.15),
               [("Pb", 0, 0, 0), ("Ti", .5, .5, .54), ("O", .5, .5, .11),
                ("O", .5, 0, .62)]),
    "TiAl": (123, square(2.82, 4.07), [("Ti", 0, 0, 0), ("Al", .5, .5, .5)]),
    "CaTiO3": (62, cell(5.442, 7.640, 5.380),
               [("Ca", .0359, .25, .9923), ("Ti", 0, 0, .5), ("O", .4837, .25, .0711),
                ("O", .2888, .0373, .7111)]),
    "Co2P": (62, cell(5.646, 3.513, 6.608),
             [("P", .246, .25, .125), ("Co", .856, .25, .065), ("Co", .966, .25, .665)]),
    "MnP": (62, cell(5.258, 3.172, 5.918),
            [("Mn", .0049, .25, .1965), ("P", .1878, .25, .5686)]),
    "FeS2 58": (58, cell(4.443, 5.425, 3.387), [("Fe", 0, 0, 0), ("S", .2, .378, 0)]),
    "U": (63, cell(2.854, 5.87, 4.955), [("U", 0, .105, .25)]),
    "CrB": (63, cell(2.969, 7.858, 2.932), [("Cr", 0, .146, .25), ("B", 0, .435, .25)]),
    "TiSi2": (63, cell(3.62, 13.76, 3.605),
              [("Ti", 0, .102, .25), ("Si", 0, .75, .25), ("Si", 0, .447, .25)]),
    "SiS2": (72, cell(9.583, 5.614, 5.547), [("Si", 0, 0, .25), ("S", .109, .208, 0)]),
    "KNbO3": (38, cell(3.973, 5.695, 5.721),
              [("K", 0, 0, .017), ("Nb", .5, 0, .5), ("O", 0, 0, .521),
               ("O", .5, .248, .273)]),
    "GeS2": (43, cell(11.68, 22.34, 6.87),
             [("Ge", .125, .139, 0), ("S", .013, .078, .19), ("S", .187, .178, .25)]),
    "LiGaO2": (33, cell(5.402, 6.372, 5.007),
               [("Li", .421, .127, .494), ("Ga", .082, .126, 0), ("O", .407, .139, .893),
                ("O", .07, .112, .371)]),
    "ZrO2": (14, cell(5.15, 5.212, 5.317, 90, 99.23, 90),
             [("Zr", .2754, .0395, .2083), ("O", .07, .3317, .3447),
              ("O", .4496, .7569, .4792)]),
    "CuO": (15, cell(4.684, 3.423, 5.129, 90, 99.54, 90),
            [("Cu", .25, .25, 0), ("O", 0, .4184, .25)]),
    "AlCl3": (12, cell(5.92, 10.22, 6.16, 90, 108, 90),
              [("Al", 0, .167, 0), ("Cl", .226, 0, .219), ("Cl", .25, .175, .781)]),
    "ZrSe3": (11, cell(5.411, 3.749, 9.444, 90, 97.48, 90),
              [("Zr", .285, .25, .656), ("Se", .762, .25, .554), ("Se", .456, .25, .174),
               ("Se", .888, .25, .169)]),
    "polar Cc": (9, cell(7.1, 6.3, 5.6, 90, 111, 90),
                 [("Li", .1, .2, .3), ("Se", .4, .1, .75)]),
    "polar P2_1": (4, cell(5.1, 4.3, 6.6, 90, 101, 90),
                   [("Na", .1, .2, .3), ("Te", .4, .1, .75)]),
    "C222_1": (20, cell(6.2, 7.9, 5.5), [("K", .12, 0, 0), ("Br", 0, .31, .25)]),
    "P-1": (2, cell(5.2, 6.1, 6.9, 81, 97, 104),
            [("Ca", .11, .27, .33), ("P", .62, .13, .71), ("H", .45, .77, .9)]),
    "P1": (1, cell(4.2, 5.1, 5.9, 83, 94, 107), [("Ag", 0, 0, 0), ("Cl", .41, .33, .52)]),
}
# fmt: on


def build(space_group: int, lattice: Lattice, sites: list[tuple]) -> Structure:
    symbol = sg_symbol_from_int_number(space_group, hexagonal=space_group in R_GROUPS)
    species, coords = [name for name, *_ in sites], [xyz for _, *xyz in sites]
    return Structure.from_spacegroup(symbol, lattice, species, coords)


R_GROUPS = (146, 148, 155, 160, 161, 166, 167)
STRUCTURES = {name: build(*sites) for name, sites in SITES.items()}


def with_elements(
    structure: Structure, elements: dict[str, str], scale: float = 1.0
) -> Structure:
    """The same structure with other elements, edges times ``scale``."""
    other = structure.copy()
    present = {site.specie.symbol for site in structure}
    other.replace_species({old: new for old, new in elements.items() if old in present})
    other.scale_lattice(other.volume * scale**3)
    return other


def another_pose(structure: Structure, generator: np.random.Generator) -> Structure:
    """The same crystal: another cell (maybe doubled), rotated, shifted, atoms shuffled."""
    cell = np.eye(3, dtype=int)
    for i, j in ((0, 1), (1, 2), (2, 0)):
        cell[i] += generator.integers(-1, 2) * cell[j]
    cell[generator.integers(3)] *= generator.integers(1, 3)
    other = structure.make_supercell(cell, in_place=False)
    rotation = np.linalg.qr(generator.normal(size=(3, 3)))[0]
    rotation *= np.sign(np.linalg.det(rotation))
    order = generator.permutation(len(other))
    return Structure(
        other.lattice.matrix @ rotation,
        [other[i].specie for i in order],
        other.frac_coords[order] + generator.random(3),
    )


def table_of(structures: list[Structure]) -> Table:
    formulas = tuple(s.composition.reduced_formula for s in structures)
    names = tuple(str(i) for i in range(len(structures)))
    return Table(names, formulas, (1,) * len(structures), from_structures(structures))
