// The landscapes of examples/trajectories.rs: formulas, starts, ranges and rates.

export const LANDSCAPES = [
    {
        name: 'Ravine, condition 100',
        f: ([x, y]) => 0.5 * (x * x + 100 * y * y),
        gradient: ([x, y]) => [x, 100 * y],
        start: [-4, 0.8],
        x: [-5, 1.5],
        y: [-1.2, 1.2],
        minima: [[0, 0]],
        lr: 0.0185,
        adaptiveLr: 0.15,
    },
    {
        name: 'Beale',
        f: ([x, y]) => (1.5 - x + x * y) ** 2 + (2.25 - x + x * y * y) ** 2 + (2.625 - x + x * y * y * y) ** 2,
        gradient: ([x, y]) => {
            const [a, b, c] = [1.5 - x + x * y, 2.25 - x + x * y * y, 2.625 - x + x * y * y * y];
            const dx = 2 * (a * (y - 1) + b * (y * y - 1) + c * (y * y * y - 1));
            return [dx, 2 * x * (a + 2 * b * y + 3 * c * y * y)];
        },
        start: [0.7, 1.4],
        x: [-0.5, 4],
        y: [-1.2, 1.8],
        minima: [[3, 0.5]],
        lr: 0.01,
        adaptiveLr: 0.1,
    },
    {
        name: 'Rosenbrock',
        f: ([x, y]) => (1 - x) ** 2 + 100 * (y - x * x) ** 2,
        gradient: ([x, y]) => {
            const fall = y - x * x;
            return [-2 * (1 - x) - 400 * x * fall, 200 * fall];
        },
        start: [-1.2, 1],
        x: [-1.8, 1.6],
        y: [-0.6, 2],
        minima: [[1, 1]],
        lr: 0.0012,
        adaptiveLr: 0.08,
    },
    {
        name: 'Saddle, x² − y²',
        f: ([x, y]) => x * x - y * y,
        gradient: ([x, y]) => [2 * x, -2 * y],
        start: [-1.5, 0.001],
        x: [-1.8, 0.8],
        y: [-1.4, 1.4],
        minima: [],
        lr: 0.02,
        adaptiveLr: 0.03,
    },
    {
        name: 'Himmelblau',
        f: ([x, y]) => (x * x + y - 11) ** 2 + (x + y * y - 7) ** 2,
        gradient: ([x, y]) => {
            const [a, b] = [x * x + y - 11, x + y * y - 7];
            return [4 * x * a + 2 * b, 2 * a + 4 * y * b];
        },
        start: [-0.4, -0.6],
        x: [-5, 5],
        y: [-5, 5],
        minima: [[3, 2], [-2.805118, 3.131312], [-3.77931, -3.283186], [3.584428, -1.848126]],
        lr: 0.01,
        adaptiveLr: 0.15,
    },
];

// A rate that suits the rule: near the largest that does not diverge for SGD; for rules that divide by the size of the
// gradient, about a thirtieth of the way.
export function rate({ lr, adaptiveLr }, rule) {
    if (rule === 'sgd') return lr;
    // Its buffer is a tenth of that of the momentum below, and so it walks the same way.
    if (rule.endsWith('-ema')) return 2 * lr;
    if (rule.startsWith('momentum') || rule.startsWith('nesterov')) return lr / 5;
    // Its steps shrink with the root of the sum of all squared norms.
    if (rule.startsWith('adagrad-norm')) return 20 * adaptiveLr;
    if (rule.startsWith('adagrad')) return 4 * adaptiveLr;
    // AdaDelta has no rate of its own, and starts from √ε.
    if (rule === 'adadelta') return 60 * adaptiveLr;
    // Its first step is ten times the rate.
    if (rule.startsWith('rmsprop')) return adaptiveLr / 4;
    // Each step has the full length of the rate, however small the gradient.
    if (rule === 'lion') return adaptiveLr / 5;
    // Times the trust coefficient, 0.001, and the norm of the parameters.
    if (rule.startsWith('lars')) return 100 * adaptiveLr;
    return adaptiveLr;
}

// Values from the lowest to the highest in the picture, closer where it is low.
export function levels({ f, x, y }) {
    const n = 40;
    let [low, high] = [Infinity, -Infinity];
    for (let i = 0; i <= n; i++) {
        for (let j = 0; j <= n; j++) {
            const value = f([x[0] + (x[1] - x[0]) * i / n, y[0] + (y[1] - y[0]) * j / n]);
            [low, high] = [Math.min(low, value), Math.max(high, value)];
        }
    }
    return Array.from({ length: 13 }, (_, k) => low + (high - low) * ((k + 1) / 14) ** 3);
}

// Segments of the lines on which f has this value, on a grid of n × n cells: marching squares.
export function contour({ f, x, y }, level, n) {
    const segments = [];
    const grid = Array.from({ length: n + 1 }, (_, i) => {
        const at = x[0] + (x[1] - x[0]) * i / n;
        return Array.from({ length: n + 1 }, (_, j) => {
            const point = [at, y[0] + (y[1] - y[0]) * j / n];
            return { point, above: f(point) - level };
        });
    });
    for (let i = 0; i < n; i++) {
        for (let j = 0; j < n; j++) {
            const corners = [grid[i][j], grid[i + 1][j], grid[i + 1][j + 1], grid[i][j + 1]];
            const crossings = [];
            corners.forEach((a, k) => {
                const b = corners[(k + 1) % 4];
                if ((a.above < 0) === (b.above < 0)) return;
                const t = a.above / (a.above - b.above);
                crossings.push([0, 1].map((axis) => a.point[axis] + t * (b.point[axis] - a.point[axis])));
            });
            for (let k = 0; k + 1 < crossings.length; k += 2) segments.push([crossings[k], crossings[k + 1]]);
        }
    }
    return segments;
}
