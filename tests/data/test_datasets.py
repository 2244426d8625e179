"""The sources, on tiny files in the public layout and, if there, on real ones.

The public files carry the time of each row in their values, so that what
went where can be read off the entities.
"""

import dataclasses
import functools
import lzma
import os
import pathlib

import numpy as np
import public_layouts
from public_layouts import npz, oddbench_table, put, the_error
import pytest

from metaad_jax.base import DataError, Entity
from metaad_jax.data import (
  audits,
  public_files,
  registry,
  rows,
  series,
  splitting,
)
from metaad_jax.data.datasets import cwru, nsl_kdd, oddbench, skab

REAL = os.environ.get('METAAD_DATA_DIR', '')


def by_name(spec, data_dir):
  return {e.name: e for e in registry.load(spec, str(data_dir))}


def first(x):
  """The first value of each row or window."""
  return x.reshape(len(x), -1)[:, 0].tolist()


def normals(entity):
  return entity.query[entity.labels == 0]


def anomalies(entity):
  return entity.query[entity.labels == 1]


def compress(root: pathlib.Path) -> None:
  for path in sorted(root.rglob('*')):
    if path.is_file():
      packed = lzma.compress(path.read_bytes(), preset=0)
      put(path.with_name(path.name + '.xz'), packed)
      path.unlink()


# --- every source ------------------------------------------------------------


def test_registry_is_consistent():
  for name, source in registry.REGISTRY.items():
    assert source.name == name
    assert source.licence and source.citation and source.units
    assert source.generate or source.files or source.note
    for file in source.files:
      assert file.url.startswith('https://') and ' ' not in file.url
      path = pathlib.PurePosixPath(file.path)
      assert not path.is_absolute() and '..' not in path.parts
      assert len(bytes.fromhex(file.sha256.rpartition(':')[2])) == 32
    assert len({file.path for file in source.files}) == len(source.files)


@pytest.mark.parametrize('name', public_layouts.WRITERS)
def test_loading_reads_xz_beside_plain_and_writes_nothing(
  name, tmp_path, public
):
  spec = 'cwru:copies=1' if name == 'cwru' else name
  plain = registry.load(spec, str(public))
  public_layouts.link(public, tmp_path, name)
  compress(tmp_path / name)
  state = lambda: sorted((p, p.stat().st_mtime_ns) for p in tmp_path.rglob('*'))
  before = state()
  packed = registry.load(spec, str(tmp_path))
  for pair in zip(plain, packed, strict=True):
    one, other = (vars(entity) for entity in pair)
    for field, value in one.items():
      np.testing.assert_array_equal(value, other[field])
  assert before == state()
  compress(tmp_path / name)  # twice compressed: not what is expected
  the_error(name, str(tmp_path))


@pytest.mark.parametrize('name', public_layouts.WRITERS)
def test_missing_folder_says_how_to_fetch_it(name, tmp_path):
  message = the_error(name, tmp_path)
  assert str(tmp_path / name) in message
  fetch = f'experiments.download --source={name}'
  assert f'{fetch} --data_dir={tmp_path}' in message
  assert fetch in the_error(name, None)


# Of every entity: the first values of its normals and of its query, and which
# of the latter are anomalous.
TWO = lambda t: 1040 <= t < 1046 or 1080 <= t < 1090
HOUR = [i for i in range(11) if i != 7]
END = [row for row in range(2, 40) if row != 3]  # 0, 1, 3 are not reported
PREP = [*range(40, 60)]


def mill(experiments, rows):
  return [100 * i + row for i in experiments for row in rows]


EXPECTED = {
  'skab': (34 * [range(15)], 34 * [range(16, 60)], lambda t: 30 <= t < 45),
  'skab:window=4,stride=3': (
    34 * [range(0, 12, 3)], 34 * [range(19, 57, 3)], lambda t: 26 < t < 45,
  ),
  'smd': (2 * [range(120)], 2 * [range(1000, 1120)], TWO),
  'asd': (2 * [range(120)], 2 * [range(1000, 1120)], TWO),
  'smd:window=4,stride=2': (
    2 * [range(0, 117, 2)], 2 * [range(1000, 1117, 2)],
    lambda t: any(TWO(t + i) for i in range(4)),
  ),
  'smap_msl': (2 * [range(120)], 2 * [range(1000, 1120)], TWO),
  'smap_msl:window=8': (
    2 * [range(0, 113, 8)], 2 * [range(1000, 1113, 8)],
    lambda t: t in (1040, 1080, 1088),
  ),
  'smap_msl:spacecraft=MSL': (
    [range(120)], [range(1000, 1120)], lambda t: 1100 <= t <= 1110,
  ),
  'creditcard': (
    [[24 * k + i for i in HOUR] for k in range(5)],
    [range(24 * k + 11, 24 * k + 24) for k in range(5)],
    lambda t: t % 8 == 7,
  ),
  'cnc_mill': (
    [mill((1, 3), END), mill((1, 3), PREP)],
    [mill((5, 2, 4), END), mill((5, 2, 4), PREP)],
    lambda t: t // 100 in (2, 4),
  ),
  'cnc_mill:apart=False,min_rows=1': (
    [mill((1, 3, 5), END[:18])],
    [mill((1, 3, 5), END[28:]) + mill((2, 4), END)],
    lambda t: t // 100 in (2, 4),
  ),
}  # fmt: skip


