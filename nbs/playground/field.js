// The field of 2-D charges, as coulomb_gan.field.potential and coulomb_gan.objectives.drifting define it.
// Points are flat arrays [a1, a2, a1, a2, ...]; x generated, y real. A test compares every force with the package's.
(() => {
  let slope = 0;                                   // f'(r^2), left behind by `value`

  // f(r^2) of a kernel {name, d, width}: width is eps for the Plummer kernel and sigma for the others
  function value(kernel, r2) {
    const w = kernel.width;
    if (kernel.name === 'gaussian') {
      const f = Math.exp(-r2 / (2 * w * w));
      slope = -f / (2 * w * w);
      return f;
    }
    if (kernel.name === 'laplace') {
      const r = Math.sqrt(r2), f = Math.exp(-r / w);
      slope = r > 0 ? -f / (2 * w * r) : 0;
      return f;
    }
    const u = r2 + w * w;
    const f = kernel.d === 1 ? 1 / Math.sqrt(u) : Math.pow(u, -kernel.d / 2);
    slope = -kernel.d / 2 * f / u;
    return f;
  }

  // Mean of k over all pairs of one cloud, those of a sample with itself included
  function meanWithin(c, kernel) {
    const n = c.length / 2;
    let sum = n * value(kernel, 0) / 2;
    for (let i = 0; i < n; i++) {
      for (let j = i + 1; j < n; j++) {
        const u = c[2 * i] - c[2 * j], v = c[2 * i + 1] - c[2 * j + 1];
        sum += value(kernel, u * u + v * v);
      }
    }
    return 2 * sum / (n * n);
  }

  // Potential mean k(a,y) - mean k(a,x) at points a
  function potential(a, x, y, kernel) {
    const phi = new Float64Array(a.length / 2);
    for (let i = 0; i < phi.length; i++) {
      for (const [c, sign] of [[y, 1], [x, -1]]) {
        let sum = 0;
        for (let j = 0; j < c.length; j += 2) {
          const u = a[2 * i] - c[j], v = a[2 * i + 1] - c[j + 1];
          sum += value(kernel, u * u + v * v);
        }
        phi[i] += sign * sum / (c.length / 2);
      }
    }
    return phi;
  }

  // Force on every generated sample, the slope of the potential there, and the energy F of the two clouds
  function field(x, y, kernel, withinY = meanWithin(y, kernel)) {
    const n = x.length / 2, m = y.length / 2, force = new Float64Array(x.length);
    let withinX = n * value(kernel, 0) / 2, across = 0;
    for (let i = 0; i < n; i++) {
      const a = x[2 * i], b = x[2 * i + 1];
      let p = 0, q = 0;
      for (let j = 0; j < m; j++) {                // real samples attract
        const u = a - y[2 * j], v = b - y[2 * j + 1];
        across += value(kernel, u * u + v * v);
        p += 2 * slope * u;
        q += 2 * slope * v;
      }
      force[2 * i] += p / m;
      force[2 * i + 1] += q / m;
      for (let j = i + 1; j < n; j++) {            // generated samples repel each other
        const u = a - x[2 * j], v = b - x[2 * j + 1];
        withinX += value(kernel, u * u + v * v);
        const s = 2 * slope / n;
        force[2 * i] -= s * u;
        force[2 * i + 1] -= s * v;
        force[2 * j] += s * u;
        force[2 * j + 1] += s * v;
      }
    }
    return {force, energy: withinX / (n * n) + withinY / 2 - across / (n * m)};
  }

  // The mean shift of drifting models: affinities normalised over targets and over samples
  function meanShift(x, y, width) {
    const n = x.length / 2, m = y.length / 2, all = m + n;
    const near = new Float64Array(n * all), rows = new Float64Array(n), columns = new Float64Array(all);
    const target = j => j < m ? [y[2 * j], y[2 * j + 1]] : [x[2 * (j - m)], x[2 * (j - m) + 1]];
    for (let j = 0; j < all; j++) {
      const [p, q] = target(j);
      for (let i = 0; i < n; i++) {
        if (j === m + i) continue;
        const w = Math.exp(-Math.hypot(x[2 * i] - p, x[2 * i + 1] - q) / width);
        near[i * all + j] = w;
        rows[i] += w;
        columns[j] += w;
      }
    }
    const force = new Float64Array(x.length);
    for (let i = 0; i < n; i++) {
      let real = 0, others = 0, ry = 0, sy = 0, rx = 0, sx = 0;
      for (let j = 0; j < all; j++) {
        const w = near[i * all + j];
        if (w === 0) continue;
        const a = w / Math.sqrt(rows[i] * columns[j]), [p, q] = target(j);
        if (j < m) { real += a; ry += a * (p - x[2 * i]); sy += a * (q - x[2 * i + 1]); }
        else { others += a; rx += a * (p - x[2 * i]); sx += a * (q - x[2 * i + 1]); }
      }
      force[2 * i] = others * ry - real * rx;
      force[2 * i + 1] = others * sy - real * sx;
    }
    return force;
  }

  globalThis.Field = {field, meanShift, meanWithin, potential};
})();
