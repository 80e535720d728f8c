// What one sees of the field: two clouds in the plane, their energy and the shares of the modes. The mathematics is in field.js.
(() => {
  const root = document.querySelector('.playground'), at = name => root.querySelector('.' + name);
  const view = at('view'), HALF = 4.5, STD = .15, JUMP = .12;      // data units; JUMP: the farthest a sample moves in a step
  const GRID = 45, KEPT = 400;                                     // cells a side of the map; points of a curve
  const still = matchMedia('(prefers-reduced-motion: reduce)').matches;

  // --- random numbers, the same for every reader -------------------------------------------------------------------
  let seed = 1;
  function uniform() {
    seed = (seed + 0x6d2b79f5) | 0;
    let t = Math.imul(seed ^ seed >>> 15, 1 | seed);
    t = t + Math.imul(t ^ t >>> 7, 61 | t) ^ t;
    return ((t ^ t >>> 14) >>> 0) / 4294967296;
  }
  function normal() { return Math.sqrt(-2 * Math.log(1 - uniform())) * Math.cos(2 * Math.PI * uniform()); }
  function cloud(n, [a, b], std) {
    const points = new Float64Array(2 * n);
    for (let i = 0; i < n; i++) {
      points[2 * i] = a + std * normal();
      points[2 * i + 1] = b + std * normal();
    }
    return points;
  }

  // --- where it starts ---------------------------------------------------------------------------------------------
  const circle = Array.from({length: 8}, (_, i) => [3 * Math.cos(i * Math.PI / 4), 3 * Math.sin(i * Math.PI / 4)]);
  const PRESETS = {
    eight: {modes: circle, each: 25, std: STD, start: [1.2, -.6], spread: .3, n: 300},
    two: {modes: [[-2.5, 0], [2.5, 0]], each: 100, std: .25, start: [-2.5, 0], spread: .25, n: 300},
    far: {modes: [[-3.2, -3], [-2, -2.6], [-2.8, -1.8], [3.6, 3.4]], each: 50, std: STD, start: [-2.4, -2.6], spread: .5, n: 300},
    single: {modes: [[0, 0]], each: 1, std: 0, start: [2.4, 1.2], spread: .6, n: 20},
  };

  const s = {running: !still, x: null, y: null, modes: [], mode: 0, kernel: null, withinY: 0, now: null, h: 1, steps: 0, frames: 0,
    energies: [], shares: [], every: 1, map: new Float64Array(GRID * GRID), row: 0, fresh: 0, held: null, dirty: true};

  function restart() {
    const preset = PRESETS[at('preset').value];
    seed = 1;
    s.modes = preset.modes.map(centre => [...centre]);
    s.each = preset.each;
    s.std = preset.std || STD;
    s.y = new Float64Array(preset.modes.flatMap(centre => [...cloud(preset.each, centre, preset.std)]));
    s.x = cloud(+at('n').value, preset.start, preset.spread);
    s.steps = 0;
    s.energies = [];
    s.shares = [];
    s.every = 1;
    changed();
  }

  // --- motion ------------------------------------------------------------------------------------------------------
  function drifting() { return at('kernel').value === 'drifting'; }

  function evaluate(x) {                           // drifting models descend no energy: that of the Plummer kernel is shown
    const found = Field.field(x, s.y, s.kernel, s.withinY);
    if (drifting()) found.force = Field.meanShift(x, s.y, s.kernel.width);
    return found;
  }

  function changed() {                             // kernel or charges are others
    const name = drifting() ? 'plummer' : at('kernel').value;
    s.kernel = {name, d: +at('d').value, width: +at('width').value};
    s.withinY = Field.meanWithin(s.y, s.kernel);
    s.now = evaluate(s.x);
    s.h = 1;
    s.dirty = true;
  }

  function longest(force) {
    let most = 0;
    for (let i = 0; i < force.length; i += 2) most = Math.max(most, Math.hypot(force[i], force[i + 1]));
    return most;
  }

  // One step along the force; a step that would raise the energy is halved instead
  function step() {
    const h = Math.min(s.h, JUMP / (longest(s.now.force) || 1)), moved = s.x.map((c, i) => c + h * s.now.force[i]);
    const next = evaluate(moved);
    if (drifting()) s.h = .5;
    else if (next.energy > s.now.energy) { s.h = h / 2; return; }
    else s.h = Math.min(1.1 * h, 1e4);
    s.x = moved;
    s.now = next;
    s.steps++;
    if (s.steps % s.every === 0) keep();
    s.dirty = true;
  }

  function shares() {
    const found = new Array(s.modes.length).fill(0), reach = 9 * s.std * s.std, n = s.x.length / 2;
    for (let i = 0; i < n; i++) {
      let best = -1, least = reach;
      s.modes.forEach(([a, b], k) => {
        const u = s.x[2 * i] - a, v = s.x[2 * i + 1] - b, r2 = u * u + v * v;
        if (r2 <= least) { best = k; least = r2; }
      });
      if (best >= 0) found[best] += 1 / n;
    }
    return found;
  }

  function keep() {
    s.energies.push(s.now.energy);
    s.shares.push(shares());
    if (s.energies.length < 2 * KEPT) return;      // every second one is enough
    s.energies = s.energies.filter((_, i) => i % 2);
    s.shares = s.shares.filter((_, i) => i % 2);
    s.every *= 2;
  }

  // --- drawing -----------------------------------------------------------------------------------------------------
  let colours = {};
  function readColours() {
    const style = getComputedStyle(root);
    for (const name of ['paper', 'ink', 'quiet', 'line', 'real', 'generated', 'low', 'high', 'accent'])
      colours[name] = style.getPropertyValue('--' + name).trim();
    s.dirty = true;
  }

  function fitted(canvas) {                        // as many pixels as the screen has
    const ratio = Math.min(devicePixelRatio || 1, 2), w = canvas.clientWidth, h = canvas.clientHeight;
    if (canvas.width !== Math.round(w * ratio) || canvas.height !== Math.round(h * ratio)) {
      canvas.width = Math.round(w * ratio);
      canvas.height = Math.round(h * ratio);
    }
    const pen = canvas.getContext('2d');
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.clearRect(0, 0, w, h);
    return [pen, w, h];
  }

  function mapRows(count) {                        // a few rows of the potential a frame
    for (let k = 0; k < count; k++) {
      const a = new Float64Array(2 * GRID), v = HALF - (s.row + .5) * 2 * HALF / GRID;
      for (let i = 0; i < GRID; i++) {
        a[2 * i] = (i + .5) * 2 * HALF / GRID - HALF;
        a[2 * i + 1] = v;
      }
      s.map.set(Field.potential(a, s.x, s.y, s.kernel), s.row * GRID);
      s.row = (s.row + 1) % GRID;
    }
  }

  const tile = document.createElement('canvas');
  tile.width = tile.height = GRID;
  function drawMap(pen, size) {
    const sorted = Float64Array.from(s.map, Math.abs).sort(), most = sorted[Math.floor(.97 * sorted.length)] || 1;
    const inner = tile.getContext('2d'), image = inner.createImageData(GRID, GRID);
    const [low, high] = [colours.low, colours.high].map(text => text.split(',').map(Number));
    for (let i = 0; i < s.map.length; i++) {
      image.data.set(s.map[i] > 0 ? high : low, 4 * i);
      image.data[4 * i + 3] = 110 * Math.min(Math.abs(s.map[i]) / most, 1);
    }
    inner.putImageData(image, 0, 0);
    pen.imageSmoothingEnabled = true;
    pen.drawImage(tile, 0, 0, size, size);
  }

  function dots(pen, points, radius, colour, size) {
    pen.fillStyle = colour;
    pen.beginPath();
    for (let i = 0; i < points.length; i += 2) {
      const a = (points[i] + HALF) / (2 * HALF) * size, b = (HALF - points[i + 1]) / (2 * HALF) * size;
      pen.moveTo(a + radius, b);
      pen.arc(a, b, radius, 0, 7);
    }
    pen.fill();
  }

  function drawView() {
    const [pen, size] = fitted(view);
    if (at('map').checked) drawMap(pen, size);
    dots(pen, s.y, s.each === 1 ? 7 : 3, colours.real, size);
    dots(pen, s.x, s.x.length < 100 ? 4 : 2.5, colours.generated, size);
    if (document.activeElement !== view) return;
    const [a, b] = s.modes[s.mode];                // the mode that the arrows move
    pen.strokeStyle = colours.accent;
    pen.lineWidth = 2;
    pen.beginPath();
    pen.arc((a + HALF) / (2 * HALF) * size, (HALF - b) / (2 * HALF) * size, 22, 0, 7);
    pen.stroke();
  }

  function curve(pen, values, place, colour) {
    pen.strokeStyle = colour;
    pen.lineWidth = 1.5;
    pen.beginPath();
    values.forEach((value, i) => pen.lineTo(...place(i, value)));
    pen.stroke();
  }

  const LEFT = 46;                                 // pixels for the numbers beside a curve
  function drawEnergies() {
    const [pen, w, h] = fitted(at('energies')), logs = s.energies.map(F => Math.log10(Math.max(F, 1e-12)));
    if (logs.length < 2) return;
    const most = Math.max(...logs), least = Math.min(...logs, most - .3), span = most - least;
    const place = (i, value) => [LEFT + i / (logs.length - 1) * (w - LEFT - 8), 10 + (most - value) / span * (h - 20)];
    pen.font = '11px sans-serif';
    pen.fillStyle = colours.quiet;
    pen.textAlign = 'right';
    pen.fillText((10 ** most).toPrecision(2), LEFT - 6, 14);
    pen.fillText((10 ** least).toPrecision(2), LEFT - 6, h - 6);
    curve(pen, logs, place, colours.generated);
  }

  function drawShares() {
    const [pen, w, h] = fitted(at('shares')), n = s.shares.length, equal = 1 / s.modes.length;
    const most = Math.min(1, Math.max(1.25 * equal, ...s.shares.flat())), low = h - 10;
    const place = (i, value) => [LEFT + i / Math.max(n - 1, 1) * (w - LEFT - 8), low - value / most * (h - 20)];
    pen.font = '11px sans-serif';
    pen.fillStyle = colours.quiet;
    pen.textAlign = 'right';
    pen.fillText(`${Math.round(100 * most)} %`, LEFT - 6, 14);
    pen.fillText('0 %', LEFT - 6, h - 6);
    pen.setLineDash([4, 4]);
    curve(pen, [equal, equal], (i, value) => [LEFT + i * (w - LEFT - 8), place(0, value)[1]], colours.quiet);
    pen.setLineDash([]);
    if (n < 2) return;
    s.modes.forEach((_, k) => curve(pen, s.shares.map(row => row[k]), place, k === s.mode ? colours.accent : colours.quiet));
  }

  function say() {
    const units = {plummer: 'Softening ε', gaussian: 'Width σ', laplace: 'Decay length σ', drifting: 'Temperature'};
    at('width-name').textContent = units[at('kernel').value];
    at('width-value').textContent = `${(+at('width').value).toFixed(2)} data units`;
    at('d-value').textContent = `${at('d').value} (no unit)`;
    at('d').disabled = !['plummer', 'drifting'].includes(at('kernel').value);
    at('n-value').textContent = at('n').value;
    at('run').textContent = s.running ? 'Pause' : 'Run';
    at('energy-name').textContent = drifting()
      ? 'Energy F of the Plummer kernel over the steps, logarithmic; drifting descends no energy of its own'
      : 'Energy F over the steps, logarithmic';
    at('step').textContent = `step ${s.steps}`;
    at('energy').textContent = `F = ${s.now.energy.toPrecision(3)}`;
    const each = shares(), inside = each.reduce((sum, share) => sum + share, 0);
    at('inside').textContent = `${Math.round(100 * inside)} % in modes`;
    Object.assign(root.dataset, {steps: s.steps, frames: s.frames, energy: s.now.energy, running: s.running, shares: each.join(' ')});
  }

  function draw() {
    drawView();
    if (s.frames % 6 === 0 || !s.running) {        // the eye follows the samples, not the curves
      drawEnergies();
      drawShares();
    }
    say();
  }

  let visible = true;
  function frame() {
    requestAnimationFrame(frame);
    if (!visible) return;
    if (s.running) step();
    const mapped = at('map').checked && (s.running || s.fresh > 0);
    if (mapped) mapRows(3);
    if (s.dirty) s.fresh = GRID / 3;               // frames until the map is that of the charges as they are
    else if (s.fresh > 0) s.fresh--;
    if (!s.dirty && !mapped) return;
    s.dirty = false;
    s.frames++;
    draw();
  }

  // --- hands -------------------------------------------------------------------------------------------------------
  function moveMode(k, u, v) {
    const [a, b] = s.modes[k], to = c => Math.max(-HALF, Math.min(HALF, c));
    const [du, dv] = [to(a + u) - a, to(b + v) - b];
    s.modes[k] = [a + du, b + dv];
    for (let i = k * s.each; i < (k + 1) * s.each; i++) {
      s.y[2 * i] += du;
      s.y[2 * i + 1] += dv;
    }
  }

  function point(event) {
    const box = view.getBoundingClientRect();
    return [((event.clientX - box.left) / box.width * 2 - 1) * HALF, (1 - (event.clientY - box.top) / box.height * 2) * HALF];
  }

  function nearest(points, [a, b]) {
    let best = 0, least = Infinity;
    for (let i = 0; i < points.length; i += 2) {
      const r = Math.hypot(points[i] - a, points[i + 1] - b);
      if (r < least) { best = i / 2; least = r; }
    }
    return [best, least];
  }

  view.addEventListener('pointerdown', event => {
    const p = point(event), [real, toReal] = nearest(s.y, p), [, toGenerated] = nearest(s.x, p), reach = .35;
    view.focus();
    if (Math.min(toReal, toGenerated) > 2 * reach) return;
    if (toReal <= toGenerated) {
      s.mode = Math.floor(real / s.each);
      s.held = {mode: s.mode, last: p};
    } else {                                       // the generated ones around the finger
      const taken = [];
      for (let i = 0; i < s.x.length; i += 2)
        if (Math.hypot(s.x[i] - p[0], s.x[i + 1] - p[1]) <= Math.max(reach, toGenerated)) taken.push(i);
      s.held = {taken, last: p};
    }
    view.setPointerCapture(event.pointerId);
  });
  view.addEventListener('pointermove', event => {
    if (!s.held) return;
    const p = point(event), [u, v] = [p[0] - s.held.last[0], p[1] - s.held.last[1]];
    s.held.last = p;
    if (s.held.taken) for (const i of s.held.taken) { s.x[i] += u; s.x[i + 1] += v; }
    else moveMode(s.held.mode, u, v);
    changed();
  });
  for (const name of ['pointerup', 'pointercancel']) view.addEventListener(name, () => { s.held = null; });

  function toggle() {
    s.running = !s.running;
    s.dirty = true;
  }
  const ARROWS = {ArrowLeft: [-.1, 0], ArrowRight: [.1, 0], ArrowUp: [0, .1], ArrowDown: [0, -.1]};
  view.addEventListener('keydown', event => {
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (ARROWS[key]) {
      moveMode(s.mode, ...ARROWS[key]);
      changed();
    } else if (key === 'n') s.mode = (s.mode + 1) % s.modes.length;
    else if (key === ' ') toggle();
    else if (key === 'r') restart();
    else return;
    s.dirty = true;
    event.preventDefault();
  });
  for (const name of ['focus', 'blur']) view.addEventListener(name, () => { s.dirty = true; });

  at('run').addEventListener('click', toggle);
  at('once').addEventListener('click', () => {
    s.running = false;
    for (let i = 0; i < (still ? 20 : 1); i++) step();
    s.dirty = true;
  });
  at('again').addEventListener('click', restart);
  at('preset').addEventListener('change', () => {
    at('n').value = PRESETS[at('preset').value].n;
    s.mode = 0;
    restart();
  });
  at('n').addEventListener('input', restart);
  for (const name of ['kernel', 'width', 'd']) at(name).addEventListener('input', () => {
    s.energies = [];                               // another kernel, another energy
    s.shares = [];
    changed();
  });
  at('map').addEventListener('change', () => { s.dirty = true; });

  new MutationObserver(readColours).observe(document.documentElement, {attributeFilter: ['data-theme']});
  matchMedia('(prefers-color-scheme: dark)').addEventListener('change', readColours);
  new ResizeObserver(() => { s.dirty = true; }).observe(view);
  new IntersectionObserver(([entry]) => { visible = entry.isIntersecting; }).observe(view);

  readColours();
  restart();
  mapRows(GRID);
  draw();
  requestAnimationFrame(frame);
})();
