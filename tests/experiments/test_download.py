"""The download binary against a server of our own."""

import hashlib
import http.server
import lzma
import threading

import pytest

from experiments import cli, download
from metaad_jax.base import RemoteFile, Source
from metaad_jax.data import registry

CONTENT = {
  '/a.csv': b'1,2\n3,4\n' * 50_000,
  '/deep%20er/b.csv': b'5,6\n',
}


def sha256(content: bytes) -> str:
  return hashlib.sha256(content).hexdigest()


class Server(http.server.BaseHTTPRequestHandler):
  """Serves CONTENT, and half of it under /short/."""

  asked: list[str] = []

  def do_GET(self):
    Server.asked.append(self.path)
    content = CONTENT.get(self.path.removeprefix('/short'))
    if content is None:
      self.send_error(404)
      return
    self.send_response(200)
    self.send_header('Content-Length', str(len(content)))
    self.end_headers()
    short = self.path.startswith('/short/')
    self.wfile.write(content[: len(content) // 2] if short else content)

  def log_message(self, *arguments):
    del arguments


@pytest.fixture(scope='module')
def url():
  with http.server.ThreadingHTTPServer(('127.0.0.1', 0), Server) as server:
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield f'http://127.0.0.1:{server.server_port}'
    server.shutdown()
    thread.join()


@pytest.fixture
def register(monkeypatch):
  """Puts a source with these files into the registry, as 'local'."""
  monkeypatch.setenv('NO_PROXY', '127.0.0.1')
  Server.asked.clear()

  def put(*remote, **fields):
    source = Source(
      'local', 'two tables', lambda data_dir: [], ('identity',), 'none', 'CC0',
      'nobody', files=remote, **fields,
    )  # fmt: skip
    monkeypatch.setitem(registry.REGISTRY, 'local', source)

  return put


def two(url):
  return [
    RemoteFile(path, url + place, sha256(CONTENT[place]))
    for path, place in zip(('a.csv', 'deep er/b.csv'), CONTENT, strict=True)
  ]


def finish(capsys, *arguments):
  """(exit code, stdout, stderr) of the binary."""
  with pytest.raises(SystemExit) as stopped:
    cli.run(download.main, download.FLAGS, ['download', *arguments])
  return (stopped.value.code or 0, *capsys.readouterr())


def fetch(capsys, root):
  return finish(capsys, '--source=local', f'--data_dir={root}')


def files_below(root):
  return sorted(p.relative_to(root).as_posix() for p in files_of(root))


def files_of(root):
  return [path for path in root.rglob('*') if path.is_file()]


def test_fetches_checks_and_does_not_fetch_again(
  url, register, tmp_path, capsys
):
  register(*two(url), note='Say so.')
  code, out, _ = fetch(capsys, tmp_path)
  assert code == 0 and '2 files fetched, 0 were there' in out
  assert 'Say so.' in out
  assert files_below(tmp_path) == ['local/a.csv', 'local/deep er/b.csv']
  assert (tmp_path / 'local/a.csv').read_bytes() == CONTENT['/a.csv']
  asked = list(Server.asked)
  code, out, _ = fetch(capsys, tmp_path)
  assert code == 0 and '0 files fetched, 2 were there' in out
  assert Server.asked == asked


def test_what_is_there_is_kept_if_right_plain_or_xz(
  url, register, tmp_path, capsys
):
  register(*two(url))
  (tmp_path / 'local').mkdir()
  packed = tmp_path / 'local' / 'a.csv.xz'
  packed.write_bytes(lzma.compress(CONTENT['/a.csv']))
  assert '1 files fetched, 1 were there' in fetch(capsys, tmp_path)[1]
  assert Server.asked == ['/deep%20er/b.csv']
  for wrong in (lzma.compress(b'other'), packed.read_bytes()[:-9]):
    packed.write_bytes(wrong)
    (tmp_path / 'local' / 'a.csv').unlink(missing_ok=True)
    assert '1 files fetched, 1 were there' in fetch(capsys, tmp_path)[1]
    assert (tmp_path / 'local' / 'a.csv').read_bytes() == CONTENT['/a.csv']


@pytest.mark.parametrize(
  ('path', 'digest', 'told'),
  [
    ('/a.csv', 64 * '0', 'sha256'),
    ('/nowhere.csv', 64 * '0', '404'),
    ('/short/a.csv', sha256(CONTENT['/a.csv']), 'cannot fetch'),
    ('/a.csv', f'DE:{64 * "0"}', 'unreadable'),
  ],
)
def test_failure_names_the_url_and_leaves_nothing_half_written(
  path, digest, told, url, register, tmp_path, capsys
):
  good = two(url)[1]
  register(good, RemoteFile('a.csv', url + path, digest))
  code, _, err = fetch(capsys, tmp_path)
  last = err.splitlines()[-1]
  assert code == 1 and last.startswith('error: ')
  assert url + path in last and told in last
  assert files_below(tmp_path) == ['local/deep er/b.csv']
  Server.asked.clear()
  assert fetch(capsys, tmp_path)[0] == 1
  assert Server.asked == [path]  # goes on where it ended


def test_interrupted_by_the_user(url, register, tmp_path, capsys, monkeypatch):
  def interrupt(self, url, output_file, pooch):
    with open(output_file, 'wb') as file:
      file.write(b'half')
    raise KeyboardInterrupt

  monkeypatch.setattr('pooch.HTTPDownloader.__call__', interrupt)
  register(*two(url))
  assert fetch(capsys, tmp_path)[0] == 130
  assert files_below(tmp_path) == []


@pytest.mark.parametrize(
  'path', ['../x', 'a/../../x', '/x', '', '.', '..\\x', 'out/x']
)
def test_hostile_paths_are_refused(path, url, register, tmp_path, capsys):
  root = tmp_path / 'data'
  (root / 'local').mkdir(parents=True)
  (tmp_path / 'elsewhere').mkdir()
  (root / 'local' / 'out').symlink_to(tmp_path / 'elsewhere')
  register(RemoteFile(path, f'{url}/a.csv', sha256(CONTENT['/a.csv'])))
  code, _, err = fetch(capsys, root)
  assert code == 1 and 'refused' in err
  assert Server.asked == [] and files_of(tmp_path) == []


@pytest.mark.parametrize(
  'arguments',
  [
    '--source=nothing',
    '--source=local:window=3',
    '--sources=local',
    'local',
    '',
  ],
)
def test_wrong_command_lines_exit_with_2(arguments, register, capsys):
  register()
  code, out, err = finish(capsys, *filter(None, [arguments]))
  assert code == 2 and out == '' and err.count('\n') == 1


def test_sources_without_files(register, tmp_path, capsys):
  code, out, _ = finish(capsys, '--source=vibration', f'--data_dir={tmp_path}')
  assert code == 0 and 'generated' in out
  register(note='Log in and fetch it by hand.')
  code, _, err = fetch(capsys, tmp_path)
  assert code == 1 and 'by hand' in err and err.count('\n') == 1
  assert files_below(tmp_path) == []


def test_list_tells_licence_citation_and_note(register, capsys):
  register(note='Mind the gap.')
  code, out, _ = finish(capsys, '--list')
  assert code == 0 and 'Mind the gap.' in out
  for source in registry.REGISTRY.values():
    assert f'{source.name}: {source.description}' in out
    assert source.licence in out and source.citation in out
