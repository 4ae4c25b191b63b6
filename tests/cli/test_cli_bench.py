"""``deepnotes bench``: its report and files, its errors, and its HTML page in a browser."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import array_api_strict
import pytest

import deepnotes as dn
from deepnotes.backends import registry
from deepnotes.cli import main
from deepnotes.testing.bench import cases, contenders, limits, page, report, runs, sweep, timing

pytestmark = pytest.mark.slow

SMALL = ["bench", "--layers", "4,6,3", "--batch", "8", "--backends", "numpy", "--threads", "1", "--rounds", "3"]


@pytest.fixture(autouse=True, scope="module")
def quick() -> Iterator[None]:
    """Make all measurements as short as possible, since these tests do not depend on the times."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(timing, "PAUSE_SECONDS", 0)
        patch.setattr(limits, "PRODUCT_SIZES", (32,))
        patch.setattr(limits, "DEVICE_PRODUCT_SIZES", (32,))
        patch.setattr(limits, "COPY_BYTES", (1 << 12, 1 << 14))
        for function in (runs.steps, runs.predictions):
            patch.setattr(function, "__defaults__", (0.001,))
        patch.setattr(sweep, "WIDTHS", (8, 16))
        patch.setattr(sweep, "BATCHES", (1, 4, 10**12))
        yield


def test_the_report_recommends_a_backend_for_each_use(run: Any) -> None:
    out, err = run(*SMALL)
    assert "4-6-3, batch 8, float32, Adam" in out
    assert re.search(r"step, µs +scatter +of the limit +predict 1, µs +predict 8, µs", out)
    for use in ("training with batches of 8", "predicting one sample", "predicting 8 samples"):
        assert f"for {use} use numpy" in out
    assert re.search(r"at best, host +[\d,]+ Gflop/s in float32; \d+ GB/s in memory", out)
    assert err == ""


def test_json_contains_the_whole_report(run: Any, tmp_path: Path) -> None:
    out, err = run(*SMALL, "--batch", "8,16", "--json")
    content = json.loads(out)
    assert {"machine", "use", "ceilings", "steps", "predictions", "sweep", "absent", "seconds"} <= set(content)
    assert [(u["backend"], u["batch"]) for u in content["use"]] == [("numpy", 8), ("numpy", 16)]
    assert [p["batch"] for p in content["predictions"]] == [1, 8, 1, 16]
    assert content["sweep"] == []
    assert "for training" in err
    run(*SMALL, "--json", tmp_path / "bench.json", "--quiet")
    assert json.loads((tmp_path / "bench.json").read_text())["command"] == "bench"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--rounds", "0"], "--rounds: got '0', wanted a whole number of at least 1"),
        (["--batch", "8,0"], "--batch: got '0'"),
        (["--layers", "64"], "wanted at least the numbers of inputs and outputs, such as 64,10"),
        (["--layers", "64,x"], "wanted a whole number of at least 1"),
        (["--backends", "nump"], "unknown backend 'nump'; did you mean 'numpy'?"),
        (["--dtype", "float16"], "float16"),
        (["--plot", "lines.doc"], "--plot lines.doc: wanted a name that ends in .png, .svg or .pdf"),
        (["--layers", "900000,900000,3"], "no case can be measured: needs about 2"),
        (
            ["--layers", "2000,2000,3", "--batch", "30000", "--seconds", "1"],
            "s or more, wanted at most 2 s; use --seconds",
        ),
        (["--threads", "0"], "--threads: got '0'"),
    ],
)
def test_invalid_options_exit_with_status_2(
    options: list[str], message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cases, "available_memory", lambda: 8 * 10**9)
    assert main([*SMALL, *options]) == 2
    assert message in capsys.readouterr().err


