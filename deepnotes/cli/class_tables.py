"""The scores of each class: the table that ``train`` and ``evaluate`` print, and the warning about missing classes."""

from collections.abc import Sequence
from typing import Any

from deepnotes.cli.output import Output, cell, format_count
from deepnotes.utils.wording import join_names, one_line, quote

SHOWN = 20
"""The number of classes in the printed table; the JSON object has all classes."""

ClassRows = Sequence[dict[str, Any]]
"""The result of :meth:`deepnotes.cli.tasks.Classification.evaluate_classes`."""


def report_classes(classes: ClassRows, output: Output, weighted: bool = False) -> None:
    """Print the scores of each class, those with the lowest F1 if there are many; warn of a class never predicted.

    Parameters
    ----------
    classes : sequence of dict
    output : Output
    weighted : bool
        Whether the network was trained with --class-weight.
    """
    from rich.table import Table

    lowest = sorted(classes, key=lambda row: (row["f1"] is None, row["f1"]))[:SHOWN]
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in ("class", "rows", "predicted", "precision", "recall", "F1"):
        table.add_column(name, header_style="bold", justify="left" if name == "class" else "right")
    for row in classes:
        if row in lowest:
            scores = ("-" if row[name] is None else f"{row[name]:.3f}" for name in ("precision", "recall", "f1"))
            table.add_row(*map(cell, (one_line(row["class"]), f"{row['rows']:,}", f"{row['predicted']:,}", *scores)))
    output.report("")
    output.show(table)
    if len(classes) > SHOWN:
        output.report(f"and {format_count(len(classes) - SHOWN, 'class', 'classes')} with a higher F1")
    missing = never_predicted(classes)
    if missing:
        one = len(missing) == 1
        rows = format_count(sum(row["rows"] for row in classes if row["class"] in missing), "row")
        what = f"{'class' if one else 'classes'} {join_names(map(quote, missing))} {'is' if one else 'are'}"
        belong = f"{'is' if rows == '1 row' else 'are'} of {'this class' if one else 'these classes'}"
        advice = "balanced gives rare classes as much weight as the others"
        if weighted:
            advice = f"CLASS=WEIGHT can give {'it' if one else 'them'} more weight"
        output.log(f"warning: {what} never predicted, although {rows} {belong}; training with --class-weight {advice}")


def never_predicted(classes: ClassRows) -> list[str]:
    """Return the names of the classes that have rows, but are predicted for none."""
    return [row["class"] for row in classes if row["rows"] and not row["predicted"]]
