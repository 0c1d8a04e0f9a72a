// Scores images: npm install onnxruntime-web sharp; node predict.mjs IMAGE...
import { readFile } from "node:fs/promises";
import * as ort from "onnxruntime-web";
import sharp from "sharp"; // reads the files; a browser has createImageBitmap and a canvas
const read = name => readFile(new URL(name, import.meta.url));
const how = JSON.parse(await read("preprocess.json"));
const session = await ort.InferenceSession.create(await read(how.model));
const size = how.image_size;
// By axis: the first pixel that is shown, how many are, where they begin in the square, and how many become of them.
FRAME
const cubic = x => x < 1 ? (1.5 * x - 2.5) * x * x + 1 : x < 2 ? ((2.5 - 0.5 * x) * x - 4) * x + 2 : 0;
const [reach, kernel] = how.interpolation === "bicubic" ? [2, cubic] : [1, x => Math.max(0, 1 - x)];
// Resamples rows of pixels as Pillow does, and swaps the axes: a second call restores them.
function resample(pixels, length, [start, shown, border, count]) {
  const rows = pixels.length / length / 3, scale = Math.max(shown / count, 1);
  const out = Uint8ClampedArray.from({ length: rows * size * 3 }, (_, i) => how.background[i % 3]);
  for (let at = 0; at < count; at++) {
    const center = start + (at + 0.5) * shown / count;
    const [from, to] = [center - reach * scale, center + reach * scale].map(x => Math.floor(x + 0.5));
    const first = Math.max(from, 0), taps = Math.min(to, length) - first;
    const weights = Array.from({ length: taps }, (_, k) => kernel(Math.abs(first + k + 0.5 - center) / scale));
    const total = weights.reduce((a, b) => a + b);
    for (let i = 0; i < rows * 3; i++) { // i % 3 is the color
      const source = (Math.floor(i / 3) * length + first) * 3 + i % 3;
      out[(border + at) * rows * 3 + i] = weights.reduce((sum, w, k) => sum + w * pixels[source + 3 * k], 0) / total;
    }
  }
  return out;
}
for (const path of process.argv.slice(2)) {
  const opaque = sharp(path).rotate().flatten({ background: "rgb(" + how.background + ")" }).toColorspace("srgb");
  const { data, info: { width, height } } = await opaque.raw().toBuffer({ resolveWithObject: true });
  const frames = [width, height].map(side => frame(side, Math.min(width, height), Math.max(width, height)));
  const square = Uint8Array.from(resample(resample(data, width, frames[0]), height, frames[1]));
  const { score } = await session.run({ images: new ort.Tensor(PIXELS) });
  console.log(path + "\t" + score.data[0].toFixed(4));
}