def test_oversized_cases_and_missing_backends_are_reported_and_skipped(
    run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def get(name: str, **options: Any) -> dn.Backend:
        if name == "cupy":
            raise dn.BackendUnavailable("cupy", "no CUDA device", "use numpy")
        return registry.get_backend(name, **options)

    monkeypatch.setattr(contenders, "get_backend", get)
    monkeypatch.setattr(contenders, "registered_backends", lambda: ["cupy", "numpy"])
    monkeypatch.setattr(cases, "available_memory", lambda: 8 * 10**9)
    out, err = run(*SMALL, "--backends", "all", "--batch", "8,999999999")
    assert "without cupy: no CUDA device; to fix it: use numpy" in err
    assert "without 4-6-3, batch 999,999,999: needs about" in err
    assert "for training with batches of 8 use numpy" in out
    assert re.search(r"without cupy +no CUDA device", out)


def test_bench_without_any_working_backend_exits_with_status_2(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def get(name: str, **options: Any) -> dn.Backend:
        raise dn.BackendUnavailable(name, "no CUDA device", "use numpy")

    monkeypatch.setattr(contenders, "get_backend", get)
    assert main([*SMALL, "--backends", "cupy"]) == 2
    assert "none of the backends is available: cupy: no CUDA device" in capsys.readouterr().err


def strict() -> dn.Backend:
    """Create a backend without options; an entry point registered by a test names this function."""
    return dn.Backend("strict", array_api_strict)


@pytest.mark.slow
def test_any_registered_backend_can_be_benchmarked(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    known = registry._entry_points() | {"strict": EntryPoint("strict", f"{__name__}:strict", registry.GROUP)}
    monkeypatch.setattr(registry, "_entry_points", lambda: known)
    monkeypatch.setattr(registry, "_loaded", dict(registry._loaded))
    out, _ = run(*SMALL, "--backends", "numpy,strict", "--json")
    content = json.loads(out)
    assert set(content["ceilings"]) == {"host", "strict"}
    assert "strict" in content["steps"][0]["microseconds"]
    assert list(content["steps"][0]["limits"]["strict"]["share"]) == ["strict"]


def test_without_matplotlib_a_plot_is_refused_before_measuring(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setattr(report, "measure_limits", None)
    assert main([*SMALL, "--plot", str(tmp_path / "x.png")]) == 1
    err = capsys.readouterr().err
    assert "a plot needs matplotlib" in err
    assert 'pip install "deepnotes[plot]"' in err


class Links(HTMLParser):
    """A parser that collects the tags of a page and the addresses that they refer to."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in {"src", "href", "srcset", "action"}]


@pytest.fixture(scope="module")
def report_folder(quick: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run ``bench``, and return the folder with its plot and its HTML page."""
    pytest.importorskip("matplotlib", reason="comes with the extra plot")
    folder = tmp_path_factory.mktemp("bench")
    options = ["--plot", str(folder / "lines.png"), "--html", str(folder / "report.html"), "--quiet"]
    assert main([*SMALL, *options]) == 0
    return folder


def test_the_plot_is_a_png_with_several_colours(report_folder: Path) -> None:
    from matplotlib.image import imread

    pixels = imread(report_folder / "lines.png")
    assert min(pixels.shape[:2]) > 300
    assert len({tuple(colour) for colour in pixels.reshape(-1, pixels.shape[-1])[::97]}) > 5


def test_the_page_has_all_sections_and_loads_no_other_files(report_folder: Path) -> None:
    text = (report_folder / "report.html").read_text(encoding="utf-8")
    links = Links()
    links.feed(text)
    assert len(links.addresses) == 2, "wanted two plots"
    assert all(address.startswith("data:image/svg+xml;base64,") for address in links.addresses)
    assert not {"script", "link", "iframe"} & set(links.tags)
    assert "url(" not in text
    for section in (
        "Recommendations",
        "4-6-3, batch 8",
        "The fastest by width and batch size",
        "left out",
        "Machine",
        "numpy 2",
    ):
        assert section in text


def test_names_are_escaped_in_the_page() -> None:
    assert "<b>" not in page.table([["<b>"], ["<b>"]]) + page.heading("<b>") + page.picture(b"", '"><b>')


def test_a_browser_renders_the_page(report_folder: Path) -> None:
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        pytest.skip("there is no chromium to open the page in")
    from matplotlib.image import imread

    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=2000"]
    command += [f"--user-data-dir={report_folder / 'profile'}", "--window-size=1000,2400"]
    url = (report_folder / "report.html").as_uri()
    screenshot = report_folder / "screenshot.png"
    process = subprocess.run([*command, f"--screenshot={screenshot}", url], capture_output=True, text=True, timeout=120)
    assert process.returncode == 0, process.stderr
    pixels = imread(screenshot)
    assert pixels.shape[:2] == (2400, 1000)
    blue = abs(pixels[..., :3] - [0.0, 0x72 / 255, 0xB2 / 255]).max(axis=-1) < 0.05
    assert blue.sum() > 500, "the bars and lines of the plots are missing"
    dark_rows = pixels[..., :3].min(axis=(1, 2)) < 0.5
    assert dark_rows[:120].any(), "the title at the top is missing"