@pytest.mark.parametrize('spec', EXPECTED)
def test_who_gets_which_row(spec, public):
  normal, query, anomalous = EXPECTED[spec]
  entities = registry.load(spec, str(public))
  assert [first(e.normal) for e in entities] == [[*one] for one in normal]
  assert [first(e.query) for e in entities] == [[*one] for one in query]
  for entity in entities:
    assert entity.labels.tolist() == [*map(anomalous, first(entity.query))]
    if entity.normal.ndim == 3:
      assert (np.diff(entity.query[:, :, 0]) == 1).all()


def test_names_folds_and_kinds(public):
  of = lambda spec: [
    (e.name, e.fold, *sorted({*e.kinds})) for e in registry.load(spec, public)
  ]
  skabs = of('skab')
  assert ('valve1/0', 'valve1', '', 'inlet valve closed') in skabs
  assert ('other/14', 'other', '', 'hot water added') in skabs
  assert of('smd') == [
    ('machine-1-6', 'group1', '', 'metrics 1 9'),
    ('machine-3-11', 'group3', '', 'metrics 1 9'),
  ]
  assert of('asd') == [(f'omi-{i}', '', '', 'temporal') for i in (2, 10)]
  assert of('smap_msl') == [
    ('A-10', '', '', 'contextual', 'point'), ('P-2', '', '', 'point')
  ]  # fmt: skip
  assert of('creditcard') == [
    (f'hour {h}', '', '', 'fraud') for h in range(0, 10, 2)
  ]
  assert of('cnc_mill') == [
    (f'feed3/{stage}', 'feed3', '', 'worn tool') for stage in ('end', 'prep')
  ]
  assert of('mitbih') == [(name, '', '', 'V') for name in ('100', '207')]
  groups = {e.name: e.group for e in registry.load('skab', public)}
  assert groups['other/4'] == 'other/2' and groups['other/5'] == 'other/5'


def test_thinning_keeps_proportions(public):
  for entity in registry.load('smd:max_rows=10,max_queries=20', str(public)):
    assert len(entity.normal) == 10 and len(entity.query) == 20
    assert first(entity.normal)[0] == 0 and first(entity.normal)[-1] == 119
    assert abs(entity.labels.sum() - 20 * 16 / 120) <= 1
    assert TWO(first(anomalies(entity))[0]) and np.all(
      np.diff(first(entity.query)) > 0
    )


# --- validate ----------------------------------------------------------------

GOOD = Entity(
  name='a',
  normal=np.ones((3, 8), np.float32),
  query=np.zeros((4, 8), np.float32),
  labels=np.array([0, 0, 1, 1], np.int32),
)


def with_value(array, place, value):
  changed = np.array(array)
  changed[place] = value
  return changed


@pytest.mark.parametrize(
  ('change', 'told'),
  [
    ({'normal': with_value(GOOD.normal, (1, 3), np.nan)}, 'row 1, column Pres'),
    ({'query': with_value(GOOD.query, (2, 7), -np.inf)}, 'row 2, column V'),
    ({'query': GOOD.query[:3]}, 'each of the 3 query rows'),
    ({'query': GOOD.query[:, :5]}, 'shape [5]'),
    ({'normal': GOOD.normal.astype(float)}, 'float64'),
    ({'normal': GOOD.normal[:0]}, 'no normal rows'),
    ({'labels': np.array([0, 0, 1, 2], np.int32)}, 'query row 3: label 2'),
    ({'labels': np.array([0, 0, 1, 1])}, 'int64'),
    ({'name': 'b'}, 'name'),
    ({'kinds': ('', 'x')}, 'kinds'),
    ({'kinds': ('x', '', 'x', 'x')}, 'kinds'),
    ({'side': 'left'}, "side 'left'"),
  ],
)
def test_validate_names_entity_row_and_column(change, told):
  registry.validate(skab.SOURCE, [GOOD])
  wrong = dataclasses.replace(GOOD, **change)
  with pytest.raises(DataError) as caught:
    registry.validate(skab.SOURCE, [dataclasses.replace(GOOD, name='b'), wrong])
  assert told in str(caught.value) and '\n' not in str(caught.value)
  assert wrong.name in str(caught.value)


