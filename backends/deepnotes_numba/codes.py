"""How the activation of a layer is computed, and what this backend supports.

Plans with parts whose equations cannot be traced run eagerly, as do those with other layers than Dense, Dropout,
BatchNorm, Embedding, Noise, Shortcut and layers by feature. This module does not import Numba, since that takes a
second.
"""

from deepnotes.backends import Supported

IDENTITY, IN_PLACE, BY_ELEMENT, BY_SAMPLE = range(4)
"""No computation; A overwrites Z; A in its own memory; likewise, and all outputs of a sample are needed together."""

SUPPORTED = Supported(generates=True, by_feature=True, batch_norm=True, embeds=True, l1=True)
