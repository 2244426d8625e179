"""A simulated fleet to play with: eight pumps, two of which go wrong."""

import numpy as np
import pandas as pd

_MACHINES, _KNOWN, _NEW = 8, 100, 200  # hours of each
_TEXT = """Eight simulated pumps (no measurements), a row an hour each: load,
flow, pressure, power, temperature, vibration. How these hang together differs
from pump to pump. known.csv: 100 normal hours of each. new.csv: the next 200;
from 2024-01-09 on the bearing of pump-3 wears (vibration and temperature rise);
from 2024-01-11 to 2024-01-12 pump-6 leaks (too little flow for its load).
"""


def files() -> dict[str, bytes]:
  """known.csv, new.csv and README.txt by name; the same at each call."""
  random = np.random.default_rng(0)
  hours = _KNOWN + _NEW
  stamps = pd.date_range('2024-01-01', periods=hours, freq='h')
  days = 2 * np.pi * np.arange(hours) / 24
  parts = []
  for machine in range(1, _MACHINES + 1):
    load = 0.6 + 0.2 * np.sin(days) + 0.05 * random.normal(size=hours)
    wear, leak = np.zeros(hours), np.zeros(hours)
    if machine == 3:
      wear = np.clip((stamps - pd.Timestamp('2024-01-09')).days + 1, 0, 3)
    if machine == 6:
      leak[(stamps >= '2024-01-11') & (stamps < '2024-01-12')] = 1.0
    columns = {'load': load}
    for name, base, gain, fault in (
      ('flow', 20, 80, -25 * leak), ('pressure', 3, 4, -1.5 * leak),
      ('power', 5, 30, 0), ('temperature', 30, 25, 6 * wear),
      ('vibration', 1, 2, 1.2 * wear),
    ):  # fmt: skip
      base, gain = np.array([base, gain]) * random.uniform(0.6, 1.4, 2)
      noise = 0.02 * (base + gain) * random.normal(size=hours)
      columns[name] = base + gain * load + fault + noise
    part = pd.DataFrame(columns).round(3)
    part.insert(0, 'machine', f'pump-{machine}')
    part.insert(0, 'time', stamps)
    parts.append(part)
  frame = pd.concat(parts).sort_values('time', kind='stable')
  known = frame['time'] < stamps[_KNOWN]
  return {
    'known.csv': frame[known].to_csv(index=False).encode(),
    'new.csv': frame[~known].to_csv(index=False).encode(),
    'README.txt': _TEXT.encode(),
  }
