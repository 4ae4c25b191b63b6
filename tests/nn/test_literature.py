"""Activations, losses and optimizers from the literature, written as formulas alone, train as in PyTorch.

tests/fixtures/make_literature.py stored PyTorch's results.
"""

import numpy as np
import pytest
from host_device import backend as cupy_backend
from literature_cases import PARTS, STORED, by_name, train

BACKENDS = {"numpy": lambda: "numpy", "numba": lambda: "numba", "cupy": cupy_backend}
PROGRAMS = {"numpy": "NumpyProgram", "numba": "NumbaProgram", "cupy": "CupyProgram"}


def test_the_cases_are_those_of_the_fixture():
    assert sorted(PARTS) == sorted(name.removesuffix("/losses") for name in STORED if name.endswith("/losses"))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", PARTS)
def test_parts_from_the_literature_train_as_in_pytorch(name, backend):
    net, losses = train(name, BACKENDS[backend]())
    program = type(net._training[1])  # type: ignore[index]
    assert program.__name__ == PROGRAMS[backend]  # compiled or recorded, not run eagerly
    np.testing.assert_allclose(losses, STORED[f"{name}/losses"], rtol=1e-10, atol=1e-14)
    for key, wanted in by_name(net, STORED[f"{name}/parameters"]).items():
        found = net.backend.to_numpy(net.parameters[key])
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-10 * abs(wanted).max())
