"""The sources, on tiny files in the public layout and, if there, on real ones.

The public files carry the time of each row in their values, so that what
went where can be read off the entities.
"""

import dataclasses
import lzma
import os
import pathlib

import numpy as np
import public_layouts
from public_layouts import npz, put, the_error, write_cwru
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
from metaad_jax.data.datasets import cwru, skab

REAL = os.environ.get('METAAD_DATA_DIR', '')
RAMP = 'zscore=False,clean=True,lowpass=False'


@pytest.fixture
def ramps(tmp_path):
  write_cwru(tmp_path)
  return tmp_path


def compress(root: pathlib.Path) -> None:
  for path in sorted(root.rglob('*')):
    if path.is_file():
      put(path.with_name(path.name + '.xz'), lzma.compress(path.read_bytes()))
      path.unlink()


def equal(one: list[Entity], other: list[Entity]) -> bool:
  def same(a, b):
    if isinstance(a, np.ndarray):
      return np.array_equal(a, b, equal_nan=True)
    return a == b

  return len(one) == len(other) and all(
    same(getattr(a, field.name), getattr(b, field.name))
    for a, b in zip(one, other, strict=True)
    for field in dataclasses.fields(Entity)
  )


# --- every source ----------------------------------------------------------


def test_registry_is_consistent():
  for name, source in registry.REGISTRY.items():
    assert source.name == name
    assert source.licence and source.citation and source.units
    assert source.generate or source.files or source.note
    for file in source.files:
      assert file.url.startswith('https://') and ' ' not in file.url
      assert not pathlib.PurePosixPath(file.path).is_absolute()
      assert '..' not in pathlib.PurePosixPath(file.path).parts
      assert len(bytes.fromhex(file.sha256.rpartition(':')[2])) == 32
    assert len({file.path for file in source.files}) == len(source.files)


@pytest.mark.parametrize('name', public_layouts.WRITERS)
def test_loading_reads_xz_beside_plain_and_writes_nothing(
  name, tmp_path, public
):
  plain = registry.load(name, str(public))
  public_layouts.link(public, tmp_path, name)
  compress(tmp_path / name)
  before = sorted((p, p.stat().st_mtime_ns) for p in tmp_path.rglob('*'))
  assert equal(plain, registry.load(name, str(tmp_path)))
  assert before == sorted(
    (p, p.stat().st_mtime_ns) for p in tmp_path.rglob('*')
  )
  compress(tmp_path / name)  # twice compressed: not what is expected
  the_error(name, str(tmp_path))


@pytest.mark.parametrize('name', public_layouts.WRITERS)
def test_missing_folder_says_how_to_fetch_it(name, tmp_path):
  message = the_error(name, tmp_path)
  assert str(tmp_path / name) in message
  fetch = f'experiments.download --source={name}'
  assert f'{fetch} --data_dir={tmp_path}' in message
  assert fetch in the_error(name, None)


def test_unknown_names_and_options():
  assert 'vibration' in the_error('vibrations', None)
  assert 'window' in the_error('skab:windows=3', '.')
  assert 'must be' in the_error('skab:window=wide', '.')


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
    (
      {'normal': with_value(GOOD.normal, (1, 3), np.nan)},
      'normal row 1, column Pressure is nan',
    ),
    (
      {'query': with_value(GOOD.query, (2, 7), -np.inf)},
      'query row 2, column V',
    ),
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
  entities = [
    dataclasses.replace(GOOD, name='b'),
    dataclasses.replace(GOOD, **change),
  ]
  with pytest.raises(DataError) as caught:
    registry.validate(skab.SOURCE, entities)
  assert told in str(caught.value) and '\n' not in str(caught.value)
  assert entities[1].name in str(caught.value)


def test_validate_accepts_good_and_rejects_none():
  registry.validate(skab.SOURCE, [GOOD])
  with pytest.raises(DataError, match='no entities'):
    registry.validate(skab.SOURCE, [])
  with pytest.raises(DataError, match='8 columns'):
    registry.validate(cwru.SOURCE, [GOOD])


# --- series ------------------------------------------------------------------


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


# --- cwru --------------------------------------------------------------------


@pytest.mark.parametrize('path', [cwru._NORMAL, cwru.FILES[0].path])
def test_recordings_are_at_12_khz_without_what_lies_above_4(tmp_path, path):
  low = lambda t: np.sin(2 * np.pi * 100 / 12000 * t)
  high = lambda t: np.sin(2 * np.pi * 4100 / 12000 * t)
  write_cwru(tmp_path, lambda t: low(t) + high(t))
  root = tmp_path / 'cwru'
  inner = slice(200, -200)
  t = np.arange(9_000.0)
  assert np.allclose(cwru.read(root, path)[inner], low(t)[inner], atol=3e-3)
  both = cwru.read(root, path, lowpass=False)[inner]
  left = both - low(t)[inner]
  assert 0.9 < left.std() / high(t).std() < 1.1  # the decimation keeps it


