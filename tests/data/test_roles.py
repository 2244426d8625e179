"""What columns are for: features, ids, times and labels."""

import numpy as np
import pandas as pd
import pytest

from metaad_jax.base import DataError
from metaad_jax.data import roles, user_files

X = np.random.default_rng(0).normal([20, 1.5, 3e3], [2, 0.1, 20], (40, 3))
X = X.round([[3, 4, 1]][0][0])
FRAME = pd.DataFrame(X, columns=['temp', 'press', 'rpm'])


def read(folder, content, name='a.csv', **options):
  path = folder / name
  path.write_text(content)
  return user_files.read(str(path), **options)


def refusal(folder, content, **options):
  with pytest.raises(DataError) as refused:
    read(folder, content, **options)
  message = str(refused.value)
  assert '\n' not in message and str(folder) in message
  return message


def of(samples):
  return {column.name: column.role for column in samples.columns}


# --- ids and times -----------------------------------------------------------

WHEN = pd.date_range('2024-03-01', periods=40, freq='min')
ASIDE = {
  'id': np.arange(40),
  'id that starts high': np.arange(40) + 12_000_000,
  'elapsed': np.arange(40) * 0.1,
  'epoch in s': WHEN.as_unit('s').astype('int64') + np.arange(40) ** 2,
  'epoch in ns': WHEN.as_unit('ns').astype('int64'),
  'date': WHEN,
  'serial': [f'SN-{i:04}' for i in range(40)],
  'order id': np.random.default_rng(0).permutation(4000)[:40],
  'shuffled': np.random.default_rng(0).permutation(40),
  'starts again': np.tile(np.arange(20), 2),
  'gaps': [np.nan, *range(1, 40)],
  'c17': 1000 + np.cumsum(np.random.default_rng(0).integers(1, 9, 40)),
  'cycles left': np.arange(90, 50, -1),
  'operating hours': np.cumsum(np.random.default_rng(0).random(40)),
  'Total_kWh': 7e4 + np.cumsum(np.random.default_rng(1).random(40)),
  't': np.cumsum(np.random.default_rng(0).random(40)),
  'stamp': WHEN.strftime('%Y%m%d%H%M%S').astype('int64'),
  'month': WHEN.month,
  'weekday': WHEN.dayofweek,
  'when': WHEN.day_name(),
  'clock': WHEN.strftime('%H:%M'),
  'customer_id': np.random.default_rng(0).integers(10**5, 10**6, 8).repeat(5),
  'comment': [f'pump {max(i, 1)} was seen' for i in range(40)],
}


@pytest.mark.parametrize('name', ASIDE)
def test_columns_that_count_or_tell_the_time_are_set_aside(name, tmp_path):
  frame = FRAME.assign(**{name: ASIDE[name]})
  text = frame.to_csv(index=False)
  samples = read(tmp_path, text)
  assert of(user_files.from_frame(frame)) == of(samples)
  assert list(samples.rows) == list(FRAME) and list(samples.keys) == [name]
  assert any(repr(name) in note for note in samples.notes)
  roles_of = {c.name: c.role for c in samples.columns}
  assert roles_of.pop(name) in ('id', 'time')
  assert set(roles_of.values()) == {'feature'}
  assert name in read(tmp_path, text, features=(name,)).rows


def test_sensors_are_not_set_aside(tmp_path):
  sensors = {
    'drift': np.cumsum(np.random.default_rng(0).random(40)),
    'constant': np.ones(40),
    'whole': np.random.default_rng(0).permutation(60)[:40],
    'site': ['north', 'south'] * 20,
    'gaps': [None, *X[1:, 0]],
  }
  samples = read(tmp_path, FRAME.assign(**sensors).to_csv(index=False))
  assert list(samples.rows) == [*FRAME, *sensors]
  assert {c.name: c.missing for c in samples.columns}['gaps'] == 1 / 40
  assert [n for n in samples.notes if 'only rises' in n and "'drift'" in n]
  samples = read(tmp_path, FRAME.assign(a=0).to_csv(), ignore=('a', 'press'))
  assert list(samples.rows) == ['temp', 'rpm']