def test_validate_wants_entities_of_the_sources_width():
  with pytest.raises(DataError, match='no entities'):
    registry.validate(skab.SOURCE, [])
  with pytest.raises(DataError, match='8 columns'):
    registry.validate(cwru.SOURCE, [GOOD])


# --- rows and series ---------------------------------------------------------


def test_windows_lie_within_and_thinning_keeps_order_and_ends():
  x = np.arange(20.0)[:, None]
  windows = series.cut(x[3:17], 5, 2)
  assert np.array_equal(windows[:, 0, 0], [3, 5, 7, 9, 11])
  assert np.array_equal(windows[1, :, 0], [5, 6, 7, 8, 9])
  assert np.array_equal(series.cut(x[:10, 0], 3)[:, 0], [0, 3, 6])
  assert np.array_equal(series.cut(x, 1, 7)[:, 0], [0, 7, 14])
  assert not len(series.cut(x[:4], 5))
  thinned = rows.thin(np.arange(100), 7)
  assert thinned[0] == 0 and thinned[-1] == 99 and len(thinned) == 7
  assert set(np.diff(thinned)) <= {16, 17}
  assert np.array_equal(rows.thin(thinned, 99), thinned)


def test_equal_rows_are_found_zeros_and_nan_included():
  x = np.array([[0, 1], [-0.0, 1], [np.nan, 2], [np.nan, 2], [3, 3]], 'f4')
  assert rows.distinct(x).tolist() == [0, 2, 4]
  assert rows.unseen(x, x[3:]).tolist() == [True, True, False, False, False]


def test_dealing_puts_no_row_on_both_sides_and_drops_doubtful_ones():
  rng = np.random.default_rng(0)
  x = rng.integers(0, 4, (400, 3)).astype(np.float32)
  labels = (x[:, 0] == 3).astype(int)
  labels[:8] = 1 - labels[:8]
  pool, query = rows.deal(x, labels == 1)
  both = np.concatenate([x[pool], x[query]])
  assert len(np.unique(both, axis=0)) == len(both)
  assert len(pool) == ((both[:, 0] < 3).sum() + 1) // 2
  assert not labels[pool].any()
  doubtful = {r.tobytes() for r in x[labels == 1]}
  doubtful &= {r.tobytes() for r in x[labels == 0]}
  assert doubtful and not doubtful & {r.tobytes() for r in both}


# --- cwru --------------------------------------------------------------------

RAMP = 'zscore=False,clean=True,lowpass=False'


@pytest.fixture
def ramps(tmp_path):
  public_layouts.write_cwru(tmp_path)
  return tmp_path


@pytest.mark.parametrize('path', [cwru._NORMAL, cwru.SOURCE.files[0].path])
def test_recordings_are_at_12_khz_without_what_lies_above_4(tmp_path, path):
  low = lambda t: np.sin(2 * np.pi * 100 / 12000 * t)
  high = lambda t: np.sin(2 * np.pi * 4100 / 12000 * t)
  public_layouts.write_cwru(tmp_path, lambda t: low(t) + high(t))
  read = functools.partial(
    cwru.read, public_files.File(tmp_path / 'cwru', path)
  )
  inner, t = slice(200, -200), np.arange(9_000.0)
  assert np.allclose(read()[inner], low(t)[inner], atol=3e-3)
  left = (read(lowpass=False) - low(t))[inner]
  assert 0.9 < left.std() / high(t).std() < 1.1  # the decimation keeps it


def test_time_separates_sides_and_supports_from_queries(ramps):
  entities = registry.load(f'cwru:window=64,stride=16,{RAMP}', str(ramps))
  for entity in entities:
    assert entity.normal.max() + 64 < normals(entity).min()
  train, test = (
    [e for e in entities if e.side == side] for side in ('train', 'test')
  )
  for entity in test:
    for part in (entity.normal, normals(entity), anomalies(entity)):
      assert np.diff(part[:, 0, 0]).min() > 63.5  # no overlap
  last_normal = max(normals(e).max() for e in train)
  last_fault = max(anomalies(e).max() for e in train)
  assert last_normal + 500 < min(e.normal.min() for e in test)
  assert last_fault + 500 < min(anomalies(e).min() for e in test)


