import os
import signal
import subprocess
import sys

import calls
import nearest_run
import numpy as np
import pandas as pd
import pytest

from metaad_jax import FleetDetector, MetaAnomalyDetector
from metaad_jax.base import DataError
from metaad_jax.fleet import store

NAMES = list('abcde')
COUNTS = (1, 2, 3, 5, 9, 20, 30, 70, 4, 110, 7, 8)  # known rows


@pytest.fixture(scope='module')
def run():
  return nearest_run.shared()


def frame(seed=0, counts=COUNTS, rows=14):
  """Known rows and new ones, interleaved; those of 6 deviations last."""
  rng = np.random.default_rng(seed)
  known, new = [], []
  for i, count in enumerate(counts):
    normal, bad = nearest_run.table(rng, count + rows, 5, 6.0)
    parts = normal[:count], np.r_[normal[count:], bad[:4]]
    for x, out in zip(parts, (known, new), strict=True):
      out.append(pd.DataFrame(x, columns=NAMES).assign(m=i))
      if i == 4:  # has no such column
        out[-1]['c'] = np.nan
  both = [pd.concat(p).sample(frac=1, random_state=seed) for p in (known, new)]
  return both[0].reset_index(drop=True), both[1].reset_index(drop=True)


@pytest.fixture(scope='module')
def fleet(run):
  return FleetDetector(run).fit(frame()[0], entity='m')


def test_every_entity_is_judged_as_by_its_own_detector(run, fleet):
  known, new = frame()
  told = fleet.judge(new)
  for i in range(len(COUNTS)):
    own = MetaAnomalyDetector(run).fit(known[known.m == i][NAMES])
    if own._fitted.near is not None:  # a fleet has no neighbours beyond
      continue
    mine = told[new.m == i]
    judged = own.judge(new[new.m == i][NAMES])
    # Where a row is nearly a copy of a known one, to a thousandth.
    np.testing.assert_allclose(mine['score'], judged.scores, atol=1e-3)
    # Of so few entities they are those of the run, or higher.
    assert (mine['p_value'] >= 0.96 * judged.p_values).all()


def test_order_and_company_of_rows_do_not_matter(run, fleet):
  _, new = frame()
  order = np.random.default_rng(1).permutation(len(new))
  scores = fleet.score_samples(new)
  np.testing.assert_allclose(fleet.score_samples(new.iloc[order]),
                             scores[order], atol=2e-6)  # fmt: skip
  some = (new.m == 3).to_numpy()
  np.testing.assert_allclose(fleet.score_samples(new[some]), scores[some],
                             atol=2e-6)  # fmt: skip


def test_rows_of_unknown_entities_are_marked_and_judged_by_the_others(fleet):
  _, new = frame()
  strange = new.assign(m=new.m + 6)
  with pytest.warns(UserWarning, match='6 entities are not known'):
    told = fleet.judge(strange)
  assert (told['known'] == (strange.m < len(COUNTS))).all()
  far = strange.assign(**{name: 1e7 for name in NAMES}, m='nobody')
  with pytest.warns(UserWarning):
    assert fleet.judge(far)['outlier'].all()


def test_of_entities_of_one_row_gross_faults_are_found(run):
  known, new = frame(1, (1,) * 8)
  fleet = FleetDetector(run)
  with pytest.warns(UserWarning, match='one known row'):
    fleet.fit(known, entity='m')
  assert fleet.choice_ == {1: 'reference', 2: 'network'}
  gross = new.groupby('m').head(2).copy()
  gross['b'] += 100 * known['b'].std()
  assert fleet.judge(gross)['outlier'].all()
  told = fleet.judge(new)
  assert told['known'].all()
  x = new[new.m == 5][NAMES]
  np.testing.assert_allclose(
    fleet.detector('5').score_samples(x), -told['score'][new.m == 5], atol=1e-3
  )
  more = fleet.partial_fit(frame(2, (3,) * 8)[0].query('m == 5')).judge(new)
  moved = (more['score'] != told['score']).groupby(new.m).any()
  assert moved.index[moved].tolist() == [5]  # it has a detector of its own now


def test_scores_stay_where_so_few_can_call_nothing_rare(fleet, monkeypatch):
  _, new = frame()
  new.loc[:3, NAMES] = 1e7
  with monkeypatch.context() as patched:
    never = np.full_like(fleet._own.grid, np.inf)
    never[..., 0] = fleet._own.grid[..., 0]
    patched.setattr(fleet, '_own', fleet._own._replace(grid=never))
    scores, p = fleet.score_samples(new), fleet.p_values(new)
  np.testing.assert_array_equal(scores, fleet.score_samples(new))
  assert (p == 1)[new.m == 0].all()  # one row: no other normals of its own


def test_nothing_is_compiled_as_entities_come_and_go(run, fleet):
  known, new = frame(3)
  fleet.judge(new)
  with nearest_run.CountedCompiles() as compiles:
    other = FleetDetector(run).fit(known[known.m < 9].assign(m=known.m + 100),
                                   entity='m')  # fmt: skip
    other.score_samples(new[new.m < 5].assign(m=new.m + 100))
  assert compiles.number == 0


def test_saved_and_loaded_it_judges_alike(fleet, tmp_path):
  _, new = frame()
  path = tmp_path / 'pumps.fleet'
  fleet.save(path)
  again = FleetDetector.load(path)
  pd.testing.assert_frame_equal(again.judge(new), fleet.judge(new))
  assert again.entities_ == [*map(str, sorted(map(str, range(12))))]
  rows = sum(count * 5 * 8 for count in COUNTS)
  assert os.path.getsize(path) < rows + (len(COUNTS) + 1) * 1024 + 60_000


