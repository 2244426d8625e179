"""Files in the public layouts, written once."""

import public_layouts
import pytest


@pytest.fixture(scope='session')
def public(tmp_path_factory):
  root = tmp_path_factory.mktemp('public')
  for write in public_layouts.WRITERS.values():
    write(root)
  return root