def test_recordings_are_named_grouped_and_balanced(ramps):
  entities = registry.load(f'cwru:{RAMP}', str(ramps))
  everything = by_name(f'cwru:load=all,{RAMP}', ramps)
  assert (len(entities), len(everything)) == (30, 42)
  folds = [e.fold for e in entities if e.side == 'test']
  assert [folds.count(f) for f in ('ball', 'inner', 'outer')] == [4, 4, 7]
  loaded = everything['IR_7_1772rpm/train']
  assert loaded.group == everything['IR_7'].group == 'IR_7'
  assert set(loaded.kinds) == {'', 'IR_7'} and loaded.side == 'train'
  assert all(e.labels.mean() == 0.5 for e in everything.values())


def test_noise_has_the_stated_power_and_depends_on_seed_and_entity(public):
  load = lambda spec: registry.load(f'cwru:stride=128,{spec}', str(public))
  noisy, clean = load('snr_db=-6,copies=2')[0], load('clean=True')[0]
  assert np.allclose(clean.normal.mean(1), 0, atol=1e-5)
  assert np.allclose(clean.normal.std(1), 1, atol=1e-5)
  once, again = np.split(noisy.normal, 2)
  power = 10**0.6
  for noise in (once - clean.normal, again - clean.normal):
    assert np.isclose(noise.var(), power, rtol=0.09)
    assert abs(noise.mean()) < 0.12  # five standard errors
  assert np.isclose((once - again).var(), 2 * power, rtol=0.09)
  base, other = load('copies=1'), load('copies=1,seed=1')
  alone = {e.name: e for e in load('copies=1,load=all')}
  for a, b in zip(base, other, strict=True):
    assert not np.any(a.query == b.query)
    assert np.array_equal(a.query, alone[a.name].query)
  tests = [e.normal for e in base if e.side == 'test']
  assert all(not np.any(tests[0] == n) for n in tests[1:])


# --- nsl_kdd, sales ----------------------------------------------------------


def test_attacks_new_in_the_test_file_are_the_test_side(public):
  found = by_name('nsl_kdd', public)
  assert {n: e.side for n, e in found.items()} == {
    'neptune': 'train',
    'smurf': 'train',  # rare in the training file: rows of the test file
    'mscan': 'test',
  }
  for name, entity in found.items():
    assert set(entity.kinds) == {'', name}
    times = first(entity.normal) + first(entity.query)
    assert all((t >= 1000) == (name != 'neptune') for t in times)
    assert max(first(entity.normal)) < min(first(normals(entity)))
    assert not (entity.query == 21).any()  # the difficulty is dropped
  every = [t for e in found.values() for t in first(e.normal)]
  every += [t for e in found.values() for t in first(normals(e))]
  assert len(set(every)) == len(every) == 70


def test_services_learn_from_one_file_and_are_asked_about_the_other(public):
  found = by_name('nsl_kdd:by=service,min_rows=2', public)
  assert sorted(found) == ['ftp', 'http']
  for name, entity in found.items():
    assert max(first(entity.normal)) < 1000 <= min(first(entity.query))
    assert {t % 2 for t in first(entity.query)} == {int(name == 'ftp')}
    assert set(entity.kinds) <= {'', 'neptune', 'smurf', 'mscan'}
  # Row 0 of the training file stands at the end of the other, as mscan.
  mscan = by_name('nsl_kdd', public)['mscan']
  assert len(anomalies(mscan)) == 20 and 0 not in first(mscan.query)


def test_categories_are_coded_alike_in_both_files(public):
  codes = by_name('nsl_kdd', public)
  onehot = by_name('nsl_kdd:categories=onehot', public)
  for name, entity in codes.items():
    assert entity.columns == nsl_kdd.COLUMNS
    columns = list(onehot[name].columns)
    hot = onehot[name].query[:, columns.index('protocol_type=udp')]
    code = entity.query[:, nsl_kdd.COLUMNS.index('protocol_type')]
    assert set(code) == {0, 1} and np.array_equal(hot, code)
    assert np.array_equal(code, entity.query[:, 0] % 2)


def test_a_payment_that_comes_twice_counts_once(public):
  one = by_name('creditcard:hours=48', public)['hour 0']
  assert (first(one.normal) + first(one.query)).count(3) == 1


