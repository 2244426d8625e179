"""What the file of a fleet holds beside its entities."""

import os
import tempfile
from typing import Any

from metaad_jax import storage
from metaad_jax.base import DataError
from metaad_jax.detector import fitted
from metaad_jax.fleet import frames
from metaad_jax.fleet.kin import Kin
from metaad_jax.fleet.store import Store, as_json, from_json
from metaad_jax.scores import conformal
from metaad_jax.training import runs


def save(fleet: Any, path: str) -> None:
  """See `FleetDetector.save`."""
  about = {
    'rate': fleet.false_alarm_rate,
    'layout': frames.layout_to_json(fleet.layout_),
    'calibration': fleet.calibration_,
  }
  fleet._store.parts['about'] = as_json(about)
  if fleet._store.path is None:
    fleet._store.parts['run'] = _packed(*runs.pack(fleet._run))
    if fleet.calibration_ != 'run':
      arrays = conformal.to_arrays(fleet._own)
      fleet._store.parts['calibration'] = _packed(arrays, {})
  if fleet._store.path is None or fleet._group:
    kin = fleet._kin
    told = {'column': fleet._group, 'tables': list(kin.tables),
            'pools': list(kin.pools),
            'groups': {k: v for k, v in kin.groups.items() if v}}  # fmt: skip
    fleet._store.parts['siblings'] = _packed(kin.arrays(), told)
  fleet._store.save(path)


def load(kind: Any, path: str) -> Any:
  """See `FleetDetector.load`."""
  store = Store(path)
  about = from_json(store.part('about'), _about)
  fleet = kind(path, false_alarm_rate=about['rate'])
  fleet._store, fleet.layout_ = store, about['layout']
  run = fitted.unpacked(_unpacked(store.part('run')), path)
  if not run.setup.any_width:
    raise DataError(f'{path}: its run takes no tables of any width')
  fleet._run, fleet._own = run, run.calibration
  fleet.calibration_ = 'run'
  if store.has('calibration'):
    arrays, _ = _unpacked(store.part('calibration'))
    fleet._own = conformal.from_arrays(arrays)
    fleet.calibration_ = about['calibration']
  fleet._group, fleet._kin = '', Kin({}, {}, {})
  if store.has('siblings'):
    try:
      arrays, told = _unpacked(store.part('siblings'))
      fleet._group = str(told['column'])
      fleet._kin = Kin.of_arrays(
        arrays, told['tables'], told.get('pools', ()), dict(told['groups'])
      )
    except (KeyError, TypeError, ValueError) as error:
      raise DataError(f'{path} is damaged ({error}): save it anew') from error
  return fleet


def _about(told):
  layout = frames.layout_from_json(told['layout'])
  by = told.get('calibration', 'fleet')
  if by not in ('run', 'fleet', 'both'):
    raise ValueError(f'calibration by {by!r}')
  return {
    'rate': fitted.share(told['rate']), 'layout': layout, 'calibration': by
  }  # fmt: skip


def _packed(arrays, meta):
  """The bytes of a model file."""
  with tempfile.TemporaryDirectory() as folder:
    path = os.path.join(folder, 'part.npz')
    storage.save(path, arrays, meta)
    with open(path, 'rb') as file:
      return file.read()


def _unpacked(content):
  with tempfile.TemporaryDirectory() as folder:
    path = os.path.join(folder, 'part.npz')
    with open(path, 'wb') as file:
      file.write(content)
    return storage.load(path)
