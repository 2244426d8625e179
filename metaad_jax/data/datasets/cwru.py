"""Bearing vibration of Case Western Reserve University, made hard.

As usually posed the task is trivial: the loudness of a window tells every fault
from normal. Here every window is standardized and buried in white noise, time
separates training from test, and two give-aways of the recordings are removed:

- The normal recording was sampled at 48 kHz, the faults at 12 kHz. It is
  decimated, which leaves the edge of a filter above 4 kHz.
- After decimation 65 % of its energy lies above 4 kHz, of the faults' a few
  percent. Standardizing such windows would give normal away by its low
  level below 4 kHz, so all recordings are low-passed first.

Features must not look above 4 kHz, where only noise is left.
"""

import pathlib
import re
import zlib

import numpy as np

from metaad_jax.base import DataError, Entity, Source
from metaad_jax.data import public_files, series

RATE = 12000  # Hz
_NORMAL = 'Data/1797 RPM/1797_Normal.npz'
_FAULT = re.compile(r'Data/(\d+) RPM/\d+_((B|IR|OR)\S*)_DE12\.npz')
_FOLDS = {'B': 'ball', 'IR': 'inner', 'OR': 'outer'}
_CUTOFF = 3800.0  # Hz, -12 dB; -100 dB and less from 4 kHz on
_GAP = 512  # samples, more than the filters reach

FILES = public_files.remote(
  'cwru',
  'https://raw.githubusercontent.com/srigas/CWRU_Bearing_NumPy/'
  'b1179d28761048530daa4f04a5c1659eff529499/',
)


def read(root: pathlib.Path, path: str, *, lowpass: bool = True) -> np.ndarray:
  """The drive-end acceleration of one recording.

  Args:
    root: `<data_dir>/cwru`.
    path: of the .npz file below it.
    lowpass: whether what lies above 4 kHz is removed.

  Returns:
    [T] float64 in g, at 12 kHz.
  """
  recording = public_files.array(root, path, 'DE')
  bad = np.flatnonzero(~np.isfinite(recording))
  if len(bad):
    raise public_files.broken(
      root,
      path,
      f'DE[{bad[0]}] is {recording[bad[0]]}',
    )
  from scipy import signal  # late: the detector starts without

  taps = signal.firwin(129, _CUTOFF, fs=RATE)
  if len(recording) < 8 * _GAP:
    raise public_files.broken(root, path, f'{len(recording)} samples only')
  if path == _NORMAL:
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
) -> list[Entity]:
  """Two entities per fault recording: `<name>/train`, and `<name>` for test.

  Recordings are cut in time, with gaps of at least a window: first halves are
  for training, second halves for test; within a half, the query's normals come
  after those of the supports. A query has as many fault windows as normal ones.

  Args:
    data_dir: holds cwru/.
    window: samples per window.
    stride: samples between training windows.
    snr_db: power of the window over that of the white noise added to it.
    clean: no noise, and no copies.
    zscore: windows are standardized, then the noise is added.
    lowpass: remove what lies above 4 kHz, where recordings differ.
    copies: training windows appear so many times, with independent noise.
    load: '0', or 'all': also faults under 1 to 3 HP, beside normals of 0 HP.
    seed: of the noise.

  Returns:
    Windows [N, window, 1]; kind and group such as 'IR_14'; fold such as 'ball'.
  """
  _check(window, stride, copies, snr_db, load)
  root = public_files.folder(data_dir, 'cwru')
  gap = max(window, _GAP)
  normals = _halves(read(root, _NORMAL, lowpass=lowpass), gap)
  entities = []
  for path in (file.path for file in FILES):
    match = _FAULT.fullmatch(path)
    if match is None or (match[1] != '1797' and str(load) == '0'):
      continue
    faults = _halves(read(root, path, lowpass=lowpass), gap)
    name = match[2] if match[1] == '1797' else f'{match[2]}_{match[1]}rpm'
    for side, normal, fault in zip(
      ('train', 'test'), normals, faults, strict=True
    ):
      parts = [*_halves(normal, gap), fault]
      step = stride if side == 'train' else window
      rng = np.random.default_rng(
        [seed, zlib.crc32(name.encode()), side == 'test']
      )
      pool, later, faulty = _noisy_windows(
        parts, window, step, path, zscore,
        np.inf if clean else snr_db,
        copies if side == 'train' and not clean else 1, rng,
      )  # fmt: skip
      entities.append(_entity(name, match, side, pool, later, faulty))
  return entities


def _entity(name, match, side, pool, later, faulty):
  return Entity(
    name=name + ('/train' if side == 'train' else ''),
    normal=pool,
    query=np.concatenate([later, faulty]),
    labels=np.repeat([0, 1], [len(later), len(faulty)]).astype(np.int32),
    kinds=('',) * len(later) + (match[2],) * len(faulty),
    group=match[2],
    fold=_FOLDS[match[3]],
    side=side,
  )


def _check(window, stride, copies, snr_db, load):
  if str(load) not in ('0', 'all'):
    raise DataError(f"cwru: load={load!r}: choose '0' or 'all'")
  if window < 8 or stride < 1 or copies < 1 or not np.isfinite(snr_db):
    raise DataError(
      f'cwru: window={window}, stride={stride}, copies={copies}, '
      f'snr_db={snr_db}: choose window >= 8, the others >= 1, a finite snr_db'
    )


def _halves(recording, gap):
  middle = len(recording) // 2
  return recording[: middle - gap // 2], recording[middle + gap - gap // 2 :]


def _windows(recording, window, stride, path, limit=2**31):
  first = series.starts(0, len(recording), window, stride, 'cwru')
  if not len(first):
    raise DataError(
      f'cwru: window={window} is longer than a part of {path} '
      f'({len(recording)} samples): choose a shorter window'
    )
  index = series.thin(first, limit)
  return recording[index[:, None] + np.arange(window)]


def _noisy_windows(parts, window, step, path, zscore, snr_db, times, rng):
  """Windows of two parts of the normal recording and of the faulty one."""
  pool, later = (_windows(part, window, step, path) for part in parts[:2])
  faulty = _windows(parts[2], window, step, path, limit=len(later))
  return [
    _noisy(np.tile(part, (times, 1)), snr_db, zscore, rng)
    for part in (pool, later, faulty)
  ]


def _noisy(windows, snr_db, zscore, rng):
  """[N, L] -> float32 [N, L, 1]."""
  centre = windows.mean(1, keepdims=True)
  scale = windows.std(1, keepdims=True) + 1e-12
  noise = 10 ** (-snr_db / 20) * rng.standard_normal(windows.shape)
  standard = (windows - centre) / scale + noise
  result = standard if zscore else centre + scale * standard
  return result.astype(np.float32)[..., None]


SOURCE = Source(
  name='cwru',
  description='bearing faults; windows of drive-end acceleration in noise',
  load=load,
  features=('logspec:high=4000',),
  units='g (standardized per window by default)',
  licence='none stated; research use with credit to Case Western Reserve '
  'University',
  citation='Case Western Reserve University Bearing Data Center, '
  'https://engineering.case.edu/bearingdatacenter',
  channels=('drive end',),
  rate=float(RATE),
  files=FILES,
)
