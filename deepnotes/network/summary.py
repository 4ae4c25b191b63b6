"""The tables that the method ``summary`` of networks and ensembles returns."""

from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from deepnotes.nn.layers import Dense, Dropout, Gate, Layer, Noise
from deepnotes.utils import html
from deepnotes.utils.wording import one_line

if TYPE_CHECKING:
    from deepnotes.network.protocol import NetworkLike


class Summary(str):
    """The text of a summary, which a console prints as it is, and a notebook shows as a table."""

    __slots__ = ("_table",)
    _table: tuple[list[tuple[str, ...]], str]

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        """Return the table as HTML, for IPython."""
        (header, *rows), total = self._table
        return html.table(header, rows, total, text_columns=len(header) - 1)


def summary(network: "NetworkLike") -> Summary:
    """Return a table with the output shape, activation and number of parameters of each layer of `network`."""
    layout = network.layout
    rows: list[tuple[str, ...]] = [
        ("layer", "output", "activation", "parameters"),
        ("input", f"({network.inputs}, m)", "", ""),
    ]
    for i, layer in enumerate(network.layers):
        count = sum(e.stop - e.start for e in layout.entries.values() if e.layer == i)
        kind = _kind(layer)
        rows.append((kind, f"({layout.sizes[i + 1]}, m)", _describe(layer), f"{count:,}" if count else ""))
    total = _total([network])
    widths = [max(len(row[c]) for row in rows) for c in range(4)]
    lines = [f"{a:<{widths[0]}}  {b:<{widths[1]}}  {c:<{widths[2]}}  {d:>{widths[3]}}".rstrip() for a, b, c, d in rows]
    rule = "-" * (sum(widths) + 6)
    text = Summary("\n".join([lines[0], rule, *lines[1:], rule, total]))
    text._table = rows, total
    return text


def ensemble_summary(networks: "Sequence[NetworkLike]") -> Summary:
    """Return a table with the layers and the number of parameters of each kind of network in an ensemble."""
    rows: list[tuple[str, ...]] = [("networks", "layers", "parameters each")]
    for layers, group in groupby(enumerate(networks), lambda item: _layers_of(item[1])):
        indices = [i for i, _ in group]
        numbers = str(indices[0]) if len(indices) == 1 else f"{indices[0]} to {indices[-1]}"
        rows.append((numbers, layers, f"{networks[indices[0]].layout.size:,}"))
    widths = [max(len(row[c]) for row in rows) for c in range(3)]
    lines = [f"{a:<{widths[0]}}  {b:<{widths[1]}}  {c:>{widths[2]}}" for a, b, c in rows]
    rule = "-" * (sum(widths) + 4)
    total = _total(networks)
    total = f"the mean of {len(networks)} network{'s' * (len(networks) > 1)}, {total}"
    text = Summary("\n".join([lines[0], rule, *lines[1:], rule, total]))
    text._table = rows, total
    return text


def _total(networks: "Sequence[NetworkLike]") -> str:
    """Return the last line of a table, for one network or for all networks of an ensemble."""
    network, layouts = networks[0], [network.layout for network in networks]
    parameters, statistics = sum(x.size for x in layouts), sum(x.size - x.trained for x in layouts)
    kilobytes = parameters * (4 if network.dtype == "float32" else 8) / 1e3
    size = f"{kilobytes / 1e3:,.1f} MB" if kilobytes >= 1e3 else f"{kilobytes:,.1f} kB"
    of_them = f", {statistics:,} of them running statistics" if statistics else ""
    total = f"{parameters:,} parameters{of_them}, {network.dtype}, {size}, backend {one_line(network.backend.name)}"
    return total if network.dialect == "notes" else f"{total}, defaults of {network.dialect}"


def _layers_of(network: "NetworkLike") -> str:
    """Return the layers of a network on one line."""
    descriptions = [f"{network.inputs} inputs"]
    for i, layer in enumerate(network.layers):
        if isinstance(layer, Dropout):
            descriptions.append(f"dropout {layer.rate:g}")
        elif isinstance(layer, Noise):
            descriptions.append(f"noise {layer.std:g}")
        elif isinstance(layer, Dense):
            descriptions.append(f"{network.layout.sizes[i + 1]} {_describe(layer)}")
        else:
            descriptions.append(_kind(layer))
    return ", ".join(descriptions)


def _kind(layer: Layer) -> str:
    return one_line(type(layer).__name__.lower())


def _describe(layer: Layer) -> str:
    """Return the activation (and constraint) of a dense layer or gate, the rate of dropout, the std of noise, or ""."""
    if isinstance(layer, Dropout):
        return f"rate {layer.rate:g}"
    if isinstance(layer, Noise):
        return f"std {layer.std:g}"
    if isinstance(layer, Dense | Gate):
        options = ", ".join(f"{k}={v:g}" for k, v in getattr(layer.g, "options", ()))
        name = one_line(getattr(layer.g, "name", type(layer.g).__name__)) + (f" ({options})" if options else "")
        constraint = getattr(layer, "constraint", None)
        return name if constraint is None else f"{name} with {one_line(repr(constraint))}"
    return ""
