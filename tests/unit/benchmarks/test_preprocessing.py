import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[3] / "benchmarks"))

from preprocessing import COLUMNS, SCALE, SHOWN, line, lost, sheet, telling


def test_a_gain_that_adaptation_takes_back_is_lost():
    base, transfer = torch.full((4,), 0.6), torch.full((4,), 0.2)
    assert lost(base, transfer, transfer) == pytest.approx(0.0)
    assert lost(base, transfer, torch.full((4,), 0.4)) == pytest.approx(0.5)
    assert lost(base, transfer, base) == pytest.approx(1.0)
    assert lost(base, base, transfer) is None


def test_pictures_that_adaptation_alone_breaks_come_first():
    fell = [torch.tensor([True, False, False]), torch.tensor([True, True, False])]
    assert telling(fell, torch.tensor([9.0, 1.0, 5.0])) == [1, 0, 2]


def test_a_sheet_shows_its_pictures_side_by_side():
    columns = tuple(torch.full((6, 3, 8, 8), i / 4) for i in range(len(COLUMNS)))
    canvas = sheet(columns, list(range(SHOWN)))
    side = 8 * SCALE
    assert canvas.size[0] == side * len(COLUMNS)
    assert canvas.getpixel((side * 2 + side // 2, canvas.size[1] - side // 2)) == (128, 128, 128)


def test_a_row_prints_its_intervals():
    names = ("drift_transfer", "drift_adaptive", "broken_transfer", "broken_adaptive")
    row = {name: [0.5, 0.4, 0.6] for name in (*names, "drift_clean", "psnr")}
    text = line(row | {"preprocessor": "blur 1", "gain_lost": None})
    assert text.startswith("| blur 1 | 0.500 (0.400 to 0.600) |")
    assert "50% (40% to 60%)" in text
