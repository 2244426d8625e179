"""Recordings of the archives, as series."""

import dataclasses

import numpy as np
import pytest

from metaad_jax.base import DataError
from metaad_jax.data import recordings, registry, rows


def test_no_row_is_left_out(monkeypatch):
  x = np.arange(5000, dtype=np.float32)[:, None]

  @rows.limited
  def load(data_dir):
    yield rows.entity('pump', x, x + 5000, np.where(x[:, 0] < 9, 'x', ''))

  source = dataclasses.replace(registry.REGISTRY['smd'], load=load, channels=())
  monkeypatch.setitem(registry.REGISTRY, 'smd', source)
  (made,) = recordings.ARCHIVES['smd'](None)
  np.testing.assert_array_equal(
    np.concatenate([made.healthy, made.series])[:, 0], np.arange(10000)
  )


@pytest.mark.parametrize('archive', ['ucr', 'kpi', 'nab'])
@pytest.mark.parametrize('folder', [None, '/nowhere'])
def test_an_archive_that_is_not_there_is_said_in_one_line(archive, folder):
  with pytest.raises(DataError, match=f'{archive} is not there'):
    next(iter(recordings.load(archive, folder)))
