"""Plots of training histories, and properties that all plots share. The appearance was checked by eye."""

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from drawing import REASON, line_with_label, save_figure, visible_text

import deepnotes as dn
from deepnotes import plots
from deepnotes.cli import main


@pytest.fixture(autouse=True)
def figure_module() -> ModuleType:
    return pytest.importorskip("matplotlib.figure", reason=REASON)


def history(epochs: int, **options: Any) -> dn.History:
    loss = list(2.0 * 0.9 ** np.arange(epochs))
    return dn.History(loss=loss, val_loss=[1.1 * value for value in loss], **options)


# --- curves -----------------------------------------------------------------------------------------------------------


def test_the_loss_and_each_metric_have_a_panel_with_their_values(tmp_path: Path) -> None:
    full = history(12, metrics={"val_accuracy": list(np.linspace(0.5, 0.9, 12)), "r2": [0.5] * 12}, best_epoch=7)
    figure = save_figure(full.plot(), tmp_path)
    loss, accuracy, r2 = figure.axes
    assert [ax.get_ylabel() for ax in figure.axes] == ["loss", "accuracy", "r2"]
    assert [ax.get_xlabel() for ax in figure.axes] == ["epoch"] * 3
    for ax, label, values in (
        (loss, "training", full.loss),
        (loss, "validation", full.val_loss),
        (accuracy, "validation", full.metrics["val_accuracy"]),
        (r2, "training", full.metrics["r2"]),
    ):
        x, y = line_with_label(ax, label).get_data()
        assert list(x) == list(range(1, 13))
        assert list(y) == values
    assert [text.get_text() for text in loss.get_legend().get_texts()] == [
        "training",
        "validation",
        "best epoch 7, restored",
    ]
    assert list(line_with_label(loss, "best epoch 7, restored").get_xdata()) == [7, 7]
    assert list(line_with_label(accuracy, "_best").get_xdata()) == [7, 7]


def test_training_and_validation_differ_in_more_than_colour() -> None:
    (ax,) = history(5).plot().axes
    training, validation = line_with_label(ax, "training"), line_with_label(ax, "validation")
    assert training.get_linestyle() != validation.get_linestyle()
    assert training.get_marker() != validation.get_marker()
    from matplotlib.colors import to_rgb

    # The colours also differ in lightness (the luminance of Rec. 709).
    light, dark = (np.dot(to_rgb(curve.get_color()), (0.2126, 0.7152, 0.0722)) for curve in (validation, training))
    assert abs(light - dark) > 0.05


@pytest.mark.parametrize(
    ("loss", "scale"),
    [
        ([2.0, 1.0, 0.5], "linear"),
        ([2.0, 0.2, 0.02], "log"),
        ([2.0, 0.2, 0.0], "linear"),
        ([2.0, -0.2, 0.02], "linear"),
        ([2.0, np.inf, 1.0], "linear"),
        ([2.0, np.nan, 1e-9], "log"),
    ],
)
def test_a_loss_that_falls_far_has_a_logarithmic_scale(loss: list[float], scale: str, tmp_path: Path) -> None:
    figure = save_figure(dn.History(loss=loss).plot(), tmp_path)
    assert figure.axes[0].get_yscale() == scale
    assert "10^" not in visible_text(figure)


def test_the_best_epoch_has_the_lowest_validation_loss() -> None:
    (ax,) = dn.History(loss=[3.0, 2.0, 1.0], val_loss=[np.nan, 2.0, 2.5]).plot().axes
    assert list(line_with_label(ax, "best epoch 2").get_xdata()) == [2, 2]
    (ax,) = dn.History(loss=[3.0, 2.0, 1.0]).plot().axes
    assert "best" not in visible_text(ax.figure)


@pytest.mark.parametrize("epochs", [1, 2, 30, 1000])
def test_ticks_are_at_whole_epochs(epochs: int, tmp_path: Path) -> None:
    (ax,) = save_figure(history(epochs).plot(), tmp_path).axes
    low, high = ax.get_xlim()
    ticks = [tick for tick in ax.get_xticks() if low <= tick <= high]
    assert ticks
    assert all(tick == int(tick) and 1 <= tick <= epochs for tick in ticks)
    assert low < 1 <= epochs < high
    assert (line_with_label(ax, "training").get_marker() != "") is (epochs <= 30)


def test_values_that_are_not_finite_leave_a_gap_and_are_marked(tmp_path: Path) -> None:
    loss = [3.0, np.nan, 2.0, np.inf, 1.0] + [0.5] * 60
    (ax,) = save_figure(dn.History(loss=loss).plot(), tmp_path).axes
    assert list(line_with_label(ax, "not finite").get_xdata()) == [2, 4]
    assert np.isnan(line_with_label(ax, "training").get_ydata()[[1, 3]]).all()
    assert line_with_label(ax, "training").get_marker() == "o"  # a line would not show epoch 3, which has no neighbour
    figure = save_figure(dn.History(loss=[1.0], metrics={"r2": [np.nan]}).plot(), tmp_path)
    assert "no finite value" in visible_text(figure)


def test_curves_are_drawn_into_the_given_axes(figure_module: ModuleType) -> None:
    short = history(3, metrics={"val_accuracy": [0.1, 0.2, 0.3]})
    given = figure_module.Figure()
    ax = given.add_subplot()
    assert short.plot(ax=ax) is given
    assert ax.get_ylabel() == "loss"
    pair = figure_module.Figure().subplots(1, 2)
    short.plot(ax=pair)
    assert [ax.get_ylabel() for ax in pair] == ["loss", "accuracy"]
    (ax,) = short.plot("accuracy").axes
    assert list(line_with_label(ax, "validation").get_ydata()) == [0.1, 0.2, 0.3]
    figure = short.plot(["accuracy", "loss"])
    assert [ax.get_ylabel() for ax in figure.axes] == ["accuracy", "loss"]


