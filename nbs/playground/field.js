// The field of 2-D charges, as coulomb_gan.field.potential and coulomb_gan.objectives.drifting define it.
// Points are flat arrays [a1, a2, a1, a2, ...]; x generated, y real. A test compares every force with the package's.
(() => {
  const slope = new Float64Array(1);                                 // f'(r^2), left behind by `value`

  // u^(-d/2); where 4d is an integer by square roots, which take a fourth of the time
  function power(u, d) {
    const k = 4 * d;
    if (k % 1 || k > 31) return Math.pow(u, -d / 2);
    const half = Math.sqrt(u), quarter = Math.sqrt(half);
    let product = 1;
    if (k & 16) product *= u * u;
    if (k & 8) product *= u;
    if (k & 4) product *= half;
    if (k & 2) product *= quarter;
    if (k & 1) product *= Math.sqrt(quarter);
    return 1 / product;
  }

  // f(r^2) of a kernel {name, d, width}: width is eps for the Plummer kernel and sigma for the others
  function value(kernel, r2) {
    const w = kernel.width;
    if (kernel.name === 'gaussian') {
      const f = Math.exp(-r2 / (2 * w * w));
      slope[0] = -f / (2 * w * w);
      return f;
    }
    if (kernel.name === 'laplace') {
      const r = Math.sqrt(r2), f = Math.exp(-r / w);
      slope[0] = r > 0 ? -f / (2 * w * r) : 0;
      return f;
    }
    const u = r2 + w * w;
    const f = power(u, kernel.d);
    slope[0] = -kernel.d / 2 * f / u;
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
        p += 2 * slope[0] * u;
        q += 2 * slope[0] * v;
      }
      force[2 * i] += p / m;
      force[2 * i + 1] += q / m;
      for (let j = i + 1; j < n; j++) {            // generated samples repel each other
        const u = a - x[2 * j], v = b - x[2 * j + 1];
        withinX += value(kernel, u * u + v * v);
        const s = 2 * slope[0] / n;
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
    const n = x.length / 2, m = y.length / 2, all = m + n, targets = new Float64Array(2 * all);
    targets.set(y);
    targets.set(x, 2 * m);
    const near = new Float64Array(n * all), rows = new Float64Array(n), columns = new Float64Array(all);
    for (let i = 0; i < n; i++) {
      for (let j = 0; j < all; j++) {
        if (j === m + i) continue;                 // a sample is no target of its own
        const u = x[2 * i] - targets[2 * j], v = x[2 * i + 1] - targets[2 * j + 1];
        const w = Math.exp(-Math.sqrt(u * u + v * v) / width);
        near[i * all + j] = w;
        rows[i] += w;
        columns[j] += w;
      }
    }
    const force = new Float64Array(x.length), inverse = columns.map(c => c > 0 ? 1 / Math.sqrt(c) : 0);
    function pull(i, from, to) {                   // sums of the affinities to some targets, and of where they lead
      let total = 0, p = 0, q = 0;
      for (let j = from; j < to; j++) {
        const a = near[i * all + j] * inverse[j];
        total += a;
        p += a * (targets[2 * j] - x[2 * i]);
        q += a * (targets[2 * j + 1] - x[2 * i + 1]);
      }
      return [total, p, q];
    }
    for (let i = 0; i < n; i++) {
      const real = pull(i, 0, m), generated = pull(i, m, all);
      if (rows[i] === 0) continue;
      force[2 * i] = (generated[0] * real[1] - real[0] * generated[1]) / rows[i];
      force[2 * i + 1] = (generated[0] * real[2] - real[0] * generated[2]) / rows[i];
    }
    return force;
  }

  globalThis.Field = {field, meanShift, meanWithin, potential};
})();
