"""The language of the command line: what it reads, what it refuses."""

from hypothesis import given, settings
from hypothesis import strategies as st
import pytest

from metaad_jax import specs
from metaad_jax.base import DataError

NAME = st.from_regex(r'[a-z_][a-z0-9_]{0,8}', fullmatch=True)
VALUE = st.one_of(
  st.integers(-(10**9), 10**9),
  st.floats(allow_nan=False, allow_infinity=False),
  st.booleans(),
  st.none(),
)


@settings(deadline=None)
@given(NAME, st.dictionaries(NAME, VALUE, max_size=4))
def test_what_is_written_is_read_back(name, options):
  text = ','.join(f'{key}={value!r}' for key, value in options.items())
  found = specs.parse(f' {name}:{text} ')
  assert found == (name, options)
  kinds = [type(value) for value in found[1].values()]
  assert kinds == [type(value) for value in options.values()]


def test_strings_are_what_is_no_literal():
  assert specs.parse('a:x=db4,y=outer|inner,z= 1e-3 ') == (
    'a',
    {'x': 'db4', 'y': 'outer|inner', 'z': 1e-3},
  )
  assert specs.parse('a') == specs.parse('a:') == ('a', {})
  assert specs.parse('a:x=b=c') == ('a', {'x': 'b=c'})


@settings(deadline=None, max_examples=300)
@given(st.text(max_size=40))
def test_any_text_is_read_or_refused_with_a_data_error(text):
  try:
    name, options = specs.parse(text)
  except DataError:
    return
  assert name and all(key.isidentifier() for key in options)


@pytest.mark.parametrize(
  ('text', 'told'),
  [
    ('', 'empty name'),
    (':x=1', 'empty name'),
    ('a:x', "'x'"),
    ('a:=1', "'=1'"),
    ('a:1x=1', "'1x=1'"),
  ],
)
def test_what_is_no_spec_is_refused(text, told):
  with pytest.raises(DataError, match=told):
    specs.parse(text)


def test_weird_literals_stay_strings():
  for value in ('{[]:1}', '-' * 20_000 + '1', '(' * 500, '1_', '\x00'):
    assert specs.parse(f'a:x={value}')[1] == {'x': value}


def choices(
  *, count: int = 3, share: float = 0.5, flag: bool = False, name: str = 'a',
  level: int | None = None,
):  # fmt: skip
  return count, share, flag, name, level


def test_call_passes_options_of_the_right_type():
  call = lambda text: specs.call('f', choices, **specs.parse(text)[1])
  assert call('f') == (3, 0.5, False, 'a', None)
  assert call('f:count=1,share=1,flag=True,name=b,level=2') == (
    1, 1, True, 'b', 2,
  )  # fmt: skip


@pytest.mark.parametrize(
  'option',
  ['count=1.5', 'count=True', 'count=many', 'count=None', 'share=x']
  + ['share=False', 'share=1e999-1e999', 'flag=1', 'flag=yes', 'counts=1'],
)
def test_options_of_a_wrong_type_or_name_are_named(option):
  with pytest.raises(DataError) as refused:
    specs.call('f', choices, **specs.parse(f'f:{option}')[1])
  assert option.partition('=')[0] in str(refused.value)
  assert '\n' not in str(refused.value)


def test_nan_is_no_number():
  with pytest.raises(DataError, match='share'):
    specs.check('f', choices, share=float('nan'))


def test_look_up_names_the_choices():
  assert specs.look_up('thing', {'a': 1}, 'a') == 1
  with pytest.raises(DataError, match="unknown thing 'c': choose one of a, b"):
    specs.look_up('thing', {'b': 1, 'a': 2}, 'c')


def test_an_option_is_added_once():
  for text, told in (('a', 'a:x=1'), ('a:y=2', 'a:y=2,x=1')):
    assert specs.with_option(text, 'x=1') == told
    assert specs.with_option(told, 'x=1') == told
