"""The report in a real browser, offline: it shows what it holds, in wide and narrow windows."""

import shutil
import subprocess
from pathlib import Path

import cv2
import numpy as np
import pytest

from kd_dense.report import read_runs
from kd_dense.report.evidence import gather
from kd_dense.report.page import render
from kd_dense.report.runs import COLOURS
from tests.test_report import folders, runs_root  # noqa: F401 (fixtures)

BROWSERS = map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))
BROWSER = next(filter(None, BROWSERS), None)
HEIGHT = 12000
PHOTO = '#ff00ff'  # of a colour that nothing else on the page has


def screenshot(page: Path, width: int) -> np.ndarray:
    """The page as pixels (H, W, 3), RGB, by a browser that reaches no other address."""
    out = page.with_suffix('.png')
    subprocess.run(
        [
            BROWSER, '--headless=new', '--no-sandbox', '--disable-gpu', '--hide-scrollbars',
            '--host-resolver-rules=MAP * ~NOTFOUND', f'--user-data-dir={page.parent / "browser"}',
            f'--window-size={width},{HEIGHT}', f'--screenshot={out}', page.as_uri(),
        ],
        check=True, capture_output=True, timeout=120,
    )  # fmt: skip
    return cv2.imread(str(out))[..., ::-1]


def count(pixels: np.ndarray, colour: str, apart: int = 0) -> int:
    """Pixels of a colour, '#rrggbb', or ``apart`` from it in each channel."""
    wanted = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return int((abs(pixels.astype(int) - wanted) <= apart).all(axis=-1).sum())


@pytest.mark.skipif(BROWSER is None, reason='there is no Chromium here')
@pytest.mark.parametrize('width', [1200, 520])
def test_a_browser_shows_the_page(width, folders, tmp_path):  # noqa: F811
    runs = read_runs(folders)
    evidence = gather(runs, 4, 0.01)
    for picture in evidence.samples:
        picture.pixels[:] = (255, 0, 255)
    page = tmp_path / 'page.html'
    page.write_text(render(runs, evidence, 'python x', 'torch 1', show=2), encoding='utf-8')
    pixels = screenshot(page, width)
    assert pixels.shape == (HEIGHT, width, 3)
    paper = pixels[0, 0]
    inked = (pixels != paper).any(axis=(1, 2))
    assert 2000 < np.flatnonzero(inked).max() < HEIGHT - 50  # the whole page is in the picture
    for role in ('teacher', 'alone', 'distilled'):  # dots of the tables, and curves
        assert count(pixels, COLOURS[role][0]) > 200, role
    assert count(pixels, PHOTO, apart=6) > 40_000
    # nothing runs over the right edge
    assert (pixels[:, -8:] == paper).all()
