"""The equations bound to one namespace; a backend's kernels take the place of the equations with the same names."""

from collections.abc import Callable, Mapping
from typing import Any

from deepnotes.equations import EQUATIONS
from deepnotes.equations.array import Namespace


class Ops:
    """The equations bound to one namespace: ``ops.linear(W, A_prev, b)`` returns ``linear(xp, W, A_prev, b)``.

    Layers, losses and optimizers compute only with such an object.

    Parameters
    ----------
    namespace : Namespace
        The array module.
    kernels : mapping of str to callable
        Functions that replace the equations with the same names.

    Attributes
    ----------
    xp : Namespace
        The array module.
    """

    def __init__(self, namespace: Namespace, kernels: Mapping[str, Callable[..., Any]]) -> None:
        self.xp = namespace
        self._functions = EQUATIONS | dict(kernels)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        try:
            function = self.__dict__["_functions"][name]
        except KeyError:
            raise AttributeError(f"there is no equation {name!r}") from None
        xp = self.xp

        def bound(*args: Any, **kwargs: Any) -> Any:
            return function(xp, *args, **kwargs)

        setattr(self, name, bound)
        return bound
