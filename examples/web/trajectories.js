// The part "Trajectories": rules walk down a landscape, each step by Optimizer.cpu.

import { css, sharp } from './canvas.js';
import { LANDSCAPES, contour, levels, rate } from './landscapes.js';
import { RuleTable, colour, short } from './rules.js';

const DEFAULTS = ['sgd', 'momentum', 'adagrad', 'rmsprop', 'adam', 'lion'];
// An animation takes this long, in milliseconds; its first steps are the slowest.
const DURATION = 5000;
const FAR = 1e6;

// The colour between two `#rrggbb`, as four bytes of image data.
function mix(from, to, t) {
    const part = (text, k) => parseInt(text.slice(2 * k + 1, 2 * k + 3), 16);
    const bytes = [0, 1, 2].map((k) => Math.round(part(from, k) + t * (part(to, k) - part(from, k))));
    return new Uint32Array(Uint8Array.of(...bytes, 255).buffer)[0];
}

// Bands between the levels, and the lines between the bands. Drawn once for each size and colour scheme.
function background(landscape, width, height, scale) {
    const image = new OffscreenCanvas(Math.round(width * scale), Math.round(height * scale));
    const context = image.getContext('2d');
    const { width: w, height: h } = image;
    const picture = context.createImageData(w, h);
    const pixels = new Uint32Array(picture.data.buffer);
    const at = levels(landscape);
    const bands = Array.from({ length: at.length + 1 }, (_, k) => mix(css('--valley'), css('--peak'), k / at.length));
    const [x, y] = [landscape.x, landscape.y];
    for (let j = 0; j < h; j++) {
        for (let i = 0; i < w; i++) {
            const value = landscape.f([x[0] + (x[1] - x[0]) * i / w, y[1] - (y[1] - y[0]) * j / h]);
            let band = 0;
            while (band < at.length && value >= at[band]) band++;
            pixels[j * w + i] = bands[band];
        }
    }
    context.putImageData(picture, 0, 0);
    context.strokeStyle = css('--contour');
    context.lineWidth = scale;
    context.beginPath();
    for (const level of at) {
        for (const ends of contour(landscape, level, 96)) {
            const [from, to] = ends.map((p) => [(p[0] - x[0]) / (x[1] - x[0]) * w, (y[1] - p[1]) / (y[1] - y[0]) * h]);
            context.moveTo(...from);
            context.lineTo(...to);
        }
    }
    context.stroke();
    return image;
}

// One rule on its way.
class Walker {
    static async make(Optimizer, { rule, lr }, landscape, start) {
        const walker = new Walker();
        Object.assign(walker, { rule, landscape, path: [start], diverged: false });
        walker.optimizer = await Optimizer.cpu({ rule, lr });
        walker.optimizer.add('x', Float32Array.from(start));
        return walker;
    }

    get at() {
        return this.path[this.path.length - 1];
    }

    async step() {
        this.optimizer.writeGradient('x', Float32Array.from(this.landscape.gradient(this.at)));
        this.optimizer.step();
        const at = [...await this.optimizer.read('x')];
        if (at.every((x) => Math.abs(x) < FAR)) this.path.push(at);
        else this.diverged = true;
    }
}

