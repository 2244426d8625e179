"""Dates, times of day, durations and periods, as people write them."""

from collections.abc import Sequence
import datetime
import itertools
import re

import numpy as np
import pandas as pd

from metaad_jax.data.words import MONTHS, WORDS

_DATE_LIKE = re.compile(r'(?=.*\d)(?=.*[-/:. QW])[\w\-/:., +()]{4,40}')
_CLOCK = re.compile(
  r'(?:(\d+) days?,? )?(\d{1,4}):(\d\d)(?::(\d\d(?:[.,]\d+)?))?( ?[AaPp][Mm])?'
)
_PERIOD = re.compile(r'(\d{4})[- ]?(?:Q([1-4])|W(\d\d?))')
_SPAN = re.compile(  # as 3d 04h, PT3H5M
  r'P(?=.*\d)[\dDT.HMS]+|'
  r'(?:\d+(?:\.\d+)? ?(?:d|h|hr|hours?|m|min|s|sec|ms) ?){2,}'
)
_WEEKDAY = re.compile(  # as Mo. 27.04.2026
  rf'(?:{"|".join(WORDS["weekdays"])})[.,]* (?=\d)', re.IGNORECASE
)
_MONTH = re.compile(  # as 1. März 2026, 3 de mayo de 2026, 05-Okt.-2026
  r'(?P<gap>^|(?<=\d)\.?[ /-])(?:de )?(?P<name>[^\W\d_]{3,})\.?(?: de)?'
  r'(?=[ /-]?\d)'
)
_SEVERAL = re.compile(r'\d{1,4}([-/. ])\d{1,2}\1\d{2,4}([T ].*)?')
_ZONE = re.compile(r' ?\(?(UTC|GMT|Z)\)?$')
_DATES = (
  '%Y-%m-%d', '%Y/%m/%d', '%Y.%m.%d', '%d.%m.%Y', '%d.%m.%y', '%m/%d/%Y',
  '%d/%m/%Y', '%m/%d/%y', '%d/%m/%y', '%d-%m-%Y', '%m-%d-%Y', '%d-%b-%Y',
  '%d-%b-%y', '%d %b %Y', '%d %B %Y', '%b %d, %Y', '%B %d, %Y', '%b %d %Y',
  '%a %b %d %Y', '%d/%b/%Y', '%Y %b', '%b %Y', '%B %Y', '%b-%y', '%m/%Y',
)  # fmt: skip
_TIMES = (
  '', ' %H:%M', ' %H:%M:%S', ' %H:%M:%S.%f', ' %H:%M:%S,%f', ' %I:%M %p',
  ' %I:%M:%S %p', 'T%H:%M', 'T%H:%M:%S', ', %H:%M:%S', ', %I:%M:%S %p',
  ':%H:%M:%S %z', ' %H:%M:%S %z', ', %H:%M', ' %H:%M:%S%z', 'T%H:%M:%S%z',
  ' %H:%M:%S.%f%z', ' %H:%M%z', ' %H:%M %z',
)  # fmt: skip
OR = ', though they may be '  # said of a form, before another as likely
_ODD_FORMS = ('%a %b %d %H:%M:%S %Y', '%Y%m%dT%H%M%S', '%Y%m%d %H%M%S')


