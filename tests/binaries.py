"""Calls of the binaries in this process, for tests."""

import contextlib
import io

import pytest

from experiments import cli


def call(program, *arguments):
  """(exit code, stdout, stderr) of a binary, in this process."""
  out, err = io.StringIO(), io.StringIO()
  with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
    with pytest.raises(SystemExit) as stopped:
      cli.run(program.main, program.FLAGS, ['program', *map(str, arguments)])
  return stopped.value.code or 0, out.getvalue(), err.getvalue()


def succeed(program, *arguments):
  code, out, err = call(program, *arguments)
  assert code == 0, err
  return out


def fail(program, code, *arguments, printed=''):
  """The error on stderr; on stdout nothing, or lines that start so."""
  got, out, err = call(program, *arguments)
  assert got == code, (out, err)
  assert all(printed and line.startswith(printed) for line in out.splitlines())
  lines = [x for x in err.splitlines(True) if not x.startswith('note: ')]
  assert len(lines) == 1 and lines[0].startswith('error: '), err
  assert len(lines[0]) < 600
  return lines[0]


def files(folder):
  return {str(p.relative_to(folder)) for p in folder.rglob('*') if p.is_file()}
