for (const head of document.querySelectorAll('thead th')) {
  head.tabIndex = 0;
  const sort = () => {
    const down = head.getAttribute('aria-sort') === 'ascending';
    for (const other of head.parentNode.children)
      other.removeAttribute('aria-sort');
    head.setAttribute('aria-sort', down ? 'descending' : 'ascending');
    const text = row => row.children[head.cellIndex].textContent.trim();
    const compare = (a, b) => {
      const [x, y] = [text(a), text(b)], [m, n] = [x, y].map(
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
