"""Conversion of a chain (usually read from a file of another format) to a network."""

from collections.abc import Sequence
from typing import Any, cast

import numpy as np

from deepnotes.backends.base import Backend
from deepnotes.equations.array import Namespace
from deepnotes.network.formats.chain import Chain, FeatureLink, Link, ShortcutLink
from deepnotes.network.network import Network
from deepnotes.nn.layers import Layer, Shortcut
from deepnotes.nn.plan import Layout


def network_of(chain: Chain, backend: str | Backend | None = None) -> Network:
    """Return a network on `backend` that makes the same predictions as `chain`.

    Raises
    ------
    UnknownNameError, BackendUnavailable
        As for :func:`deepnotes.get_backend`.
    """
    chain = chain.with_folded_target()
    links = cast(Sequence[Link | FeatureLink | ShortcutLink], chain.links)  # no others are read from files
    layers: list[Layer] = [
        Shortcut(i - link.source) if isinstance(link, ShortcutLink) else link.layer for i, link in enumerate(links)
    ]
    layout = Layout(chain.inputs, layers)
    parameters: Any = [link.parameters for link in links]
    theta = layout.join(cast(Namespace, np), parameters)
    network = Network(
        layers,
        chain.inputs,
        backend=backend,
        dtype=chain.dtype,
        seed=0,
        standardizer=chain.standardizer,
        theta=np.asarray(theta),
    )
    network.metadata = dict(chain.metadata)
    return network
