"""Words that the reader of files knows, by kind; `words.txt` holds them."""

import pathlib
import re


def _words():
  text = (pathlib.Path(__file__).parent / 'words.txt').read_text('utf-8')
  found = re.findall(r'^(\w+): (.*(?:\n  .*)*)', text, re.MULTILINE)
  return {kind: frozenset(words.split()) for kind, words in found}


WORDS = _words()
# Names of months in many languages -> Jan to Dec, as strptime knows them.
MONTHS = {
  word: kind.removeprefix('month').capitalize()
  for kind, words in WORDS.items()
  if kind.startswith('month') and len(kind) == 8
  for word in words
}