def test_time_separates_sides_and_supports_from_queries(ramps):
  entities = registry.load(f'cwru:window=64,stride=16,{RAMP}', str(ramps))
  for entity in entities:
    later = entity.query[entity.labels == 0]
    assert entity.normal.max() + 64 < later.min()
  train, test = (
    [e for e in entities if e.side == side] for side in ('train', 'test')
  )
  for entity in test:
    for part in (entity.normal, *by_label(entity)):
      assert np.diff(part[:, 0, 0]).min() > 63.5  # no overlap
  last_normal = max(by_label(e)[0].max() for e in train)
  last_fault = max(by_label(e)[1].max() for e in train)
  assert last_normal + 500 < min(e.normal.min() for e in test)
  assert last_fault + 500 < min(by_label(e)[1].min() for e in test)


def by_label(entity):
  return [entity.query[entity.labels == label] for label in (0, 1)]


def test_entities_are_named_grouped_and_balanced(ramps):
  entities = registry.load(f'cwru:{RAMP}', str(ramps))
  everything = registry.load(f'cwru:load=all,{RAMP}', str(ramps))
  assert (len(entities), len(everything)) == (30, 42)
  folds = [e.fold for e in entities if e.side == 'test']
  assert [folds.count(f) for f in ('ball', 'inner', 'outer')] == [4, 4, 7]
  by_name = {e.name: e for e in everything}
  loaded = by_name['IR_7_1772rpm/train']
  assert loaded.group == by_name['IR_7'].group == 'IR_7'
  assert set(loaded.kinds) == {'', 'IR_7'} and loaded.side == 'train'
  for entity in everything:
    assert entity.labels.mean() == 0.5


def test_noise_has_the_stated_power_and_copies_are_independent(public):
  spec = 'cwru:snr_db=-6,copies=2'
  noisy = registry.load(spec, str(public))[0]
  clean = registry.load('cwru:clean=True', str(public))[0]
  assert np.allclose(clean.normal.mean(1), 0, atol=1e-5)
  assert np.allclose(clean.normal.std(1), 1, atol=1e-5)
  once, again = np.split(noisy.normal, 2)
  power = 10**0.6
  for noise in (once - clean.normal, again - clean.normal):
    assert np.isclose(noise.var(), power, rtol=0.09)
    assert abs(noise.mean()) < 0.12  # five standard errors
  assert np.isclose((once - again).var(), 2 * power, rtol=0.09)


def test_noise_depends_on_seed_and_entity_alone(public):
  load = lambda spec: registry.load(spec, str(public))
  base, other = (
    load('cwru:stride=256,copies=1' + tail) for tail in ('', ',seed=1')
  )
  alone = {e.name: e for e in load('cwru:stride=256,copies=1,load=all')}
  for a, b in zip(base, other, strict=True):
    assert not np.any(a.query == b.query)
    assert np.array_equal(a.query, alone[a.name].query)
  normals = [e.normal for e in base if e.side == 'test']
  assert all(not np.any(normals[0] == n) for n in normals[1:])


@pytest.mark.parametrize(
  ('options', 'told'),
  [
    ('window=4', 'window'), ('window=9000', 'shorter window'),
    ('stride=0', 'stride'), ('copies=0', 'copies'), ('snr_db=1e999', 'snr_db'),
    ('load=2', "'all'"),
  ],
)  # fmt: skip
def test_cwru_options_out_of_range(options, told, public):
  assert told in the_error(f'cwru:{options}', str(public))


# --- skab --------------------------------------------------------------------


def test_skab_supports_come_from_the_beginning_alone(public):
  entities = registry.load('skab', str(public))
  assert len(entities) == 34
  for entity in entities:
    time = entity.query[:, 0]
    assert np.array_equal(entity.normal[:, 0], np.arange(15))
    assert np.array_equal(time, np.arange(16, 60))
    assert np.array_equal(entity.labels, (time >= 30) & (time < 45))
  kinds = {e.name: set(e.kinds) for e in entities}
  assert kinds['valve1/0'] == {'', 'inlet valve closed'}
  assert kinds['other/14'] == {'', 'hot water added'}
  assert {e.fold for e in entities} == {'valve1', 'valve2', 'other'}


def test_skab_windows_are_anomalous_where_a_row_is(public):
  for entity in registry.load('skab:window=4,stride=3', str(public)):
    time = entity.query[:, :, 0]
    assert np.array_equal(np.diff(time[:, 0]), np.full(len(time) - 1, 3))
    assert entity.normal[:, :, 0].max() < 15 and time.min() == 19
    inside = ((time >= 30) & (time < 45)).any(1)
    assert np.array_equal(entity.labels, inside)


