// From a decoded image to the square of pixels that the model sees, as src/data/image does it:
// bicubic with a = -0.5 or bilinear, widened when the image shrinks, rows before columns, with
// rounding to 8 bits between.
"use strict";

// Pixels that are read from the browser at a time: an image may be larger than its canvas can be.
const BAND_PIXELS = 1 << 22;

// Returns the rectangle of the image that the square shows, in the image's pixels.
function visibleFrame(width, height, preprocess) {
    const { resize, image_size: size } = preprocess;
    if (resize === "squash") return { left: 0, top: 0, width, height };
    if (resize === "pad") {
        const side = Math.max(width, height);
        return { left: (width - side) / 2, top: (height - side) / 2, width: side, height: side };
    }
    const short = preprocess.short_side, shorter = Math.min(width, height);
    const resized = side => (side === shorter ? short : Math.floor(side * (short / shorter)));
    const place = side => {
        const pixel = side / Math.max(resized(side), 1);
        return [roundHalfEven((resized(side) - size) / 2) * pixel, size * pixel];
    };
    const [left, across] = place(width), [top, down] = place(height);
    return { left, top, width: across, height: down };
}

function roundHalfEven(value) {
    const rounded = Math.round(value);
    return rounded - value === 0.5 && rounded % 2 !== 0 ? rounded - 1 : rounded;
}

// Clips an interval to an image's side, and returns where in the square its pixels are.
function visibleInterval(start, length, limit, size) {
    const clamp = (value, low, high) => Math.min(Math.max(value, low), high);
    const from = clamp(start, 0, Math.max(limit - 1, 0));
    const to = clamp(start + length, Math.min(from + 1, limit), limit);
    const pixel = value => Math.round((value - start) / length * size);
    const first = clamp(pixel(from), 0, size - 1);
    const last = clamp(pixel(to), first + 1, size);
    return { from, length: to - from, first, count: last - first };
}

function bicubic(x) {
    const t = Math.abs(x);
    if (t < 1) return (1.5 * t - 2.5) * t * t + 1;
    return t < 2 ? ((-0.5 * t + 2.5) * t - 4) * t + 2 : 0;
}

function bilinear(x) {
    return Math.max(1 - Math.abs(x), 0);
}

// Returns for each of `count` output pixels its first input pixel and the weights from there on.
function filterWeights({ from, length, count }, limit, interpolation) {
    const [filter, support] = interpolation === "bicubic" ? [bicubic, 2] : [bilinear, 1];
    const scale = length / count, stretch = Math.max(scale, 1);
    return Array.from({ length: count }, (_, pixel) => {
        const center = from + (pixel + 0.5) * scale;
        const first = Math.max(Math.floor(center - support * stretch), 0);
        const last = Math.min(Math.ceil(center + support * stretch), limit);
        const weights = new Float64Array(last - first);
        for (let at = first; at < last; at++) weights[at - first] = filter((at + 0.5 - center) / stretch);
        const sum = weights.reduce((total, weight) => total + weight, 0);
        return { first, weights: weights.map(weight => weight / sum) };
    });
}

// Rounds a half up: the array would round it to even. The array clamps.
function rounded(level) {
    return Math.floor(level + 0.5 + 1e-6);
}

// Resamples a bitmap to (size, size, 3) bytes.
function resample(bitmap, preprocess) {
    const { image_size: size, interpolation, background } = preprocess;
    const frame = visibleFrame(bitmap.width, bitmap.height, preprocess);
    const across = visibleInterval(frame.left, frame.width, bitmap.width, size);
    const down = visibleInterval(frame.top, frame.height, bitmap.height, size);
    const columns = filterWeights(across, bitmap.width, interpolation);
    const rows = filterWeights(down, bitmap.height, interpolation);
    const top = Math.min(...rows.map(row => row.first));
    const bottom = Math.max(...rows.map(row => row.first + row.weights.length));
    const narrowed = new Uint8ClampedArray((bottom - top) * across.count * 3);
    const band = Math.max(Math.floor(BAND_PIXELS / bitmap.width), 1);
    for (let start = top; start < bottom; start += band) {
        const height = Math.min(band, bottom - start);
        const pixels = readRows(bitmap, start, height, background);
        narrow(pixels, bitmap.width, height, columns, narrowed, (start - top) * across.count * 3);
    }
    const square = new Uint8ClampedArray(size * size * 3);
    for (let at = 0; at < square.length; at++) square[at] = background[at % 3];
    const row = across.count * 3;
    rows.forEach(({ first, weights }, y) => {
        const to = ((down.first + y) * size + across.first) * 3;
        for (let x = 0; x < row; x++) {
            let sum = 0;
            for (let k = 0; k < weights.length; k++) sum += weights[k] * narrowed[(first - top + k) * row + x];
            square[to + x] = rounded(sum);
        }
    });
    return new Uint8Array(square.buffer);
}

// Resamples the rows of RGBA pixels, to RGB.
function narrow(pixels, width, height, columns, out, offset) {
    for (let y = 0, to = offset; y < height; y++) {
        for (const { first, weights } of columns) {
            let red = 0, green = 0, blue = 0;
            for (let k = 0, at = (y * width + first) * 4; k < weights.length; k++, at += 4) {
                red += weights[k] * pixels[at];
                green += weights[k] * pixels[at + 1];
                blue += weights[k] * pixels[at + 2];
            }
            out[to++] = rounded(red);
            out[to++] = rounded(green);
            out[to++] = rounded(blue);
        }
    }
}

// Returns rows of a bitmap over a background, as RGBA.
function readRows(bitmap, top, height, background) {
    const canvas = document.createElement("canvas");
    canvas.width = bitmap.width;
    canvas.height = height;
    const context = canvas.getContext("2d", { willReadFrequently: true });
    if (!context) throw new Error("the browser has no memory for it");
    context.fillStyle = `rgb(${background.join()})`;
    context.fillRect(0, 0, canvas.width, height);
    context.drawImage(bitmap, 0, -top);
    return context.getImageData(0, 0, canvas.width, height).data;
}
