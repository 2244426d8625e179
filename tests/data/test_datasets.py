"""The sources, on tiny files in the public layout and, if there, on real ones.

The synthetic files carry the time of each row in their values, so that what
went where can be read off the entities.
"""

import dataclasses
import lzma
import os
import pathlib

import numpy as np
import public_layouts
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
FROM_FILES = ('asd', 'skab', 'smd', *public_layouts.WRITERS)
RAMP = 'zscore=False,clean=True,lowpass=False'


def put(path: pathlib.Path, content: bytes) -> None:
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_bytes(content)


def npz(path: pathlib.Path, **arrays) -> None:
  path.parent.mkdir(parents=True, exist_ok=True)
  np.savez(path, **arrays)


def write_cwru(root: pathlib.Path, wave=lambda t: t) -> None:
  """wave(t) with t in samples at 12 kHz; the normal one sampled at 48 kHz."""
  for file in cwru.FILES:
    if file.path == cwru._NORMAL:
      values = wave(np.arange(36_000) / 4)
    else:
      values = wave(np.arange(9_000.0))
    npz(root / 'cwru' / file.path, DE=values[:, None])


def write_skab(root: pathlib.Path, rows=60, block=(30, 45)) -> None:
  """The first sensor counts the rows."""
  for file in skab.FILES:
    text = ';'.join(skab._HEADER) + '\n'
    for i in range(rows):
      sensors = [i, *(0.5 for _ in skab.CHANNELS[1:])]
      anomalous = float(block[0] <= i < block[1])
      cells = ['2020-03-09 10:14:33', *sensors, anomalous, 0.0]
      text += ';'.join(map(str, cells)) + '\n'
    put(root / 'skab' / file.path, text.encode())


def write_servers(root: pathlib.Path, rows=120, spans=((40, 46), (80, 90))):
  """The first metric counts the rows, on from 1000 in test."""
  labels = np.zeros(rows, int)
  for begin, end in spans:
    labels[begin:end] = 1
  types = ['dataset,anomaly_segment,anomaly_type']
  for source, metrics, names in (
    ('smd/ServerMachineDataset', 38, ('machine-1-6', 'machine-3-11')),
    ('asd', 19, ('omi-2', 'omi-10')),
  ):
    for name in names:
      for part, offset in (('train', 0), ('test', 1000)):
        table = np.full((rows, metrics), 0.25)
        table[:, 0] = offset + np.arange(rows)
        lines = (','.join(f'{v:.6f}' for v in row) + '\n' for row in table)
        put(root / source / part / f'{name}.txt', ''.join(lines).encode())
      put(
        root / source / 'test_label' / f'{name}.txt',
        ''.join(f'{label}\n' for label in labels).encode(),
      )
      segments = [f'{b}-{e}:1,9\n' for b, e in spans]
      put(
        root / source / 'interpretation_label' / f'{name}.txt',
        ''.join(segments).encode(),
      )
      types += [f'{name},{b}-{e - 1},temporal' for b, e in spans]
  put(root / 'asd' / 'anomaly_type.csv', '\n'.join(types).encode())


@pytest.fixture(scope='session')
def synthetic(tmp_path_factory):
  root = tmp_path_factory.mktemp('data')
  rng = np.random.default_rng(0)
  write_cwru(root, lambda t: np.sin(t / 7) + rng.standard_normal(len(t)))
  write_skab(root)
  write_servers(root)
  for write in public_layouts.WRITERS.values():
    write(root)
  return root


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


def the_error(spec, data_dir) -> str:
  with pytest.raises(DataError) as caught:
    registry.load(spec, data_dir)
  message = str(caught.value)
  assert '\n' not in message
  return message


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


@pytest.mark.parametrize('name', FROM_FILES)
def test_loading_is_repeatable_and_reads_xz_beside_plain(
  name, tmp_path, synthetic
):
  plain = registry.load(name, str(synthetic))
  assert equal(plain, registry.load(name, str(synthetic)))
  for path in synthetic.rglob('*'):
    if path.is_file():
      put(tmp_path / path.relative_to(synthetic), path.read_bytes())
  compress(tmp_path / name)
  before = sorted((p, p.stat().st_mtime_ns) for p in tmp_path.rglob('*'))
  assert equal(plain, registry.load(name, str(tmp_path)))
  assert before == sorted(
    (p, p.stat().st_mtime_ns) for p in tmp_path.rglob('*')
  )
  compress(tmp_path / name)  # twice compressed: not what is expected
  the_error(name, str(tmp_path))


@pytest.mark.parametrize('name', FROM_FILES)
def test_missing_folder_says_how_to_fetch_it(name, tmp_path):
  message = the_error(name, str(tmp_path))
  assert str(tmp_path / name) in message
  assert f'experiments.download --source={name} --data_dir={tmp_path}' in (
    message
  )
  assert f'--source={name}' in the_error(name, None)


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
      'query row 2, column Volume Flow RateRMS is -inf',
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
  folds = {e.name: e.fold for e in entities if e.side == 'test'}
  assert folds['B_28'] == 'ball' and folds['OR@6_14'] == 'outer'
  assert sorted(map(list(folds.values()).count, set(folds.values()))) == [
    4,
    4,
    7,
  ]
  by_name = {e.name: e for e in everything}
  loaded = by_name['IR_7_1772rpm/train']
  assert loaded.group == by_name['IR_7'].group == 'IR_7'
  assert set(loaded.kinds) == {'', 'IR_7'} and loaded.side == 'train'
  for entity in everything:
    assert entity.labels.mean() == 0.5


