"""The console command, called in this process."""

import contextlib
import io

import pytest

from metaad_jax.command import program


def call(*arguments):
  """(exit code, stdout, stderr)."""
  out, err = io.StringIO(), io.StringIO()
  with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
    with pytest.raises(SystemExit) as stopped:
      program.main(arguments)
  return stopped.value.code or 0, out.getvalue(), err.getvalue()


def succeed(*arguments, code=0):
  got, out, err = call(*arguments)
  assert got == code, err
  return out
