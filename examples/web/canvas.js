// Canvases that are sharp on every screen and follow the colour scheme.

const dark = matchMedia('(prefers-color-scheme: dark)');

export function isDark() {
    return dark.matches;
}

// A custom property of style.css.
export function css(name) {
    return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

// Calls draw(context, width, height), in CSS pixels, at once and when the size or the colours change. Returns a
// function that asks for one more drawing with the next frame.
export function sharp(canvas, draw) {
    const context = canvas.getContext('2d');
    let asked = false;
    const now = () => {
        asked = false;
        const { clientWidth: width, clientHeight: height } = canvas;
        if (width === 0 || height === 0) return;
        const scale = devicePixelRatio;
        const [w, h] = [Math.round(width * scale), Math.round(height * scale)];
        // Setting a size clears the canvas, even to the same one.
        if (canvas.width !== w || canvas.height !== h) [canvas.width, canvas.height] = [w, h];
        context.setTransform(scale, 0, 0, scale, 0, 0);
        context.clearRect(0, 0, width, height);
        draw(context, width, height);
    };
    const redraw = () => {
        if (asked) return;
        asked = true;
        requestAnimationFrame(now);
    };
    new ResizeObserver(redraw).observe(canvas);
    dark.addEventListener('change', redraw);
    // Zooming or moving to another screen changes the ratio, which a query for one ratio tells once.
    const ratio = () => {
        redraw();
        matchMedia(`(resolution: ${devicePixelRatio}dppx)`).addEventListener('change', ratio, { once: true });
    };
    ratio();
    return redraw;
}

// A chart of lines over [0, xMax]. `place` maps a value to 0 (bottom) … 1 (top); ticks are [value, label].
export function chart(canvas, state) {
    return sharp(canvas, (context, width, height) => {
        const { series, xMax, place, ticks } = state();
        const [left, right, top, bottom] = [44, width - 10, 8, height - 26];
        const x = (at) => left + (right - left) * at / xMax;
        const y = (value) => bottom - (bottom - top) * place(value);
        context.font = `12px ${css('--sans')}`;
        context.lineWidth = 1;
        context.strokeStyle = css('--line');
        context.fillStyle = css('--quiet');
        context.textBaseline = 'middle';
        context.textAlign = 'right';
        for (const [value, label] of ticks) {
            const at = Math.round(y(value)) + 0.5;
            context.beginPath();
            context.moveTo(left, at);
            context.lineTo(right, at);
            context.stroke();
            context.fillText(label, left - 8, at);
        }
        context.textBaseline = 'top';
        const every = Math.ceil(xMax / 8);
        for (let epoch = 0; epoch <= xMax; epoch += every) {
            // The first and the last label stay inside of the axis.
            context.textAlign = epoch === 0 ? 'left' : epoch === xMax ? 'right' : 'center';
            context.fillText(epoch === 0 ? 'epoch 0' : String(epoch), x(epoch), bottom + 8);
        }
        context.save();
        context.beginPath();
        context.rect(left, top - 4, right - left + 8, bottom - top + 8);
        context.clip();
        context.lineJoin = 'round';
        for (const { colour, points, faint, strong } of series) {
            if (points.length === 0) continue;
            context.globalAlpha = faint ? 0.25 : 1;
            context.strokeStyle = context.fillStyle = colour;
            context.lineWidth = strong ? 3 : 2;
            context.beginPath();
            points.forEach(([at, value]) => context.lineTo(x(at), y(value)));
            context.stroke();
            const [at, value] = points[points.length - 1];
            context.beginPath();
            context.arc(x(at), y(value), strong ? 4 : 3, 0, 2 * Math.PI);
            context.fill();
        }
        context.restore();
    });
}
