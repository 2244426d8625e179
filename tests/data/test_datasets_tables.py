"""The sources of tables: who gets which row, and what broken files say."""

import numpy as np
import public_layouts
from public_layouts import npz, oddbench_table, put, the_error
import pytest

from metaad_jax.data import registry, rows
from metaad_jax.data.datasets import nsl_kdd, oddbench, sales_fraud


def by_name(spec, data_dir):
  return {e.name: e for e in registry.load(spec, str(data_dir))}


def anomalies(entity):
  return entity.query[entity.labels == 1]


# --- rows --------------------------------------------------------------------


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


# --- nsl_kdd -----------------------------------------------------------------


def test_attacks_new_in_the_test_file_are_the_test_side(public):
  found = by_name('nsl_kdd', public)
  assert {n: e.side for n, e in found.items()} == {
    'neptune': 'train',
    'smurf': 'train',  # rare in the training file: rows of the test file
    'mscan': 'test',
  }
  for name, entity in found.items():
    assert set(entity.kinds) == {'', name}
    time = np.r_[entity.normal[:, 0], entity.query[:, 0]]
    assert np.all((time >= 1000) == (name != 'neptune'))
    known = entity.query[entity.labels == 0][:, 0]
    assert entity.normal[:, 0].max() < known.min()
  normal = np.concatenate(
    [np.r_[e.normal, e.query[e.labels == 0]] for e in found.values()]
  )
  assert len(np.unique(normal, axis=0)) == len(normal) == 70


def test_what_the_training_file_holds_is_no_test_row(public):
  """Row 0 stands at the end of both files, in the second as mscan."""
  for spec in ('nsl_kdd', 'nsl_kdd:by=service,min_rows=2'):
    for entity in registry.load(spec, str(public)):
      assert not (anomalies(entity)[:, 0] == 0).any() or (
        entity.name == 'neptune'
      )
  assert len(anomalies(by_name('nsl_kdd', public)['mscan'])) == 20


def test_services_learn_from_one_file_and_are_asked_about_the_other(public):
  found = by_name('nsl_kdd:by=service,min_rows=5', public)
  assert sorted(found) == ['ftp', 'http']
  for name, entity in found.items():
    parity = {'http': 0, 'ftp': 1}[name]
    assert entity.normal[:, 0].max() < 1000 <= entity.query[:, 0].min()
    assert np.all(entity.query[:, 0] % 2 == parity)
    assert set(entity.kinds) <= {'', 'neptune', 'smurf', 'mscan'}


def test_the_difficulty_is_dropped_and_categories_are_coded_alike(public):
  codes = by_name('nsl_kdd', public)
  onehot = by_name('nsl_kdd:categories=onehot', public)
  assert codes['mscan'].columns == nsl_kdd.COLUMNS
  for name, entity in codes.items():
    assert not (entity.query == 21).any()
    columns = list(onehot[name].columns)
    hot = onehot[name].query[:, columns.index('protocol_type=udp')]
    code = entity.query[:, nsl_kdd.COLUMNS.index('protocol_type')]
    assert set(code) == {0, 1} and np.array_equal(hot, code)
    assert np.array_equal(code, entity.query[:, 0] % 2)


# --- creditcard, sales -------------------------------------------------------


def test_payments_are_scored_after_those_of_the_support(public):
  found = by_name('creditcard', public)
  assert list(found) == [f'hour {h}' for h in range(0, 10, 2)]
  for k, entity in enumerate(found.values()):
    assert entity.normal[:, 0].min() >= 24 * k
    assert entity.normal[:, 0].max() < entity.query[:, 0].min()
    assert entity.query[:, 0].max() < 24 * (k + 1)
    assert np.array_equal(entity.labels, entity.query[:, 0] % 8 == 7)
  one = by_name('creditcard:hours=48', public)['hour 0']
  both = np.concatenate([one.normal, one.query])
  assert (both[:, 0] == 3).sum() == 1  # the repetition is dropped


