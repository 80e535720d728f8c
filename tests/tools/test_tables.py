"""Numbers in a table have four digits, and no text breaks a row."""
import re

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from coulomb_gan.tables import table, verbatim


def cell(value): return table([[value]], ['x']).splitlines()[2].removeprefix('| ').removesuffix(' |')


@pytest.mark.parametrize('value, text', [
    (None, '–'), (.00123456, '0.001235'), (1000., '1,000'), (12345.6, '12,346'), (-12345.6, '-12,346'),
    (0., '0'), (1e-9, '1e-09'), (float('nan'), 'nan'), (float('inf'), 'inf'), (np.float64(.25), '0.25'),
    (7, '7'), (12345, '12345'), (True, 'True'), ('text', 'text')])
def test_cells(value, text): assert cell(value) == text


def test_a_table_takes_generators_and_may_be_empty():
    assert table((row for row in [(1, 2)]), iter('ab')).splitlines() == ['| a | b |', '| --- | --- |', '| 1 | 2 |']
    assert table([], 'ab').splitlines() == ['| a | b |', '| --- | --- |']


@settings(max_examples=50, deadline=None)
@given(st.text())
def test_any_text_stays_one_cell_and_comes_back(line):
    written = verbatim(line)
    assert not set(written) & set('|`*_<>[]\\\n\r')
    assert re.sub(r'&#(\d+);', lambda m: chr(int(m[1])), written) == (line or ' ')
