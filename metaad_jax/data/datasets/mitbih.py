"""MIT-BIH Arrhythmia: half an hour of ECG each, every beat annotated.

A patient's normal beat is the most frequent one: that may be a paced beat or
one of bundle branch block. All other beats are anomalies of that patient.
"""

import pathlib
import tempfile

import numpy as np

from metaad_jax.base import DataError, Entity, Source
from metaad_jax.data import public_files, rows

RATE = 360
# Annotations that are beats; others are of rhythm, noise or waves.
BEATS = tuple('NLRBAaJSVrFejnE/fQ?')


def load(
  data_dir: str | None,
  *,
  window: int = 256,
  lead: int = 0,
  minutes: float = 5.0,
  zscore: bool = True,
) -> list[Entity]:
  """One entity per record; a window [N, window, 1] is one beat.

  Supports come from the first minutes, the query is everything after them and
  a gap of one window. Other beats in the first minutes are left out, as are
  those whose window is not within the record. Kinds are the symbols of beats.

  Args:
    data_dir: holds mitbih/.
    window: samples at 360 Hz, three eighths of them before the R peak.
    lead: 0 or 1, the first or second signal of the record.
    minutes: how long supports are taken from.
    zscore: standardize every window; else they are in mV.
  """
  if not 8 <= window <= 7200 or lead not in (0, 1) or not 0 < minutes < 30:
    raise DataError(
      f'mitbih: window={window}, lead={lead}, minutes={minutes}: choose window '
      '8..7200, lead 0 or 1, and 0 < minutes < 30'
    )
  root = public_files.folder(data_dir, 'mitbih')
  return [
    _entity(root, name, window, lead, minutes, zscore)
    for name in public_files.names(root, '*.hea')
  ]


def _entity(root, name, window, lead, minutes, zscore):
  """The beats of one record."""
  signal, peaks, symbols = read(root, name)
  first = peaks - 3 * window // 8
  whole = (first >= 0) & (first + window <= len(signal))
  beat = np.isin(symbols, BEATS) & whole
  first, symbols = first[beat], symbols[beat]
  known, counts = np.unique(symbols, return_counts=True)
  public_files.require(len(known), root, f'{name}.atr', 'no beats')
  usual = known[counts.argmax()]
  end = int(minutes * 60 * RATE)
  early = (first + window <= end) & (symbols == usual)
  late = first >= end + window
  beats = signal[first[:, None] + np.arange(window), lead]
  if zscore:
    centred = beats - beats.mean(1, keepdims=True)
    beats = centred / np.maximum(centred.std(1, keepdims=True), 1e-6)
  beats = beats[:, :, None].astype(np.float32)
  kinds = np.where(symbols == usual, '', symbols)[late]
  return rows.entity(name, beats[early], beats[late], kinds)


def read(
  root: pathlib.Path, name: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Reads a record: signals [T, 2] in mV, [B] samples of the annotations, and
  [B] symbols.

  Args:
    root: `<data_dir>/mitbih`.
    name: such as '100'.
  """
  # It imports pandas and a network client: only who needs it should wait.
  try:
    import wfdb
  except ImportError as error:
    raise DataError(
      "mitbih: wfdb is not installed: pip install 'metaad_jax[ecg]'"
    ) from error

  head, data, marks = (f'{name}.{suffix}' for suffix in ('hea', 'dat', 'atr'))
  parts = {path: public_files.read(root, path) for path in (head, data, marks)}
  length = len(parts[data]) // 3
  # Format 212: a pair of samples in three bytes. A header may name any file.
  lines = [line for line in parts[head].split(b'\n') if line[:1] != b'#']
  signals = [line.split()[0] for line in lines[1:] if line.strip()]
  public_files.require(
    parts[head].split()[:4] == f'{name} 2 {RATE} {length}'.encode().split()
    and signals == 2 * [data.encode()]
    and len(parts[data]) == 3 * length,
    root,
    head,
    f'not 2 signals at {RATE} Hz as long as {data}',
  )
  with tempfile.TemporaryDirectory() as folder:
    for path, content in parts.items():
      pathlib.Path(folder, path).write_bytes(content)
    with public_files.reading(root, head):
      signal = wfdb.rdrecord(f'{folder}/{name}').p_signal
    with public_files.reading(root, marks):
      notes = wfdb.rdann(f'{folder}/{name}', 'atr')
      peaks, symbols = np.asarray(notes.sample), np.array(notes.symbol)
  whole = np.isfinite(signal).all() and len(signal) == length
  public_files.require(whole, root, data, 'samples are missing')
  within = not len(peaks) or 0 <= peaks.min() <= peaks.max() <= length
  why = f'an annotation is not within {data}'
  public_files.require(within, root, marks, why)
  return signal, peaks, symbols


SOURCE = Source(
  name='mitbih',
  description='patients; windows of ECG around every beat',
  load=load,
  features=('identity',),
  units='mV (standardized per window by default)',
  licence='Open Data Commons Attribution 1.0',
  citation='Moody & Mark, The impact of the MIT-BIH Arrhythmia Database, IEEE '
  'Eng. Med. Biol. 20(3), 2001; Goldberger et al., PhysioNet, Circulation '
  '101(23), 2000',
  channels=('ECG',),
  rate=float(RATE),
  files=public_files.remote(
    'mitbih', 'https://physionet.org/files/mitdb/1.0.0/'
  ),
  note='6 of the 48 records are fetched, those whose checksums are known; '
  'others that are put beside them are loaded too.',
)