def test_the_level_of_a_price_knows_no_verdict(public, tmp_path):
  found = by_name('sales_fraud', public)
  assert list(found) == ['p2', 'p10']
  for entity in found.values():
    np.testing.assert_allclose(anomalies(entity)[:, 3], np.log(10), rtol=1e-5)
    honest = normals(entity)[:, 3]
    stated = honest[~np.isnan(honest)]
    np.testing.assert_allclose(stated, np.log(3), rtol=1e-5)
    assert np.isnan(np.r_[entity.normal, entity.query]).any()
  swapped = (public / 'sales_fraud/sales.csv').read_text()
  for old, new in (('fraud', 'x'), ('ok', 'fraud'), (',x', ',ok')):
    swapped = swapped.replace(old, new)
  put(tmp_path / 'sales_fraud/sales.csv', swapped.encode())
  every = lambda e: np.sort(np.r_[e.normal, e.query], 0)
  other = by_name('sales_fraud:min_normals=1', tmp_path)
  for name, entity in found.items():
    np.testing.assert_array_equal(every(entity), every(other[name]))
  people = by_name('sales_fraud:by=salesperson', public)
  assert list(people) == ['v0', 'v1']
  assert anomalies(people['v1'])[:, 3].min() > 2


# --- mitbih, adbench, omniglot -----------------------------------------------


@pytest.mark.parametrize('window', [96, 720])
def test_beats_are_cut_around_their_peaks_and_split_in_time(window, public):
  found = by_name(f'mitbih:zscore=False,window={window}', public)
  # Beats at 1, 2, ... 419 s; the first is a rhythm change, each 9th a V.
  begin = 360 * np.arange(2, 420) - 3 * window // 8
  begin = begin[begin + window <= 7 * 60 * 360]
  unusual = np.arange(2, 2 + len(begin)) % 9 == 0
  early = (begin + window <= 5 * 60 * 360) & ~unusual
  late = begin >= 5 * 60 * 360 + window
  for entity in found.values():
    for beats, part in ((entity.normal, early), (entity.query, late)):
      expected = (begin[part, None] + np.arange(window)) % 1000 / 500 - 1
      np.testing.assert_allclose(beats[:, :, 0], expected, atol=0.006)
    assert np.array_equal(entity.labels, unusual[late])


def test_leads_and_standardized_beats(public):
  found = by_name('mitbih:zscore=False,window=96', public)
  other = by_name('mitbih:zscore=False,window=96,lead=1', public)['100']
  np.testing.assert_allclose(other.normal, -found['100'].normal, atol=0.011)
  scaled = by_name('mitbih', public)['100'].query
  assert np.allclose(scaled.mean(1), 0, atol=1e-5)
  assert np.allclose(scaled.std(1), 1, atol=1e-5)


def test_adbench_takes_equal_rows_once(public):
  for entity in registry.load('adbench', str(public)):
    both = first(entity.normal) + first(entity.query)
    assert sorted(both) == sorted(set(range(60)) - {5})
    assert np.array_equal(entity.labels, entity.query[:, 0] >= 50)
    assert len(entity.normal) == 25 and max(first(entity.normal)) < 50
    assert not np.all(np.diff(entity.normal[:, 0]) > 0)  # shuffled
  assert list(by_name('adbench:scenario=medicine', public)) == ['29_Pima']


def test_omniglot_asks_about_other_peoples_drawings(public):
  for entity in registry.load('omniglot', str(public)):
    part, number = entity.name.split()
    offset = 20 * (part == 'evaluation')
    assert entity.side == ('test' if offset else 'train')
    ink = lambda x: np.rint(x.sum((1, 2)) * 105**2 / 28**2)
    height = offset + int(number) + 1
    assert np.array_equal(ink(entity.normal), height * np.arange(1, 11))
    assert np.array_equal(ink(normals(entity)), height * np.arange(11, 21))
    for x, kind in zip(entity.query, entity.kinds, strict=True):
      if kind:
        people = ink(x[None])[0] / (offset + int(kind.split()[1]) + 1)
        assert kind != entity.name and people in range(11, 21)


# --- oddbench ----------------------------------------------------------------


def one_table(root, **changes):
  npz(root / 'oddbench' / 'One.npz', **oddbench_table(**changes))
  return registry.load('oddbench', str(root))[0]