def read(
  cells: Sequence[str], lost: np.ndarray
) -> tuple[np.ndarray, str] | None:
  """Reads stripped cells as dates, times of day or durations.

  Returns:
    [n] float64 seconds (since 1970 for dates, UTC where no zone is given), and
    how they were read; None if any cell is no time.
  """
  stated = [c for c, gone in zip(cells, lost, strict=True) if not gone]
  if stated and all(map(_SPAN.fullmatch, stated)):
    spans = np.full(len(cells), np.nan)
    spans[~lost] = pd.to_timedelta(pd.Series(stated)).dt.total_seconds()
    return spans, 'durations, in seconds'
  if not stated or not all(map(_DATE_LIKE.fullmatch, stated[:100])):
    return None
  stated = [_in_english(_ZONE.sub('', cell)) for cell in stated]
  found = np.full(len(cells), np.nan)
  if _PERIOD.fullmatch(stated[0]):
    stated = [_PERIOD.sub(_begins, cell) for cell in stated]
  if _CLOCK.fullmatch(stated[0]):
    clocks = [_CLOCK.fullmatch(cell) for cell in stated]
    if not all(clocks):
      return None
    found[~lost] = [_clock(match) for match in clocks if match]
    return found, 'times of day or durations'
  readings: list[tuple[int, int, str, np.ndarray]] = []
  for form in ('ISO8601', *_formats(stated[0])):
    try:
      dates = seconds(pd.to_datetime(pd.Series(stated), format=form, utc=True))
    except (ValueError, OverflowError):
      continue
    readings.append((_unevenness(dates), len(readings), form, dates))
  if not readings and all(map(_SEVERAL.fullmatch, stated)):
    try:
      found[~lost] = [either(cell).timestamp() for cell in stated]
    except (ValueError, OverflowError):
      return None
    return found, 'dates, in several forms'
  if not readings:
    return None
  likely, *others = sorted(readings, key=lambda r: r[:2])
  found[~lost] = likely[3]
  doubt = [
    r[2] for r in others if r[0] == likely[0] and (r[3] != likely[3]).any()
  ]
  note = f'dates, read as {likely[2]}'
  return found, OR.join([note, *doubt[:1]])


def _unevenness(dates):
  """How many steps are longer than the others; of what goes back, all."""
  steps = np.diff(dates)
  if not (steps >= 0).all():  # NaN included
    return len(dates)
  return int((steps > 1.5 * np.median(steps)).sum()) if len(steps) else 0


def either(cell: str) -> pd.Timestamp:
  """A date as it is read beside others: the year is first, or the day."""
  return pd.to_datetime(cell, dayfirst=not re.match(r'\d{4}', cell))


def forms(form: str) -> list[str]:
  """A form of dates, the same with other times of day and without."""
  day = re.split(r'[T:, ]+%[HI]', form)[0]
  return [form, *(day + time for time in _TIMES)]


def _in_english(cell):
  """A date with the name of its month as strptime knows it, and no weekday."""
  named = lambda m: MONTHS.get(m['name'].casefold(), m['name'])
  cell = _WEEKDAY.sub('', cell)
  return _MONTH.sub(lambda m: m['gap'].lstrip('.') + named(m), cell)


def _clock(match):
  days, hours, minutes, rest, half = match.groups()
  hour = int(hours)
  if half:
    hour = hour % 12 + 12 * (half.strip().lower() == 'pm')
  rest = float((rest or '0').replace(',', '.'))
  return ((int(days or 0) * 24 + hour) * 60 + int(minutes)) * 60 + rest


def _begins(match):
  """The first day of a quarter or a week."""
  year, quarter, week = match.groups()
  if quarter:
    return f'{year}-{3 * int(quarter) - 2:02}-01'
  try:
    return str(datetime.date.fromisocalendar(int(year), int(week), 1))
  except ValueError:
    return match[0]


def _formats(first):
  """Formats that fit the first cell."""
  pairs = (d + t for d, t in itertools.product(_DATES, _TIMES))
  for form in (*pairs, *_ODD_FORMS):
    try:
      datetime.datetime.strptime(first, form)
    except ValueError:
      continue
    yield form


def seconds(dates: pd.Series) -> np.ndarray:
  """[n] float64 since 1970 of dates and times, in UTC; NaN = missing."""
  if getattr(dates.dt, 'tz', None) is not None:
    dates = dates.dt.tz_convert('UTC').dt.tz_localize(None)
  stamps = dates.to_numpy('datetime64[us]')
  return np.where(np.isnat(stamps), np.nan, stamps.astype(np.int64) / 1e6)
