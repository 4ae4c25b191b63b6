"""Ensembles: several networks whose outputs are averaged."""

from collections.abc import Sequence
from os import PathLike
from typing import Any, overload

import numpy as np

from deepnotes.backends.base import Backend
from deepnotes.network.evaluation import compute_ensemble_metrics, mean_and_std, mean_output, outputs
from deepnotes.network.inputs import Converted, as_data, is_native
from deepnotes.network.network import Network
from deepnotes.nn.layers import Dense
from deepnotes.nn.losses import LossFunction, loss_after
from deepnotes.nn.metrics import Metrics, as_metrics
from deepnotes.utils.arguments import true_or_false
from deepnotes.utils.errors import ArgumentError


class Ensemble(Sequence[Network]):
    """Networks with the same inputs and outputs, whose mean output is the prediction (a deep ensemble).

    An ensemble is a sequence of its networks, so :func:`~deepnotes.fit_many` trains all of them. The outputs of
    networks that end in sigmoid or softmax are probabilities, and so is their mean.

    Parameters
    ----------
    networks : sequence of Network
        At least one. All have the same numbers of inputs and outputs, the same range of outputs (such as
        probabilities), the same dtype and the same backend. Hidden layers, seeds and standardizers may differ.

    Attributes
    ----------
    networks : tuple of Network
    metadata : dict
        JSON values that are saved with the ensemble, in addition to the metadata of each network.
    inputs, outputs : int
        The numbers of features and of outputs.
    backend : Backend
    dtype : str

    Raises
    ------
    ArgumentError

    References
    ----------
    B. Lakshminarayanan, A. Pritzel and C. Blundell, Simple and Scalable Predictive Uncertainty Estimation using Deep
    Ensembles, NIPS 2017.

    Examples
    --------
    >>> import deepnotes as dn
    >>> X = np.linspace(-1, 1, 50)[None]
    >>> ensemble = Ensemble([dn.Network([dn.Dense(8, "tanh"), dn.Dense(1)], inputs=1, seed=i) for i in range(3)])
    >>> results = dn.fit_many(ensemble, X, X**2, epochs=2)
    >>> A, std = ensemble.predict(X, return_std=True)
    >>> A.shape, std.shape
    ((1, 50), (1, 50))
    """

    def __init__(self, networks: Sequence[Network]) -> None:
        if not isinstance(networks, Sequence) or not networks:
            raise ArgumentError.of("networks", networks, "a list of at least one Network")
        for i, network in enumerate(networks):
            if not isinstance(network, Network):
                raise ArgumentError.of(f"networks[{i}]", network, "a Network")
            _require_alike(i, network, networks[0])
        self.networks = tuple(networks)
        self.metadata: dict[str, Any] = {}

    @property
    def inputs(self) -> int:
        """``n[0]``, the number of features."""
        return self.networks[0].inputs

    @property
    def outputs(self) -> int:
        """``n[L]``, the number of outputs."""
        return self.networks[0].outputs

    @property
    def dtype(self) -> str:
        """The dtype of the parameters and of the outputs."""
        return self.networks[0].dtype

    @property
    def backend(self) -> Backend:
        """The backend that all networks run on."""
        return self.networks[0].backend

    def predict(self, X: Any, *, return_std: bool = False) -> Any:
        """Return the mean of the networks' outputs, shape (n[L], m), for X of shape (n[0], m).

        Parameters
        ----------
        X : array_like, shape (n[0], m)
        return_std : bool, default False
            Whether to return the standard deviation of the networks' outputs as well, ``sqrt(mean((A_i - mean)²))``:
            a measure of how much the networks disagree.

        Returns
        -------
        A : array, shape (n[L], m)
            An array of the backend or a NumPy array, as :meth:`Network.predict` returns it.
        std : array, shape (n[L], m)
            Only if `return_std` is true.

        Raises
        ------
        ShapeError, DTypeError, ForeignArrayError
        """
        return_std = true_or_false("return_std", return_std)
        parts = [network.predict(X) for network in self.networks]
        native = is_native(self.networks[0], X)
        with np.errstate(all="ignore"), self.backend.execution_context():
            xp = self.backend.xp if native else np
            return mean_and_std(xp, parts) if return_std else mean_output(parts)

    def evaluate(
        self,
        X: Any,
        Y: Any,
        *,
        loss: str | LossFunction | None = None,
        metrics: Metrics = (),
        sample_weight: Any = None,
    ) -> dict[str, float]:
        """Return the mean loss and the metrics of the mean output, by name.

        Parameters and errors are as for :meth:`Network.evaluate`. The loss is computed from the mean output, not from
        logits.
        """
        function = loss_after(_last_activation(self.networks[0]), loss)
        metric_functions = as_metrics(metrics)
        converted: Converted = {}
        parts = []
        for network in self.networks:
            data, _ = as_data(network, X, Y, function, sample_weight, converted=converted)
            parts.append(self.backend.to_numpy(outputs(network, data.X)))
        with np.errstate(all="ignore"):
            return compute_ensemble_metrics(self.networks[0], data, mean_output(parts), function, metric_functions)

    def summary(self) -> str:
        """Return a table of the layers and the number of parameters of each kind of network."""
        from deepnotes.network.summary import ensemble_summary

        return ensemble_summary(self.networks)

    def save(self, path: str | PathLike[str]) -> None:
        """Write all networks and the metadata to one safetensors file, which :func:`~deepnotes.load` reads.

        If writing fails, an existing file is left unchanged.

        Raises
        ------
        ModelFileError
            As for :meth:`Network.save`.
        """
        from deepnotes.network.formats.model_files import save_ensemble

        save_ensemble(self.networks, self.metadata, path)

    def to_onnx(self, path: str | PathLike[str]) -> None:
        """Write the ensemble to an ONNX file, whose graph computes all networks and the mean of their outputs.

        The input ``X`` has shape (m, n[0]): samples are rows. The file includes the standardizers and the metadata of
        the ensemble. Errors are as for :meth:`Network.to_onnx`.
        """
        from deepnotes.network.formats import chain, onnx_writing

        onnx_writing.write(path, onnx_writing.to_onnx(chain.ChainMean.of(self.networks, self.metadata)))

    def to_python(self, path: str | PathLike[str]) -> None:
        """Write the ensemble to a Python file that needs only NumPy and contains test vectors to check itself.

        The function ``predict`` in the file takes an array of shape (m, n[0]): samples are rows. Errors are as for
        :meth:`Network.to_python`.
        """
        from deepnotes.network.formats import chain, onnx_writing, python_writing

        onnx_writing.write(path, python_writing.to_python(chain.ChainMean.of(self.networks, self.metadata)))

    def to_c(self, path: str | PathLike[str], *, weights: str = "exact") -> None:
        """Write the ensemble to a C99 file, as :meth:`Network.to_c` does."""
        from deepnotes.network.formats import c_writing, chain

        c_writing.write(path, chain.ChainMean.of(self.networks, self.metadata), weights)

    @overload
    def __getitem__(self, index: int) -> Network: ...
    @overload
    def __getitem__(self, index: slice) -> "Ensemble": ...
    def __getitem__(self, index: int | slice) -> "Network | Ensemble":
        """Return a network, or an ensemble of those in a slice, without the metadata of this one."""
        return Ensemble(self.networks[index]) if isinstance(index, slice) else self.networks[index]

    def __len__(self) -> int:
        return len(self.networks)

    def __repr__(self) -> str:
        return (
            f"Ensemble({len(self)} network{'s' * (len(self) > 1)}, inputs={self.inputs}, outputs={self.outputs}, "
            f"backend={self.backend.name!r}, dtype={self.dtype!r})"
        )


def _last_activation(network: Network) -> Any:
    """Return the activation of the last layer, or None for a layer without one."""
    last = network.layers[-1]
    return last.g if isinstance(last, Dense) else None


def _require_alike(i: int, network: Network, first: Network) -> None:
    """Raise ArgumentError unless the mean of the outputs of ``networks[i]`` and of the first network is meaningful."""
    for name in ("inputs", "outputs", "dtype", "backend", "range of outputs"):
        value, wanted = (_trait(n, name) for n in (network, first))
        if value != wanted:
            raise ArgumentError(
                f"networks[{i}]: {name} {value}, wanted {wanted} as for networks[0]: the networks of an ensemble have "
                "the same inputs, outputs, range of outputs, dtype and backend"
            )


def _trait(network: Network, name: str) -> object:
    if name == "backend":
        return network.backend.name
    if name == "range of outputs":
        return getattr(_last_activation(network), "range", "real")
    return getattr(network, name)