def test_roles_of_the_known_rows_hold_for_the_new_ones(tmp_path):
  frame = FRAME.assign(
    id=[f'{7 * i:04}' for i in range(40)], when=WHEN, Class=0, site='north'
  )
  known = read(tmp_path, frame[:30].to_csv(index=False))
  new = frame[37:].assign(Class=[0, 1, 0], site=['north', 'west', 'North'])
  samples = read(tmp_path, new.to_csv(index=False), like=known)
  assert of(samples) == of(known) and samples.labels.tolist() == [0, 1, 0]
  assert samples.keys['id'].tolist() == ['0259', '0266', '0273']
  assert samples.keys['when'].tolist() == list(map(str, WHEN[37:]))
  (told,) = samples.notes
  assert "'site'" in told and "'west'" in told and '1 of 3' in told


def test_units_that_differ_are_told(tmp_path):
  known = read(tmp_path, 'a,b\n5 kg,1\n6 kg,2\n')
  notes = read(tmp_path, 'a,b\n5 lb,1\n6 lb,2\n', like=known).notes
  assert any("'lb'" in note and "'kg'" in note for note in notes)
  assert "'a'" in read(tmp_path, 'a,b\n5,1\n', like=known).notes[0]


def test_a_code_of_missing_is_told(tmp_path):
  text = FRAME.assign(temp=np.where(X[:, 0] > 21, -9999, X[:, 0]))
  assert '-9999' in ' '.join(read(tmp_path, text.to_csv(index=False)).notes)


def test_flags_say_what_a_column_is_for(tmp_path):
  text = FRAME.assign(site=['a', 'b'] * 20, note='1 x').to_csv(index=False)
  samples = read(tmp_path, text, time='temp', id='site', ignore=['note'])
  assert of(samples) == {
    'temp': 'time', 'press': 'feature', 'rpm': 'feature', 'site': 'id',
    'note': 'ignored',
  }  # fmt: skip
  mixed = FRAME.assign(temp=[*X[:39, 0], 'ERR']).to_csv(index=False)
  assert '--ignore=temp' in refusal(tmp_path, mixed)
  assert 'temp' not in read(tmp_path, mixed, ignore=['temp']).rows
  for flag in ('time', 'id', 'label', 'ignore', 'features'):
    value = 'Tmp' if flag in ('time', 'id', 'label') else ['Tmp']
    told = refusal(tmp_path, text, like=samples, **{flag: value})
    assert f"--{flag}: there is no column 'Tmp'" in told and "'temp'" in told


# --- labels ------------------------------------------------------------------


@pytest.mark.parametrize(
  ('bad', 'good'),
  [
    ('anomaly', 'normal'), ('Attack', 'Normal'), ('fault', 'ok'),
    ('abnormal', 'normal'), ('broken', 'healthy'), ('defect', 'good'),
    ('malicious', 'benign'), ('yes', 'no'), ('True', 'False'), (1, 0),
    (True, False), ('bad', 'good'), ('n.i.O.', 'i.O.'), ('schlecht', 'gut'),
    ('Not OK', 'OK'),
  ],
)  # fmt: skip
def test_labels_cannot_be_turned_round(bad, good, tmp_path):
  marks = [bad if i in (3, 17) else good for i in range(40)]
  for name in ('label', 'Class', 'is_anomaly'):
    samples = read(tmp_path, FRAME.assign(**{name: marks}).to_csv(index=False))
    assert np.flatnonzero(samples.labels).tolist() == [3, 17]
    assert samples.label == name and list(samples.rows) == list(FRAME)


def test_what_is_called_normal_or_ok_does_not_mark_anomalies(tmp_path):
  for name, bad, good in (('is_normal', 0, 1), ('OK', 'no', 'yes')):
    marks = [bad if i in (3, 17) else good for i in range(40)]
    text = FRAME.assign(**{name: marks}).to_csv(index=False)
    assert 'says what is normal' in refusal(tmp_path, text, label=name)
    samples = read(tmp_path, text, label=name, anomaly_label=str(bad))
    assert np.flatnonzero(samples.labels).tolist() == [3, 17]


