// The page: photos in, scores out. RUN and MODEL come from model.js, ORT_GLUE and ORT_WASM from
// onnxruntime.js, ort from ONNX Runtime Web.
"use strict";

const list = document.getElementById("results");
const status = document.getElementById("status");

function bytesOf(base64) {
    const text = atob(base64);
    const bytes = new Uint8Array(text.length);
    for (let at = 0; at < text.length; at++) bytes[at] = text.charCodeAt(at);
    return bytes;
}

async function inflate(bytes) {
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Uint8Array(await new Response(stream).arrayBuffer());
}

async function startSession() {
    const glue = new Blob([ORT_GLUE], { type: "text/javascript" });
    ort.env.wasm.numThreads = 1;
    ort.env.wasm.wasmPaths = { mjs: URL.createObjectURL(glue) };
    ort.env.wasm.wasmBinary = await inflate(bytesOf(ORT_WASM));
    const parts = MODEL.splice(0).map(bytesOf);
    const model = new Uint8Array(await new Blob(parts).arrayBuffer());
    return ort.InferenceSession.create(model, { executionProviders: ["wasm"] });
}

// Returns a file's score, and how long decoding, resampling and the model took.
async function score(session, file) {
    const began = performance.now();
    const bitmap = await createImageBitmap(file, {
        imageOrientation: "from-image",
        colorSpaceConversion: "none",
        premultiplyAlpha: "none",
    });
    let pixels;
    try {
        pixels = resample(bitmap, RUN.preprocess);
    } finally {
        bitmap.close();
    }
    const ready = performance.now();
    const size = RUN.preprocess.image_size;
    const input = new ort.Tensor("uint8", pixels, [1, size, size, 3]);
    const outputs = await session.run({ images: input });
    return {
        score: outputs.score.data[0],
        weights: outputs.branch_weights && Array.from(outputs.branch_weights.data),
        milliseconds: { image: ready - began, model: performance.now() - ready },
    };
}

function element(name, className, text) {
    const made = document.createElement(name);
    if (className) made.className = className;
    if (text !== undefined) made.textContent = text;
    return made;
}

// Renders where a score and its interval are on the scale, which has to be known.
function scale(value, [low, high]) {
    const track = element("div", "scale");
    const percent = at => Math.min(Math.max((at - low) / (high - low), 0), 1) * 100;
    if (RUN.interval) {
        const band = element("div", "band"), half = RUN.interval.half;
        band.style.left = `${percent(value - half)}%`;
        band.style.right = `${100 - percent(value + half)}%`;
        track.append(band);
    }
    const point = element("div", "point");
    point.style.left = `${percent(value)}%`;
    track.append(point);
    const ends = element("p", "ends");
    ends.append(element("span", "", low), element("span", "", high));
    return [track, ends];
}

function describe(body, result) {
    const value = result.score;
    body.append(element("p", "score", value.toFixed(2)));
    const { range } = RUN.preprocess.score;
    if (range) body.append(...scale(value, range));
    if (RUN.interval) {
        const { half, level } = RUN.interval;
        const [from, to] = [value - half, value + half].map(end => end.toFixed(2));
        body.append(element("p", "", `${Math.round(level * 100)}\u00a0% interval ${from} to ${to}`));
    }
    if (result.weights) {
        const [vit, mamba] = result.weights.map(weight => `${Math.round(weight * 100)}\u00a0%`);
        body.append(element("p", "", `weights: ViT\u00a0${vit}, Mamba\u00a0${mamba}`));
    }
    const { image, model } = result.milliseconds;
    body.append(element("p", "time", `${Math.round(image)}\u00a0ms image, ${Math.round(model)}\u00a0ms model`));
}

function addCard(file) {
    const card = element("li", "card"), photo = element("img"), body = element("div", "body");
    photo.alt = "";
    photo.addEventListener("error", () => { photo.style.visibility = "hidden"; });
    photo.src = URL.createObjectURL(file);
    body.append(element("p", "name", file.name));
    card.append(photo, body);
    list.prepend(card);
    return { card, body };
}

const ready = startSession();
ready.then(
    () => { status.textContent = "Ready."; },
    error => { status.textContent = `The model cannot be started: ${error.message}`; },
);

// One file after the other, in the order in which they came.
let waiting = ready.catch(() => {});
function add(files) {
    for (const file of files) {
        const { card, body } = addCard(file);
        waiting = waiting.then(async () => {
            try {
                const result = await score(await ready, file);
                card.dataset.score = result.score;
                describe(body, result);
            } catch (error) {
                const unread = error.name === "InvalidStateError";
                const reason = unread ? "this browser cannot read it as an image" : error.message;
                body.append(element("p", "error", reason));
            }
            card.dataset.done = "";
            // Lets the browser show the card before the next image.
            await new Promise(resolve => setTimeout(resolve));
        });
    }
}

const drop = document.getElementById("drop");
document.getElementById("files").addEventListener("change", event => {
    add(event.target.files);
    event.target.value = "";
});
for (const name of ["dragover", "drop"]) {
    document.addEventListener(name, event => {
        event.preventDefault();
        if (name === "drop") add(event.dataTransfer.files);
    });
}
for (const [name, over] of [["dragenter", true], ["dragleave", false], ["drop", false]])
    document.addEventListener(name, event => {
        if (over || !event.relatedTarget) drop.classList.toggle("over", over);
    });
