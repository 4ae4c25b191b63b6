"""Loss scaling, which keeps small derivatives above the smallest number of float16."""

from typing import Literal

GROW_AFTER = 1000
"""Good updates after which a dynamic scale doubles."""
LARGEST, SMALLEST = 2.0**24, 2.0**-24


class LossScale:
    """The factor of dZ where it is rounded to 16 bits.

    Parameters
    ----------
    wanted : float, "dynamic" or None
        None is 1.

    Attributes
    ----------
    value : float
        A power of two if dynamic, so that scaling is exact.
    """

    def __init__(self, wanted: "float | Literal['dynamic'] | None") -> None:
        self.dynamic = wanted == "dynamic"
        self.value = 2.0**15 if wanted == "dynamic" else float(wanted or 1.0)
        self._good = 0

    @property
    def until_growth(self) -> int:
        """The number of updates that may be made before :meth:`note` has to be called."""
        return max(1, GROW_AFTER - self._good) if self.dynamic else 1 << 62

    def note(self, made: int) -> bool:
        """Count updates; return whether the scale doubles."""
        self._good += made
        if not self.dynamic or self._good < GROW_AFTER or self.value >= LARGEST:
            return False
        self._good, self.value = 0, 2 * self.value
        return True

    def reduce(self) -> bool:
        """Halve the scale after a gradient that is not finite; return whether that can help."""
        if not self.dynamic or self.value <= SMALLEST:
            return False
        self._good, self.value = 0, self.value / 2
        return True