def test_words_without_a_meaning_need_one(tmp_path):
  text = FRAME.assign(label=['F', 'N'] * 20).to_csv(index=False)
  assert '--anomaly_label' in refusal(tmp_path, text)
  labels = read(tmp_path, text, anomaly_label='F').labels
  assert labels.tolist() == [1, 0] * 20
  assert '--anomaly_label' not in refusal(tmp_path, text, anomaly_label='X')
  good = FRAME.assign(label='N').to_csv(index=False)
  assert not read(tmp_path, good, anomaly_label='F').labels.any()
  for marks in ([1, -1] * 20, [1, -1, 0, 0] * 10):
    text = FRAME.assign(label=marks).to_csv(index=False)
    assert '--anomaly_label=-1' in refusal(tmp_path, text)
    labels = read(tmp_path, text, anomaly_label='-1').labels
    assert labels.tolist() == [int(mark == -1) for mark in marks]
  text = FRAME.assign(label=[0, 1, 2, 3] * 10).to_csv(index=False)
  assert 'labels must be' in refusal(tmp_path, text)
  assert list(read(tmp_path, text, label='none').rows) == [*FRAME, 'label']
  text = FRAME.assign(target=X[:, 0]).to_csv(index=False)
  known = read(tmp_path, text).rows
  assert 'target' in known  # no labels by its values
  text = FRAME.assign(target=[0, 1] * 20).to_csv(index=False)
  assert read(tmp_path, text).label == 'target'
  assert 'target' in read(tmp_path, text, like=known).rows


def test_unlabelled_rows(tmp_path):
  marks = ['0', '1', '?', ''] * 10
  text = FRAME.assign(y=marks, fault=0).to_csv(index=False)
  samples = read(tmp_path, text)
  assert samples.labels.tolist() == [0, 1, -1, -1] * 10
  assert list(samples.rows) == list(FRAME)  # nor is the other one a feature
  with pytest.raises(DataError, match='one for each of the 3 rows'):
    roles.labels(np.zeros(2), 3)


LEAKS = {
  'Class': [1, 2, 3, 1] * 10,
  'attack_cat': ['none', 'dos', 'probe', 'none'] * 10,
  'outlier': [1, -1] * 20,
  'Machine failure': [0] * 39 + [1],
  'changepoint': [0.0] * 40,
  'condition': ['healthy'] * 40,
  'is_normal': [1, 0] * 20,
  'diagnosis': ['M', 'B'] * 20,
  'Ergebnis': ['ok'] * 40,  # it says more in the file to judge
  'Prüfung': ['ok', 'nok'] * 20,
  'Insp': ['ok', 'unkn', 'unkn', 'fraud'] * 10,
  'Zustand': ['gut', 'schlecht'] * 20,
  'alarm': [0, 1] * 20,
}


@pytest.mark.parametrize('name', LEAKS)
def test_what_looks_like_labels_is_no_feature(name, tmp_path):
  text = FRAME.assign(**{name: LEAKS[name]}).to_csv(index=False)
  samples = read(tmp_path, text)
  assert list(samples.rows) == list(FRAME)
  assert of(samples)[name] in ('label', 'ignored')
  assert any(repr(name) in note for note in samples.notes)
  assert name in read(tmp_path, text, features=[name]).rows
  assert name in read(tmp_path, text, features=[name], label='none').rows


def test_answers_and_grades_are_features(tmp_path):
  words = {'door': ['yes', 'no'] * 20, 'grade': ['A', 'C'] * 20}
  samples = read(tmp_path, FRAME.assign(**words).to_csv(index=False))
  assert list(samples.rows) == [*FRAME, 'door', 'grade']


def test_a_column_that_repeats_the_labels_is_no_feature(tmp_path):
  marks = np.arange(40) % 4 == 0
  frame = FRAME.assign(label=marks.astype(int), v=np.where(marks, 'P', 'Q'))
  samples = read(tmp_path, frame.to_csv(index=False))
  assert of(samples)['v'] == 'ignored' and "'v'" in samples.notes[-1]
  few = frame.assign(label=[1, *[0] * 39], v=[5, *[0] * 39])
  assert 'v' in read(tmp_path, few.to_csv(index=False)).rows


def test_measured_values_are_no_labels_whatever_they_are_called(tmp_path):
  for name in ('y', 'anomaly', 'target', 'fault current'):
    samples = read(tmp_path, FRAME.assign(**{name: X[:, 0]}).to_csv())
    assert name in samples.rows and samples.labels is None
