"""The solver ``lbfgs``: SciPy's L-BFGS-B, with the cost and the gradient computed by the backend."""

import sys
import warnings
from typing import Any, NamedTuple

import numpy as np

from deepnotes.backends.program import Data, Program, State
from deepnotes.network.network import Network
from deepnotes.utils.streams import BestEffort


class Minimum(NamedTuple):
    """The result of a minimization: the smallest cost, and the number of iterations."""

    cost: float
    iterations: int


def minimize(
    network: Network,
    program: Program,
    state: State,
    data: Data,
    *,
    max_iter: int,
    max_fun: int,
    tol: float,
    verbose: Any,
) -> Minimum:
    """Minimize the cost of all `data` as one batch, from the network's parameters; the result replaces the parameters.

    Warns
    -----
    ConvergenceWarning
        If L-BFGS ended before it converged.
    """
    from scipy.optimize import minimize as scipy_minimize
    from sklearn.exceptions import ConvergenceWarning

    def cost_and_gradient(theta: np.ndarray) -> tuple[float, np.ndarray]:
        network.set_flat(theta)
        gradient = program.gradients(state, data)
        return float(gradient.cost), network.backend.to_numpy(gradient.flat).astype(np.float64)

    def report(intermediate_result: Any) -> None:
        BestEffort(sys.stdout).write(f"loss = {intermediate_result.fun:.8f}\n")

    with np.errstate(all="ignore"):
        result = scipy_minimize(
            cost_and_gradient,
            network.flat().astype(np.float64),
            method="L-BFGS-B",
            jac=True,
            options={"maxfun": max_fun, "maxiter": max_iter, "gtol": tol},
            callback=report if verbose else None,
        )
    network.set_flat(result.x)
    iterations = min(int(result.nit), max_iter)
    if result.status != 0:
        warnings.warn(
            f"lbfgs failed to converge after {iterations} iteration(s) (status={result.status}): {result.message}. "
            f"More iterations (max_iter={max_iter}, max_fun={max_fun}) or scaled data may help",
            ConvergenceWarning,
            stacklevel=6,
        )
    return Minimum(float(result.fun), iterations)
