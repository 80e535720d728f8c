// One switch for the code of all cells, remembered by the browser. Without scripts all code is shown.
(() => {
  const root = document.documentElement, key = 'code';
  const stored = () => { try { return localStorage.getItem(key); } catch { return null; } };
  const store = value => { try { localStorage.setItem(key, value); } catch { /* private windows may refuse */ } };
  root.dataset.code = stored() === 'folded' ? 'folded' : 'shown';

  function button(className, text) {
    const made = document.createElement('button');
    made.type = 'button';
    made.className = className;
    made.textContent = text;
    return made;
  }

  function addSwitch() {
    const place = document.querySelector('.article-header-buttons');
    if (!place || !document.querySelector('.cell_input')) return;
    const all = button('btn btn-sm code-switch', '');
    const say = () => {
      const folded = root.dataset.code === 'folded';
      all.textContent = folded ? 'Show code' : 'Fold code';
      all.setAttribute('aria-pressed', String(folded));
    };
    all.addEventListener('click', () => {
      root.dataset.code = root.dataset.code === 'folded' ? 'shown' : 'folded';
      store(root.dataset.code);
      for (const cell of document.querySelectorAll('.cell_input.unfolded')) cell.classList.remove('unfolded');
      say();
    });
    say();
    place.prepend(all);
  }

  function addFolds() {
    for (const cell of document.querySelectorAll('.cell_input')) {
      const lines = cell.textContent.trim().split('\n').length;
      const one = button('code-fold', `Code, ${lines} ${lines === 1 ? 'line' : 'lines'}`);
      one.addEventListener('click', () => one.setAttribute('aria-expanded', String(cell.classList.toggle('unfolded'))));
      one.setAttribute('aria-expanded', 'false');
      cell.prepend(one);
    }
  }

  // Boxes that scroll can be reached with the keyboard
  function reachBoxes() {
    for (const box of document.querySelectorAll('.math-block, .pst-scrollable-table-container, div.highlight pre'))
      if (box.scrollWidth > box.clientWidth) box.tabIndex = 0;
      else box.removeAttribute('tabindex');
  }

  document.addEventListener('DOMContentLoaded', () => { addSwitch(); addFolds(); reachBoxes(); });
  addEventListener('resize', reachBoxes);
})();
