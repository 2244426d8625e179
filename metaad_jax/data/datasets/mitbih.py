"""MIT-BIH Arrhythmia: half an hour of ECG each, every beat annotated.

A patient's normal beat is the most frequent one: that may be a paced beat or
one of bundle branch block. All other beats are anomalies of that patient.
"""

import pathlib
import tempfile

import numpy as np

from metaad_jax import specs
from metaad_jax.base import DataError, Entity
from metaad_jax.data import public_files, rows

RATE = 360
_ENDINGS = ('hea', 'dat', 'atr')
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
  specs.allow(
    8 <= window <= 7200 and lead in (0, 1) and 0 < minutes < 30,
    'mitbih', 'window 8..7200, lead 0 or 1, and 0 < minutes < 30',
    window=window, lead=lead, minutes=minutes,
  )  # fmt: skip
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
  public_files.File(root, f'{name}.atr').require(len(known), 'no beats')
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
  """Signals [T, 2] in mV, [B] samples of the annotations, and [B] symbols."""
  # It imports pandas and a network client: only who needs it should wait.
  try:
    import wfdb
  except ImportError as error:
    raise DataError(
      "mitbih: wfdb is not installed: pip install 'metaad_jax[ecg]'"
    ) from error

  files = [public_files.File(root, f'{name}.{end}') for end in _ENDINGS]
  head, data, marks = files
  header, samples, _ = contents = [file.read() for file in files]
  length = len(samples) // 3
  # Format 212: a pair of samples in three bytes. A header may name any file.
  lines = [line for line in header.split(b'\n') if line[:1] != b'#']
  signals = [line.split()[0] for line in lines[1:] if line.strip()]
  head.require(
    header.split()[:4] == f'{name} 2 {RATE} {length}'.encode().split()
    and signals == 2 * [data.path.encode()]
    and len(samples) == 3 * length,
    f'not 2 signals at {RATE} Hz as long as {data.path}',
  )
  with tempfile.TemporaryDirectory() as folder:
    for file, content in zip(files, contents, strict=True):
      pathlib.Path(folder, file.path).write_bytes(content)
    with head.reading():
      signal = wfdb.rdrecord(f'{folder}/{name}').p_signal
    with marks.reading():
      notes = wfdb.rdann(f'{folder}/{name}', 'atr')
      peaks, symbols = np.asarray(notes.sample), np.array(notes.symbol)
  whole = np.isfinite(signal).all() and len(signal) == length
  data.require(whole, 'samples are missing')
  within = not len(peaks) or 0 <= peaks.min() <= peaks.max() <= length
  marks.require(within, f'an annotation is not within {data.path}')
  return signal, peaks, symbols


SOURCE = public_files.source('mitbih', load)
