// Options as JSON. What JSON would lose is an error: NaN and ∞ would become null, functions nothing.
// `maxNorm: Infinity` is a limit that clips nothing.
export function optionsText(options) {
    const text = JSON.stringify(options, (key, x) => {
        if (key === 'maxNorm' && x === Infinity) return 'inf';
        if (typeof x === 'number' && !Number.isFinite(x)) throw new TypeError(`${key} = ${x} is not finite`);
        if (['bigint', 'function', 'symbol'].includes(typeof x)) throw new TypeError(`${key} is a ${typeof x}`);
        return x;
    });
    return text ?? 'null';
}
