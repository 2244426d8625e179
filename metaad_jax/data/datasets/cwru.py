"""Bearing vibration of Case Western Reserve University, made hard.

Windows are standardized and buried in white noise, and what tells the recording
at 48 kHz from those at 12 kHz is removed: see docs/sources.md. Features must
not look above 4 kHz, where only noise is left.
"""

from collections.abc import Iterator
import re
import zlib

import numpy as np

from metaad_jax import specs
from metaad_jax.base import DataError, Entity
from metaad_jax.data import public_files, rows, series

_RATE = 12000  # Hz
_NORMAL = 'Data/1797 RPM/1797_Normal.npz'
_FAULT = re.compile(r'Data/(\d+) RPM/\d+_((B|IR|OR)\S*)_DE12\.npz')
_FOLDS = {'B': 'ball', 'IR': 'inner', 'OR': 'outer'}
_CUTOFF = 3800.0  # Hz, -12 dB; -100 dB and less from 4 kHz on
_GAP = 512  # samples, more than the filters reach


def read(file: public_files.File, *, lowpass: bool = True) -> np.ndarray:
  """The drive-end acceleration of one recording, [T] float64 in g, at 12 kHz.

  With `lowpass` what lies above 4 kHz is removed.
  """
  with file.reading():
    recording = file.arrays(['DE'])['DE'].ravel().astype(float)
  whole = np.isfinite(recording).all() and len(recording) >= 8 * _GAP
  why = f'DE: {len(recording)} samples are too few, or not finite'
  file.require(whole, why)
  from scipy import signal  # late: the detector starts without

  taps = signal.firwin(129, _CUTOFF, fs=_RATE)
  if file.path == _NORMAL:
    recording = signal.decimate(recording, 4, ftype='fir')
  return signal.filtfilt(taps, 1.0, recording) if lowpass else recording


def load(
  data_dir: str | None,
  *,
  window: int = 256,
  stride: int = 64,
  snr_db: float = 0.0,
  clean: bool = False,
  zscore: bool = True,
  lowpass: bool = True,
  copies: int = 8,
  load: str = '0',
  seed: int = 0,
) -> Iterator[Entity]:
  """Two entities per fault recording: `<name>/train`, and `<name>` for test.

  Recordings are cut in time, with gaps of at least a window: first halves are
  for training, second halves for test; within a half, the query's normals come
  after those of the supports, as many as there are fault windows. Kind and
  group are such as 'IR_14', the fold such as 'ball'.

  Args:
    window: samples per window.
    stride: samples between training windows.
    snr_db: power of the window over that of the white noise added to it.
    clean: no noise, and no copies.
    zscore: windows are standardized, then the noise is added.
    lowpass: remove what lies above 4 kHz, where recordings differ.
    copies: training windows appear so many times, with independent noise.
    load: '0', or 'all': also faults under 1 to 3 HP, beside normals of 0 HP.
    seed: of the noise.
  """
  _check(window, stride, copies, snr_db, load)
  root, gap = public_files.folder(data_dir, 'cwru'), max(window, _GAP)
  snr_db, copies = (np.inf, 1) if clean else (snr_db, copies)
  recording = lambda path: _halves(
    read(public_files.File(root, path), lowpass=lowpass), gap
  )
  normals = recording(_NORMAL)
  for path in (file.path for file in SOURCE.files):
    match = _FAULT.fullmatch(path)
    if match is None or (match[1] != '1797' and str(load) == '0'):
      continue
    fault, place = match.group(2, 3)
    name = fault if match[1] == '1797' else f'{fault}_{match[1]}rpm'
    halves = zip(('train', 'test'), normals, recording(path), strict=True)
    for side, normal, faulty in halves:
      training = side == 'train'
      step, times = (stride, copies) if training else (window, 1)
      entropy = [seed, zlib.crc32(name.encode()), not training]
      rng = np.random.default_rng(entropy)
      cut = _windows([*_halves(normal, gap), faulty], window, step, path)
      pool, later, bad = (
        _noisy(np.tile(part, (times, 1)), snr_db, zscore, rng) for part in cut
      )
      kinds = np.repeat(['', fault], [len(later), len(bad)])
      query = np.concatenate([later, bad])
      yield rows.entity(
        name + ('/train' if training else ''), pool, query, kinds,
        group=fault, fold=_FOLDS[place], side=side,
      )  # fmt: skip


def _check(window, stride, copies, snr_db, load):
  specs.allow(str(load) in ('0', 'all'), 'cwru', "'0', 'all'", load=load)
  specs.allow(
    window >= 8 and stride >= 1 and copies >= 1 and np.isfinite(snr_db),
    'cwru', 'window >= 8, stride and copies >= 1, a finite snr_db',
    window=window, stride=stride, copies=copies, snr_db=snr_db,
  )  # fmt: skip


def _halves(recording, gap):
  middle = len(recording) // 2
  return recording[: middle - gap // 2], recording[middle + gap - gap // 2 :]


def _windows(parts, window, step, path):
  """Windows for supports, normal ones to score, and as many faulty ones."""
  windows = []
  for part in parts:
    windows.append(series.cut(part, window, step))
    if not len(windows[-1]):
      raise DataError(
        f'cwru: window={window} is longer than a part of {path} ({len(part)} '
        'samples): choose a shorter window'
      )
  pool, later, bad = windows
  return pool, later, bad[rows.thin(np.arange(len(bad)), len(later))]


def _noisy(windows, snr_db, zscore, rng):
  """[N, L] -> float32 [N, L, 1]."""
  centre = windows.mean(1, keepdims=True)
  scale = windows.std(1, keepdims=True) + 1e-12
  noise = 10 ** (-snr_db / 20) * rng.standard_normal(windows.shape)
  standard = (windows - centre) / scale + noise
  result = standard if zscore else centre + scale * standard
  return result.astype(np.float32)[..., None]


SOURCE = public_files.source('cwru', load)