# --- servers -----------------------------------------------------------------


@pytest.mark.parametrize('name', ['smd', 'asd'])
def test_servers_train_for_supports_test_for_queries(name, public):
  entities = registry.load(name, str(public))
  order = {'smd': ['machine-1-6', 'machine-3-11'], 'asd': ['omi-2', 'omi-10']}
  assert [e.name for e in entities] == order[name]
  assert [e.fold for e in entities] == (
    ['group1', 'group3'] if name == 'smd' else ['', '']
  )
  kind = 'metrics 1 9' if name == 'smd' else 'temporal'
  for entity in entities:
    time = entity.query[:, 0] - 1000
    assert np.array_equal(entity.normal[:, 0], np.arange(120))
    assert np.array_equal(time, np.arange(120))
    anomalous = ((time >= 40) & (time < 46)) | ((time >= 80) & (time < 90))
    assert np.array_equal(entity.labels, anomalous)
    assert entity.kinds == tuple(kind if y else '' for y in anomalous)


def test_server_windows_and_thinning(public):
  options = 'window=4,stride=2,max_rows=10,max_queries=20'
  for entity in registry.load(f'smd:{options}', str(public)):
    train, time = entity.normal[:, :, 0], entity.query[:, :, 0] - 1000
    assert len(train) == 10 and len(time) == 20
    assert train[0, 0] == 0 and train[-1, 0] == 116
    assert np.all(np.diff(time[:, 0]) > 0) and np.all(np.diff(time) == 1)
    inside = ((time >= 40) & (time < 46)) | ((time >= 80) & (time < 90))
    assert np.array_equal(entity.labels, inside.any(1))
    assert abs(entity.labels.sum() - 20 * 10 / 59) <= 1  # in proportion


# --- broken files ------------------------------------------------------------

NORMAL = f'cwru/{cwru._NORMAL}'
VALVE = 'skab/data/valve1/3.csv'
SMD = 'smd/ServerMachineDataset/'


@pytest.mark.parametrize(
  ('path', 'old', 'new'),
  [
    (VALVE, 'Pressure', 'Presure'),
    (VALVE, '0.5', 'n/a'),
    (VALVE, ';1.0;', ';2.0;'),
    (VALVE, ';1.0;', ';0.0;'),
    (VALVE, ';0.5;0.0', ';0.0'),
    (f'{SMD}train/machine-1-6.txt', ',0.25\r', '\r'),
    (f'{SMD}test/machine-1-6.txt', ',0.25\r', '\r'),
    (f'{SMD}test_label/machine-1-6.txt', '0\r\n0\r\n', '0\r\n'),
    (f'{SMD}test_label/machine-1-6.txt', '1', '7'),
    (f'{SMD}interpretation_label/machine-1-6.txt', '-', '..'),
  ],
)
def test_a_broken_file_is_named(path, old, new, tmp_path, public):
  name = path.split('/')[0]
  public_layouts.link(public, tmp_path, name)
  target = tmp_path / path
  content = target.read_bytes()
  assert old.encode() in content
  target.unlink()
  put(target, content.replace(old.encode(), new.encode()))
  message = the_error(name, tmp_path)
  assert str(target) in message and f'--source={name}' in message


def test_a_missing_file_is_named(public, tmp_path):
  for path in (VALVE, f'{SMD}test/machine-3-11.txt'):
    name = path.split('/')[0]
    public_layouts.link(public, tmp_path, name)
    (tmp_path / path).unlink()
    assert str(tmp_path / path) in the_error(name, tmp_path)


def test_cwru_recordings_that_cannot_be_used(ramps):
  path = ramps / NORMAL
  for arrays in (
    {'FE': np.zeros(9)},
    {'DE': np.zeros(0)},
    {'DE': np.zeros(1000)},
    {'DE': with_value(np.zeros(36_000), 17, np.nan)},
    {'DE': np.array(['x'])},
    {'DE': np.array([{}, None], dtype=object)},  # refused, never unpickled
  ):
    npz(path, **arrays)
    assert str(path) in the_error('cwru', str(ramps))


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


def test_digest_of_an_array_ignores_the_archive(tmp_path):
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
  groups = splitting.split(
    entities, fold=splitting.fold_names(entities, 5)[0], folds=5
  )
  audits.sides(groups)
  source = registry.REGISTRY[spec.partition(':')[0]]
  for file in source.files:
    path = public_files.find(pathlib.Path(REAL) / source.name, file.path)
    assert public_files.digest(path, file.sha256) == file.sha256
