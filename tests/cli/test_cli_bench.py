"""The command line: deepnotes bench, what it writes, what it refuses, and its page in a real browser."""

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
    """Measure for no longer than it takes to see that it is done."""
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


def test_it_says_what_to_take(run: Any) -> None:
    out, err = run(*SMALL)
    assert "4-6-3, batch 8, float32, Adam" in out
    assert re.search(r"step, µs +scatter +of the limit +predict 1, µs +predict 8, µs", out)
    for what in ("training with batches of 8", "predicting one sample", "predicting 8 samples"):
        assert f"for {what} use numpy" in out
    assert re.search(r"at best, host +[\d,]+ Gflop/s in float32; \d+ GB/s in memory", out)
    assert err == ""


def test_the_json_object_has_all_of_it(run: Any, tmp_path: Path) -> None:
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
    ("more", "told"),
    [
        (["--rounds", "0"], "--rounds: got '0', wanted a whole number of at least 1"),
        (["--batch", "8,0"], "--batch: got '0'"),
        (["--layers", "64"], "wanted inputs and outputs at least, such as 64,10"),
        (["--layers", "64,x"], "wanted a whole number of at least 1"),
        (["--backends", "nump"], "unknown backend 'nump'; did you mean 'numpy'?"),
        (["--dtype", "float16"], "float16"),
        (["--plot", "lines.doc"], "--plot lines.doc: wanted a name that ends in .png, .svg or .pdf"),
        (["--layers", "900000,900000,3"], "too large for this machine: needs about 2"),
        (["--layers", "2000,2000,3", "--batch", "30000", "--seconds", "1"], "s or more; --seconds"),
        (["--threads", "0"], "--threads: got '0'"),
    ],
)
def test_what_cannot_be_is_refused_with_code_2(
    more: list[str], told: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cases, "available_memory", lambda: 8 * 10**9)
    assert main([*SMALL, *more]) == 2
    assert told in capsys.readouterr().err


def test_a_case_too_large_and_a_backend_that_is_missing_are_named_and_the_rest_goes_on(
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
    assert "for training with batches of 8 take numpy" in out
    assert re.search(r"without cupy +no CUDA device", out)


def test_nothing_but_missing_backends_is_code_2(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def get(name: str, **options: Any) -> dn.Backend:
        raise dn.BackendUnavailable(name, "no CUDA device", "use numpy")

    monkeypatch.setattr(contenders, "get_backend", get)
    assert main([*SMALL, "--backends", "cupy"]) == 2
    assert "none of the backends works here: cupy: no CUDA device" in capsys.readouterr().err


def strict() -> dn.Backend:
    """Return a backend without options; an entry point names this function."""
    return dn.Backend("strict", array_api_strict)


@pytest.mark.slow
def test_any_registered_backend_takes_part(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    known = registry._entry_points() | {"strict": EntryPoint("strict", f"{__name__}:strict", registry.GROUP)}
    monkeypatch.setattr(registry, "_entry_points", lambda: known)
    monkeypatch.setattr(registry, "_loaded", dict(registry._loaded))
    out, _ = run(*SMALL, "--backends", "numpy,strict", "--json")
    content = json.loads(out)
    assert set(content["ceilings"]) == {"host", "strict"}
    assert "strict" in content["steps"][0]["microseconds"]
    assert list(content["steps"][0]["limits"]["strict"]["share"]) == ["strict"]


def test_a_picture_without_matplotlib_is_an_error_before_any_work(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setattr(report, "ceilings", None)
    assert main([*SMALL, "--plot", str(tmp_path / "x.png")]) == 1
    err = capsys.readouterr().err
    assert "a picture needs matplotlib" in err
    assert 'pip install "deepnotes[plot]"' in err


class Links(HTMLParser):
    """What a page would load."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Keep each address."""
        self.tags.append(tag)
        self.found += [value or "" for name, value in attrs if name in {"src", "href", "srcset", "action"}]


@pytest.fixture(scope="module")
def written(quick: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a picture and a page."""
    pytest.importorskip("matplotlib", reason="comes with the extra plot")
    folder = tmp_path_factory.mktemp("bench")
    words = ["--plot", str(folder / "lines.png"), "--html", str(folder / "report.html"), "--quiet"]
    assert main([*SMALL, *words]) == 0
    return folder


def test_the_picture_is_one(written: Path) -> None:
    from matplotlib.image import imread

    pixels = imread(written / "lines.png")
    assert min(pixels.shape[:2]) > 300
    assert len({tuple(colour) for colour in pixels.reshape(-1, pixels.shape[-1])[::97]}) > 5, "more than one colour"


def test_the_page_holds_everything_and_loads_nothing(written: Path) -> None:
    text = (written / "report.html").read_text(encoding="utf-8")
    links = Links()
    links.feed(text)
    assert len(links.found) == 2, "two pictures"
    assert all(link.startswith("data:image/svg+xml;base64,") for link in links.found)
    assert not {"script", "link", "iframe"} & set(links.tags)
    assert "url(" not in text
    for part in ("What to take", "4-6-3, batch 8", "Where one overtakes another", "left out", "Machine", "numpy 2"):
        assert part in text


def test_names_cannot_become_part_of_the_page() -> None:
    assert "<b>" not in page.table([["<b>"], ["<b>"]]) + page.heading("<b>") + page.picture(b"", '"><b>')


def test_the_page_in_a_real_browser(written: Path) -> None:
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        pytest.skip("there is no chromium to open the page in")
    from matplotlib.image import imread

    words = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=2000"]
    words += [f"--user-data-dir={written / 'profile'}", "--window-size=1000,2400"]
    url = (written / "report.html").as_uri()
    shot = written / "shot.png"
    done = subprocess.run([*words, f"--screenshot={shot}", url], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    pixels = imread(shot)
    assert pixels.shape[:2] == (2400, 1000)
    blue = abs(pixels[..., :3] - [0.0, 0x72 / 255, 0xB2 / 255]).max(axis=-1) < 0.05
    assert blue.sum() > 500, "the bars and lines of the pictures were drawn"
    rows = pixels[..., :3].min(axis=(1, 2)) < 0.5
    assert rows[:120].any(), "the title is on top"
