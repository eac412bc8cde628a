"""Write scattering.safetensors from gemmi; run ``python xrdkit/tables/make.py``.

Form factors: International Tables C (1992), table 6.1.1.4, neutral atoms, a, b, c with
f0(s²) = Σ a exp(-b s²) + c. Dispersion: Cromer and Liberman as in gemmi, f' and f'' on a
grid of wavelengths (Å) even in log λ, with the lines of the usual tubes as exact columns.
"""

from pathlib import Path

import gemmi
import numpy as np
from safetensors.numpy import save_file

LINES = {  # Å: Kα1, Kα2, their 2:1 mean and Kβ1 (Hölzer et al. 1997, Bearden 1967)
    "Cr": (2.289726, 2.293651, 2.291034, 2.084881),
    "Fe": (1.936041, 1.939973, 1.937352, 1.756604),
    "Co": (1.788996, 1.792835, 1.790276, 1.620826),
    "Ni": (1.657930, 1.661756, 1.659205, 1.500152),
    "Cu": (1.540593, 1.544427, 1.541871, 1.392234),
    "Mo": (0.709317, 0.713607, 0.710747, 0.632303),
    "Ag": (0.559422, 0.563813, 0.560886, 0.497082),
}
RANGE = (0.05, 5.0, 1400)
EV_PER_INVERSE_ANGSTROM = 12398.419843


def dispersion_grid() -> np.ndarray:
    """Wavelengths in Å of the columns, ascending; tube lines are among them."""
    even = np.geomspace(*RANGE)
    lines = np.array(sorted(v for values in LINES.values() for v in values))
    near = np.abs(even[:, None] / lines - 1).min(axis=1) < 2e-4
    return np.sort(np.concatenate([even[~near], lines]))


def main() -> None:
    """Write the file beside this script."""
    a, b, c = np.zeros((99, 4)), np.zeros((99, 4)), np.zeros(99)
    wavelengths = dispersion_grid()
    anomalous = np.zeros((2, 99, len(wavelengths)), dtype=np.float32)
    for z in range(1, 99):
        coefficients = gemmi.Element(z).it92
        a[z], b[z], c[z] = coefficients.a, coefficients.b, coefficients.c
        for i, wavelength in enumerate(wavelengths):
            energy = EV_PER_INVERSE_ANGSTROM / wavelength
            anomalous[:, z, i] = gemmi.cromer_liberman(z=z, energy=energy)
    tensors = {"a": a, "b": b, "c": c, "wavelength": wavelengths}
    tensors |= {"f_prime": anomalous[0], "f_second": anomalous[1]}
    made = {"source": f"gemmi {gemmi.__version__}: IT92, Cromer-Liberman", "format": "1"}
    save_file(tensors, Path(__file__).with_name("scattering.safetensors"), metadata=made)


if __name__ == "__main__":
    main()
