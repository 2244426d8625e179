"""Findings as .csv that no spreadsheet takes for formulas."""

import pandas as pd

from metaad_jax.data import cells

_FORMULA = ('=', '+', '-', '@', '\t', '\r')


def with_keys(frame: pd.DataFrame, keys: pd.DataFrame, place: int = 1) -> str:
  """Findings [n] as .csv, with the ids and times [n] as columns at a place."""
  for name, column in reversed(list(keys.items())):
    name = f'{name} of the file' if name in frame else str(name)
    frame.insert(place, name, column.to_numpy())
  return harmless_csv(frame)


def harmless_csv(frame: pd.DataFrame) -> str:
  """A frame as .csv without a cell that a spreadsheet takes for a formula."""
  for name in frame.select_dtypes(exclude='number'):
    frame[name] = frame[name].map(harmless)
  frame = frame.rename(columns=harmless)
  return frame.to_csv(index=False, lineterminator='\n')


def harmless(cell):
  """A cell that no spreadsheet takes for a formula: numbers, or text."""
  if not isinstance(cell, str) or not cell.startswith(_FORMULA):
    return cell
  return cell if cells.is_number(cell) else f"'{cell}"
