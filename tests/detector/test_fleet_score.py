"""`metaad score` of a fleet: in pieces, on a cluster, alarms of the whole."""

import os

import calls
import nearest_run
import numpy as np
import pandas as pd
import pytest

from metaad_jax import FleetDetector
from metaad_jax.fleet import pieces
from metaad_jax.scores import conformal


def frame(n, seed):
  rng = np.random.default_rng(seed)
  made = pd.DataFrame(rng.normal(size=(n, 3)).round(6), columns=list('abc'))
  made.insert(0, 'm', [f'm,{i}' for i in rng.integers(0, 6, n)])
  made['t'] = pd.date_range('2024-01-01', periods=n, freq='min')
  made.loc[::9, 'a'] = 1e4
  if seed:
    made.loc[made.m == 'm,5', 'm'] = 'nobody\nknows'
  return made


KNOWN, NEW = frame(200, 0).query('a < 100'), frame(500, 1)


@pytest.fixture(scope='module')
def model(tmp_path_factory):
  path = str(tmp_path_factory.mktemp('fleet') / 'a.fleet')
  run = nearest_run.shared()
  FleetDetector(run).fit(KNOWN, entity='m', time='t').save(path)
  return path


@pytest.fixture(scope='module')
def wanted(model):
  return FleetDetector.load(model).judge(NEW)


def scored(model, path, folder, *flags, code=0):
  out = calls.succeed('score', model, str(path), f'--output={folder}', *flags,
                      code=code)  # fmt: skip
  read = lambda name: pd.read_csv(folder / f'{name}.csv')
  return out, read('scores'), read('entities'), read('events')


@pytest.mark.parametrize('cells', [500, 10**7])
@pytest.mark.parametrize('form', ['csv', 'parquet'])
def test_pieces_are_judged_as_the_whole(
  model, wanted, tmp_path, monkeypatch, cells, form
):
  path = tmp_path / f'new.{form}'
  getattr(NEW, f'to_{form}')(path, index=False)
  monkeypatch.setattr(pieces, 'CELLS', cells)
  assert (len(list(pieces.of(path))) > 3) == (cells == 500)
  out, scores, ranking, events = scored(model, path, tmp_path / 'found')
  assert (scores['row'] == np.arange(500)).all()
  assert (scores['m'] == NEW['m']).all() and (
    scores['known'] == wanted.known
  ).all()
  np.testing.assert_allclose(scores['score'], wanted['score'], atol=1e-5)
  bad = scores['decision'] == 'abnormal'
  np.testing.assert_array_equal(bad, wanted['outlier'])
  assert scores['reasons'].notna().sum() == min(50, bad.sum())
  assert bad[scores['reasons'].notna()].all()
  of = wanted.groupby('m').agg(n=('outlier', 'size'), bad=('outlier', 'sum'),
                               least=('p_value', 'min'))  # fmt: skip
  told = ranking.set_index('m').loc[of.index]
  assert (told['rows'] == of['n']).all() and (
    told['abnormal'] == of['bad']
  ).all()
  np.testing.assert_allclose(told['least_p_value'], of['least'], rtol=1e-3)
  assert events['rows'].sum() == bad.sum() and events['told'].all()
  assert sorted(os.listdir(tmp_path / 'found')) == [
    'entities.csv', 'events.csv', 'report.html', 'scores.csv'
  ]  # fmt: skip
  assert out.startswith(f'500 rows of 6 entities; {bad.sum()} are called')


def test_alarms_of_one_instant_are_one_event_within_the_budget(
  model, wanted, tmp_path
):
  path = tmp_path / 'new.csv'
  NEW.to_csv(path, index=False)
  _, scores, _, events = scored(
    model, path, tmp_path / 'found', '--gap=60', '--budget=2 per hour',
    '--exit_code', code=3,
  )  # fmt: skip
  fleet = FleetDetector.load(model)
  every = fleet.events(NEW, gap=60)
  told = fleet.events(NEW, gap=60, budget='2 per hour')
  assert len(events) == len(every) and events['told'].sum() == len(told)
  assert 10 < len(told) < len(every)
  stamps = pd.to_datetime([event.start for event in every], unit='s')
  assert (pd.to_datetime(events['start']) == stamps).all()
  sizes = [len(event.rows) for event in every]
  assert scores['event'].value_counts().sort_index().tolist() == sizes
  assert [*events['rows']] == [len(event.rows) for event in every]


def test_of_all_alarms_few_may_be_false_by_benjamini_hochberg(
  model, wanted, tmp_path
):
  path = tmp_path / 'new.csv'
  NEW.to_csv(path, index=False)
  _, scores, _, _ = scored(model, path, tmp_path / 'found', '--fdr=0.3')
  told = conformal.benjamini_hochberg(wanted['p_value'], 0.3)
  np.testing.assert_array_equal(scores['decision'] == 'abnormal', told)
  assert 0 < told.sum() != wanted['outlier'].sum()


def test_a_failure_leaves_nothing(model, tmp_path):
  path = tmp_path / 'new.csv'
  NEW.astype({'a': object}).replace({'a': {NEW.a[450]: 'x'}}).to_csv(path)
  for flag in ('--gap=1', '--engine=spark', '--budget=many'):
    code, _, err = calls.call('score', model, str(path), flag,
                              f'--output={tmp_path / "found"}')  # fmt: skip
    assert code == 1 and not (tmp_path / 'found').exists()


_KILLER = """
import os, pathlib, signal, sys
sys.path.append({tests!r})
import nearest_run
nearest_run.register()
from metaad_jax.fleet import engines, tally
judge = tally.undisturbed = getattr(tally, 'undisturbed', tally.judge)
stop = pathlib.Path({stop!r})
def dying(fleet, piece):
  try:
    stop.touch(exist_ok=False)
  except FileExistsError:
    return judge(fleet, piece)
  judge(fleet, piece)
  os.kill(os.getpid(), signal.SIGKILL)
tally.judge = dying
"""


@pytest.mark.slow
def test_a_cluster_says_the_same_though_a_worker_is_killed(
  model, tmp_path, monkeypatch
):
  distributed = pytest.importorskip('distributed')
  path, stop = tmp_path / 'new.csv', tmp_path / 'killed'
  NEW.to_csv(path, index=False)
  monkeypatch.setattr(pieces, 'CELLS', 500)
  killer = tmp_path / 'killer.py'
  tests = os.path.dirname(nearest_run.__file__)
  killer.write_text(_KILLER.format(stop=str(stop), tests=tests))
  there = scored(model, path, tmp_path / 'local')
  with (
    distributed.LocalCluster(
      n_workers=2, threads_per_worker=1, dashboard_address=None,
      preload=[str(killer)],
    ) as cluster,
    distributed.Client(cluster) as client,
  ):  # fmt: skip
    before = set(client.run(os.getpid).values())
    address = f'--engine={cluster.scheduler_address}'
    out = scored(model, path, tmp_path / 'dask', address)
    assert stop.exists() and set(client.run(os.getpid).values()) != before
  for mine, local in zip(out[1:], there[1:], strict=True):
    pd.testing.assert_frame_equal(mine, local, check_exact=True)