def test_of_many_entities_known_rows_are_scored_when_they_are_judged(
  run, fleet, tmp_path, monkeypatch
):
  monkeypatch.setattr('metaad_jax.fleet.detector._SCORED', 5)
  known, new = frame()
  FleetDetector(run).fit(known, entity='m').save(tmp_path / 'a.fleet')
  late = FleetDetector.load(tmp_path / 'a.fleet')
  assert all(entity.known is None for name, entity in late._store if name)
  pd.testing.assert_frame_equal(late.judge(new), fleet.judge(new))
  late.save(tmp_path / 'a.fleet')
  again = FleetDetector.load(tmp_path / 'a.fleet')
  assert all(entity.known is not None for _, entity in again._store)


def test_more_rows_of_one_entity_change_it_alone(fleet, tmp_path, run):
  known, new = frame()
  path = tmp_path / 'pumps.fleet'
  FleetDetector(run).fit(known, entity='m').save(path)
  before = FleetDetector.load(path).score_samples(new)
  again = FleetDetector.load(path).partial_fit(new[new.m == 2].head(8))
  again.save(path)
  after = FleetDetector.load(path).score_samples(new)
  same = (new.m != 2).to_numpy()
  np.testing.assert_array_equal(after[same], before[same])
  assert (after[~same] != before[~same]).any()


_KILLED = """
import os, signal, sys
import numpy as np
from metaad_jax.fleet import store
made = store.Store(sys.argv[1])
x = np.full((2000, 50), 2.0)
many = {str(i): store.Entity(x, np.zeros(2000, 'i1'), np.ones(2000, bool))
        for i in range(40)}
made.change(many)
rows, left = store._row, int(sys.argv[2])
def killing(name, entity):
  global left
  left -= 1
  if not left:
    os.kill(os.getpid(), signal.SIGKILL)
  return rows(name, entity)
store._row = killing
made.save(sys.argv[1])
"""


@pytest.mark.parametrize('after', [1, 39])
def test_killed_while_it_writes_a_file_holds_what_it_held(tmp_path, after):
  path = str(tmp_path / 'a.fleet')
  one = store.Entity(np.ones((3, 2)), np.zeros(3, 'i1'), np.ones(3, bool))
  made = store.Store()
  made.change({'0': one, 'b': one})
  made.save(path)
  made.close()
  ran = subprocess.run([sys.executable, '-c', _KILLED, path, str(after)])
  assert ran.returncode == -signal.SIGKILL
  left = store.Store(path)
  assert left.names == {'0', 'b'}
  np.testing.assert_array_equal(left.read(['0'])['0'].x, one.x)


def test_a_damaged_file_is_refused_in_one_line(run, tmp_path):
  path = tmp_path / 'a.fleet'
  fleet = FleetDetector(run).fit(frame()[0], entity='m')
  value = np.float64(fleet.detector('5')._fitted.x[3, 2]).tobytes()
  fleet.save(path)
  whole = path.read_bytes()
  _, new = frame()
  for damaged in (whole[: len(whole) // 2], b'', whole[:16] + whole[400:]):
    path.write_bytes(damaged)
    with pytest.raises(DataError):
      FleetDetector.load(path).judge(new)
  at = whole.rindex(value)
  path.write_bytes(whole[:at] + b'\1' + whole[at + 1 :])
  with pytest.raises(DataError, match='checksum'):
    FleetDetector.load(path).judge(new)


def test_the_command_adapts_to_a_long_file_and_judges_another(run, tmp_path):
  known, new = frame()
  files = [str(tmp_path / name) for name in ('known.csv', 'new.csv')]
  for part, file in zip((known, new), files, strict=True):
    part.to_csv(file, index=False)
  path, found = str(tmp_path / 'pumps.fleet'), tmp_path / 'found'
  calls.succeed('fit', files[0], '--entity=m', f'--run_dir={run}',
                f'--output={path}')  # fmt: skip
  calls.succeed('score', path, files[1], f'--output={found}')
  told = pd.read_csv(found / 'scores.csv')
  wanted = FleetDetector(run).fit(known, entity='m').judge(new)
  np.testing.assert_allclose(told['score'], wanted['score'], atol=1e-5)
  assert (told['decision'].eq('abnormal') == wanted['outlier']).all()
  assert wanted['outlier'][told['reasons'].notna()].all()
  assert told['reasons'].notna().any()
  calls.succeed('detect', *files, '--entity=m', f'--run_dir={run}',
                f'--output={tmp_path / "again"}')  # fmt: skip
  again = (tmp_path / 'again/scores.csv').read_bytes()
  assert again == (found / 'scores.csv').read_bytes()


def test_doubtful_names_and_times_are_told(run):
  known, _ = frame(0, (3, 3))
  names = known.m.astype(object).where(known.index != 0, known.m.astype(float))
  with pytest.warns(UserWarning, match='are one number'):
    FleetDetector(run).fit(known.assign(m=names.astype(str)), entity='m')
  with pytest.warns(UserWarning, match='^4 rows have the entity and the time'):
    FleetDetector(run).fit(known.assign(t=7.0), entity='m', time='t')


def test_frames_that_make_no_sense_are_refused_by_name(run):
  known, _ = frame()
  with pytest.raises(DataError, match="'machine'"):
    FleetDetector(run).fit(known, entity='machine')
  with pytest.raises(DataError, match='row 3'):
    FleetDetector(run).fit(known.assign(m=known.m.where(known.index != 3)),
                           entity='m')  # fmt: skip
