import sys
from pathlib import Path

import numpy.ma  # noqa: F401  which warns when first imported without subnormal numbers
import pytest
import torch

ROOT = Path(__file__).parents[1]
sys.path += [str(ROOT), str(ROOT / "widgets")]  # last: what is installed goes first


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    torch.set_flush_denormal(True)


@pytest.fixture(scope="session")
def shared() -> Path:
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("needs ../shared/data, which is not here")
    return folder
