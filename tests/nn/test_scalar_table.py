"""The table of an optimizer's scalars for consecutive updates."""

from typing import Any

import numpy as np
import pytest

import deepnotes as dn
from deepnotes.nn.optimizers import LIBRARY
from deepnotes.nn.plan import NEUTRAL, scalar_table

NAMES = ("rate", *NEUTRAL)
RATES = np.array([0.5, 0.25, 0.125])


@pytest.mark.parametrize("optimizer", [*(kind() for kind in LIBRARY.values()), dn.SGD(0.1, 0.9, rate_in_velocity=True)])
def test_each_column_has_the_scalars_of_its_update(optimizer: dn.Optimizer) -> None:
    table = scalar_table(optimizer, NAMES, 7, RATES)
    for update, rate in enumerate(RATES.tolist()):
        expected = NEUTRAL | optimizer.scalars(8 + update, rate)
        np.testing.assert_allclose(table[:, update], [expected[name] for name in NAMES], rtol=1e-14)


class OptimizerWithScalars(dn.Optimizer):
    def __init__(self, *names: str) -> None:
        self.names = names

    def scalars(self, step: Any, rate: Any) -> dict[str, Any]:
        return dict.fromkeys(self.names, rate)


def test_a_scalar_that_no_kernel_reads_is_refused() -> None:
    with pytest.raises(KeyError, match="got temperature, wanted only rate, epsilon"):
        scalar_table(OptimizerWithScalars("rate", "temperature"), ("rate", "epsilon"), 0, RATES)
    with pytest.raises(KeyError, match="got gain, wanted only rate"):
        scalar_table(dn.SGD(0.1, 0.9, rate_in_velocity=True), ("rate", "epsilon", "share"), 0, RATES)


def test_an_optimizer_without_a_rate_is_refused() -> None:
    with pytest.raises(KeyError, match="rate"):
        scalar_table(OptimizerWithScalars("epsilon"), NAMES, 0, RATES)
