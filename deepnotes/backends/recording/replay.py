"""Record a pure function of arrays once, then replay it in place, without allocation or dispatch.

The function is traced (:mod:`deepnotes.backends.recording.trace`), and
:mod:`deepnotes.backends.recording.allocation` turns its instructions into a flat list of calls such as
``multiply(a, b, out)``. The functions of the namespace must have a parameter ``out``, as NumPy's and CuPy's do. The
shapes of the inputs are fixed, and the function must not branch on values; no equation does.
"""

from collections.abc import Callable, Sequence
from typing import Any

from deepnotes.backends.recording.allocation import lower
from deepnotes.backends.recording.trace import Recorder, Symbol


class Recording:
    """A recorded function, ready to be replayed.

    Attributes
    ----------
    outputs : list of arrays
        The arrays that hold the results after :meth:`run`; every run overwrites them.
    """

    def __init__(self, calls: list[Callable[[], Any]], outputs: list[Any]) -> None:
        self.calls, self.outputs = calls, outputs

    def run(self) -> None:
        """Compute the outputs from the current contents of the input arrays."""
        for call in self.calls:
            call()


def record(
    xp: Any, function: Callable[..., Sequence[Any]], inputs: Sequence[Any], into: Sequence[Any] = ()
) -> Recording:
    """Return a recording of `function`, a pure function of arrays, on the given `inputs`.

    Parameters
    ----------
    xp : module
        The namespace to replay on; its functions have a parameter ``out``.
    function : callable
        Called once as ``function(recorder, *symbols)``; returns a sequence of arrays.
    inputs : sequence of arrays
        The arrays to read at each run.
    into : sequence of arrays or None
        The array to write each output to, in order; it may also be an input. If it is None, or if `into` has fewer
        elements than there are outputs, the output is written to a new array.

    Returns
    -------
    Recording

    Raises
    ------
    NotImplementedError, TypeError
        If the function uses an operation that cannot be recorded, or branches on values.

    Examples
    --------
    >>> import numpy as np
    >>> x, total = np.array([1.0, 2.0]), np.zeros(2)
    >>> accumulate = record(np, lambda xp, x, total: [total + 2 * x], [x, total], into=[total])
    >>> accumulate.run(); accumulate.run(); total
    array([4., 8.])
    """
    recorder = Recorder(xp)
    symbols = []
    for array in inputs:
        symbol = Symbol(recorder, array)
        symbol.array = array
        symbols.append(symbol)
    outputs = list(function(recorder, *symbols))
    targets = list(into) + [None] * (len(outputs) - len(into))
    return Recording(*lower(xp, recorder.instructions, symbols, outputs, targets))