def test_noise_has_the_stated_power_and_copies_are_independent(synthetic):
  spec = 'cwru:snr_db=-6,copies=2'
  noisy = registry.load(spec, str(synthetic))[0]
  clean = registry.load('cwru:clean=True', str(synthetic))[0]
  assert np.allclose(clean.normal.mean(1), 0, atol=1e-5)
  assert np.allclose(clean.normal.std(1), 1, atol=1e-5)
  once, again = np.split(noisy.normal, 2)
  power = 10**0.6
  for noise in (once - clean.normal, again - clean.normal):
    assert np.isclose(noise.var(), power, rtol=0.09)
    assert abs(noise.mean()) < 0.12  # five standard errors
  assert np.isclose((once - again).var(), 2 * power, rtol=0.09)


def test_noise_depends_on_seed_and_entity_alone(synthetic):
  load = lambda spec: registry.load(spec, str(synthetic))
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
    ('window=4', 'window'),
    ('window=9000', 'shorter window'),
    ('stride=0', 'stride'),
    ('copies=0', 'copies'),
    ('snr_db=1e999', 'snr_db'),
    ('load=2', "'all'"),
  ],
)
def test_cwru_options_out_of_range(options, told, synthetic):
  assert told in the_error(f'cwru:{options}', str(synthetic))


# --- skab --------------------------------------------------------------------


def test_skab_supports_come_from_the_beginning_alone(synthetic):
  entities = registry.load('skab', str(synthetic))
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


def test_skab_windows_are_anomalous_where_a_row_is(synthetic):
  for entity in registry.load('skab:window=4,stride=3', str(synthetic)):
    time = entity.query[:, :, 0]
    assert np.array_equal(np.diff(time[:, 0]), np.full(len(time) - 1, 3))
    assert entity.normal[:, :, 0].max() < 15 and time.min() == 19
    inside = ((time >= 30) & (time < 45)).any(1)
    assert np.array_equal(entity.labels, inside)


# --- servers -----------------------------------------------------------------


@pytest.mark.parametrize('name', ['smd', 'asd'])
def test_servers_train_for_supports_test_for_queries(name, synthetic):
  entities = registry.load(name, str(synthetic))
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


def test_server_windows_and_thinning(synthetic):
  options = 'window=4,stride=2,max_rows=10,max_queries=20'
  for entity in registry.load(f'smd:{options}', str(synthetic)):
    train, time = entity.normal[:, :, 0], entity.query[:, :, 0] - 1000
    assert len(train) == 10 and len(time) == 20
    assert train[0, 0] == 0 and train[-1, 0] == 116
    assert np.all(np.diff(time[:, 0]) > 0) and np.all(np.diff(time) == 1)
    inside = ((time >= 40) & (time < 46)) | ((time >= 80) & (time < 90))
    assert np.array_equal(entity.labels, inside.any(1))
    assert abs(entity.labels.sum() - 20 * 10 / 59) <= 1  # in proportion


# --- broken files ------------------------------------------------------------


def edit(change):
  """A corruption of a text file."""
  return lambda content: change(content.decode()).encode()


def drop_cell(text):
  head, _, tail = text.rstrip().rpartition('\n')
  return head + '\n' + tail[: len(tail) // 2]


NORMAL = f'cwru/{cwru._NORMAL}'
VALVE = 'skab/data/valve1/3.csv'
SMD = 'smd/ServerMachineDataset/'
CORRUPTIONS = [
  (NORMAL, lambda content: content[: len(content) // 2]),
  (NORMAL, lambda content: b'not an archive'),
  (NORMAL, lambda content: b''),
  (VALVE, lambda content: b''),
  (VALVE, lambda content: b'\xff\xfe\x00'),
  (VALVE, edit(lambda text: text.replace('Pressure', 'Presure'))),
  (VALVE, edit(lambda text: text.splitlines()[0])),
  (VALVE, edit(lambda text: text.replace('0.5', 'n/a', 1))),
  (VALVE, edit(lambda text: text.replace(';1.0;', ';2.0;'))),
  (VALVE, edit(lambda text: text.replace(';1.0;', ';0.0;'))),
  (VALVE, edit(drop_cell)),
  (f'{SMD}train/machine-1-6.txt', edit(drop_cell)),
  (f'{SMD}test_label/machine-1-6.txt', edit(lambda text: text[:-4])),
  (f'{SMD}test_label/machine-1-6.txt', edit(lambda t: t.replace('1', '7'))),
  (
    f'{SMD}interpretation_label/machine-1-6.txt',
    edit(lambda text: text.replace('-', '..')),
  ),
  (
    f'{SMD}test/machine-1-6.txt',
    edit(lambda t: '\n'.join(line[2:] for line in t.replace(',', ' ').split())),
  ),
]


@pytest.mark.parametrize(('path', 'damage'), CORRUPTIONS)
def test_a_broken_file_is_named(path, damage, tmp_path, synthetic):
  packed = path == NORMAL
  name = path.split('/')[0]
  for source in (synthetic / name).rglob('*'):
    if source.is_file():
      target = tmp_path / source.relative_to(synthetic)
      target.parent.mkdir(parents=True, exist_ok=True)
      target.symlink_to(source)
  target = tmp_path / path
  content = damage(target.read_bytes())
  target.unlink()
  if packed:
    target = target.with_name(target.name + '.xz')
    content = lzma.compress(content)
  target.write_bytes(content)
  message = the_error(name, str(tmp_path))
  assert str(target) in message
  assert f'--source={name}' in message


def test_a_missing_file_is_named(tmp_path):
  write_skab(tmp_path)
  (tmp_path / VALVE).unlink()
  assert str(tmp_path / VALVE) in the_error('skab', str(tmp_path))
  write_servers(tmp_path)
  path = tmp_path / 'smd/ServerMachineDataset/test/machine-3-11.txt'
  path.unlink()
  assert str(path) in the_error('smd', str(tmp_path))


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