def test_oddbench_needs_three_arrays_only(tmp_path):
  arrays = oddbench_table()
  needed = {k: arrays[k] for k in ('train', 'test', 'test_labels')}
  objects = np.array([{}] * 4, object)  # done without, never unpickled
  npz(tmp_path / 'oddbench' / 'Bare.npz', **needed, feature_names=objects)
  (entity,) = registry.load('oddbench', str(tmp_path))
  np.testing.assert_array_equal(entity.normal, arrays['train'])
  np.testing.assert_array_equal(entity.query, arrays['test'])
  np.testing.assert_array_equal(entity.labels, arrays['test_labels'])
  assert set(entity.kinds) == {'', 'anomaly'}
  assert entity.columns == tuple(f'column {i}' for i in range(4))


@pytest.mark.parametrize('dtype', ['f2', 'u1', '?', 'U', 'S'])
def test_oddbench_reads_every_kind_of_number(dtype, tmp_path):
  x = np.arange(200).reshape(50, 4) % 2
  stored = x == 1 if dtype == '?' else x.astype(dtype)
  entity = one_table(
    tmp_path,
    train=stored,
    test=stored[:30],
    test_labels=np.array([0.0, 1.0] * 15)[:, None],
    indicator_feature=np.array(3),
    feature_names=np.array([b'a', b'b', b'c', b'd']),
  )
  np.testing.assert_array_equal(entity.normal, x)
  assert set(entity.kinds) == {'', '3'}
  assert entity.columns == ('a', 'b', 'c', 'd')


def test_oddbench_infinities_are_missing_values(tmp_path):
  train = np.ones((50, 4))
  train[[0, 1, 2], 0] = np.inf, -np.inf, 1e300
  train[3, 1] = np.nan
  entity = one_table(tmp_path, train=train)
  places = np.argwhere(np.isnan(entity.normal)).tolist()
  assert places == [[0, 0], [1, 0], [2, 0], [3, 1]]


def test_large_tables_are_thinned_and_keep_rare_anomalies(tmp_path):
  y = np.zeros(30_000, int)
  y[[5, 29_000]] = 1
  x = np.arange(30_000.0)[:, None] * np.ones(3)
  entity = one_table(tmp_path, train=x, test=x, test_labels=y)
  assert entity.normal.shape == entity.query.shape == (2000, 3)
  assert first(anomalies(entity)) == [5, 29_000]
  assert np.all(np.diff(first(entity.query)) > 0)


def test_near_duplicates_share_a_group(tmp_path):
  x = np.random.default_rng(9).normal(size=(50, 4))
  names = ['Age', 'blood pressure', 'weight', 'height', 'sex']
  generic = dict(width=5, feature_names=['x1', 'x2', 'V3', '4', 'f5'])
  github = 'https://github.com/same/repo/blob/master/'
  for name, seed, changes in (
    ('A', 0, dict(width=5, feature_names=names)),
    ('B', 1, dict(width=5, feature_names=[*names[:4], 'other'])),
    ('C', 2, dict(width=5, feature_names=[*names[:3], 'p', 'q'])),
    ('D', 3, dict(train=x)),
    ('E', 4, dict(train=x[::-1, ::-1])),
    ('F', 5, dict(train=np.round(x))),
    ('G', 6, dict(train=np.round(x), width=4)),
    ('H', 7, generic),
    ('K', 3, generic | dict(github_link=None)),
    ('I', 4, dict(width=3, github_link=np.array(github + 'a.csv'))),
    ('J', 5, dict(width=3, github_link=np.array(github + 'b/c.csv'))),
  ):
    table = oddbench_table(seed, **changes)
    npz(tmp_path / 'oddbench' / f'{name}.npz', **table)
  groups = {e.name: e.group for e in registry.load('oddbench', str(tmp_path))}
  joined = {'B': 'A', 'E': 'D', 'J': 'I'}
  assert groups == {name: joined.get(name, name) for name in 'ABCDEFGHIJK'}


def test_scenarios_need_telling_words(tmp_path):
  of = lambda origin, *words: oddbench.scenarios(origin, (), words)
  assert of('Human', 'heart', 'age') == {'medicine'}
  assert of('Logistics', 'heart', 'age') == frozenset()
  assert of('Logistics', 'heart', 'drugs') == {'medicine'}
  assert of('Engineering', 'network traffic') == {'network'}
  assert of('Other', 'networking') == frozenset()
  assert oddbench.scenarios('', ['origin_Human'], ['Loans']) == {'finance'}
  words = {'Clinic': ['patients', 'hospital']}
  for seed, name in enumerate(('Clinic', 'ShuttleAnomaly', 'Other')):
    table = oddbench_table(seed, llm_keywords=words.get(name, ['x']))
    npz(tmp_path / 'oddbench' / f'{name}.npz', **table)
  assert list(by_name('oddbench:scenario=medicine', tmp_path)) == ['Clinic']
  assert list(by_name('oddbench:overlap=False', tmp_path)) == [
    'Clinic', 'Other'
  ]  # fmt: skip


