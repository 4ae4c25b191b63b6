"""Loss scaling, so that small derivatives do not underflow in float16."""

from typing import Literal

GROW_AFTER = 1000
"""The number of successful updates after which a dynamic scale doubles."""
LARGEST, SMALLEST = 2.0**24, 2.0**-24


class LossScale:
    """The factor by which dZ is multiplied before it is rounded to 16 bits.

    Parameters
    ----------
    scale : float, "dynamic" or None
        None means 1.

    Attributes
    ----------
    value : float
        The factor; a power of two if it is dynamic, so that scaling is exact.
    """

    def __init__(self, scale: "float | Literal['dynamic'] | None") -> None:
        self.dynamic = scale == "dynamic"
        self.value = 2.0**15 if scale == "dynamic" else float(scale or 1.0)
        self._successful = 0

    @property
    def until_growth(self) -> int:
        """The largest number of updates before :meth:`record` must be called."""
        return max(1, GROW_AFTER - self._successful) if self.dynamic else 1 << 62

    def record(self, updates: int) -> bool:
        """Count successful updates; return whether the scale was doubled."""
        self._successful += updates
        if not self.dynamic or self._successful < GROW_AFTER or self.value >= LARGEST:
            return False
        self._successful, self.value = 0, 2 * self.value
        return True

    def reduce(self) -> bool:
        """Halve a dynamic scale after a gradient that is not finite; return whether it was halved."""
        if not self.dynamic or self.value <= SMALLEST:
            return False
        self._successful, self.value = 0, self.value / 2
        return True