def test_the_level_of_a_price_knows_no_verdict(public, tmp_path):
  found = by_name('sales_fraud', public)
  assert list(found) == ['p2', 'p10']
  for entity in found.values():
    ratio = entity.query[:, 3]
    np.testing.assert_allclose(ratio[entity.labels == 1], np.log(10), rtol=1e-5)
    stated = ~np.isnan(ratio) & (entity.labels == 0)
    np.testing.assert_allclose(ratio[stated], 0, atol=1e-5)
    assert np.isnan(np.r_[entity.normal, entity.query]).any()
  path = public / 'sales_fraud' / sales_fraud._FILE
  swapped = path.read_text().replace('fraud', 'x').replace('ok', 'fraud')
  put(
    tmp_path / 'sales_fraud' / sales_fraud._FILE,
    swapped.replace(',x', ',ok').encode(),
  )
  every = lambda e: np.sort(np.r_[e.normal, e.query], 0)
  other = by_name('sales_fraud:min_normals=1', tmp_path)
  for name, entity in found.items():
    np.testing.assert_array_equal(every(entity), every(other[name]))


def test_salespeople_are_judged_by_the_products_level(public):
  found = by_name('sales_fraud:by=salesperson', public)
  assert list(found) == ['v0', 'v1']
  assert {tuple(e.normal.shape[1:]) for e in found.values()} == {(5,)}
  assert anomalies(found['v1'])[:, 3].min() > 2


# --- mitbih, cnc_mill, smap_msl ----------------------------------------------


def test_beats_are_cut_around_their_peaks_and_split_in_time(public):
  found = by_name('mitbih:zscore=False,window=96', public)
  assert list(found) == ['100', '207']
  ramp = lambda t: t % 1000 / 500 - 1
  for entity in found.values():
    assert set(entity.kinds) == {'', 'V'}
    # Beats at 1, 2, ... 419 s; the first is a rhythm change, each 9th a V.
    early = [s for s in range(2, 300) if s % 9]
    late = [s for s in range(301, 420)]
    for beats, seconds in ((entity.normal, early), (entity.query, late)):
      first = 360 * np.array(seconds) - 36
      expected = ramp(first[:, None] + np.arange(96))
      np.testing.assert_allclose(beats[:, :, 0], expected, atol=0.006)
    assert np.array_equal(entity.labels, [s % 9 == 0 for s in late])
  other = by_name('mitbih:zscore=False,window=96,lead=1', public)['100']
  np.testing.assert_allclose(other.normal, -found['100'].normal, atol=0.011)
  scaled = by_name('mitbih', public)['100'].query
  assert np.allclose(scaled.mean(1), 0, atol=1e-5)
  assert np.allclose(scaled.std(1), 1, atol=1e-5)


