// Rules: their colours, and the table in which one chooses them, sets their rates and sees what they reach.

import { isDark } from './canvas.js';

// Hue, saturation, lightness on paper: those of the pictures in examples/plot.
const COLOURS = {
    'sgd': [0, 0, 45],
    'momentum': [208, 72, 40],
    'nesterov': [186, 80, 38],
    'adagrad': [120, 58, 34],
    'adagrad-norm': [158, 70, 24],
    'rmsprop': [28, 95, 46],
    'adadelta': [60, 65, 33],
    'adam': [360, 70, 48],
    'amsgrad': [271, 42, 55],
    'adamax': [318, 58, 54],
    'nadam': [12, 32, 40],
    'lamb': [238, 48, 48],
    'lion': [42, 92, 38],
    'lars': [220, 30, 30],
};

export function colour(rule) {
    const hash = [...rule].reduce((sum, letter) => (31 * sum + letter.charCodeAt(0)) % 65521, 7);
    const [hue, saturation, lightness] = COLOURS[rule] ?? [hash * 137 % 360, 45 + hash % 30, 36 + hash % 14];
    return `hsl(${hue} ${saturation}% ${isDark() ? Math.min(lightness + 22, 74) : lightness}%)`;
}

// Four digits and no trailing zeros: 0.0037, 4.5e-13.
export function short(value, digits = 3) {
    if (!Number.isFinite(value)) return String(value);
    const size = Math.abs(value);
    return size !== 0 && (size < 1e-3 || size >= 1e5)
        ? value.toExponential(1).replace('.0e', 'e').replace('e+', 'e')
        : String(Number(value.toPrecision(digits)));
}

function element(name, properties = {}, children = []) {
    const made = Object.assign(document.createElement(name), properties);
    made.append(...children);
    return made;
}

export class RuleTable {
    // `columns`: the titles of what is shown behind the rate. `rate(rule)`: the default. `changed()`: a rule was chosen
    // or dropped. `lit(rule or null)`: the one that the visitor points at.
    constructor(root, { names, chosen, columns, rate, lit, changed = () => {} }) {
        Object.assign(this, { columns, rate, changed, lit });
        this.rows = new Map();
        const titles = ['Rule', 'Rate'].map((title) => element('th', { scope: 'col', textContent: title }));
        const number = (title) => element('th', { scope: 'col', textContent: title, className: 'number' });
        titles.push(...columns.map(number));
        this.body = element('tbody');
        this.select = element('select', { ariaLabel: 'Rule to add' });
        const add = element('button', { type: 'button', textContent: 'Add' });
        root.append(
            element('table', { className: 'rules' }, [element('thead', {}, [element('tr', {}, titles)]), this.body]),
            element('div', { className: 'add' }, [this.select, add]),
        );
        this.select.append(...names.map((name) => element('option', { textContent: name, value: name })));
        chosen.filter((name) => names.includes(name)).forEach((name) => this.add(name));
        add.addEventListener('click', () => {
            this.add(this.select.value);
            add.disabled = this.select.options.length === 0;
            this.changed();
        });
        matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => this.mark());
    }

    add(rule) {
        if (this.rows.has(rule)) return;
        const box = element('input', { type: 'checkbox', checked: true });
        const swatch = element('span', { className: 'swatch' });
        // Not of the type number: its arrows would step by 1.
        const lr = element('input', { type: 'text', inputMode: 'decimal', value: short(this.rate(rule)) });
        lr.ariaLabel = `Learning rate of ${rule}`;
        const cells = this.columns.map(() => element('td', { className: 'number' }));
        const chip = element('label', { className: 'chip' }, [box, swatch, element('span', { textContent: rule })]);
        const row = element('tr', {}, [
            element('th', { scope: 'row' }, [chip]), element('td', {}, [lr]), ...cells,
        ]);
        box.addEventListener('change', () => {
            this.mark();
            this.changed();
        });
        row.addEventListener('pointerenter', () => this.lit(box.checked ? rule : null));
        row.addEventListener('pointerleave', () => this.lit(null));
        row.addEventListener('focusin', () => this.lit(box.checked ? rule : null));
        row.addEventListener('focusout', () => this.lit(null));
        this.body.append(row);
        [...this.select.options].find(({ value }) => value === rule)?.remove();
        this.rows.set(rule, { row, box, lr, cells, swatch });
        this.mark();
    }

    mark() {
        for (const [rule, { row, box, swatch }] of this.rows) {
            row.className = box.checked ? '' : 'off';
            swatch.style.setProperty('--colour', colour(rule));
        }
    }

    // Back to the default rates, which differ between landscapes.
    resetRates() {
        for (const [rule, { lr }] of this.rows) lr.value = short(this.rate(rule));
    }

    // What is chosen: [{ rule, lr }].
    chosen() {
        const rows = [...this.rows].filter(([, { box }]) => box.checked);
        return rows.map(([rule, { lr }]) => {
            const rate = Number(lr.value);
            if (lr.value.trim() === '' || !(rate >= 0 && rate < Infinity)) {
                throw new Error(`The rate of ${rule} must be a number of at least 0.`);
            }
            return { rule, lr: rate };
        });
    }

    show(rule, ...texts) {
        texts.forEach((text, k) => this.rows.get(rule).cells[k].textContent = text);
    }

    clear() {
        for (const { cells } of this.rows.values()) cells.forEach((cell) => cell.textContent = '');
    }
}
