for (const head of document.querySelectorAll('thead th')) {
  head.tabIndex = 0;
  const sort = () => {
    const down = head.getAttribute('aria-sort') === 'ascending';
    for (const other of head.parentNode.children)
      other.removeAttribute('aria-sort');
    head.setAttribute('aria-sort', down ? 'descending' : 'ascending');
    const text = row => row.children[head.cellIndex].textContent.trim();
    const compare = (a, b) => {
      const [x, y] = [text(a), text(b)];
      if (head.classList.contains('words'))
        return (down ? -1 : 1) * x.localeCompare(y, undefined, {numeric: true});
      const [m, n] = [x, y].map(
        t => parseFloat(t.replace(/^< /, '').replace(/,(?=\d{3})/g, '')));
      if (isNaN(m) !== isNaN(n)) return isNaN(m) ? 1 : -1;
      const order = isNaN(m) ? x.localeCompare(y) : m - n;
      return down ? -order : order;
    };
    for (const body of head.closest('table').tBodies) {
      const rows = [...body.querySelectorAll('tr:not(.group)')];
      body.append(...rows.sort(compare));
    }
  };
  head.addEventListener('click', sort);
  head.addEventListener('keydown', e => { if (e.key === 'Enter') sort(); });
}
for (const input of document.querySelectorAll('input[data-table]')) {
  const [body] = document.getElementById(input.dataset.table).tBodies;
  input.addEventListener('input', () => {
    const words = input.value.toLowerCase().split(/\s+/);
    let shown = 0;
    for (const row of body.rows) {
      const text = row.textContent.toLowerCase();
      row.hidden = !words.every(word => text.includes(word));
      shown += !row.hidden;
    }
    input.closest('p').querySelector('output').value =
      `${shown} of ${body.rows.length} rows`;
  });
}
