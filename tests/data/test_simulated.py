"""Simulated entities are made once, and read as they were made."""

import numpy as np
import pytest

from metaad_jax import base, devices
from metaad_jax.data import audits, simulated


@pytest.fixture
def keep(tmp_path, monkeypatch):
  """(facts) -> entities, and how often any were made so far."""
  monkeypatch.setattr(devices, 'cache_folder', lambda: str(tmp_path))
  monkeypatch.setattr(simulated, '_LEAST', 0)
  made = []

  def make(seed):
    made.append(seed)
    rng = np.random.default_rng(seed)
    return [
      base.Entity(
        f'machine-{i}', rng.normal(size=(4 + i, 3, 1)).astype('f4'),
        rng.normal(size=(2, 3, 1)).astype('f4'),
        np.array([0, 1], np.int32), ('', 'fault'), side='train',
      )
      for i in range(2)
    ]  # fmt: skip

  def get(seed):
    found = simulated.kept(['fleet', seed], ('json',), lambda: make(seed))
    return found, len(made)

  return get


def test_a_second_start_reads_what_the_first_one_made(keep):
  (made, _), (read, times) = keep(1), keep(1)
  assert times == 1
  for one, other in zip(made, read, strict=True):
    for name, value in vars(one).items():
      np.testing.assert_array_equal(value, vars(other)[name], strict=True)
    fresh = base.Entity('', other.normal, other.query, other.labels)
    assert audits.digest(other) == audits.digest(fresh)


def test_other_facts_are_made(keep):
  keep(1)
  assert keep(2)[1] == 2


@pytest.mark.parametrize('name', ['normal.npy', 'labels.npy', 'entities.json'])
def test_what_is_cut_off_is_made_anew(keep, tmp_path, name):
  made, _ = keep(1)
  (path,) = tmp_path.rglob(name)
  path.write_bytes(path.read_bytes()[:-20])
  again, times = keep(1)
  assert times == 2
  np.testing.assert_array_equal(made[1].normal, again[1].normal)
  assert keep(1)[1] == 2


def test_the_least_recently_used_go_first(keep, tmp_path, monkeypatch):
  keep(1)
  (folder,) = (tmp_path / 'simulated').iterdir()
  size = sum(file.stat().st_size for file in folder.iterdir())
  monkeypatch.setattr(simulated, '_MOST', int(2.5 * size))
  keep(2)
  keep(1)
  keep(3)
  assert keep(1)[1] == 3
  assert keep(2)[1] == 4


def test_a_full_disk_only_makes_it_again(keep, tmp_path, monkeypatch):
  def full(*_):
    raise OSError('no space left on device')

  monkeypatch.setattr(simulated, '_write_array', full)
  keep(1)
  assert keep(1)[1] == 2
  assert not list((tmp_path / 'simulated').iterdir())
