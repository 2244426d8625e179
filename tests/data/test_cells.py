"""What a cell means: numbers, times and words, however they are written."""

import hypothesis
from hypothesis import strategies as st
import numpy as np
import pytest

from metaad_jax.base import DataError
from metaad_jax.data import cells


@pytest.mark.parametrize(
  ('texts', 'values'),
  [
    (['1,234.5', '3,000'], [1234.5, 3000]),
    (['1 234.5', '2', '1\u202f000'], [1234.5, 2, 1000]),
    (["1'234'567", '2'], [1234567, 2]),
    (['30.0%', '2%'], [30, 2]),
    (['$3,000.00', '-$2'], [3000, -2]),
    (['300 EUR', '-2 EUR'], [300, -2]),
    (['64.67 °C', '-3°C'], [64.67, -3]),
    (['(3000.0)', '5'], [-3000, 5]),
    (['5-', '−6', '+7'], [-5, -6, 7]),
    (['0xbb8', '0x10'], [3000, 16]),
    (['1e3', '.5', '2.'], [1000, 0.5, 2]),
    (['<0.5', '2', '>= 9'], [0.5, 2, 9]),
    (['', 'NA', '?', '-', '**', 'n/a', '<NA>', '#DIV/0!', '7'], [7]),
    (['12:30', '1:00:05.5'], [45000, 3605.5]),
    (['2 days 00:00:01', '0 days 01:00:00'], [172801, 3600]),
    (['2024-01-01', '2024-01-02T12:00:00Z'], [1704067200, 1704196800]),
    (['2024-01-01 00:00:00+02:00', ''], [1704060000]),
    (['01.02.2024', '02.02.2024'], [1706745600, 1706832000]),
    (['1/2/2024', '2/2/2024'], [1704153600, 1706832000]),
    (['1/2/2024', '13/2/2024'], [1706745600, 1707782400]),
    (['30/1/2024 8:00 PM', '1/2/2024 8:00 AM'], [1706644800, 1706774400]),
    (['1-Feb-2024 00:00', '02-Feb-2024 01:00'], [1706745600, 1706835600]),
    (['01/Feb/2024:00:00:00 +0100', ''], [1706742000]),
    (['2024-02-01 00:00:00 UTC', '?'], [1706745600]),
    (['1. Februar 2024', '1. März 2024'], [1706745600, 1709251200]),
    (['Do. 01.02.2024', 'Fr. 01.03.2024'], [1706745600, 1709251200]),
    (['1 févr. 2024 00:30', '1 août 2024 01:00'], [1706747400, 1722474000]),
    (['1 de febrero de 2024', ''], [1706745600]),
    (['2024-02-01', '01.03.2024'], [1706745600, 1709251200]),
    (['2024Q1', '2024 Q2'], [1704067200, 1711929600]),
    (['2024-W02', '2024-W01'], [1704672000, 1704067200]),
    (['8:00 AM', '1:30 pm'], [28800, 48600]),
    (['3d 04h', '1h 30m'], [273600, 5400]),
    (['PT1H30M', ''], [5400]),
    (['True', 'FALSE', 'NA', 'true'], [1, 0, 1]),
    (['1.5D+03', '2.0D-01'], [1500, 0.2]),
    (['~5', '≈7'], [5, 7]),
    (['1,23,456', '7,890'], [123456, 7890]),
    (['US$ 1,500.5', '0'], [1500.5, 0]),
    ([':', 'missing', '#NV', '(null)', '3'], [3]),
  ],
)
def test_a_column_of_numbers_or_times(texts, values):
  sign, _ = cells.decimal_sign([texts], ',')
  column = cells.typed('x', texts, decimal=sign).values
  assert column.dtype == np.float64
  assert column.dropna().tolist() == values


@pytest.mark.parametrize(
  'texts',
  [
    ['3A', '12B', '7F'], ['10-20', '30-40'], ['192.168.1.20', '10.0.0.1'],
    ['1.2.3', '1.2.4'], ['+', '-', '-'], ['pump', 'fan'],
    ['1 Elm St', '2 Oak St', '3 Fir St'], ['12', '7A', '9', 'B4', '12'],
  ],
)  # fmt: skip
def test_a_column_of_words(texts):
  column = cells.typed('x', texts).values
  assert cells.kind_of(column) == 'category' and column.tolist() == texts


@pytest.mark.parametrize(
  ('texts', 'why'),
  [
    (['1', '2', 'x'], "line 9: column 'c' holds 'x'"),
    (['20.5', '1.5 kg'], 'mixes units'),
    (['3 kg', '300 g'], 'mixes units'),
    (['5', '2024-01-01'], '2024-01-01'),
    (['$5', '€5'], 'mixes units'),
    (['5.5', 'ERR', '6.5', '5.0', '5.1'], "'ERR'"),
  ],
)
def test_mixed_columns_are_refused(texts, why):
  with pytest.raises(DataError, match=why):
    cells.typed('c', texts, places=range(7, 12))


def test_spellings_of_one_category():
  alike = [['1', 1, 1.0, ' 1', '1.0'], ['yes', 'Yes ', 'YES'], [True, 'true']]
  for group in alike:
    assert len({cells.key(value) for value in group}) == 1
  keys = [cells.key(group[0]) for group in alike]
  assert len({*keys, cells.key('10'), cells.key('no')}) == 5
  column = cells.typed('x', ['Yes', 'no', 'yes ', 'NO', '?']).values
  assert column.tolist()[:4] == ['Yes', 'no', 'Yes', 'no']
  assert cells.codes(column)[:4].tolist() == [0, 1, 0, 1]
  assert np.isnan(cells.codes(column)[4])


@hypothesis.settings(max_examples=60, deadline=None)
@hypothesis.given(
  st.lists(
    st.floats(-1e6, 1e6, allow_nan=False).map(lambda v: round(v, 3)),
    min_size=2, max_size=8,
  ),
  st.sampled_from(['.', ',']),
  st.sampled_from(['', ' ', "'", '\u00a0', 'other']),
)  # fmt: skip
def test_numbers_come_back_whatever_the_country(values, decimal, group):
  group = group.replace('other', '.' if decimal == ',' else ',')
  texts = [
    f'{v:,.3f}'.translate({44: group, 46: decimal}) for v in [*values, 1e4]
  ]
  hypothesis.assume(group or all(abs(v) < 1000 for v in values))
  read = cells.numbers(texts, np.zeros(len(texts), bool), decimal)
  np.testing.assert_array_equal(read[0], [*values, 1e4])


@pytest.mark.parametrize(
  ('columns', 'delimiter', 'known', 'sign'),
  [
    ([['1,5'], ['1.234']], ';', '', ','), ([['1.5'], ['1,234']], '\t', '', '.'),
    ([['1.234', '987']], ';', '', ','), ([['1,234', '987']], '\t', '', '.'),
    ([['1.234.567']], ';', '', ','), ([['1.234']], ',', '', '.'),
    ([['1.234']], ';', ',', ','), ([['1.234']], ';', '.', '.'),
  ],
)  # fmt: skip
def test_the_decimal_sign(columns, delimiter, known, sign):
  assert cells.decimal_sign(columns, delimiter, known) == (sign, {})


def test_a_sign_that_nothing_decides_is_told_by_column():
  columns = [['a'], ['1,234', '5,678']]
  assert cells.decimal_sign(columns, '\t') == (',', {1: '1,234'})