def test_invalid_curves_are_refused(figure_module: ModuleType) -> None:
    short = history(3, metrics={"val_accuracy": [0.1, 0.2, 0.3]})
    with pytest.raises(dn.ArgumentError, match="no epoch has finished"):
        dn.History().plot()
    with pytest.raises(dn.UnknownNameError, match="unknown curve 'acuracy'; did you mean 'accuracy'"):
        short.plot("acuracy")
    with pytest.raises(dn.ArgumentError, match="ax: got 1 axes, wanted one for each of loss, accuracy"):
        short.plot(["loss", "accuracy"], ax=figure_module.Figure().add_subplot())
    with pytest.raises(dn.ArgumentError, match=r"ax\[0\]=3, wanted matplotlib Axes"):
        short.plot(ax=3)
    with pytest.raises(dn.ArgumentError, match=r"show=\[\], wanted at least one of loss, accuracy"):
        short.plot([])


# --- all plots --------------------------------------------------------------------------------------------------------


def test_plots_neither_import_pyplot_nor_change_its_state() -> None:
    import subprocess

    # A new process has not imported pyplot.
    code = (
        "import sys, numpy as np, deepnotes as dn; from deepnotes import plots\n"
        "net = dn.Network([dn.Dense(4, 'tanh'), dn.Dense(2, 'softmax')], inputs=4)\n"
        "X, y = np.ones((4, 3)), np.array([0, 1, 1])\n"
        "def draw():\n"
        " net.fit(X, y, epochs=2).plot(), plots.confusion_of(net, X, y), plots.weights(net), plots.diagram(net)\n"
        "assert 'matplotlib' not in sys.modules; draw()\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
        "import matplotlib; matplotlib.use('agg'); before = dict(matplotlib.rcParams)\n"
        "import matplotlib.pyplot as plt; mine = plt.figure(); draw()\n"
        "assert plt.get_fignums() == [1] and plt.gcf() is mine and dict(matplotlib.rcParams) == before\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


def test_saving_the_same_plot_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    for kind in ("png", "pdf"):
        for name in ("a", "b"):
            plots.save(history(3).plot(), tmp_path / f"{name}.{kind}")
        assert (tmp_path / f"a.{kind}").read_bytes() == (tmp_path / f"b.{kind}").read_bytes()


@pytest.mark.parametrize(("path", "message"), [("a.gif", "ends in '.gif'"), ("a", "has no ending"), (3, "path=3")])
def test_unsupported_file_formats_are_refused(path: Any, message: str) -> None:
    with pytest.raises(dn.ArgumentError, match=message):
        plots.save(history(3).plot(), path)


def test_a_failed_save_keeps_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "a.PNG"
    target.write_text("old")

    class FailingFigure:
        def savefig(self, *args: Any, **kwargs: Any) -> None:
            raise MemoryError

    with pytest.raises(MemoryError):
        plots.save(FailingFigure(), target)
    assert target.read_text() == "old"
    plots.save(history(3).plot(), target)
    assert target.read_bytes().startswith(b"\x89PNG")


def test_without_matplotlib_the_error_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, capsys: Any, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    net = dn.Network([dn.Dense(2)], inputs=4)
    for draw in (
        history(3).plot,
        lambda: plots.weights(net),
        lambda: plots.diagram(net),
        lambda: plots.confusion([0], [0]),
    ):
        with pytest.raises(dn.MissingExtraError, match=r'to fix it: pip install "deepnotes\[plot\]"'):
            draw()
    monkeypatch.chdir(tmp_path)
    assert main(["train", "digits", "--plot", "a.png"]) == 1
    assert 'pip install "deepnotes[plot]"' in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


# --- the command line -------------------------------------------------------------------------------------------------

SMALL = ["--layers", "4", "--epochs", "3", "--batch-size", "512", "--quiet", "--json"]


@pytest.mark.parametrize("kind", ["png", "svg", "pdf"])
def test_train_writes_a_plot(kind: str, tmp_path: Path, run: Any) -> None:
    path = tmp_path / f"curves.{kind}"
    out, _ = run("train", "digits", *SMALL, "-o", tmp_path / "m.safetensors", "--plot", path)
    assert json.loads(out)["plot"] == str(path)
    start = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}[kind]
    content = path.read_bytes()
    assert content.startswith(start)
    if kind == "svg":
        for text in (
            b"<!-- loss -->",
            b"<!-- accuracy -->",
            b"<!-- training -->",
            b"<!-- validation -->",
            b"best epoch",
        ):
            assert text in content


@pytest.mark.parametrize(
    ("plot", "status", "message"),
    [
        ("curves.gif", 2, "argument --plot: 'curves.gif' ends in '.gif', wanted .png, .svg or .pdf"),
        ("nowhere/curves.png", 1, "cannot write nowhere/curves.png"),
        ("m.svg", 2, "--plot m.svg and --output m.svg are the same file"),
    ],
)
def test_an_invalid_plot_path_is_refused_before_training(
    plot: str, status: int, message: str, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["train", "digits", *SMALL, "-o", "m.svg", "--plot", plot]) == status
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