# --- broken files ------------------------------------------------------------

SMD = 'smd/ServerMachineDataset'
# What is replaced by what, beside truncation and foreign content.
BROKEN = {
  'skab/data/valve1/3.csv': [
    ('Pressure', 'Presure'), ('0.5', 'n/a'), (';1.0;', ';2.0;'),
    (';1.0;', ';0.0;'), (';0.5;0.0', ';0.0'), (';', '|'),
  ],
  f'{SMD}/train/machine-1-6.txt': [(',0.25\r', '\r')],
  f'{SMD}/test/machine-1-6.txt': [(',0.25\r', '\r')],
  f'{SMD}/test_label/machine-1-6.txt': [('0\r\n0\r\n', '0\r\n'), ('1', '7')],
  f'{SMD}/interpretation_label/machine-1-6.txt': [('-', '..')],
  'cnc_mill/experiment_03.csv': [(',', '|'), ('1.50E+00', 'x')],
  'cnc_mill/train.csv': [(',', '|'), ('unworn', 'old')],
  'creditcard/creditcard_sample.csv': [(',', '|'), ('"1"', '"2"')],
  'nsl_kdd/KDDTest+.txt': [('0.25', 'x')],
  'sales_fraud/sales.csv': [(',', '|'), ('fraud', 'f'), (',ok', '')],
  'smap_msl/labeled_anomalies.csv': [(',', '|'), ('89]', '900]'), ('[', '{')],
  'mitbih/100.hea': [('360', '250'), ('100.dat', '207.dat')],
  **dict.fromkeys(
    (
      f'cwru/{cwru._NORMAL}', 'adbench/Classical/29_Pima.npz', 'mitbih/100.atr',
      'mitbih/100.dat', 'oddbench/First.npz', 'omniglot/images_background.npz',
      'smap_msl/test/P-2.npy',
    ),
    (),
  ),
}  # fmt: skip


