"""Templates rendered: as HTML that needs no other file, and as Markdown."""

import base64
import hashlib
from typing import Any

import jinja2
import markupsafe

from metaad_jax.reports import tables


def _environment() -> jinja2.Environment:
  environment = jinja2.Environment(
    loader=jinja2.PackageLoader('metaad_jax.reports'),
    autoescape=jinja2.select_autoescape(['html.j2'], default_for_string=False),
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
  )
  environment.filters |= {
    'md': lambda text: tables.escape(tables.clean(text, 10**6)),
    'md_table': tables.markdown,
    'clean': lambda text: tables.clean(text, 10**6),
    'data_uri': data_uri,
  }
  return environment


def html(template: str, **context: Any) -> bytes:
  """A page that needs no other file; only the script of `base` may run."""
  environment = _environment()
  script = environment.get_template('sort.js').render()
  digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
  page = environment.get_template(template).render(
    script=markupsafe.Markup(script), digest=digest, **context
  )
  return page.encode()


def data_uri(png: bytes) -> str:
  return f'data:image/png;base64,{base64.b64encode(png).decode()}'


def markdown(template: str, **context: Any) -> str:
  """A page in Markdown."""
  return _environment().get_template(template).render(**context)