export function trajectories(Optimizer) {
    const get = (id) => document.getElementById(id);
    const [picture, pause, error, status] = ['picture', 'walk-pause', 'walk-error', 'walk-status'].map(get);
    let landscape = LANDSCAPES[0];
    let start = landscape.start;
    let walkers = [];
    let lit = null;
    // Of the walk that goes on; a new one puts its own in place, so that the old one ends.
    let walk = { begun: false };
    let cached = {};

    const table = new RuleTable(get('walk-rules'), {
        names: Optimizer.rules().map(({ name }) => name),
        chosen: DEFAULTS,
        columns: ['f', 'Steps'],
        rate: (rule) => rate(landscape, rule),
        changed: () => begin(),
        lit: (rule) => {
            lit = rule;
            redraw();
        },
    });

    const redraw = sharp(picture, (context, width, height) => {
        const [x, y] = [landscape.x, landscape.y];
        const place = (p) => [(p[0] - x[0]) / (x[1] - x[0]) * width, (y[1] - p[1]) / (y[1] - y[0]) * height];
        const key = [landscape.name, picture.width, picture.height, css('--valley')].join();
        if (cached.key !== key) cached = { key, image: background(landscape, width, height, picture.width / width) };
        context.drawImage(cached.image, 0, 0, width, height);
        context.lineJoin = 'round';
        // The one that is pointed at comes last, on top of the others.
        const sorted = [...walkers].sort((a, b) => (a.rule === lit) - (b.rule === lit));
        for (const { rule, path } of sorted) {
            context.globalAlpha = lit && rule !== lit && walkers.some((walker) => walker.rule === lit) ? 0.25 : 1;
            context.strokeStyle = context.fillStyle = colour(rule);
            context.lineWidth = rule === lit ? 3 : 2;
            context.beginPath();
            path.forEach((p) => context.lineTo(...place(p)));
            context.stroke();
            context.beginPath();
            context.arc(...place(path[path.length - 1]), 4, 0, 2 * Math.PI);
            context.fill();
        }
        context.globalAlpha = 1;
        context.strokeStyle = css('--ink');
        context.lineWidth = 1.5;
        for (const minimum of landscape.minima) {
            const [cx, cy] = place(minimum);
            context.beginPath();
            for (const side of [-1, 1]) {
                context.moveTo(cx - 5, cy - 5 * side);
                context.lineTo(cx + 5, cy + 5 * side);
            }
            context.stroke();
        }
        context.beginPath();
        context.arc(...place(start), 6, 0, 2 * Math.PI);
        context.fillStyle = css('--paper');
        context.fill();
        context.strokeStyle = css('--ink');
        context.lineWidth = 2;
        context.stroke();
    });

    function fail(problem) {
        error.textContent = problem?.message ?? String(problem);
        error.hidden = false;
        pause.disabled = true;
    }

    function show() {
        for (const { rule, path, at, diverged } of walkers) {
            table.show(rule, diverged ? 'diverged' : short(landscape.f(at)), String(path.length - 1));
        }
        redraw();
    }

    async function begin() {
        walk.over = true;
        const own = walk = { begun: true, over: false, paused: false };
        error.hidden = true;
        table.clear();
        walkers = [];
        let made = [];
        pause.textContent = 'Pause';
        try {
            const steps = Number(get('steps').value);
            if (!Number.isInteger(steps) || steps < 1 || steps > 10000) throw new Error('Steps: from 1 to 10,000.');
            made = await Promise.all(table.chosen().map((of) => Walker.make(Optimizer, of, landscape, start)));
            if (own.over) return;
            walkers = made;
            pause.disabled = false;
            await animate(own, steps);
            if (own.over) return;
            pause.disabled = true;
            const ends = walkers.map(({ rule, at, diverged }) => (
                `${rule} ${diverged ? 'diverged' : short(landscape.f(at))}`
            ));
            status.textContent = `After ${steps} steps on ${landscape.name}, f: ${ends.join(', ')}.`;
        } catch (problem) {
            if (!own.over) fail(problem);
        } finally {
            made.forEach(({ optimizer }) => optimizer.destroy());
        }
    }

    async function animate(own, steps) {
        const still = matchMedia('(prefers-reduced-motion: reduce)').matches;
        let [taken, elapsed, before] = [0, 0, performance.now()];
        while (taken < steps) {
            await new Promise(requestAnimationFrame);
            if (own.over) return;
            const now = performance.now();
            // A tab in the background has no frames: go on from where it was left.
            if (!own.paused) elapsed += Math.min(now - before, 100);
            before = now;
            const part = still ? 1 : Math.min(1, elapsed / DURATION);
            const upto = Math.ceil(steps * part * part);
            while (taken < upto && !own.over && performance.now() - now < 30) {
                for (const walker of walkers) if (!walker.diverged) await walker.step();
                taken++;
            }
            if (!own.over) show();
        }
    }

    function move(to) {
        start = to.map((value, axis) => {
            const [low, high] = axis === 0 ? landscape.x : landscape.y;
            return Math.min(Math.max(value, low), high);
        });
        label();
        redraw();
    }

    function label() {
        const [x, y] = start.map((value) => short(value));
        picture.ariaLabel = `${landscape.name}. The start is at x = ${x}, y = ${y}.`;
    }

    get('landscape').append(...LANDSCAPES.map(({ name }) => new Option(name)));
    get('landscape').addEventListener('change', ({ target }) => {
        landscape = LANDSCAPES[target.selectedIndex];
        table.resetRates();
        move(landscape.start);
        begin();
    });
    get('walk').addEventListener('click', begin);
    table.body.addEventListener('change', ({ target }) => {
        if (target.inputMode === 'decimal') begin();
    });
    pause.addEventListener('click', () => {
        walk.paused = !walk.paused;
        pause.textContent = walk.paused ? 'Continue' : 'Pause';
    });
    picture.addEventListener('click', ({ offsetX, offsetY }) => {
        const [x, y] = [landscape.x, landscape.y];
        const [right, down] = [offsetX / picture.clientWidth, offsetY / picture.clientHeight];
        move([x[0] + (x[1] - x[0]) * right, y[1] - (y[1] - y[0]) * down]);
        begin();
    });
    picture.addEventListener('keydown', (event) => {
        const arrows = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };
        const arrow = arrows[event.key];
        if (arrow) {
            const part = event.shiftKey ? 200 : 40;
            move(start.map((value, axis) => {
                const [low, high] = axis === 0 ? landscape.x : landscape.y;
                return value + arrow[axis] * (high - low) / part;
            }));
        } else if (event.key === 'Enter' || event.key === ' ') {
            begin();
        } else {
            return;
        }
        event.preventDefault();
    });
    label();
    redraw();
    // The first walk starts when the picture comes into view, unless that would be motion that nobody asked for.
    const seen = new IntersectionObserver(([{ isIntersecting }]) => {
        if (!isIntersecting) return;
        seen.disconnect();
        if (!walk.begun) begin();
    }, { threshold: 0.5 });
    if (!matchMedia('(prefers-reduced-motion: reduce)').matches) seen.observe(picture);
}
