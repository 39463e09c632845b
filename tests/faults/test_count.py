"""The docs say how many kinds of bad input are tried."""

import re
from pathlib import Path

from tests.faults import test_checkpoints as checkpoints
from tests.faults import test_config as config
from tests.faults import test_data as data
from tests.faults import test_tools as tools

ROOT = Path(__file__).parents[2]
TABLES = [
    *(config.ROWS, config.NAMES, config.TEXTS),
    *(data.ERRORS, data.WARNINGS, data.VOC, data.LABELS, data.MET),
    *(checkpoints.TEACHERS, checkpoints.BACK, checkpoints.REFUSED, checkpoints.READERS),
    checkpoints.CODE,
    *(tools.ARGUMENTS, tools.REPORTED, tools.OWN, tools.CONFUSED, tools.DISK),
]


def test_the_number_in_the_docs():
    rows = sum(map(len, TABLES))
    assert rows >= 200
    stated = re.search(r'^(\d+) kinds of bad input', (ROOT / 'docs/faults.md').read_text(), re.M)
    assert stated and int(stated[1]) == rows
