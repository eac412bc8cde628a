import numpy as np
import pytest

import xrdkit
from xrdkit.examples import FORMULAS, make, path

STRONGEST = {"rutile": 27.46, "calcite": 29.43, "spinel": 36.88, "lab6": 30.42}


@pytest.mark.parametrize("name", FORMULAS)
def test_example_reads_and_has_its_strongest_line_where_the_compound_has_it(name):
    pattern = xrdkit.read(path(name), wavelength="CuKa")
    assert pattern.two_theta[pattern.intensity.argmax()] == pytest.approx(
        STRONGEST[name], abs=0.05
    )
    assert pattern.radiation.wavelengths == (1.540593, 1.544427)


@pytest.mark.parametrize("name", FORMULAS)
def test_script_makes_the_shipped_example(name):
    made = make.simulated(name)
    shipped = np.loadtxt(path(name))
    np.testing.assert_allclose(made.two_theta, shipped[:, 0], atol=0.005)
    assert np.corrcoef(made.intensity, shipped[:, 1])[0, 1] > 0.999


def test_unknown_example_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="no example 'quartz'; choose one of rutile"):
        path("quartz")