@pytest.mark.parametrize('target', BROKEN)
def test_a_missing_or_broken_file_is_named(target, public, tmp_path):
  name = target.split('/')[0]
  public_layouts.link(public, tmp_path, name)
  path = tmp_path / target
  whole = path.read_bytes()
  path.unlink()
  half = whole[: len(whole) // 2 - 1]
  damaged = [None, b'\xff\x00,not this', b'', half]
  if target.endswith('.atr') or SMD in target:
    del damaged[-1]  # half of the annotations are annotations
  if 'mitbih/100.hea' == target or '/train/' in target or '.npz' in target:
    del damaged[0]  # it tells which entities there are
  for old, new in BROKEN[target]:
    assert old.encode() in whole
    damaged.append(whole.replace(old.encode(), new.encode()))
  for content in damaged:
    if content is not None:
      path.write_bytes(content)
    message = the_error(name, tmp_path)
    assert target in message or '100.hea' in message
    assert f'--source={name}' in message


@pytest.mark.parametrize(
  ('path', 'arrays'),
  [
    (f'cwru/{cwru._NORMAL}', {'FE': np.zeros(9)}),
    (f'cwru/{cwru._NORMAL}', {'DE': np.zeros(1000)}),
    (f'cwru/{cwru._NORMAL}', {'DE': with_value(np.zeros(36_000), 17, np.nan)}),
    (f'cwru/{cwru._NORMAL}', {'DE': np.array(['x'])}),
    (f'cwru/{cwru._NORMAL}', {'DE': np.array([{}, None], object)}),
    ('oddbench/First.npz', oddbench_table(train=None)),
    ('oddbench/First.npz', oddbench_table(train=np.zeros((50, 3)))),
    ('oddbench/First.npz', oddbench_table(test_labels=np.full(30, 2))),
    ('oddbench/First.npz', oddbench_table(test=np.array([['1', 'x', '1']]))),
    ('oddbench/First.npz', {'train': np.array([[{}] * 4], object)}),
    ('adbench/Classical/29_Pima.npz', {'X': np.eye(3), 'y': np.arange(3)}),
  ],
)
def test_arrays_that_cannot_be_used(path, arrays, public, tmp_path):
  name = path.split('/')[0]
  public_layouts.link(public, tmp_path, name)
  (tmp_path / path).unlink()
  npz(tmp_path / path, **arrays)
  assert str(tmp_path / path) in the_error(name, tmp_path)


@pytest.mark.parametrize(
  ('spec', 'told'),
  [
    ('vibrations', 'vibration'), ('skab:windows=3', 'window'),
    ('skab:window=wide', 'must be'), ('cwru:window=4', 'window'),
    ('cwru:window=9000', 'shorter window'), ('cwru:stride=0', 'stride'),
    ('cwru:copies=0', 'copies'), ('cwru:snr_db=1e999', 'snr_db'),
    ('cwru:load=2', "'all'"), ('nsl_kdd:by=host', 'service'),
    ('nsl_kdd:categories=hash', 'onehot'), ('creditcard:hours=0', 'hours'),
    ('sales_fraud:by=month', 'salesperson'), ('mitbih:window=4', 'window'),
    ('mitbih:minutes=31', 'minutes'), ('mitbih:lead=2', 'lead'),
    ('cnc_mill:min_rows=0', 'min_rows'), ('smap_msl:spacecraft=MRO', 'MSL'),
    ('smap_msl:window=1000', 'shorter window'),
    ('adbench:scenario=sport', 'medicine'), ('omniglot:limit=-1', 'limit'),
    ('oddbench:scenario=sport', 'medicine'), ('smd:max_rows=0', 'max_rows'),
    ('smd:max_queries=1', 'max_queries'), ('omniglot:anomalies=0', 'anomalies'),
  ],
)  # fmt: skip
def test_options_out_of_range(spec, told, public):
  assert told in the_error(spec, public)


# --- digests -----------------------------------------------------------------


def test_digest_is_of_the_content_whatever_the_compression(tmp_path):
  path = tmp_path / 'a.csv'
  put(path, b'abc')
  known = 'ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad'
  assert public_files.digest(path, known) == known  # FIPS 180-2, appendix B.1
  compress(tmp_path)
  packed = tmp_path / 'a.csv.xz'
  assert public_files.digest(packed, known) == known
  packed.write_bytes(packed.read_bytes()[:-9])
  assert public_files.digest(packed, known).startswith('unreadable')
  values = np.arange(5.0)
  np.savez(tmp_path / 'a.npz', DE=values[:, None], BA=values)
  np.savez_compressed(tmp_path / 'b.npz', DE=values)
  np.savez(tmp_path / 'c.npz', DE=values + 1e-12)
  one, same, other = (
    public_files.digest(tmp_path / f'{name}.npz', 'DE:') for name in 'abc'
  )
  assert one == same != other and one.startswith('DE:')


# --- real data ---------------------------------------------------------------

# Entities, normal rows, query rows, anomalies, groups.
COUNTS = {
  'adbench': (24, 27596, 30144, 6320, 20),
  'asd': (8, 16000, 16000, 1103, 8),
  'cnc_mill': (18, 5260, 10549, 7850, 3),
  'creditcard': (23, 1562, 1834, 260, 23),
  'cwru': (30, 28350, 56700, 28350, 15),
  'mitbih': (6, 1760, 10401, 2028, 6),
  'nsl_kdd': (21, 11560, 22134, 11107, 21),
  'nsl_kdd:by=service': (10, 5741, 10025, 6764, 10),
  'oddbench': (555, 221924, 241694, 75194, 546),
  'omniglot': (1623, 16230, 32460, 16230, 1623),
  'sales_fraud': (75, 1715, 2011, 338, 75),
  'sales_fraud:by=salesperson': (49, 550, 789, 269, 49),
  'skab': (34, 9531, 27836, 13067, 30),
  'smap_msl': (41, 76461, 82000, 12232, 36),
  'smd': (5, 10000, 10000, 1113, 5),
}


@pytest.mark.slow
@pytest.mark.skipif(not REAL, reason='METAAD_DATA_DIR is not set')
@pytest.mark.parametrize('spec', COUNTS)
def test_real_entities_are_as_documented(spec):
  entities = registry.load(spec, REAL)
  assert COUNTS[spec] == (
    len(entities),
    sum(len(e.normal) for e in entities),
    sum(len(e.query) for e in entities),
    sum(int(e.labels.sum()) for e in entities),
    len({e.group or e.name for e in entities}),
  )
  audits.shared_rows(entities)
  fold = splitting.fold_names(entities, 5)[0]
  audits.sides(splitting.split(entities, fold=fold, folds=5))
  source = registry.REGISTRY[spec.partition(':')[0]]
  for file in source.files:
    root = pathlib.Path(REAL) / source.name
    path = public_files.File(root, file.path).find()
    assert public_files.digest(path, file.sha256) == file.sha256
