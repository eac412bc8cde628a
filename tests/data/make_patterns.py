"""Writes the small simulated patterns of this folder; run it from the repository root."""

from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
LINES = {28.44: 100, 47.30: 60, 56.12: 35, 69.13: 9, 76.37: 13}  # Si, Cu Kα1: 2θ, height


def counts(x: np.ndarray) -> np.ndarray:
    """Poisson counts of five lines of 0.3° over a background of 50."""
    y = 50 + sum(
        20 * h * np.exp(-4 * np.log(2) * ((x - p) / 0.3) ** 2) for p, h in LINES.items()
    )
    return np.random.default_rng(1).poisson(y)


def main() -> None:
    """The same pattern as text, GSAS STD, GSAS FXYE and CIF."""
    x = np.arange(20, 80, 0.1).round(2)
    y = counts(x)
    xy = "".join(f"{a:.2f} {b}\n" for a, b in zip(x, y, strict=True))
    (HERE / "si.xy").write_text(f"# Si, simulated, Cu Ka1\n{xy}")
    fields = [f"{value:8d}" for value in y]
    rows = ["".join(fields[i : i + 10]) + "\n" for i in range(0, len(y), 10)]
    bank = f"BANK 1 {len(y)} {len(rows)} CONST 2000 10 0 0 STD\n"
    (HERE / "si.gsas").write_text(f"Si, simulated, Cu Ka1\n{bank}{''.join(rows)}")
    rows = [
        f"{100 * a:.1f} {b} {max(b, 1) ** 0.5:.3f}\n" for a, b in zip(x, y, strict=True)
    ]
    bank = f"BANK 1 {len(y)} {len(rows)} CONST 2000 10 0 0 FXYE\n"
    (HERE / "si.fxye").write_text(f"Si\n# wavelength 1.540593\n{bank}{''.join(rows)}")
    rows = [f"{a:.2f} {b}({round(max(b, 1) ** 0.5)})\n" for a, b in zip(x, y, strict=True)]
    (HERE / "si_pd.cif").write_text(
        "data_si\nloop_\n_diffrn_radiation_wavelength\n_diffrn_radiation_wavelength_wt\n"
        "1.540593 1.0\n1.544427 0.5\n"
        "loop_\n_pd_meas_2theta_scan\n_pd_meas_intensity_total\n" + "".join(rows)
    )


if __name__ == "__main__":
    main()