def test_experiments_for_supports_are_not_asked_about(public):
  found = by_name('cnc_mill', public)
  assert sorted(found) == ['feed3/end', 'feed3/prep']
  number = lambda part: set((part[:, 0] // 100).astype(int))
  for name, entity in found.items():
    assert number(entity.normal) == {1, 3}
    assert number(entity.query[entity.labels == 0]) == {5}
    assert number(anomalies(entity)) == {2, 4}
    row = np.r_[entity.normal, entity.query][:, 0] % 100
    assert not {0, 1, 3} & set(row)  # not reported by the machine
    assert np.all((row >= 40) == (name == 'feed3/prep'))
  assert not any('Position' in c for c in registry.get('cnc_mill')[0].channels)
  mixed = by_name('cnc_mill:apart=False,min_rows=1', public)['feed3/end']
  assert number(mixed.normal) == {1, 3, 5}
  for i in (1, 3, 5):
    part = lambda x, i=i: x[x[:, 0] // 100 == i][:, 0]
    assert part(mixed.normal).max() + 10 < part(mixed.query).min()


def test_two_lines_of_one_channel_are_merged(public):
  found = by_name('smap_msl', public)
  assert list(found) == ['A-10', 'P-2']
  for entity in found.values():
    time = entity.query[:, 0] - 1000
    assert np.array_equal(entity.normal[:, 0], np.arange(120))
    inside = ((time >= 40) & (time <= 45)) | ((time >= 80) & (time <= 89))
    assert np.array_equal(entity.labels, inside)
  assert set(found['A-10'].kinds) == {'', 'point', 'contextual'}
  assert list(by_name('smap_msl:spacecraft=MSL', public)) == ['M-1']
  window = by_name('smap_msl:window=8', public)['P-2']
  assert window.query.shape[1:] == (8, 25)
  begin = window.query[:, 0, 0] - 1000
  assert np.array_equal(window.labels, [t in (40, 80, 88) for t in begin])


# --- adbench, omniglot -------------------------------------------------------


def test_adbench_takes_equal_rows_once(public):
  for entity in registry.load('adbench', str(public)):
    both = np.r_[entity.normal, entity.query][:, 0]
    assert sorted(both) == sorted(set(range(60)) - {5})
    assert np.array_equal(entity.labels, entity.query[:, 0] >= 50)
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
    own = entity.query[entity.labels == 0]
    assert np.array_equal(ink(own), height * np.arange(11, 21))
    for x, kind in zip(entity.query, entity.kinds, strict=True):
      if kind:
        tall = offset + int(kind.split()[1]) + 1
        people = ink(x[None])[0] / tall
        assert kind != entity.name and people in range(11, 21)


# --- oddbench ----------------------------------------------------------------


def one_table(root, **changes):
  npz(root / 'oddbench' / 'One.npz', **oddbench_table(**changes))
  return registry.load('oddbench', str(root))[0]


def test_oddbench_needs_three_arrays_only(tmp_path):
  arrays = oddbench_table()
  needed = {k: arrays[k] for k in ('train', 'test', 'test_labels')}
  npz(tmp_path / 'oddbench' / 'Bare.npz', **needed)
  (entity,) = registry.load('oddbench', str(tmp_path))
  np.testing.assert_array_equal(entity.normal, arrays['train'])
  np.testing.assert_array_equal(entity.query, arrays['test'])
  np.testing.assert_array_equal(entity.labels, arrays['test_labels'])
  assert set(entity.kinds) == {'', 'anomaly'}
  assert entity.columns == tuple(f'column {i}' for i in range(4))


@pytest.mark.parametrize('dtype', ['f2', 'u1', '?', 'U', 'S'])
def test_oddbench_reads_every_kind_of_number(dtype, tmp_path):
  x = np.arange(200).reshape(50, 4) % 2
  y = np.array([0.0, 1.0] * 15)
  entity = one_table(
    tmp_path,
    train=x.astype(dtype) if dtype != '?' else x == 1,
    test=x[:30].astype(dtype) if dtype != '?' else x[:30] == 1,
    test_labels=y[:, None],
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
  assert anomalies(entity)[:, 0].tolist() == [5, 29_000]
  assert np.all(np.diff(entity.query[:, 0]) > 0)


def test_near_duplicates_share_a_group(tmp_path):
  rng = np.random.default_rng(9)
  x = rng.normal(size=(50, 4))
  write = lambda name, seed, **changes: npz(
    tmp_path / 'oddbench' / f'{name}.npz', **oddbench_table(seed, **changes)
  )
  names = ['Age', 'blood pressure', 'weight', 'height', 'sex']
  generic = np.array(['x1', 'x2', 'V3', '4', 'f5'])
  github = 'https://github.com/same/repo/blob/master/'
  write('A', 0, width=5, feature_names=np.array(names))
  write('B', 1, width=5, feature_names=np.array([*names[:4], 'other']))
  write('C', 2, width=5, feature_names=np.array([*names[:3], 'p', 'q']))
  write('D', 3, train=x)
  write('E', 4, train=x[::-1, ::-1])
  write('F', 5, train=np.round(x))
  write('G', 6, train=np.round(x), width=4)
  write('H', 7, width=5, feature_names=generic)
  write('K', 3, width=5, feature_names=generic, github_link=None)
  write('I', 4, width=3, github_link=np.array(github + 'a.csv'))
  write('J', 5, width=3, github_link=np.array(github + 'b/c.csv'))
  groups = {e.name: e.group for e in registry.load('oddbench', str(tmp_path))}
  joined = {'B': 'A', 'E': 'D', 'J': 'I'}
  assert groups == {name: joined.get(name, name) for name in 'ABCDEFGHIJK'}


def test_scenarios_need_telling_words():
  of = lambda origin, *words: oddbench.scenarios(origin, (), words)
  assert of('Human', 'heart', 'age') == {'medicine'}
  assert of('Logistics', 'heart', 'age') == frozenset()
  assert of('Logistics', 'heart', 'drugs') == {'medicine'}
  assert of('Engineering', 'network traffic') == {'network'}
  assert of('Other', 'networking') == frozenset()
  assert oddbench.scenarios('', ['origin_Human'], ['Loans']) == {'finance'}


def test_oddbench_scenario_and_overlap_select(tmp_path):
  keywords = np.array(['patients', 'hospital'])
  for name in ('Clinic', 'ShuttleAnomaly', 'Other'):
    seed = len(name) % 8
    more = {'llm_keywords': keywords} if name == 'Clinic' else {}
    npz(tmp_path / 'oddbench' / f'{name}.npz', **oddbench_table(seed, **more))
  names = lambda spec: list(by_name(spec, tmp_path))
  assert names('oddbench:scenario=medicine') == ['Clinic']
  assert names('oddbench:overlap=False') == ['Clinic', 'Other']


@pytest.mark.parametrize(
  'changes',
  [
    {'train': None},
    {'train': np.zeros((50, 3))},
    {'train': np.array([[{}] * 4], object)},
    {'test_labels': np.full(30, 2)},
    {'test': np.array([['1', 'x', '1', '1'], ['1', '2', '1', '1']])},
  ],
)
def test_broken_tables_are_named(changes, tmp_path):
  path = tmp_path / 'oddbench' / 'One.npz'
  npz(path, **oddbench_table(**changes))
  assert str(path) in the_error('oddbench', tmp_path)


def test_names_that_are_objects_are_done_without(tmp_path):
  entity = one_table(tmp_path, feature_names=np.array([{}] * 4, object))
  assert entity.columns[0] == 'column 0'


# --- broken files of all -----------------------------------------------------

TARGETS = [
  'cwru/Data/1797 RPM/1797_Normal.npz', 'skab/data/valve1/3.csv',
  'smd/ServerMachineDataset/train/machine-1-6.txt',
  'adbench/Classical/29_Pima.npz', 'cnc_mill/experiment_03.csv',
  'cnc_mill/train.csv', 'creditcard/creditcard_sample.csv', 'mitbih/100.atr',
  'mitbih/100.dat', 'mitbih/100.hea', 'nsl_kdd/KDDTest+.txt',
  'oddbench/First.npz', 'omniglot/images_background.npz',
  'sales_fraud/sales.csv', 'smap_msl/labeled_anomalies.csv',
  'smap_msl/test/P-2.npy',
]  # fmt: skip


@pytest.mark.parametrize('target', TARGETS)
def test_a_truncated_or_foreign_file_is_named(target, public, tmp_path):
  name = target.split('/')[0]
  public_layouts.link(public, tmp_path, name)
  path = tmp_path / target
  whole = path.read_bytes()
  path.unlink()
  damaged = [whole[: len(whole) // 2 - 1], b'\xff\x00,not this', b'']
  if target.endswith('csv'):
    damaged.append(whole.replace(b',', b'|').replace(b';', b'|'))
  if target.endswith('.atr'):
    del damaged[0]  # half of the annotations are annotations
  for content in damaged:
    path.write_bytes(content)
    message = the_error(name, tmp_path)
    assert target in message or '100.hea' in message
    assert f'--source={name}' in message


@pytest.mark.parametrize(
  ('spec', 'told'),
  [
    ('nsl_kdd:by=host', 'service'), ('nsl_kdd:categories=hash', 'onehot'),
    ('creditcard:hours=0', 'hours'), ('sales_fraud:by=month', 'salesperson'),
    ('mitbih:window=4', 'window'), ('mitbih:minutes=31', 'minutes'),
    ('mitbih:lead=2', 'lead'), ('cnc_mill:min_rows=0', 'min_rows'),
    ('smap_msl:spacecraft=MRO', 'MSL'),
    ('smap_msl:window=1000', 'shorter window'),
    ('adbench:scenario=sport', 'medicine'),
    ('oddbench:scenario=sport', 'medicine'),
    ('oddbench:max_rows=0', 'max_rows'),
    ('smd:max_queries=1', 'max_queries'), ('omniglot:anomalies=0', 'anomalies'),
    ('omniglot:limit=-1', 'limit'),
  ],
)  # fmt: skip
def test_options_out_of_range(spec, told, public):
  assert told in the_error(spec, public)
